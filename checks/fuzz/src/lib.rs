//! Fuzz targets for untrusted input, one function for each kind. Each takes any bytes and panics if a promise is broken.
//! The fuzzer (`checks/fuzz/run`) searches for such bytes, and `cargo test` replays the corpus.
#![expect(clippy::panic, reason = "a broken promise is a finding")]

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use finish::Finish;
use finish::report::Report;
use lambda_http::http::HeaderValue;
use lambda_http::http::header::CONTENT_TYPE;
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use session_start::SessionStart;
use shared::config::Config;
use shared::http::body::{FIELD_LIMIT, Fields};
use shared::http::caller::{Claims, backend_request};
use shared::http::route::request_id;
use shared::http::{Problem, Route};
use shared::human_api::{
    AccessResponse, ExchangeResponse, IdResponse, PublicTokenResponse, SessionResponse, read, retry_after,
};
use shared::identity::{UserId, UserKey};
use shared::invocation::Invocation;
use shared::lambda::Function;
use shared::seal::{Kind, SealingKey};
use shared::store::{Row, encode};
use shared::token::Ticket;

/// Largest response to an invalid request, in bytes, whatever the request contains.
const LONGEST_PROBLEM: usize = 1024;

/// API Gateway's events. Only the authorizer names the caller. Every other defect gets a short response.
pub fn event(data: &[u8]) {
    static CLAIMS: LazyLock<Claims> = LazyLock::new(|| Claims::new(&config()));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(request) = decode(text) else { return };
    for routes in [Finish::ROUTES, SessionStart::ROUTES] {
        let _ = Route::of(&request, routes).map_err(check_problem);
    }
    let invocation = Invocation::start();
    let _ = backend_request(&request, &invocation).map_err(check_problem);
    let ticket = request.path_parameters_ref().and_then(|parameters| parameters.first("ticket"));
    let _ = (request_id(&request), ticket.and_then(Ticket::parse));
    for route in [Finish::ROUTES, SessionStart::ROUTES].concat() {
        if let Some(url) = route.base_url(&request) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
            assert!(url.starts_with("https://") && url.chars().all(plain), "a base URL that leads elsewhere: {url}");
        }
    }
    fields(&request);
    match CLAIMS.user(&request) {
        Err(problem) => check_problem(problem),
        Ok(user) => {
            // Parts of the event that nothing reads may be invalid, for example a number out of range.
            let Ok(event) = serde_json::from_str::<Value>(text) else { return };
            let shape = |name| event.pointer("/requestContext/authorizer")?.get(name).filter(|shape| !shape.is_null());
            let claims = match request.request_context_ref() {
                Some(RequestContext::ApiGatewayV2(_)) => {
                    shape("jwt").map_or_else(|| shape("lambda"), |jwt| jwt.get("claims"))
                }
                _ => shape("claims").or_else(|| event.pointer("/requestContext/authorizer")),
            };
            let named = claims.and_then(|claims| claims.get("sub")).and_then(Value::as_str);
            assert!(named == Some(user.id.as_str()), "the user does not come from the authorizer");
        }
    }
}

/// Decodes the event. Returns `None` if `lambda_http` refuses it or panics; the functions answer 400 then. The fuzzer's
/// own panic hook would end the process, so it is replaced meanwhile.
fn decode(event: &str) -> Option<Request> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let request = std::panic::catch_unwind(|| lambda_http::request::from_str(event).ok());
    std::panic::set_hook(hook);
    request.ok().flatten()
}

/// Bodies: JSON, forms and other text, as text or as bytes.
pub fn body(data: &[u8]) {
    let Some((&shape, body)) = data.split_first() else { return };
    let content_type = match shape & 3 {
        0 => None,
        1 => Some("application/json; charset=utf-8"),
        2 => Some("application/x-www-form-urlencoded"),
        _ => Some("text/plain"),
    };
    let is_binary = shape & 4 != 0;
    let body = if is_binary { Body::Binary(body.to_vec()) } else { Body::Text(String::from_utf8_lossy(body).into()) };
    let mut request = Request::new(body);
    if let Some(content_type) = content_type {
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    fields(&request);
}

fn fields(request: &Request) {
    let _ = Fields::json(request).map_err(check_problem);
    let fields = match Fields::json_or_form(request) {
        Ok(fields) => fields,
        Err(problem) => return check_problem(problem),
    };
    for name in ["humanId", "clientId", "sessionToken", "clientUserId", "flow"] {
        match fields.text(name) {
            Ok(text) => assert!(!text.trim().is_empty() && text.len() <= FIELD_LIMIT, "{name} is out of bounds"),
            Err(problem) => check_problem(problem),
        }
    }
    let _ = fields.flag("refresh").map_err(check_problem);
    for source in Report::read(&fields).sources(&[]) {
        assert!(!source.id.trim().is_empty() && !source.name.trim().is_empty(), "a source without an id or a name");
    }
}

fn check_problem(problem: Problem) {
    let status = problem.status();
    assert!((400..500).contains(&status), "{status} is not a caller's error");
    let answer = problem.into_response("made-up-request");
    assert!(answer.body().len() < LONGEST_PROBLEM, "the response grows with the request");
}

/// Tickets of the path. Each ticket has exactly one spelling.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(ticket) = Ticket::parse(text) {
        assert_eq!(ticket.expose(), text, "a ticket with two spellings");
    }
    if let Some((user, random)) = data.split_first_chunk::<32>()
        && let Some((random, _)) = random.split_first_chunk::<32>()
    {
        let ticket = Ticket::from_parts(UserKey::from_bytes(*user), *random);
        let Some(back) = Ticket::parse(&ticket.expose()) else { panic!("a ticket does not parse") };
        assert!(back.user().as_bytes() == user && back.hash() == ticket.hash(), "a ticket parses as another");
    }
}

/// Human API's responses, and its `Retry-After`.
pub fn answer(data: &[u8]) {
    let Some((&kind, answer)) = data.split_first() else { return };
    let texts = match kind % 6 {
        0 => read(answer).ok().map(|exchanged: ExchangeResponse| {
            let tokens = [exchanged.access_token.expose().to_owned(), exchanged.public_token.expose().to_owned()];
            [tokens.to_vec(), vec![exchanged.human_id, exchanged.client_user_id]].concat()
        }),
        1 => read(answer)
            .ok()
            .map(|response: PublicTokenResponse| vec![response.human_id, response.public_token.expose().to_owned()]),
        2 => read(answer).ok().map(|response: SessionResponse| vec![response.session_token.expose().to_owned()]),
        3 => read(answer).ok().map(|response: IdResponse| vec![response.id_token.expose().to_owned()]),
        4 => read(answer).ok().map(|response: AccessResponse| vec![response.access_token.expose().to_owned()]),
        _ => {
            let wait = std::str::from_utf8(answer).ok().and_then(retry_after);
            assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(300)), "the wait is too long");
            None
        }
    };
    for text in texts.into_iter().flatten() {
        assert!(!text.is_empty() && answer.len() >= text.len(), "a field is not from the response");
    }
}

/// Sealed values. Only a value that was sealed for this user and field opens, byte by byte.
pub fn sealed(data: &[u8]) {
    const KINDS: [Kind; 6] =
        [Kind::Access, Kind::AccessRefresh, Kind::Public, Kind::Widget, Kind::WidgetRefresh, Kind::Session];
    static KEY: LazyLock<SealingKey> = LazyLock::new(|| {
        SealingKey::parse("made-up-sealing-key-of-32-chars-or-more").unwrap_or_else(|problem| panic!("{problem}"))
    });
    let user = UserKey::from_bytes([7; UserKey::BYTES]);
    assert!(KINDS.iter().all(|kind| KEY.open(&user, *kind, data).is_none()), "a value opens that was never sealed");

    let Some((&[at, bit, kind], text)) = data.split_first_chunk::<3>() else { return };
    let text = String::from_utf8_lossy(text);
    let kind = KINDS.into_iter().nth(usize::from(kind) % KINDS.len()).unwrap_or(Kind::Access);
    let Ok(mut value) = KEY.seal(&user, kind, &text, [at; 32]) else { panic!("a text cannot be sealed") };
    assert!(KEY.open(&user, kind, &value).as_deref() == Some(&*text), "a sealed text does not open");
    for other in KINDS.into_iter().filter(|other| *other != kind) {
        assert!(KEY.open(&user, other, &value).is_none(), "a value opens in another field");
    }
    let at = usize::from(at) % value.len();
    if let Some(byte) = value.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    assert!(KEY.open(&user, kind, &value).is_none(), "a changed value opens");
}

/// Rows of the table, as DynamoDB's JSON. A decoded row is encoded to the same row.
pub fn item(data: &[u8]) {
    let Ok(Value::Object(attributes)) = serde_json::from_slice(data) else { return };
    let attribute = |(name, value): (&String, &Value)| Some((name.clone(), attribute_value(value)?));
    let item: HashMap<String, AttributeValue> = attributes.iter().filter_map(attribute).collect();
    let Some(Ok(user)) = item.get("clientUserId").map(AttributeValue::as_s) else { return };
    let Some(key) = UserId::new(user.as_str()).map(|user| user.key()) else { return };
    let Ok(row) = Row::decode(&key, item.clone()) else { return };
    let mut again = item;
    again.insert("userRecord".to_owned(), encode(&row.record));
    again.insert("tickets".to_owned(), encode(&row.tickets));
    assert!(Row::decode(&key, again).is_ok_and(|again| again == row), "a row that is not written as it was read");
}

fn attribute_value(value: &Value) -> Option<AttributeValue> {
    let (kind, value) = value.as_object()?.iter().next()?;
    let text = || value.as_str().map(str::to_owned);
    Some(match kind.as_str() {
        "S" => AttributeValue::S(text()?),
        "N" => AttributeValue::N(text()?),
        "BOOL" => AttributeValue::Bool(value.as_bool()?),
        "NULL" => AttributeValue::Null(true),
        "SS" => AttributeValue::Ss(value.as_array()?.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect()),
        "M" => AttributeValue::M(
            value
                .as_object()?
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), attribute_value(value)?)))
                .collect(),
        ),
        "L" => AttributeValue::L(value.as_array()?.iter().filter_map(attribute_value).collect()),
        _ => return None,
    })
}

/// Two user ids. Each has one percent-encoding, which decodes to the id. Human API names a user only by the id or by this
/// encoding.
pub fn user_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (id, other) = text.split_once('\n').unwrap_or((text, ""));
    let Some(user) = UserId::new(id) else { return };
    let encoded = user.percent_encoded();
    assert!(
        percent_decode_str(&encoded).decode_utf8().is_ok_and(|back| back == id),
        "the encoding does not decode to the id"
    );
    // ECMA-262, 19.2.6.4: every other character is escaped.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()%".contains(&byte);
    assert!(encoded.bytes().all(plain), "the encoding differs from encodeURIComponent");
    assert!(user.is_named_by(id) && user.is_named_by(&encoded), "a user is not recognized by the own id");
    assert_eq!(user.is_named_by(other), other == id || other == encoded, "a user is recognized by another id");
}

fn config() -> Config {
    let made_up = |name: &str| match name {
        "TABLE_NAME"
        | "HUMAN_API_CLIENT_ID"
        | "HUMAN_API_SECRET_ID"
        | "TOKEN_KEY_SECRET_ID"
        | "AWS_ACCESS_KEY_ID"
        | "AWS_SECRET_ACCESS_KEY" => Some("made-up".to_owned()),
        "AWS_REGION" => Some("eu-west-1".to_owned()),
        _ => None,
    };
    Config::read(made_up).unwrap_or_else(|error| panic!("{error}"))
}
