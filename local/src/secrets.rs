//! Secrets Manager's two secrets, with versions and stages. All values are made up.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::lock;

pub const CLIENT_SECRET: &str = "human-connect/client-secret";
pub const TOKEN_KEY: &str = "human-connect/token-key";

/// The client secrets that Human API accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// The current and the previous secret: a rotation is in progress.
    NewestTwo,
    /// Only the current secret.
    Newest,
    /// Only the previous secret: Human API does not know the new one yet.
    Previous,
}

/// The secrets, kept in a file, so that rows sealed before a restart still open.
#[derive(Clone)]
pub struct Secrets {
    file: Option<PathBuf>,
    secrets: Arc<Mutex<Vec<Secret>>>,
    accepted: Arc<Mutex<Accepted>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Secret {
    name: String,
    /// Values, oldest first: the last is AWSCURRENT, the one before it AWSPREVIOUS.
    values: Vec<String>,
    /// Number of the oldest values that were deleted.
    #[serde(default)]
    gone: usize,
}

impl Secrets {
    /// Opens the secrets of this file, or creates new ones.
    pub fn open(file: Option<PathBuf>) -> Self {
        let stored =
            file.as_ref().and_then(|file| std::fs::read(file).ok()).and_then(|text| serde_json::from_slice(&text).ok());
        let made_up = || {
            vec![
                Secret { name: CLIENT_SECRET.to_owned(), values: vec!["made-up-client-secret-1".to_owned()], gone: 0 },
                Secret {
                    name: TOKEN_KEY.to_owned(),
                    values: vec!["made-up-sealing-key-for-local-use-only-1".to_owned()],
                    gone: 0,
                },
            ]
        };
        Self {
            file,
            secrets: Arc::new(Mutex::new(stored.unwrap_or_else(made_up))),
            accepted: Arc::new(Mutex::new(Accepted::NewestTwo)),
        }
    }

    /// Adds the next made-up value of a secret.
    pub fn rotate(&self, name: &str) {
        self.change(name, |secret| {
            let number = secret.values.len() + 1;
            if let Some((stem, _)) = secret.values.last().and_then(|value| value.rsplit_once('-')) {
                secret.values.push(format!("{stem}-{number}"));
            }
        });
    }

    /// Adds this value to a secret.
    pub fn put(&self, name: &str, value: &str) {
        self.change(name, |secret| secret.values.push(value.to_owned()));
    }

    /// Deletes every version except the current one. Secrets Manager deletes versions without a stage over time.
    pub fn drop_old_versions(&self, name: &str) {
        self.change(name, |secret| secret.gone = secret.values.len() - 1);
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Secret)) {
        let mut secrets = lock(&self.secrets);
        if let Some(secret) = secrets.iter_mut().find(|secret| secret.name == name) {
            change(secret);
        }
        if let Some(file) = &self.file
            && let Ok(text) = serde_json::to_vec(&*secrets)
        {
            let _ = std::fs::write(file, text);
        }
    }

    /// Sets the client secrets that Human API accepts from now on.
    pub fn accept(&self, accepted: Accepted) {
        *lock(&self.accepted) = accepted;
    }

    /// Returns `true` if Human API accepts this client secret.
    pub fn is_client_secret(&self, value: &str) -> bool {
        let secrets = lock(&self.secrets);
        let values = secrets.iter().filter(|secret| secret.name == CLIENT_SECRET).flat_map(|secret| &secret.values);
        let age = values.rev().position(|known| plain(known) == value);
        match *lock(&self.accepted) {
            Accepted::NewestTwo => matches!(age, Some(0 | 1)),
            Accepted::Newest => age == Some(0),
            Accepted::Previous => age == Some(1),
        }
    }

    pub fn get(&self, request: &Value) -> Result<Value, (u16, Value)> {
        let secrets = lock(&self.secrets);
        let secret = find(&secrets, request)?;
        let newest = secret.values.len();
        let number = match (
            request.get("VersionId").and_then(Value::as_str),
            request.get("VersionStage").and_then(Value::as_str),
        ) {
            (Some(version), _) => (1..=newest).find(|number| version_id(*number) == version),
            (None, None | Some("AWSCURRENT")) => Some(newest),
            (None, Some("AWSPREVIOUS")) => newest.checked_sub(1).filter(|number| *number > 0),
            (None, Some(_)) => None,
        };
        let number = number.filter(|number| *number > secret.gone).ok_or_else(missing)?;
        Ok(json!({
            "Name": secret.name,
            "VersionId": version_id(number),
            "SecretString": secret.values.get(number - 1),
            "VersionStages": stages(newest - number),
        }))
    }
}

/// Returns the client secret without the characters that a person pasted around it, as Human API knows it.
fn plain(stored: &str) -> String {
    let trim = |text: &str| text.trim_matches(['"', '\u{feff}', ' ', '\n', '\r']).to_owned();
    match serde_json::from_str(stored.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(fields)) => trim(fields.get("clientSecret").and_then(Value::as_str).unwrap_or_default()),
        _ => trim(stored),
    }
}

fn find<'a>(secrets: &'a [Secret], request: &Value) -> Result<&'a Secret, (u16, Value)> {
    let id = request.get("SecretId").and_then(Value::as_str).unwrap_or_default();
    secrets.iter().find(|secret| secret.name == id).ok_or_else(missing)
}

fn missing() -> (u16, Value) {
    let message = "Secrets Manager can't find the specified secret.";
    (400, json!({"__type": "ResourceNotFoundException", "Message": message}))
}

/// Returns the stages of a version. `age` counts the newer versions.
fn stages(age: usize) -> &'static [&'static str] {
    match age {
        0 => &["AWSCURRENT"],
        1 => &["AWSPREVIOUS"],
        _ => &[],
    }
}

fn version_id(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}
