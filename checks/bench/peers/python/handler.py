"""Human API's guide for the popup, "finish the connection", as a simple Lambda function.
Unlike ours, the function has no lease, no replay, no sealing and no retry."""

import datetime
import json
import os

import boto3
import urllib3

table = boto3.resource("dynamodb").Table(os.environ["TABLE_NAME"])
secrets = boto3.client("secretsmanager")
http = urllib3.PoolManager(ca_certs=os.environ.get("AWS_CA_BUNDLE"))
client_secret = None


def handler(event):
    global client_secret
    if client_secret is None:
        client_secret = secrets.get_secret_value(SecretId=os.environ["HUMAN_API_SECRET_ID"])["SecretString"]
    session_token_object = {**json.loads(event["body"]), "clientSecret": client_secret}
    response = http.request(
        "POST",
        os.environ["HUMAN_API_USER_URL"] + "/v1/connect/tokens",
        body=json.dumps(session_token_object),
        headers={"content-type": "application/json"},
    )
    if response.status != 200:
        return {"statusCode": 502, "body": json.dumps({"error": "exchange failed"})}
    answer = json.loads(response.data)
    client_user_id = event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"]
    table.put_item(
        Item={
            "userKey": client_user_id,
            "humanId": answer["humanId"],
            "accessToken": answer["accessToken"],
            "publicToken": answer["publicToken"],
            "updatedAt": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        }
    )
    return {
        "statusCode": 201,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"connected": True, "humanId": answer["humanId"], "publicToken": answer["publicToken"]}),
    }
