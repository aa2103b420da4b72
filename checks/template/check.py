"""What template.yaml must keep of the contract, whatever else changes in it: check.py TEMPLATE"""

import copy
import json
import re
import sys
from pathlib import Path

import yaml
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

# route: who serves it, who may call (contract, section 1)
ROUTES = {
    "POST /connect/session": ("session-start", "JWT"),
    "POST /connect/finish": ("finish", "JWT"),
    "POST /connect/finish/{ticket}": ("finish", "NONE"),
    "POST /connect/public-token": ("public-token", "JWT"),
    "POST /internal/access-token": ("access-token", "AWS_IAM"),
    "GET /connect/connection": ("connection", "JWT"),
    "DELETE /connect/connection": ("connection", "JWT"),
}
TICKET_ROUTE = "POST /connect/finish/{ticket}"

# function: what it may do to the table, which secrets it may read
BOTH = {"client secret", "token key"}
PERMISSIONS = {
    "session-start": ({"GetItem", "UpdateItem", "DeleteItem"}, BOTH),
    "finish": ({"UpdateItem", "DeleteItem"}, BOTH),
    "public-token": ({"GetItem", "UpdateItem"}, BOTH),
    "access-token": ({"GetItem", "UpdateItem"}, BOTH),
    "connection": ({"GetItem", "DeleteItem"}, {"token key"}),
}

REQUIRED_VARIABLES = ("TABLE_NAME", "HUMAN_API_CLIENT_ID", "HUMAN_API_SECRET_ID", "TOKEN_KEY_SECRET_ID")

# what an access-log line needs, and what it may never hold: a path is a ticket, a header is a token
LOGGED = ("requestId", "requestTime", "routeKey", "status", "identity.sourceIp", "error.message", "authorizer.error",
          "integrationLatency")
NEVER_LOGGED = re.compile(r"path|query|body|header|authorization|claims|resource|user", re.IGNORECASE)


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: `!Ref Table` becomes {"Ref": "Table"}."""


def short_form(loader, name, node):
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


Loader.add_multi_constructor("!", short_form)

passed, failed = 0, 0


def check(what, holds):
    global passed, failed
    if holds:
        passed += 1
    else:
        failed += 1
        print(f"FAIL {what}")


def as_list(value):
    return value if isinstance(value, list) else [value]


def texts(value):
    """Every string inside a value, intrinsic functions included."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [str(value)]


def only(resources, kind):
    found = [(name, r) for name, r in resources.items() if r["Type"] == kind]
    check(f"there is exactly one {kind}", len(found) == 1)
    return found[0] if found else (None, {"Properties": {}})


def check_routes(api_name, api, functions):
    auth = api.get("Auth", {})
    jwt = {name for name, a in auth.get("Authorizers", {}).items()
           if set(a.get("JwtConfiguration", {})) == {"issuer", "audience"} and all(a["JwtConfiguration"].values())}
    found = []
    for binary, function in functions.items():
        for event in function["Properties"].get("Events", {}).values():
            p = event.get("Properties", {})
            check(f"{binary}: its events are explicit routes of the API",
                  event["Type"] == "HttpApi" and p.get("ApiId") == {"Ref": api_name} and {"Method", "Path"} <= p.keys())
            who = p.get("Auth", {}).get("Authorizer") or auth.get("DefaultAuthorizer")
            found.append((f"{p.get('Method', '').upper()} {p.get('Path')}", (binary, "JWT" if who in jwt else who)))
    for route, expected in ROUTES.items():
        check(f"{route} exists once, served and guarded as {expected}", [e for r, e in found if r == route] == [expected])
    check("there are no other routes", {route for route, _ in found} == set(ROUTES))
    check("a route that names no authorizer gets the JWT one", auth.get("DefaultAuthorizer") in jwt)
    check("the IAM authorizer is on", auth.get("EnableIamAuthorizer") is True)


def check_deployed_api(path):
    """What SAM makes of the API: it drops or rewrites what it does not expect, without a word."""
    template = copy.deepcopy(yaml_parse(Path(path).read_text()))
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    values = {"JwtIssuer": "https://issuer.example", "JwtAudience": "one,two", "HumanApiClientId": "id",
              "AllowedOrigins": "https://a.example,https://b.example"}
    resources = Translator({}, Parser()).translate(template, parameter_values=values)["Resources"]
    body = next(r for r in resources.values() if r["Type"] == "AWS::ApiGatewayV2::Api")["Properties"]["Body"]

    guards = {f"{method.upper()} {path}": [name for s in operation.get("security", []) for name in s]
              for path, item in body["paths"].items() for method, operation in item.items()}
    schemes = body.get("components", {}).get("securitySchemes", {})
    jwt = [name for name, s in schemes.items() if s.get("x-amazon-apigateway-authorizer", {}).get("type") == "jwt"]
    check("deployed: the routes are those of the contract, each guarded as it says",
          guards == {route: jwt if who == "JWT" else [who] for route, (_, who) in ROUTES.items()})
    check("deployed: the IAM authorizer is SigV4",
          schemes.get("AWS_IAM", {}).get("x-amazon-apigateway-authtype") == "awsSigv4")

    cors = body.get("x-amazon-apigateway-cors", {})
    cors = cors["Fn::If"][1] if "Fn::If" in cors else cors
    check("deployed: CORS origins are the parameter's, split",
          cors.get("allowOrigins") == {"Fn::Split": [",", values["AllowedOrigins"]]})
    check("deployed: CORS methods are those of the routes", set(cors.get("allowMethods", [])) == {"GET", "POST", "DELETE"})
    check("deployed: CORS headers are authorization, content-type",
          set(cors.get("allowHeaders", [])) == {"authorization", "content-type"})
    check("deployed: CORS exposes Retry-After", cors.get("exposeHeaders") == ["Retry-After"])
    check("deployed: CORS does not allow credentials", not cors.get("allowCredentials"))
    check("deployed: CORS has a MaxAge", isinstance(cors.get("maxAge"), int))


def check_origins(parameters):
    pattern = re.compile(parameters.get("AllowedOrigins", {}).get("AllowedPattern", ""))
    for origins, allowed in {
        "https://a.example": True, "https://a.example,https://b.example:8443,http://localhost:3000": True,
        "": True, "*": False, "https://*.example": False, "http://a.example": False, "https://a.example/": False,
        "https://a.example, https://b.example": False, "https://a.example,*": False,
    }.items():
        check(f"AllowedOrigins {'takes' if allowed else 'refuses'} {origins!r}", bool(pattern.fullmatch(origins)) == allowed)


def check_throttling(api, parameters):
    def limits(settings):
        values = [settings.get(k) for k in ("ThrottlingRateLimit", "ThrottlingBurstLimit")]
        return [parameters.get(v["Ref"], {}).get("Default") if isinstance(v, dict) else v for v in values]

    default, ticket = limits(api.get("DefaultRouteSettings", {})), limits(api.get("RouteSettings", {}).get(TICKET_ROUTE, {}))
    check("every route is throttled", None not in default)
    check("the ticket route is throttled harder",
          None not in default + ticket and all(t < d for t, d in zip(ticket, default)))


def check_access_log(api, resources):
    settings = api.get("AccessLogSettings", {})
    group = settings.get("DestinationArn", {}).get("GetAtt", ".").split(".")[0]
    check("access logs go to a log group", resources.get(group, {}).get("Type") == "AWS::Logs::LogGroup")
    text = settings.get("Format", "")
    try:
        entries = json.loads(text)
    except ValueError:
        entries = {}
    check("an access-log line is one line of JSON", isinstance(entries, dict) and bool(entries) and "\n" not in text)
    for variable in LOGGED:
        check(f"access logs hold $context.{variable}", f"$context.{variable}" in entries.values())
    for key, value in entries.items():
        check(f"access logs: {key} is a $context variable that is no path, query, body, header or claim",
              re.fullmatch(r"\$context\.[A-Za-z.]+", value) and not NEVER_LOGGED.search(key + value))


def check_environment(name, function, globals_, table, client_secret, token_key):
    variables = {**globals_.get("Environment", {}).get("Variables", {}),
                 **function["Properties"].get("Environment", {}).get("Variables", {})}
    for variable in REQUIRED_VARIABLES:
        check(f"{name}: {variable} is set", bool(variables.get(variable)))
    check(f"{name}: TABLE_NAME is the table", variables.get("TABLE_NAME") == {"Ref": table})
    check(f"{name}: HUMAN_API_SECRET_ID is the client secret", variables.get("HUMAN_API_SECRET_ID") == {"Ref": client_secret})
    check(f"{name}: TOKEN_KEY_SECRET_ID is the generated key", variables.get("TOKEN_KEY_SECRET_ID") == {"Ref": token_key})


def check_function(name, function, globals_, resources):
    p = {**globals_, **function["Properties"]}
    check(f"{name}: is a package under functions/", Path("functions", name, "Cargo.toml").is_file())
    check(f"{name}: is built by cargo-lambda", function["Metadata"].get("BuildMethod") == "rust-cargolambda")
    check(f"{name}: bootstrap on provided.al2023", (p.get("Handler"), p.get("Runtime")) == ("bootstrap", "provided.al2023"))
    check(f"{name}: 28 s", p.get("Timeout") == 28)
    check(f"{name}: traced", p.get("Tracing") == "Active")
    group = resources.get(p.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref"), {})
    check(f"{name}: logs to a group of the stack", group.get("Type") == "AWS::Logs::LogGroup")
    return p.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref")


def check_statements(name, document):
    statements = as_list(document.get("Statement", []))
    check(f"{name}: has statements", bool(statements))
    for s in statements:
        check(f"{name}: allows what it names", s.get("Effect") == "Allow" and {"Action", "Resource"} <= s.keys()
              and not {"NotAction", "NotResource"} & s.keys())
        for text in texts(s.get("Action")) + texts(s.get("Resource")):
            check(f"{name}: no wildcard in {text}", "*" not in text and "?" not in text)
    return statements


def check_permissions(name, function, managed, table, secrets):
    granted_items, granted_secrets, documents = set(), set(), 0
    for policy in as_list(function["Properties"].get("Policies", [])):
        if "Statement" not in policy:  # else only the conditional policy of the data key: no AWS-managed ones, no SAM templates
            check(f"{name}: {policy} is a policy of this template",
                  isinstance(policy, dict) and "If" in policy and policy["If"][1].get("Ref") in managed
                  and policy["If"][2] == {"Ref": "AWS::NoValue"})
            continue
        documents += 1
        for s in check_statements(name, policy):
            for action in as_list(s.get("Action")):
                service, _, verb = str(action).partition(":")
                if service == "dynamodb" and s.get("Resource") == {"GetAtt": f"{table}.Arn"}:
                    granted_items.add(verb)
                elif action == "secretsmanager:GetSecretValue":
                    granted_secrets |= {secrets.get(r.get("Ref")) if isinstance(r, dict) else r for r in as_list(s["Resource"])}
                else:
                    check(f"{name}: {action} on {s.get('Resource')} is not needed", False)
    check(f"{name}: has one inline policy", documents == 1)
    check(f"{name}: may do to the table what it needs: {sorted(granted_items)}", granted_items == PERMISSIONS[name][0])
    check(f"{name}: may read the secrets it needs: {granted_secrets}", granted_secrets == PERMISSIONS[name][1])
    check(f"{name}: has no role from elsewhere", "Role" not in function["Properties"])


def check_managed(name, policy):
    for s in check_statements(name, policy["Properties"]["PolicyDocument"]):
        actions = as_list(s.get("Action"))
        if actions == ["execute-api:Invoke"]:
            check(f"{name}: only POST /internal/access-token", all(t.endswith("/$default/POST/internal/access-token")
                                                                   for t in texts(s["Resource"])))
        else:
            via = s.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", [])
            check(f"{name}: only kms:Decrypt, through DynamoDB and Secrets Manager", actions == ["kms:Decrypt"] and
                  sorted(t.split(".")[0] for t in texts(via)) == ["dynamodb", "secretsmanager"])


def check_table(table):
    p = table["Properties"]
    check("the table's key is userKey, literally, and there is no index",
          p.get("KeySchema") == [{"AttributeName": "userKey", "KeyType": "HASH"}]
          and p.get("AttributeDefinitions") == [{"AttributeName": "userKey", "AttributeType": "S"}]
          and not any("Index" in key for key in p))
    check("the table is on demand", p.get("BillingMode") == "PAY_PER_REQUEST")
    check("the table can be restored to a point in time",
          p.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled") is True)
    check("the table is encrypted by KMS", p.get("SSESpecification", {}).get("SSEEnabled") is True)
    check("the table's TTL is expires", p.get("TimeToLiveSpecification") == {"AttributeName": "expires", "Enabled": True})
    check("the table is protected from deletion", p.get("DeletionProtectionEnabled") is True)


def check_secrets(secrets, parameters):
    """-> (client secret, token key): their logical ids"""
    generated = [n for n, s in secrets.items() if "GenerateSecretString" in s.get("Properties", {})]
    empty = [n for n in secrets if n not in generated]
    check("one secret is generated, one is left to the operator", (len(generated), len(empty)) == (1, 1))
    check("no secret has a value in the template", not any("SecretString" in s.get("Properties", {}) for s in secrets.values()))
    check("no parameter takes a secret", not any(re.search(r"secret$|password|key$|token$", n, re.IGNORECASE) for n in parameters))
    for name in generated:
        how = secrets[name]["Properties"]["GenerateSecretString"] or {}
        check("the generated key is a plain string of 48 letters and digits",
              how.get("PasswordLength") == 48 and how.get("ExcludePunctuation") is True and "GenerateStringKey" not in how)
    return (empty or [None])[0], (generated or [None])[0]


def main(path):
    template = yaml.load(Path(path).read_text(), Loader)
    resources, parameters = template["Resources"], template["Parameters"]
    globals_ = template.get("Globals", {}).get("Function", {})

    def of(kind):
        return {name: r for name, r in resources.items() if r["Type"] == kind}

    functions = {f["Metadata"]["BuildProperties"]["Binary"]: f for f in of("AWS::Serverless::Function").values()}
    check("there are exactly the five functions",
          functions.keys() == PERMISSIONS.keys() and len(of("AWS::Serverless::Function")) == len(PERMISSIONS))

    api_name, api = only(resources, "AWS::Serverless::HttpApi")
    check_routes(api_name, api["Properties"], functions)
    check_deployed_api(path)
    check_origins(parameters)
    check_throttling(api["Properties"], parameters)
    check_access_log(api["Properties"], resources)

    table_name, table = only(resources, "AWS::DynamoDB::Table")
    check_table(table)
    secrets = of("AWS::SecretsManager::Secret")
    client_secret, token_key = check_secrets(secrets, parameters)
    for name, resource in {table_name: table, **secrets}.items():
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            check(f"{name}: {policy} is Retain", resource.get(policy) == "Retain")

    managed = of("AWS::IAM::ManagedPolicy")
    check("no roles or policies but those checked here", not any(
        r["Type"].startswith("AWS::IAM::") and n not in managed for n, r in resources.items()))
    groups = []
    for name in functions.keys() & PERMISSIONS.keys():
        groups.append(check_function(name, functions[name], globals_, resources))
        check_environment(name, functions[name], globals_, table_name, client_secret, token_key)
        check_permissions(name, functions[name], managed, table_name, {client_secret: "client secret", token_key: "token key"})
    check("every function has a log group of its own", len(set(groups)) == len(groups))
    for name, group in of("AWS::Logs::LogGroup").items():
        check(f"{name}: is kept for as long as the operator says",
              group.get("Properties", {}).get("RetentionInDays") == {"Ref": "LogRetentionDays"})
    for name, policy in managed.items():
        check_managed(name, policy)
    check("other backends get a policy that lets them call access-token", any(
        "execute-api:Invoke" in texts(p) for p in managed.values()))

    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
