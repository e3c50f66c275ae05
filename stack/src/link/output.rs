//! Output: IP packets to frames, at once or when the next hop is known, whole or in fragments.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetProtocol, IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet,
};

use super::{Event, FrameOut, IcmpProblem, Link, NextHop};
use crate::clock::Time;
use crate::error::SendError;
use crate::fragment::pieces;
use crate::icmp::{ErrorKind, Unreachable, embedded};
use crate::neighbours::pending::Queue;
use crate::neighbours::{Due, Learnt, News};

const V4_HEADER_LEN: usize = 20;
const V6_HEADER_LEN: usize = 40;
const FRAGMENT_HEADER_LEN: usize = 8;

impl Link {
    /// Sends one IP packet, whose payload `fill` writes straight into the device's memory when the next hop is
    /// known and the packet fits the path. Else it is kept until the next hop answers (bounded), or cut into
    /// fragments. `fill` is called at most once.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLong`], [`SendError::NoRoute`], and [`SendError::NoBuffers`] if the device has no room or
    /// too many packets wait for this next hop already.
    pub(crate) fn send_ip(
        &mut self,
        now: Time,
        repr: IpRepr,
        fill: &mut dyn FnMut(&mut [u8]),
        out: &mut dyn FrameOut,
    ) -> Result<(), SendError> {
        let dst = repr.dst_addr();
        let max = match repr {
            IpRepr::Ipv4(_) => 65_535 - V4_HEADER_LEN,
            IpRepr::Ipv6(_) => 65_535,
        };
        if repr.payload_len() > max {
            return Err(SendError::TooLong { len: repr.payload_len(), max });
        }
        match self.next_hop(now, dst, out) {
            NextHop::NoRoute => {
                self.counters.no_route += 1;
                Err(SendError::NoRoute(dst))
            }
            NextHop::Mac(mac) => self.emit(mac, &repr, fill, out),
            NextHop::Pending => {
                let queue = self.routes.via(dst).and_then(|via| self.neighbours.queue(via));
                let kept = queue.is_some_and(|queue| {
                    self.pending.push(queue, repr.buffer_len(), |bytes| write_packet(&repr, fill, bytes))
                });
                self.counters.pending_full += u64::from(!kept);
                if kept { Ok(()) } else { Err(SendError::NoBuffers) }
            }
        }
    }

    pub(super) fn emit(
        &mut self,
        mac: EthernetAddress,
        repr: &IpRepr,
        fill: &mut dyn FnMut(&mut [u8]),
        out: &mut dyn FrameOut,
    ) -> Result<(), SendError> {
        let len = repr.buffer_len();
        if len > self.path_mtu(repr.dst_addr()) {
            let mut whole = core::mem::take(&mut self.scratch);
            whole.clear();
            whole.resize(len, 0);
            write_packet(repr, fill, &mut whole);
            let sent = self.emit_packet(mac, &whole, out);
            self.scratch = whole;
            return sent;
        }
        let header_len = self.header_len();
        let sent = out.frame(header_len + len, &mut |frame| {
            self.write_header(frame, mac, ethertype(repr.dst_addr()));
            write_packet(repr, fill, &mut frame[header_len..]);
        });
        self.sent(sent)
    }

    /// Sends a whole packet of our own making, in fragments if it does not fit the path.
    fn emit_packet(
        &mut self,
        mac: EthernetAddress,
        packet: &[u8],
        out: &mut dyn FrameOut,
    ) -> Result<(), SendError> {
        let v4 = packet[0] >> 4 == 4;
        let (src, dst): (IpAddress, IpAddress) = if v4 {
            let header = Ipv4Packet::new_unchecked(packet);
            (header.src_addr().into(), header.dst_addr().into())
        } else {
            let header = Ipv6Packet::new_unchecked(packet);
            (header.src_addr().into(), header.dst_addr().into())
        };
        let (mtu, ethernet_len) = (self.path_mtu(dst), self.header_len());
        if packet.len() <= mtu {
            let sent = out.frame(ethernet_len + packet.len(), &mut |frame| {
                self.write_header(frame, mac, ethertype(dst));
                frame[ethernet_len..].copy_from_slice(packet);
            });
            return self.sent(sent);
        }
        let (plain_len, header_len) = match v4 {
            true => (V4_HEADER_LEN, V4_HEADER_LEN),
            false => (V6_HEADER_LEN, V6_HEADER_LEN + FRAGMENT_HEADER_LEN),
        };
        let (header, payload) = packet.split_at(plain_len);
        let ident = self.idents.next(src, dst);
        for (offset, len, more) in pieces(payload.len(), header_len, mtu) {
            let data = &payload[offset..offset + len];
            let sent = out.frame(ethernet_len + header_len + len, &mut |frame| {
                self.write_header(frame, mac, ethertype(dst));
                let packet = &mut frame[ethernet_len..];
                packet[..plain_len].copy_from_slice(header);
                packet[header_len..].copy_from_slice(data);
                match v4 {
                    true => fragment_v4(packet, ident, offset, more),
                    false => fragment_v6(packet, ident, offset, more),
                }
            });
            self.sent(sent)?;
            self.counters.fragments_sent += 1;
        }
        self.counters.fragmented += 1;
        Ok(())
    }

    fn sent(&mut self, sent: bool) -> Result<(), SendError> {
        self.counters.tx_no_room += u64::from(!sent);
        if sent { Ok(()) } else { Err(SendError::NoBuffers) }
    }

    /// Asks for the Ethernet address of a next hop: everybody, or the one who had it last.
    pub(super) fn solicit(
        &mut self,
        target: IpAddress,
        known: Option<EthernetAddress>,
        out: &mut dyn FrameOut,
    ) {
        match target {
            IpAddress::Ipv4(target) => self.arp_request(target, known, out),
            IpAddress::Ipv6(target) => self.neighbour_solicit(target, known, out),
        }
    }

    /// Takes in who has an address, and sends what waited for that.
    pub(super) fn learn_neighbour(
        &mut self,
        now: Time,
        address: IpAddress,
        mac: EthernetAddress,
        news: News,
        out: &mut dyn FrameOut,
    ) {
        let mut evicted = None;
        let learnt = self.neighbours.learn(now, address, mac, news, &mut evicted);
        self.evicted(evicted);
        if let Learnt::Resolved(mut queue) = learnt {
            self.event(Event::Resolved(address));
            while let Some((slot, packet)) = self.pending.pop(&mut queue) {
                // What does not leave now is lost, and counted: there is no second queue.
                let _ = self.emit_packet(mac, &packet, out);
                self.pending.free((slot, packet));
            }
        }
    }

    /// Drops the packets of a neighbour that made room for another.
    pub(super) fn evicted(&mut self, queue: Option<Queue>) {
        if let Some(queue) = queue {
            self.counters.neighbour_evicted += 1;
            self.counters.pending_unresolved += self.pending.discard(queue);
        }
    }

    /// Drops the packets that waited in vain, and tells whose they were.
    fn undeliverable(&mut self, mut queue: Queue) {
        while let Some((slot, packet)) = self.pending.pop(&mut queue) {
            let v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
            let problem = IcmpProblem::Unreachable(Unreachable::Host);
            if let Some(error) = embedded(v6, problem, &packet) {
                self.event(Event::Undeliverable(error));
            }
            self.pending.free((slot, packet));
            self.counters.pending_unresolved += 1;
        }
    }

    /// Does what is due: requests, announcements, expiry. Bounded by the sizes of the tables; costs nothing when
    /// nothing is due. Returns whether anything was.
    pub(crate) fn turn(&mut self, now: Time, out: &mut dyn FrameOut) -> bool {
        if self.poll_at().is_none_or(|due| due > now) {
            return false;
        }
        self.announce(now, out);
        self.autoconfigure(now, out);
        while let Some(due) = self.neighbours.due(now) {
            match due {
                Due::Ask(address) => self.solicit(address, None, out),
                Due::Probe(address, mac) => self.solicit(address, Some(mac), out),
                Due::Failed { address, queue, waited } => {
                    self.undeliverable(queue);
                    if waited {
                        self.counters.neighbour_unresolved += 1;
                        self.event(Event::Unresolvable(address));
                    }
                }
            }
        }
        self.expire_fragments(now, out);
        self.path_mtu.expire(now);
        if self.routes.poll_at().is_some_and(|due| due <= now) {
            self.routes_mut().expire(now);
            self.changed = true;
        }
        true
    }

    /// When [`Link::turn`] has something to do.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        [
            self.neighbours.poll_at(),
            self.announcements.poll_at(),
            self.autoconf.poll_at(),
            self.reassembly.poll_at(),
            self.path_mtu.poll_at(),
            self.routes.poll_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Drops datagrams that did not become whole, and tells their senders (RFC 1122 §3.3.2, RFC 8200 §4.5).
    fn expire_fragments(&mut self, now: Time, out: &mut dyn FrameOut) {
        if self.reassembly.poll_at().is_none_or(|due| due > now) {
            return;
        }
        // Taken out, so that sending can borrow the rest.
        let mut reassembly = core::mem::take(&mut self.reassembly);
        while reassembly.expire(now, |first| {
            // Never about an ICMP message, which may be an error itself; nor about what was sent to a group.
            let icmp = matches!(first.protocol, IpProtocol::Icmp | IpProtocol::Icmpv6);
            if !icmp && self.routes.is_ours(first.dst) {
                let kind = ErrorKind::ReassemblyTimeExceeded;
                self.send_error(now, kind, first.src, first.dst, first.header, first.payload, out);
            }
        }) {
            self.counters.reassembly_timeout += 1;
        }
        self.reassembly = reassembly;
    }
}

fn ethertype(dst: IpAddress) -> EthernetProtocol {
    match dst {
        IpAddress::Ipv4(_) => EthernetProtocol::Ipv4,
        IpAddress::Ipv6(_) => EthernetProtocol::Ipv6,
    }
}

fn write_packet(repr: &IpRepr, fill: &mut dyn FnMut(&mut [u8]), bytes: &mut [u8]) {
    let header_len = repr.header_len();
    repr.emit(&mut bytes[..header_len], &ChecksumCapabilities::default());
    fill(&mut bytes[header_len..]);
}

/// Makes the header of a whole packet that of a fragment.
fn fragment_v4(bytes: &mut [u8], ident: u32, offset: usize, more: bool) {
    // At most 65,535 bytes, as `send_ip` has checked.
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut packet = Ipv4Packet::new_unchecked(bytes);
    packet.set_total_len(len);
    packet.set_ident((ident & 0xffff) as u16);
    packet.clear_flags();
    packet.set_more_frags(more);
    packet.set_frag_offset(u16::try_from(offset).unwrap_or(u16::MAX));
    packet.fill_checksum();
}

fn fragment_v6(bytes: &mut [u8], ident: u32, offset: usize, more: bool) {
    let next = bytes[6];
    let len = u16::try_from(bytes.len() - V6_HEADER_LEN).unwrap_or(u16::MAX);
    let mut packet = Ipv6Packet::new_unchecked(&mut *bytes);
    packet.set_next_header(IpProtocol::Ipv6Frag);
    packet.set_payload_len(len);
    let header = &mut bytes[V6_HEADER_LEN..V6_HEADER_LEN + FRAGMENT_HEADER_LEN];
    let word = u16::try_from(offset).unwrap_or(u16::MAX) & !7 | u16::from(more);
    header[0] = next;
    header[1] = 0;
    header[2..4].copy_from_slice(&word.to_be_bytes());
    header[4..8].copy_from_slice(&ident.to_be_bytes());
}
