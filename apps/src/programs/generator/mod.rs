//! `bywash gen`: traffic generator and sink.

pub mod pacer;
pub mod payload;
pub mod replay;
pub mod sender;
pub mod sink;
pub mod sizes;
pub mod template;
pub mod tracker;

#[cfg(test)]
mod tests;
