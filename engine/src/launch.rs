//! Starting and stopping an engine: memory, ports, cores, in this order; back in the reverse order.
//!
//! ```text
//!   Engine ──start──► Region ─► Pools (one per loop) ─► Ports ─► prepare programs ─► pinned threads ──► Running
//!   Running ──stop──► threads joined, queue pairs quiesced ─► ports stopped (devices reset) ─► queue pairs, pools,
//!                     region dropped
//! ```
//!
//! Nothing here is global: several engines may live in one process, share a [`Hub`](crate::Hub), start and stop on
//! their own.

mod builder;
mod running;
mod sockets;

pub use builder::{Engine, PortIndex, StartError};
pub use running::{Running, StopError};
