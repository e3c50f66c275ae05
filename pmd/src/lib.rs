//! Memory a device may reach, mbufs, virtqueues, and ports: frames in, frames out.
//!
//! ```text
//!   port string ──► port::open ──► Port (cold) ──► QueuePair (hot): rx_burst, tx_burst
//!                                    │                  │
//!                     virtio/init ◄──┘                  ├──► virtio/net ────► virtio/{split,packed}    driver side
//!                         │                             └──► virtio/server ─► virtio/{split,packed}    device side
//!                         ▼
//!          virtio/transport/{vfio, vhost_user, in_process}       mem/{region, pool, mbuf} under all
//!                             │
//!                             └──► vfio/{host, iommu, device, pci}
//!
//!   beside virtio: ports/tap (the kernel as the other side), ports/xdp (its interfaces), ports/netem (any port behind a bad link)
//! ```
//!
//! This crate says nothing of IP, TCP or any stack above it.
//!
//! # Unsafe code
//!
//! Denied at this root; the modules declared with `#[allow(unsafe_code)]` are the whole audit list.
//! The DMA contract, on which all of them rest, is stated once, at [`mem::Region`].

// Tests make bytes out of counters all the time.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

#[cfg(fuzzing)]
#[allow(unsafe_code)]
pub mod fuzzing;
pub mod mem;
pub mod pcap;
pub mod port;
mod ports;
pub mod vfio;
pub mod virtio;

pub use mem::{HomePool, Iova, Mbuf, Pool, Region};
pub use port::{Burst, MAX_BURST, Port, QueuePair};
