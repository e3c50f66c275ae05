//! What both virtqueue formats have in common: the contracts that the network device is written against.
//!
//! ```text
//!   net::Receiver<R>, Transmitter<R>  ──► R: DriverRing ◄── split::driver, packed::driver
//!   server's receive(R), transmit(R)  ──► R: DeviceRing ◄── split::device, packed::device
//! ```
//!
//! The format is chosen once, at negotiation, by naming the type; from then on everything is monomorphic, and the
//! one `dyn` call a burst is that of the port's queue pair. A device learns of the format when a driver's ring comes,
//! and may get another one later: it asks which it is once a burst.

#[allow(unsafe_code)]
pub(crate) mod device;
pub(crate) mod driver;
#[allow(unsafe_code)]
pub(crate) mod indirect;
pub(crate) mod memory;
#[allow(unsafe_code)]
pub(crate) mod peer;

pub(crate) use device::{Buffer, Chain, DeviceRing};
pub(crate) use driver::{DriverRing, FETCH_AHEAD, Piece};
pub(crate) use indirect::Tables;
pub(crate) use memory::QueueMemory;
pub(crate) use peer::Peer;

#[cfg(test)]
#[allow(unsafe_code)]
mod device_tests;
#[cfg(any(test, fuzzing))]
#[allow(unsafe_code)]
pub(crate) mod played;
#[cfg(test)]
#[allow(unsafe_code)]
pub(crate) mod played_driver;
#[cfg(test)]
mod tests;
