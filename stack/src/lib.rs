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

pub use smoltcp::phy;
pub use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
