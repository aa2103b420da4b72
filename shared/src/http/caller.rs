//! Callers: API Gateway's authorizer names them, and nothing else does.

use lambda_http::{Request, RequestExt, request::RequestContext};
use serde_json::Value;
use tracing::warn;

use super::{Code, Problem, body::Fields};
use crate::config::Config;
use crate::identity::{EmailAddress, UserId};
use crate::invocation::Invocation;

/// `identity.apiKey` of a test call from a REST API's console. Its `userArn` is the console user's.
/// Source: API Gateway's mapping template reference, `$context.identity.apiKey`.
const CONSOLE_TEST_KEY: &str = "test-invoke-api-key";

/// A user whom the authorizer vouches for.
pub struct User {
    pub id: UserId,
    pub email: Option<EmailAddress>,
}

/// The names of the claims that identify a user.
pub struct Claims {
    id: String,
    email: String,
}

impl Claims {
    pub fn new(config: &Config) -> Self {
        Self { id: config.user_id_claim.clone(), email: config.user_email_claim.clone() }
    }

    /// The calling user; 401 if the authorizer names none. One log line then says why, without the claim's value.
    pub fn user(&self, request: &Request) -> Result<User, Problem> {
        let id = user_id(claim(request, &self.id).as_ref()).map_err(|reason| {
            warn!(claim = self.id, reason, "the authorizer names no user");
            Problem::unauthenticated()
        })?;
        Ok(User { id, email: claim(request, &self.email).as_ref().and_then(email_address) })
    }
}

/// A claim of the authorizer's context. The first shape that is present decides. An HTTP API (2.0) has `jwt` or `lambda`.
/// A REST API (1.0) has Cognito's `claims`, or a Lambda authorizer's context at the top level.
fn claim(request: &Request, name: &str) -> Option<Value> {
    let value = match request.request_context_ref()? {
        RequestContext::ApiGatewayV2(context) => {
            let authorizer = context.authorizer.as_ref()?;
            match &authorizer.jwt {
                Some(jwt) => jwt.claims.get(name).cloned().map(Value::String),
                None => authorizer.fields.get(name).cloned(),
            }
        }
        RequestContext::ApiGatewayV1(context) => {
            let fields = &context.authorizer.fields;
            match fields.get("claims").filter(|claims| !claims.is_null()) {
                Some(claims) => claims.get(name).cloned(),
                None => fields.get(name).cloned(),
            }
        }
        _ => None,
    };
    value.filter(|value| !value.is_null())
}

/// The user ID, or the reason why the claim is none.
fn user_id(claim: Option<&Value>) -> Result<UserId, &'static str> {
    let id = claim.ok_or("absent")?.as_str().ok_or("not a string")?;
    UserId::new(id).ok_or(if id.trim().is_empty() { "blank" } else { "too long" })
}

/// The address in an e-mail claim. Some issuers (Azure AD B2C) send a list. API Gateway passes a list on as a JSON array,
/// or as text: `[a@b.c]` or `["a@b.c"]`. A list of one element counts as its element.
fn email_address(claim: &Value) -> Option<EmailAddress> {
    match claim {
        Value::Array(list) => match list.as_slice() {
            [only] => EmailAddress::parse(only.as_str()?),
            _ => None,
        },
        Value::String(text) => {
            if let Ok([only]) = serde_json::from_str::<[String; 1]>(text) {
                return EmailAddress::parse(&only);
            }
            match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
                Some(only) => EmailAddress::parse(only).filter(|_| !only.contains('"')),
                None => EmailAddress::parse(text),
            }
        }
        _ => None,
    }
}

/// The body of an `/internal/` route's request, and the user whom it names. Only another backend may name a user.
pub fn backend_request(request: &Request, invocation: &Invocation) -> Result<(UserId, Fields), Problem> {
    if let Some(arn) = aws_arn(request) {
        // a refused caller is audited too
        invocation.set_caller(arn);
    }
    require_aws_caller(request)?;
    let fields = Fields::json(request)?;
    let user = fields.user_id("clientUserId")?;
    invocation.set_user(&user);
    Ok((user, fields))
}

/// The ARN of the AWS identity that calls. [`require_aws_caller`] decides whether IAM let it in.
fn aws_arn(request: &Request) -> Option<&str> {
    let arn = match request.request_context_ref()? {
        RequestContext::ApiGatewayV2(context) => context.authorizer.as_ref()?.iam.as_ref()?.user_arn.as_deref(),
        RequestContext::ApiGatewayV1(context) => context.identity.user_arn.as_deref(),
        _ => None,
    };
    arn.filter(|arn| !arn.trim().is_empty())
}

/// Refuses a user's token, a Cognito identity and the console's test with 403, and a request without a caller with 401.
fn require_aws_caller(request: &Request) -> Result<(), Problem> {
    let forbidden = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.authorizer.as_ref().is_some_and(|authorizer| {
            let cognito = authorizer.iam.as_ref().is_some_and(|iam| iam.cognito_identity.is_some());
            cognito || authorizer.jwt.is_some() || !authorizer.fields.is_empty()
        }),
        Some(RequestContext::ApiGatewayV1(context)) => {
            let identity = &context.identity;
            // an HTTP API that sends 1.0 has a shape of nulls if there is no user
            let user = context.authorizer.fields.values().any(|value| !value.is_null());
            user || identity.cognito_identity_id.is_some() || identity.api_key.as_deref() == Some(CONSOLE_TEST_KEY)
        }
        _ => false,
    };
    if forbidden {
        return Err(Problem::new(Code::Forbidden, "this route is for other backends, by IAM"));
    }
    aws_arn(request).map(drop).ok_or_else(Problem::unauthenticated)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A request with this context, as API Gateway would complete it.
    pub(in crate::http) fn request(version: &str, context: Value) -> Request {
        decode(version, context).unwrap()
    }

    /// The same; `None` if `lambda_http` cannot decode the event. The functions then answer 400.
    fn decode(version: &str, mut context: Value) -> Option<Request> {
        let event = if version == "2.0" {
            context["http"]["method"] = json!("POST");
            json!({"version": version, "rawPath": "/evil/a", "requestContext": context})
        } else {
            context["httpMethod"] = json!("POST");
            json!({"version": version, "httpMethod": "POST", "path": "/evil/a", "requestContext": context})
        };
        lambda_http::request::from_str(&event.to_string()).ok()
    }

    fn user(version: &str, authorizer: &Value) -> Result<String, u16> {
        let claims = Claims { id: "sub".into(), email: "email".into() };
        let request = decode(version, json!({"authorizer": authorizer})).ok_or(400_u16)?;
        let user = claims.user(&request);
        user.map(|user| user.id.as_str().to_owned()).map_err(|problem| problem.status())
    }

    #[test]
    fn a_user_comes_from_the_first_of_four_shapes_and_from_nowhere_else() {
        let ada = || Ok("ada".to_owned());
        for (version, authorizer, expected) in [
            ("2.0", json!({"jwt": {"claims": {"sub": "ada"}}}), ada()),
            ("2.0", json!({"lambda": {"sub": "ada"}}), ada()),
            ("1.0", json!({"claims": {"sub": "ada"}}), ada()),
            ("1.0", json!({"sub": "ada", "principalId": "p"}), ada()),
            ("2.0", json!(null), Err(401)),
            ("2.0", json!({}), Err(401)),
            ("2.0", json!({"sub": "ada"}), Err(401)),
            ("2.0", json!({"claims": {"sub": "ada"}}), Err(401)),
            ("2.0", json!({"iam": {"sub": "ada", "userArn": "arn"}}), Err(401)),
            ("2.0", json!({"jwt": {"sub": "ada"}}), Err(401)),
            ("1.0", json!({"jwt": {"claims": {"sub": "ada"}}}), Err(401)),
            ("1.0", json!({"lambda": {"sub": "ada"}}), Err(401)),
            ("1.0", json!("ada"), Err(400)),
            ("2.0", json!({"jwt": {"claims": {}}, "lambda": {"sub": "ada"}}), Err(401)),
            ("2.0", json!({"jwt": {}, "lambda": {"sub": "ada"}}), Err(401)),
            ("2.0", json!({"jwt": null, "lambda": {"sub": "ada"}}), ada()),
            ("1.0", json!({"claims": {}, "sub": "ada"}), Err(401)),
        ] {
            assert_eq!(user(version, &authorizer), expected, "{version} {authorizer}");
        }
    }

    #[test]
    fn a_refused_user_id_has_a_reason() {
        for (sub, reason) in [
            (json!(""), Some("blank")),
            (json!("  "), Some("blank")),
            (json!(" \t"), Some("blank")),
            (json!(4711), Some("not a string")),
            (json!(["ada"]), Some("not a string")),
            (json!({}), Some("not a string")),
            (json!(null), Some("absent")),
            (json!("x".repeat(1025)), Some("too long")),
            (json!("x".repeat(1024)), None),
        ] {
            let claim = Some(&sub).filter(|sub| !sub.is_null());
            assert_eq!(user_id(claim).err(), reason, "{sub}");
            let status = |expected: u16| reason.map(|_| expected);
            assert_eq!(user("2.0", &json!({"lambda": {"sub": sub}})).err(), status(401), "{sub}");
            let undecodable = if sub.is_string() { 401 } else { 400 };
            assert_eq!(user("2.0", &json!({"jwt": {"claims": {"sub": sub}}})).err(), status(undecodable), "{sub}");
        }
    }

    #[test]
    fn an_email_claim_is_an_address_or_a_list_of_one_address() {
        let claims = Claims { id: "sub".into(), email: "emails".into() };
        let check = |emails: &Value, expected: Option<&str>| {
            let context = json!({"sub": "ada", "emails": emails});
            let mut shapes = vec![
                ("2.0", json!({"lambda": context})),
                ("1.0", json!({"claims": context})),
                ("1.0", context.clone()),
            ];
            if emails.is_string() {
                shapes.push(("2.0", json!({"jwt": {"claims": context}})));
            }
            for (version, authorizer) in shapes {
                let user = claims.user(&request(version, json!({"authorizer": authorizer}))).unwrap();
                assert_eq!(user.email.as_ref().map(EmailAddress::as_str), expected, "{authorizer}");
            }
        };
        let good = json!([
            "ada@example.test",
            "[ada@example.test]",
            r#"["ada@example.test"]"#,
            r#"["ada\u0040example.test"]"#,
            ["ada@example.test"],
        ]);
        let bad = json!([
            null, true, {"0": "ada@example.test"}, [], [4711], ["ada@example.test", "bob@example.test"],
            [["ada@example.test"]], "[]", "[ada@example.test bob@example.test]", "[ada@example.test,bob@example.test]",
            r#"["ada@example.test","bob@example.test"]"#, "[[ada@example.test]]", "[\"ada@example.test]",
            "[ada@example.test", "ada", "",
        ]);
        good.as_array().unwrap().iter().for_each(|emails| check(emails, Some("ada@example.test")));
        bad.as_array().unwrap().iter().for_each(|emails| check(emails, None));
    }

    #[test]
    fn an_aws_caller_is_let_in_and_users_are_not() {
        let iam = |cognito: Value| json!({"authorizer": {"iam": {"userArn": "arn:x", "cognitoIdentity": cognito}}});
        for (version, context, expected) in [
            ("2.0", iam(Value::Null), Ok(())),
            ("1.0", json!({"identity": {"userArn": "arn:x", "cognitoIdentityId": null}}), Ok(())),
            ("1.0", json!({"authorizer": {"claims": null, "scopes": null}, "identity": {"userArn": "arn:x"}}), Ok(())),
            ("1.0", json!({"identity": {"userArn": "arn:x", "apiKey": "made-up-key"}}), Ok(())),
            ("1.0", json!({"identity": {"userArn": "arn:x", "apiKey": "test-invoke-api-key"}}), Err(403)),
            ("2.0", iam(json!({"identityId": "i", "amr": []})), Err(403)),
            ("1.0", json!({"identity": {"userArn": "arn:x", "cognitoIdentityId": "i"}}), Err(403)),
            ("2.0", json!({"authorizer": {"jwt": {"claims": {"sub": "ada"}}}}), Err(403)),
            ("2.0", json!({"authorizer": {"jwt": {}, "iam": {"userArn": "arn:x"}}}), Err(403)),
            ("1.0", json!({"authorizer": {"claims": {"sub": "a"}}, "identity": {"userArn": "arn:x"}}), Err(403)),
            ("2.0", json!({}), Err(401)),
            ("2.0", json!({"authorizer": {"iam": {}}}), Err(401)),
            ("2.0", json!({"identity": {"userArn": "arn:x"}}), Err(401)),
            ("1.0", json!({"identity": {"userArn": ""}}), Err(401)),
        ] {
            let caller = require_aws_caller(&request(version, context.clone())).map_err(|problem| problem.status());
            assert_eq!(caller, expected, "{version} {context}");
        }
    }
}
