//! The contract's response to each fault of each call.

use local::faults::Service;
use local::gateway::Reply;

use super::calls::{Call, Known};
use super::faults::{When, Wrong};

/// Status and code of a response.
type Expectation = (u16, &'static str);

/// Checks the headers and fields that every response must have. Returns the first defect.
pub(crate) fn ill_formed(reply: &Reply) -> Option<String> {
    let body = reply.json();
    let header = |name: &str| reply.headers.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let kind = if reply.status < 400 { "application/json" } else { "application/problem+json" };
    let retry = reply.status == 503 || body["code"] == "finish_in_progress";
    let problem =
        reply.status >= 400 && ["type", "title", "detail", "requestId"].iter().any(|name| !body[*name].is_string());
    let told = |what: &str| Some(format!("{what}: {:?} {body}", reply.headers));
    match () {
        () if header("cache-control") != "no-store" => told("no Cache-Control"),
        () if header("content-type") != kind => told("another Content-Type"),
        () if retry != header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0) => told("Retry-After"),
        () if problem => told("no problem details"),
        () => None,
    }
}

/// Returns the response that the contract requires. The first fault that the call cannot recover from decides.
pub(crate) fn expect(call: Call, known: Known, wrongs: &[Wrong], fired: &[Service]) -> Expectation {
    let alone = |service: &Service| {
        let wrong = wrongs.iter().find(|wrong| wrong.service == *service).unwrap();
        match service {
            Service::HumanApi => human_api(call, known, wrong.name, wrong.when),
            Service::DynamoDb => dynamodb(call, known, wrong.name, wrong.when),
            Service::SecretsManager => secrets_manager(call, known, wrong.name, wrong.when),
        }
    };
    // A refused connection is not in the list of faults that fired.
    let refused = wrongs.iter().filter(|wrong| wrong.name == "refused" && sends_to_human_api(call, known));
    let refused: Vec<Service> = refused.map(|wrong| wrong.service).collect();
    let mut answers = fired.iter().chain(&refused).map(alone);
    let last = answers.clone().next_back();
    answers.find(|(status, _)| *status >= 400).or(last).unwrap_or_else(|| healthy(call, known))
}

pub(crate) fn healthy(call: Call, known: Known) -> Expectation {
    match call {
        Call::PublicRefresh | Call::AccessForce if known == Known::New => (404, "not_connected"),
        Call::SessionConnect
        | Call::SessionPopup
        | Call::PublicRefresh
        | Call::AccessForce
        | Call::Show
        | Call::Sweep => (200, "ok"),
        Call::FinishPopup | Call::FinishTicket | Call::FinishSame | Call::FinishWidget => (201, "ok"),
        Call::Delete | Call::Forget => (204, "ok"),
        Call::ImportTokens | Call::ImportByAccess => (201, "ok"),
    }
}

fn human_api(call: Call, known: Known, name: &str, when: When) -> Expectation {
    let exchange = call.is_exchange();
    let once = when != When::Always;
    match name {
        "reset after acting" | "half a body" if once && exchange && known == Known::New => (409, "reconnect_required"),
        "reset before acting"
        | "reset after acting"
        | "half a body"
        | "429"
        | "429, Retry-After"
        | "502, HTML"
        | "503"
        | "504"
            if once =>
        {
            healthy(call, known)
        }
        "refused"
        | "reset before acting"
        | "reset after acting"
        | "half a body"
        | "429"
        | "429, Retry-After"
        | "429, long Retry-After"
        | "500"
        | "502, HTML"
        | "503"
        | "504" => (503, "upstream_unavailable"),
        "hang before acting" | "hang after acting" | "slow body" => (504, "upstream_timeout"),
        "401" => (502, "upstream_unauthorized"),
        "400" | "404" | "409" | "422" if exchange => (422, "session_rejected"),
        "403" if exchange => (502, "upstream_unauthorized"),
        // Human API says that there is no connection.
        "403" | "404" => match (call, known) {
            (Call::FinishWidget, _) | (Call::AccessForce, Known::ByPopup) => (200, "ok"),
            (Call::AccessForce, _) => (410, "connection_revoked"),
            (Call::PublicRefresh, _) if name == "404" => (409, "reconnect_required"),
            (Call::SessionPopup, _) if name == "404" && once => (200, "ok"),
            (Call::PublicRefresh | Call::SessionPopup, _) if name == "403" => (502, "upstream_unauthorized"),
            _ => (502, "upstream_invalid"),
        },
        _ => (502, "upstream_invalid"),
    }
}

fn dynamodb(call: Call, known: Known, name: &str, when: When) -> Expectation {
    match (name, when) {
        ("conditional conflict", When::OnceAfter(_)) => healthy(call, known),
        ("conditional conflict", When::Always) => (409, "finish_in_progress"),
        // Only an acquire and a commit are sent again.
        ("table missing", When::OnceAfter(spared)) if is_sent_again(call, known, spared) => healthy(call, known),
        ("table missing", _) => (503, "store_unavailable"),
        (_, When::OnceAfter(_)) => healthy(call, known),
        _ => (503, "store_unavailable"),
    }
}

/// Returns `true` if this call of DynamoDB, after so many others, acquires a lease or commits. Some calls read the row first.
fn is_sent_again(call: Call, known: Known, spared: usize) -> bool {
    let acquire = usize::from(!call.is_exchange() && call != Call::FinishWidget);
    sends_to_human_api(call, known) && (acquire..=acquire + 1).contains(&spared)
}

/// Returns `true` if the call sends a request to Human API.
fn sends_to_human_api(call: Call, known: Known) -> bool {
    match call {
        Call::Show | Call::Delete | Call::Forget | Call::ImportTokens | Call::Sweep => false,
        Call::SessionPopup => known == Known::ByWidget,
        Call::PublicRefresh | Call::AccessForce => known != Known::New,
        _ => true,
    }
}

fn secrets_manager(call: Call, known: Known, name: &str, when: When) -> Expectation {
    if call == Call::Show || call.is_delete() {
        // Nothing is sealed or opened. Only the log's hash of the user is missing.
        return healthy(call, known);
    }
    match (name, when) {
        ("slow", _) | ("down" | "too slow", When::OnceAfter(_)) => healthy(call, known),
        _ => (503, "secret_unavailable"),
    }
}
