//! Tokens, tickets and secrets as types of their own: none can be printed, compared by accident or mixed up.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::identity::UserKey;

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

            /// The text itself. Call it only where the bytes leave: a request, an answer, a sealed value.
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
    /// The popup hands it to the page, to be signed and exchanged.
    SessionToken
    /// Human API's `refresh_token` and `id_refresh_token`: kept, not used in its present API.
    RefreshToken
}

impl SessionToken {
    /// The hash under which a finished session is remembered.
    pub fn hash(&self) -> SessionHash {
        SessionHash(hash("session", self.expose().as_bytes()))
    }
}

/// The hash of a [`SessionToken`]; says nothing about the token.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SessionHash(pub(crate) String);

/// The hash of a [`Ticket`]'s random part, as the table holds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TicketHash(pub(crate) String);

/// A random 128-bit id, as text.
pub(crate) fn random_id() -> Result<String, NoRandomness> {
    random_bytes::<16>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no random bytes from the operating system")]
pub struct NoRandomness;

fn hash(kind: &str, bytes: &[u8]) -> String {
    let text = [b"human-connect/", kind.as_bytes(), b"/1\0", bytes].concat();
    URL_SAFE_NO_PAD.encode(digest(&SHA256, &text))
}

/// The proof in `POST /connect/finish/{ticket}`: the user's key (so that one item holds all of a user) and 32 random bytes.
#[derive(Clone)]
pub struct Ticket {
    user: UserKey,
    random: [u8; Self::RANDOM_BYTES],
}

impl Ticket {
    /// Length of the random part.
    pub const RANDOM_BYTES: usize = 32;
    const BYTES: usize = UserKey::BYTES + Self::RANDOM_BYTES;

    /// A new ticket of this user.
    pub fn generate(user: UserKey) -> Result<Self, NoRandomness> {
        Ok(Self { user, random: random_bytes()? })
    }

    /// A ticket with a known random part: for fixtures.
    pub fn from_parts(user: UserKey, random: [u8; Self::RANDOM_BYTES]) -> Self {
        Self { user, random }
    }

    /// Reads a ticket from the path. `None` for whatever is not the base64url text of 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        // 64 bytes are 86 characters; longer text is not decoded at all
        if text.len() != 86 {
            return None;
        }
        let bytes: [u8; Self::BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (user, random) = bytes.split_first_chunk()?;
        Some(Self { user: UserKey::from_bytes(*user), random: random.try_into().ok()? })
    }

    /// Whose ticket it claims to be; true only if the user's row knows the [`hash`](Self::hash).
    pub fn user(&self) -> &UserKey {
        &self.user
    }

    /// The hash that the user's row has of it.
    pub fn hash(&self) -> TicketHash {
        TicketHash(hash("ticket", &self.random))
    }

    /// The text for the `finishUrl`. This is the only way out.
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

        let mut longer = text.clone();
        longer.push('A');
        for wrong in ["", "A", &text[1..], &longer, &text.replace(['-', '_'], "+"), &"ü".repeat(43)] {
            if wrong != text {
                assert!(Ticket::parse(wrong).is_none(), "{wrong}");
            }
        }
    }

    #[test]
    fn two_tickets_of_a_user_differ() {
        let user = UserId::new("ada").unwrap().key();
        assert!(Ticket::generate(user).unwrap().hash() != Ticket::generate(user).unwrap().hash());
    }

    #[test]
    fn a_session_hash_is_not_the_hash_of_a_ticket_with_the_same_bytes() {
        let text = "a".repeat(32);
        let ticket = Ticket::from_parts(UserId::new("ada").unwrap().key(), [b'a'; 32]);
        assert_ne!(SessionToken::new(text).hash().0, ticket.hash().0);
    }
}
