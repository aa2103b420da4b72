//! Who calls, from what API Gateway's authorizer says and from nothing else.

use serde_json::{Map, Value};

use super::event::{Payload, Request};
use super::problem::Problem;
use crate::config::Config;
use crate::identity::UserId;

/// A user whom the authorizer vouches for.
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The user's e-mail address, where the claims have one.
    pub email: Option<String>,
}

/// Which claims name a user.
#[derive(Clone)]
pub struct Claims {
    id: String,
    email: String,
}

impl Claims {
    /// The claims that the configuration names.
    pub fn new(config: &Config) -> Self {
        Self { id: config.user_id_claim.clone(), email: config.user_email_claim.clone() }
    }

    /// The calling user; 401 where the authorizer names none.
    pub fn user(&self, request: &Request) -> Result<User, Problem> {
        let claims = claims(request).ok_or_else(Problem::unauthenticated)?;
        let id = claims.get(&self.id).and_then(Value::as_str).and_then(UserId::new);
        let email = claims.get(&self.email).and_then(Value::as_str);
        let email = email.filter(|email| !email.trim().is_empty());
        Ok(User { id: id.ok_or_else(Problem::unauthenticated)?, email: email.map(str::to_owned) })
    }
}

/// The first shape that is present decides; there is no falling through.
fn claims(request: &Request) -> Option<&Map<String, Value>> {
    let authorizer = request.authorizer.as_ref()?.as_object()?;
    let shape = |name| authorizer.get(name).filter(|shape| !shape.is_null());
    match request.payload {
        Payload::V2 => match (shape("jwt"), shape("lambda")) {
            (Some(jwt), _) => jwt.get("claims")?.as_object(),
            (None, Some(lambda)) => lambda.as_object(),
            (None, None) => None,
        },
        Payload::V1 => match shape("claims") {
            Some(claims) => claims.as_object(),
            None => Some(authorizer),
        },
    }
}

/// The ARN of the AWS identity that calls: `iam` (2.0) or `identity.userArn` (1.0). It may not be one that is let in.
pub fn aws_arn(request: &Request) -> Option<&str> {
    let identity = match request.payload {
        Payload::V2 => request.authorizer.as_ref()?.get("iam")?,
        Payload::V1 => request.identity.as_ref()?,
    };
    identity.get("userArn")?.as_str().filter(|arn| !arn.trim().is_empty())
}

/// Whether IAM let the caller in: 403 for a user's token or a Cognito identity, 401 for nobody.
pub fn require_aws_caller(request: &Request) -> Result<(), Problem> {
    let present = |value: Option<&Value>| value.is_some_and(|value| !value.is_null());
    let authorizer = request.authorizer.as_ref().and_then(Value::as_object);
    let (cognito, user) = match request.payload {
        Payload::V2 => {
            let shape = |name| authorizer.and_then(|authorizer| authorizer.get(name)).filter(|shape| !shape.is_null());
            let iam = shape("iam");
            (
                present(iam.and_then(|iam| iam.get("cognitoIdentity"))),
                authorizer
                    .is_some_and(|authorizer| authorizer.iter().any(|(name, value)| name != "iam" && !value.is_null())),
            )
        }
        Payload::V1 => {
            let identity = |name| request.identity.as_ref().and_then(|identity| identity.get(name));
            (
                present(identity("cognitoIdentityId")),
                // without a user an HTTP API sends the shape with nulls in it
                authorizer.is_some_and(|authorizer| authorizer.values().any(|value| !value.is_null())),
            )
        }
    };
    if cognito || user {
        return Err(Problem::forbidden());
    }
    aws_arn(request).map(drop).ok_or_else(Problem::unauthenticated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(version: &str, context: Value) -> Request {
        Request::read(&json!({"version": version, "requestContext": context}).to_string()).unwrap()
    }

    fn user(version: &str, authorizer: Value) -> Result<String, u16> {
        let claims = Claims { id: "sub".into(), email: "email".into() };
        let user = claims.user(&request(version, json!({"authorizer": authorizer})));
        user.map(|user| user.id.as_str().to_owned()).map_err(|problem| problem.status())
    }

    #[test]
    fn a_user_comes_from_the_four_shapes_and_from_nowhere_else() {
        let ada = || Ok("ada".to_owned());
        assert_eq!(user("2.0", json!({"jwt": {"claims": {"sub": "ada"}}})), ada());
        assert_eq!(user("2.0", json!({"lambda": {"sub": "ada"}})), ada());
        assert_eq!(user("1.0", json!({"claims": {"sub": "ada"}})), ada());
        assert_eq!(user("1.0", json!({"sub": "ada", "principalId": "p"})), ada());
        for (version, authorizer) in [
            ("2.0", json!(null)),
            ("2.0", json!({})),
            ("2.0", json!({"sub": "ada"})),
            ("2.0", json!({"claims": {"sub": "ada"}})),
            ("2.0", json!({"iam": {"sub": "ada", "userArn": "arn"}})),
            ("2.0", json!({"jwt": {"sub": "ada"}})),
            ("1.0", json!({"jwt": {"claims": {"sub": "ada"}}})),
            ("1.0", json!({"lambda": {"sub": "ada"}})),
            ("1.0", json!("ada")),
        ] {
            assert_eq!(user(version, authorizer.clone()), Err(401), "{version} {authorizer}");
        }
    }

    #[test]
    fn the_first_shape_that_is_present_decides() {
        assert_eq!(user("2.0", json!({"jwt": {"claims": {}}, "lambda": {"sub": "ada"}})), Err(401));
        assert_eq!(user("2.0", json!({"jwt": {}, "lambda": {"sub": "ada"}})), Err(401));
        assert_eq!(user("2.0", json!({"jwt": null, "lambda": {"sub": "ada"}})), Ok("ada".to_owned()));
        assert_eq!(user("1.0", json!({"claims": {}, "sub": "ada"})), Err(401));
    }

    #[test]
    fn a_subject_is_a_string_that_is_not_blank_and_not_too_long() {
        for sub in [json!(""), json!("  "), json!(1), json!(["ada"]), json!({}), json!(null), json!("x".repeat(1025))] {
            assert_eq!(user("2.0", json!({"jwt": {"claims": {"sub": sub}}})), Err(401), "{sub}");
        }
    }

    #[test]
    fn an_aws_caller_is_let_in_and_users_are_not() {
        let caller =
            |version, context| require_aws_caller(&request(version, context)).map_err(|problem| problem.status());
        let iam = |cognito: Value| json!({"authorizer": {"iam": {"userArn": "arn:x", "cognitoIdentity": cognito}}});
        assert_eq!(caller("2.0", iam(Value::Null)), Ok(()));
        assert_eq!(caller("1.0", json!({"identity": {"userArn": "arn:x", "cognitoIdentityId": null}})), Ok(()));
        let nulls = json!({"authorizer": {"claims": null, "scopes": null}, "identity": {"userArn": "arn:x"}});
        assert_eq!(caller("1.0", nulls), Ok(()));
        assert_eq!(caller("2.0", iam(json!({"identityId": "i"}))), Err(403));
        assert_eq!(caller("1.0", json!({"identity": {"userArn": "arn:x", "cognitoIdentityId": "i"}})), Err(403));
        assert_eq!(caller("2.0", json!({"authorizer": {"jwt": {"claims": {"sub": "ada"}}}})), Err(403));
        assert_eq!(caller("2.0", json!({"authorizer": {"jwt": {}, "iam": {"userArn": "arn:x"}}})), Err(403));
        assert_eq!(
            caller("1.0", json!({"authorizer": {"claims": {"sub": "ada"}}, "identity": {"userArn": "arn:x"}})),
            Err(403)
        );
        assert_eq!(caller("2.0", json!({})), Err(401));
        assert_eq!(caller("2.0", json!({"authorizer": {"iam": {}}})), Err(401));
        assert_eq!(caller("2.0", json!({"identity": {"userArn": "arn:x"}})), Err(401));
        assert_eq!(caller("1.0", json!({"identity": {"userArn": ""}})), Err(401));
    }
}
