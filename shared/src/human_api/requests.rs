//! Requests as Human API's guides write them.

use serde::Serialize;

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

pub(super) fn to_json(request: &impl Serialize) -> Vec<u8> {
    // structs of strings: cannot fail
    serde_json::to_vec(request).unwrap_or_default()
}
