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
#[allow(unsafe_code)]
mod prefetch;
mod reassembly;
mod resolve;
mod routes;
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
pub use node::{Learnt, Stack};
pub use options::{Congestion, ConnectOptions, ListenOptions, TcpOptions};
pub use resolve::{MAX_ANSWERS, MAX_QUERIES, MAX_SERVERS, QueryId, RecordKind, ResolveError};
pub use service::Service;
pub use smoltcp::phy;
pub use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
