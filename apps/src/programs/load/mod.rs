//! `bywash load`: a client that asks, checks the answers and measures how long they took.
//!
//! ```text
//!   args ──► service (one a core) ──► streams (TCP) ──► pattern, or http + status
//!                            │   └──► datagrams (UDP) ──► pattern, the generator's tracker
//!                            └──────► ledger ──► schedule (open loop)
//! ```

pub mod args;
pub mod datagrams;
pub mod http;
pub mod ledger;
pub mod pattern;
pub mod schedule;
mod service;
pub mod status;
pub mod streams;
pub mod target;

pub use args::{EXAMPLES, LoadArgs, LoadConfig, Protocol};
pub use service::Load;
