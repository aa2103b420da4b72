//! One server plays DynamoDB, Secrets Manager and Human API, in the order in which a call asks them.

use scripted::{Answer, SEALING_KEY, Server};
use serde_json::{Value, json};

use super::*;
use crate::aws::{dynamodb, secrets_manager, tests::config};
use crate::clock::Clock;
use crate::network::http_client;
use crate::secret::parse_client_secret;

const NOW: Millis = 1_795_687_200_000;

struct World {
    server: Server,
    tokens: TokenService,
}

impl World {
    async fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::with_timeout("8000", answers).await
    }

    /// `timeout` is that of a request to Human API, in milliseconds.
    async fn with_timeout(timeout: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        let server = Server::answering(answers).await;
        let config = config(&[
            ("AWS_ENDPOINT_URL", &server.url),
            ("HUMAN_API_AUTH_URL", &server.url),
            ("HUMAN_API_USER_URL", &server.url),
            ("UPSTREAM_TIMEOUT_MS", timeout),
        ]);
        let http = http_client(&config).unwrap();
        let secrets = secrets_manager(&config.aws, &http);
        let secret = |id: &str| (secrets.clone(), id.to_owned(), config.secret_ttl);
        let (client, id, ttl) = secret("client");
        let client_secret = Secret::new(client, id, ttl, parse_client_secret);
        let (client, id, ttl) = secret("sealing");
        let sealer = Arc::new(Sealer { key: Secret::new(client, id, ttl, crate::seal::SealingKey::parse) });
        let human_api = HumanApi::new(&config, http.clone());
        let clock = Clock::with_sleep(|| NOW, |_| tokio::task::yield_now().boxed());
        let store = Store::new(dynamodb(&config.aws, &http), "made-up".into(), clock);
        let connections = Connections::new(&config, &http, &[]);
        Self { tokens: TokenService { human_api, client_secret, store, sealer, connections }, server }
    }

    /// Asks for an access token under the lease.
    async fn access(&self, user: &UserId) -> Result<(bool, Row), Error> {
        let request = LeaseRequest::of(user, Request::Access);
        let invocation = Invocation::start();
        self.tokens.exclusive(request, |_| None, |leased| Box::pin(leased.access_token()), &invocation).await
    }

    /// What was asked for, one word each.
    fn asked(&self) -> Vec<String> {
        self.server.requests().iter().map(|request| request.operation().to_owned()).collect()
    }

    /// The effect of the last write, and its values.
    fn last_write(&self) -> (String, Value) {
        let last: Value = serde_json::from_slice(&self.server.requests().pop().unwrap().body).unwrap();
        (last["UpdateExpression"].as_str().unwrap().to_owned(), last["ExpressionAttributeValues"].clone())
    }
}

fn ada() -> UserId {
    UserId::new("ada").unwrap()
}

fn tokens() -> Answer {
    Answer::json(200, &json!({"access_token": "canary-token", "expires_in": 60}))
}

/// What a lease costs a first call, before it asks Human API.
fn before_human_api(acquire: Answer) -> Vec<Answer> {
    vec![Answer::secret(SEALING_KEY), acquire, Answer::secret("made-up-secret")]
}

fn leased_by_another(changes: Value) -> Answer {
    let mut item = json!({"clientUserId": {"S": "ada"}, "generation": {"S": "g"}, "leaseId": {"S": "other"},
        "leaseUntil": {"N": (NOW - 60_000).to_string()}});
    item.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Answer::json(200, &json!({"Attributes": item}))
}

fn pending_access() -> Value {
    let since = json!({"N": (NOW - 60_000).to_string()});
    json!({"pending": {"M": {"by": {"S": "other"}, "since": since, "request": {"S": "access"}}}})
}

const REMOVES: &str = " REMOVE leaseUntil, pending";

#[tokio::test]
async fn a_call_acquires_the_lease_asks_human_api_and_commits_sealed_tokens() {
    let world = World::answering([before_human_api(Answer::done()), vec![tokens(), Answer::done()]].concat()).await;
    let (connected, row) = world.access(&ada()).await.unwrap();
    assert_eq!(world.asked(), ["GetSecretValue", "UpdateItem", "GetSecretValue", "token", "UpdateItem"]);
    let (effect, values) = world.last_write();
    assert!(connected && effect.ends_with(REMOVES), "{effect}");
    let token = &values[":record"]["M"]["accessToken"]["M"];
    assert_eq!(token["expiresAt"], json!({"N": (NOW + 60_000).to_string()}));
    assert_eq!(token["token"]["M"]["key"], json!({"S": "v1"}));
    assert!(!values.to_string().contains("canary"), "{values}");
    let access = row.record.access_token.unwrap();
    assert_eq!(world.tokens.open(&ada(), Kind::Access, &access.token).await.unwrap(), "canary-token");
}

#[tokio::test]
async fn without_the_sealing_key_no_lease_is_acquired() {
    let world = World::answering([Answer::secret("short")]).await;
    assert!(matches!(world.access(&ada()).await, Err(Error::Seal(SealError::Key(SecretError::Malformed { .. })))));
    assert_eq!(world.asked(), ["GetSecretValue"]);
}

#[tokio::test]
async fn a_call_resolves_what_an_earlier_call_left_before_its_own_request() {
    let resolve = [
        before_human_api(leased_by_another(pending_access())),
        vec![tokens(), Answer::done(), tokens(), Answer::done()],
    ];
    let world = World::answering(resolve.concat()).await;
    world.access(&ada()).await.unwrap();
    assert_eq!(world.asked()[3..], ["token", "UpdateItem", "token", "UpdateItem"]);
    let requests = world.server.requests();
    let checkpoint: Value = serde_json::from_slice(&requests[4].body).unwrap();
    let effect = checkpoint["UpdateExpression"].as_str().unwrap();
    assert!(effect.contains("userRecord = :record") && effect.contains("pending = :pending"), "{effect}");
}

#[tokio::test]
async fn a_takeover_is_resolved_like_a_pending_request() {
    let taken_over = json!({"takenOver": {"SS": ["other"]}});
    let resolve =
        [before_human_api(leased_by_another(taken_over)), vec![tokens(), Answer::done(), tokens(), Answer::done()]];
    let world = World::answering(resolve.concat()).await;
    world.access(&ada()).await.unwrap();
    let checkpoint: Value = serde_json::from_slice(&world.server.requests()[4].body).unwrap();
    assert!(checkpoint["UpdateExpression"].as_str().unwrap().ends_with("DELETE takenOver :resolved"));
}

#[tokio::test]
async fn each_failure_of_human_api_releases_the_lease_as_it_demands() {
    let past = Some(NOW - 5_000);
    for (answer, removes, until, unresolved) in [
        (Answer::text(500, ""), "", past, 1),
        (Answer::Bytes(String::new()), "", past, 1),
        (Answer::json(200, &json!({})), "", past, 1),
        (Answer::Stall(String::new()), "", Some(NOW + 26_001), 1),
        (Answer::text(422, ""), REMOVES, None, 0),
    ] {
        let retries = if matches!(&answer, Answer::Bytes(text) if text.is_empty()) { 3 } else { 1 };
        let attempts = vec![answer; retries];
        let timeout = if matches!(attempts[0], Answer::Stall(_)) { "100" } else { "8000" };
        let world =
            World::with_timeout(timeout, [before_human_api(Answer::done()), attempts, vec![Answer::done()]].concat())
                .await;
        let (user, invocation) = (ada(), Invocation::start());
        let outcome = world.tokens.exclusive(
            LeaseRequest::of(&user, Request::Access),
            |_| None,
            |leased| Box::pin(leased.access_token()),
            &invocation,
        );
        assert!(matches!(outcome.await, Err(Error::HumanApi(_))));
        let (effect, values) = world.last_write();
        assert!(effect.ends_with(removes), "{effect}");
        assert_eq!(values[":until"]["N"], until.map_or(Value::Null, |until| json!(until.to_string())), "{effect}");
        let measured = invocation.measurements();
        assert_eq!((measured.unresolved, measured.upstream_calls as usize), (unresolved, retries));
    }
}

#[tokio::test]
async fn work_that_fails_or_panics_ends_the_lease() {
    for (panics, removes) in [(false, REMOVES), (true, "leaseUntil = :until")] {
        let world = World::answering([Answer::secret(SEALING_KEY), Answer::done(), Answer::done()]).await;
        let (user, invocation) = (ada(), Invocation::start());
        let outcome = world.tokens.exclusive(
            LeaseRequest::of(&user, Request::Access),
            |_| None,
            |_| Box::pin(async move { if panics { panic!("made up") } else { Err::<(), _>(Error::NotConnected) } }),
            &invocation,
        );
        match outcome.await {
            Err(Error::Panicked) => assert!(panics),
            Err(Error::NotConnected) => assert!(!panics),
            _ => panic!("the work did not end so"),
        }
        let (effect, _) = world.last_write();
        assert!(effect.ends_with(removes), "{effect}");
    }
}

#[tokio::test]
async fn work_that_is_cancelled_writes_nothing_more() {
    let world =
        World::answering(before_human_api(Answer::done()).into_iter().chain([Answer::Stall(String::new())])).await;
    let user = ada();
    let asked = async {
        while world.asked().len() < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = world.access(&user) => panic!("Human API does not answer"),
        () = asked => {}
    }
    assert_eq!(world.asked(), ["GetSecretValue", "UpdateItem", "GetSecretValue", "token"]);
}

#[tokio::test]
async fn an_answer_in_a_leased_row_needs_no_lease() {
    let error = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
    let item = json!({"clientUserId": {"S": "ada"}, "generation": {"S": "g"}});
    let refused = Answer::json(400, &json!({"__type": error, "message": "made up", "Item": item}));
    let world = World::answering([Answer::secret(SEALING_KEY), refused]).await;
    let (user, invocation) = (ada(), Invocation::start());
    let request = LeaseRequest::of(&user, Request::Access);
    let outcome =
        world.tokens.exclusive(request, |_| Some(Ok("answered")), |_| unreachable!("there is an answer"), &invocation);
    assert_eq!(outcome.await.unwrap().0, "answered");
}

#[tokio::test]
async fn a_call_that_shares_failures_fails_as_another_call_has_failed_since() {
    let failed =
        |at: Millis| json!({"userRecord": {"M": {"failedAt": {"N": at.to_string()}}}, "leaseUntil": {"N": "1"}});
    let text = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
    let item = [("clientUserId".to_owned(), text("ada")), ("generation".to_owned(), text("g"))].into();
    let mut seen = Row::decode(&ada().key(), item).unwrap();
    seen.record.failed_at = Some(NOW - 9);
    for (failed_at, fails) in [(NOW - 9, false), (NOW - 1, true)] {
        let answers = [before_human_api(leased_by_another(failed(failed_at))), vec![tokens(), Answer::done()]].concat();
        let world = World::answering(if fails { [&answers[..2], &[Answer::done()]].concat() } else { answers }).await;
        let request = LeaseRequest { shares_failure: true, ..LeaseRequest::of_row(&seen, Request::Access) };
        let invocation = Invocation::start();
        let outcome = world.tokens.exclusive(request, |_| None, |leased| Box::pin(leased.access_token()), &invocation);
        assert_eq!(outcome.await.is_err(), fails);
        assert_eq!(world.asked().len(), if fails { 3 } else { 5 });
    }
}

#[tokio::test]
async fn a_token_that_no_write_could_store_is_unresolved() {
    let error = Answer::json(400, &json!({"__type": "com.amazon.coral.service#AccessDeniedException"}));
    let refused = Answer::json(
        400,
        &json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "message": "made up"}),
    );
    let answers = [before_human_api(Answer::done()), vec![tokens(), error, refused]].concat();
    let world = World::answering(answers).await;
    assert!(matches!(world.access(&ada()).await, Err(Error::Store(StoreError::Deleted))));
    assert_eq!(world.asked()[3..], ["token", "UpdateItem", "UpdateItem"]);
}
