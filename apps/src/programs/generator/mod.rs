//! `bywash gen`: traffic generator and sink.
//!
//! ```text
//!   args ──► program (the loop's side) ──► sender ──► sizes, template + payload, or copied, or replay; pacer
//!                                     └──► sink   ──► payload, template's pattern
//!                                             └─────► tracker ◄── sender
//! ```

pub mod args;
pub mod copied;
pub mod pacer;
pub mod payload;
pub mod program;
pub mod replay;
pub mod sender;
pub mod sink;
pub mod sizes;
pub mod template;
pub mod tracker;

pub use args::{Check, EXAMPLES, Frames, GenArgs, GenConfig};
pub use program::{FOREIGN, GenError, Generator};

#[cfg(test)]
mod tests;
