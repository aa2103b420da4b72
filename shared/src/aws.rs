//! DynamoDB and Secrets Manager: the operations, the orchestrator, the signer and the retries of AWS's SDK, on our HTTP client.
//!
//! The SDK's clients would put this together, with ids and marks of their own on each request. They are left out because
//! making one reads a table of all AWS partitions and compiles its regular expressions, whatever endpoint it is told: a
//! tenth of a cold start (docs/performance.md). The SDK's
//! [`Operation`](aws_smithy_runtime::client::orchestrator::operation::Operation) goes the same way for services that have no
//! client. That what is asked and tried stays what a client of the SDK's would is held by `local/tests/aws.rs`.

use std::time::Duration;

use ::http::header::{HeaderValue, USER_AGENT};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::auth::sigv4::{SCHEME_ID, SigV4AuthScheme};
use aws_runtime::service_clock_skew::ServiceClockSkewInterceptor;
use aws_sdk_dynamodb::operation as dynamodb;
use aws_sdk_dynamodb::operation::{delete_item::DeleteItemError, update_item::UpdateItemError};
use aws_sdk_secretsmanager::operation as secrets_manager;
use aws_smithy_runtime::client::defaults::{DefaultPluginParams, default_plugins};
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime::client::orchestrator::endpoints::StaticUriEndpointResolver;
use aws_smithy_runtime::client::orchestrator::invoke;
use aws_smithy_runtime::client::retries::RetryPartition;
use aws_smithy_runtime::client::retries::classifiers::HttpStatusCodeClassifier;
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::interceptors::context::{Error, Input, InterceptorContext};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_runtime_api::client::runtime_plugin::{RuntimePlugin, RuntimePlugins, StaticRuntimePlugin};
use aws_smithy_runtime_api::client::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::Layer;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::error::operation::BuildError;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SigningName;
use aws_types::region::{Region, SigningRegion};

use crate::config::Aws;

/// One attempt. Both services answer in milliseconds; a much slower one is better asked again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// All attempts of one operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);
const ATTEMPTS: u32 = 3;

/// One of the SDK's operations: how a request is written and an answer read, and which errors are worth a retry.
pub trait Operation: RuntimePlugin + Default + 'static {
    /// What is asked.
    type Input: std::fmt::Debug + Send + Sync + 'static;
    /// What is answered.
    type Output: std::fmt::Debug + Send + Sync + 'static;
    /// What is refused.
    type Error: std::error::Error + Send + Sync + 'static;
}

macro_rules! operations {
    ($($service:ident::$module:ident: $name:ident, $input:ident, $output:ident, $error:ident;)*) => {$(
        impl Operation for $service::$module::$name {
            type Input = $service::$module::$input;
            type Output = $service::$module::$output;
            type Error = $service::$module::$error;
        }
    )*};
}

operations! {
    dynamodb::get_item: GetItem, GetItemInput, GetItemOutput, GetItemError;
    dynamodb::update_item: UpdateItem, UpdateItemInput, UpdateItemOutput, UpdateItemError;
    dynamodb::delete_item: DeleteItem, DeleteItemInput, DeleteItemOutput, DeleteItemError;
    dynamodb::query: Query, QueryInput, QueryOutput, QueryError;
    dynamodb::scan: Scan, ScanInput, ScanOutput, ScanError;
    secrets_manager::get_secret_value: GetSecretValue, GetSecretValueInput, GetSecretValueOutput, GetSecretValueError;
    secrets_manager::list_secret_version_ids:
        ListSecretVersionIds, ListSecretVersionIdsInput, ListSecretVersionIdsOutput, ListSecretVersionIdsError;
}

/// One of the two services.
#[derive(Clone)]
pub struct Service {
    plugins: RuntimePlugins,
}

impl Service {
    /// DynamoDB.
    pub fn dynamodb(aws: &Aws, http: &reqwest::Client) -> Self {
        Self::new(aws, "dynamodb", dynamodb_address(aws), http)
    }

    /// Secrets Manager.
    pub fn secrets_manager(aws: &Aws, http: &reqwest::Client) -> Self {
        Self::new(aws, "secretsmanager", secrets_manager_address(aws), http)
    }

    fn new(aws: &Aws, name: &'static str, address: String, http: &reqwest::Client) -> Self {
        let region = Region::new(aws.region.clone());
        let mut config = Layer::new("human-connect");
        config.store_put(SigningName::from_static(name));
        config.store_put(SigningRegion::from(region.clone()));
        config.store_put(region);
        config.store_put(RetryConfig::standard().with_max_attempts(ATTEMPTS));
        // a retry budget of its own: on a laptop all functions share a process, which on Lambda have one each
        config.store_put(RetryPartition::custom(name).build());
        config.store_put(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        );
        // an attempt's time limits a stalled body too
        config.store_put(StalledStreamProtectionConfig::disabled());
        let credentials = Credentials::from_keys(&aws.access_key_id, &aws.secret_access_key, aws.session_token.clone());
        let components = RuntimeComponentsBuilder::new("human-connect")
            .with_http_client(Some(SdkHttp(http.clone())))
            .with_endpoint_resolver(Some(StaticUriEndpointResolver::uri(address)))
            .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![SCHEME_ID])))
            .with_auth_scheme(SigV4AuthScheme::new())
            .with_identity_resolver(SCHEME_ID, SharedCredentialsProvider::new(credentials))
            // the credentials last as long as the process
            .with_identity_cache(Some(IdentityCache::no_cache()))
            .with_interceptor(ServiceClockSkewInterceptor::new())
            .with_retry_classifier(HttpStatusCodeClassifier::default())
            .with_retry_classifier(Conflicts);
        let defaults = DefaultPluginParams::new()
            .with_retry_partition_name(name)
            .with_behavior_version(BehaviorVersion::v2026_01_12())
            .with_is_aws_sdk(true);
        let ours = StaticRuntimePlugin::new().with_config(config.freeze()).with_runtime_components(components);
        Self { plugins: RuntimePlugins::new().with_client_plugins(default_plugins(defaults)).with_client_plugin(ours) }
    }

    /// Asks, again where that is worth it.
    pub async fn call<O: Operation>(
        &self,
        input: Result<O::Input, BuildError>,
    ) -> Result<O::Output, SdkError<O::Error, HttpResponse>> {
        self.run::<O>(input, self.plugins.clone()).await
    }

    /// Asks once.
    pub async fn call_once<O: Operation>(
        &self,
        input: Result<O::Input, BuildError>,
    ) -> Result<O::Output, SdkError<O::Error, HttpResponse>> {
        let mut config = Layer::new("once");
        config.store_put(RetryConfig::disabled());
        let once = StaticRuntimePlugin::new().with_config(config.freeze());
        self.run::<O>(input, self.plugins.clone().with_operation_plugin(once)).await
    }

    async fn run<O: Operation>(
        &self,
        input: Result<O::Input, BuildError>,
        plugins: RuntimePlugins,
    ) -> Result<O::Output, SdkError<O::Error, HttpResponse>> {
        let input = Input::erase(input.map_err(SdkError::construction_failure)?);
        // the names would be for spans of the orchestrator's
        let output = invoke("", "", input, &plugins.with_operation_plugin(O::default())).await;
        let output = output.map_err(|error| error.map_service_error(typed))?;
        let unexpected = |_| SdkError::construction_failure("another operation's answer");
        output.downcast().map_err(unexpected)
    }
}

#[expect(clippy::expect_used, reason = "an operation reads its own errors")]
fn typed<E: std::error::Error + Send + Sync + 'static>(error: Error) -> E {
    error.downcast().expect("this operation's error")
}

/// Where DynamoDB is: as it was named, else in its region.
pub(crate) fn dynamodb_address(aws: &Aws) -> String {
    aws.dynamodb_endpoint.clone().unwrap_or_else(|| regional("dynamodb", &aws.region))
}

fn secrets_manager_address(aws: &Aws) -> String {
    aws.secrets_manager_endpoint.clone().unwrap_or_else(|| regional("secretsmanager", &aws.region))
}

/// A service's endpoint in a region of a partition that is on the internet, as Human API is.
fn regional(service: &str, region: &str) -> String {
    let domain = match region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    format!("https://{service}.{region}.{domain}")
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

/// Lets the SDK send through our client.
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
            parts
                .headers
                .insert(USER_AGENT, HeaderValue::from_static(concat!("human-connect/", env!("CARGO_PKG_VERSION"))));
            // what the SDK sends here (JSON) is in memory; a streaming body would be a mistake of ours
            let body = body.bytes().ok_or_else(|| ConnectorError::user("a streaming body".into()))?.to_vec();
            let request = ::http::Request::from_parts(parts, body);
            let request = reqwest::Request::try_from(request).map_err(|error| ConnectorError::user(error.into()))?;
            let mut response = client.execute(request).await.map_err(connector_error)?;
            let mut answer = ::http::Response::new(SdkBody::empty());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = std::mem::take(response.headers_mut());
            let body = response.bytes().await.map_err(connector_error)?;
            if answer.status().is_success() && body.is_empty() {
                // taken for `{}` it would mean "no such row", or "done"
                return Err(ConnectorError::io("an empty answer".into()));
            }
            let response = answer.map(|_| SdkBody::from(body));
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
    use aws_sdk_dynamodb::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;
    use crate::network::http_client;

    /// Nothing on a laptop looks at signatures: that these are for the right service and region is seen here.
    #[tokio::test]
    async fn a_request_is_signed_for_its_service_and_region_with_the_session_s_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = format!("http://{}", listener.local_addr().unwrap());
        let config = Config::read(|name| match name {
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ENDPOINT_URL" => Some(here.clone()),
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN" => Some("made-up".to_owned()),
            "TABLE_NAME" | "HUMAN_API_CLIENT_ID" | "HUMAN_API_SECRET_ID" | "TOKEN_KEY_SECRET_ID" => {
                Some(name.to_owned())
            }
            _ => None,
        })
        .unwrap();
        let http = http_client(&config).unwrap();
        let heard = async || {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = vec![0; 4096];
            let length = stream.read(&mut text).await.unwrap();
            String::from_utf8_lossy(&text[..length]).to_lowercase()
        };
        let row = dynamodb::get_item::GetItemInput::builder().table_name("made-up").build();
        let secret = secrets_manager::get_secret_value::GetSecretValueInput::builder().secret_id("made-up").build();
        let (database, secrets) = (Service::dynamodb(&config.aws, &http), Service::secrets_manager(&config.aws, &http));
        let ask_row = async { tokio::join!(database.call_once::<dynamodb::get_item::GetItem>(row), heard()).1 };
        let ask_secret = async {
            tokio::join!(secrets.call_once::<secrets_manager::get_secret_value::GetSecretValue>(secret), heard()).1
        };
        for (request, service, target) in [
            (ask_row.await, "dynamodb", "dynamodb_20120810.getitem"),
            (ask_secret.await, "secretsmanager", "secretsmanager.getsecretvalue"),
        ] {
            assert!(request.contains("\r\nx-amz-security-token: made-up\r\n"), "{request}");
            assert!(request.contains(&format!("\r\nx-amz-target: {target}\r\n")), "{request}");
            let date = request.split_once("\r\nx-amz-date: ").unwrap().1;
            let scope = format!("credential=made-up/{}/eu-west-1/{service}/aws4_request, ", &date[..8]);
            assert!(request.contains(&scope), "{request}");
            let signed =
                "signedheaders=content-length;content-type;host;x-amz-date;x-amz-security-token;x-amz-target, ";
            assert!(request.contains(signed), "{request}");
        }
    }

    #[tokio::test]
    async fn a_region_s_endpoint_is_the_one_that_the_sdk_knows() {
        use aws_sdk_secretsmanager::config::endpoint as secrets;
        for region in ["us-east-1", "eu-central-2", "us-gov-west-1", "ap-southeast-7", "cn-north-1", "eusc-de-east-1"] {
            let params = Params::builder().region(region).build().unwrap();
            let theirs = ResolveEndpoint::resolve_endpoint(&DefaultResolver::new(), &params).await.unwrap();
            assert_eq!(theirs.url(), regional("dynamodb", region));
            let params = secrets::Params::builder().region(region).build().unwrap();
            let resolver = secrets::DefaultResolver::new();
            let theirs = secrets::ResolveEndpoint::resolve_endpoint(&resolver, &params).await.unwrap();
            assert_eq!(theirs.url(), regional("secretsmanager", region));
        }
    }
}
