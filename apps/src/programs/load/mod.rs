//! `bywash load`: a client that asks, checks the answers and measures how long they took.

pub mod http;
pub mod pattern;
pub mod schedule;
pub mod target;
