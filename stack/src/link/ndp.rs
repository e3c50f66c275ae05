//! Neighbour discovery (RFC 4861 §7) and duplicate address detection (RFC 4862 §5.4).

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr, Ipv6Address,
    NdiscNeighborFlags, NdiscOption, NdiscOptionType, NdiscRepr,
};

use super::{Event, FrameOut, IpPacket, Link};
use crate::clock::Time;
use crate::neighbours::News;

/// Hop limit of neighbour discovery: what has passed no router. Source: RFC 4861 §3.1.
const ND_HOP_LIMIT: u8 = 255;
pub(super) const ALL_NODES: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl Link {
    /// Takes in a message of neighbour discovery. Its checksum is right.
    pub(super) fn ndisc(
        &mut self,
        now: Time,
        packet: &IpPacket<'_>,
        (src, dst): (Ipv6Address, Ipv6Address),
        out: &mut dyn FrameOut,
    ) {
        let Some(message) = checked(packet) else {
            self.counters.bad_nd += 1;
            return;
        };
        let valid = match message.msg_type() {
            Icmpv6Message::NeighborSolicit => self.neighbour_solicited(now, &message, src, dst, out),
            Icmpv6Message::NeighborAdvert => self.neighbour_advertised(now, &message, dst, out),
            Icmpv6Message::RouterAdvert => self.router_advertised(now, &message, src, out),
            // We are no router.
            Icmpv6Message::RouterSolicit => true,
            _ => {
                // A redirect lets whoever can send one frame choose our next hop; routers work without.
                self.counters.redirects_ignored += 1;
                true
            }
        };
        self.counters.bad_nd += u64::from(!valid);
    }

    /// RFC 4861 §7.2.3, 7.2.4; RFC 4862 §5.4.3. `false`: the message breaks §7.1.1.
    fn neighbour_solicited(
        &mut self,
        now: Time,
        message: &Icmpv6Packet<&[u8]>,
        src: Ipv6Address,
        dst: Ipv6Address,
        out: &mut dyn FrameOut,
    ) -> bool {
        let target = message.target_addr();
        let source_mac = link_layer(message, NdiscOptionType::SourceLinkLayerAddr);
        let probe = src.is_unspecified();
        if target.is_multicast() || (probe && (!dst.is_multicast() || source_mac.is_some())) {
            return false;
        }
        if self.autoconf.is_tentative(target) {
            // Somebody else probes for it too: nobody may have it. Ordinary questions are not answered yet.
            if probe {
                self.duplicate(now, target);
            }
            return true;
        }
        if !self.routes.is_ours(target.into()) {
            return true;
        }
        if let Some(mac) = source_mac.filter(|_| !probe) {
            let news = News { solicited: false, replace: true, create: self.routes.on_link(src.into()) };
            self.learn_neighbour(now, src.into(), mac, news, out);
        }
        if self.first {
            let to = if probe { ALL_NODES } else { src };
            let solicited = if probe { NdiscNeighborFlags::empty() } else { NdiscNeighborFlags::SOLICITED };
            self.advertise(now, target, to, solicited | NdiscNeighborFlags::OVERRIDE, out);
            self.counters.nd_replies += 1;
        }
        true
    }

    /// RFC 4861 §7.2.5; RFC 4862 §5.4.4. `false`: the message breaks §7.1.2.
    fn neighbour_advertised(
        &mut self,
        now: Time,
        message: &Icmpv6Packet<&[u8]>,
        dst: Ipv6Address,
        out: &mut dyn FrameOut,
    ) -> bool {
        let (target, flags) = (message.target_addr(), message.neighbor_flags());
        let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
        if target.is_multicast() || (dst.is_multicast() && solicited) {
            return false;
        }
        let told = link_layer(message, NdiscOptionType::TargetLinkLayerAddr);
        if self.autoconf.is_tentative(target) {
            self.duplicate(now, target);
            return true;
        }
        if self.routes.is_ours(target.into()) {
            let mac = told.unwrap_or(EthernetAddress([0; 6]));
            self.conflict(now, target.into(), mac, out);
            return true;
        }
        let target = IpAddress::Ipv6(target);
        // The answer to a unicast question may leave the address out (§4.4): it is the one that we have.
        if let Some(mac) = told.or_else(|| self.neighbours.mac(target)) {
            let news = News {
                solicited: solicited && self.neighbours.is_asked(target),
                replace: flags.contains(NdiscNeighborFlags::OVERRIDE),
                create: false,
            };
            self.learn_neighbour(now, target, mac, news, out);
        }
        true
    }

    /// Another station has, or wants, an address of which we were not sure yet.
    fn duplicate(&mut self, now: Time, address: Ipv6Address) {
        self.counters.dad_failed += 1;
        self.autoconf.duplicate(address, now);
    }

    /// Asks who has `target`: its solicited-node group, or the one who had it last.
    pub(super) fn neighbour_solicit(
        &mut self,
        target: Ipv6Address,
        known: Option<EthernetAddress>,
        out: &mut dyn FrameOut,
    ) {
        let Some(IpAddress::Ipv6(source)) = self.routes.source(target.into()) else { return };
        let dst = if known.is_some() { target } else { solicited_node(target) };
        let lladdr = Some(self.mac.into());
        let repr = NdiscRepr::NeighborSolicit { target_addr: target, lladdr };
        let sent = self.send_ndisc(repr, (source, dst), known, out);
        self.counters.neighbour_requests += u64::from(sent);
    }

    /// Asks whether anybody has `target`, which is not ours yet (RFC 4862 §5.4.2).
    pub(super) fn probe_address(&mut self, target: Ipv6Address, out: &mut dyn FrameOut) {
        let repr = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: None };
        self.send_ndisc(repr, (Ipv6Address::UNSPECIFIED, solicited_node(target)), None, out);
    }

    /// Tells everybody that `address` is ours.
    pub(super) fn unsolicited_advert(&mut self, address: Ipv6Address, out: &mut dyn FrameOut) {
        let repr = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::OVERRIDE,
            target_addr: address,
            lladdr: Some(self.mac.into()),
        };
        self.send_ndisc(repr, (address, ALL_NODES), None, out);
    }

    fn advertise(
        &mut self,
        now: Time,
        address: Ipv6Address,
        to: Ipv6Address,
        flags: NdiscNeighborFlags,
        out: &mut dyn FrameOut,
    ) {
        let lladdr = Some(self.mac.into());
        let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: address, lladdr });
        let ip = IpRepr::new(address.into(), to.into(), IpProtocol::Icmpv6, repr.buffer_len(), ND_HOP_LIMIT);
        let mut fill = |payload: &mut [u8]| {
            let mut packet = Icmpv6Packet::new_unchecked(payload);
            repr.emit(&address, &to, &mut packet, &ChecksumCapabilities::default());
        };
        // Through the neighbour table: the one who asks without telling its address has to be asked in turn.
        let _ = self.send_ip(now, ip, &mut fill, out);
    }

    /// Sends a message of neighbour discovery to a group, or to the station `known`.
    pub(super) fn send_ndisc(
        &mut self,
        repr: NdiscRepr<'_>,
        (src, dst): (Ipv6Address, Ipv6Address),
        known: Option<EthernetAddress>,
        out: &mut dyn FrameOut,
    ) -> bool {
        let Some(mac) = known.or_else(|| self.group_mac(dst.into())) else { return false };
        let repr = Icmpv6Repr::Ndisc(repr);
        let ip = IpRepr::new(src.into(), dst.into(), IpProtocol::Icmpv6, repr.buffer_len(), ND_HOP_LIMIT);
        let mut fill = |payload: &mut [u8]| {
            let mut packet = Icmpv6Packet::new_unchecked(payload);
            repr.emit(&src, &dst, &mut packet, &ChecksumCapabilities::default());
        };
        self.emit(mac, &ip, &mut fill, out).is_ok()
    }

    /// Does what is due of address configuration.
    pub(super) fn autoconfigure(&mut self, now: Time, out: &mut dyn FrameOut) {
        use crate::slaac::Action;
        while let Some(action) = self.autoconf.due(now) {
            match action {
                Action::Probe(address) => self.probe_address(address, out),
                Action::Assign(cidr) => {
                    // RFC 5942 §4: an address does not make its prefix on-link; the advertisement's flag does.
                    if self.routes_mut().add_address(cidr.into(), false) {
                        self.changed = true;
                        self.event(Event::AddressAdded(cidr.into()));
                    }
                }
                Action::Remove(address) => self.remove_address(address.into()),
                Action::SolicitRouters => self.solicit_routers(out),
            }
        }
    }
}

/// A message that keeps the rules for all of them (RFC 4861 §§6.1, 7.1): hop limit, code, lengths, options.
fn checked<'a>(packet: &'a IpPacket<'_>) -> Option<Icmpv6Packet<&'a [u8]>> {
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    let hop_limit = *packet.bytes().get(7)?;
    let valid = hop_limit == ND_HOP_LIMIT && message.msg_code() == 0 && options(&message).all(|o| o.is_ok());
    valid.then_some(message)
}

/// The options of a message, up to and including the first that is broken.
pub(super) fn options<'a>(
    message: &Icmpv6Packet<&'a [u8]>,
) -> impl Iterator<Item = Result<NdiscOption<&'a [u8]>, ()>> + use<'a> {
    let mut rest = message.payload();
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // An option of length 0, or one longer than what is left, condemns the message (§4.6).
        let Ok(option) = NdiscOption::new_checked(rest) else {
            rest = &[];
            return Some(Err(()));
        };
        rest = &rest[8 * usize::from(option.data_len())..];
        Some(Ok(option))
    })
}

/// The Ethernet address in an option of this kind, if it can be somebody's.
pub(super) fn link_layer(message: &Icmpv6Packet<&[u8]>, kind: NdiscOptionType) -> Option<EthernetAddress> {
    let option = options(message).flatten().find(|o| o.option_type() == kind)?;
    let mac = EthernetAddress::from_bytes(option.data().get(..6)?);
    mac.is_unicast().then_some(mac)
}

/// Source: RFC 4291 §2.7.1.
fn solicited_node(address: Ipv6Address) -> Ipv6Address {
    let o = address.octets();
    let (high, low) = (0xff00 | u16::from(o[13]), u16::from_be_bytes([o[14], o[15]]));
    Ipv6Address::new(0xff02, 0, 0, 0, 0, 1, high, low)
}
