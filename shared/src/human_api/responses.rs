//! Responses as Human API's guides write them. Their form is checked before anything is believed.

use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use super::{Cause, Failure};
use crate::token::{AccessToken, PublicToken, RefreshToken, WidgetToken};

/// Longer fields of an answer are nonsense: no id or token comes near.
const FIELD_LIMIT: usize = 8 * 1024;
/// A longer `Retry-After` is as good as this one: nobody waits so long here.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The answer to a popup's exchange. Whose it is, is for the caller to check.
pub struct ExchangeResponse {
    /// Human API's id of the user.
    pub human_id: String,
    /// Our id of the user, as Human API has it.
    pub client_user_id: String,
    /// For the user's health data.
    pub access: AccessToken,
    /// For the popup's edit mode.
    pub public: PublicToken,
}

/// The answer to a question for a publicToken.
pub struct PublicTokenResponse {
    /// Human API's id of the user.
    pub human_id: String,
    /// For the popup's edit mode.
    pub public: PublicToken,
}

/// The answer to `type: "session"` or `"id"`.
pub struct WidgetTokenResponse {
    /// Opens the widget.
    pub token: WidgetToken,
    /// Comes with an id token.
    pub refresh: Option<RefreshToken>,
    /// Comes with a session token: Human API itself ties it to the user.
    pub human_id: Option<String>,
    /// How long the token lasts.
    pub expires_in: Duration,
}

/// The answer to `type: "access"`.
pub struct AccessResponse {
    /// For the user's health data.
    pub access: AccessToken,
    /// Kept, not used.
    pub refresh: Option<RefreshToken>,
    /// How long the token lasts, where Human API says so.
    pub expires_in: Option<Duration>,
}

impl ExchangeResponse {
    /// Reads the answer to `POST /v1/connect/tokens`.
    pub fn read(body: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            human_id: String,
            access_token: String,
            public_token: String,
            client_user_id: String,
        }
        let body: Body = parse(body)?;
        Ok(Self {
            human_id: text(body.human_id)?,
            client_user_id: text(body.client_user_id)?,
            access: AccessToken::new(token(body.access_token)?),
            public: PublicToken::new(token(body.public_token)?),
        })
    }
}

impl PublicTokenResponse {
    /// Reads the answer to `POST /v1/connect/publictokens`.
    pub fn read(body: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            human_id: String,
            public_token: String,
        }
        let body: Body = parse(body)?;
        Ok(Self { human_id: text(body.human_id)?, public: PublicToken::new(token(body.public_token)?) })
    }
}

impl WidgetTokenResponse {
    /// Reads the answer to `type: "session"`.
    pub fn read_session(body: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Body {
            session_token: String,
            human_id: Option<String>,
            #[serde(deserialize_with = "seconds")]
            expires_in: Duration,
        }
        let body: Body = parse(body)?;
        Ok(Self {
            token: WidgetToken::new(token(body.session_token)?),
            refresh: None,
            human_id: body.human_id.map(text).transpose()?,
            expires_in: body.expires_in,
        })
    }

    /// Reads the answer to `type: "id"`.
    pub fn read_id(body: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Body {
            id_token: String,
            #[serde(default)]
            id_refresh_token: Value,
            #[serde(deserialize_with = "seconds")]
            expires_in: Duration,
        }
        let body: Body = parse(body)?;
        Ok(Self {
            token: WidgetToken::new(token(body.id_token)?),
            refresh: refresh_token(&body.id_refresh_token),
            human_id: None,
            expires_in: body.expires_in,
        })
    }
}

impl AccessResponse {
    /// Reads the answer to `type: "access"`.
    pub fn read(body: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Body {
            access_token: String,
            #[serde(default)]
            refresh_token: Value,
            #[serde(default, deserialize_with = "optional_seconds")]
            expires_in: Option<Duration>,
        }
        let body: Body = parse(body)?;
        Ok(Self {
            access: AccessToken::new(token(body.access_token)?),
            refresh: refresh_token(&body.refresh_token),
            expires_in: body.expires_in,
        })
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|_| Cause::Invalid("is not the documented JSON").maybe_performed())
}

fn text(field: String) -> Result<String, Failure> {
    match field.len() {
        0 => Err(Cause::Invalid("has an empty field").maybe_performed()),
        length if length > FIELD_LIMIT => Err(Cause::Invalid("has an over-long field").maybe_performed()),
        _ => Ok(field),
    }
}

/// Tokens travel in headers and URLs: anything but visible ASCII in one is nonsense, or an attack on whoever sends it on.
fn token(field: String) -> Result<String, Failure> {
    if field.bytes().all(|byte| byte.is_ascii_graphic()) {
        text(field)
    } else {
        Err(Cause::Invalid("has a token that no header could carry").maybe_performed())
    }
}

/// Refresh tokens are not used: one in another form is dropped, and costs the user nothing.
fn refresh_token(field: &Value) -> Option<RefreshToken> {
    token(field.as_str()?.to_owned()).ok().map(RefreshToken::new)
}

/// `expires_in`: a number of seconds, or the same as text. A fraction of a second is dropped.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    optional_seconds(deserializer)?.ok_or_else(|| D::Error::custom("expires_in is missing"))
}

fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let number = match Value::deserialize(deserializer)? {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let seconds = number.filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
    // the cast saturates
    seconds.map(|seconds| Some(Duration::from_secs(seconds as u64))).ok_or_else(|| D::Error::custom("expires_in"))
}

/// A refusal's `validation.keys` name the user's e-mail address.
pub(super) fn rejects_address(refusal: &[u8]) -> bool {
    let refusal: Value = serde_json::from_slice(refusal).unwrap_or_default();
    let keys = refusal.pointer("/validation/keys").and_then(Value::as_array);
    keys.is_some_and(|keys| keys.iter().any(|key| key == "client_user_email"))
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
pub fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = OffsetDateTime::parse(value, &Rfc2822).ok()? - OffsetDateTime::now_utc();
            until.try_into().unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_no_header_could_carry_is_no_token() {
        for token in ["", "  ", "made up", "made-up\\r\\nX-Injected: 1", "made-üp", "made-up\\u0000"] {
            assert!(AccessResponse::read(format!(r#"{{"access_token":"{token}"}}"#).as_bytes()).is_err(), "{token}");
        }
        assert!(AccessResponse::read(br#"{"access_token":"made-up.Token_1~+/="}"#).is_ok());
    }

    #[test]
    fn a_life_is_a_number_or_a_number_as_text() {
        let life = |expires_in: &str| {
            let body =
                format!(r#"{{"access_token":"t","session_token":"t","id_token":"t","expires_in":{expires_in}}}"#);
            let access = AccessResponse::read(body.as_bytes()).ok().and_then(|answer| answer.expires_in);
            let session = WidgetTokenResponse::read_session(body.as_bytes()).ok().map(|answer| answer.expires_in);
            let id = WidgetTokenResponse::read_id(body.as_bytes()).ok().map(|answer| answer.expires_in);
            assert_eq!((access, session), (session, id), "{expires_in}");
            access.map(|life| life.as_secs())
        };
        for good in ["86400", "\"86400\"", "\" 86400 \"", "86400.0", "86400.9", "\"86400.0\"", "8.64e4"] {
            assert_eq!(life(good), Some(86_400), "{good}");
        }
        assert_eq!((life("0"), life("1e300")), (Some(0), Some(u64::MAX)));
        for bad in ["-1", "\"\"", "\"soon\"", "\"-1\"", "\"NaN\"", "\"inf\"", "true", "[86400]", "{}"] {
            assert_eq!(life(bad), None, "{bad}");
        }
        let unknown = AccessResponse::read(br#"{"access_token":"t","expires_in":null}"#).unwrap();
        assert!(unknown.expires_in.is_none());
        assert!(AccessResponse::read(br#"{"access_token":"t","expires_in":"soon"}"#).is_err());
    }

    #[test]
    fn a_refresh_token_in_another_form_costs_nothing() {
        for refresh in ["null", "1", "\"\"", "\"made up\"", "[]", "{}"] {
            let answer = format!(r#"{{"access_token":"t","refresh_token":{refresh}}}"#);
            assert!(AccessResponse::read(answer.as_bytes()).unwrap().refresh.is_none(), "{refresh}");
        }
        let answer = AccessResponse::read(br#"{"access_token":"t","refresh_token":"made-up"}"#).unwrap();
        assert!(answer.refresh.is_some());
    }

    #[test]
    fn a_refusal_names_the_address_by_validation_keys_only() {
        assert!(rejects_address(
            br#"{"statusCode":400,"validation":{"source":"body","keys":["x","client_user_email"]}}"#
        ));
        for other in [
            "",
            "null",
            "[]",
            r#"{"message":"client_user_email"}"#,
            r#"{"validation":{"keys":["client_user_id"]}}"#,
            r#"{"validation":{"keys":"client_user_email"}}"#,
            r#"{"validation":"client_user_email"}"#,
        ] {
            assert!(!rejects_address(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date_and_never_too_long() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("18446744073709551615"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after("Fri, 31 Dec 9999 23:59:59 GMT"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-1"), None);
    }
}
