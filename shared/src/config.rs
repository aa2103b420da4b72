//! The environment, read once at start. Each field names its variable; an empty variable counts as not set.

use std::borrow::Cow;
use std::cell::Cell;
use std::env::VarError;
use std::net::IpAddr;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use url::{Host, Url};

use crate::record::Flow;

/// The functions' configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `TABLE_NAME`: the DynamoDB table.
    pub table: String,
    /// `HUMAN_API_CLIENT_ID`: our client id at Human API.
    pub client_id: String,
    /// `HUMAN_API_SECRET_ID`: Secrets Manager's name or ARN of the client secret.
    pub client_secret_id: String,
    /// `TOKEN_KEY_SECRET_ID`: Secrets Manager's name or ARN of the key that seals tokens.
    pub token_key_id: String,
    /// `HUMAN_API_AUTH_URL`: origin of `/v1/connect/token`.
    pub auth_url: Url,
    /// `HUMAN_API_USER_URL`: origin of `/v1/connect/tokens` and `/v1/connect/publictokens`.
    pub user_url: Url,
    /// `DEFAULT_FLOW`: the widget generation when a request names none.
    pub default_flow: Flow,
    /// `USER_ID_CLAIM`: the authorizer's claim that is the user's id.
    pub user_id_claim: String,
    /// `USER_EMAIL_CLAIM`: the authorizer's claim that is the user's e-mail address.
    pub user_email_claim: String,
    /// `SECRET_TTL_SECONDS`: how long a secret is cached.
    pub secret_ttl: Duration,
    /// `UPSTREAM_TIMEOUT_MS`: one call to Human API, from 100 ms to 10 s.
    pub upstream_timeout: Duration,
    /// `PUBLIC_BASE_URL`: where callers reach the API, for `finishUrl`; no slash at its end.
    pub public_base_url: Option<String>,
    /// `SERVICE_NAME`: the `service` of log lines and metrics. It keeps two stacks in one account apart.
    pub service: String,
    /// `LOG_LEVEL`: what of our own code is logged, a `tracing` filter.
    pub log_level: Targets,
    /// `HTTPS_PROXY`, or `https_proxy`: an egress proxy for https; plain http, which is loopback, never goes through one.
    pub https_proxy: Option<Url>,
    /// `NO_PROXY`, or `no_proxy`: hosts that are reached without it, separated by commas.
    pub no_proxy: String,
    /// `AWS_CA_BUNDLE`: a PEM file of extra roots for every outgoing connection.
    pub ca_bundle: Option<String>,
    /// The AWS environment as the SDK names it.
    pub aws: Aws,
}

/// The variables that the AWS SDK would read by itself. Lambda sets them.
#[derive(Clone)]
pub struct Aws {
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`.
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
    /// `AWS_ENDPOINT_URL_DYNAMODB`, else `AWS_ENDPOINT_URL`.
    pub dynamodb_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_SECRETS_MANAGER`, else `AWS_ENDPOINT_URL`.
    pub secrets_manager_endpoint: Option<String>,
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("region", &self.region).finish_non_exhaustive()
    }
}

/// A variable is missing or bad. One line that names it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    variable: Cow<'static, str>,
    problem: String,
}

fn bad(variable: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> ConfigError {
    ConfigError { variable: variable.into(), problem: problem.into() }
}

impl Config {
    /// The origin of Human API that the default flow's calls go to.
    pub fn human_api_url(&self) -> &Url {
        match self.default_flow {
            Flow::Connect => &self.auth_url,
            Flow::Popup => &self.user_url,
        }
    }

    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        let unreadable = Cell::new(None);
        let config = Self::read(|name| match std::env::var(name) {
            Ok(value) => Some(value),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => {
                unreadable.set(Some(name.to_owned()));
                None
            }
        });
        match unreadable.take() {
            Some(name) => Err(bad(name, "is not UTF-8")),
            None => config,
        }
    }

    /// Reads the variables that `variable` answers.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let optional = |name| variable(name).filter(|value| !value.trim().is_empty());
        let required = |name| optional(name).ok_or_else(|| bad(name, "is not set"));
        let text = |name, default: &str| optional(name).unwrap_or_else(|| default.to_owned());
        let dynamodb_endpoint = endpoint("AWS_ENDPOINT_URL_DYNAMODB", &optional)?;
        let secrets_manager_endpoint = endpoint("AWS_ENDPOINT_URL_SECRETS_MANAGER", &optional)?;

        Ok(Self {
            table: required("TABLE_NAME")?,
            client_id: required("HUMAN_API_CLIENT_ID")?,
            client_secret_id: required("HUMAN_API_SECRET_ID")?,
            token_key_id: required("TOKEN_KEY_SECRET_ID")?,
            auth_url: origin("HUMAN_API_AUTH_URL", &text("HUMAN_API_AUTH_URL", "https://auth.humanapi.co"))?,
            user_url: origin("HUMAN_API_USER_URL", &text("HUMAN_API_USER_URL", "https://user.humanapi.co"))?,
            default_flow: Flow::parse(&text("DEFAULT_FLOW", "connect"))
                .ok_or_else(|| bad("DEFAULT_FLOW", "must be connect or popup"))?,
            user_id_claim: text("USER_ID_CLAIM", "sub"),
            user_email_claim: text("USER_EMAIL_CLAIM", "email"),
            secret_ttl: Duration::from_secs(number(
                "SECRET_TTL_SECONDS",
                &text("SECRET_TTL_SECONDS", "300"),
                0,
                86_400,
            )?),
            upstream_timeout: Duration::from_millis(number(
                "UPSTREAM_TIMEOUT_MS",
                &text("UPSTREAM_TIMEOUT_MS", "8000"),
                100,
                10_000,
            )?),
            public_base_url: optional("PUBLIC_BASE_URL")
                .map(|url| base_url("PUBLIC_BASE_URL", &url).map(|url| url.as_str().trim_end_matches('/').to_owned()))
                .transpose()?,
            service: text("SERVICE_NAME", "human-connect"),
            log_level: log_level(&text("LOG_LEVEL", "info"))?,
            https_proxy: optional("HTTPS_PROXY")
                .or_else(|| optional("https_proxy"))
                .map(|url| proxy("HTTPS_PROXY", &url))
                .transpose()?,
            no_proxy: optional("NO_PROXY").or_else(|| optional("no_proxy")).unwrap_or_default(),
            ca_bundle: optional("AWS_CA_BUNDLE"),
            aws: Aws {
                region: region(&optional, dynamodb_endpoint.is_some() && secrets_manager_endpoint.is_some())?,
                access_key_id: required("AWS_ACCESS_KEY_ID")?,
                secret_access_key: required("AWS_SECRET_ACCESS_KEY")?,
                session_token: optional("AWS_SESSION_TOKEN"),
                dynamodb_endpoint,
                secrets_manager_endpoint,
            },
        })
    }
}

/// The region: hosts' names are made of it where they are not named, in those partitions that are on the internet, as Human
/// API is.
fn region(optional: &impl Fn(&'static str) -> Option<String>, hosts_are_named: bool) -> Result<String, ConfigError> {
    let set = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| Some((name, optional(name)?)));
    let (name, region) = set.ok_or_else(|| bad("AWS_REGION", "is not set"))?;
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let parts: Vec<&str> = region.split('-').collect();
    let known = matches!(parts.as_slice(), [_, place, .., _] if !place.starts_with("iso"));
    if parts.iter().all(|part| !part.is_empty() && plain(part)) && (known || hosts_are_named) {
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

fn endpoint(
    name: &'static str,
    optional: &impl Fn(&'static str) -> Option<String>,
) -> Result<Option<String>, ConfigError> {
    let (name, value) = match optional(name) {
        Some(value) => (name, value),
        None => match optional("AWS_ENDPOINT_URL") {
            Some(value) => ("AWS_ENDPOINT_URL", value),
            None => return Ok(None),
        },
    };
    base_url(name, &value).map(|url| Some(url.as_str().trim_end_matches('/').to_owned()))
}

fn number(name: &'static str, text: &str, least: u64, most: u64) -> Result<u64, ConfigError> {
    text.trim()
        .parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| bad(name, format!("must be a whole number from {least} to {most}")))
}

fn base_url(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text.trim()).map_err(|_| match text.is_ascii() {
        true => bad(name, "is not a URL"),
        // tables of Unicode are left out: Cargo.lock has idna_adapter 1.0.0, which is its documented way
        false => bad(name, "is not a URL whose host is ASCII; its other letters are written in Punycode (xn--)"),
    })?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(bad(name, "must have no user, query or fragment"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(bad(name, "must be https (http only on loopback)")),
        _ => Err(bad(name, "must be an https URL")),
    }
}

fn proxy(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| bad(name, "must be an http or https URL"))
}

fn origin(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url = base_url(name, text)?;
    if url.path() != "/" { Err(bad(name, "must be an origin, without a path")) } else { Ok(url) }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
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
        Config::read(|name| {
            let find =
                |list: &[(&str, &str)]| list.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            find(changes).or_else(|| find(LEAST))
        })
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
        let config = read(&[("PUBLIC_BASE_URL", " https://api.example.com/health/ ")]).unwrap();
        assert_eq!(config.public_base_url.as_deref(), Some("https://api.example.com/health"));
        assert_eq!(config.service, "human-connect");
    }

    #[test]
    fn a_blank_service_name_counts_as_not_set() {
        assert_eq!(read(&[("SERVICE_NAME", " ")]).unwrap().service, "human-connect");
        assert_eq!(read(&[("SERVICE_NAME", "human-connect-dev")]).unwrap().service, "human-connect-dev");
    }

    #[test]
    fn a_missing_or_bad_variable_is_named() {
        for (name, value) in [
            ("TABLE_NAME", ""),
            ("HUMAN_API_CLIENT_ID", " "),
            ("HUMAN_API_SECRET_ID", ""),
            ("TOKEN_KEY_SECRET_ID", ""),
            ("HUMAN_API_AUTH_URL", "http://auth.example.com"),
            ("HUMAN_API_AUTH_URL", "https://auth.example.com/v1"),
            ("HUMAN_API_USER_URL", "nonsense"),
            ("HUMAN_API_USER_URL", "http://localhost.example.com"),
            ("DEFAULT_FLOW", "Connect"),
            ("SECRET_TTL_SECONDS", "-1"),
            ("UPSTREAM_TIMEOUT_MS", "99"),
            ("UPSTREAM_TIMEOUT_MS", "10001"),
            ("PUBLIC_BASE_URL", "http://api.example.com"),
            ("PUBLIC_BASE_URL", "https://user@api.example.com"),
            ("LOG_LEVEL", "loud=="),
            ("LOG_LEVEL", "nonsense"),
            ("LOG_LEVEL", "info,verbose"),
            ("AWS_ENDPOINT_URL", "http://dynamodb.example.com"),
            ("AWS_REGION", ""),
            ("AWS_REGION", "eu-west-1.example.com/"),
            ("AWS_REGION", "-"),
            ("AWS_REGION", "eu-west-1-"),
            ("AWS_REGION", "us-iso-east-1"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} ")), "{name}={value:?}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn http_is_taken_on_loopback_only() {
        for url in
            ["http://127.0.0.1:1", "http://127.9.9.9", "http://localhost:1", "http://[::1]:1", "https://x.example"]
        {
            assert!(read(&[("HUMAN_API_AUTH_URL", url)]).is_ok(), "{url}");
        }
        for url in ["http://10.0.0.1", "http://[::2]", "http://169.254.169.254", "ftp://127.0.0.1"] {
            assert!(read(&[("HUMAN_API_AUTH_URL", url)]).is_err(), "{url}");
        }
    }

    #[test]
    fn a_host_is_ascii() {
        let error = read(&[("HUMAN_API_AUTH_URL", "https://bücher.example")]).unwrap_err().to_string();
        assert!(error.contains("Punycode"), "{error}");
        assert!(read(&[("HUMAN_API_AUTH_URL", "https://xn--bcher-kva.example")]).is_ok());
        assert!(read(&[("PUBLIC_BASE_URL", "https://api.example.com/büch")]).is_ok());
    }

    #[test]
    fn the_public_base_loses_its_last_slash() {
        let config = read(&[("PUBLIC_BASE_URL", "https://api.example.com/health/")]).unwrap();
        assert_eq!(config.public_base_url.as_deref(), Some("https://api.example.com/health"));
    }

    #[test]
    fn credentials_are_not_printed() {
        let config = read(&[("AWS_SECRET_ACCESS_KEY", "canary"), ("AWS_SESSION_TOKEN", "canary")]).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }
}
