//! The five requests, as Human API's guides write them.

use reqwest::StatusCode;
use serde::Serialize;
use url::Url;

use super::responses::{AccessResponse, ExchangeResponse, PublicTokenResponse, WidgetTokenResponse};
use super::{Cause, Failure, HumanApi};
use crate::identity::{EmailAddress, UserId};
use crate::token::{ClientSecret, SessionToken};

/// A request, with its own response.
pub trait HumanApiRequest: Sync {
    type Response: Send;
    /// Human API documents a 403 as an answer about the user. If it does not, a 403 may mean our credentials.
    const DOCUMENTS_403: bool = false;

    /// The endpoint.
    fn url<'a>(&self, api: &'a HumanApi) -> &'a Url;
    /// The JSON body, signed with our credentials.
    fn body(&self, client_id: &str, secret: &ClientSecret) -> Vec<u8>;
    /// Reads the body of a success.
    fn read(&self, body: &[u8]) -> Result<Self::Response, Failure>;

    /// A refusal with this status may be about the user's e-mail address.
    fn names_address(&self, _: StatusCode) -> bool {
        false
    }
}

/// `POST /v1/connect/tokens`: signs and exchanges what the popup handed to the page. A 403 here means our credentials, as far as is
/// known; every other refusal means this session token.
pub struct ExchangeRequest<'a> {
    /// Human API's ID of the user, as the page named it.
    pub human_id: &'a str,
    /// The popup's session token.
    pub session: &'a SessionToken,
}

/// `POST /v1/connect/publictokens`: a publicToken for a *proven* humanId. 404: Human API has no such user.
pub struct PublicTokenRequest<'a> {
    /// The proven humanId.
    pub human_id: &'a str,
}

/// `POST /v1/connect/token`, `type: "session"`: for a user without a connected source; 403 for a user who has one.
pub struct SessionRequest<'a> {
    pub user: &'a UserId,
    /// The user's e-mail address.
    pub email: &'a EmailAddress,
}

/// `POST /v1/connect/token`, `type: "id"`: for a user with a connected source.
pub struct IdRequest<'a> {
    pub user: &'a UserId,
}

/// `POST /v1/connect/token`, `type: "access"`: refused for a user without a connected source.
pub struct AccessRequest<'a> {
    pub user: &'a UserId,
}

impl HumanApiRequest for ExchangeRequest<'_> {
    type Response = ExchangeResponse;

    fn url<'a>(&self, api: &'a HumanApi) -> &'a Url {
        &api.tokens_url
    }

    fn body(&self, client_id: &str, secret: &ClientSecret) -> Vec<u8> {
        let session_token = Some(self.session.expose());
        to_json(&TokensBody { human_id: self.human_id, client_id, client_secret: secret.expose(), session_token })
    }

    fn read(&self, body: &[u8]) -> Result<ExchangeResponse, Failure> {
        ExchangeResponse::read(body)
    }
}

impl HumanApiRequest for PublicTokenRequest<'_> {
    type Response = PublicTokenResponse;

    fn url<'a>(&self, api: &'a HumanApi) -> &'a Url {
        &api.public_tokens_url
    }

    fn body(&self, client_id: &str, secret: &ClientSecret) -> Vec<u8> {
        let client_secret = secret.expose();
        to_json(&TokensBody { human_id: self.human_id, client_id, client_secret, session_token: None })
    }

    fn read(&self, body: &[u8]) -> Result<PublicTokenResponse, Failure> {
        let response = PublicTokenResponse::read(body)?;
        if response.human_id == self.human_id {
            Ok(response)
        } else {
            Err(Cause::Invalid("names another humanId").maybe_performed())
        }
    }
}

impl HumanApiRequest for SessionRequest<'_> {
    type Response = WidgetTokenResponse;
    const DOCUMENTS_403: bool = true;

    fn url<'a>(&self, api: &'a HumanApi) -> &'a Url {
        &api.token_url
    }

    fn body(&self, client_id: &str, secret: &ClientSecret) -> Vec<u8> {
        let client_user_email = Some(self.email.as_str());
        to_json(&TokenBody { client_user_email, ..TokenBody::new("session", self.user, client_id, secret) })
    }

    fn read(&self, body: &[u8]) -> Result<WidgetTokenResponse, Failure> {
        WidgetTokenResponse::read_session(body)
    }

    fn names_address(&self, status: StatusCode) -> bool {
        matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
    }
}

impl HumanApiRequest for IdRequest<'_> {
    type Response = WidgetTokenResponse;

    fn url<'a>(&self, api: &'a HumanApi) -> &'a Url {
        &api.token_url
    }

    fn body(&self, client_id: &str, secret: &ClientSecret) -> Vec<u8> {
        to_json(&TokenBody::new("id", self.user, client_id, secret))
    }

    fn read(&self, body: &[u8]) -> Result<WidgetTokenResponse, Failure> {
        WidgetTokenResponse::read_id(body)
    }
}

impl HumanApiRequest for AccessRequest<'_> {
    type Response = AccessResponse;

    fn url<'a>(&self, api: &'a HumanApi) -> &'a Url {
        &api.token_url
    }

    fn body(&self, client_id: &str, secret: &ClientSecret) -> Vec<u8> {
        to_json(&TokenBody::new("access", self.user, client_id, secret))
    }

    fn read(&self, body: &[u8]) -> Result<AccessResponse, Failure> {
        AccessResponse::read(body)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokensBody<'a> {
    human_id: &'a str,
    client_id: &'a str,
    client_secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<&'a str>,
}

#[derive(Serialize)]
struct TokenBody<'a> {
    client_id: &'a str,
    client_user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_user_email: Option<&'a str>,
    client_secret: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a> TokenBody<'a> {
    fn new(kind: &'static str, user: &'a UserId, client_id: &'a str, secret: &'a ClientSecret) -> Self {
        let client_secret = secret.expose();
        Self { client_id, client_user_id: user.as_str(), client_user_email: None, client_secret, kind }
    }
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    // structs of strings: cannot fail
    serde_json::to_vec(body).unwrap_or_default()
}
