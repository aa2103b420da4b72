//! What the functions share. One noun per module; dependencies point one way:
//!
//! ```text
//! functions ──► lambda ──► http ──────────────┐
//!     │                                       ▼
//!     └──────► connect ──► human_api ──► identity, token, invocation
//!                 └──────► store ──► record, seal ──┘
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`config`] | the environment, read once and checked |
//! | [`identity`] | who the user is: ids, keys, the comparison with what Human API says |
//! | [`token`] | tokens, tickets and secrets as types that cannot be printed |
//! | [`invocation`] | one invocation's time budget and what it measured |
//! | [`network`] | the one HTTP client |
//! | [`aws`] | DynamoDB and Secrets Manager on it, by the SDK's operations |
//! | [`secret`] | Secrets Manager: the client secret and the sealing key, cached |
//! | [`seal`] | AES-256-GCM around every token that reaches the table |
//! | [`human_api`] | Human API's four requests |
//! | [`record`] | what is stored about one user |
//! | [`store`] | the DynamoDB table: read, hold, commit, forget; for the sweeper, its indexes |
//! | [`connect`] | the exchange: Human API and the store, joined so that nothing is lost |
//! | [`http`] | API Gateway events in, answers and problems out |
//! | [`telemetry`] | one log line and one metric line per invocation |
//! | [`lambda`] | start-up and the runtime loop |

pub mod aws;
pub mod clock;
pub mod config;
pub mod connect;
pub mod http;
pub mod human_api;
pub mod identity;
pub mod invocation;
pub mod lambda;
pub mod network;
pub mod record;
pub mod seal;
pub mod secret;
pub mod store;
pub mod telemetry;
pub mod token;
