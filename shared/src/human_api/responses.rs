//! Responses as Human API's guides write them. Serde checks their form.

use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use super::{Cause, Failure};
use crate::token::{AccessToken, PublicToken, RefreshToken, WidgetToken};

/// Longest ID or token, in bytes. None that Human API documents comes near.
const FIELD_LIMIT: usize = 8 * 1024;
/// A longer `Retry-After` counts as this: nobody waits so long here.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The response to a popup's exchange. The caller checks which user it is about.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeResponse {
    #[serde(deserialize_with = "text")]
    pub human_id: String,
    /// Our ID of the user, as Human API has it.
    #[serde(deserialize_with = "text")]
    pub client_user_id: String,
    #[serde(deserialize_with = "token")]
    pub access_token: AccessToken,
    #[serde(deserialize_with = "token")]
    pub public_token: PublicToken,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicTokenResponse {
    #[serde(deserialize_with = "text")]
    pub human_id: String,
    #[serde(deserialize_with = "token")]
    pub public_token: PublicToken,
}

#[derive(Deserialize)]
pub struct SessionResponse {
    #[serde(deserialize_with = "token")]
    pub session_token: WidgetToken,
    /// Human API itself ties it to the user.
    #[serde(default, deserialize_with = "optional_text")]
    pub human_id: Option<String>,
    #[serde(deserialize_with = "seconds")]
    pub expires_in: Duration,
}

#[derive(Deserialize)]
pub struct IdResponse {
    #[serde(deserialize_with = "token")]
    pub id_token: WidgetToken,
    #[serde(default, deserialize_with = "refresh_token")]
    pub id_refresh_token: Option<RefreshToken>,
    #[serde(deserialize_with = "seconds")]
    pub expires_in: Duration,
}

#[derive(Deserialize)]
pub struct AccessResponse {
    #[serde(deserialize_with = "token")]
    pub access_token: AccessToken,
    #[serde(default, deserialize_with = "refresh_token")]
    pub refresh_token: Option<RefreshToken>,
    #[serde(default, deserialize_with = "optional_seconds")]
    pub expires_in: Option<Duration>,
}

/// Reads the body of a success.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    // serde reads a struct from an array too
    let object = Some(body).filter(|body| body.trim_ascii_start().starts_with(b"{"));
    // serde's error is not logged: it can quote a token
    let response = object.and_then(|body| serde_json::from_slice(body).ok());
    response.ok_or_else(|| Cause::Invalid("is not the documented JSON").maybe_performed())
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    optional_text(deserializer)?.ok_or_else(|| D::Error::custom("a text is missing"))
}

fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    match text.as_ref().map_or(1, String::len) {
        1..=FIELD_LIMIT => Ok(text),
        _ => Err(D::Error::custom("a text is empty or too long")),
    }
}

/// Tokens travel in headers and URLs, so a token is visible ASCII.
fn token<'de, D: Deserializer<'de>, T: From<String>>(deserializer: D) -> Result<T, D::Error> {
    let text = text(deserializer)?;
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.into()),
        false => Err(D::Error::custom("no header can carry this token")),
    }
}

/// Refresh tokens are not used: one in another form is dropped, and costs the user nothing.
fn refresh_token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RefreshToken>, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    Ok(token(&mut serde_json::Deserializer::from_str(text.get())).ok())
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

    fn access(body: &str) -> Result<AccessResponse, Failure> {
        read(body.as_bytes())
    }

    #[test]
    fn a_token_that_no_header_could_carry_is_no_token() {
        for token in ["", "  ", "made up", "made-up\\r\\nX-Injected: 1", "made-üp", "made-up\\u0000"] {
            assert!(access(&format!(r#"{{"access_token":"{token}"}}"#)).is_err(), "{token}");
        }
        assert!(access(r#"{"access_token":"made-up.Token_1~+/="}"#).is_ok());
        assert!(access(r#"["made-up.Token_1~+/="]"#).is_err(), "an array");
        let of_length = |length| access(&format!(r#"{{"access_token":"{}"}}"#, "t".repeat(length))).is_ok();
        assert_eq!((of_length(8192), of_length(8193)), (true, false));
    }

    #[test]
    fn a_life_is_a_number_or_a_number_as_text() {
        let life = |expires_in: &str| {
            let body =
                format!(r#"{{"access_token":"t","session_token":"t","id_token":"t","expires_in":{expires_in}}}"#);
            let access = access(&body).ok().and_then(|response| response.expires_in);
            let session = read(body.as_bytes()).ok().map(|response: SessionResponse| response.expires_in);
            let id = read(body.as_bytes()).ok().map(|response: IdResponse| response.expires_in);
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
        let unknown = access(r#"{"access_token":"t","expires_in":null}"#).unwrap();
        assert!(unknown.expires_in.is_none());
        assert!(access(r#"{"access_token":"t","expires_in":"soon"}"#).is_err());
    }

    #[test]
    fn a_refresh_token_in_another_form_costs_nothing() {
        for refresh in ["null", "1", "1e999", "\"\"", "\"made up\"", "\"\\ud83d\"", "[]", "{}"] {
            let response = access(&format!(r#"{{"access_token":"t","refresh_token":{refresh}}}"#));
            assert!(response.unwrap().refresh_token.is_none(), "{refresh}");
        }
        let response = access(r#"{"access_token":"t","refresh_token":"made-up"}"#).unwrap();
        assert!(response.refresh_token.is_some());
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
