//! One server plays DynamoDB, Secrets Manager and Human API, in the order in which a call asks them.

use std::collections::VecDeque;

use scripted::{Answer, CLIENT_SECRET, SEALING_KEY, Server, StoppedTime};
use serde_json::{Value, json};

use super::*;
use crate::aws::{dynamodb, secrets_manager, tests::config};
use crate::clock::Clock;
use crate::identity::EmailAddress;
use crate::invocation::{BUDGET, Measurements};
use crate::network::http_client;
use crate::seal::SealingKey;
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
        Self::of(Server::answering(answers).await, timeout)
    }

    /// DynamoDB gives this item to the acquire and performs every further write. Human API gives these answers, in this order.
    async fn with_row(item: Value, answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::with_keys(item, |_| denied(), answers).await
    }

    /// As `with_row`. `older` is the answer for each version of the sealing key that is not the current one.
    async fn with_keys(
        item: Value,
        older: impl Fn(&str) -> Answer + Send + 'static,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Self {
        let (mut acquired, mut answers) = (Some(item), answers.into_iter().collect::<VecDeque<_>>());
        let server = Server::playing(move |request| {
            let body = request.json();
            match (request.operation(), body["SecretId"].as_str(), body["VersionId"].as_str()) {
                ("GetSecretValue", Some("sealing"), Some(version)) => older(version),
                ("GetSecretValue", Some("sealing"), None) => Answer::secret(SEALING_KEY),
                ("GetSecretValue", ..) => Answer::secret(CLIENT_SECRET),
                ("UpdateItem", ..) => match acquired.take().filter(|item| !item.is_null()) {
                    Some(item) => Answer::json(200, &json!({"Attributes": item})),
                    None => Answer::done(),
                },
                _ => answers.pop_front().unwrap_or(Answer::Close),
            }
        });
        Self::of(server.await, "8000")
    }

    fn of(server: Server, timeout: &str) -> Self {
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
        let last = self.server.requests().pop().unwrap().json();
        (last["UpdateExpression"].as_str().unwrap().to_owned(), last["ExpressionAttributeValues"].clone())
    }
}

fn ada() -> UserId {
    UserId::new("ada").unwrap()
}

/// AWS refuses. The SDK does not try again.
fn denied() -> Answer {
    Answer::json(400, &json!({"__type": "AccessDeniedException", "message": "made up"}))
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
async fn work_that_was_deleted_meanwhile_writes_nothing() {
    let world = World::answering([Answer::secret(SEALING_KEY), Answer::done(), Answer::done()]).await;
    let (user, invocation) = (ada(), Invocation::start());
    let request = LeaseRequest::of(&user, Request::Access);
    let outcome = world.tokens.exclusive(
        request,
        |_| None,
        |_| Box::pin(async { Err::<(), _>(StoreError::Deleted.into()) }),
        &invocation,
    );
    let outcome = outcome.await;
    assert!(matches!(outcome, Err(Error::Store(StoreError::Deleted))));
    assert_eq!(world.asked(), ["GetSecretValue", "UpdateItem"]);
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
    let refused = Answer::refused(Some(&scripted::item("ada", &json!({}))));
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
    let answers = [before_human_api(Answer::done()), vec![tokens(), denied(), Answer::refused(None)]].concat();
    let world = World::answering(answers).await;
    assert!(matches!(world.access(&ada()).await, Err(Error::Store(StoreError::Deleted))));
    assert_eq!(world.asked()[3..], ["token", "UpdateItem", "UpdateItem"]);
}

/// An item that another call has left unresolved: the request, and since when.
fn unresolved(request: Value, age: Millis, record: Value) -> Value {
    let pending = json!({"by": "other", "since": NOW - age, "request": request});
    let attributes = json!({"leaseId": "other", "leaseUntil": NOW - 60_000, "pending": pending, "userRecord": record});
    scripted::item("ada", &attributes)
}

fn seal(kind: Kind, text: &str) -> Sealed {
    let bytes = SealingKey::parse(SEALING_KEY).unwrap().seal(&ada().key(), kind, text, [7; 32]).unwrap();
    Sealed { version: "v1".into(), bytes }
}

fn exchange() -> Value {
    let hash = SessionToken::new("made-up-session").hash();
    json!({"exchange": {"humanId": "h", "session": seal(Kind::Session, "made-up-session"), "hash": hash, "ticket": null}})
}

fn proven() -> Value {
    json!({"humanId": "h", "sealedHumanId": seal(Kind::HumanId, "h")})
}

fn exchanged() -> Answer {
    Answer::json(200, &json!({"humanId": "h", "accessToken": "a", "publicToken": "p", "clientUserId": "ada"}))
}

fn public() -> Answer {
    Answer::json(200, &json!({"humanId": "h", "publicToken": "p"}))
}

fn refusal(status: u16) -> Answer {
    Answer::json(status, &json!({}))
}

/// Takes the lease of this item, and does nothing else. Returns what was asked of Human API, the row, and the measurements.
async fn resolve(item: Value, answers: Vec<Answer>) -> (Vec<String>, Result<Row, Error>, Measurements) {
    let world = World::with_row(item, answers).await;
    let (user, invocation) = (ada(), Invocation::start());
    let request = LeaseRequest::of(&user, Request::Nothing);
    let outcome = world.tokens.exclusive(request, |_| None, |_| Box::pin(async { Ok(()) }), &invocation).await;
    let asked = world.asked().into_iter().filter(|word| !matches!(word.as_str(), "GetSecretValue" | "UpdateItem"));
    (asked.collect(), outcome.map(|((), row)| row), invocation.measurements())
}

#[tokio::test]
async fn a_lost_exchange_is_sent_again_or_else_its_user_gets_what_there_is() {
    const HOUR: Millis = 3_600_000;
    for (age, record, answers, asked, is_public, reconnects) in [
        (HOUR, json!({}), vec![exchanged()], vec!["tokens"], true, false),
        // about somebody else: never ours
        (
            0,
            json!({}),
            vec![Answer::json(
                200,
                &json!({"humanId": "h", "accessToken": "a", "publicToken": "p", "clientUserId": "eve"}),
            )],
            vec!["tokens"],
            false,
            false,
        ),
        // spent, and the humanId is proven
        (0, proven(), vec![refusal(422), public(), tokens()], vec!["tokens", "publictokens", "token"], true, false),
        // spent, and nothing is proven
        (0, json!({}), vec![refusal(422), tokens()], vec!["tokens", "token"], false, true),
        (0, json!({}), vec![refusal(404), refusal(404)], vec!["tokens", "token"], false, true),
        // older than a session lives
        (HOUR + 1, proven(), vec![public(), tokens()], vec!["publictokens", "token"], true, false),
        (HOUR + 1, proven(), vec![refusal(400), tokens()], vec!["publictokens", "token"], false, true),
        // a 403 is about the session, if the credentials are good
        (0, json!({}), vec![refusal(403), tokens(), tokens()], vec!["tokens", "token", "token"], false, true),
        (0, json!({}), vec![refusal(403), refusal(404), refusal(404)], vec!["tokens", "token", "token"], false, true),
        // Human API has failed on the session again
        (0, proven(), vec![refusal(500), public(), tokens()], vec!["tokens", "publictokens", "token"], true, false),
    ] {
        let told = format!("{age} {record} {asked:?}");
        let (words, row, measured) = resolve(unresolved(exchange(), age, record), answers).await;
        let row = row.unwrap_or_else(|error| panic!("{told}: {error}"));
        assert_eq!(words, asked, "{told}");
        assert_eq!((row.record.public_token.is_some(), row.record.reconnect), (is_public, reconnects), "{told}");
        assert_eq!(row.has_finished(&SessionToken::new("made-up-session").hash(), NOW), is_public, "{told}");
        assert_eq!(row.record.connected_at.is_some(), is_public || row.record.access_token.is_some(), "{told}");
        assert_eq!(measured.tokens_recovered > 0, is_public, "{told}");
        assert_eq!(measured.unresolved_age, Some(Duration::from_millis(age.unsigned_abs())), "{told}");
    }
}

#[tokio::test]
async fn a_refusal_that_is_no_verdict_resolves_nothing() {
    for (record, answers, asked) in [
        // about our credentials
        (json!({}), vec![refusal(403), refusal(403)], vec!["tokens", "token"]),
        (json!({}), vec![refusal(500)], vec!["tokens"]),
        // not performed, so it is sent again another time
        (proven(), vec![refusal(429); 3], vec!["tokens"; 3]),
        // an undocumented refusal of a session that may live
        (proven(), vec![refusal(422), refusal(400)], vec!["tokens", "publictokens"]),
    ] {
        let (words, row, _) = resolve(unresolved(exchange(), 0, record), answers).await;
        assert!(matches!(row, Err(Error::HumanApi(_))), "{asked:?}");
        assert_eq!(words, asked);
    }
}

#[tokio::test]
async fn a_failure_leaves_unresolved_what_was_unresolved() {
    let taken_over = {
        let mut item = scripted::item("ada", &json!({"leaseId": "other", "leaseUntil": NOW - 60_000}));
        item["takenOver"] = json!({"SS": ["other"]});
        item
    };
    for item in [unresolved(json!("access"), 0, json!({})), unresolved(exchange(), 0, json!({})), taken_over] {
        let world = World::with_row(item, vec![refusal(429); 3]).await;
        assert!(matches!(world.access(&ada()).await, Err(Error::HumanApi(_))));
        let (effect, values) = world.last_write();
        assert!(!effect.contains("REMOVE"), "{effect}");
        assert_eq!(values[":until"]["N"], json!((NOW - 60_000).to_string()));
    }
}

#[tokio::test]
async fn a_lost_access_or_public_token_is_asked_for_again() {
    let with_public = json!({"humanId": "h", "sealedHumanId": seal(Kind::HumanId, "h"), "publicToken": seal(Kind::Public, "old"),
        "connectedAt": 1});
    let from_access = json!({"connectedAt": 1, "accessToken": {"token": seal(Kind::Access, "old"), "obtainedAt": 1, "from": "connect"}});
    let from_popup = json!({"connectedAt": 1, "accessToken": {"token": seal(Kind::Access, "old"), "obtainedAt": 1, "from": "popup"}});
    for (request, record, answer, asked, revoked, reconnects) in [
        ("access", from_access.clone(), tokens(), vec!["token"], false, false),
        ("access", from_access, refusal(404), vec!["token"], true, false),
        ("access", from_popup, refusal(404), vec!["token"], false, false),
        ("publicToken", with_public.clone(), public(), vec!["publictokens"], false, false),
        ("publicToken", with_public, refusal(404), vec!["publictokens"], false, true),
        ("publicToken", json!({"connectedAt": 1}), public(), vec![], false, true),
        ("widgetToken", json!({"connectedAt": 1}), tokens(), vec![], false, false),
        ("nothing", json!({"connectedAt": 1}), tokens(), vec![], false, false),
    ] {
        let told = format!("{request} {record}");
        let (words, row, _) = resolve(unresolved(json!(request), 0, record), vec![answer]).await;
        let row = row.unwrap_or_else(|error| panic!("{told}: {error}"));
        assert_eq!(
            (words, row.record.revoked, row.record.reconnect),
            (asked.iter().map(|word| (*word).to_owned()).collect(), revoked, reconnects),
            "{told}"
        );
        assert_eq!(row.record.connected_at.is_some(), !revoked, "{told}");
    }
}

#[tokio::test]
async fn a_call_knows_which_session_it_has_resolved_and_counts_what_it_has_stored() {
    let world = World::with_row(unresolved(exchange(), 0, json!({})), [exchanged()]).await;
    let (user, invocation) = (ada(), Invocation::start());
    let outcome = world.tokens.exclusive(
        LeaseRequest::of(&user, Request::Nothing),
        |_| None,
        |leased| {
            let sessions = ["made-up-session", "another"].map(|text| SessionToken::new(text).hash());
            let resolved = sessions.map(|session| leased.has_resolved(&session));
            Box::pin(async move { Ok(resolved) })
        },
        &invocation,
    );
    let outcome = outcome.await;
    assert_eq!(outcome.unwrap().0, [true, false]);
    let measured = invocation.measurements();
    assert_eq!((measured.tokens_stored, measured.tokens_recovered), (1, 1));
}

#[tokio::test]
async fn only_a_call_that_shares_failures_says_that_it_has_failed() {
    for shares_failure in [false, true] {
        let world = World::with_row(Value::Null, [refusal(500)]).await;
        let (user, invocation) = (ada(), Invocation::start());
        let request = LeaseRequest { shares_failure, ..LeaseRequest::of(&user, Request::Access) };
        let outcome = world.tokens.exclusive(request, |_| None, |leased| Box::pin(leased.access_token()), &invocation);
        assert!(outcome.await.is_err());
        let (_, values) = world.last_write();
        assert_eq!(values.to_string().contains("failedAt"), shares_failure, "{values}");
    }
}

#[tokio::test]
async fn after_a_refusal_the_secret_is_read_again_and_then_the_previous_one_is_tried() {
    // AWSCURRENT has changed; or it has not, and AWSPREVIOUS is tried; or neither serves
    for (again, previous, refusals, tried, is_served) in [
        ("v2", None, 1, vec!["secret v1", "secret v2"], true),
        ("v1", Some("v0"), 1, vec!["secret v1", "secret v0"], true),
        ("v2", Some("v0"), 2, vec!["secret v1", "secret v2", "secret v0"], true),
        ("v1", Some("v0"), 2, vec!["secret v1", "secret v0"], false),
        ("v1", Some("v1"), 1, vec!["secret v1"], false),
    ] {
        let mut answers = vec![
            Answer::secret(SEALING_KEY),
            Answer::done(),
            secret_version("v1"),
            refusal(401),
            secret_version(again),
        ];
        if again != "v1" && refusals == 2 {
            // within the cool-down, no second read
            answers.push(refusal(401));
        }
        answers.extend(previous.map(secret_version));
        if is_served {
            answers.push(tokens());
        } else if previous != Some("v1") {
            answers.push(refusal(401));
        }
        answers.push(Answer::done());
        let world = World::answering(answers).await;
        assert_eq!(world.access(&ada()).await.is_ok(), is_served, "{tried:?}");
        let requests = world.server.requests();
        let secrets = requests.iter().filter(|request| request.operation() == "token");
        let secrets: Vec<_> =
            secrets.map(|request| request.json()["client_secret"].as_str().unwrap().to_owned()).collect();
        assert_eq!(secrets, tried);
    }
}

#[tokio::test]
async fn a_request_is_sent_three_times_at_most_and_only_if_that_is_worth_it() {
    for (answers, attempts, is_served) in [
        (vec![refusal(503), tokens()], 2, true),
        (vec![refusal(429), refusal(503), tokens()], 3, true),
        (vec![refusal(503); 4], 3, false),
        (vec![refusal(500), tokens()], 1, false),
        (vec![Answer::with_headers(429, "retry-after: 3600\r\n", "{}"), tokens()], 1, false),
    ] {
        let world = World::with_row(Value::Null, answers).await;
        assert_eq!(world.access(&ada()).await.is_ok(), is_served);
        assert_eq!(world.asked().iter().filter(|word| *word == "token").count(), attempts);
    }
}

#[test]
fn a_life_is_believed_up_to_ten_years() {
    assert_eq!(millis(Duration::from_millis(1500)), 1500);
    assert_eq!(millis(Duration::MAX), 10 * 365 * 86_400_000);
}

#[tokio::test]
async fn both_secrets_are_read_before_the_first_call() {
    let world = World::with_row(Value::Null, []).await;
    world.tokens.prepare().await;
    assert_eq!(world.asked().iter().filter(|word| *word == "GetSecretValue").count(), 2);
}

#[tokio::test]
async fn tokens_that_dynamodb_does_not_take_in_time_are_unresolved() {
    let answers = [before_human_api(Answer::done()), vec![tokens()], vec![denied(); 3]].concat();
    let world = World::answering(answers).await;
    let (user, invocation) = (ada(), Invocation::start());
    let _stopped = StoppedTime::begin();
    let outcome = world.tokens.exclusive(
        LeaseRequest::of(&user, Request::Access),
        |_| None,
        |leased| {
            Box::pin(async move {
                let connected = leased.access_token().await;
                // so late that the commit is tried once
                tokio::time::advance(BUDGET - Duration::from_millis(100)).await;
                connected
            })
        },
        &invocation,
    );
    assert!(matches!(outcome.await, Err(Error::Store(StoreError::Unavailable(_)))));
    assert_eq!(world.asked()[3..], ["token", "UpdateItem"]);
    let measured = invocation.measurements();
    assert_eq!((measured.unresolved, measured.tokens_stored), (1, 0));
}

/// Runs this work under the lease of a user with this record. Returns what was asked of Human API, the outcome, and the last write.
macro_rules! under_lease {
    ($record:expr, $answers:expr, |$leased:ident| $work:expr) => {{
        let world = World::with_row(scripted::item("ada", &json!({"userRecord": $record})), $answers).await;
        let (user, invocation) = (ada(), Invocation::start());
        let request = LeaseRequest::of(&user, Request::Nothing);
        let outcome = world.tokens.exclusive(request, |_| None, |$leased| Box::pin($work), &invocation).await;
        let asked = world.asked().into_iter().filter(|word| !matches!(word.as_str(), "GetSecretValue" | "UpdateItem"));
        (asked.collect::<Vec<_>>(), outcome, world.last_write().0)
    }};
}

#[tokio::test]
async fn an_exchange_brings_tokens_or_says_why_not() {
    let session = SessionToken::new("made-up-session");
    let lost = || Answer::Bytes(String::new());
    for (record, answers, asked, outcome) in [
        (json!({}), vec![exchanged()], vec!["tokens"], "ok"),
        (json!({}), vec![refusal(422)], vec!["tokens"], "Human API refuses this session token"),
        (json!({}), vec![refusal(403)], vec!["tokens"], "Human API refuses our client credentials"),
        (json!({}), vec![refusal(500)], vec!["tokens"], "Human API is not available"),
        // the first attempt may have been performed, and the second is refused: the session counts as spent
        (
            proven(),
            vec![lost(), refusal(422), public(), tokens()],
            vec!["tokens", "tokens", "publictokens", "token"],
            "ok",
        ),
        (json!({}), vec![lost(), refusal(422), tokens()], vec!["tokens", "tokens", "token"], "the user must reconnect"),
    ] {
        let popup = Popup { human_id: "h", session: &session, ticket: None };
        let (words, done, _) = under_lease!(record, answers, |leased| leased.exchange(&popup));
        let told = done.map_or_else(|error| error.to_string(), |_| "ok".to_owned());
        assert_eq!(
            (words, told.split(',').next().unwrap()),
            (asked.iter().map(|word| (*word).to_owned()).collect(), outcome)
        );
    }
}

#[tokio::test]
async fn a_public_token_is_asked_for_only_with_a_proven_human_id() {
    let unproven = json!({"humanId": "h", "sealedHumanId": seal(Kind::HumanId, "another")});
    let of_another_key = json!({"humanId": "h", "sealedHumanId": Sealed { version: "v1".into(), bytes: vec![1; 80] }});
    let connected = json!({"humanId": "h", "sealedHumanId": seal(Kind::HumanId, "h"), "connectedAt": 1});
    let other = Answer::json(200, &json!({"humanId": "another", "publicToken": "p"}));
    for (record, answers, asked, outcome, reconnects) in [
        (proven(), vec![public()], 1, "true", false),
        (unproven, vec![], 0, "false", false),
        (of_another_key, vec![], 0, "false", false),
        (json!({"humanId": "h"}), vec![], 0, "false", false),
        (proven(), vec![refusal(404)], 1, "false", false),
        (connected, vec![refusal(404)], 1, "false", true),
        (proven(), vec![refusal(403)], 1, "Human API refuses our client credentials", false),
        (proven(), vec![refusal(400)], 1, "Human API refused with 400 Bad Request", false),
        (proven(), vec![other], 1, "Human API's answer names another humanId", false),
    ] {
        let told = format!("{record} {outcome}");
        let (words, done, _) = under_lease!(record, answers, |leased| leased.public_token());
        let reconnect = done.as_ref().is_ok_and(|(_, row)| row.record.reconnect);
        let done = done.map_or_else(|error| error.to_string(), |(is_there, _)| is_there.to_string());
        assert_eq!((words.len(), done.as_str(), reconnect), (asked, outcome, reconnects), "{told}");
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_read_now_proves_nothing_and_refuses_nothing() {
    let unknown = Sealed { version: "v7".into(), ..seal(Kind::HumanId, "h") };
    let record = json!({"humanId": "h", "sealedHumanId": unknown});
    let item = scripted::item("ada", &json!({"userRecord": record}));
    let world = World::with_row(item, []).await;
    let (user, invocation) = (ada(), Invocation::start());
    let request = LeaseRequest::of(&user, Request::Nothing);
    let outcome = world.tokens.exclusive(request, |_| None, |leased| Box::pin(leased.public_token()), &invocation);
    assert!(matches!(outcome.await, Err(Error::Seal(SealError::Key(_)))));
}

#[tokio::test]
async fn a_connected_user_keeps_an_id_token_and_loses_a_session_token() {
    for (kind, is_kept) in [("session_token", false), ("id_token", true)] {
        let token = json!({"token": seal(Kind::Widget, "w"), "kind": kind, "expiresAt": NOW});
        let (_, done, _) = under_lease!(json!({"widgetToken": token}), [tokens()], |leased| leased.access_token());
        assert_eq!(done.unwrap().1.record.widget_token.is_some(), is_kept, "{kind}");
    }
}

#[tokio::test]
async fn an_exchange_ends_what_was_lost() {
    let (lost, session) = (SessionToken::new("lost"), SessionToken::new("made-up-session"));
    let record = json!({"reconnect": true, "lostSession": lost.hash()});
    let popup = Popup { human_id: "h", session: &session, ticket: None };
    let (_, done, _) = under_lease!(record, [exchanged()], |leased| leased.exchange(&popup));
    let row = done.unwrap().1;
    assert!(!row.record.reconnect && row.record.lost_session.is_none());
    assert!(row.has_finished(&lost.hash(), NOW) && row.has_finished(&session.hash(), NOW));
}

#[tokio::test]
async fn a_write_reseals_what_opens_and_leaves_the_rest() {
    let of_version = |version: &str, sealed: Sealed| Sealed { version: version.to_owned(), ..sealed };
    let corrupt = Sealed { version: "v0".into(), bytes: vec![1; 80] };
    let record = json!({
        "accessToken": {"token": corrupt, "refresh": of_version("v0", seal(Kind::AccessRefresh, "r")), "obtainedAt": 1, "from": "connect"},
        "widgetToken": {"token": of_version("gone", seal(Kind::Widget, "w")), "refresh": of_version("gone", seal(Kind::WidgetRefresh, "x")),
            "kind": "id_token", "expiresAt": 1},
        "humanId": "h", "sealedHumanId": of_version("v0", seal(Kind::HumanId, "h")), "publicToken": seal(Kind::Public, "p"),
    });
    let older = |version: &str| match version {
        "v0" => Answer::json(
            200,
            &json!({"SecretString": SEALING_KEY, "VersionId": "v0", "VersionStages": ["AWSPREVIOUS"]}),
        ),
        _ => Answer::json(400, &json!({"__type": "ResourceNotFoundException", "message": "made up"})),
    };
    let world = World::with_keys(scripted::item("ada", &json!({"userRecord": record})), older, []).await;
    let (user, invocation) = (ada(), Invocation::start());
    let request = LeaseRequest::of(&user, Request::Nothing);
    let outcome = world.tokens.exclusive(request, |_| None, |_| Box::pin(async { Ok(()) }), &invocation).await;
    let mut record = outcome.unwrap().1.record;
    let versions = record.sealed_mut().map(|(kind, sealed)| (kind, sealed.version.clone())).collect::<Vec<_>>();
    let expected = [
        (Kind::Access, "v0"),
        (Kind::AccessRefresh, "v1"),
        (Kind::Widget, "gone"),
        (Kind::WidgetRefresh, "gone"),
        (Kind::Public, "v1"),
        (Kind::HumanId, "v1"),
    ];
    assert_eq!(versions, expected.map(|(kind, version)| (kind, version.to_owned())));
    // a version that is gone is asked for once
    let asked = world.server.requests().into_iter().filter(|request| request.json()["VersionId"] == "gone").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_lost_exchange_whose_session_never_opens_is_spent_and_one_whose_key_is_slow_waits() {
    let changed = |version: &str, bytes: Vec<u8>| {
        let mut request = exchange();
        request["exchange"]["session"] = json!(Sealed { version: version.into(), bytes });
        unresolved(request, 0, json!({}))
    };
    let (words, row, _) = resolve(changed("v1", vec![1; 80]), vec![tokens()]).await;
    assert!(row.unwrap().record.reconnect);
    assert_eq!(words, ["token"]);
    let world = World::with_row(changed("v7", vec![1; 80]), []).await;
    assert!(matches!(world.access(&ada()).await, Err(Error::Seal(SealError::Key(_)))));
    assert!(!world.asked().contains(&"token".to_owned()));
}

fn secret_version(id: &str) -> Answer {
    Answer::json(200, &json!({"SecretString": format!("secret {id}"), "VersionId": id, "VersionStages": ["x"]}))
}

#[tokio::test]
async fn a_secret_that_got_a_403_is_known_whatever_an_older_one_gets() {
    let before = vec![Answer::secret(SEALING_KEY), Answer::done(), secret_version("v1"), refusal(403)];
    let after = vec![secret_version("v1"), secret_version("v0"), refusal(401), Answer::done()];
    let world = World::answering([before, after].concat()).await;
    assert!(matches!(world.access(&ada()).await, Ok((false, _))));
}

#[tokio::test]
async fn the_third_attempt_is_the_last_whatever_its_answer() {
    let before = vec![Answer::secret(SEALING_KEY), Answer::done(), secret_version("v1")];
    let world =
        World::answering([before, vec![refusal(503), refusal(503), refusal(401), Answer::done()]].concat()).await;
    assert!(world.access(&ada()).await.is_err());
    assert_eq!(world.asked()[3..], ["token", "token", "token", "UpdateItem"]);
}

#[tokio::test]
async fn an_attempt_that_may_have_been_performed_leaves_the_call_unresolved_whatever_follows() {
    let world = World::with_row(Value::Null, [refusal(503), refusal(429), refusal(429)]).await;
    assert!(world.access(&ada()).await.is_err());
    let (effect, values) = world.last_write();
    assert!(!effect.contains("REMOVE"), "{effect}");
    assert_eq!(values[":until"]["N"], json!((NOW - 5_000).to_string()));
}

#[tokio::test]
async fn a_call_that_has_asked_marks_the_takeover() {
    let other = scripted::item("ada", &json!({"leaseId": "other", "leaseUntil": NOW}));
    let acquired = leased_by_another(json!({}));
    let answers = vec![tokens(), Answer::refused(Some(&other)), Answer::done()];
    let world = World::answering([before_human_api(acquired), answers].concat()).await;
    assert!(matches!(world.access(&ada()).await, Err(Error::Store(StoreError::TakenOver))));
    assert!(world.last_write().0.contains("ADD takenOver"));
}

#[tokio::test]
async fn a_takeover_of_a_user_whom_human_api_does_not_know_ends_the_token() {
    for (from, is_revoked) in [("connect", true), ("popup", false)] {
        let token = json!({"token": seal(Kind::Access, "old"), "obtainedAt": 1, "from": from});
        let record = json!({"connectedAt": 1, "accessToken": token});
        let mut item = scripted::item("ada", &json!({"leaseUntil": NOW - 60_000, "userRecord": record}));
        item["takenOver"] = json!({"SS": ["other"]});
        let (asked, row, _) = resolve(item, vec![refusal(404)]).await;
        let record = row.unwrap().record;
        assert_eq!(
            (asked, record.revoked, record.access_token),
            (vec!["token".to_owned()], is_revoked, None),
            "{from}"
        );
    }
}

#[tokio::test]
async fn an_attempt_needs_time_and_a_lease_that_covers_it() {
    let later = |seconds: u32| Answer::with_headers(429, &format!("retry-after: {seconds}\r\n"), "{}");
    // A request may take 8 s, and the last one must have ended at 20 s. A lease older than a second is renewed.
    for (after, answers, asked) in [
        (999, vec![tokens()], vec!["UpdateItem", "token", "UpdateItem"]),
        (1000, vec![tokens()], vec!["UpdateItem", "UpdateItem", "token", "UpdateItem"]),
        (12_000, vec![tokens()], vec!["UpdateItem", "UpdateItem", "token", "UpdateItem"]),
        (12_001, vec![tokens()], vec!["UpdateItem", "UpdateItem"]),
        (8_000, vec![later(4), tokens()], vec!["UpdateItem", "UpdateItem", "token", "token", "UpdateItem"]),
        (8_000, vec![later(5), tokens()], vec!["UpdateItem", "UpdateItem", "token", "UpdateItem"]),
    ] {
        let world = World::with_row(Value::Null, answers).await;
        let stopped = StoppedTime::begin();
        let (user, invocation) = (ada(), Invocation::start());
        let _ = world
            .tokens
            .exclusive(
                LeaseRequest::of(&user, Request::Access),
                |_| None,
                |leased| {
                    Box::pin(async move {
                        tokio::time::advance(Duration::from_millis(after)).await;
                        leased.access_token().await
                    })
                },
                &invocation,
            )
            .await;
        drop(stopped);
        tokio::time::resume();
        let words: Vec<_> = world.asked().into_iter().filter(|word| word != "GetSecretValue").collect();
        assert_eq!(words, asked, "{after} ms");
    }
}

#[tokio::test]
async fn a_widget_token_is_the_one_that_fits_the_user_or_else_the_other() {
    let email = EmailAddress::parse("ada@example.test").unwrap();
    let session = || Answer::json(200, &json!({"session_token": "s", "human_id": "h", "expires_in": 60}));
    let id = || Answer::json(200, &json!({"id_token": "i", "id_refresh_token": "r", "expires_in": 60}));
    let (new, known, lost) = (json!({}), json!({"connectedAt": 1}), json!({"reconnect": true}));
    for (record, answers, requests, outcome) in [
        (new.clone(), vec![session()], 1, "create h"),
        (new.clone(), vec![refusal(422), id()], 2, "edit "),
        // `session` documents a 403, so no other secret is tried
        (new.clone(), vec![refusal(403), id()], 2, "edit "),
        (new.clone(), vec![refusal(400)], 1, "Human API refused with 400 Bad Request"),
        (new.clone(), vec![refusal(404), refusal(410)], 2, "Human API refused with 410 Gone"),
        (new, vec![refusal(500)], 1, "Human API is not available"),
        (known.clone(), vec![id()], 1, "edit "),
        (known, vec![refusal(400), session()], 2, "create h"),
        (lost, vec![refusal(404), session()], 2, "create h"),
    ] {
        let told = format!("{record} {outcome}");
        let (words, done, effect) = under_lease!(record, answers, |leased| leased.widget_token(Some(&email)));
        let done = done.map_or_else(
            |error| error.to_string(),
            |(_, row)| {
                let token = row.record.widget_token.unwrap();
                format!("{} {}", token.kind.mode(), row.record.human_id.unwrap_or_default())
            },
        );
        assert_eq!((words.len(), done.as_str()), (requests, outcome), "{told}");
        // a lost widget token costs nothing, so nothing stays unresolved
        assert!(effect.contains("REMOVE leaseUntil, pending"), "{told}: {effect}");
    }
}

#[test]
fn each_back_off_is_random_and_may_be_twice_as_long_as_the_last() {
    for (attempt, most) in [(1, Duration::from_millis(200)), (2, Duration::from_millis(400))] {
        let waits: Vec<_> = (0..256).map(|_| send::jittered_back_off(attempt)).collect();
        assert!(waits.iter().all(|wait| *wait <= most) && waits.iter().any(|wait| *wait > most / 2), "{waits:?}");
    }
}

#[tokio::test]
async fn a_403_to_access_may_be_about_the_secret() {
    let before = vec![Answer::secret(SEALING_KEY), Answer::done(), secret_version("v1"), refusal(403)];
    let world = World::answering([before, vec![secret_version("v2"), tokens(), Answer::done()]].concat()).await;
    assert!(matches!(world.access(&ada()).await, Ok((true, _))));
}
