//! The five requests, as Human API's guides write them.

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use super::responses::{AccessResponse, ExchangeResponse, IdResponse, PublicTokenResponse, SessionResponse};
use crate::token::{ClientSecret, SessionToken};

/// A request's fields without our credentials, and its response.
pub trait HumanApiRequest: Serialize + Sync {
    type Response: DeserializeOwned + Send;
    const ENDPOINT: Endpoint;
    /// Human API documents a 403 as an answer about the user. If it does not, a 403 may mean our credentials.
    const DOCUMENTS_403: bool = false;
    /// The response brings tokens that are stored. Its loss leaves the record stale; that of a widget token costs nothing.
    const BRINGS_TOKENS: bool = true;
    /// 400 and 422 may be about the user's e-mail address.
    const NAMES_ADDRESS: bool = false;
}

#[derive(Clone, Copy)]
pub enum Endpoint {
    /// `POST /v1/connect/tokens`
    Tokens,
    /// `POST /v1/connect/publictokens`
    PublicTokens,
    /// `POST /v1/connect/token`
    Token,
}

/// Exchanges what the popup handed to the page. A 403 is ambiguous: bad credentials, or a spent session. Every other refusal is about
/// this session token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeRequest<'a> {
    /// Human API's ID of the user, as the page named it.
    pub human_id: &'a str,
    #[serde(serialize_with = "expose")]
    pub session_token: &'a SessionToken,
}

impl HumanApiRequest for ExchangeRequest<'_> {
    type Response = ExchangeResponse;
    const ENDPOINT: Endpoint = Endpoint::Tokens;
}

/// A publicToken for a *proven* humanId. 404: Human API has no such user.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicTokenRequest<'a> {
    pub human_id: &'a str,
}

impl HumanApiRequest for PublicTokenRequest<'_> {
    type Response = PublicTokenResponse;
    const ENDPOINT: Endpoint = Endpoint::PublicTokens;
}

/// For a user without a connected source. 403 for a user who has one.
#[derive(Serialize)]
#[serde(tag = "type", rename = "session")]
pub struct SessionRequest<'a> {
    pub client_user_id: &'a str,
    pub client_user_email: &'a str,
}

impl HumanApiRequest for SessionRequest<'_> {
    type Response = SessionResponse;
    const ENDPOINT: Endpoint = Endpoint::Token;
    const BRINGS_TOKENS: bool = false;
    const DOCUMENTS_403: bool = true;
    const NAMES_ADDRESS: bool = true;
}

/// For a user with a connected source.
#[derive(Serialize)]
#[serde(tag = "type", rename = "id")]
pub struct IdRequest<'a> {
    pub client_user_id: &'a str,
}

impl HumanApiRequest for IdRequest<'_> {
    type Response = IdResponse;
    const ENDPOINT: Endpoint = Endpoint::Token;
    const BRINGS_TOKENS: bool = false;
}

/// Refused for a user without a connected source.
#[derive(Serialize)]
#[serde(tag = "type", rename = "access")]
pub struct AccessRequest<'a> {
    pub client_user_id: &'a str,
}

impl HumanApiRequest for AccessRequest<'_> {
    type Response = AccessResponse;
    const ENDPOINT: Endpoint = Endpoint::Token;
}

fn expose<S: Serializer>(session: &SessionToken, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(session.expose())
}

/// A request with our credentials. Human API names them in another case at each generation of endpoints.
#[derive(Serialize)]
#[serde(untagged)]
enum Signed<'a, R> {
    #[serde(rename_all = "camelCase")]
    Popup {
        #[serde(flatten)]
        request: &'a R,
        client_id: &'a str,
        client_secret: &'a str,
    },
    Connect {
        #[serde(flatten)]
        request: &'a R,
        client_id: &'a str,
        client_secret: &'a str,
    },
}

/// The JSON body of the request, with our credentials.
pub(super) fn signed<R: HumanApiRequest>(request: &R, client_id: &str, secret: &ClientSecret) -> Vec<u8> {
    let client_secret = secret.expose();
    let signed = match R::ENDPOINT {
        Endpoint::Token => Signed::Connect { request, client_id, client_secret },
        Endpoint::Tokens | Endpoint::PublicTokens => Signed::Popup { request, client_id, client_secret },
    };
    // structs of strings: cannot fail
    serde_json::to_vec(&signed).unwrap_or_default()
}
