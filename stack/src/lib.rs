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

#[allow(dead_code, reason = "the stack's node is not there yet")]
mod clock;
#[allow(dead_code, reason = "the stack's node is not there yet")]
mod configure;
#[allow(dead_code, reason = "the stack's node is not there yet")]
mod one_packet;
#[allow(dead_code, reason = "the stack's node is not there yet")]
mod resolve;

pub use clock::Time;
pub use configure::Lease;
pub use resolve::{MAX_ADDRESSES, MAX_QUERIES, MAX_SERVERS, QueryId, RecordKind, ResolveError};
pub use smoltcp::phy;
pub use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
