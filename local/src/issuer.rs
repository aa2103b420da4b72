//! The identity provider signs a token (HS256) for any user id, without a password. It is for local use only.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};
use shared::clock::Clock;

const LIFE_SECONDS: i64 = 3600;

/// Signs and verifies tokens, with a key that lives as long as the process.
#[derive(Clone)]
pub struct Issuer {
    key: hmac::Key,
    url: String,
}

impl Issuer {
    /// Creates an issuer with a random key. `url` is the `iss` claim.
    pub fn new(url: String) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, crate::random_hex::<32>().as_bytes()), url }
    }

    /// Signs a token of this user that is valid for one hour.
    pub fn sign(&self, user: &str, email: Option<&str>) -> String {
        let now = Clock::system().now() / 1000;
        let mut claims = json!({"iss": self.url, "aud": "local", "sub": user, "iat": now, "exp": now + LIFE_SECONDS});
        if let (Some(email), Some(claims)) = (email, claims.as_object_mut()) {
            claims.insert("email".to_owned(), json!(email));
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// Returns the claims if this issuer signed the token and the token has not expired.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        hmac::verify(&self.key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        (claims.get("exp")?.as_i64()? > Clock::system().now() / 1000).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuer_accepts_only_its_own_unchanged_tokens() {
        let issuer = Issuer::new("http://127.0.0.1".into());
        let token = issuer.sign("ada", Some("ada@example.test"));
        assert_eq!(issuer.verify(&token).unwrap()["sub"], "ada");
        assert!(Issuer::new("http://127.0.0.1".into()).verify(&token).is_none());
        let (claims, signature) = token.rsplit_once('.').unwrap();
        assert!(issuer.verify(&format!("{claims}A.{signature}")).is_none());
        assert!(issuer.verify("").is_none());
    }
}
