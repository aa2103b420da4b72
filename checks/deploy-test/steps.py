"""Deploys and uses the stack, step by step: steps.py TARGET EMULATOR_PYTHON BUILD. Each printed line is one check."""

import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from botocore.exceptions import ClientError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "template"))
# the contract's rules for each function
from check import CALLER_POLICIES, INDEXES, PERMISSIONS, ROUTES, SCHEDULE, SCHEDULED, STREAMED, WITH_EVENTS
from world import ORIGINS, ROOT, UPSTREAM_TIMEOUT_MS, Api, Counts, World, post_json

STACK = "human-connect"
DOMAIN = "connect.example.test"
counts = Counts()
check, step = counts.check, counts.step


def refused(call, **arguments):
    """Returns True if IAM denies the call. Any other result means that IAM allows it, even an error about the request."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException")
    return False


def deployed(world):
    failure = world.deploy(STACK, KmsKeyArn="create")
    check("sam deploy accepts the real template", failure is None, failure)
    if failure:
        sys.exit(1)
    outputs = world.outputs(STACK)
    named = {name for name in outputs if name.endswith(("FunctionName", "LogGroup"))}
    check("the stack has the expected outputs", {
        "ApiUrl", "AccessTokenCallerPolicyArn", "ConnectionCallerPolicyArn", "ForgetCallerPolicyArn", "FillInClientSecret", "TableName",
        "TokenKeyArn", "ClientSecretArn", "DataKeyArn", "DashboardUrl"} == outputs.keys() - named, outputs.keys())
    secret = world.client("secretsmanager")
    value = secret.get_secret_value(SecretId=outputs["ClientSecretArn"]).get("SecretString")
    check("the template gives the client secret no value", not value)
    secret.put_secret_value(SecretId=outputs["ClientSecretArn"], SecretString=json.dumps({"clientSecret": "made-up-client-secret-1"}))
    table = world.client("dynamodb").describe_table(TableName=outputs["TableName"])["Table"]
    check("the table is protected from deletion", table["DeletionProtectionEnabled"])
    resources = world.resources(STACK)
    kinds = {kind for kind, _ in resources.values()}
    check("without EventBusName, there is no stream, no publisher and no queue", not table.get("StreamSpecification")
          and not WITH_EVENTS & resources.keys() and not {"AWS::SQS::Queue", "AWS::Lambda::EventSourceMapping"} & kinds, resources)
    physical = {name for _, name in resources.values()}
    check("the outputs name each function and each log group", len(named) == 13 and {outputs[name] for name in named} <= physical, outputs)
    keys = {secret.describe_secret(SecretId=outputs[name]).get("KmsKeyId") for name in ("ClientSecretArn", "TokenKeyArn")}
    check("both secrets are encrypted with the stack's key", keys == {outputs["DataKeyArn"]}, keys)
    return outputs


def authorizers(world, api):
    for route, (_, who) in ROUTES.items():
        bare = api.call(route.replace("{ticket}", "no-ticket"), body="" if route.startswith("POST") else None)
        expected = {"JWT": 401, "AWS_IAM": 403, "NONE": 401}[who]
        check(f"{route}: an anonymous caller gets {expected}", bare.status == expected, bare)
    sign = world.issuer.sign
    for what, token in {
        "an expired token": sign("ada", exp=int(time.time()) - 60), "a token for another audience": sign("ada", aud="somebody-else"),
        "another issuer's token": sign("ada", iss="https://another.example"), "a forged token": sign("ada", key=world.issuer.other_key),
        "a malformed token": "nonsense",
    }.items():
        answer = api.call("GET /connect/connection", token=token)
        check(f"{what} gets 401", answer.status == 401, answer)
    answer = api.call("GET /connect/connection", token=sign("ada", aud="another"))
    check("the second audience is accepted too", answer.status == 200, answer)
    answer = api.call("GET /connect/connection", token=sign(" "))
    check("the function answers 401 to a token with a blank user", answer.code == "unauthenticated", answer)
    answer = api.call("GET /connect/nothing", user="ada")
    check("an unknown route gets 404", answer.status == 404, answer)


def connect_flow(world, api, user="ada"):
    session = api.call("POST /connect/session", user, {})
    check("Connect: a new user gets a session token", session.status == 200 and session.tokenType == "session_token", session)
    widget = post_json(world.human_api, "/widget/connect", {"token": session.token, "sourceId": "made-up-02"})
    closed = {"status": "200", "sessionResults": {"connectedSources": json.loads(widget.text)["sources"]}}
    finished = api.call("POST /connect/finish", user, closed)
    check("Connect: closing the widget stores the tokens", finished.status == 201 and finished.connected is True, finished)
    check("Connect: the page gets no access token", "access" not in finished.text, finished)
    again = api.call("POST /connect/session", user, {})
    check("Connect: a connected user gets an id token", again.status == 200 and again.tokenType == "id_token", again)
    shown = api.call("GET /connect/connection", user)
    check("Connect: the user sees the connection", shown.connected is True and shown.flow == "connect", shown)
    other = api.call("GET /connect/connection", "eve")
    check("Connect: another user does not see the connection", other.connected is False, other)


def popup_flow(world, api, user="grace hopper"):
    session = api.call("POST /connect/session", user, {"flow": "popup"})
    check("popup: a new user gets a session", session.status == 200 and (session.mode, session.publicToken) == ("create", ""), session)
    check("popup: the user's id is encoded for the page", session.clientUserId == "grace%20hopper", session)
    url = urlsplit(session.finishUrl)
    check("popup: finishUrl is the API's own address", url.scheme == "https" and url.netloc == api.host.split(":")[0], url.netloc)
    done = json.loads(post_json(world.human_api, "/popup/finish", {
        "clientId": session.clientId, "clientUserId": session.clientUserId, "publicToken": ""}).text)
    form = {"body": urlencode(done), "headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    stranger = api.call(f"POST /connect/finish/{'A' * len(url.path.rsplit('/', 1)[1])}", **form)
    check("popup: a made-up ticket gets 401", stranger.status == 401, stranger)
    finished = api.call(f"POST {url.path}", **form)
    check("popup: a form with the ticket finishes without a header", finished.status == 201 and bool(finished.publicToken), finished)
    replayed = api.call(f"POST {url.path}", **form)
    check("popup: a replay is answered without a second exchange",
          replayed.status == 200 and replayed.publicToken == finished.publicToken, replayed)
    stolen = api.call("POST /connect/finish", "eve", done)
    check("popup: another user cannot finish the session", stolen.status in (403, 422), stolen)
    session = api.call("POST /connect/session", user, {"flow": "popup"})
    check("popup: a later session has the publicToken", (session.mode, session.publicToken) == ("edit", finished.publicToken), session)
    token = api.call("POST /connect/public-token", user, {"refresh": True})
    check("popup: a lost publicToken is recovered", token.status == 200 and token.recovered is True, token)


def the_iam_route(world, api, outputs):
    route, body = "POST /internal/access-token", {"clientUserId": "ada"}
    backend = world.role("backend", outputs["AccessTokenCallerPolicyArn"])
    stranger = world.role("stranger")
    answer = api.call(route, body=body, credentials=backend)
    check("a role with the policy gets an access token", answer.status == 200 and bool(answer.accessToken), answer)
    check("the response has the token's type and expiry", answer.tokenType == "Bearer" and answer.expiresAt is not None, answer)
    answer = api.call(route, body={"clientUserId": "grace hopper"}, credentials=backend)
    check("a role with the policy gets the popup user's access token too", answer.status == 200 and bool(answer.accessToken), answer)
    answer = api.call(route, body={"clientUserId": "eve"}, credentials=backend)
    check("a user without a connection is not_connected", (answer.status, answer.code) == (404, "not_connected"), answer)
    answer = api.call(route, body=body, credentials=stranger)
    check("a role without the policy is denied at the IAM route", answer.status == 403 and answer.code is None, answer)
    answer = api.call(route, body=body, user="ada")
    check("a user's token is denied at the IAM route", answer.status in (401, 403), answer)
    answer = api.call(route, body=body, credentials={**backend, "AWS_SECRET_ACCESS_KEY": "wrong"})
    check("a wrong signature is denied at the IAM route", answer.status == 403, answer)
    signed = api._signature("POST", "/internal/access-token", json.dumps(body), backend, {"Content-Type": "application/json"})
    answer = api.call(route, body=json.dumps({"clientUserId": "grace hopper"}), headers=signed)
    check("another body with the same signature is denied", answer.status == 403, answer)
    answer = api.call("GET /connect/connection", credentials=backend)
    check("the policy does not allow the users' routes", answer.status == 401, answer)
    table, secret = outputs["TableName"], outputs["ClientSecretArn"]
    check("the policy allows no direct access to table, secret or function", refused(world.client("dynamodb", backend).scan, TableName=table)
          and refused(world.client("secretsmanager", backend).get_secret_value, SecretId=secret)
          and refused(world.client("lambda", backend).invoke,
                      FunctionName=world.resources(STACK)["AccessTokenFunction"][1], Payload=b"{}"))
    return backend, stranger


def popup_user(world, api, user):
    """Connects a user by the popup."""
    session = api.call("POST /connect/session", user, {"flow": "popup"})
    done = json.loads(post_json(world.human_api, "/popup/finish", {
        "clientId": session.clientId, "clientUserId": session.clientUserId, "publicToken": ""}).text)
    return api.call("POST /connect/finish", user, done)


def internal_routes(world, api, outputs, user="rosalind franklin"):
    """The policy of each internal route allows this route and no other. Returns the role with the policy of `forget`."""
    roles = {route: world.role(route.rsplit("/", 1)[1], outputs[f"{policy}Arn"]) for policy, route in CALLER_POLICIES.items()}
    allowed = {"POST /internal/access-token": 404, "POST /internal/connection": 200, "POST /internal/forget": 204}
    for route, expected in allowed.items():
        for of, role in roles.items():
            answer = api.call(route, body={"clientUserId": "nobody"}, credentials=role)
            status = expected if of == route else 403
            check(f"{route}: the role for {of} gets {status}", answer.status == status, answer)

    def call(route):
        return api.call(route, body={"clientUserId": user}, credentials=roles[route])

    before = len(rows(world, outputs))
    finished = popup_user(world, api, user)
    shown = call("POST /internal/connection")
    check("a backend sees the user's connection", finished.status == 201 and shown.status == 200 and shown.connected is True
          and shown.humanId == finished.humanId and shown.revoked is shown.reconnectRequired is shown.unresolved is False, shown)
    answers = [call("POST /internal/forget") for _ in range(2)]
    check("a backend forgets the user, and a second call answers 204 too", [a.status for a in answers] == [204, 204], answers)
    shown = call("POST /internal/connection")
    check("the user is not connected any more", shown.status == 200 and shown.connected is False, shown)
    check("nothing of the user is in the table", len(rows(world, outputs)) == before, before)
    return roles["POST /internal/forget"]


def import_users(world, api, outputs, backend, stranger, forgetter, user="marie curie"):
    """A role with lambda:InvokeFunction imports a user. No other role reaches the task."""
    function = world.resources(STACK)["MaintenanceFunction"][1]
    event = {"task": "import", "users": [{"clientUserId": user, "humanId": "made-up-human-id", "accessToken": "made-up-access-token-0"}]}
    check("no caller of the API may invoke maintenance", all(
        refused(world.client("lambda", role).invoke, FunctionName=function, Payload=json.dumps(event).encode())
        for role in (backend, stranger, forgetter)))
    operator = world.role("operator")
    arn = world.client("lambda").get_function_configuration(FunctionName=function)["FunctionArn"]
    world.client("iam").put_role_policy(RoleName="operator", PolicyName="import", PolicyDocument=json.dumps({
        "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": arn}]}))
    before = len(rows(world, outputs))
    for options, result, added in (({"dryRun": True}, "created", 0), ({}, "created", 1), ({}, "unchanged", 1)):
        (answer, is_error), = maintain(world, [{**event, **options}], operator)
        check(f"import with the options {options}: {result}, rows added: {added}", not is_error and answer == {
            "results": [{"index": 0, "result": result}], "next": None} and len(rows(world, outputs)) == before + added, answer)
    token = api.call("POST /internal/access-token", body={"clientUserId": user}, credentials=backend)
    check("a backend gets the imported access token", (token.status, token.accessToken) == (200, "made-up-access-token-0"), token)
    answer = api.call("POST /internal/forget", body={"clientUserId": user}, credentials=forgetter)
    check("the imported user can be forgotten", answer.status == 204 and len(rows(world, outputs)) == before, answer)


def cors(api):
    def preflight(origin):
        return api.call("OPTIONS /connect/finish", headers={
            "Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"})

    for origin in ORIGINS:
        allowed = preflight(origin)
        check(f"{origin} may call", allowed.status in (200, 204) and allowed.headers.get("access-control-allow-origin") == origin
              and "authorization" in allowed.headers.get("access-control-allow-headers", ""), allowed.headers)
    denied = preflight("https://elsewhere.example")
    check("a page of another origin may not call", "access-control-allow-origin" not in denied.headers, denied.headers)
    answer = api.call("GET /connect/connection", "ada", headers={"Origin": ORIGINS[0]})
    check("a page can read Retry-After", answer.headers.get("access-control-expose-headers", "").lower() == "retry-after",
          answer.headers)
    check("responses must not be stored", answer.headers.get("cache-control") == "no-store", answer.headers)


def smoke(world, api):
    """Runs the check that an operator runs after a deployment."""
    origins = [word for origin in ORIGINS for word in ("--origin", origin)]
    user = ["--token", world.issuer.sign("katherine johnson"), "--email", "katherine@example.test"]
    for what, host, status in (("passes at the stack", api.host, 0), ("fails at another API", f"another.{api.host.split('.', 1)[1]}", 1)):
        done = subprocess.run([ROOT / "checks/smoke/run", f"http://{host}", *origins, *user], text=True, capture_output=True)
        check(f"the smoke check {what}", done.returncode == status, done.stdout + done.stderr)


def least_privilege(world, outputs):
    """Assumes the role of each function. IAM allows exactly the actions that the function needs, and denies all others. The emulator
    has no permissions for a single stream, so only checks/template checks those."""
    iam, resources = world.client("iam"), world.resources(STACK)
    others = world.client("dynamodb")
    others.create_table(TableName="another", BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "userKey", "KeyType": "HASH"}],
                        AttributeDefinitions=[{"AttributeName": "userKey", "AttributeType": "S"}])
    another_secret = world.client("secretsmanager").create_secret(Name="another", SecretString="made-up")["ARN"]
    queue, entry = resources["UndeliveredEvents"][1], {"Source": "made-up", "DetailType": "made-up", "Detail": "{}"}
    logical = {name.replace("-", ""): name for name in PERMISSIONS}
    key = {"userKey": {"S": "nobody"}}
    condition = {"ConditionExpression": "attribute_exists(userKey)"}  # an allowed call then changes nothing
    secrets = {"client secret": outputs["ClientSecretArn"], "token key": outputs["TokenKeyArn"], "another": another_secret}
    for logical_id, (kind, role_name) in resources.items():
        name = logical.get(logical_id.removesuffix("FunctionRole").lower())
        if kind != "AWS::IAM::Role" or name is None:
            continue
        role = iam.get_role(RoleName=role_name)["Role"]
        trust = role["AssumeRolePolicyDocument"]
        check(f"{name}: only Lambda may assume its role", [s["Principal"] for s in trust["Statement"]]
              in ([{"Service": ["lambda.amazonaws.com"]}], [{"Service": "lambda.amazonaws.com"}]), trust)
        # The check itself must assume the role, so the role trusts everybody meanwhile. Trust does not change its permissions.
        iam.update_assume_role_policy(RoleName=role_name, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}))
        own = world.assume(role["Arn"])
        iam.update_assume_role_policy(RoleName=role_name, PolicyDocument=json.dumps(trust))
        dynamodb, manager = world.client("dynamodb", own), world.client("secretsmanager", own)
        bus, queues = world.client("events", own), world.client("sqs", own)
        calls = {}
        for table in (outputs["TableName"], "another"):
            calls |= {
                ("GetItem", table): lambda t=table: refused(dynamodb.get_item, TableName=t, Key=key),
                ("UpdateItem", table): lambda t=table: refused(dynamodb.update_item, TableName=t, Key=key, **condition,
                                                               UpdateExpression="REMOVE nothing"),
                ("DeleteItem", table): lambda t=table: refused(dynamodb.delete_item, TableName=t, Key=key, **condition),
                ("PutItem", table): lambda t=table: refused(dynamodb.put_item, TableName=t, Item=key, **condition),
                ("BatchWriteItem", table): lambda t=table: refused(dynamodb.batch_write_item, RequestItems={
                    t: [{"DeleteRequest": {"Key": key}}]}),
                ("Query", table): lambda t=table: refused(dynamodb.query, TableName=t, KeyConditionExpression="userKey = :k",
                                                          ExpressionAttributeValues={":k": {"S": "nobody"}}),
                ("Scan", table): lambda t=table: refused(dynamodb.scan, TableName=t),
                ("DescribeTable", table): lambda t=table: refused(dynamodb.describe_table, TableName=t),
                ("UpdateTable", table): lambda t=table: refused(dynamodb.update_table, TableName=t, DeletionProtectionEnabled=False),
                ("DeleteTable", table): lambda t=table: refused(dynamodb.delete_table, TableName=t),
            }
        for index, (attribute, kind, _) in INDEXES.items():
            looked_for = {"S": "nothing"} if kind == "S" else {"N": "0"}
            calls |= {
                ("Scan", index): lambda i=index: refused(dynamodb.scan, TableName=outputs["TableName"], IndexName=i),
                ("Query", index): lambda i=index, a=attribute, v=looked_for: refused(
                    dynamodb.query, TableName=outputs["TableName"], IndexName=i, KeyConditionExpression=f"{a} = :v",
                    ExpressionAttributeValues={":v": v}),
            }
        for kind, arn in secrets.items():
            calls |= {
                ("ListSecretVersionIds", kind): lambda a=arn: refused(manager.list_secret_version_ids, SecretId=a),
                ("GetSecretValue", kind): lambda a=arn: refused(manager.get_secret_value, SecretId=a),
                ("PutSecretValue", kind): lambda a=arn: refused(manager.put_secret_value, SecretId=a, SecretString="x" * 40),
                ("DeleteSecret", kind): lambda a=arn: refused(manager.delete_secret, SecretId=a),
            }
        calls |= {
            ("PutEvents", "default"): lambda: refused(bus.put_events, Entries=[{**entry, "EventBusName": "default"}]),
            ("PutEvents", "another"): lambda: refused(bus.put_events, Entries=[{**entry, "EventBusName": "another"}]),
            ("SendMessage", "queue"): lambda: refused(queues.send_message, QueueUrl=queue, MessageBody="made-up"),
            ("ReceiveMessage", "queue"): lambda: refused(queues.receive_message, QueueUrl=queue),
            ("CreateLogGroup", "logs"): lambda: refused(world.client("logs", own).create_log_group, logGroupName="/aws/lambda/made-up"),
            ("ListRoles", "iam"): lambda: refused(world.client("iam", own).list_roles),
            ("ListBuckets", "s3"): lambda: refused(world.client("s3", own).list_buckets),
            ("Invoke", "lambda"): lambda: refused(world.client("lambda", own).invoke, Payload=b"{}",
                                                  FunctionName=resources["AccessTokenFunction"][1]),
            ("ScheduleKeyDeletion", "kms"): lambda: refused(world.client("kms", own).schedule_key_deletion,
                                                            KeyId=outputs["DataKeyArn"]),
            ("Decrypt, not through the table or a secret", "kms"): lambda: refused(
                world.client("kms", own).decrypt, KeyId=outputs["DataKeyArn"], CiphertextBlob=b"made-up"),
        }
        items, readable = PERMISSIONS[name]
        needed = {(item, outputs["TableName"]) for item in items} | {("GetSecretValue", kind) for kind in readable}
        if name == STREAMED:
            needed |= {("PutEvents", "default"), ("SendMessage", "queue")}
        if name == SCHEDULED:
            needed |= {(verb, index) for index, (_, _, verb) in INDEXES.items()}
        denied = {what for what, is_refused in calls.items() if is_refused()}
        check(f"{name}: is allowed the {len(needed)} calls that it needs", not needed & denied, needed & denied)
        check(f"{name}: is denied the other {len(calls) - len(needed)}", denied == calls.keys() - needed, calls.keys() - needed - denied)
    check("the other table still exists", others.describe_table(TableName="another")["Table"]["TableStatus"] == "ACTIVE")


def rows(world, outputs):
    return world.client("dynamodb").scan(TableName=outputs["TableName"], ConsistentRead=True)["Items"]


def versions(value):
    """The key versions with which the values of a row are sealed."""
    if not isinstance(value, dict):
        return set()
    own = {value["key"]["S"]} if "sealed" in value and "S" in value.get("key", {}) else set()
    return own.union(*(versions(inner) for inner in value.values()))


def rotation(world, api, outputs, backend):
    manager = world.client("secretsmanager")
    token = lambda user="ada", **more: api.call("POST /internal/access-token", body={"clientUserId": user, **more}, credentials=backend)

    before = token(forceRefresh=True)
    # Human API accepts the two newest secrets. After two rotations, it refuses the secret that the functions have cached.
    world.stand_in("rotate-secret")
    world.stand_in("rotate-secret")
    manager.put_secret_value(SecretId=outputs["ClientSecretArn"], SecretString=json.dumps({"clientSecret": "made-up-client-secret-3"}))
    after = token("ada", forceRefresh=True)
    check("client secret: rotated, and no call fails", before.status == after.status == 200, f"{before} {after}")

    stored = token("grace hopper")
    old = set().union(*(versions(row) for row in rows(world, outputs)))
    check("sealing key: rows are sealed with one version", len(old) == 1, old)
    new = manager.put_secret_value(SecretId=outputs["TokenKeyArn"], SecretString="made-up-" + "k" * 40)["VersionId"]
    kept = token("grace hopper")
    check("sealing key: rotated, and old rows open", (stored.status, kept.status) == (200, 200) and stored.accessToken == kept.accessToken,
          f"{stored} {kept}")
    time.sleep(11)  # SECRET_TTL_SECONDS is 2, and a function does not refresh a token twice within 10 s
    fresh = token("ada", forceRefresh=True)
    sealed = [versions(row) for row in rows(world, outputs)]
    check("sealing key: a row written now is sealed with the new version", fresh.status == 200 and any(new in s for s in sealed), sealed)
    check("sealing key: other rows are unchanged", any(s == old for s in sealed), sealed)
    text = json.dumps(rows(world, outputs))
    check("the table has no token in plain text", "made-up-access-token" not in text and "made-up-id-token" not in text)


def maintain(world, events, operator=None):
    """Invokes maintenance with these events at the same time, as several operators would. Returns each payload, and whether it is a
    Lambda error."""
    client, function = world.client("lambda", operator), world.resources(STACK)["MaintenanceFunction"][1]

    def invoke(event):
        run = client.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        return json.loads(run["Payload"].read()), "FunctionError" in run

    with ThreadPoolExecutor(len(events)) as pool:
        return list(pool.map(invoke, events))


def sweep(world, api, outputs, backend, user="hedy lamarr"):
    def stored():
        row, = [row for row in rows(world, outputs) if row["clientUserId"]["S"] == user]
        return row

    session = api.call("POST /connect/session", user, {"flow": "popup"})
    done = json.loads(post_json(world.human_api, "/popup/finish", {
        "clientId": session.clientId, "clientUserId": session.clientUserId, "publicToken": ""}).text)
    world.stand_in("delay", ms=UPSTREAM_TIMEOUT_MS + 500)
    lost = api.call("POST /connect/finish", user, done)
    world.stand_in("delay", ms=0)
    check("an exchange without an answer is reported as a timeout", (lost.status, lost.code) == (504, "upstream_timeout"), lost)
    row = stored()
    check("the request is pending, and the lease runs on: Human API may perform the request yet",
          "pending" in row and int(row.get("leaseUntil", {}).get("N", 0)) > time.time() * 1000, row.keys())
    # The user does not come back. This update moves the end of the lease into the past, so that the step need not wait.
    world.client("dynamodb").update_item(
        TableName=outputs["TableName"], Key={"userKey": row["userKey"]}, UpdateExpression="ADD leaseUntil :ago",
        ExpressionAttributeValues={":ago": {"N": "-120000"}})
    (answer, is_error), = maintain(world, [json.loads(SCHEDULE["Properties"]["Input"])])
    check("the event of the schedule resolves it", not is_error and answer == {
        "resolved": 1, "failed": 0, "skipped": 0, "left": 0, "oldestSeconds": None}, answer)
    row = stored()
    check("nothing is pending any more", not {"pending", "leaseUntil", "takenOver"} & row.keys(), row.keys())
    token = api.call("POST /internal/access-token", body={"clientUserId": user}, credentials=backend)
    check("the user's token is available", token.status == 200 and bool(token.accessToken), token)
    (answer, is_error), = maintain(world, [{"task": "made-up"}])
    check("an unknown task is a Lambda error that names the field", is_error and "task" in answer.get("errorMessage", ""), answer)


def reseal_all(world, segments):
    """Reseals the table as docs/operations.md describes: all segments side by side, each until `next` is null. Returns the sums."""
    sums, under_way = Counter(), {segment: None for segment in range(segments)}
    while under_way:
        events = [{"task": "reseal", "after": after, "segment": segment, "segments": segments} for segment, after in under_way.items()]
        for event, (answer, is_error) in zip(events, maintain(world, events)):
            assert not is_error, answer
            sums.update({name: answer[name] for name in ("resealed", "unchanged", "failed")})
            under_way[event["segment"]] = answer["next"]
        under_way = {segment: after for segment, after in under_way.items() if after is not None}
    return sums


def reseal(world, outputs):
    current = world.client("secretsmanager").get_secret_value(SecretId=outputs["TokenKeyArn"])["VersionId"]
    before = rows(world, outputs)
    old = sum(1 for row in before if versions(row) - {current})
    check("the rotation left rows that are sealed with the older version", old > 0, [versions(row) for row in before])
    first = reseal_all(world, segments=2)
    check("reseal reseals exactly these rows", first == Counter(resealed=old, unchanged=len(before) - old, failed=0), first)
    sealed = [versions(row) for row in rows(world, outputs)]
    check("no row is sealed with the older version any more", set().union(*sealed) == {current}, sealed)
    again = reseal_all(world, segments=2)
    check("a second reseal has nothing to do", again == Counter(resealed=0, unchanged=len(before), failed=0), again)
    cursor = rows(world, outputs)[0]["userKey"]["S"]
    (answer, is_error), = maintain(world, [{"task": "reseal", "after": cursor}])
    check("reseal goes on after the cursor", not is_error and answer == {
        "resealed": 0, "unchanged": len(before) - 1, "failed": 0, "next": None}, answer)


def deletion(world, api, outputs, backend):
    before = len(rows(world, outputs))
    answers = [api.call("DELETE /connect/connection", "ada") for _ in range(2)]
    check("deleting a user answers 204, and so does a second delete", [a.status for a in answers] == [204, 204], answers)
    check("the user's row is gone from the table", len(rows(world, outputs)) == before - 1)
    answer = api.call("POST /internal/access-token", body={"clientUserId": "ada"}, credentials=backend)
    check("a backend gets no tokens of the deleted user", answer.status == 404, answer)


def by_cargo_lambda(world, api):
    """Deploys new code of one function between two stack deployments, as docs/deploy.md describes."""
    failure = world.cargo_lambda_deploy(world.resources(STACK)["SessionStartFunction"][1], "session-start")
    check("cargo lambda deploy updates a function's code", failure is None, failure)
    session = api.call("POST /connect/session", "alan", {})
    check("the function still has its variables and its role", session.status == 200, session)


def update(world, api, backend):
    """Updates the stack. Returns the access token that was stored before and is still stored."""
    user = "grace hopper"
    before = api.call("POST /internal/access-token", body={"clientUserId": user}, credentials=backend)
    failure = world.deploy(STACK, KmsKeyArn="create", DefaultFlow="popup")
    check("sam deploy updates the stack with changed parameters", failure is None, failure)
    session = api.call("POST /connect/session", "linus", {})
    check("the changed parameter is in effect, at the same address", session.flow == "popup", session)
    after = api.call("POST /internal/access-token", body={"clientUserId": user}, credentials=backend)
    check("no data is lost", before.status == after.status == 200 and before.accessToken == after.accessToken, f"{before} {after}")
    return after.accessToken


def logs(world):
    """Checks the log lines of the functions in the emulator's log groups."""
    client = world.client("logs")
    groups = {physical for kind, physical in world.resources(STACK).values() if kind == "AWS::Logs::LogGroup"}
    events = [json.loads(event["message"]) for group in groups if group.startswith("/aws/lambda/")
              for event in client.filter_log_events(logGroupName=group)["events"] if event["message"].startswith("{")]
    check("the functions' lines reach their log groups", len(events) > 0, groups)
    text = json.dumps(events)
    for secret in ("made-up-access-token", "made-up-client-secret", "made-up-popup-session", "example.test", "eyJ"):
        check(f"no line contains {secret}", secret not in text)
    audits = [event for event in events if event.get("message") == "audit"]
    callers = {event.get("caller", "") for event in audits}
    check("the audit names the calling role", any("assumed-role/backend" in (caller or "") for caller in callers), callers)
    routes = {event.get("route") for event in audits if event.get("outcome") == "ok"}
    check("the audit covers each internal route", routes == set(CALLER_POLICIES.values()), routes)


def connection_events(world, api, outputs, forgetter, user="barbara liskov"):
    """Turns the events on. A rule of the bus sends them to a queue of this step."""
    failure = world.deploy(STACK, KmsKeyArn="create", DefaultFlow="popup", EventBusName="default")
    check("EventBusName adds the stream, the publisher, the queue and the alarm",
          failure is None and WITH_EVENTS <= world.resources(STACK).keys(), failure)
    sqs, bus = world.client("sqs"), world.client("events")
    queue = sqs.create_queue(QueueName="subscriber")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    bus.put_rule(Name="subscriber", EventPattern=json.dumps({"source": ["human-connect"]}))
    bus.put_targets(Rule="subscriber", Targets=[{"Id": "queue", "Arn": arn}])
    popup_user(world, api, user)
    api.call("POST /internal/forget", body={"clientUserId": user}, credentials=forgetter)
    events, deadline = [], time.monotonic() + 30
    while len(events) < 2 and time.monotonic() < deadline:
        for message in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", []):
            events.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    kinds = {event["detail-type"]: event["detail"]["clientUserId"] for event in events}
    check("the bus gets the user's events", kinds == {"Connection Connected": user, "Connection Forgotten": user}, events)
    check("no event has a token", "token" not in json.dumps(events).lower())


def left_behind(world, outputs):
    before = len(rows(world, outputs))
    functions = [physical for kind, physical in world.resources(STACK).values() if kind == "AWS::Lambda::Function"]
    policies = world.client("iam")
    for role in ("backend", *(route.rsplit("/", 1)[1] for route in CALLER_POLICIES.values())):
        for policy in policies.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            policies.detach_role_policy(RoleName=role, PolicyArn=policy["PolicyArn"])
    world.delete_stack(STACK)
    listed = {f["FunctionName"] for f in world.client("lambda").list_functions()["Functions"]}
    check("deleting the stack deletes its functions", not listed & set(functions), listed)
    check("the table and its rows stay", len(rows(world, outputs)) == before)
    manager = world.client("secretsmanager")
    for name in ("ClientSecretArn", "TokenKeyArn"):
        check(f"{name} and its value stay", bool(manager.get_secret_value(SecretId=outputs[name])["SecretString"]))
    key = world.client("kms").describe_key(KeyId=outputs["DataKeyArn"])["KeyMetadata"]
    check("the key stays, enabled", key["KeyState"] == "Enabled", key)


def adopted(world, outputs, token):
    stack = "human-connect-again"
    data = {"ExistingTableName": outputs["TableName"], "ExistingTokenKeyArn": outputs["TokenKeyArn"],
            "ExistingClientSecretArn": outputs["ClientSecretArn"], "KmsKeyArn": outputs["DataKeyArn"]}
    keyless = world.deploy("keyless", ExistingTableName=outputs["TableName"])
    check("a stack with a table but without its sealing key is refused", keyless is not None and "sealing key" in keyless, keyless)
    streamless = world.deploy("streamless", **data, EventBusName="default")
    check("a stack with events and a table, but without the table's stream, is refused",
          streamless is not None and "ExistingStreamArn" in streamless, streamless)
    failure = world.deploy(stack, **data, DomainName=DOMAIN,
                           CertificateArn="arn:aws:acm:us-east-1:000000000000:certificate/made-up")
    check("a new stack adopts table, secrets and key", failure is None, failure)
    made = {kind for kind, _ in world.resources(stack).values()}
    check("the new stack creates no table, secret or key",
          not made & {"AWS::DynamoDB::Table", "AWS::SecretsManager::Secret", "AWS::KMS::Key"}, made)
    found = world.outputs(stack)
    check("the new stack's outputs name the adopted resources",
          all(found[name] == outputs[name] for name in ("TableName", "TokenKeyArn", "ClientSecretArn", "DataKeyArn")), found)
    api = world.api(stack)
    backend = world.role("backend-again", found["AccessTokenCallerPolicyArn"])
    answer = api.call("POST /internal/access-token", body={"clientUserId": "grace hopper"}, credentials=backend)
    check("a token from before opens in the new stack", (answer.status, answer.accessToken) == (200, token), answer)
    session = api.call("POST /connect/session", "grace hopper", {"flow": "popup"})
    check("the user's connection continues", (session.status, session.mode) == (200, "edit"), session)
    check("finishUrl has the stack's domain", (session.finishUrl or "").startswith(f"https://{DOMAIN}/connect/finish/"), session)
    by_domain = Api(world, host=DOMAIN).call("GET /connect/connection", "grace hopper")
    check("the domain serves the API", by_domain.connected is True, by_domain)


def main(target, emulator_python, build):
    began = time.monotonic()
    with World(target, emulator_python, build) as world:
        counts.steps.append(("start", time.monotonic() - began))
        with step("Deploy the template"):
            outputs = deployed(world)
            api = world.api(STACK)
        with step("Authorizers of the routes"):
            authorizers(world, api)
        with step("A user connects with Connect"):
            connect_flow(world, api)
        with step("A user connects with the popup"):
            popup_flow(world, api)
        with step("Another backend requests access tokens"):
            backend, stranger = the_iam_route(world, api, outputs)
        with step("Each internal route has its own policy"):
            forgetter = internal_routes(world, api, outputs)
        with step("An operator imports users"):
            import_users(world, api, outputs, backend, stranger, forgetter)
        with step("CORS"):
            cors(api)
        with step("The smoke check"):
            smoke(world, api)
        with step("Rotate both secrets"):
            rotation(world, api, outputs, backend)
        with step("Maintenance: sweep"):
            sweep(world, api, outputs, backend)
        with step("Maintenance: reseal"):
            reseal(world, outputs)
        with step("Delete a user"):
            deletion(world, api, outputs, backend)
        with step("Deploy code without SAM"):
            by_cargo_lambda(world, api)
        with step("Update the stack"):
            token = update(world, api, backend)
        with step("Connection events"):
            connection_events(world, api, outputs, forgetter)
        with step("Least privilege"):
            least_privilege(world, outputs)
        with step("Logs"):
            logs(world)
        with step("Delete the stack"):
            left_behind(world, outputs)
        with step("Adopt the data in a new stack"):
            adopted(world, outputs, token)
    print("\nseconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in counts.steps))
    print(f"{counts.passed} passed, {counts.failed} failed")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
