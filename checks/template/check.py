"""Checks template.yaml against the contract: check.py TEMPLATE DEPLOYED

Writes the template that SAM generates from TEMPLATE to DEPLOYED, for checkov."""

import copy
import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import yaml
from samcli.lib.config.samconfig import SamConfig
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

# route: the function that serves it, the authorizer (contract, section 1)
ROUTES = {
    "POST /connect/session": ("session-start", "JWT"),
    "POST /connect/finish": ("finish", "JWT"),
    "POST /connect/finish/{ticket}": ("finish", "NONE"),
    "POST /connect/public-token": ("public-token", "JWT"),
    "POST /internal/access-token": ("access-token", "AWS_IAM"),
    "GET /connect/connection": ("connection", "JWT"),
    "DELETE /connect/connection": ("connection", "JWT"),
    "POST /internal/connection": ("connection", "AWS_IAM"),
    "POST /internal/forget": ("connection", "AWS_IAM"),
}
# managed policy for other backends: the one route that it allows
CALLER_POLICIES = {
    "AccessTokenCallerPolicy": "POST /internal/access-token",
    "ConnectionCallerPolicy": "POST /internal/connection",
    "ForgetCallerPolicy": "POST /internal/forget",
}
TICKET_ROUTE = "POST /connect/finish/{ticket}"

# function: its actions on the table, the secrets that it may read
BOTH = {"client secret", "token key"}
PERMISSIONS = {
    "session-start": ({"GetItem", "UpdateItem"}, BOTH),
    "finish": ({"UpdateItem"}, BOTH),
    "public-token": ({"GetItem", "UpdateItem"}, BOTH),
    "access-token": ({"GetItem", "UpdateItem"}, BOTH),
    "connection": ({"GetItem", "DeleteItem"}, {"token key"}),
    "maintenance": ({"GetItem", "UpdateItem", "Scan"}, BOTH),
    "publisher": (set(), set()),
}

# The scheduled function: its schedule with the event that it sends, its time limit in seconds, and the indexes that it reads.
SCHEDULED = "maintenance"
SCHEDULE = {"Type": "Schedule", "Properties": {"Schedule": "rate(5 minutes)", "Input": '{"task": "sweep"}'}}
TIMEOUTS = {SCHEDULED: 120}
INDEXES = {"unresolved": ("leaseUntil", "N", "Scan")}

# The function that the table's stream invokes, and its other permissions: the actions on each resource. The stack has this function and
# its resources only with EventBusName. A mapping, not an event of the function, connects it to the stream.
STREAMED = "publisher"
STREAM_ACTIONS = {"dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"}
BUS = {"Sub": "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/${EventBusName}"}
QUEUE = {"GetAtt": "UndeliveredEvents.Arn"}
WITH_EVENTS = {"PublisherFunction", "PublisherStream", "PublisherLogs", "UndeliveredEvents", "EventsAlarm"}

REQUIRED_VARIABLES = ("TABLE_NAME", "HUMAN_API_CLIENT_ID", "HUMAN_API_SECRET_ID", "TOKEN_KEY_SECRET_ID")

# Fields that an access-log line needs, and fields that it must not have: a path may contain a ticket, and a header a token.
LOGGED = ("requestId", "requestTime", "routeKey", "status", "identity.sourceIp", "error.messageString", "authorizer.error",
          "integrationLatency")
NEVER_LOGGED = re.compile(r"path|query|body|header|override|authorization|claims|resource|user|principal", re.IGNORECASE)

# SAM adds this policy to each role, for logs.
ADDED_BY_SAM = {"AWSLambdaBasicExecutionRole"}

# alarm: its metrics (namespace, name, statistic, seconds), its expressions
OURS = "HumanConnect"
SUM = ["SUM(FILL(METRICS(), 0))"]
ALARMS = {
    "UnauthorizedAlarm": ({(OURS, "Unauthorized", "Sum", 300)}, []),
    "ForbiddenAlarm": ({(OURS, "Forbidden", "Sum", 300)}, []),
    "UpstreamUnauthorizedAlarm": ({(OURS, "Errors", "Sum", 300)}, []),
    "StoreUnavailableAlarm": ({(OURS, "Errors", "Sum", 300)}, []),
    "UnresolvedAgeAlarm": ({(OURS, "UnresolvedAgeSeconds", "Maximum", 300)}, []),
    "FaultsAlarm": ({(OURS, "Faults", "Sum", 300), (OURS, "Requests", "Sum", 300)}, ["IF(faults >= 3, 100 * faults / requests, 0)"]),
    "FinishFaultsAlarm": ({(OURS, "Faults", "Sum", 300)}, []),
    "MaintenanceFaultsAlarm": ({(OURS, "Faults", "Sum", 900)}, []),
    "MaintenanceSilentAlarm": ({("AWS/Lambda", "Invocations", "Sum", 3600)}, []),
    "CrashedAlarm": ({("AWS/Lambda", "Errors", "Sum", 300)}, SUM),
    "ThrottledAlarm": ({("AWS/Lambda", "Throttles", "Sum", 300)}, SUM),
    "LatencyAlarm": ({("AWS/ApiGateway", "Latency", "p99", 300)}, []),
    "EventsAlarm": ({(OURS, "Faults", "Sum", 300), ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum", 300)}, SUM),
}
# Dimensions of each alarm on our metrics, in addition to the service.
SERVICE = {"service": {"Ref": "AWS::StackName"}}
DIMENSIONS = {
    "UnauthorizedAlarm": {},
    "ForbiddenAlarm": {},
    "UpstreamUnauthorizedAlarm": {"code": "upstream_unauthorized"},
    "StoreUnavailableAlarm": {"code": "store_unavailable"},
    "UnresolvedAgeAlarm": {},
    "FaultsAlarm": {},
    "FinishFaultsAlarm": {"function": "finish"},
    "MaintenanceFaultsAlarm": {"function": "maintenance"},
    "EventsAlarm": {"function": "publisher"},
}
# environment variable: its parameter, or the literal that is also the code's default
PARAMETERS = {
    "HUMAN_API_CLIENT_ID": "HumanApiClientId", "DEFAULT_FLOW": "DefaultFlow", "USER_ID_CLAIM": "UserIdClaim",
    "USER_EMAIL_CLAIM": "UserEmailClaim", "LOG_LEVEL": "LogLevel", "PUBLIC_BASE_URL": "PublicBaseUrl",
}
LITERALS = ("HUMAN_API_AUTH_URL", "HUMAN_API_USER_URL", "SECRET_TTL_SECONDS", "UPSTREAM_TIMEOUT_MS")

MOST_PARAMETERS, MOST_LINES = 22, 1000

# By default, a page may send the headers of W3C trace context and of Sentry.
TRACING = ("baggage", "sentry-trace", "traceparent", "tracestate")

# Metric filters count these statuses in the access log.
COUNTED = {"401", "403"}


# values of the parameters without a default
VALUES = {"JwtIssuer": "https://issuer.example", "JwtAudience": "one,two", "HumanApiClientId": "id",
          "AllowedOrigins": "https://a.example,https://b.example"}

ARN = "arn:aws:{}:eu-west-1:000000000000:{}".format
EVENTS = {"EventBusName": "made-up"}
# A stack creates its data or adopts existing data, with or without events. For each way: the parameters, and what the functions get
# (table, table ARN, client secret, sealing key, KMS key, stream).
MADE = {"table": {"Ref": "Table"}, "table arn": {"GetAtt": "Table.Arn"}, "client secret": {"Ref": "ClientSecret"},
        "token key": {"Ref": "TokenKey"}}
GIVEN = {"table": {"Ref": "ExistingTableName"}, "client secret": {"Ref": "ExistingClientSecretArn"},
         "token key": {"Ref": "ExistingTokenKeyArn"},
         "table arn": {"Sub": "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${ExistingTableName}"}}
KMS_KEY = ARN("kms", "key/made-up")
STREAM = ARN("dynamodb", "table/made-up/stream/2026-01-02T03:04:05.678")
ADOPTED = {"ExistingTableName": "made-up", "ExistingTokenKeyArn": ARN("secretsmanager", "secret:made-up-1"),
           "ExistingClientSecretArn": ARN("secretsmanager", "secret:made-up-2")}
WAYS = {
    "all made": ({}, {**MADE, "key": None, "stream": None}),
    "all made, with a key": ({"KmsKeyArn": "create"}, {**MADE, "key": {"GetAtt": "DataKey.Arn"}, "stream": None}),
    "all made, with a given key": ({"KmsKeyArn": KMS_KEY}, {**MADE, "key": {"Ref": "KmsKeyArn"}, "stream": None}),
    "adopted": (ADOPTED, {**GIVEN, "key": None, "stream": None}),
    "adopted, with its key": ({**ADOPTED, "KmsKeyArn": KMS_KEY}, {**GIVEN, "key": {"Ref": "KmsKeyArn"}, "stream": None}),
    "all made, with events": (EVENTS, {**MADE, "key": None, "stream": {"GetAtt": "Table.StreamArn"}}),
    "all made, with events and a key": ({**EVENTS, "KmsKeyArn": "create"},
                                        {**MADE, "key": {"GetAtt": "DataKey.Arn"}, "stream": {"GetAtt": "Table.StreamArn"}}),
    "adopted, with events and its key": ({**ADOPTED, **EVENTS, "KmsKeyArn": KMS_KEY, "ExistingStreamArn": STREAM},
                                         {**GIVEN, "key": {"Ref": "KmsKeyArn"}, "stream": {"Ref": "ExistingStreamArn"}}),
}


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: `!Ref Table` becomes {"Ref": "Table"}."""


def short_form(loader, name, node):
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


Loader.add_multi_constructor("!", short_form)

NO_VALUE = {"Ref": "AWS::NoValue"}


def resolve(template, given):
    """The template as CloudFormation sees it with these parameters: conditions are evaluated, and excluded parts are removed."""
    values = {**{name: p.get("Default") for name, p in template["Parameters"].items()}, **VALUES, **given}

    def decide(condition):
        (function, operands), = condition.items()
        if function == "Not":
            return not decide(operands[0])
        return function == "Equals" and len({str(values[o["Ref"]]) if isinstance(o, dict) else str(o) for o in operands}) == 1

    conditions = {name: decide(condition) for name, condition in template["Conditions"].items()}

    def pick(value):
        if isinstance(value, list):
            return [item for item in map(pick, value) if item != NO_VALUE]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"If"}:
            condition, yes, no = value["If"]
            return pick(yes if conditions[condition] else no)
        needed = value.get("Condition")  # a resource or an output names a condition; a policy's Condition is a mapping
        if isinstance(needed, str) and not conditions[needed]:
            return NO_VALUE
        return {key: item for key, item in ((key, pick(item)) for key, item in value.items()) if item != NO_VALUE}

    return pick({key: item for key, item in template.items() if key != "Conditions"})


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
        if binary == SCHEDULED:
            check(f"{binary}: only its schedule starts it",
                  list(function["Properties"].get("Events", {}).values()) == [SCHEDULE])
            # Lambda would queue an event for six hours, and would repeat a failed run twice
            check(f"{binary}: a failed run is not repeated, and a late one does not start",
                  function["Properties"].get("EventInvokeConfig") == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 300})
            continue
        if binary == STREAMED:
            check(f"{binary}: only the mapping of the stream starts it", "Events" not in function["Properties"])
            continue
        for event in function["Properties"].get("Events", {}).values():
            p = event.get("Properties", {})
            check(f"{binary}: its events are explicit routes of the API",
                  event["Type"] == "HttpApi" and p.get("ApiId") == {"Ref": api_name} and {"Method", "Path"} <= p.keys())
            who = p.get("Auth", {}).get("Authorizer", "NONE")
            found.append((f"{p.get('Method', '').upper()} {p.get('Path')}", (binary, "JWT" if who in jwt else who)))
    for route, expected in ROUTES.items():
        check(f"{route} exists once, with function and authorizer {expected}", [e for r, e in found if r == route] == [expected])
    check("there are no other routes", {route for route, _ in found} == set(ROUTES))
    check("a route has the authorizer that it names, and no other", "DefaultAuthorizer" not in auth)
    check("the IAM authorizer is on", auth.get("EnableIamAuthorizer") is True)


def deployed(path, **given):
    """The template that SAM generates. SAM silently drops or rewrites properties that it does not expect."""
    template = copy.deepcopy(yaml_parse(Path(path).read_text()))
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    return Translator({}, Parser()).translate(template, parameter_values={**VALUES, **given})


def check_deployed_api(resources):
    api = next(r for r in resources.values() if r["Type"] == "AWS::ApiGatewayV2::Api")["Properties"]
    check("deployed: an issuer that cannot be read fails the deployment", api.get("FailOnWarnings") is True)
    body = api["Body"]

    guards = {f"{method.upper()} {path}": [name for s in operation.get("security", []) for name in s]
              for path, item in body["paths"].items() for method, operation in item.items()}
    schemes = body["components"]["securitySchemes"]
    jwt = [name for name, s in schemes.items() if s.get("x-amazon-apigateway-authorizer", {}).get("type") == "jwt"]
    check("deployed: the routes and their authorizers are those of the contract",
          guards == {route: {"JWT": jwt, "NONE": []}.get(who, [who]) for route, (_, who) in ROUTES.items()})
    # the import may warn of a name that is no scheme
    check("deployed: each authorizer is a security scheme", {name for names in guards.values() for name in names} == set(schemes))
    check("deployed: the IAM authorizer is SigV4",
          schemes.get("AWS_IAM", {}).get("x-amazon-apigateway-authtype") == "awsSigv4")

    cors = body.get("x-amazon-apigateway-cors", {})
    cors = cors["Fn::If"][1] if "Fn::If" in cors else cors
    check("deployed: CORS origins are those of the parameter",
          cors.get("allowOrigins") == {"Fn::Split": [",", VALUES["AllowedOrigins"]]})
    check("deployed: CORS methods are those of the routes", set(cors.get("allowMethods", [])) == {"GET", "POST", "DELETE"})
    split, headers = cors.get("allowHeaders", {}).get("Fn::Split", (None, {}))
    check(f"deployed: CORS headers are authorization, content-type and the parameter's: {headers}", split == ","
          and headers == {"Fn::Sub": "authorization,content-type," + ",".join(TRACING)})
    check("deployed: CORS exposes Retry-After", cors.get("exposeHeaders") == ["Retry-After"])
    check("deployed: CORS does not allow credentials", not cors.get("allowCredentials"))
    check("deployed: CORS has a MaxAge", isinstance(cors.get("maxAge"), int))


def policy_documents(value):
    """Every policy document inside a value, of any resource."""
    if isinstance(value, dict):
        return ([value] if "Statement" in value else []) + [d for item in value.values() for d in policy_documents(item)]
    return [d for item in value for d in policy_documents(item)] if isinstance(value, list) else []


def check_deployed_policies(resources):
    roles = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::IAM::Role"}
    check("deployed: a role for each function", len(roles) == len(PERMISSIONS))
    for name, role in roles.items():
        attached = {t.rsplit("/", 1)[-1] for p in role.get("ManagedPolicyArns", []) for t in texts(p) if "policy/" in t}
        check(f"deployed: {name} has the policy that SAM adds and no other AWS policy: {attached}", attached == ADDED_BY_SAM)
        check(f"deployed: {name} may create no log group", {"Ref": "NoLogGroupsPolicy"} in role["ManagedPolicyArns"])
        check(f"deployed: {name} has the boundary, if there is one",
              role.get("PermissionsBoundary") == {"Fn::If": ["HasPermissionsBoundary", {"Ref": "PermissionsBoundary"}, {"Ref": "AWS::NoValue"}]})
        check(f"deployed: {name}: only the role of {STREAMED} may read the stream",
              bool(STREAM_ACTIONS & set(texts(role.get("Policies", [])))) == (name == "PublisherFunctionRole"))
    for name, resource in resources.items():
        if resource["Type"] == "AWS::KMS::Key":  # in a key's policy, "*" means that key
            continue
        for s in [s for d in policy_documents(resource) for s in as_list(d["Statement"]) if s["Effect"] == "Allow"]:
            named = texts(s.get("Action")) + texts(s.get("Resource", []))
            check(f"deployed: {name}: no wildcard in {named}", not {"NotAction", "NotResource"} & s.keys()
                  and not any(c in text for text in named for c in "*?"))


def check_deployed_functions(resources):
    """A deployment replaces the functions: callers get the new code and the new parameters at once."""
    types = {r["Type"] for r in resources.values()}
    check(f"deployed: no versions, no aliases, no CodeDeploy: {types}", not any(
        "CodeDeploy" in t or t in ("AWS::Lambda::Version", "AWS::Lambda::Alias") for t in types))
    functions = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::Lambda::Function"}
    for name, p in functions.items():
        check(f"deployed: {name}: built for arm64, not traced", p["Architectures"] == ["arm64"] and "TracingConfig" not in p)


def check_tls(parameters):
    """An HTTP API has no plain-http listener. Only the addresses that an operator enters need a check."""
    for name in ("JwtIssuer", "PublicBaseUrl"):
        pattern = re.compile(parameters.get(name, {}).get("AllowedPattern", ""))
        for url, allowed in {"https://a.example": True, "http://localhost:1": True, "http://a.example": False,
                             "http://localhost.example": False}.items():
            check(f"{name} {'accepts' if allowed else 'refuses'} {url}", bool(pattern.fullmatch(url)) == allowed)


def check_key(way, template, key):
    """If the operator names a key, everything at rest is encrypted with it."""
    for name, resource in template["Resources"].items():
        p = resource.get("Properties", {})
        used = {"AWS::Logs::LogGroup": p.get("KmsKeyId"), "AWS::SecretsManager::Secret": p.get("KmsKeyId"),
                "AWS::DynamoDB::Table": p.get("SSESpecification", {}).get("KMSMasterKeyId")}
        if resource["Type"] in used:
            check(f"{way}: {name} is encrypted with the key: {used[resource['Type']]}", used[resource["Type"]] == key)


def check_key_policies(template):
    """The policy of the created key, and the policy in docs/deploy.md, let CloudWatch Logs use the key for every log group."""
    check("the parameter's description names the condition that the key's policy needs for logs",
          "kms:EncryptionContext:aws:logs:arn" in template["Parameters"]["KmsKeyArn"]["Description"])
    _, made = only(template["Resources"], "AWS::KMS::Key")
    check("the key rotates", made["Properties"].get("EnableKeyRotation") is True)
    _, alias = only(template["Resources"], "AWS::KMS::Alias")
    check("the key has an alias, which a new stack of the same name can create", alias["Properties"] == {
        "AliasName": {"Sub": "alias/${AWS::StackName}"}, "TargetKeyId": {"Ref": "DataKey"}} and "DeletionPolicy" not in alias)
    for name in ("DataKey", "ClientSecret", "TokenKey"):
        check(f"{name}: its description names the stack", "${AWS::StackName}" in template["Resources"][name]["Properties"]["Description"]["Sub"])
    account, logs = made["Properties"]["KeyPolicy"]["Statement"]
    check("the key's policy lets the account's IAM policies decide",
          texts(account["Principal"]) == ["arn:${AWS::Partition}:iam::${AWS::AccountId}:root"])
    check("the key's policy allows CloudWatch Logs, for this stack", texts(logs["Principal"]) == ["logs.${AWS::Region}.${AWS::URLSuffix}"]
          and list(logs["Condition"]) == ["ArnLike"])
    allowed = {"key": [text.partition("log-group:")[2] for text in texts(logs["Condition"]["ArnLike"])],
               "guide": [f.replace("human-connect", "${AWS::StackName}")
                         for f in re.findall(r'log-group:(/[^"]+)"', Path("docs/deploy.md").read_text())]}
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Logs::LogGroup":
            group = resource["Properties"]["LogGroupName"]["Sub"]
            for where, patterns in allowed.items():
                check(f"{name}: the key policy in the {where} covers {group}", any(fnmatch(group, p) for p in patterns))


def check_samconfig(path, parameters):
    """samconfig.toml, as SAM reads it: its parameters exist and accept its values."""
    for environment in ("dev", "prod"):
        settings = SamConfig(Path(path).parent.resolve()).get_all(["deploy"], "parameters", environment)
        given = dict(text.split("=", 1) for text in settings["parameter_overrides"])
        required = {name for name, p in parameters.items() if "Default" not in p}
        check(f"samconfig {environment}: has a stack of its own", environment in settings["stack_name"])
        check(f"samconfig {environment}: has all parameters without a default: {required - given.keys()}", required <= given.keys())
        for name, value in given.items():
            p = parameters.get(name, {"AllowedValues": []})
            check(f"samconfig {environment}: {name} accepts {value!r}", re.fullmatch(p.get("AllowedPattern", ".*"), value)
                  and value in map(str, p.get("AllowedValues", [value])))


def dimensions(metric):
    return {d["Name"]: d["Value"] for d in metric.get("Dimensions", [])}


def check_alarms(template, api):
    """The alarms watch existing metrics, with the right names and dimensions (see local/tests/metrics.rs). The template has events."""
    resources = template["Resources"]
    telemetry = Path("shared/src/telemetry.rs").read_text()
    namespace = re.search(r'const NAMESPACE: &str = "(\w+)";', telemetry).group(1)
    codes = Path("shared/src/http/code.rs").read_text()
    for code in (d["code"] for d in DIMENSIONS.values() if "code" in d):
        check(f"{code} is a code", f'"{code}"' in codes)
    for name in PERMISSIONS:
        check(f"{name} emits metrics under its name", f'const NAME: &\'static str = "{name}";' in
              Path("functions", name, "src/lib.rs").read_text())

    alarms = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"}
    names = {name for name, r in resources.items() if r["Type"] == "AWS::Serverless::Function"}
    for name in ("CrashedAlarm", "ThrottledAlarm"):
        watched = [dimensions(q["MetricStat"]["Metric"])["FunctionName"]["Ref"] for q in alarms[name]["Metrics"] if "MetricStat" in q]
        check(f"{name}: watches every function: {watched}", sorted(watched) == sorted(names))
    check("the template has the expected alarms", alarms.keys() == ALARMS.keys())
    for name, alarm in alarms.items():
        check(f"{name}: has a description", bool(alarm.get("AlarmDescription")))
        silence = name == "MaintenanceSilentAlarm"
        check(f"{name}: treats missing data as expected", alarm.get("TreatMissingData") == ("missing" if silence else "notBreaching"))
        check(f"{name}: compares as expected, after one period", alarm.get("EvaluationPeriods") == 1 and alarm.get("ComparisonOperator")
              == ("LessThanThreshold" if silence else "GreaterThanOrEqualToThreshold"))
        stats = [q["MetricStat"] for q in alarm.get("Metrics", []) if "MetricStat" in q]
        expressions = [q["Expression"] for q in alarm.get("Metrics", []) if "Expression" in q]
        metrics = {(s["Metric"]["Namespace"], s["Metric"]["MetricName"], s["Stat"], s["Period"]) for s in stats} or {
            (alarm["Namespace"], alarm["MetricName"], alarm.get("Statistic") or alarm.get("ExtendedStatistic"), alarm["Period"])}
        check(f"{name}: has the expected metrics and expressions", (metrics, expressions) == ALARMS.get(name))
        check(f"{name}: its threshold is a number above 0", alarm["Threshold"] > 0)
        ours = [metric for metric in [s["Metric"] for s in stats] or [alarm] if metric["Namespace"] == namespace]
        check(f"{name}: watches this stack's metrics", all(
            dimensions(metric) == {**SERVICE, **DIMENSIONS[name]} for metric in ours))

    fields = access_log_fields(api)
    log = {"Ref": api["AccessLogSettings"]["DestinationArn"]["GetAtt"].split(".")[0]}
    counted = set()
    for name, f in resources.items():
        if f["Type"] != "AWS::Logs::MetricFilter":
            continue
        f = f["Properties"]
        pattern = re.fullmatch(r'\{ \$\.(\w+) = "(\d{3})" \}', f.get("FilterPattern", ""))
        check(f"{name}: counts a status of the access log", pattern is not None and f.get("LogGroupName") == log
              and fields.get(pattern.group(1)) == "$context.status")
        metric = f.get("MetricTransformations", [{}])[0]
        # CloudWatch Logs does not accept a default value together with dimensions.
        check(f"{name}: counts one per line, for this stack", metric.get("MetricValue") == "1" and "DefaultValue" not in metric
              and metric.get("Dimensions") == [{"Key": "service", "Value": "$.service"}])
        watched = [a for a in alarms.values() if (a.get("Namespace"), a.get("MetricName"), a.get("Statistic"), a.get("Period"))
                   == (namespace, metric.get("MetricName"), "Sum", 300) and dimensions(a) == SERVICE]
        check(f"{name}: an alarm watches it", len(watched) == 1 and metric.get("MetricNamespace") == namespace)
        counted.add(pattern and pattern.group(2))
    check(f"refusals are counted: {sorted(COUNTED)}", counted == COUNTED)


def check_queries(resources):
    """The saved query for audit lines reads the logs of every function that has an internal route. The template has events."""
    internal = {function for function, who in ROUTES.values() if who == "AWS_IAM"}
    groups = {r["Metadata"]["BuildProperties"]["Binary"]: r["Properties"]["LoggingConfig"]["LogGroup"]
              for r in resources.values() if r["Type"] == "AWS::Serverless::Function"}
    check("there are four saved queries", sum(r["Type"] == "AWS::Logs::QueryDefinition" for r in resources.values()) == 4)
    query = resources["AuditQuery"]["Properties"]
    check("the query for audit lines covers the internal routes", 'message = "audit"' in query["QueryString"]
          and sorted(texts(query["LogGroupNames"])) == sorted(texts([groups[function] for function in internal])))


def check_skips():
    """Each rule that a linter skips has its reason above it."""
    for name in (".checkov.yaml", ".cfnlintrc.yaml"):
        lines = Path(name).read_text().splitlines()
        for above, line in zip(lines, lines[1:]):
            if line.strip().startswith("- "):
                check(f"{name}: {line.strip(' -')} has its reason", above.strip().startswith("# "))


def check_origins(parameters):
    pattern = re.compile(parameters.get("AllowedOrigins", {}).get("AllowedPattern", ""))
    for origins, allowed in {
        "https://a.example": True, "https://a.example,https://b.example:8443,http://localhost:3000": True,
        "": True, "*": False, "https://*.example": False, "http://a.example": False, "https://a.example/": False,
        "https://a.example, https://b.example": False, "https://a.example,*": False,
        # loopback, by name and by number
        "http://localhost:5173,http://127.0.0.1:5173,http://[::1]:5173": True, "http://app.localhost:5173": True,
        "https://localhost": True, "https://[::1]:5173": True, "http://127.1.2.3:80": True,
        "http://localhost.example": False, "http://notlocalhost": False, "http://127.0.0.1.example": False,
        "http://128.0.0.1": False, "http://[::2]": False, "http://127.0.0.1/": False, "http://127.0.0.1:5173,": False,
        # API Gateway refuses these: "Invalid format for origin"
        "capacitor://localhost": False, "ionic://localhost": False, "null": False, "file://": False,
    }.items():
        check(f"AllowedOrigins {'accepts' if allowed else 'refuses'} {origins!r}", bool(pattern.fullmatch(origins)) == allowed)


def check_headers(parameters):
    """A page's instrumentation may send its headers. The parameter cannot remove the headers that the API needs."""
    parameter = parameters.get("AllowedHeaders", {})
    check("AllowedHeaders allows Sentry and W3C trace context", parameter.get("Default") == ",".join(TRACING))
    pattern = re.compile(parameter.get("AllowedPattern", ""))
    for headers, allowed in {
        parameter.get("Default", ""): True, "newrelic": True, "x-datadog-trace-id,x-datadog-parent-id": True,
        "": False, "*": False, "baggage, traceparent": False, "Baggage": False, "baggage,": False, ",baggage": False, "a b": False,
        "a:b": False, "baggage,*": False, "${AllowedOrigins}": False,
    }.items():
        check(f"AllowedHeaders {'accepts' if allowed else 'refuses'} {headers!r}", bool(pattern.fullmatch(headers)) == allowed)


def check_base_url(parameters):
    """finishUrl begins with this value, so it may have the path that a custom domain's mapping key adds."""
    pattern = re.compile(parameters["PublicBaseUrl"]["AllowedPattern"])
    for url, allowed in {
        "": True, "https://api.example.com": True, "https://api.example.com/health": True, "https://api.example.com:8443/a/b_c-d.e": True,
        "http://localhost:3000/v1": True, "https://api.example.com/health/": True,
        "https://api.example.com/health?a=b": False, "https://api.example.com/health#a": False, "https://a@api.example.com/health": False,
        "https://api.example.com//health": False, "https://api.example.com/he%20alth": False, "https://api.example.com/../health": False,
        "https://api.example.com/b\u00fcch": False, "http://api.example.com/health": False, "https://api.example.com/he alth": False,
    }.items():
        check(f"PublicBaseUrl {'accepts' if allowed else 'refuses'} {url!r}", bool(pattern.fullmatch(url)) == allowed)


def check_texts(parameters):
    """The parameters and the documents warn an operator of mistakes that only callers would notice."""
    deploy, configuration, mobile, threats = (
        " ".join(Path(name).read_text().split())
        for name in ("docs/deploy.md", "docs/configuration.md", "web/examples/mobile.md", "docs/threat-model.md"))
    guide = deploy + configuration

    def says(where, text, *words):
        check(f"{where} mentions {', '.join(words)}", all(word in text for word in words))

    says("JwtIssuer", parameters["JwtIssuer"]["Description"], "RSA", "RS256", "ES256", "Supabase", "Clerk")
    says("UserEmailClaim", parameters["UserEmailClaim"]["Description"], "Cognito", "ID token", "clientUserEmail")
    says("PublicBaseUrl", parameters["PublicBaseUrl"]["Description"], "mapping key", "path")
    says("AllowedOrigins", parameters["AllowedOrigins"]["Description"], "capacitor://localhost", "web/examples/mobile.md")
    says("KmsKeyArn", parameters["KmsKeyArn"]["Description"], "On a running stack", "docs/operations.md")
    says("the guide", guide, "`JwtIssuer`", ".well-known/openid-configuration", "ES256", "http-api-jwt-authorizer.html")
    says("the guide", guide, "`UserEmailClaim`", "Cognito", "clientUserEmail")
    says("the guide", guide, "`AllowedOrigins`", "capacitor://localhost", "`AllowedHeaders`", "`PublicBaseUrl`")
    says("mobile.md", mobile, "capacitor://localhost", "ionic://localhost", "Invalid format for origin", "CapacitorHttp",
         "https://localhost", "https://capacitorjs.com/docs/", "http-api-cors.html")
    says("mobile.md", mobile, "| iOS 1.0, and iOS 1.1 with `authURL` |", "| iOS 1.1 without `authURL` |", "| Android |")
    says("mobile.md", mobile, "`ada%2Brun%40example.test`", "`ada+run@example.test`", "user_mismatch", "session_token")
    says("the threat model", threats, "test invoke", "`identity.userArn`", "`test-invoke-api-key`", "403")


def check_throttling(api):
    """The limits are numbers: a parameter may arrive in RouteSettings as text."""
    def limits(settings):
        return [settings.get(k) for k in ("ThrottlingRateLimit", "ThrottlingBurstLimit")]

    default, ticket = limits(api.get("DefaultRouteSettings", {})), limits(api.get("RouteSettings", {}).get(TICKET_ROUTE, {}))
    check("every route is throttled, by numbers", all(isinstance(limit, int) for limit in default + ticket))
    check("throttles name existing routes", set(api.get("RouteSettings", {})) <= set(ROUTES))
    check("the ticket route has lower limits", all(t < d for t, d in zip(ticket, default)))


def access_log_fields(api):
    """The fields of a line. API Gateway puts a variable whose name ends in String into quotes of its own."""
    return json.loads(re.sub(r"(\$context\.[A-Za-z.]+String)(?=[,}])", r'"\1"', api["AccessLogSettings"]["Format"]["Sub"]))


def check_access_log(api, resources):
    settings = api.get("AccessLogSettings", {})
    group = settings.get("DestinationArn", {}).get("GetAtt", ".").split(".")[0]
    check("access logs go to a log group", resources.get(group, {}).get("Type") == "AWS::Logs::LogGroup")
    text = settings.get("Format", {}).get("Sub", "")
    entries = access_log_fields(api)
    check("an access-log line is one line of JSON", bool(entries) and "\n" not in text)
    check("a variable with quotes of its own has no others", '"$context.error.messageString"' not in text)
    for variable in LOGGED:
        check(f"access logs have $context.{variable}", f"$context.{variable}" in entries.values())
    check("access logs name the stack", entries.pop("service", None) == "${AWS::StackName}")
    for key, value in entries.items():
        check(f"access logs: {key} is a $context variable, and not a path, query, body, header or claim",
              re.fullmatch(r"\$context\.[A-Za-z.]+", value) and not NEVER_LOGGED.search(key + value))


def check_environment(binary, name, function, globals_, data):
    """`name` is the way and the function, for the messages."""
    variables = {**globals_.get("Environment", {}).get("Variables", {}),
                 **function["Properties"].get("Environment", {}).get("Variables", {})}
    for variable in REQUIRED_VARIABLES:
        check(f"{name}: {variable} is set", bool(variables.get(variable)))
    check(f"{name}: SERVICE_NAME is the stack's name", variables.get("SERVICE_NAME") == SERVICE["service"])
    check(f"{name}: TABLE_NAME is the table", variables.get("TABLE_NAME") == data["table"])
    check(f"{name}: HUMAN_API_SECRET_ID is the client secret", variables.get("HUMAN_API_SECRET_ID") == data["client secret"])
    check(f"{name}: TOKEN_KEY_SECRET_ID is the sealing key", variables.get("TOKEN_KEY_SECRET_ID") == data["token key"])
    check(f"{name}: EVENT_BUS_NAME is set only for {STREAMED}",
          variables.get("EVENT_BUS_NAME") == ({"Ref": "EventBusName"} if binary == STREAMED else None))


def check_function(name, function, globals_, resources):
    p = {**globals_, **function["Properties"]}
    check(f"{name}: is a package under functions/", Path("functions", name, "Cargo.toml").is_file())
    check(f"{name}: is built by cargo-lambda", function["Metadata"].get("BuildMethod") == "rust-cargolambda")
    check(f"{name}: bootstrap on provided.al2023", (p.get("Handler"), p.get("Runtime")) == ("bootstrap", "provided.al2023"))
    check(f"{name}: has its time limit", p.get("Timeout") == TIMEOUTS.get(name, 28))
    group = resources.get(p.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref"), {})
    check(f"{name}: logs to a group of the stack", group.get("Type") == "AWS::Logs::LogGroup")
    return p.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref")


def check_statements(name, document):
    statements = as_list(document.get("Statement", []))
    check(f"{name}: has statements", bool(statements))
    for s in statements:
        check(f"{name}: only allows, and names actions and resources", s.get("Effect") == "Allow" and {"Action", "Resource"} <= s.keys()
              and not {"NotAction", "NotResource"} & s.keys())
        for text in texts(s.get("Action")) + texts(s.get("Resource")):
            check(f"{name}: no wildcard in {text}", "*" not in text and "?" not in text)
    return statements


def index_of(resource, table_arn):
    """The index that a statement names, if it is an index of this table."""
    table = table_arn.get("Sub") or f"${{{table_arn['GetAtt']}}}"
    whose, _, index = str(resource.get("Sub")).partition("/index/")
    return index if whose == table else None


def check_permissions(binary, name, function, data):
    """`name` is the way and the function, for the messages."""
    granted_items, granted_secrets, documents, others = set(), set(), 0, []
    indexes = set()
    of_events = {(action, json.dumps(data["stream"])) for action in STREAM_ACTIONS} | {
        ("events:PutEvents", json.dumps(BUS)), ("sqs:SendMessage", json.dumps(QUEUE))} if binary == STREAMED else set()
    granted_of_events = set()
    secrets = {json.dumps(data[s]): s for s in BOTH}
    for policy in as_list(function["Properties"].get("Policies", [])):
        if "Statement" not in policy:
            others.append(policy)
            continue
        documents += 1
        for s in check_statements(name, policy):
            for action in as_list(s.get("Action")):
                service, _, verb = str(action).partition(":")
                if service == "dynamodb" and s.get("Resource") == data["table arn"]:
                    granted_items.add(verb)
                elif action == "secretsmanager:GetSecretValue":
                    granted_secrets |= {secrets.get(json.dumps(r), str(r)) for r in as_list(s["Resource"])}
                elif service == "dynamodb" and (index := index_of(s.get("Resource"), data["table arn"])):
                    indexes.add((index, verb))
                elif (action, json.dumps(s.get("Resource"))) in of_events:
                    granted_of_events.add((action, json.dumps(s["Resource"])))
                else:
                    check(f"{name}: {action} on {s.get('Resource')} is not needed", False)
    check(f"{name}: no other policies, except the data key's if there is a key: {others}",
          others == [{"Ref": "NoLogGroupsPolicy"}] + ([{"Ref": "DataKeyPolicy"}] if data["key"] else []))
    check(f"{name}: has one inline policy", documents == 1)
    check(f"{name}: has exactly the table actions that it needs: {sorted(granted_items)}", granted_items == PERMISSIONS[binary][0])
    check(f"{name}: may read exactly the secrets that it needs: {granted_secrets}", granted_secrets == PERMISSIONS[binary][1])
    wanted = {(index, verb) for index, (_, _, verb) in INDEXES.items()} if binary == SCHEDULED else set()
    check(f"{name}: may read exactly the indexes that it needs: {indexes}", indexes == wanted)
    check(f"{name}: has exactly the permissions for events that it needs: {granted_of_events}", granted_of_events == of_events)
    check(f"{name}: has the role that SAM creates", "Role" not in function["Properties"])


def check_managed(way, name, policy, key):
    if name == "NoLogGroupsPolicy":
        check(f"{way}: {name}: only denies the creation of log groups", policy["Properties"]["PolicyDocument"]["Statement"] == [
            {"Effect": "Deny", "Action": "logs:CreateLogGroup", "Resource": "*"}])
        return
    for s in check_statements(f"{way}: {name}", policy["Properties"]["PolicyDocument"]):
        actions = as_list(s.get("Action"))
        if route := CALLER_POLICIES.get(name):
            check(f"{way}: {name}: only {route}", actions == ["execute-api:Invoke"] and s["Resource"] == {
                "Sub": "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/$default/" + route.replace(" ", "")})
        else:
            via = s.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", [])
            check(f"{way}: {name}: only kms:Decrypt, through DynamoDB and Secrets Manager",
                  actions == ["kms:Decrypt"] and s["Resource"] == key and
                  sorted(t.split(".")[0] for t in texts(via)) == ["dynamodb", "secretsmanager"])


def check_table(table):
    p = table["Properties"]
    check("the table's key is userKey",
          p.get("KeySchema") == [{"AttributeName": "userKey", "KeyType": "HASH"}])
    check("the only index is the one of sweep, and contains keys only",
          p.get("GlobalSecondaryIndexes") == [
              {"IndexName": index, "KeySchema": [{"AttributeName": attribute, "KeyType": "HASH"}],
               "Projection": {"ProjectionType": "KEYS_ONLY"}} for index, (attribute, _, _) in INDEXES.items()]
          and "LocalSecondaryIndexes" not in p)
    check("the table defines no attributes other than its keys",
          p.get("AttributeDefinitions") == [{"AttributeName": name, "AttributeType": kind} for name, kind in
                                            [("userKey", "S")] + [(name, kind) for name, kind, _ in INDEXES.values()]])
    check("the table is on demand", p.get("BillingMode") == "PAY_PER_REQUEST")
    check("the table can be restored to a point in time",
          p.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled") is True)
    check("the table is encrypted by KMS", p.get("SSESpecification", {}).get("SSEEnabled") is True)
    check("the table's TTL is expires", p.get("TimeToLiveSpecification") == {"AttributeName": "expires", "Enabled": True})
    check("the table is protected from deletion", p.get("DeletionProtectionEnabled") is True)


def check_secrets(secrets, parameters):
    generated = [n for n, s in secrets.items() if "GenerateSecretString" in s.get("Properties", {})]
    empty = [n for n in secrets if n not in generated]
    check("one secret is generated, and the operator fills in the other", (generated, empty) == (["TokenKey"], ["ClientSecret"]))
    check("no secret has a value in the template", not any("SecretString" in s.get("Properties", {}) for s in secrets.values()))
    check("no parameter is a secret", not any(re.search(r"secret$|password|key$|token$", n, re.IGNORECASE) for n in parameters))
    for name in generated:
        how = secrets[name]["Properties"]["GenerateSecretString"] or {}
        check("the generated key is a plain string of 48 letters and digits",
              how.get("PasswordLength") == 48 and how.get("ExcludePunctuation") is True and "GenerateStringKey" not in how)


def check_way(way, template, data):
    """Checks environment, permissions and encryption for one way to get the data."""
    check_key(way, template, data["key"])
    globals_ = template["Globals"]["Function"]
    functions = {f["Metadata"]["BuildProperties"]["Binary"]: f for f in template["Resources"].values()
                 if f["Type"] == "AWS::Serverless::Function"}
    check(f"{way}: {STREAMED} is there only with events", (STREAMED in functions) == bool(data["stream"]))
    for binary in functions.keys() & PERMISSIONS.keys():
        check_environment(binary, f"{way}: {binary}", functions[binary], globals_, data)
        check_permissions(binary, f"{way}: {binary}", functions[binary], data)
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            check_managed(way, name, resource, data["key"])
    for name, kind in (("Table", "table"), ("ClientSecret", "client secret"), ("TokenKey", "token key")):
        check(f"{way}: {name} is created only if none is given", (name in template["Resources"]) == (data[kind] == {"Ref": name}))
    check(f"{way}: outputs name the table and the secrets", all(template["Outputs"][output]["Value"] == data[kind] for output, kind in {
        "TableName": "table", "TokenKeyArn": "token key", "ClientSecretArn": "client secret"}.items()))


def check_events(template, made):
    """The stream, its reader, its queue and its alarm are in the stack if EventBusName is given, and only then."""
    off, on, adopted = (resolve(template, given)["Resources"] for given in (
        {}, EVENTS, {**ADOPTED, **EVENTS, "ExistingStreamArn": STREAM}))
    check(f"EventBusName adds exactly these resources: {on.keys() ^ off.keys()}",
          on.keys() - off.keys() == WITH_EVENTS and off.keys() <= on.keys())
    check("by default, the table has no stream", "StreamSpecification" not in off["Table"]["Properties"])
    check("with events, the stream has both images",
          on["Table"]["Properties"].get("StreamSpecification") == {"StreamViewType": "NEW_AND_OLD_IMAGES"})
    check("nothing else of the table changes with events",
          off["Table"]["Properties"] == {k: v for k, v in on["Table"]["Properties"].items() if k != "StreamSpecification"})
    for what, resources, stream in (("made", on, {"GetAtt": "Table.StreamArn"}), ("adopted", adopted, {"Ref": "ExistingStreamArn"})):
        check(f"{what}: the mapping reads the stream from its beginning, by item, with bounded retries and the queue",
              resources["PublisherStream"]["Properties"] == {
                  "FunctionName": {"Ref": "PublisherFunction"}, "EventSourceArn": stream, "StartingPosition": "TRIM_HORIZON",
                  "BatchSize": 100, "FunctionResponseTypes": ["ReportBatchItemFailures"], "BisectBatchOnFunctionError": True,
                  "MaximumRetryAttempts": 10000, "MaximumRecordAgeInSeconds": 3600,
                  "DestinationConfig": {"OnFailure": {"Destination": QUEUE}}})
    check("the queue is encrypted and keeps a message for 14 days",
          on["UndeliveredEvents"]["Properties"] == {"MessageRetentionPeriod": 14 * 86400, "SqsManagedSseEnabled": True})
    messages, = (q["MetricStat"]["Metric"] for q in on["EventsAlarm"]["Properties"]["Metrics"] if q["Id"] == "messages")
    check("EventsAlarm: watches the queue", dimensions(messages) == {"QueueName": {"GetAtt": "UndeliveredEvents.QueueName"}})
    rule = template["Rules"]["AnAdoptedTableHasItsStream"]
    given = [{"Not": [{"Equals": [{"Ref": name}, ""]}]} for name in ("EventBusName", "ExistingTableName", "ExistingStreamArn")]
    check("an adopted table with events needs its stream", rule["RuleCondition"] == {"And": given[:2]}
          and [a["Assert"] for a in rule["Assertions"]] == given[2:])
    conditions = [r.get("Condition") for name, r in made.items() if name.startswith("Publisher") or name in WITH_EVENTS]
    check("deployed: they are conditional, and so is the role", conditions == ["PublishesEvents"] * (len(WITH_EVENTS) + 1))
    for name, pattern in {"EventBusName": {"": True, "default": True, "made/up_1.a-b": True, ARN("events", "event-bus/a"): False,
                                           "*": False, "a b": False},
                          "ExistingStreamArn": {"": True, STREAM: True, STREAM.rpartition("/")[0] + "/*": False,
                                                ARN("dynamodb", "table/made-up"): False}}.items():
        for value, allowed in pattern.items():
            check(f"{name} {'accepts' if allowed else 'refuses'} {value!r}",
                  bool(re.fullmatch(template["Parameters"][name]["AllowedPattern"], value)) == allowed)


def check_options(template):
    """Checks the optional parts of the template."""
    def variables(**given):
        return resolve(template, given)["Globals"]["Function"]["Environment"]["Variables"]

    bare = resolve(template, {})
    check("no concurrency is reserved by default", "ReservedConcurrentExecutions" not in bare["Globals"]["Function"])
    check("reserved concurrency is the parameter's", resolve(template, {"ReservedConcurrency": "5"})["Globals"]["Function"]
          .get("ReservedConcurrentExecutions") == {"Ref": "ReservedConcurrency"})
    topic = resolve(template, {**EVENTS, "AlarmTopicArn": ARN("sns", "made-up")})
    for name, r in resolve(template, EVENTS)["Resources"].items():
        if r["Type"] == "AWS::CloudWatch::Alarm":
            actions = {key for key in r["Properties"] if key.endswith("Actions")}
            check(f"{name}: has no action without a topic: {actions}", not actions)
            told = {key: value for key, value in topic["Resources"][name]["Properties"].items() if key.endswith("Actions")}
            # missing data is what the alarm on silence looks for
            silence = ["InsufficientDataActions"] if name == "MaintenanceSilentAlarm" else []
            check(f"{name}: notifies the topic when it fires and when it is over: {told}",
                  told == {key: [{"Ref": "AlarmTopicArn"}] for key in ["AlarmActions", "OKActions", *silence]})
    check("there is no domain by default", not any("Domain" in name for name in bare["Resources"]))
    check("a domain has a mapping", {"ApiDomain", "ApiDomainMapping"} <= resolve(
        template, {"DomainName": "a.example"})["Resources"].keys())
    given = variables(PublicBaseUrl="https://a.example")
    check("each variable has the value of its parameter", {name: value for name, value in given.items() if name in PARAMETERS}
          == {name: {"Ref": parameter} for name, parameter in PARAMETERS.items()})
    code = Path("shared/src/config.rs").read_text()
    for name in LITERALS:
        default = re.search(rf'"{name}",\s*"?([^",)]+)', code)
        check(f"{name}: is the code's default: {given[name]}", given[name] == default.group(1).replace("_", ""))
    check("no other variable", given.keys() == {*REQUIRED_VARIABLES, *PARAMETERS, *LITERALS, "SERVICE_NAME"})
    domain = resolve(template, {"DomainName": "a.example"})["Resources"]["ApiDomain"]["Properties"]
    check("a domain needs TLS 1.2 or newer", [c.get("SecurityPolicy") for c in domain["DomainNameConfigurations"]] == ["TLS_1_2"])
    check("by default, finishUrl has the domain of the request", "PUBLIC_BASE_URL" not in variables())
    check("finishUrl uses DomainName", variables(DomainName="a.example")["PUBLIC_BASE_URL"] == {"Sub": "https://${DomainName}"})
    check("PublicBaseUrl takes precedence over DomainName",
          variables(DomainName="a.example", PublicBaseUrl="https://b.example")["PUBLIC_BASE_URL"] == {"Ref": "PublicBaseUrl"})
    for name, p in template["Parameters"].items():
        check(f"{name}: has a description", len(p.get("Description", "")) > 20)
        check(f"{name}: limits its values", p["Type"] == "Number" and "MinValue" in p or {"AllowedPattern", "AllowedValues"} & p.keys())


def main(path, output):
    text = Path(path).read_text()
    template = yaml.load(text, Loader)
    check(f"the template has at most {MOST_LINES} lines: {text.count(chr(10))}", text.count("\n") <= MOST_LINES)
    check(f"the template has at most {MOST_PARAMETERS} parameters", len(template["Parameters"]) <= MOST_PARAMETERS)
    resources, parameters = template["Resources"], template["Parameters"]
    globals_ = template.get("Globals", {}).get("Function", {})

    def of(kind):
        return {name: r for name, r in resources.items() if r["Type"] == kind}

    functions = {f["Metadata"]["BuildProperties"]["Binary"]: f for f in of("AWS::Serverless::Function").values()}
    check("there are exactly the seven functions",
          functions.keys() == PERMISSIONS.keys() and len(of("AWS::Serverless::Function")) == len(PERMISSIONS))

    api_name, api = only(resources, "AWS::Serverless::HttpApi")
    check_routes(api_name, api["Properties"], functions)
    made = deployed(path)
    Path(output).write_text(json.dumps(made, indent=2))
    check_deployed_api(made["Resources"])
    check_deployed_policies(made["Resources"])
    check_deployed_functions(made["Resources"])
    check_tls(parameters)
    check_key_policies(template)
    for way, (given, data) in WAYS.items():
        check_way(way, resolve(template, given), data)
    check_events(template, made["Resources"])
    check_options(template)
    check_samconfig(path, parameters)
    check_alarms(resolve(template, EVENTS), api["Properties"])
    check_queries(resolve(template, EVENTS)["Resources"])
    check_skips()
    check_origins(parameters)
    check_headers(parameters)
    check_base_url(parameters)
    check_texts(parameters)
    check_throttling(api["Properties"])
    check_access_log(api["Properties"], resources)

    table_name, table = only(resources, "AWS::DynamoDB::Table")
    check_table(table)
    secrets = of("AWS::SecretsManager::Secret")
    check_secrets(secrets, parameters)
    for name, resource in {table_name: table, **secrets, **of("AWS::KMS::Key")}.items():
        # the table's deletion protection would fail the roll-back of a first deployment
        policy = "Retain" if name == table_name else "RetainExceptOnCreate"
        check(f"{name}: stays when the stack is deleted, and when it is replaced", (
            resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")) == (policy, "Retain"))

    managed = of("AWS::IAM::ManagedPolicy")
    check("there are no roles or policies other than those checked here", not any(
        r["Type"].startswith("AWS::IAM::") and n not in managed for n, r in resources.items()))
    groups = [check_function(name, functions[name], globals_, resources) for name in functions.keys() & PERMISSIONS.keys()]
    check("every function has a log group of its own", len(set(groups)) == len(groups))
    for name, group in of("AWS::Logs::LogGroup").items():
        check(f"{name}: has the retention of the parameter",
              group.get("Properties", {}).get("RetentionInDays") == {"Ref": "LogRetentionDays"})
    check("each internal route has a policy for its callers, and an output with the policy",
          managed.keys() == {"DataKeyPolicy", "NoLogGroupsPolicy", *CALLER_POLICIES}
          and set(CALLER_POLICIES.values()) == {route for route, (_, who) in ROUTES.items() if who == "AWS_IAM"}
          and all(template["Outputs"][f"{name}Arn"]["Value"] == {"Ref": name} for name in CALLER_POLICIES))

    outputs = template["Outputs"]
    for name in [*of("AWS::Serverless::Function"), *of("AWS::Logs::LogGroup")]:
        output = f"{name}Name" if name.endswith("Function") else name.replace("Logs", "LogGroup")
        check(f"{name}: an output has its name", outputs.get(output, {}).get("Value") == {"Ref": name}
              and outputs[output].get("Condition") == resources[name].get("Condition"))

    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
