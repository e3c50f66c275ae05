//! TCP/IP for one core: one flow, one socket set.
//!
//! ```text
//!   frame in ─► link (Ethernet, ARP, ND, ICMP, reassembly) ─► flows (4-tuple ─► slab) ─► smoltcp, one socket at a time
//!                                                                                           │
//!   frame out ◄─ link (next hop, Ethernet header) ◄─ egress of touched flows ◄─ service ◄───┘
//! ```
//!
//! The crate knows no NIC and no mbuf: frames come as slices and leave by any smoltcp [`phy::Device`]. Time and
//! randomness come from outside, so that a run can be repeated.
//!
//! # Memory
//!
//! All of it is bounded by [`Limits`]; what was in use once is kept for the next time. A connection takes, measured at
//! 20,000 open ones that have exchanged 64 bytes:
//!
//! | buffers, each way | bytes of memory | of these in buffers |
//! |---|---|---|
//! | 64 KiB (the default) | 9,600 | 8,192: a page of each buffer |
//! | 1 KiB | 3,900 | 2,432 |
//!
//! Buffers take memory page by page as bytes come to lie in them, and go around: a connection that has moved more than
//! its buffers hold may have all of them in memory, 128 KiB by default, even if it is idle now. So `limits.flows`
//! connections, 131,072 by default, need some 1.3 GB if they say little, and 17 GB if all of them were busy. Who cannot
//! spare that lowers the limit, or the buffers. A connection in TIME-WAIT takes about 100 bytes and no buffer.

mod bridge;
#[allow(unsafe_code)]
mod buffers;
mod checksum;
mod clock;
mod config;
mod configure;
mod conn;
mod core;
mod counters;
mod emit;
mod error;
mod flow;
mod flows;
mod fragment;
mod icmp;
mod id;
mod interfaces;
mod link;
mod listen;
mod neighbours;
mod net;
mod node;
mod one_packet;
mod options;
#[cfg(test)]
#[path = "../tests/support/outbox.rs"]
mod outbox;
#[allow(unsafe_code)]
mod prefetch;
mod reassembly;
mod recovery;
mod resolve;
mod routes;
mod segment;
mod service;
mod slaac;
pub mod steer;
mod time_wait;
mod timers;
mod tuple;
mod udp;

pub use bridge::Bridge;
pub use clock::Time;
pub use config::{ConfigError, Limits, Share, StackConfig};
pub use configure::Lease;
pub use conn::Conn;
pub use error::{BindError, Closed, ConnectError, ListenError, SendError};
pub use icmp::Unreachable;
pub use id::{ConnId, ListenerId, UdpId};
pub use net::Net;
pub use node::{Learnt, Received, Stack};
pub use options::{Congestion, ConnectOptions, ListenOptions, TcpOptions};
pub use resolve::{MAX_ANSWERS, MAX_QUERIES, MAX_SERVERS, QueryId, RecordKind, ResolveError};
pub use service::Service;
pub use smoltcp::phy;
pub use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
