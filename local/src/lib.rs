//! The local stack replaces AWS and Human API: everything runs on loopback, in one process. The tests use the same parts.
//!
//! | module | contents |
//! |---|---|
//! | [`local_stack`] | starts the other parts, and the environment that points the functions at them |
//! | [`aws`] | DynamoDB (embedded `dynoxide`) and Secrets Manager |
//! | [`secrets`] | Secrets Manager's two secrets with their versions and stages |
//! | [`human_api`] | Human API: the token endpoints of both generations, and the widgets' endpoints |
//! | [`stream`], [`event_bus`] | the table's stream, and EventBridge |
//! | [`gateway`] | API Gateway: authorizers, real events, the functions |
//! | [`issuer`] | the identity provider: signed tokens for made-up users |
//! | [`console`] | the console page |
//! | `errors` | the error codes of `docs/api.md`, as a page |
//! | `assets` | the files of the console and of the widgets |
//! | [`cors`] | API Gateway's CORS, as `template.yaml` configures it |
//! | [`proxy`] | forwards the functions' calls, and applies faults to them |
//! | [`faults`] | the faults that tests and the console set |
//! | [`calls`] | the calls that the console draws |
//! | `switches` | what the console changes without the functions |
//! | [`examples`] | made-up users in known states, for `events/` |

mod assets;
pub mod aws;
pub mod calls;
pub mod console;
pub mod cors;
mod errors;
pub mod event_bus;
pub mod examples;
pub mod faults;
pub mod gateway;
pub mod human_api;
pub mod issuer;
pub mod local_stack;
pub mod proxy;
pub mod secrets;
pub mod stream;
mod switches;

/// Returns `N` random bytes as hexadecimal text.
pub(crate) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    // An error is ignored: local ids need no secrecy, and a repeated id would be noticed at once.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    hex(&bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns `true` if the `Host` header names this machine. This defeats DNS rebinding: a page elsewhere whose name points
/// here gets nothing.
pub(crate) fn names_this_machine(headers: &axum::http::HeaderMap) -> bool {
    let host = headers.get(axum::http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "127.0.0.1" | "localhost")
}

/// Locks a mutex, even if a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
