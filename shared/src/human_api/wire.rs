//! Requests and answers as Human API's guides write them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Cause, Failure};
use crate::token::RefreshToken;

/// Longer fields of an answer are nonsense: no id or token comes near.
const FIELD_LIMIT: usize = 8 * 1024;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokensRequest<'a> {
    pub(super) human_id: &'a str,
    pub(super) client_id: &'a str,
    pub(super) client_secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_token: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct TokenRequest<'a> {
    pub(super) client_id: &'a str,
    pub(super) client_user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_user_email: Option<&'a str>,
    pub(super) client_secret: &'a str,
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokensAnswer {
    pub(super) human_id: String,
    pub(super) access_token: String,
    pub(super) public_token: String,
    pub(super) client_user_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PublicTokensAnswer {
    pub(super) human_id: String,
    pub(super) public_token: String,
}

#[derive(Deserialize)]
pub(super) struct SessionAnswer {
    pub(super) session_token: String,
    pub(super) human_id: Option<String>,
    pub(super) expires_in: u64,
}

#[derive(Deserialize)]
pub(super) struct IdAnswer {
    pub(super) id_token: String,
    pub(super) id_refresh_token: Option<String>,
    pub(super) expires_in: u64,
}

#[derive(Deserialize)]
pub(super) struct AccessAnswer {
    pub(super) access_token: String,
    pub(super) refresh_token: Option<String>,
    pub(super) expires_in: Option<u64>,
}

pub(super) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|_| Cause::Invalid("is not the documented JSON").with(true))
}

pub(super) fn text(field: String) -> Result<String, Failure> {
    match field.len() {
        0 => Err(Cause::Invalid("has an empty field").with(true)),
        length if length > FIELD_LIMIT => Err(Cause::Invalid("has an over-long field").with(true)),
        _ => Ok(field),
    }
}

/// A token that is not used: an empty one is none.
pub(super) fn refresh_token(field: Option<String>) -> Result<Option<RefreshToken>, Failure> {
    Ok(field.filter(|token| !token.is_empty()).map(text).transpose()?.map(RefreshToken::new))
}

pub(super) fn to_json(request: &impl Serialize) -> Vec<u8> {
    // structs of strings: cannot fail
    serde_json::to_vec(request).unwrap_or_default()
}
