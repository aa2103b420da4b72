//! A user's identity: the ID that the authorizer vouches for, its key in the table, the e-mail address.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest::{Digest, SHA256, digest};
use serde::Deserialize;

/// `encodeURIComponent` leaves these alone: letters, digits and `- _ . ! ~ * ' ( )` (ECMA-262, 19.2.6.4).
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// The application's own ID of a user, Human API's `clientUserId`: not blank, at most 1024 bytes of UTF-8. It cannot be
/// printed: in logs a user appears only as a keyed hash.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UserId {
    id: String,
    key: UserKey,
}

impl UserId {
    pub fn new(id: impl Into<String>) -> Option<Self> {
        let id = id.into();
        (!id.trim().is_empty() && id.len() <= 1024).then(|| Self { key: UserKey::of(&id), id })
    }

    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The ID as a browser's `encodeURIComponent` writes it.
    pub fn percent_encoded(&self) -> String {
        utf8_percent_encode(&self.id, COMPONENT).to_string()
    }

    /// `client_user_id` is the ID or its percent-encoded form.
    pub fn is_named_by(&self, client_user_id: &str) -> bool {
        client_user_id == self.id || client_user_id == self.percent_encoded()
    }

    pub fn key(&self) -> UserKey {
        self.key
    }
}

impl TryFrom<String> for UserId {
    type Error = &'static str;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(id).ok_or("blank or too long")
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(…)")
    }
}

/// An e-mail address as the contract (section 1) defines one. It is neither `Debug` nor `Display`, because it is personal
/// data.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress(String);

impl EmailAddress {
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || "@,<>()[]".contains(c);
        let good = |part: &str| !part.is_empty() && !part.contains(forbidden);
        // RFC 5321 leaves 254 bytes for an address in angle brackets
        (text.len() <= 254 && good(local) && good(domain)).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A user's partition key: SHA-256 of the user id. A hash, so that ids of any form fit and a ticket can carry it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UserKey([u8; Self::BYTES]);

impl UserKey {
    pub const BYTES: usize = 32;

    fn of(id: &str) -> Self {
        let mut bytes = [0; Self::BYTES];
        bytes.copy_from_slice(hash("user-key", id.as_bytes()).as_ref());
        Self(bytes)
    }

    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads the text that the table has.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
    }

    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// SHA-256 of the kind and the bytes: the same bytes have another hash in each kind.
pub(crate) fn hash(kind: &str, bytes: &[u8]) -> Digest {
    digest(&SHA256, &[b"human-connect/", kind.as_bytes(), b"/1\0", bytes].concat())
}

#[cfg(test)]
mod tests {
    /// A user ID of any length.
    fn any(id: String) -> UserId {
        UserId { key: UserKey::of(&id), id }
    }

    use percent_encoding::percent_decode_str;
    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;

    #[test]
    fn an_id_is_encoded_as_encode_uri_component_does() {
        // The expected texts were printed by Node 20: encodeURIComponent(id)
        for (id, expected) in [
            ("auth0|abc-1", "auth0%7Cabc-1"),
            ("zoë+a b/c%20@ex.com", "zo%C3%AB%2Ba%20b%2Fc%2520%40ex.com"),
            ("用户-7", "%E7%94%A8%E6%88%B7-7"),
            ("-_.!~*'()", "-_.!~*'()"),
            ("a&b=c;d,e?f#g$h[i]", "a%26b%3Dc%3Bd%2Ce%3Ff%23g%24h%5Bi%5D"),
        ] {
            assert_eq!(UserId::new(id).unwrap().percent_encoded(), expected);
        }
    }

    #[test]
    fn a_user_is_named_by_the_id_or_its_encoded_form_and_nothing_else() {
        let user = UserId::new("a b%20|+").unwrap();
        assert!(user.is_named_by("a b%20|+"));
        assert!(user.is_named_by("a%20b%2520%7C%2B"));
        for other in ["a b |+", "a+b%20|+", "a%20b%2520%7c%2b", "A b%20|+", " a b%20|+", ""] {
            assert!(!user.is_named_by(other), "{other:?}");
        }
    }

    #[test]
    fn every_character_is_left_alone_or_becomes_its_utf8_bytes_in_upper_case() {
        for character in '\0'..=char::MAX {
            let text = character.to_string();
            let plain = character.is_ascii_alphanumeric() || "-_.!~*'()".contains(character);
            let expected = if plain { text.clone() } else { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
            assert_eq!(any(text).percent_encoded(), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 4096,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(1),
            ..ProptestConfig::default()
        })]

        #[test]
        fn an_encoded_id_decodes_to_itself_and_to_no_other(id in any_id(), other in any_id()) {
            let encoded = user(&id).percent_encoded();
            prop_assert_eq!(percent_decode_str(&encoded).decode_utf8().unwrap(), id.as_str());
            prop_assert_eq!(encoded == user(&other).percent_encoded(), id == other);
        }

        #[test]
        fn a_user_is_named_in_two_spellings_and_by_no_other_text(id in any_id(), other in any_id()) {
            let encoded = user(&id).percent_encoded();
            prop_assert!(user(&id).is_named_by(&id) && user(&id).is_named_by(&encoded));
            for text in [
                user(&other).percent_encoded(),
                any(encoded.clone()).percent_encoded(),
                encoded.to_lowercase(),
                encoded.replace("%20", "+"),
                id.to_uppercase(),
                format!(" {encoded}"),
                other,
            ] {
                prop_assert_eq!(user(&id).is_named_by(&text), text == id || text == encoded);
            }
        }

        #[test]
        fn two_ids_have_one_key_only_if_they_are_one_id(id in any_id(), other in any_id()) {
            prop_assert_eq!(user(&id).key() == user(&other).key(), id == other);
        }
    }

    /// Ids that people have, and ids that are nearly each other.
    fn any_id() -> impl Strategy<Value = String> {
        const NEAR: [&str; 10] = ["a b", "a%20b", "a+b", "a%2520b", "A b", "a b ", "é", "e\u{301}", "%", "%2"];
        prop_oneof!["\\PC{1,40}", "[ -~]{1,20}", prop::sample::select(&NEAR).prop_map(str::to_owned)]
            .prop_filter("blank", |id| !id.trim().is_empty())
    }

    fn user(id: &str) -> UserId {
        UserId::new(id).unwrap()
    }

    #[test]
    fn an_address_has_one_at_sign_with_something_on_both_sides() {
        let long = |bytes: usize| format!("{}@example.test", "x".repeat(bytes - "@example.test".len()));
        for good in ["ada@example.test", "ada+run@example.test", "ü@é", "\"a\"@b", &long(254)] {
            assert!(EmailAddress::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", "ada", "@", "ada@", "@b", "a@b@c", " a@b", "a@b\n", "a\u{3000}@b", "a\u{7f}@b", "a,b@c", &long(255)]
        {
            assert!(EmailAddress::parse(bad).is_none(), "{bad:?}");
        }
        for forbidden in "<>()[]".chars() {
            assert!(EmailAddress::parse(&format!("a@b{forbidden}")).is_none(), "{forbidden}");
        }
    }

    #[test]
    fn blank_and_oversized_ids_are_refused() {
        assert!(UserId::new("x".repeat(1024)).is_some());
        for bad in ["".to_owned(), " \t\u{3000}".to_owned(), "x".repeat(1025), "é".repeat(513)] {
            assert!(UserId::new(bad.clone()).is_none(), "{bad}");
        }
    }

    #[test]
    fn ids_that_look_alike_have_keys_of_their_own() {
        for (id, other) in [("a", "a "), ("a%20b", "a b")] {
            assert!(user(id).key() == user(id).key() && user(id).key() != user(other).key());
        }
    }
}
