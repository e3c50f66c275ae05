//! Virtio, cut along the chapters of virtio 1.2: layouts, handshake, rings, network device, transports.

pub mod transport;
