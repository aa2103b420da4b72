//! Secrets Manager: the client secret and the sealing key, cached with a time to live, re-read when they are refused.
//!
//! Why not `aws_secretsmanager_caching` 2.1: it takes `aws-config` and the SDK with their default features, and so a second TLS
//! stack. Its `refresh_now` has no cool-down. It caches text, so each use would parse and check the value again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use aws_sdk_secretsmanager::{Client, error::SdkError};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Mutex, time::Instant};
use tracing::{error, warn};

use crate::telemetry::error_chain;
use crate::{invocation::Invocation, token::ClientSecret};

#[cfg(test)]
mod tests;

/// A refused secret is read again at most this often; a failed read is tried again no sooner where an old value serves.
pub const COOL_DOWN: Duration = Duration::from_secs(10);
/// Key versions kept in memory beside the current one.
const VERSIONS_KEPT: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("Secrets Manager did not give {id}")]
    Unavailable { id: String, source: Box<SdkError<GetSecretValueError>> },
    #[error("Secrets Manager does not have {id}")]
    Missing { id: String },
    #[error("Secrets Manager does not have version {version} of {id}")]
    MissingVersion { id: String, version: String },
    /// The line that the read has logged says why.
    #[error("the value of {id} is not usable")]
    Malformed { id: String },
}

pub struct Version<T> {
    /// Secrets Manager's VersionId.
    pub id: String,
    pub value: T,
}

/// One secret, cached.
pub struct Secret<T> {
    client: Client,
    id: String,
    ttl: Duration,
    parse: fn(&str) -> Result<T, &'static str>,
    cache: Mutex<Cache<T>>,
}

struct Cache<T> {
    /// The value in use, and until when it is used without a read.
    current: Option<(Arc<Version<T>>, Instant)>,
    previous: Option<(Option<Arc<Version<T>>>, Instant)>,
    others: HashMap<String, Arc<Version<T>>>,
    refreshed_at: Option<Instant>,
}

#[derive(Clone, Copy)]
enum VersionSelector<'a> {
    Stage(&'static str),
    Version(&'a str),
}

impl<T> Secret<T> {
    pub fn new(client: Client, id: String, ttl: Duration, parse: fn(&str) -> Result<T, &'static str>) -> Self {
        let cache = Cache { current: None, previous: None, others: HashMap::new(), refreshed_at: None };
        Self { client, id, ttl, parse, cache: Mutex::new(cache) }
    }

    /// AWSCURRENT, at most `ttl` old. While Secrets Manager does not answer, the last value serves on.
    pub async fn current(&self) -> Result<Arc<Version<T>>, SecretError> {
        let mut cache = self.cache.lock().await;
        let now = Instant::now();
        let cooling = cache.refreshed_at.is_some_and(|at| now < at + COOL_DOWN);
        if let Some((version, fresh_until)) = &cache.current
            && (now < *fresh_until || cooling)
        {
            return Ok(version.clone());
        }
        match self.fetch(VersionSelector::Stage("AWSCURRENT")).await {
            Ok((version, _)) => Ok(cache.set_current(version, self.ttl)),
            Err(error) => {
                let Some((version, fresh_until)) = &mut cache.current else { return Err(error) };
                *fresh_until = Instant::now() + COOL_DOWN;
                warn!(error = error_chain(&error), "a secret could not be read again; the last value serves on");
                Ok(version.clone())
            }
        }
    }

    /// AWSCURRENT. If its value is not usable and AWSPREVIOUS is, AWSPREVIOUS: a slip of the operator stops no user.
    /// AWSCURRENT is read again after [`COOL_DOWN`].
    pub async fn current_or_previous(&self) -> Result<Arc<Version<T>>, SecretError> {
        match self.current().await {
            Err(error @ SecretError::Malformed { .. }) => {
                let previous = self.previous().await.ok_or(error)?;
                Ok(self.cache.lock().await.set_current(previous, COOL_DOWN))
            }
            other => other,
        }
    }

    /// AWSCURRENT after Human API has refused the version `refused`: read again at most once in [`COOL_DOWN`], whoever asks. `None`
    /// if it has not changed, or cannot be read.
    pub async fn refresh_after_rejection(&self, refused: &str, invocation: &Invocation) -> Option<Arc<Version<T>>> {
        let mut cache = self.cache.lock().await;
        if let Some((version, _)) = &cache.current
            && version.id != refused
        {
            return Some(version.clone());
        }
        if cache.refreshed_at.is_some_and(|at| Instant::now() < at + COOL_DOWN) {
            return None;
        }
        cache.refreshed_at = Some(Instant::now());
        invocation.record(|measured| measured.secret_refreshed += 1);
        match self.fetch(VersionSelector::Stage("AWSCURRENT")).await {
            Ok((version, _)) => Some(cache.set_current(version, self.ttl)).filter(|version| version.id != refused),
            Err(error) => {
                warn!(error = error_chain(&error), "a refused secret could not be read again");
                None
            }
        }
    }

    /// AWSPREVIOUS, if there is one; asked for at most once in [`COOL_DOWN`].
    pub async fn previous(&self) -> Option<Arc<Version<T>>> {
        let mut cache = self.cache.lock().await;
        if let Some((version, read)) = &cache.previous
            && Instant::now() < *read + COOL_DOWN
        {
            return version.clone();
        }
        let version = self.fetch(VersionSelector::Stage("AWSPREVIOUS")).await.ok().map(|(version, _)| version);
        cache.previous = Some((version.clone(), Instant::now()));
        version
    }

    /// The version `id`, from the cache or fetched at once, whatever the cache's age.
    pub async fn version(&self, id: &str) -> Result<Arc<Version<T>>, SecretError> {
        let mut cache = self.cache.lock().await;
        let current = cache.current.as_ref().map(|(version, _)| version).filter(|version| version.id == id);
        if let Some(version) = current.or_else(|| cache.others.get(id)) {
            return Ok(version.clone());
        }
        let (version, is_current) = self.fetch(VersionSelector::Version(id)).await?;
        if is_current {
            return Ok(cache.set_current(version, self.ttl));
        }
        if cache.others.len() >= VERSIONS_KEPT {
            cache.others.clear();
        }
        cache.others.insert(id.to_owned(), version.clone());
        Ok(version)
    }

    /// AWSCURRENT as it is now, whatever the cache's age.
    pub async fn read_current(&self) -> Result<Arc<Version<T>>, SecretError> {
        let mut cache = self.cache.lock().await;
        let (version, _) = self.fetch(VersionSelector::Stage("AWSCURRENT")).await?;
        Ok(cache.set_current(version, self.ttl))
    }

    /// AWSCURRENT if it is in the cache already, whatever its age; asks nobody.
    pub fn cached(&self) -> Option<Arc<Version<T>>> {
        self.cache.try_lock().ok()?.current.as_ref().map(|(version, _)| version.clone())
    }

    async fn fetch(&self, which: VersionSelector<'_>) -> Result<(Arc<Version<T>>, bool), SecretError> {
        let request = self.client.get_secret_value().secret_id(&self.id);
        let request = match which {
            VersionSelector::Stage(stage) => request.version_stage(stage),
            VersionSelector::Version(version) => request.version_id(version),
        };
        let answer = request.send().await.map_err(|source| match source.as_service_error() {
            Some(error) if error.is_resource_not_found_exception() => match which {
                VersionSelector::Stage(_) => SecretError::Missing { id: self.id.clone() },
                VersionSelector::Version(version) => {
                    SecretError::MissingVersion { id: self.id.clone(), version: version.to_owned() }
                }
            },
            _ => SecretError::Unavailable { id: self.id.clone(), source: Box::new(source) },
        })?;
        // the one line about it: whoever gets the error goes on with AWSPREVIOUS, or answers `secret_unavailable`
        let malformed = |problem| {
            error!(secret = self.id, problem, "the value of a secret is not usable");
            SecretError::Malformed { id: self.id.clone() }
        };
        let text = SecretString::from(answer.secret_string.ok_or_else(|| malformed("is not text"))?);
        let value = (self.parse)(text.expose_secret().trim()).map_err(malformed)?;
        let id = answer.version_id.ok_or_else(|| malformed("has no VersionId"))?;
        let is_current = answer.version_stages.unwrap_or_default().iter().any(|stage| stage == "AWSCURRENT");
        Ok((Arc::new(Version { id, value }), is_current))
    }
}

impl<T> Cache<T> {
    fn set_current(&mut self, version: Arc<Version<T>>, ttl: Duration) -> Arc<Version<T>> {
        if let Some((old, _)) = self.current.replace((version.clone(), Instant::now() + ttl))
            && old.id != version.id
        {
            self.others.insert(old.id.clone(), old);
        }
        version
    }
}

/// Reads the client secret's value: the secret itself, or JSON with `clientSecret`. People paste it: what an editor or a shell
/// adds around it (a byte-order mark, white space) is stripped. A value in quotes is an error, because a quote may belong to it.
pub fn parse_client_secret(text: &str) -> Result<ClientSecret, &'static str> {
    let text = strip(text);
    if !text.starts_with('{') {
        return unquoted(text);
    }
    let json: serde_json::Value = serde_json::from_str(text).map_err(|_| "is not JSON though it begins with {")?;
    let secret = json.get("clientSecret").and_then(serde_json::Value::as_str).ok_or("has no clientSecret")?;
    unquoted(strip(secret))
}

fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

fn unquoted(secret: &str) -> Result<ClientSecret, &'static str> {
    const QUOTES: [char; 14] = ['"', '\'', '`', '´', '“', '”', '„', '‘', '’', '‚', '«', '»', '‹', '›'];
    if secret.is_empty() {
        Err("is empty")
    } else if secret.starts_with(QUOTES) && secret.ends_with(QUOTES) {
        Err("is in quotes")
    } else {
        Ok(ClientSecret::new(secret))
    }
}
