//! Virtio, cut along the chapters of virtio 1.2: layouts, handshake, rings, network device, transports.

#[allow(unsafe_code)]
pub mod attach;
pub mod transport;
