//! API Gateway in and out: who calls ([`caller`]), what they ask ([`event`], [`body`]), what they get ([`answer`], [`problem`],
//! [`code`]).
//!
//! Events are read leniently by hand: `lambda_http` converts before a handler runs, and panics or fails on what a
//! hostile caller can put into one (broken base64, a claim that is no string, a control character in a header). The
//! contract wants an answer to every event.

pub mod answer;
pub mod body;
pub mod caller;
pub mod code;
pub mod event;
pub mod problem;

pub use answer::Answer;
pub use code::Code;
pub use event::Request;
pub use problem::Problem;
