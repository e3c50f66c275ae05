//! Starting and stopping an engine: memory, ports, cores, in this order; back in the reverse order.
//!
//! ```text
//!   Engine ──start──► Region ─► Pools (one per loop) ─► Ports ─► prepare programs ─► pinned threads ──► Running
//!   keeper (thread) ── asks the ports ten times a second ──► history, log, cores
//!   Running ──stop──► threads joined, queue pairs quiesced ─► ports stopped (devices reset) ─► queue pairs, pools,
//!                     region dropped
//! ```
//!
//! Nothing here is global: several engines may live in one process, share a [`Hub`](crate::Hub), start and stop on
//! their own.

mod builder;
mod keeper;
mod pools;
mod running;
mod sockets;

pub use builder::{Engine, PortIndex, StartError};
pub use keeper::{PortNews, PortRef};
pub(crate) use keeper::{Shared as SharedPorts, lock};
pub use running::{Running, StopError};
