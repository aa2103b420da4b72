//! The one HTTP client: Human API is called with it, and so are DynamoDB and Secrets Manager, through a small adapter.
//!
//! One TLS stack (rustls on ring), one connection pool, roots compiled in. The SDK's own HTTP stack and its
//! configuration chain are left out; they cost more at a cold start than everything else together.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, HttpClient, IdentityCache, RuntimeComponents, SharedCredentialsProvider,
    StalledStreamProtectionConfig,
    retry::{ClassifyRetry, RetryAction, RetryConfig, RetryPartition},
    timeout::TimeoutConfig,
};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_smithy_runtime_api::client::endpoint::{
    EndpointFuture, EndpointResolverParams, ResolveEndpoint, SharedEndpointResolver,
};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_types::region::Region;
use futures_util::future::join_all;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use url::Url;

use crate::config::{Aws, Config};

/// How long a connection attempt may take, to any host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// One attempt at DynamoDB or Secrets Manager. Both answer in milliseconds; a much slower one is better asked again.
const AWS_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// All attempts of one operation.
const AWS_OPERATION_TIMEOUT: Duration = Duration::from_secs(8);
const AWS_ATTEMPTS: u32 = 3;
/// Load balancers drop idle connections after 60 s and more; ours go first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// The whole of Mozilla's roots is a quarter of this.
const CA_BUNDLE_LIMIT: u64 = 1024 * 1024;

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// `AWS_CA_BUNDLE` cannot be used.
    #[error("AWS_CA_BUNDLE is not a readable PEM file of certificates")]
    CaBundle,
    /// TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// The client. Redirects are not followed; no request is repeated behind our back.
pub fn http_client(config: &Config) -> Result<reqwest::Client, NetworkError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = &config.ca_bundle {
        if !std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= CA_BUNDLE_LIMIT) {
            return Err(NetworkError::CaBundle);
        }
        let certificates = CertificateDer::pem_file_iter(path).map_err(|_| NetworkError::CaBundle)?;
        let certificates: Result<Vec<_>, _> = certificates.collect();
        let (added, _) = roots.add_parsable_certificates(certificates.map_err(|_| NetworkError::CaBundle)?);
        if added == 0 {
            return Err(NetworkError::CaBundle);
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // only ours: plain http, which is loopback, must not leave through a proxy that would read it
    let mut builder = reqwest::Client::builder().no_proxy();
    if let Some(proxy) = &config.https_proxy {
        let except = format!("{},localhost,127.0.0.0/8,::1", config.no_proxy);
        let proxy = reqwest::Proxy::https(proxy.clone())?.no_proxy(reqwest::NoProxy::from_string(&except));
        builder = builder.proxy(proxy);
    }
    Ok(builder
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .build()?)
}

/// DynamoDB's client, on our HTTP client. Its retries have a budget of their own: on a laptop all functions share a
/// process, which on Lambda have one each.
pub fn dynamodb(config: &Config, http: &reqwest::Client) -> aws_sdk_dynamodb::Client {
    let mut builder = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(config.aws.region.clone()))
        .credentials_provider(credentials(&config.aws))
        .http_client(SdkHttp(http.clone()))
        .retry_config(RetryConfig::standard().with_max_attempts(AWS_ATTEMPTS))
        .retry_partition(RetryPartition::custom("dynamodb").build())
        .retry_classifier(Conflicts)
        .timeout_config(timeouts())
        // an attempt's time limits a stalled body too, and the credentials last as long as the process
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .identity_cache(IdentityCache::no_cache());
    builder.set_endpoint_resolver(endpoint(&config.aws, config.aws.dynamodb_endpoint.as_deref(), "dynamodb"));
    aws_sdk_dynamodb::Client::from_conf(builder.build())
}

/// Secrets Manager's client, on our HTTP client.
pub fn secrets_manager(config: &Config, http: &reqwest::Client) -> aws_sdk_secretsmanager::Client {
    let mut builder = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(config.aws.region.clone()))
        .credentials_provider(credentials(&config.aws))
        .http_client(SdkHttp(http.clone()))
        .retry_config(RetryConfig::standard().with_max_attempts(AWS_ATTEMPTS))
        .retry_partition(RetryPartition::custom("secrets-manager").build())
        .timeout_config(timeouts())
        // an attempt's time limits a stalled body too, and the credentials last as long as the process
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .identity_cache(IdentityCache::no_cache());
    let named = config.aws.secrets_manager_endpoint.as_deref();
    builder.set_endpoint_resolver(endpoint(&config.aws, named, "secretsmanager"));
    aws_sdk_secretsmanager::Client::from_conf(builder.build())
}

/// Where a service is, said outright where its name is known: the SDK would read a table of all partitions first, for each
/// client. `None` leaves it to the SDK.
fn endpoint(aws: &Aws, named: Option<&str>, service: &str) -> Option<SharedEndpointResolver> {
    let url = address(aws, named, service)?;
    Some(SharedEndpointResolver::new(Endpoint(aws_smithy_types::endpoint::Endpoint::builder().url(url).build())))
}

/// The address of a service: as it was named, else by its region, if that is one of those below.
fn address(aws: &Aws, named: Option<&str>, service: &str) -> Option<String> {
    match named {
        Some(url) => Some(url.to_owned()),
        None => Some(format!("https://{service}.{}.{}", aws.region, domain(&aws.region)?)),
    }
}

/// The domain of a region's endpoints, of those partitions that have customers on the internet.
fn domain(region: &str) -> Option<&'static str> {
    let mut parts = region.split('-');
    let (Some(area), Some(place), Some(_)) = (parts.next(), parts.next(), parts.next_back()) else { return None };
    let plain = region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    match area {
        _ if !plain || place.starts_with("iso") || area.len() != 2 => None,
        "cn" => Some("amazonaws.com.cn"),
        _ => Some("amazonaws.com"),
    }
}

#[derive(Debug)]
struct Endpoint(aws_smithy_types::endpoint::Endpoint);

impl ResolveEndpoint for Endpoint {
    fn resolve_endpoint<'a>(&'a self, _: &'a EndpointResolverParams) -> EndpointFuture<'a> {
        EndpointFuture::ready(Ok(self.0.clone()))
    }
}

fn credentials(aws: &Aws) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::from_keys(
        &aws.access_key_id,
        &aws.secret_access_key,
        aws.session_token.clone(),
    ))
}

/// What the SDK does not try again by itself: somebody else's transaction on the same row is over in milliseconds.
#[derive(Debug)]
struct Conflicts;

impl ClassifyRetry for Conflicts {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err).and_then(OrchestratorError::as_operation_error);
        let update = error.and_then(|error| error.downcast_ref::<UpdateItemError>()).map(ProvideErrorMetadata::code);
        let delete = error.and_then(|error| error.downcast_ref::<DeleteItemError>()).map(ProvideErrorMetadata::code);
        match update.or(delete).flatten() {
            Some("TransactionConflictException") => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "somebody else's transaction"
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_attempt_timeout(AWS_ATTEMPT_TIMEOUT)
        .operation_timeout(AWS_OPERATION_TIMEOUT)
        .build()
}

/// The hosts that a function will talk to.
pub struct Connections {
    http: reqwest::Client,
    urls: Vec<Url>,
}

impl Connections {
    /// DynamoDB, and these.
    pub fn new(config: &Config, http: &reqwest::Client, others: &[&Url]) -> Self {
        let dynamodb = address(&config.aws, config.aws.dynamodb_endpoint.as_deref(), "dynamodb");
        let dynamodb = dynamodb.and_then(|url| Url::parse(&url).ok());
        let mut urls: Vec<Url> = dynamodb.into_iter().chain(others.iter().copied().cloned()).collect();
        urls.dedup();
        Self { http: http.clone(), urls }
    }

    /// Opens a connection to each and leaves it in the pool, all at the same time. `GET /` means nothing to any of them.
    /// A failure is nobody's business: the first request opens its own.
    pub async fn open(&self) {
        let open = async |url: &Url| {
            if let Ok(answer) = self.http.get(url.clone()).timeout(CONNECT_TIMEOUT).send().await
                && answer.content_length().is_some_and(|length| length < 4096)
            {
                // read to its end, or the connection is not kept
                let _ = answer.bytes().await;
            }
        };
        join_all(self.urls.iter().map(open)).await;
    }
}

/// Lets the SDK send through our client.
#[derive(Debug, Clone)]
struct SdkHttp(reqwest::Client);

impl HttpClient for SdkHttp {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for SdkHttp {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let (parts, body) = request.into_parts();
            // what the SDK sends here (JSON) is in memory; a streaming body would be a mistake of ours
            let body = body.bytes().ok_or_else(|| ConnectorError::user("a streaming body".into()))?.to_vec();
            let request = ::http::Request::from_parts(parts, body);
            let request = reqwest::Request::try_from(request).map_err(|error| ConnectorError::user(error.into()))?;
            let response = client.execute(request).await.map_err(connector_error)?;
            if response.status().is_success() && response.content_length() == Some(0) {
                // taken for `{}` it would mean "no such row"
                return Err(ConnectorError::io("an empty answer".into()));
            }
            let response: ::http::Response<reqwest::Body> = response.into();
            let response = response.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

fn connector_error(error: reqwest::Error) -> ConnectorError {
    // the address may name a table or a secret; the SDK's error is logged
    let error = error.without_url();
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    fn config(proxy: &str, bundle: &str) -> Config {
        let variable = |name: &str| match name {
            "HTTPS_PROXY" => Some(proxy.to_owned()),
            "AWS_CA_BUNDLE" => Some(bundle.to_owned()),
            "TABLE_NAME"
            | "HUMAN_API_CLIENT_ID"
            | "HUMAN_API_SECRET_ID"
            | "TOKEN_KEY_SECRET_ID"
            | "AWS_REGION"
            | "AWS_ACCESS_KEY_ID"
            | "AWS_SECRET_ACCESS_KEY" => Some("made-up".to_owned()),
            _ => None,
        };
        Config::read(variable).unwrap()
    }

    #[tokio::test]
    async fn https_goes_through_the_proxy_as_a_tunnel_and_plain_http_past_it() {
        let listen = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            (listener, address)
        };
        let ((proxy, proxy_url), (plain, plain_url)) = (listen().await, listen().await);
        let client = http_client(&config(&proxy_url, "")).unwrap();
        let heard = async |listener: TcpListener| {
            let mut text = [0; 64];
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read(&mut text).await.unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        let (_, tunnel) = tokio::join!(client.get("https://made-up.example.test/").send(), heard(proxy));
        assert!(tunnel.starts_with("CONNECT made-up.example.test:443 "), "{tunnel}");
        let (_, request) = tokio::join!(client.get(&plain_url).send(), heard(plain));
        assert!(request.starts_with("GET / "), "{request}");
    }

    #[test]
    fn endpoints_are_known_by_their_region_or_left_to_the_sdk() {
        for region in ["us-east-1", "eu-central-2", "us-gov-west-1", "ap-southeast-7"] {
            assert_eq!(domain(region), Some("amazonaws.com"), "{region}");
        }
        assert_eq!(domain("cn-north-1"), Some("amazonaws.com.cn"));
        for region in ["us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "eusc-de-east-1", "local", "", "a.b/-c-1"] {
            assert_eq!(domain(region), None, "{region}");
        }
    }

    #[test]
    fn a_bundle_that_is_no_file_or_has_no_certificate_is_refused() {
        for bundle in ["/dev/zero", "/", "/made-up/roots.pem", file!()] {
            assert!(matches!(http_client(&config("", bundle)), Err(NetworkError::CaBundle)), "{bundle}");
        }
    }
}
