//! AES-256-GCM around every token that reaches the table.
//!
//! Each value is sealed with a key of its own. HKDF-SHA256 over the secret of `TOKEN_KEY_SECRET_ID`, with 32 fresh random bytes
//! in its info, gives the AES key and the nonce. A pair of key and nonce repeats only if 256 random bits do. So no count of
//! messages demands another key.
//! The associated data names the user and the kind of token: a value copied to another row or field does not open.
//!
//! Layout of a sealed value: one byte `1`, 32 random bytes, ciphertext, 16-byte tag. Beside it stands the VersionId of
//! the secret it was sealed with.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use serde::{Deserialize, Serialize};

use crate::identity::{UserId, UserKey};
use crate::secret::{Secret, SecretError, Version};
use crate::token::{NoRandomness, random_bytes};

const FORMAT: u8 = 1;
const SALT_LEN: usize = 32;
const KEY_LEN: usize = 32;

/// A sealed text, as the table holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// VersionId of the sealing key.
    #[serde(rename = "key")]
    pub version: String,
    /// The bytes described above. The table has them as text, for whoever reads it as JSON.
    #[serde(rename = "sealed", with = "base64_text")]
    pub bytes: Vec<u8>,
}

mod base64_text {
    use super::{Engine, URL_SAFE_NO_PAD};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        URL_SAFE_NO_PAD.decode(String::deserialize(deserializer)?).map_err(|_| D::Error::custom("not base64"))
    }
}

/// The kind of token that a sealed value is. It is part of the associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Access,
    /// The refresh token that came with an access token.
    AccessRefresh,
    Public,
    /// A session or id token.
    Widget,
    /// The refresh token that came with an id token.
    WidgetRefresh,
    /// The session token of an exchange under way.
    Session,
    /// A proven humanId: no secret, but nobody else may say whose it is.
    HumanId,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::AccessRefresh => "access-refresh",
            Self::Public => "public",
            Self::Widget => "widget",
            Self::WidgetRefresh => "widget-refresh",
            Self::Session => "session",
            Self::HumanId => "human-id",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Key(#[from] SecretError),
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The value was not sealed for this user and field with this key, or was changed since.
    #[error("a sealed {} does not open", .0.name())]
    Corrupt(Kind),
}

impl SealError {
    /// The value will never open: it was changed, or its key's version is gone.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Key(SecretError::MissingVersion { .. }))
    }
}

/// One version of the sealing key. Not printable.
pub struct SealingKey(hkdf::Prk);

/// The length of an AES key and a nonce together.
struct KeyAndNonce;

impl hkdf::KeyType for KeyAndNonce {
    fn len(&self) -> usize {
        KEY_LEN + NONCE_LEN
    }
}

impl SealingKey {
    /// Reads the value of `TOKEN_KEY_SECRET_ID`: a plain string of at least 32 characters.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.chars().count() < 32 {
            return Err("is shorter than 32 characters");
        }
        if text.starts_with(['{', '[', '"']) {
            return Err("is JSON; a plain string is wanted");
        }
        if text.chars().all(|c| text.starts_with(c)) {
            return Err("is one character repeated");
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"human-connect/token-key/1");
        Ok(Self(salt.extract(text.as_bytes())))
    }

    /// Seals with these 32 bytes, which must be fresh and random each time: see [`CurrentKey::seal`].
    pub fn seal(&self, user: &UserKey, kind: Kind, text: &str, salt: [u8; SALT_LEN]) -> Result<Vec<u8>, SealError> {
        let (key, nonce) = self.key_and_nonce(&salt).ok_or(SealError::Corrupt(kind))?;
        let mut body = text.as_bytes().to_vec();
        key.seal_in_place_append_tag(nonce, aad(user, kind), &mut body).map_err(|_| SealError::Corrupt(kind))?;
        Ok([&[FORMAT], salt.as_slice(), &body].concat())
    }

    pub fn open(&self, user: &UserKey, kind: Kind, sealed: &[u8]) -> Option<String> {
        let (salt, body) = sealed.strip_prefix(&[FORMAT])?.split_first_chunk::<SALT_LEN>()?;
        let (key, nonce) = self.key_and_nonce(salt)?;
        let mut body = body.to_vec();
        let text = key.open_in_place(nonce, aad(user, kind), &mut body).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn key_and_nonce(&self, salt: &[u8; SALT_LEN]) -> Option<(LessSafeKey, Nonce)> {
        let mut material = [0; KEY_LEN + NONCE_LEN];
        self.0.expand(&[b"seal", salt], KeyAndNonce).ok()?.fill(&mut material).ok()?;
        let (key, nonce) = material.split_first_chunk::<KEY_LEN>()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        Some((key, Nonce::try_assume_unique_for_key(nonce).ok()?))
    }

    fn user_hash(&self, user: &UserId) -> Option<String> {
        let key = hmac::Key::from(self.0.expand(&[b"log"], hmac::HMAC_SHA256).ok()?);
        let tag = hmac::sign(&key, user.as_str().as_bytes());
        tag.as_ref().first_chunk::<12>().map(|short| URL_SAFE_NO_PAD.encode(short))
    }
}

fn aad(user: &UserKey, kind: Kind) -> Aad<Vec<u8>> {
    Aad::from([b"human-connect/1\0", user.as_bytes().as_slice(), kind.name().as_bytes()].concat())
}

/// Seals and opens with the versions of one secret.
pub struct Sealer {
    pub key: Secret<SealingKey>,
}

impl Sealer {
    /// AWSCURRENT: what is sealed now is sealed with it.
    pub async fn current(&self) -> Result<CurrentKey, SealError> {
        Ok(CurrentKey(self.key.current().await?))
    }

    /// Opens a value sealed with any version that Secrets Manager still has.
    pub async fn open(&self, user: &UserKey, kind: Kind, sealed: &Sealed) -> Result<String, SealError> {
        let key = self.key.version(&sealed.version).await?;
        key.value.open(user, kind, &sealed.bytes).ok_or(SealError::Corrupt(kind))
    }

    /// Reads AWSCURRENT now, so that what is sealed from now on is sealed with it.
    pub async fn refresh(&self) -> Result<(), SealError> {
        self.key.read_current().await?;
        Ok(())
    }

    /// The keyed hash of a user id for logs; `None` until the key has been read.
    pub fn user_hash(&self, user: &UserId) -> Option<String> {
        self.key.cached()?.value.user_hash(user)
    }
}

/// The current version of the sealing key.
pub struct CurrentKey(Arc<Version<SealingKey>>);

impl CurrentKey {
    pub fn seal(&self, user: &UserKey, kind: Kind, text: &str) -> Result<Sealed, SealError> {
        let bytes = self.0.value.seal(user, kind, text, random_bytes()?)?;
        Ok(Sealed { version: self.0.id.clone(), bytes })
    }

    /// Secrets Manager's VersionId.
    pub fn version(&self) -> &str {
        &self.0.id
    }

    /// The value was sealed with this version.
    pub fn sealed(&self, value: &Sealed) -> bool {
        value.version == self.0.id
    }
}

#[cfg(test)]
mod tests {
    use scripted::{Answer, Server};
    use serde_json::json;

    use super::*;
    use crate::aws::{secrets_manager, tests::config};
    use crate::identity::UserId;
    use crate::network::http_client;

    const KEY: &str = "made-up-sealing-key-of-32-chars-or-more";

    fn key() -> SealingKey {
        SealingKey::parse(KEY).unwrap()
    }

    fn user(id: &str) -> UserKey {
        UserId::new(id).unwrap().key()
    }

    #[test]
    fn what_is_sealed_opens_for_the_same_user_and_kind_only() {
        let sealed = key().seal(&user("ada"), Kind::Access, "a token", [7; 32]).unwrap();
        let other = SealingKey::parse("another-made-up-sealing-key-32-chars").unwrap();
        for (key, id, kind, text) in [
            (key(), "ada", Kind::Access, Some("a token")),
            (key(), "eve", Kind::Access, None),
            (key(), "ada", Kind::AccessRefresh, None),
            (other, "ada", Kind::Access, None),
        ] {
            assert_eq!(key.open(&user(id), kind, &sealed).as_deref(), text, "{id} {kind:?}");
        }
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let sealed = key().seal(&user("ada"), Kind::Widget, "a token", [7; 32]).unwrap();
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert_eq!(key().open(&user("ada"), Kind::Widget, &changed), None, "byte {i}");
            assert_eq!(key().open(&user("ada"), Kind::Widget, &sealed[..i]), None, "length {i}");
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        // Known answer, computed with Python's `cryptography`: HKDF(SHA256, length=44, salt=b"human-connect/token-key/1",
        // info=b"seal" + b"\x07"*32), AESGCM(first 32).encrypt(last 12, b"a token", b"human-connect/1\0" + key + b"access")
        let sealed = key().seal(&user("ada"), Kind::Access, "a token", [7; 32]).unwrap();
        assert_eq!((sealed.len(), sealed[0], &sealed[1..33]), (1 + 32 + 7 + 16, 1, &[7; 32][..]));
        assert_eq!(URL_SAFE_NO_PAD.encode(&sealed[33..]), "slBNHtPIUCdCDV50UsjOrlZnRnkGh8E");
    }

    #[test]
    fn weak_keys_are_refused() {
        for weak in ["", "short", &"a".repeat(31), &"a".repeat(64), &format!("{{\"k\":\"{KEY}\"}}")] {
            assert!(SealingKey::parse(weak).is_err(), "{weak}");
        }
        assert!(SealingKey::parse("made-up-sealing-key-of-32-chars-").is_ok());
    }

    #[test]
    fn a_users_hash_depends_on_the_key() {
        let user = UserId::new("ada").unwrap();
        let other = SealingKey::parse("another-made-up-sealing-key-32-chars").unwrap();
        // Known answer, computed with Python's `hmac`: 12 bytes of HMAC(HKDF with the salt above, info=b"log", length=32)(b"ada")
        assert_eq!(key().user_hash(&user).as_deref(), Some("fIOqeJ9vH9WoBGmQ"));
        assert_ne!(key().user_hash(&user), other.user_hash(&user));
    }

    #[test]
    fn a_value_that_will_never_open_is_told_from_a_key_that_cannot_be_read_now() {
        let id = || "made-up".to_owned();
        for (error, is_permanent) in [
            (SealError::Corrupt(Kind::Access), true),
            (SecretError::MissingVersion { id: id(), version: id() }.into(), true),
            (SecretError::Missing { id: id() }.into(), false),
            (SecretError::Malformed { id: id() }.into(), false),
        ] {
            assert_eq!(error.is_permanent(), is_permanent, "{error}");
        }
    }

    #[tokio::test]
    async fn a_sealer_seals_with_the_current_version_and_opens_every_version() {
        let version = |id: &str, key: &str| {
            Answer::json(200, &json!({"SecretString": key, "VersionId": id, "VersionStages": ["AWSCURRENT"]}))
        };
        let other = "another-made-up-sealing-key-32-chars";
        let server = Server::answering([version("v1", KEY), version("v2", other)]).await;
        let config = config(&[("AWS_ENDPOINT_URL", &server.url)]);
        let client = secrets_manager(&config.aws, &http_client(&config).unwrap());
        let sealer = Sealer { key: Secret::new(client, "made-up".into(), config.secret_ttl, SealingKey::parse) };
        let ada = UserId::new("ada").unwrap();
        assert_eq!(sealer.user_hash(&ada), None);
        let first = sealer.current().await.unwrap();
        let sealed = first.seal(&ada.key(), Kind::Public, "a token").unwrap();
        assert_eq!((first.version(), first.sealed(&sealed)), ("v1", true));
        sealer.refresh().await.unwrap();
        let second = sealer.current().await.unwrap();
        assert_eq!((second.version(), second.sealed(&sealed)), ("v2", false));
        assert_eq!(sealer.user_hash(&ada), SealingKey::parse(other).unwrap().user_hash(&ada));
        assert_eq!(sealer.open(&ada.key(), Kind::Public, &sealed).await.unwrap(), "a token");
        let failed = sealer.open(&user("eve"), Kind::Public, &sealed).await;
        assert!(matches!(failed, Err(SealError::Corrupt(Kind::Public))));
        assert_eq!(server.requests().len(), 2);
    }
}
