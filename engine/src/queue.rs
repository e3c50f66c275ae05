//! Queue pairs around queue pairs: what lies between a port's driver and a loop that shares the port with others.
//!
//! ```text
//!   loop ─► Steered ─► Carrier ─► Prioritised ─► Several ─► the driver's queue pair      core with queue pairs
//!   loop ─► Steered ─► Relay ┄ ring ┄► Carrier of another core                           core without
//! ```
//!
//! Each is a [`QueuePair`](pmd::QueuePair) and is there only where it was asked for, so that a program which has a port
//! to itself is a call away from the driver. [`deal`] puts them together.

pub(crate) mod arrange;
pub(crate) mod deal;
pub(crate) mod priority;
pub(crate) mod relay;
pub(crate) mod several;
pub(crate) mod steer;
#[cfg(test)]
pub(crate) mod test_pair;
