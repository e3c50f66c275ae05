//! What both virtqueue formats have in common: the contracts that the network device is written against.
//!
//! ```text
//!   net::Receiver<R>, Transmitter<R>  ──► R: DriverRing ◄── split::driver, packed::driver
//! ```
//!
//! The format is chosen once, at negotiation, by naming the type; from then on everything is monomorphic, and the
//! one `dyn` call a burst is that of the port's queue pair.

pub(crate) mod driver;
pub(crate) mod memory;

pub(crate) use driver::{DriverRing, Piece};
pub(crate) use memory::QueueMemory;
