//! What `shared::aws` puts together does what the SDK's own client does: the same requests, tries and outcomes for what a
//! DynamoDB may answer. It is a copy of a list that the SDK keeps; an upgrade that changes the list fails here.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed step is a failed test")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItem, DeleteItemInput};
use aws_sdk_dynamodb::operation::get_item::{GetItem, GetItemInput};
use aws_sdk_dynamodb::types::AttributeValue;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use shared::aws::{SdkHttp, Service};
use shared::config::Config;
use shared::network::http_client;
use tokio::net::TcpListener;

/// An answer: its status, the SDK's name of an error or nothing, its `date` or nothing.
type Answer = (u16, &'static str, Option<&'static str>);

const FAR_OFF: Option<&str> = Some("Fri, 01 Jan 2100 00:00:00 GMT");

/// Gives one answer after the other, the last again and again, and keeps what it was asked: that says which is next.
#[derive(Clone)]
struct Scripted {
    answers: &'static [Answer],
    heard: Arc<Mutex<Vec<HeaderMap>>>,
}

async fn answer(State(script): State<Scripted>, headers: HeaderMap) -> Response {
    let mut heard = script.heard.lock().unwrap();
    let (status, error, date) = script.answers[heard.len().min(script.answers.len() - 1)];
    heard.push(headers);
    let body = match (status, error) {
        (200, "nothing") => String::new(),
        // without a length
        (200, "nothing at all") => {
            return Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>()).into_response();
        }
        (200, _) => "{}".to_owned(),
        _ => format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{error}","message":"made up"}}"#),
    };
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    if let Some(date) = date {
        response.headers_mut().insert(header::DATE, date.parse().unwrap());
    }
    response
}

/// The SDK's own client of it, ours, and what they have asked.
struct Both {
    theirs: aws_sdk_dynamodb::Client,
    ours: Service,
    heard: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Both {
    async fn new(answers: &'static [Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::default();
        let router = Router::new().fallback(answer).with_state(Scripted { answers, heard: Arc::clone(&heard) });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = Config::read(|name| match name {
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ENDPOINT_URL" => Some(url.clone()),
            "HTTPS_PROXY" | "https_proxy" | "AWS_CA_BUNDLE" => None,
            "TABLE_NAME" | "HUMAN_API_CLIENT_ID" | "HUMAN_API_SECRET_ID" | "TOKEN_KEY_SECRET_ID" => {
                Some(name.to_owned())
            }
            _ => name.starts_with("AWS_").then(|| "made-up".to_owned()).filter(|_| !name.contains("URL")),
        })
        .unwrap();
        let http = http_client(&config).unwrap();
        let theirs = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::from_static("eu-west-1"))
            .credentials_provider(Credentials::from_keys("made-up", "made-up", Some("made-up".to_owned())))
            .http_client(SdkHttp(http.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .retry_partition(RetryPartition::custom("theirs").build())
            .endpoint_url(url);
        Self {
            theirs: aws_sdk_dynamodb::Client::from_conf(theirs.build()),
            ours: Service::dynamodb(&config.aws, &http),
            heard,
        }
    }

    async fn ask_theirs(&self) -> String {
        outcome(self.theirs.get_item().table_name("made-up").key("key", key()).send().await)
    }

    async fn ask_ours(&self) -> String {
        outcome(self.ours.call::<GetItem>(get()).await)
    }

    /// The years that were signed, one for each request since the last look. The script begins again.
    fn years(&self) -> Vec<String> {
        let year = |headers: &HeaderMap| headers["x-amz-date"].to_str().unwrap()[..4].to_owned();
        std::mem::take(&mut *self.heard.lock().unwrap()).iter().map(year).collect()
    }
}

fn outcome<T, E: ProvideErrorMetadata + std::error::Error>(answer: Result<T, SdkError<E>>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{error} {:?}", error.code()),
    }
}

fn key() -> AttributeValue {
    AttributeValue::S("made-up".to_owned())
}

fn get() -> Result<GetItemInput, BuildError> {
    GetItemInput::builder().table_name("made-up").key("key", key()).build()
}

fn delete() -> Result<DeleteItemInput, BuildError> {
    DeleteItemInput::builder().table_name("made-up").key("key", key()).build()
}

const SCRIPTS: [&[Answer]; 17] = [
    &[(200, "", None)],
    &[(200, "nothing", None)],
    &[(200, "nothing at all", None)],
    &[(500, "InternalServerError", None)],
    &[(500, "", None), (200, "", None)],
    &[(501, "", None)],
    &[(502, "", None)],
    &[(503, "", None)],
    &[(429, "", None)],
    &[(400, "ThrottlingException", None)],
    &[(400, "ProvisionedThroughputExceededException", None), (200, "", None)],
    &[(400, "RequestLimitExceeded", None)],
    &[(400, "ResourceNotFoundException", None)],
    &[(400, "ValidationException", None)],
    &[(400, "AccessDeniedException", None)],
    // a clock that is far off is corrected
    &[(400, "InvalidSignatureException", FAR_OFF), (200, "", FAR_OFF)],
    &[(400, "InvalidSignatureException", None)],
];

#[tokio::test]
async fn an_answer_leads_to_the_same_requests_and_outcome_as_with_the_sdk_s_client() {
    let compare = async |script| {
        let both = Both::new(script).await;
        let theirs = (both.ask_theirs().await, both.years());
        let ours = (both.ask_ours().await, both.years());
        assert_eq!(ours, theirs, "{script:?}");
        outcome(both.ours.call_once::<DeleteItem>(delete()).await);
        assert_eq!(both.years().len(), 1, "{script:?}");
        ours.1.len()
    };
    let requests = join_all(SCRIPTS.map(compare)).await;
    assert_eq!(requests, [1, 3, 3, 3, 2, 1, 3, 3, 1, 3, 2, 3, 1, 1, 1, 2, 1]);
}

#[tokio::test]
async fn somebody_else_s_transaction_is_waited_for() {
    let both = Both::new(&[(400, "TransactionConflictException", None)]).await;
    outcome(both.ours.call::<DeleteItem>(delete()).await);
    assert_eq!(both.years().len(), 3);
    outcome(both.ours.call_once::<DeleteItem>(delete()).await);
    assert_eq!(both.years().len(), 1);
}

#[tokio::test]
async fn a_database_that_fails_is_spared_tries_and_another_client_is_not() {
    let both = Both::new(&[(500, "InternalServerError", None)]).await;
    join_all((0..80).map(|_| both.ask_theirs())).await;
    let theirs = both.years().len();
    join_all((0..80).map(|_| both.ask_ours())).await;
    assert_eq!((both.years().len(), theirs < 3 * 80), (theirs, true));
    let other = Both::new(&[(500, "InternalServerError", None)]).await;
    other.ask_ours().await;
    assert_eq!(other.years().len(), 3);
}
