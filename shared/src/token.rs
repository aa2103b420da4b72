//! Tokens, tickets and secrets as types of their own: none can be printed, compared by accident or mixed up.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::identity::{UserKey, hash};

macro_rules! secret_text {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SecretString);

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(SecretString::from(text))
            }
        }

        impl $name {
            pub fn new(text: impl Into<String>) -> Self {
                Self::from(text.into())
            }

            /// Call this only where the bytes leave: for a request, a response, a sealed value.
            pub fn expose(&self) -> &str {
                self.0.expose_secret()
            }
        }
    )*};
}

secret_text! {
    /// Our client secret at Human API.
    ClientSecret
    /// Opens a user's health data. It leaves only through `/internal/access-token`.
    AccessToken
    /// Opens the popup in edit mode for a user.
    PublicToken
    /// Opens the Connect widget: Human API's `session_token` or `id_token`.
    WidgetToken
    /// The popup's one-time token: signed and exchanged.
    SessionToken
    /// Human API's `refresh_token` and `id_refresh_token`: stored, but not used in Human API's present version.
    RefreshToken
}

impl SessionToken {
    pub fn hash(&self) -> SessionHash {
        SessionHash(URL_SAFE_NO_PAD.encode(hash("session", self.expose().as_bytes())))
    }
}

/// The hash under which a finished [`SessionToken`] is remembered.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SessionHash(pub(crate) String);

/// The hash of a connection that an operator has imported.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportHash(String);

impl ImportHash {
    pub fn of(human_id: &str, access: &AccessToken, public: Option<&PublicToken>) -> Self {
        let parts = [human_id, access.expose(), public.map_or("", PublicToken::expose)];
        // each part after its length: no two connections have the same bytes
        let bytes = parts.map(|part| [&(part.len() as u64).to_be_bytes(), part.as_bytes()].concat()).concat();
        Self(URL_SAFE_NO_PAD.encode(hash("import", &bytes)))
    }
}

/// The hash of a [`Ticket`]'s random part, as the table holds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TicketHash(pub(crate) String);

/// 128 bits, as text.
pub(crate) fn random_id() -> Result<String, NoRandomness> {
    random_bytes::<16>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no random bytes from the operating system")]
pub struct NoRandomness;

/// The proof in `POST /connect/finish/{ticket}`: 32 random bytes, and the user's key, which leads to the user's row.
#[derive(Clone)]
pub struct Ticket {
    user: UserKey,
    random: [u8; Self::RANDOM_BYTES],
}

impl Ticket {
    pub const RANDOM_BYTES: usize = 32;

    pub fn generate(user: UserKey) -> Result<Self, NoRandomness> {
        Ok(Self { user, random: random_bytes()? })
    }

    /// For fixtures: the random part is known.
    pub fn from_parts(user: UserKey, random: [u8; Self::RANDOM_BYTES]) -> Self {
        Self { user, random }
    }

    /// Reads the base64url text of 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; UserKey::BYTES + Self::RANDOM_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (user, random) = bytes.split_first_chunk()?;
        Some(Self { user: UserKey::from_bytes(*user), random: random.try_into().ok()? })
    }

    /// The user whom the ticket claims. The claim is true only if the user's row has the [`hash`](Self::hash).
    pub fn user(&self) -> &UserKey {
        &self.user
    }

    pub fn hash(&self) -> TicketHash {
        TicketHash(URL_SAFE_NO_PAD.encode(hash("ticket", &self.random)))
    }

    /// The text for `finishUrl`.
    pub fn expose(&self) -> String {
        URL_SAFE_NO_PAD.encode([self.user.as_bytes().as_slice(), &self.random].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::UserId;

    #[test]
    fn a_ticket_survives_its_url_and_nothing_else_is_one() {
        let ticket = Ticket::generate(UserId::new("ada").unwrap().key()).unwrap();
        let text = ticket.expose();
        let back = Ticket::parse(&text).unwrap();
        assert!(back.hash() == ticket.hash() && back.user() == ticket.user());

        let longer = format!("{text}A");
        for wrong in ["", "A", &text[1..], &longer, &text.replace(['-', '_'], "+"), &"ü".repeat(43)] {
            if wrong != text {
                assert!(Ticket::parse(wrong).is_none(), "{wrong}");
            }
        }
        assert!(Ticket::generate(*ticket.user()).unwrap().hash() != ticket.hash(), "two tickets of a user differ");
    }

    #[test]
    fn a_session_hash_is_not_the_hash_of_a_ticket_with_the_same_bytes() {
        let text = "a".repeat(32);
        let ticket = Ticket::from_parts(UserId::new("ada").unwrap().key(), [b'a'; 32]);
        assert_ne!(SessionToken::new(text).hash().0, ticket.hash().0);
    }
}
