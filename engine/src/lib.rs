//! The loop per core.

pub mod config;
pub mod latency;
pub mod stats;
#[allow(unsafe_code)]
pub mod tsc;
