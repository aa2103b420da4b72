//! Masks secrets in the events and responses that the console shows. Every mask has the same length.
//!
//! The lists name harmless fields, not secret ones, so an unknown field is masked.

use serde_json::{Map, Value, json};

/// Replaces a secret.
pub const MASK: &str = "••••••••••••";

/// Largest body that is parsed, in bytes. A larger one is masked.
const LONGEST: usize = 64 * 1024;

/// Body fields that are shown.
const FIELDS: [&str; 21] = [
    "clientId",
    "clientUserEmail",
    "clientUserId",
    "code",
    "connectedAt",
    "detail",
    "expiresAt",
    "flow",
    "humanId",
    "id",
    "instance",
    "message",
    "mode",
    "name",
    "requestId",
    "status",
    "title",
    "tokenType",
    "type",
    "updatedAt",
    "userKey",
];

/// Headers that are shown, besides those that begin with `sec-`.
const HEADERS: [&str; 14] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "dnt",
    "host",
    "origin",
    "pragma",
    "retry-after",
    "user-agent",
    "x-content-type-options",
];

/// Masks an event of API Gateway (payload format 2.0).
pub fn event(event: &Value) -> Value {
    let mut event = event.clone();
    let Some(fields) = event.as_object_mut() else { return json!(MASK) };
    for (name, value) in fields.iter_mut() {
        match name.as_str() {
            "body" => *value = text_body(value),
            "headers" => *value = headers(value),
            "cookies" | "queryStringParameters" | "stageVariables" => *value = json!(MASK),
            "rawQueryString" if *value != json!("") => *value = json!(MASK),
            _ => {}
        }
    }
    if let Some(Value::Object(parameters)) = fields.get_mut("pathParameters") {
        parameters.values_mut().for_each(|ticket| *ticket = json!(MASK));
        let route = fields.get("routeKey").and_then(Value::as_str).unwrap_or_default();
        let path = route.split_once(' ').map_or("", |(_, path)| path).replace("{ticket}", MASK);
        fields.insert("rawPath".to_owned(), json!(path));
    }
    event
}

/// Masks a function's response.
pub fn answer(answer: &Value) -> Value {
    let mut answer = answer.clone();
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("cookies");
        for (name, value) in fields.iter_mut() {
            match name.as_str() {
                "body" => *value = text_body(value),
                "headers" => *value = headers(value),
                _ => {}
            }
        }
    }
    answer
}

/// Masks a JSON body.
pub fn body(value: &Value) -> Value {
    field("", value)
}

fn text_body(value: &Value) -> Value {
    match value.as_str() {
        None if value.is_null() => Value::Null,
        Some("") => json!(""),
        Some(text) if text.len() <= LONGEST => match serde_json::from_str::<Value>(text) {
            Ok(read) => json!(body(&read).to_string()),
            // In forms and other formats, no part is known to be harmless.
            Err(_) => json!(MASK),
        },
        _ => json!(MASK),
    }
}

fn headers(value: &Value) -> Value {
    let shown = |(name, value): (&String, &Value)| {
        let harmless = HEADERS.contains(&name.as_str()) || name.starts_with("sec-");
        (name.clone(), if harmless { value.clone() } else { json!(MASK) })
    };
    Value::Object(value.as_object().into_iter().flatten().map(shown).collect())
}

fn field(name: &str, value: &Value) -> Value {
    match value {
        // An empty text is no secret. The popup's create mode has one.
        Value::String(text) if text.is_empty() || FIELDS.contains(&name) => value.clone(),
        // The last segment of this URL is a ticket.
        Value::String(url) if name == "finishUrl" => {
            json!(format!("{}/{MASK}", url.rsplit_once('/').map_or("", |(path, _)| path)))
        }
        Value::String(_) => json!(MASK),
        Value::Array(list) => list.iter().map(|value| field(name, value)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), field(name, value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_shown_without_its_secrets() {
        let seen = event(&json!({
            "routeKey": "POST /connect/finish/{ticket}",
            "rawPath": "/connect/finish/secret",
            "rawQueryString": "secret=1",
            "cookies": ["secret"],
            "headers": {"authorization": "Bearer secret", "x-made-up": "secret", "content-type": "application/json"},
            "pathParameters": {"ticket": "secret"},
            "body": json!({"humanId": "h", "sessionToken": "secret", "other": ["secret", {"deep": "secret"}]}).to_string(),
            "isBase64Encoded": false,
        }));
        assert!(!seen.to_string().contains("secret"), "{seen}");
        assert_eq!(seen["rawPath"], format!("/connect/finish/{MASK}"));
        assert_eq!(seen["headers"]["content-type"], "application/json");
        assert!(seen["body"].as_str().unwrap().contains(r#""humanId":"h""#));
    }

    #[test]
    fn a_body_that_is_not_json_is_masked_entirely() {
        for unread in ["sessionToken=secret", &"9".repeat(LONGEST + 1)] {
            assert_eq!(event(&json!({"body": unread}))["body"], MASK);
        }
        assert_eq!(event(&json!("secret")), MASK);
    }

    #[test]
    fn a_response_is_shown_without_its_tokens_and_its_ticket() {
        let session = json!({"flow": "popup", "publicToken": "", "token": "secret", "expiresIn": 3600,
            "finishUrl": "http://127.0.0.1:3000/connect/finish/secret"});
        let seen =
            answer(&json!({"statusCode": 200, "headers": {}, "cookies": ["secret"], "body": session.to_string()}));
        let read: Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
        let finish_url = format!("http://127.0.0.1:3000/connect/finish/{MASK}");
        let expected =
            json!({"flow": "popup", "publicToken": "", "token": MASK, "expiresIn": 3600, "finishUrl": finish_url});
        assert_eq!(read, expected);
        assert!(!seen.to_string().contains("secret"), "{seen}");
    }
}
