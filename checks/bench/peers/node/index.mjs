// Human API's guide for the popup, "finish the connection", as a simple Lambda function.
// Unlike ours, the function has no lease, no replay, no sealing and no retry.

import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { DynamoDBDocumentClient, PutCommand } from "@aws-sdk/lib-dynamodb";
import { GetSecretValueCommand, SecretsManagerClient } from "@aws-sdk/client-secrets-manager";

const table = DynamoDBDocumentClient.from(new DynamoDBClient({}));
const secrets = new SecretsManagerClient({});
let clientSecret;

export async function handler(event) {
  clientSecret ??= (await secrets.send(new GetSecretValueCommand({ SecretId: process.env.HUMAN_API_SECRET_ID }))).SecretString;
  const sessionTokenObject = { ...JSON.parse(event.body), clientSecret };
  const response = await fetch(`${process.env.HUMAN_API_USER_URL}/v1/connect/tokens`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(sessionTokenObject),
  });
  if (!response.ok) {
    return { statusCode: 502, body: JSON.stringify({ error: "exchange failed" }) };
  }
  const { humanId, accessToken, publicToken } = await response.json();
  const clientUserId = event.requestContext.authorizer.jwt.claims.sub;
  await table.send(
    new PutCommand({
      TableName: process.env.TABLE_NAME,
      Item: { userKey: clientUserId, humanId, accessToken, publicToken, updatedAt: new Date().toISOString() },
    }),
  );
  return {
    statusCode: 201,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ connected: true, humanId, publicToken }),
  };
}
