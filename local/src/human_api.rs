//! A stand-in for Human API, written from its published guides: its users, sessions and tokens.
//! `endpoints` has the token endpoints, and `pages` the widgets' pages and their requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::clock::{Clock, Millis};
use shared::record::Source;

use crate::secrets::Secrets;
use crate::{hex, lock, random_hex};

mod endpoints;
mod pages;

pub use pages::router;

pub const CLIENT_ID: &str = "made-up-client-id";
const SESSION_SECONDS: u64 = 3600;
const ID_SECONDS: u64 = 86_400;

/// The made-up sources: id, name, kind.
pub const CATALOGUE: [(&str, &str, &str); 8] = [
    ("made-up-01", "Starfleet Pharmacy", "Pharmacy"),
    ("made-up-02", "Mount Invented Hospital", "Hospital"),
    ("made-up-03", "Fictional Family Practice", "Clinic"),
    ("made-up-04", "Paper Heart Cardiology", "Clinic"),
    ("made-up-05", "Nowhere Labs", "Laboratory"),
    ("made-up-06", "Pretend Pace Watch", "Wearable"),
    ("made-up-07", "Imaginary Scale Co.", "Device"),
    ("made-up-08", "Sample Sleep Tracker", "Wearable"),
];

/// The stand-in. Clones share everything.
#[derive(Clone)]
pub struct HumanApi {
    state: Arc<Mutex<State>>,
    file: Option<PathBuf>,
    secrets: Secrets,
}

/// The stand-in's data.
#[derive(Serialize, Deserialize)]
pub struct State {
    users: BTreeMap<String, User>,
    /// Popup session tokens, each with its user.
    sessions: BTreeMap<String, String>,
    used_sessions: BTreeSet<String>,
    /// Session and id tokens, each with its user and its expiry.
    start_tokens: BTreeMap<String, (String, Millis)>,
    /// If `true`, a popup session token can be exchanged only once.
    pub single_use: bool,
    /// Delay of each response, in milliseconds.
    pub delay_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct User {
    human_id: String,
    /// The address of the latest `session` request.
    #[serde(default)]
    email: Option<String>,
    sources: Vec<Source>,
    public_token: Option<String>,
    /// The newest token. It supersedes the earlier ones.
    access_token: Option<String>,
}

impl HumanApi {
    /// Opens the stand-in with the data of this file, or with no data.
    pub fn open(file: Option<PathBuf>, secrets: Secrets) -> Self {
        let stored =
            file.as_ref().and_then(|file| std::fs::read(file).ok()).and_then(|text| serde_json::from_slice(&text).ok());
        let new = || State {
            users: BTreeMap::new(),
            sessions: BTreeMap::new(),
            used_sessions: BTreeSet::new(),
            start_tokens: BTreeMap::new(),
            single_use: true,
            delay_ms: 0,
        };
        Self { state: Arc::new(Mutex::new(stored.unwrap_or_else(new))), file, secrets }
    }

    /// Connects a source in the popup, and returns the sessionTokenObject that the page gets.
    pub fn popup(&self, user: &str) -> Value {
        let session = self.with(|state| {
            state.connect(user, CATALOGUE[0].0);
            state.add_session(user, None)
        });
        session_token_object(user, &session)
    }

    /// Reads or changes the data, and writes the file.
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let outcome = change(&mut state);
        if let Some(file) = &self.file
            && let Ok(text) = serde_json::to_vec(&*state)
        {
            let _ = std::fs::write(file, text);
        }
        outcome
    }
}

impl State {
    fn user(&mut self, id: &str) -> &mut User {
        self.users.entry(id.to_owned()).or_insert_with(|| User {
            human_id: human_id(id),
            email: None,
            sources: Vec::new(),
            public_token: None,
            access_token: None,
        })
    }

    /// Returns the e-mail address of the user's latest `session` request.
    pub fn email(&self, user: &str) -> Option<String> {
        self.users.get(user)?.email.clone()
    }

    pub fn connect(&mut self, user: &str, source: &str) {
        let Some((id, name, _)) = CATALOGUE.iter().find(|(id, ..)| *id == source) else { return };
        let sources = &mut self.user(user).sources;
        if sources.iter().all(|known| known.id != *id) {
            sources.push(Source { id: (*id).to_owned(), name: (*name).to_owned() });
        }
    }

    fn disconnect(&mut self, user: &str, source: &str) {
        self.user(user).sources.retain(|known| known.id != source);
    }

    fn sources(&self, user: &str) -> Vec<Source> {
        self.users.get(user).map(|user| user.sources.clone()).unwrap_or_default()
    }

    /// Adds a popup session of this user, with the given token or a random one, and returns the token.
    pub fn add_session(&mut self, user: &str, token: Option<&str>) -> String {
        let token = token.map_or_else(|| format!("made-up-popup-session-{}", random_hex::<12>()), str::to_owned);
        self.user(user);
        self.sessions.insert(token.clone(), user.to_owned());
        token
    }

    fn add_start_token(&mut self, user: &str, kind: &str, seconds: u64) -> String {
        let token = format!("made-up-{kind}-token-{}", random_hex::<12>());
        let until = Clock::system().now() + Millis::try_from(seconds * 1000).unwrap_or_default();
        self.start_tokens.insert(token.clone(), (user.to_owned(), until));
        token
    }

    /// Returns the user's newest access token and publicToken.
    pub fn newest(&self, user: &str) -> (Option<String>, Option<String>) {
        self.users.get(user).map_or((None, None), |user| (user.access_token.clone(), user.public_token.clone()))
    }

    /// Removes the user and the user's tokens. Returns `false` if there was no such user.
    pub fn drop_user(&mut self, user: &str) -> bool {
        self.sessions.retain(|_, owner| owner != user);
        self.start_tokens.retain(|_, (owner, _)| owner != user);
        self.users.remove(user).is_some()
    }

    /// Expires the user's session and id tokens.
    pub fn expire_tokens(&mut self, user: &str) {
        for (_, until) in self.start_tokens.values_mut().filter(|(owner, _)| owner == user) {
            *until = 0;
        }
    }
}

/// The object that a popup gives to its page.
pub fn session_token_object(user: &str, session: &str) -> Value {
    json!({"humanId": human_id(user), "clientId": CLIENT_ID, "sessionToken": session})
}

/// Returns the user's humanId. It depends only on the id, so that `events/` can name it.
pub fn human_id(user: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, user.as_bytes());
    hex(digest.as_ref().get(..12).unwrap_or_default())
}
