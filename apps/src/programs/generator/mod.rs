//! `bywash gen`: traffic generator and sink.

pub mod pacer;
pub mod payload;
pub mod replay;
pub mod sizes;
pub mod template;
pub mod tracker;
