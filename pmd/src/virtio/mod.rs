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
