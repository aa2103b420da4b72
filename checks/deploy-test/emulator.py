"""ministack, extended by the CloudFormation features that this template needs and ministack lacks. docs/deploy-test.md lists them."""

from ministack import app
from ministack.services import apigateway
from ministack.services.cloudformation import provisioners

HANDLERS = provisioners._RESOURCE_HANDLERS


def nothing(logical_id, _props, stack_name):
    return f"{stack_name}-{logical_id}", {}


# ministack does not know these types. They become part of the stack, but nothing is created for them.
for kind in ("AWS::Logs::QueryDefinition",):
    HANDLERS[kind] = {"create": nothing, "update": lambda physical_id, *_, **__: (physical_id, {}), "delete": lambda *_: None}


# ministack does not support an alarm on an expression either.
alarm = HANDLERS["AWS::CloudWatch::Alarm"].copy()


def expression(name):
    return name, {"Arn": f"arn:aws:cloudwatch:us-east-1:000000000000:alarm:{name}"}


HANDLERS["AWS::CloudWatch::Alarm"].update(
    create=lambda logical_id, props, stack_name: expression(f"{stack_name}-{logical_id}") if "Metrics" in props
    else alarm["create"](logical_id, props, stack_name),
    update=lambda name, old, new, *args, **more: expression(name) if "Metrics" in new
    else alarm["update"](name, old, new, *args, **more),
    delete=lambda name, props: None if "Metrics" in props else alarm["delete"](name, props),
)


# !Ref of a secret must return its ARN, not its name, because policies contain the ARN.
def with_arn(made):
    _name, attributes = made
    return attributes["Arn"], attributes


def name_of(arn):
    return next(name for name, secret in provisioners._sm._secrets.items() if secret["ARN"] == arn)


secret = HANDLERS["AWS::SecretsManager::Secret"].copy()
HANDLERS["AWS::SecretsManager::Secret"].update(
    create=lambda *args: with_arn(secret["create"](*args)),
    update=lambda arn, *args, **more: with_arn(secret["update"](name_of(arn), *args, **more)),
    delete=lambda arn, props: secret["delete"](name_of(arn), props),
)


# SAM writes routes, authorizers and CORS into the Body of an HTTP API.
def read_body(api_id, body):
    for store in (apigateway._authorizers, apigateway._integrations, apigateway._routes):
        store[api_id] = {}
    if cors := body.get("x-amazon-apigateway-cors"):
        apigateway._apis[api_id]["corsConfiguration"] = cors
    guards = {"NONE": {"AuthorizationType": "NONE"}}
    for name, scheme in body["components"]["securitySchemes"].items():
        if scheme.get("x-amazon-apigateway-authtype") == "awsSigv4":
            guards[name] = {"AuthorizationType": "AWS_IAM"}
        else:
            authorizer = scheme["x-amazon-apigateway-authorizer"]
            jwt = authorizer["jwtConfiguration"]
            made, _ = provisioners._apigw_v2_authorizer_create(name, {
                "ApiId": api_id, "AuthorizerType": authorizer["type"].upper(), "IdentitySource": [authorizer["identitySource"]],
                "JwtConfiguration": {"Issuer": jwt["issuer"], "Audience": jwt["audience"]}}, "")
            guards[name] = {"AuthorizationType": "JWT", "AuthorizerId": made}
    for path, item in body["paths"].items():
        for method, operation in item.items():
            integration = operation["x-amazon-apigateway-integration"]
            target, _ = provisioners._apigw_v2_integration_create("", {
                "ApiId": api_id, "IntegrationType": integration["type"].upper(), "IntegrationUri": integration["uri"],
                "IntegrationMethod": integration["httpMethod"],
                "PayloadFormatVersion": integration["payloadFormatVersion"]}, "")
            (guard,), = operation.get("security", [{"NONE": []}])
            provisioners._apigw_v2_route_create("", {
                "ApiId": api_id, "RouteKey": f"{method.upper()} {path}", "Target": f"integrations/{target}", **guards[guard]}, "")


def create_api(logical_id, props, stack_name):
    api_id, attributes = api["create"](logical_id, props, stack_name)
    read_body(api_id, props["Body"])
    return api_id, attributes


def update_api(physical_id, old_props, new_props, *args, **more):
    api_id, attributes = api["update"](physical_id, old_props, new_props, *args, **more)
    read_body(api_id, new_props["Body"])
    return api_id, attributes


api = HANDLERS["AWS::ApiGatewayV2::Api"].copy()
HANDLERS["AWS::ApiGatewayV2::Api"].update(create=create_api, update=update_api)

if __name__ == "__main__":
    app.main()
