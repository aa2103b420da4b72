//! The environment, read once at start. [`Config::read`] names each field's variable; an empty variable counts as not set.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use url::{Host, Url};

use crate::record::Flow;

#[derive(Debug, Clone)]
pub struct Config {
    pub table: String,
    pub client_id: String,
    /// Secrets Manager's name or ARN of the client secret.
    pub client_secret_id: String,
    /// Secrets Manager's name or ARN of the key that seals tokens.
    pub token_key_id: String,
    /// Origin of `/v1/connect/token`.
    pub auth_url: Url,
    /// Origin of `/v1/connect/tokens` and `/v1/connect/publictokens`.
    pub user_url: Url,
    pub default_flow: Flow,
    pub user_id_claim: String,
    pub user_email_claim: String,
    pub secret_ttl: Duration,
    /// Time limit of one call to Human API.
    pub upstream_timeout: Duration,
    /// Start of `finishUrl`, without a slash at its end.
    pub public_base_url: Option<String>,
    /// `service` of log lines and metrics. It keeps two stacks in one account apart.
    pub service: String,
    /// Name or ARN of the bus for connection events. Only `publisher` has one; otherwise it is empty.
    pub event_bus: String,
    pub log_level: Targets,
    /// Egress proxy for https. Plain http, which is loopback, never goes through one.
    pub https_proxy: Option<Url>,
    /// Hosts that are reached without the proxy, separated by commas.
    pub no_proxy: String,
    /// PEM file of extra roots for every outgoing connection.
    pub ca_bundle: Option<String>,
    pub aws: Aws,
}

/// The variables that the AWS SDK would read by itself. Lambda sets them.
#[derive(Clone)]
pub struct Aws {
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
    pub dynamodb_endpoint: Option<String>,
    pub secrets_manager_endpoint: Option<String>,
    pub eventbridge_endpoint: Option<String>,
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("region", &self.region).finish_non_exhaustive()
    }
}

/// One line about a variable that is missing or bad.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

fn bad(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { variable, problem: problem.into() }
}

impl Config {
    /// The origin of Human API that the default flow's calls go to.
    pub fn human_api_url(&self) -> &Url {
        match self.default_flow {
            Flow::Connect => &self.auth_url,
            Flow::Popup => &self.user_url,
        }
    }

    pub fn required_event_bus(&self) -> Result<&str, ConfigError> {
        Some(self.event_bus.as_str()).filter(|name| !name.is_empty()).ok_or_else(|| bad("EVENT_BUS_NAME", "is not set"))
    }

    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        let unreadable = Cell::new(None);
        let config =
            Self::read(|name| std::env::var_os(name)?.into_string().map_err(|_| unreadable.set(Some(name))).ok());
        match unreadable.take() {
            Some(name) => Err(bad(name, "is not UTF-8")),
            None => config,
        }
    }

    /// Reads the variables through this function.
    pub fn read(variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, ConfigError> {
        let optional = |name| variable(name).filter(|value| !value.trim().is_empty());
        let required = |name| optional(name).ok_or_else(|| bad(name, "is not set"));
        let text = |name, default: &str| optional(name).unwrap_or_else(|| default.to_owned());
        let origin = |name, default| origin(name, &text(name, default));
        let number = |name, default, range| optional(name).map_or(Ok(default), |text| number(name, &text, range));
        // the name of the first variable that is set, and its value
        let either =
            |first, second| optional(first).map(|value| (first, value)).or_else(|| Some((second, optional(second)?)));
        let endpoint = |name| either(name, "AWS_ENDPOINT_URL").map(|(name, url)| base_url(name, &url)).transpose();
        let dynamodb_endpoint = endpoint("AWS_ENDPOINT_URL_DYNAMODB")?;
        let secrets_manager_endpoint = endpoint("AWS_ENDPOINT_URL_SECRETS_MANAGER")?;
        let eventbridge_endpoint = endpoint("AWS_ENDPOINT_URL_EVENTBRIDGE")?;

        Ok(Self {
            table: required("TABLE_NAME")?,
            client_id: required("HUMAN_API_CLIENT_ID")?,
            client_secret_id: required("HUMAN_API_SECRET_ID")?,
            token_key_id: required("TOKEN_KEY_SECRET_ID")?,
            auth_url: origin("HUMAN_API_AUTH_URL", "https://auth.humanapi.co")?,
            user_url: origin("HUMAN_API_USER_URL", "https://user.humanapi.co")?,
            default_flow: Flow::parse(&text("DEFAULT_FLOW", "connect"))
                .ok_or_else(|| bad("DEFAULT_FLOW", "must be connect or popup"))?,
            user_id_claim: text("USER_ID_CLAIM", "sub"),
            user_email_claim: text("USER_EMAIL_CLAIM", "email"),
            secret_ttl: Duration::from_secs(number("SECRET_TTL_SECONDS", 300, 0..=86_400)?),
            upstream_timeout: Duration::from_millis(number("UPSTREAM_TIMEOUT_MS", 8000, 100..=10_000)?),
            public_base_url: optional("PUBLIC_BASE_URL").map(|url| base_url("PUBLIC_BASE_URL", &url)).transpose()?,
            service: text("SERVICE_NAME", "human-connect"),
            event_bus: text("EVENT_BUS_NAME", ""),
            log_level: log_level(&text("LOG_LEVEL", "info"))?,
            https_proxy: either("HTTPS_PROXY", "https_proxy").map(|(_, url)| proxy(&url)).transpose()?,
            no_proxy: either("NO_PROXY", "no_proxy").map(|(_, hosts)| hosts).unwrap_or_default(),
            ca_bundle: optional("AWS_CA_BUNDLE"),
            aws: Aws {
                region: region(
                    either("AWS_REGION", "AWS_DEFAULT_REGION"),
                    dynamodb_endpoint.is_some() && secrets_manager_endpoint.is_some(),
                )?,
                access_key_id: required("AWS_ACCESS_KEY_ID")?,
                secret_access_key: required("AWS_SECRET_ACCESS_KEY")?,
                session_token: optional("AWS_SESSION_TOKEN"),
                dynamodb_endpoint,
                secrets_manager_endpoint,
                eventbridge_endpoint,
            },
        })
    }
}

/// Checks the region of a variable. Unless both endpoints are set, hosts' names contain the region; then it must belong to
/// a partition on the internet, as Human API does.
fn region(set: Option<(&'static str, String)>, has_endpoints: bool) -> Result<String, ConfigError> {
    let (name, region) = set.ok_or_else(|| bad("AWS_REGION", "is not set"))?;
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let parts: Vec<&str> = region.split('-').collect();
    let known = matches!(parts.as_slice(), [_, place, .., _] if !place.starts_with("iso"));
    if parts.iter().all(|part| !part.is_empty() && plain(part)) && (known || has_endpoints) {
        Ok(region)
    } else {
        Err(bad(name, "is not a region such as eu-west-1"))
    }
}

/// A `tracing` filter: a level, `target=level`, or several of them. `Targets` takes a word that is no level for a target
/// and then logs nothing: here that is an error.
fn log_level(text: &str) -> Result<Targets, ConfigError> {
    let wrong = || bad("LOG_LEVEL", "is not a filter such as info, or finish=debug,info");
    let (targets, levels): (Vec<_>, Vec<_>) = text.split(',').map(str::trim).partition(|part| part.contains('='));
    let targets: Targets = targets.join(",").parse().map_err(|_| wrong())?;
    let mut default = LevelFilter::INFO;
    for level in levels {
        default = level.parse().map_err(|_| wrong())?;
    }
    Ok(targets.with_default(default))
}

fn number(name: &'static str, text: &str, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
    text.trim()
        .parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| bad(name, format!("must be a whole number from {} to {}", range.start(), range.end())))
}

/// The URL without a slash at its end.
fn base_url(name: &'static str, text: &str) -> Result<String, ConfigError> {
    https_url(name, text).map(|url| url.as_str().trim_end_matches('/').to_owned())
}

fn origin(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url = https_url(name, text)?;
    if url.path() != "/" { Err(bad(name, "must be an origin, without a path")) } else { Ok(url) }
}

fn https_url(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text.trim()).map_err(|_| match text.is_ascii() {
        true => bad(name, "is not a URL"),
        // tables of Unicode are left out: Cargo.lock has idna_adapter 1.0.0, which is its documented way
        false => bad(name, "is not a URL whose host is ASCII; its other letters are written in Punycode (xn--)"),
    })?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(bad(name, "must have no user, query or fragment"));
    }
    let is_loopback = match url.host() {
        Some(Host::Domain(host)) => host == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback => Ok(url),
        "http" => Err(bad(name, "must be https (http only on loopback)")),
        _ => Err(bad(name, "must be an https URL")),
    }
}

fn proxy(text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| bad("HTTPS_PROXY", "must be an http or https URL"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const LEAST: &[(&str, &str)] = &[
        ("TABLE_NAME", "table"),
        ("HUMAN_API_CLIENT_ID", "client"),
        ("HUMAN_API_SECRET_ID", "secret"),
        ("TOKEN_KEY_SECRET_ID", "key"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "made-up"),
        ("AWS_SECRET_ACCESS_KEY", "made-up"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables: HashMap<_, _> = LEAST.iter().chain(changes).copied().collect();
        Config::read(|name| variables.get(name).map(|value| value.to_string()))
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let config = read(&[]).unwrap();
        assert_eq!(config.auth_url.as_str(), "https://auth.humanapi.co/");
        assert_eq!(config.user_url.as_str(), "https://user.humanapi.co/");
        assert_eq!(config.default_flow, Flow::Connect);
        assert_eq!((config.user_id_claim.as_str(), config.user_email_claim.as_str()), ("sub", "email"));
        assert_eq!(config.secret_ttl, Duration::from_secs(300));
        assert_eq!(config.upstream_timeout, Duration::from_secs(8));
        assert_eq!(config.public_base_url, None);
        assert_eq!(config.service, "human-connect");
        assert_eq!(read(&[("SERVICE_NAME", " ")]).unwrap().service, "human-connect");
        assert_eq!(read(&[("SERVICE_NAME", "human-connect-dev")]).unwrap().service, "human-connect-dev");
    }

    #[test]
    fn a_missing_or_bad_variable_is_named() {
        for (name, values) in [
            ("TABLE_NAME", &[""][..]),
            ("HUMAN_API_CLIENT_ID", &[" "]),
            ("HUMAN_API_SECRET_ID", &[""]),
            ("TOKEN_KEY_SECRET_ID", &[""]),
            ("HUMAN_API_AUTH_URL", &["http://auth.example.com", "https://auth.example.com/v1"]),
            ("HUMAN_API_USER_URL", &["nonsense", "http://localhost.example.com"]),
            ("DEFAULT_FLOW", &["Connect"]),
            ("SECRET_TTL_SECONDS", &["-1"]),
            ("UPSTREAM_TIMEOUT_MS", &["99", "10001"]),
            ("PUBLIC_BASE_URL", &["http://api.example.com", "https://user@api.example.com"]),
            ("LOG_LEVEL", &["loud==", "nonsense", "info,verbose"]),
            ("AWS_ENDPOINT_URL", &["http://dynamodb.example.com"]),
            ("AWS_REGION", &["", "eu-west-1.example.com/", "-", "eu-west-1-", "us-iso-east-1"]),
        ] {
            for value in values {
                let error = read(&[(name, value)]).unwrap_err().to_string();
                assert!(error.starts_with(&format!("{name} ")), "{name}={value:?}: {error}");
                assert!(!error.contains('\n'));
            }
        }
    }

    #[test]
    fn a_url_is_https_or_on_loopback_and_its_host_is_ascii() {
        let on_loopback = ["http://127.0.0.1:1", "http://127.9.9.9", "http://localhost:1", "http://[::1]:1"];
        for url in on_loopback.into_iter().chain(["https://x.example", "https://xn--bcher-kva.example"]) {
            assert!(read(&[("HUMAN_API_AUTH_URL", url)]).is_ok(), "{url}");
        }
        for url in ["http://10.0.0.1", "http://[::2]", "http://169.254.169.254", "ftp://127.0.0.1"] {
            assert!(read(&[("HUMAN_API_AUTH_URL", url)]).is_err(), "{url}");
        }
        let error = read(&[("HUMAN_API_AUTH_URL", "https://bücher.example")]).unwrap_err().to_string();
        assert!(error.contains("Punycode"), "{error}");
    }

    #[test]
    fn the_public_base_has_no_slash_at_its_end() {
        for url in ["https://api.example.com/health/", " https://api.example.com/health/ "] {
            let config = read(&[("PUBLIC_BASE_URL", url)]).unwrap();
            assert_eq!(config.public_base_url.as_deref(), Some("https://api.example.com/health"));
        }
        assert!(read(&[("PUBLIC_BASE_URL", "https://api.example.com/büch")]).is_ok());
    }

    #[test]
    fn credentials_are_not_printed() {
        let config = read(&[("AWS_SECRET_ACCESS_KEY", "canary"), ("AWS_SESSION_TOKEN", "canary")]).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }
}
