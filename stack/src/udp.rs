//! UDP sockets: who has which port, what a datagram has to be to reach them, and how one is written.

use core::hash::Hasher;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint, IpProtocol, IpRepr, UdpPacket, UdpRepr};

use crate::clock::Time;
use crate::error::{BindError, SendError};
use crate::id::UdpId;
use crate::link::{FrameOut, IcmpError, IpPacket, Link};
use crate::neighbours::Keyed;

const HEADER_LEN: usize = 8;
/// Largest payload over IPv4: 65,535 less the headers of IP and UDP.
const MAX_V4: usize = 65_507;
/// Over IPv6, whose payload length leaves its own header out.
const MAX_V6: usize = 65_527;
/// Hop limit of datagrams.
const HOP_LIMIT: u8 = 64;

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    at: Option<IpListenEndpoint>,
    /// Whether the socket may send to a broadcast address.
    broadcast: bool,
    next_free: Option<u32>,
}

/// A datagram for a socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Datagram<'p> {
    pub(crate) socket: UdpId,
    pub(crate) from: IpEndpoint,
    pub(crate) to: IpAddress,
    pub(crate) data: &'p [u8],
}

/// The UDP sockets of a stack. At most as many as its limit; lookups cost one or two hashes.
pub(crate) struct Udp {
    slots: Vec<Slot>,
    free: Option<u32>,
    bound: HashMap<IpListenEndpoint, u32, Keyed>,
    /// How many sockets have a port, whatever their address.
    ports: HashMap<u16, u32, Keyed>,
    limit: usize,
    /// Where the search for a free port starts: unpredictable (RFC 6056 §3.3.3).
    hasher: SipHasher13,
    searches: u64,
    bad_udp: u64,
    bad_udp_checksum: u64,
    udp_no_socket: u64,
}

impl Udp {
    /// A table of at most `limit` sockets.
    pub(crate) fn new(limit: usize, seed: &[u8; 32]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&seed[8..24]);
        Self {
            slots: Vec::new(),
            free: None,
            bound: HashMap::with_hasher(Keyed::new(&key)),
            ports: HashMap::with_hasher(Keyed::new(&key)),
            limit,
            hasher: SipHasher13::new_with_key(&key),
            searches: 0,
            bad_udp: 0,
            bad_udp_checksum: 0,
            udp_no_socket: 0,
        }
    }

    /// Binds; port 0: a free one of `ports`, first and last. Two sockets may share a port if both name an
    /// address, or if one does and the other takes what is left.
    ///
    /// # Errors
    ///
    /// [`BindError::InUse`], [`BindError::NoPort`], [`BindError::TooMany`].
    pub(crate) fn bind(&mut self, mut at: IpListenEndpoint, ports: (u16, u16)) -> Result<UdpId, BindError> {
        if self.bound.len() >= self.limit {
            return Err(BindError::TooMany(self.limit));
        }
        if at.port == 0 {
            at.port = self.free_port(ports).ok_or(BindError::NoPort)?;
        } else if self.bound.contains_key(&at) {
            return Err(BindError::InUse(at));
        }
        let index = match self.free {
            Some(index) => {
                self.free = self.slots[index as usize].next_free.take();
                index
            }
            None => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.at = Some(at);
        slot.broadcast = false;
        self.bound.insert(at, index);
        *self.ports.entry(at.port).or_default() += 1;
        Ok(UdpId { index, generation: slot.generation })
    }

    fn free_port(&mut self, (first, last): (u16, u16)) -> Option<u16> {
        let count = u64::from(last.checked_sub(first)?) + 1;
        let mut hasher = self.hasher;
        hasher.write_u64(self.searches);
        self.searches += 1;
        let start = hasher.finish() % count;
        (0..count)
            .map(|n| first + u16::try_from((start + n) % count).unwrap_or(0))
            // Free on every address: a chosen port must not share another socket's datagrams.
            .find(|port| !self.ports.contains_key(port))
    }

    /// Closes a socket. Does nothing for a dead id.
    pub(crate) fn close(&mut self, id: UdpId) {
        if let Some(at) = self.local(id) {
            self.bound.remove(&at);
            if let Some(sockets) = self.ports.get_mut(&at.port) {
                *sockets -= 1;
                if *sockets == 0 {
                    self.ports.remove(&at.port);
                }
            }
            let slot = &mut self.slots[id.index()];
            slot.at = None;
            slot.generation = slot.generation.wrapping_add(1);
            slot.next_free = self.free.replace(id.index);
        }
    }

    /// Where a socket is bound; `None` for a dead id.
    pub(crate) fn local(&self, id: UdpId) -> Option<IpListenEndpoint> {
        self.slot(id)?.at
    }

    fn slot(&self, id: UdpId) -> Option<&Slot> {
        self.slots.get(id.index()).filter(|slot| slot.generation == id.generation && slot.at.is_some())
    }

    /// Allows or forbids a socket to send to broadcast addresses; forbidden at first, as in `SO_BROADCAST`.
    pub(crate) fn set_broadcast(&mut self, id: UdpId, allowed: bool) {
        if self.slot(id).is_some() {
            self.slots[id.index()].broadcast = allowed;
        }
    }

    /// The socket for datagrams to `to`: the one bound to just this address, else the one bound to any.
    pub(crate) fn find(&self, to: IpEndpoint) -> Option<UdpId> {
        let exact = IpListenEndpoint { addr: Some(to.addr), port: to.port };
        let any = IpListenEndpoint { addr: None, port: to.port };
        let index = *self.bound.get(&exact).or_else(|| self.bound.get(&any))?;
        Some(UdpId { index, generation: self.slots[index as usize].generation })
    }

    /// Checks a datagram and finds its socket. `None`: dropped and counted; if nobody has the port, its sender
    /// was told so (RFC 1122 §4.1.3.1).
    pub(crate) fn receive<'p>(
        &mut self,
        link: &mut Link,
        now: Time,
        packet: &'p IpPacket<'_>,
        out: &mut dyn FrameOut,
    ) -> Option<Datagram<'p>> {
        let Ok(udp) = UdpPacket::new_checked(packet.payload()) else {
            self.bad_udp += 1;
            return None;
        };
        // RFC 8200 §8.1: with IPv6 the checksum is not optional.
        let missing = udp.checksum() == 0 && matches!(packet.src, IpAddress::Ipv6(_));
        if missing || !udp.verify_checksum(&packet.src, &packet.dst) {
            self.bad_udp_checksum += 1;
            return None;
        }
        let Some(socket) = self.find(IpEndpoint::new(packet.dst, udp.dst_port())) else {
            self.udp_no_socket += 1;
            link.port_unreachable(now, packet, out);
            return None;
        };
        let from = IpEndpoint::new(packet.src, udp.src_port());
        Some(Datagram { socket, from, to: packet.dst, data: udp.payload() })
    }

    /// The socket that an ICMP error is about, if there is one; a path MTU that it tells of is noted.
    pub(crate) fn on_error(&self, link: &mut Link, now: Time, error: &IcmpError) -> Option<UdpId> {
        let socket = self.find(error.local).filter(|_| error.protocol == IpProtocol::Udp)?;
        if let crate::link::IcmpProblem::TooBig { mtu } = error.problem {
            link.lower_path_mtu(now, error.remote.addr, mtu);
        }
        Some(socket)
    }

    /// Sends a datagram from a socket: written straight into the device's memory if it can leave at once and
    /// whole. Its source is `from`, else the address that the socket is bound to, else the route's.
    ///
    /// # Errors
    ///
    /// [`SendError`]; [`SendError::BadAddress`] also for a broadcast that the socket may not send.
    #[allow(clippy::too_many_arguments)] // what a datagram has, and what it takes to send one
    pub(crate) fn send(
        &self,
        link: &mut Link,
        now: Time,
        id: UdpId,
        from: Option<IpAddress>,
        to: IpEndpoint,
        data: &[u8],
        out: &mut dyn FrameOut,
    ) -> Result<(), SendError> {
        let (local, broadcast) =
            self.slot(id).and_then(|slot| Some((slot.at?, slot.broadcast))).ok_or(SendError::Closed)?;
        let forbidden = link.is_broadcast(to.addr) && !broadcast;
        if let Some(from) = from
            && (local.addr.is_some_and(|bound| bound != from) || !link.is_ours(from))
        {
            return Err(SendError::NotLocal(from));
        }
        let from = from.or(local.addr);
        let mixed = from.is_some_and(|addr| addr.version() != to.addr.version());
        if to.port == 0 || to.addr.is_unspecified() || forbidden || mixed {
            return Err(SendError::BadAddress(to));
        }
        let max = if matches!(to.addr, IpAddress::Ipv4(_)) { MAX_V4 } else { MAX_V6 };
        if data.len() > max {
            return Err(SendError::TooLong { len: data.len(), max });
        }
        let src = from.or_else(|| link.source(to.addr)).ok_or(SendError::NoRoute(to.addr))?;
        let udp = UdpRepr { src_port: local.port, dst_port: to.port };
        let ip = IpRepr::new(src, to.addr, IpProtocol::Udp, HEADER_LEN + data.len(), HOP_LIMIT);
        let mut fill = |payload: &mut [u8]| {
            let copy = |payload: &mut [u8]| payload.copy_from_slice(data);
            let mut packet = UdpPacket::new_unchecked(payload);
            udp.emit(&mut packet, &src, &to.addr, data.len(), copy, &ChecksumCapabilities::default());
        };
        link.send_ip(now, ip, &mut fill, out)
    }

    /// Calls `visit` with each counter.
    pub(crate) fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("bad_udp", self.bad_udp);
        visit("bad_udp_checksum", self.bad_udp_checksum);
        visit("udp_no_socket", self.udp_no_socket);
        visit("udp_sockets", self.bound.len() as u64);
    }
}

#[cfg(test)]
mod tests;
