//! Everything a laptop needs instead of AWS and Human API, on loopback, in one process. The tests use the same parts.
//!
//! | module | what it stands in for |
//! |---|---|
//! | [`laptop`] | puts the others together; the environment that points the functions at them |
//! | [`aws`] | DynamoDB (embedded `dynoxide`) and Secrets Manager |
//! | [`secrets`] | Secrets Manager's two secrets with their versions and stages |
//! | [`human_api`] | Human API: the token endpoints of both generations and what the widgets need |
//! | [`gateway`] | API Gateway: authorizers, true events, the functions |
//! | [`issuer`] | the identity provider: signed tokens for made-up users |
//! | [`console`] | the page |
//! | [`proxy`] | stands between the functions and what they call |
//! | [`faults`] | what the proxy lets go wrong, for tests and for the page |
//! | [`calls`] | what was called, for the page |
//! | [`mask`] | what the page may see of events and answers |
//! | [`examples`] | made-up users in known states, for `events/` |
//! | [`heard`] | CloudWatch, for tests: what the functions wrote |
//! | [`runtime_api`] | Lambda's Runtime API around a built binary, for tests |

pub mod aws;
pub mod calls;
pub mod console;
pub mod cors;
pub mod examples;
pub mod faults;
pub mod gateway;
pub mod heard;
pub mod human_api;
pub mod issuer;
pub mod laptop;
pub mod mask;
pub mod proxy;
pub mod runtime_api;
pub mod secrets;

/// `N` random bytes as hexadecimal text.
pub(crate) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    // a laptop without randomness has other worries; a repeated id would be seen at once
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    hex(&bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a request was sent to this machine by its own name. A page elsewhere that made its name point here (DNS rebinding)
/// gets nothing.
pub(crate) fn names_this_machine(headers: &axum::http::HeaderMap) -> bool {
    let host = headers.get(axum::http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "127.0.0.1" | "localhost")
}

/// Locks, whatever happened to another holder.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
