//! The functions' common crate. One noun per module; dependencies point one way:
//!
//! ```text
//! functions ──► lambda ──► http ──► tokens ──► human_api
//!                                      ├─────► store ──► record
//!                                      └─────► seal ──► secret
//! ```
//!
//! | module | purpose |
//! |---|---|
//! | [`config`] | the environment, read once and checked |
//! | [`clock`] | the time, which tests set |
//! | [`identity`] | user IDs, keys, e-mail addresses; the comparison with what Human API says |
//! | [`token`] | tokens, tickets and secrets as types that cannot be printed |
//! | [`invocation`] | one invocation's deadline and measurements |
//! | [`network`] | the one HTTP client |
//! | [`aws`] | the SDK's clients of DynamoDB and Secrets Manager, on that HTTP client |
//! | [`secret`] | Secrets Manager: the client secret and the sealing key, cached |
//! | [`seal`] | AES-256-GCM around every token that reaches the table |
//! | [`human_api`] | Human API's requests, one attempt each |
//! | [`record`] | the data stored about one user |
//! | [`store`] | the DynamoDB table: read, acquire, renew, commit, delete; the indexes |
//! | [`tokens`] | the protocol: `exclusive`, retries, secret rotation, resolving pending requests |
//! | [`http`] | callers, bodies, problems: from `lambda_http`'s request to its response |
//! | [`telemetry`] | log lines, audit lines and metric lines |
//! | [`lambda`] | start-up and the runtime loop |

pub mod aws;
pub mod clock;
pub mod config;
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
pub mod tokens;
