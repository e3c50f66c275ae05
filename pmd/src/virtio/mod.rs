//! Virtio, cut along the chapters of virtio 1.2: layouts, handshake, rings, network device, transports.

#[allow(unsafe_code)]
pub mod attach;
#[allow(unsafe_code)]
pub mod ctrl;
pub(crate) mod header;
mod init;
pub(crate) mod net;
#[allow(unsafe_code)]
pub(crate) mod packed;
pub(crate) mod ring;
pub mod rss;
pub(crate) mod server;
pub mod spec;
#[allow(unsafe_code)]
pub(crate) mod split;
pub mod transport;

pub use init::InitError;

/// Bytes of received frames after which a burst ends, where frames of 64 KiB may come: few enough to stay in a core's
/// cache until they are read, and for the sender to hear of the first while it is busy with more. With a whole window in
/// a burst the two cores would work in turns.
const BURST_BYTES: usize = 128 << 10;
