//! The cache, with a scripted server in place of Secrets Manager. Time stands still unless a test moves it.

use scripted::{Answer, Server, StoppedTime};
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::aws::{secrets_manager, tests::config};
use crate::network::http_client;

const TTL: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

struct World {
    server: Server,
    secret: Secret<String>,
    _stopped: StoppedTime,
}

impl World {
    async fn new(ttl: Duration, answers: impl IntoIterator<Item = Answer>) -> Self {
        let stopped = StoppedTime::begin();
        let server = Server::answering(answers).await;
        let config = config(&[("AWS_ENDPOINT_URL", &server.url)]);
        let client = secrets_manager(&config.aws, &http_client(&config).unwrap());
        let parse = |text: &str| if text == "bad" { Err("is bad") } else { Ok(text.to_owned()) };
        Self { server, secret: Secret::new(client, "made-up".into(), ttl, parse), _stopped: stopped }
    }

    async fn current(&self) -> String {
        self.secret.current().await.unwrap().id.clone()
    }

    async fn refresh(&self, refused: &str, invocation: &Invocation) -> Option<String> {
        self.secret.refresh_after_rejection(refused, invocation).await.map(|version| version.id.clone())
    }

    /// The stages and versions asked for so far.
    fn asked(&self) -> Vec<String> {
        let which = |body: Value| {
            assert_eq!(body["SecretId"], "made-up");
            body.get("VersionStage").or_else(|| body.get("VersionId")).unwrap().as_str().unwrap().to_owned()
        };
        self.server.requests().iter().map(|request| which(request.json())).collect()
    }
}

fn version(id: &str, stage: &str) -> Answer {
    Answer::json(200, &json!({"SecretString": format!("value of {id}"), "VersionId": id, "VersionStages": [stage]}))
}

fn current(id: &str) -> Answer {
    version(id, "AWSCURRENT")
}

fn bad() -> Answer {
    Answer::json(200, &json!({"SecretString": " bad\n", "VersionId": "v9", "VersionStages": ["AWSCURRENT"]}))
}

/// The SDK does not try these again.
fn error(name: &str) -> Answer {
    Answer::json(400, &json!({"__type": name, "message": "made up"}))
}

fn denied() -> Answer {
    error("AccessDeniedException")
}

#[tokio::test]
async fn a_value_is_used_until_its_time_to_live_is_over() {
    let world = World::new(TTL, [current("v1"), current("v2")]).await;
    assert!(world.secret.cached().is_none());
    assert_eq!(world.current().await, "v1");
    advance(TTL - TICK).await;
    assert_eq!((world.current().await, world.asked().len()), ("v1".to_owned(), 1));
    advance(TICK).await;
    assert_eq!((world.current().await, world.asked()), ("v2".to_owned(), vec!["AWSCURRENT".to_owned(); 2]));
    assert_eq!(world.secret.cached().unwrap().value, "value of v2");
}

#[tokio::test]
async fn if_a_value_cannot_be_read_again_the_last_one_serves_and_a_first_read_fails() {
    let world = World::new(TTL, [denied(), current("v1"), denied(), current("v2")]).await;
    assert!(matches!(world.secret.current().await, Err(SecretError::Unavailable { .. })));
    assert_eq!(world.current().await, "v1");
    advance(TTL).await;
    assert_eq!((world.current().await, world.asked().len()), ("v1".to_owned(), 3));
    advance(COOL_DOWN - TICK).await;
    assert_eq!((world.current().await, world.asked().len()), ("v1".to_owned(), 3));
    advance(TICK).await;
    assert_eq!((world.current().await, world.asked().len()), ("v2".to_owned(), 4));
}

#[tokio::test]
async fn a_refused_secret_is_read_again_once_in_the_cool_down() {
    let world = World::new(TTL, [current("v1"), current("v2"), current("v2"), denied()]).await;
    let invocation = Invocation::start();
    world.current().await;
    assert_eq!(world.refresh("v1", &invocation).await.as_deref(), Some("v2"));
    // another call that used v1 takes what this one has read
    assert_eq!(world.refresh("v1", &invocation).await.as_deref(), Some("v2"));
    advance(COOL_DOWN - TICK).await;
    assert_eq!((world.refresh("v2", &invocation).await, world.asked().len()), (None, 2));
    advance(TICK).await;
    assert_eq!((world.refresh("v2", &invocation).await, world.asked().len()), (None, 3));
    advance(COOL_DOWN).await;
    assert_eq!((world.refresh("v2", &invocation).await, world.asked().len()), (None, 4));
    assert_eq!(invocation.measurements().secret_refreshed, 3);
    // the old version is still known
    assert_eq!(world.secret.version("v1").await.unwrap().value, "value of v1");
    assert_eq!(world.asked().len(), 4);
}

#[tokio::test]
async fn during_the_cool_down_an_old_value_serves() {
    let world = World::new(Duration::ZERO, [current("v1"), current("v2"), current("v3")]).await;
    world.current().await;
    assert_eq!(world.refresh("v1", &Invocation::start()).await.as_deref(), Some("v2"));
    advance(COOL_DOWN - TICK).await;
    assert_eq!((world.current().await, world.asked().len()), ("v2".to_owned(), 2));
    advance(TICK).await;
    assert_eq!((world.current().await, world.asked().len()), ("v3".to_owned(), 3));
}

#[tokio::test]
async fn the_previous_value_is_read_once_in_the_cool_down_even_if_there_is_none() {
    let world = World::new(TTL, [error("ResourceNotFoundException"), version("v0", "AWSPREVIOUS")]).await;
    let previous = async || world.secret.previous().await.map(|version| version.id.clone());
    assert_eq!(previous().await, None);
    advance(COOL_DOWN - TICK).await;
    assert_eq!((previous().await, world.asked()), (None, vec!["AWSPREVIOUS".to_owned()]));
    advance(TICK).await;
    assert_eq!((previous().await.as_deref(), world.asked().len()), (Some("v0"), 2));
    assert_eq!((previous().await.as_deref(), world.asked().len()), (Some("v0"), 2));
}

#[tokio::test]
async fn a_value_that_is_not_usable_gives_way_to_the_previous_one() {
    let world = World::new(TTL, [bad(), version("v0", "AWSPREVIOUS"), current("v2")]).await;
    assert_eq!(world.secret.current_or_previous().await.unwrap().id, "v0");
    advance(COOL_DOWN - TICK).await;
    assert_eq!((world.current().await, world.asked().len()), ("v0".to_owned(), 2));
    advance(TICK).await;
    assert_eq!(world.current().await, "v2");
}

#[tokio::test]
async fn without_a_usable_value_the_first_error_is_told() {
    let world = World::new(TTL, [bad(), denied(), denied()]).await;
    assert!(matches!(world.secret.current_or_previous().await, Err(SecretError::Malformed { .. })));
    // nothing but a value that is not usable makes the previous one serve
    assert!(matches!(world.secret.current_or_previous().await, Err(SecretError::Unavailable { .. })));
    assert_eq!(world.asked(), ["AWSCURRENT", "AWSPREVIOUS", "AWSCURRENT"]);
}

#[tokio::test]
async fn a_version_is_fetched_once() {
    let world = World::new(TTL, [version("v0", "AWSPREVIOUS"), current("v1")]).await;
    for _ in 0..2 {
        assert_eq!(world.secret.version("v0").await.unwrap().value, "value of v0");
    }
    // the current version by its ID is the current version from now on
    assert_eq!(world.secret.version("v1").await.unwrap().id, "v1");
    assert_eq!((world.current().await, world.asked()), ("v1".to_owned(), vec!["v0".to_owned(), "v1".to_owned()]));
}

#[tokio::test]
async fn only_so_many_versions_are_kept() {
    let many = (0..=VERSIONS_KEPT).chain(0..=1).map(|number| version(&number.to_string(), "old"));
    let world = World::new(TTL, many).await;
    for number in 0..VERSIONS_KEPT {
        world.secret.version(&number.to_string()).await.unwrap();
    }
    world.secret.version("0").await.unwrap();
    assert_eq!(world.asked().len(), VERSIONS_KEPT);
    // one more, and the others are forgotten
    world.secret.version(&VERSIONS_KEPT.to_string()).await.unwrap();
    world.secret.version("0").await.unwrap();
    assert_eq!(world.asked().len(), VERSIONS_KEPT + 2);
}

#[tokio::test]
async fn an_error_says_what_is_missing() {
    let missing = || error("ResourceNotFoundException");
    let world = World::new(TTL, [missing(), missing(), denied()]).await;
    assert!(matches!(world.secret.current().await, Err(SecretError::Missing { id }) if id == "made-up"));
    let failed = world.secret.version("v7").await;
    assert!(matches!(failed, Err(SecretError::MissingVersion { version, .. }) if version == "v7"));
    assert!(matches!(world.secret.version("v7").await, Err(SecretError::Unavailable { .. })));
}

#[tokio::test]
async fn a_forced_read_asks_whatever_the_age() {
    let world = World::new(TTL, [current("v1"), current("v2")]).await;
    world.current().await;
    assert_eq!(world.secret.read_current().await.unwrap().id, "v2");
    assert_eq!((world.current().await, world.asked().len()), ("v2".to_owned(), 2));
}

#[test]
fn the_client_secret_is_text_or_json_with_client_secret() {
    for (text, secret) in [
        ("made-up", Some("made-up")),
        (r#"{"clientSecret":"made-up","x":1}"#, Some("made-up")),
        ("", None),
        ("{", None),
        ("{}", None),
        (r#"{"clientSecret":""}"#, None),
        (r#"{"clientSecret":1}"#, None),
        (r#""{\"clientSecret\":\"made-up\"}""#, None),
    ] {
        assert_eq!(parse_client_secret(text).ok().as_ref().map(ClientSecret::expose), secret, "{text}");
    }
}

#[test]
fn a_pasted_client_secret_is_stripped_and_refused_in_quotes() {
    let (pasted, kept, quoted) = (
        ["\u{feff}made up", "\u{feff} \r\nmade up\t\n", " \u{feff}made up\u{feff} ", "\u{a0}made up"],
        ["made\"up", "\"made-up", "made-up'"],
        ["\"made-up\"", " 'made-up' ", "`made-up`", "“made-up”", "„made-up“", "«made-up»", "“made-up\""],
    );
    let cases = pasted.map(|text| (text, Some("made up"))).into_iter().chain(kept.map(|text| (text, Some(text))));
    let refused = ["\u{feff}", " \n", "\"", "\"\""].into_iter().chain(quoted).map(|text| (text, None));
    for (text, secret) in cases.chain(refused) {
        let json = serde_json::json!({"clientSecret": text}).to_string();
        for text in [text.to_owned(), format!("\u{feff}{json}\n"), json] {
            assert_eq!(parse_client_secret(&text).ok().as_ref().map(ClientSecret::expose), secret, "{text:?}");
        }
    }
}
