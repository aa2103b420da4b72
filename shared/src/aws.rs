//! The SDK's clients of DynamoDB, Secrets Manager and EventBridge, on the project's one HTTP client.
//!
//! The SDK's own HTTP stack and configuration chain are left out: they cost more at a cold start than all the rest.

use std::time::Duration;

use ::http::header::{HeaderValue, USER_AGENT};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_dynamodb::operation::{delete_item::DeleteItemError, update_item::UpdateItemError};
use aws_smithy_runtime::client::{identity::IdentityCache, retries::RetryPartition};
use aws_smithy_runtime_api::client::{
    behavior_version::BehaviorVersion,
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    interceptors::context::InterceptorContext,
    orchestrator::{HttpRequest, HttpResponse, OrchestratorError},
    result::ConnectorError,
    retries::classifiers::{ClassifyRetry, RetryAction},
    runtime_components::RuntimeComponents,
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::{body::SdkBody, retry::RetryConfig, timeout::TimeoutConfig};
use aws_types::{SdkConfig, region::Region};

use crate::config::Aws;

/// One attempt. The services answer in milliseconds, so a much slower attempt is better repeated.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// All attempts of one operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);
const MAX_ATTEMPTS: u32 = 3;

pub fn dynamodb(aws: &Aws, http: &reqwest::Client) -> aws_sdk_dynamodb::Client {
    let mut config = aws_sdk_dynamodb::config::Builder::from(&sdk_config(aws, http))
        .retry_partition(RetryPartition::custom("dynamodb").build())
        .retry_classifier(TransactionConflicts);
    config.set_endpoint_url(aws.dynamodb_endpoint.clone());
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

pub fn secrets_manager(aws: &Aws, http: &reqwest::Client) -> aws_sdk_secretsmanager::Client {
    let mut config = aws_sdk_secretsmanager::config::Builder::from(&sdk_config(aws, http))
        .retry_partition(RetryPartition::custom("secretsmanager").build());
    config.set_endpoint_url(aws.secrets_manager_endpoint.clone());
    aws_sdk_secretsmanager::Client::from_conf(config.build())
}

pub fn eventbridge(aws: &Aws, http: &reqwest::Client) -> aws_sdk_eventbridge::Client {
    let mut config = aws_sdk_eventbridge::config::Builder::from(&sdk_config(aws, http))
        .retry_partition(RetryPartition::custom("eventbridge").build());
    config.set_endpoint_url(aws.eventbridge_endpoint.clone());
    aws_sdk_eventbridge::Client::from_conf(config.build())
}

/// The settings that all clients share. Each client has a retry partition of its own besides, because all functions share one
/// process in the local program.
fn sdk_config(aws: &Aws, http: &reqwest::Client) -> SdkConfig {
    let credentials = Credentials::from_keys(&aws.access_key_id, &aws.secret_access_key, aws.session_token.clone());
    let timeouts =
        TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(OPERATION_TIMEOUT);
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(aws.region.clone()))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        // the credentials last as long as the process
        .identity_cache(IdentityCache::no_cache())
        .http_client(SdkHttp(http.clone()))
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .timeout_config(timeouts.build())
        // the attempt's timeout limits a stalled body too
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build()
}

/// The address that start-up opens a connection to: the configured endpoint, or the service's in the region. The SDK finds its
/// endpoints by itself. Only regions on the internet count, because Human API is there.
pub(crate) fn dynamodb_address(aws: &Aws) -> String {
    aws.dynamodb_endpoint.clone().unwrap_or_else(|| {
        let domain = match aws.region.split('-').next() {
            Some("cn") => "amazonaws.com.cn",
            Some("eusc") => "amazonaws.eu",
            _ => "amazonaws.com",
        };
        format!("https://dynamodb.{}.{domain}", aws.region)
    })
}

/// Another transaction on the same row is over in milliseconds. The SDK does not retry such a conflict by itself.
#[derive(Debug)]
struct TransactionConflicts;

impl ClassifyRetry for TransactionConflicts {
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
        "transaction conflicts"
    }
}

/// Sends the SDK's requests with the project's HTTP client.
#[derive(Debug, Clone)]
pub struct SdkHttp(pub reqwest::Client);

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
            let (mut parts, body) = request.into_parts();
            // for CloudTrail
            let user_agent = HeaderValue::from_static(concat!("human-connect/", env!("CARGO_PKG_VERSION")));
            parts.headers.insert(USER_AGENT, user_agent);
            // all requests here are JSON in memory; a streaming body would be a mistake of ours
            let body = body.bytes().ok_or_else(|| ConnectorError::user("a streaming body".into()))?.to_vec();
            let request = ::http::Request::from_parts(parts, body);
            let request = reqwest::Request::try_from(request).map_err(|error| ConnectorError::user(error.into()))?;
            let mut response = client.execute(request).await.map_err(connector_error)?;
            let mut answer = ::http::Response::new(SdkBody::empty());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = std::mem::take(response.headers_mut());
            let body = response.bytes().await.map_err(connector_error)?;
            if answer.status().is_success() && body.is_empty() {
                // the SDK would read it as `{}`: no such row, or a write done
                return Err(ConnectorError::io("an empty answer".into()));
            }
            let response = answer.map(|_| SdkBody::from(body));
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

fn connector_error(error: reqwest::Error) -> ConnectorError {
    // the address may name a table or a secret, and the error is logged
    let error = error.without_url();
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_sdk_dynamodb::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{config::Config, network::http_client};

    pub(crate) fn config(changes: &[(&str, &str)]) -> Config {
        Config::read(|name| match (changes.iter().find(|(changed, _)| *changed == name), name) {
            (Some((_, value)), _) => Some((*value).to_owned()),
            (None, "AWS_REGION") => Some("eu-west-1".to_owned()),
            (None, "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN") => Some("made-up".to_owned()),
            (None, "TABLE_NAME" | "HUMAN_API_CLIENT_ID" | "HUMAN_API_SECRET_ID" | "TOKEN_KEY_SECRET_ID") => {
                Some(name.to_owned())
            }
            _ => None,
        })
        .unwrap()
    }

    /// The emulators do not look at signatures.
    #[tokio::test]
    async fn a_request_is_signed_for_its_service_and_region_with_the_session_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(&[("AWS_ENDPOINT_URL", &format!("http://{}", listener.local_addr().unwrap()))]);
        let http = http_client(&config).unwrap();
        let received = async || {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = vec![0; 4096];
            let length = stream.read(&mut text).await.unwrap();
            String::from_utf8_lossy(&text[..length]).to_lowercase()
        };
        let (table, secrets) = (dynamodb(&config.aws, &http), secrets_manager(&config.aws, &http));
        let for_table = tokio::select! {
            _ = table.scan().table_name("made-up").send() => unreachable!("nobody answers"),
            request = received() => request,
        };
        let for_secrets = tokio::select! {
            _ = secrets.get_secret_value().secret_id("made-up").send() => unreachable!("nobody answers"),
            request = received() => request,
        };
        for (request, service) in [(for_table, "dynamodb"), (for_secrets, "secretsmanager")] {
            assert!(request.contains("\r\nx-amz-security-token: made-up\r\n"), "{request}");
            let date = request.split_once("\r\nx-amz-date: ").unwrap().1;
            let scope = format!("credential=made-up/{}/eu-west-1/{service}/aws4_request, ", &date[..8]);
            assert!(request.contains(&scope), "{request}");
        }
    }

    #[tokio::test]
    async fn start_up_opens_a_connection_to_the_endpoint_that_the_sdk_uses() {
        for region in ["us-east-1", "eu-central-2", "us-gov-west-1", "ap-southeast-7", "cn-north-1", "eusc-de-east-1"] {
            let params = Params::builder().region(region).build().unwrap();
            let endpoint = ResolveEndpoint::resolve_endpoint(&DefaultResolver::new(), &params).await.unwrap();
            assert_eq!(endpoint.url(), dynamodb_address(&config(&[("AWS_REGION", region)]).aws));
        }
    }
}
