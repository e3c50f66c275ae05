//! The link layer: from Ethernet frames to whole IP packets for us, and back.
//!
//! ```text
//!  frame ─► ethernet ─┬─► arp ──────────────────────────────┐
//!                     ├─► ipv4 ─┐            ┌─► echo, errors ├─► neighbours, routes, path MTU
//!                     └─► ipv6 ─┴─ reassembly┼─► ndp ─────────┘
//!                                            └─► Ingress (TCP, UDP, …) ─► the layers above
//!  send_ip ─► next hop known? ─┬─ yes ─► fragments if need be ─► frame
//!                              └─ no ──► pending (bounded) ─► answer ─► frame
//! ```
//!
//! Every function here is bounded by one frame or, for [`Link::turn`], by the table sizes; none blocks. After
//! warm-up none allocates, except for reassembly within its limit.

use std::collections::VecDeque;

use smoltcp::wire::{EthernetAddress, EthernetProtocol, IpAddress, IpCidr};

use crate::clock::Time;
use crate::config::StackConfig;
use crate::fragment::Identifications;
use crate::icmp::{self, RateLimit};
use crate::neighbours::pending::{Pending, PendingLimits};
use crate::neighbours::{Lookup, Neighbours};
use crate::reassembly::{Reassembly, ReassemblyLimits};
use crate::routes::{Origin, Route, Routes};
use crate::slaac::Autoconf;

mod announce;
mod arp;
mod counters;
mod ethernet;
mod frame_out;
mod icmp_input;
mod ingress;
mod ipv4;
mod ipv6;
mod learnt;
mod mtu;
mod ndp;
mod output;
mod path_mtu;
mod plain;
mod router;

use announce::Announcements;
use counters::Counters;
use ethernet::Ethernet;
pub(crate) use frame_out::FrameOut;
pub(crate) use ingress::{IcmpError, IcmpProblem, Ingress, IpPacket};
pub(crate) use learnt::LinkState;
use path_mtu::PathMtu;

/// Datagrams in reassembly at a time.
const MAX_REASSEMBLIES: usize = 64;
/// Bytes that may wait for one next hop: two of the largest datagrams, or a burst of small ones.
const PENDING_BYTES: usize = 128 * 1024;
/// Packets that may wait for all next hops together.
const PENDING_PACKETS: u32 = 256;
/// Bytes that may wait for all next hops together.
const PENDING_TOTAL_BYTES: usize = 1024 * 1024;
/// Hop limit of packets that we make ourselves. Source: RFC 1700.
const HOP_LIMIT: u8 = 64;

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// Here.
    Mac(EthernetAddress),
    /// Its Ethernet address is being asked for; [`Event::Resolved`] or [`Event::Unresolvable`] with the
    /// address that [`Link::via`] gives follows.
    Pending,
    /// Nowhere.
    NoRoute,
}

/// What happened in the link layer that others may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// This next hop's Ethernet address is known now.
    Resolved(IpAddress),
    /// This next hop did not answer.
    Unresolvable(IpAddress),
    /// A packet of ours was dropped because its next hop did not answer; put as the error that a router would have
    /// sent about it.
    Undeliverable(IcmpError),
    /// We have a new address. Static ones are reported too, before anything else.
    AddressAdded(IpCidr),
    /// We have lost an address: its lifetime ended, it was withdrawn, or another station has it.
    AddressRemoved(IpCidr),
    /// Another station uses this address of ours. To be logged, at most once in ten seconds per stack.
    Conflict { address: IpAddress, mac: EthernetAddress },
    /// A router told of a name server (RFC 8106).
    NameServer(IpAddress),
}

/// The answer that [`Link::next_hop`] gave last. Most packets of a turn go the same way.
#[derive(Debug, Clone, Copy)]
struct CachedHop {
    dst: IpAddress,
    mac: EthernetAddress,
    until: Time,
    generation: u64,
}

/// The link layer of one core's stack.
pub(crate) struct Link {
    mac: EthernetAddress,
    vlan: Option<u16>,
    mtu: usize,
    /// MTU for IPv6, which routers may lower.
    mtu_v6: usize,
    /// Hop limit of our packets, which routers may set for IPv6.
    hop_limit: u8,
    /// Whether this is the core that answers for all (index 0).
    first: bool,
    dhcp: bool,
    routes: Routes,
    neighbours: Neighbours,
    pending: Pending,
    path_mtu: PathMtu,
    reassembly: Reassembly,
    idents: Identifications,
    autoconf: Autoconf,
    announcements: Announcements,
    echo_limit: RateLimit,
    error_limit: RateLimit,
    events: VecDeque<Event>,
    event_limit: usize,
    /// Addresses, routes or MTU changed since [`Link::learnt`] was last called.
    changed: bool,
    cached_hop: Option<CachedHop>,
    /// A datagram about to be cut into fragments.
    scratch: Vec<u8>,
    counters: Counters,
}

impl Link {
    /// A link layer with the configuration's addresses and routes, which are usable at once. Probes,
    /// announcements and solicitations leave with the following turns, from the first core only.
    ///
    /// `config` has passed `StackConfig::check`.
    pub(crate) fn new(config: &StackConfig, now: Time) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&config.seed[..16]);
        let limits = &config.limits;
        let first = config.share.index == 0;
        let v6 = config.slaac || config.addresses.iter().any(|a| matches!(a, IpCidr::Ipv6(_)));
        let neighbours = Neighbours::new(limits.neighbours, &key);
        let pending = Pending::new(PendingLimits {
            packets_per_destination: u32::try_from(limits.pending_per_neighbour).unwrap_or(u32::MAX),
            bytes_per_destination: PENDING_BYTES,
            packets: PENDING_PACKETS,
            bytes: PENDING_TOTAL_BYTES,
        });
        let event_limit = 2 * limits.neighbours + PENDING_PACKETS as usize + 64;
        let mut link = Self {
            mac: config.mac,
            vlan: config.vlan,
            mtu: config.mtu,
            mtu_v6: config.mtu,
            hop_limit: HOP_LIMIT,
            first,
            dhcp: config.dhcp,
            routes: Routes::default(),
            neighbours,
            pending,
            path_mtu: PathMtu::default(),
            reassembly: Reassembly::new(ReassemblyLimits {
                datagrams: MAX_REASSEMBLIES,
                bytes: limits.reassembly_bytes,
            }),
            idents: Identifications::new(&key),
            autoconf: Autoconf::new(config.mac, &config.seed, first && v6, first && config.slaac, now),
            announcements: Announcements::default(),
            echo_limit: icmp::echo_limit(),
            error_limit: icmp::error_limit(limits.icmp_errors_per_second),
            events: VecDeque::with_capacity(64),
            event_limit,
            changed: false,
            cached_hop: None,
            scratch: Vec::new(),
            counters: Counters::default(),
        };
        for cidr in &config.addresses {
            link.add_address(*cidr, now);
        }
        for &(prefix, via) in &config.routes {
            link.routes.add(Route { prefix, via: Some(via), origin: Origin::Static, until: None });
        }
        for &via in &config.gateways {
            link.set_gateway(via, Origin::Static);
        }
        link.changed = false;
        link
    }

    /// Takes in one frame. At most a few frames leave (an answer; packets that waited for this one).
    ///
    /// Give packets back with [`Link::recycle`] when they are done with.
    pub(crate) fn receive<'f>(&mut self, now: Time, frame: &'f [u8], out: &mut dyn FrameOut) -> Ingress<'f> {
        use smoltcp::wire::EthernetProtocol as Type;
        let Some(ethernet) = self.ethernet(frame) else { return Ingress::Consumed };
        match ethernet.ethertype {
            Type::Ipv4 => self.ipv4(now, ethernet, out),
            Type::Ipv6 => self.ipv6(now, ethernet, out),
            Type::Arp => {
                self.arp(now, &ethernet, out);
                Ingress::Consumed
            }
            Type::Unknown(_) => {
                self.counters.unknown_ethertype += 1;
                Ingress::Consumed
            }
        }
    }

    /// Takes in a whole IP packet that another core put together from fragments: it was checked there, and is again.
    pub(crate) fn receive_packet<'p>(
        &mut self,
        now: Time,
        packet: &'p [u8],
        out: &mut dyn FrameOut,
    ) -> Ingress<'p> {
        let frame = |ethertype| Ethernet { group: false, ethertype, payload: packet };
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => self.ipv4(now, frame(EthernetProtocol::Ipv4), out),
            _ => self.ipv6(now, frame(EthernetProtocol::Ipv6), out),
        }
    }

    /// Takes back a packet that has been dealt with, for its memory.
    pub(crate) fn recycle(&mut self, packet: IpPacket<'_>) {
        if let Some(memory) = packet.into_memory() {
            self.reassembly.recycle(memory);
        }
    }

    /// Takes back the memory of a packet that another core has dealt with.
    pub(crate) fn recycle_memory(&mut self, memory: Vec<u8>) {
        self.reassembly.recycle(memory);
    }

    /// Where a packet for `dst` goes. Sends the first request if its next hop is unknown, not more than one a
    /// second and next hop.
    #[inline]
    pub(crate) fn next_hop(&mut self, now: Time, dst: IpAddress, out: &mut dyn FrameOut) -> NextHop {
        if let Some(hop) = self.cached_hop
            && hop.dst == dst
            && hop.until > now
            && hop.generation == self.neighbours.generation()
        {
            return NextHop::Mac(hop.mac);
        }
        self.look_up_hop(now, dst, out)
    }

    fn look_up_hop(&mut self, now: Time, dst: IpAddress, out: &mut dyn FrameOut) -> NextHop {
        // Packets to ourselves would have to be looped back, which no device below does.
        let Some(via) = self.routes.via(dst).filter(|_| !self.routes.is_ours(dst)) else {
            return NextHop::NoRoute;
        };
        if let Some(group) = self.group_mac(via) {
            return NextHop::Mac(group);
        }
        let mut evicted = None;
        let lookup = self.neighbours.lookup(now, via, &mut evicted);
        self.evicted(evicted);
        match lookup {
            Lookup::Known(mac) => {
                let generation = self.neighbours.generation();
                let until = self.neighbours.fresh_until(via);
                self.cached_hop = until.map(|until| CachedHop { dst, mac, until, generation });
                NextHop::Mac(mac)
            }
            Lookup::Pending => NextHop::Pending,
            Lookup::Ask => {
                self.solicit(via, None, out);
                NextHop::Pending
            }
        }
    }

    /// The neighbour that packets for `dst` go to, which is what events about resolution name.
    pub(crate) fn via(&self, dst: IpAddress) -> Option<IpAddress> {
        self.routes.via(dst)
    }

    /// The address to send from to `dst`, if there is one of its version.
    pub(crate) fn source(&self, dst: IpAddress) -> Option<IpAddress> {
        self.routes.source(dst)
    }

    /// Our addresses, tentative ones left out.
    pub(crate) fn addresses(&self) -> &[IpCidr] {
        self.routes.addresses()
    }

    /// Whether `address` is one of ours.
    pub(crate) fn is_ours(&self, address: IpAddress) -> bool {
        self.routes.is_ours(address)
    }

    /// Whether packets to `address` go to everybody on the link.
    pub(crate) fn is_broadcast(&self, address: IpAddress) -> bool {
        matches!(address, IpAddress::Ipv4(address) if self.routes.is_broadcast(address))
    }

    /// Largest IP packet that fits the path to `dst`, bytes.
    pub(crate) fn path_mtu(&self, dst: IpAddress) -> usize {
        self.path_mtu.get(dst, self.link_mtu(dst))
    }

    /// Takes in that packets to `dst` must not be larger than `mtu` (0: smaller than now), once the caller has
    /// made sure that the report is about a packet of ours. Returns the path's MTU if it is lower now.
    pub(crate) fn lower_path_mtu(&mut self, now: Time, dst: IpAddress, mtu: usize) -> Option<usize> {
        let link_mtu = self.link_mtu(dst);
        let lowered = self.path_mtu.lower(now, dst, mtu, link_mtu);
        self.counters.path_mtu_lowered += u64::from(lowered.is_some());
        lowered
    }

    fn link_mtu(&self, dst: IpAddress) -> usize {
        if matches!(dst, IpAddress::Ipv4(_)) { self.mtu } else { self.mtu_v6 }
    }

    /// Adds an address with its on-link prefix, and announces it. `false` if it is there or there are too many.
    pub(crate) fn add_address(&mut self, cidr: IpCidr, now: Time) -> bool {
        if !self.routes_mut().add_address(cidr, true) {
            return false;
        }
        self.changed = true;
        self.event(Event::AddressAdded(cidr));
        if self.first {
            match cidr.address() {
                IpAddress::Ipv4(address) => self.announcements.begin(address, now),
                // RFC 4429 in spirit: used at once, and probed.
                IpAddress::Ipv6(address) => self.autoconf.probe(address, now),
            }
        }
        true
    }

    /// Takes an address away.
    pub(crate) fn remove_address(&mut self, address: IpAddress) {
        if let Some(cidr) = self.routes_mut().remove_address(address) {
            self.changed = true;
            self.event(Event::AddressRemoved(cidr));
        }
        self.announcements.end(address);
    }

    /// Makes `via` the default router of its IP version, in place of the one that `origin` named before.
    pub(crate) fn set_gateway(&mut self, via: IpAddress, origin: Origin) {
        self.clear_gateway(via, origin);
        let prefix = default_prefix(via);
        self.routes_mut().add(Route { prefix, via: Some(via), origin, until: None });
        self.changed = true;
    }

    /// Forgets the default router that `origin` named, of the IP version of `like`.
    pub(crate) fn clear_gateway(&mut self, like: IpAddress, origin: Origin) {
        let prefix = default_prefix(like);
        self.routes_mut().remove(|r| r.prefix == prefix && r.origin == origin);
        self.changed = true;
    }

    /// Whether anything happened.
    #[inline]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing that happened.
    pub(crate) fn events(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Calls `visit` with each counter and gauge.
    pub(crate) fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
        visit("neighbours", self.neighbours.len() as u64);
        visit("pending", self.pending.len() as u64);
        visit("reassemblies", self.reassembly.len() as u64);
        visit("reassembly_bytes", self.reassembly.bytes() as u64);
    }

    /// Whether nothing waits here: no packet for a next hop, no datagram for fragments.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.len() == 0 && self.reassembly.len() == 0
    }

    /// Changes to the routes go through here: answers given before may be wrong now.
    fn routes_mut(&mut self) -> &mut Routes {
        self.cached_hop = None;
        &mut self.routes
    }

    fn event(&mut self, event: Event) {
        // A caller that drains every turn never gets here: a turn cannot bring more events than this.
        if self.events.len() >= self.event_limit {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(event);
    }
}

/// `0.0.0.0/0` or `::/0`.
fn default_prefix(like: IpAddress) -> IpCidr {
    match like {
        IpAddress::Ipv4(_) => IpCidr::new(IpAddress::v4(0, 0, 0, 0), 0),
        IpAddress::Ipv6(_) => IpCidr::new(IpAddress::v6(0, 0, 0, 0, 0, 0, 0, 0), 0),
    }
}

#[cfg(test)]
mod tests;
