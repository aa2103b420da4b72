//! Answers as Human API's guides write them, checked for form before anything is believed.

use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use super::{Cause, Failure};
use crate::token::{AccessToken, PublicToken, RefreshToken, StartToken};

/// Longer fields of an answer are nonsense: no id or token comes near.
const FIELD_LIMIT: usize = 8 * 1024;
/// A longer `Retry-After` is as good as this one: nobody waits so long here.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The answer to a popup's exchange. Whose it is, is for the caller to check.
pub struct Exchanged {
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
pub struct Recovered {
    /// Human API's id of the user.
    pub human_id: String,
    /// For the popup's edit mode.
    pub public: PublicToken,
}

/// The answer to `type: "session"` or `"id"`.
pub struct Started {
    /// Opens the widget.
    pub token: StartToken,
    /// Comes with an id token.
    pub refresh: Option<RefreshToken>,
    /// Comes with a session token: Human API itself ties it to the user.
    pub human_id: Option<String>,
    /// How long the token lasts.
    pub expires_in: Duration,
}

/// The answer to `type: "access"`.
pub struct Granted {
    /// For the user's health data.
    pub access: AccessToken,
    /// Kept, not used.
    pub refresh: Option<RefreshToken>,
    /// How long the token lasts, where Human API says so.
    pub expires_in: Option<Duration>,
}

impl Exchanged {
    /// Reads the answer to `POST /v1/connect/tokens`.
    pub fn read(answer: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            human_id: String,
            access_token: String,
            public_token: String,
            client_user_id: String,
        }
        let answer: Answer = parse(answer)?;
        Ok(Self {
            human_id: text(answer.human_id)?,
            client_user_id: text(answer.client_user_id)?,
            access: AccessToken::new(token(answer.access_token)?),
            public: PublicToken::new(token(answer.public_token)?),
        })
    }
}

impl Recovered {
    /// Reads the answer to `POST /v1/connect/publictokens`.
    pub fn read(answer: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            human_id: String,
            public_token: String,
        }
        let answer: Answer = parse(answer)?;
        Ok(Self { human_id: text(answer.human_id)?, public: PublicToken::new(token(answer.public_token)?) })
    }
}

impl Started {
    /// Reads the answer to `type: "session"`.
    pub fn read_session(answer: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            session_token: String,
            human_id: Option<String>,
            #[serde(deserialize_with = "seconds")]
            expires_in: Duration,
        }
        let answer: Answer = parse(answer)?;
        Ok(Self {
            token: StartToken::new(token(answer.session_token)?),
            refresh: None,
            human_id: answer.human_id.map(text).transpose()?,
            expires_in: answer.expires_in,
        })
    }

    /// Reads the answer to `type: "id"`.
    pub fn read_id(answer: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            id_token: String,
            #[serde(default)]
            id_refresh_token: Value,
            #[serde(deserialize_with = "seconds")]
            expires_in: Duration,
        }
        let answer: Answer = parse(answer)?;
        Ok(Self {
            token: StartToken::new(token(answer.id_token)?),
            refresh: refresh_token(&answer.id_refresh_token),
            human_id: None,
            expires_in: answer.expires_in,
        })
    }
}

impl Granted {
    /// Reads the answer to `type: "access"`.
    pub fn read(answer: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            #[serde(default)]
            refresh_token: Value,
            #[serde(default, deserialize_with = "optional_seconds")]
            expires_in: Option<Duration>,
        }
        let answer: Answer = parse(answer)?;
        Ok(Self {
            access: AccessToken::new(token(answer.access_token)?),
            refresh: refresh_token(&answer.refresh_token),
            expires_in: answer.expires_in,
        })
    }
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|_| Cause::Invalid("is not the documented JSON").with(true))
}

fn text(field: String) -> Result<String, Failure> {
    match field.len() {
        0 => Err(Cause::Invalid("has an empty field").with(true)),
        length if length > FIELD_LIMIT => Err(Cause::Invalid("has an over-long field").with(true)),
        _ => Ok(field),
    }
}

/// Tokens travel in headers and URLs: anything but visible ASCII in one is nonsense, or an attack on whoever sends it on.
fn token(field: String) -> Result<String, Failure> {
    if field.bytes().all(|byte| byte.is_ascii_graphic()) {
        text(field)
    } else {
        Err(Cause::Invalid("has a token that no header could carry").with(true))
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

/// Whether a refusal's `validation.keys` name the user's e-mail address.
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
            assert!(Granted::read(format!(r#"{{"access_token":"{token}"}}"#).as_bytes()).is_err(), "{token}");
        }
        assert!(Granted::read(br#"{"access_token":"made-up.Token_1~+/="}"#).is_ok());
    }

    #[test]
    fn a_life_is_a_number_or_a_number_as_text() {
        let life = |expires_in: &str| {
            let body =
                format!(r#"{{"access_token":"t","session_token":"t","id_token":"t","expires_in":{expires_in}}}"#);
            let access = Granted::read(body.as_bytes()).ok().and_then(|answer| answer.expires_in);
            let session = Started::read_session(body.as_bytes()).ok().map(|answer| answer.expires_in);
            let id = Started::read_id(body.as_bytes()).ok().map(|answer| answer.expires_in);
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
        let unknown = Granted::read(br#"{"access_token":"t","expires_in":null}"#).unwrap();
        assert!(unknown.expires_in.is_none());
        assert!(Granted::read(br#"{"access_token":"t","expires_in":"soon"}"#).is_err());
    }

    #[test]
    fn a_refresh_token_in_another_form_costs_nothing() {
        for refresh in ["null", "1", "\"\"", "\"made up\"", "[]", "{}"] {
            let answer = format!(r#"{{"access_token":"t","refresh_token":{refresh}}}"#);
            assert!(Granted::read(answer.as_bytes()).unwrap().refresh.is_none(), "{refresh}");
        }
        let answer = Granted::read(br#"{"access_token":"t","refresh_token":"made-up"}"#).unwrap();
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
