//! What lies behind the IP header: handing up, ICMP, and errors about what nobody wants.

use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpAddress, IpProtocol, IpRepr,
};

use super::{FrameOut, IcmpProblem, Ingress, IpPacket, Link};
use crate::clock::Time;
use crate::error::SendError;
use crate::icmp::{self, ECHO_HEADER_LEN, ErrorKind};
use crate::reassembly::{Added, Fragment, Refused, Whole};

impl Link {
    /// Takes in a fragment; the datagram if it is whole now.
    pub(super) fn reassemble(&mut self, now: Time, fragment: &Fragment<'_>) -> Option<Whole> {
        self.counters.fragments += 1;
        match self.reassembly.add(now, fragment, &mut self.counters.reassembly_evicted) {
            Ok(Added::Whole(whole)) => {
                self.counters.reassembled += 1;
                return Some(whole);
            }
            Ok(Added::Waiting) => {}
            Err(Refused::Bad) => self.counters.bad_fragment += 1,
            Err(Refused::Overlap) => self.counters.fragment_overlap += 1,
            Err(Refused::Full) => self.counters.reassembly_full += 1,
        }
        None
    }

    /// Hands a whole packet to whom it concerns. `group`: not sent to us alone; `pointer`: place of the byte that
    /// names the protocol (IPv6).
    pub(super) fn upper<'f>(
        &mut self,
        now: Time,
        packet: IpPacket<'f>,
        group: bool,
        pointer: Option<u32>,
        out: &mut dyn FrameOut,
    ) -> Ingress<'f> {
        match (packet.protocol, packet.src) {
            // RFC 9293 §3.10.7: connections have one peer.
            (IpProtocol::Tcp, _) if group => self.counters.not_our_address += 1,
            (IpProtocol::Tcp, _) => return Ingress::Tcp(packet),
            (IpProtocol::Udp, _) => return Ingress::Udp(packet),
            (IpProtocol::Icmp, IpAddress::Ipv4(_)) => return self.icmpv4(now, packet, group, out),
            (IpProtocol::Icmpv6, IpAddress::Ipv6(_)) => return self.icmpv6(now, packet, group, out),
            (IpProtocol::Igmp | IpProtocol::Ipv6NoNxt, _) => self.counters.icmp_ignored += 1,
            _ => {
                self.counters.unknown_protocol += 1;
                if !group {
                    let kind = ErrorKind::ProtocolUnreachable { pointer: pointer.unwrap_or(0) };
                    self.send_error(now, kind, packet.src, packet.dst, packet.bytes(), &[], out);
                }
            }
        }
        self.recycle(packet);
        Ingress::Consumed
    }

    fn icmpv4<'f>(
        &mut self,
        now: Time,
        packet: IpPacket<'f>,
        group: bool,
        out: &mut dyn FrameOut,
    ) -> Ingress<'f> {
        let bytes = packet.payload();
        let message = Icmpv4Packet::new_unchecked(bytes);
        if bytes.len() < ECHO_HEADER_LEN || !message.verify_checksum() {
            self.counters.bad_icmp += 1;
            self.recycle(packet);
            return Ingress::Consumed;
        }
        match message.msg_type() {
            // RFC 1122 §3.2.2.6 leaves answers to broadcasts open; they would only amplify.
            Icmpv4Message::EchoRequest if !group => self.echo(now, &packet, out),
            Icmpv4Message::EchoReply if !group => return echo_reply(packet),
            kind @ (Icmpv4Message::DstUnreachable
            | Icmpv4Message::TimeExceeded
            | Icmpv4Message::ParamProblem) => {
                let word = [bytes[4], bytes[5], bytes[6], bytes[7]];
                let problem = icmp::problem_v4(kind, message.msg_code(), word);
                return self.icmp_error(problem, packet);
            }
            Icmpv4Message::Redirect => self.counters.redirects_ignored += 1,
            _ => self.counters.icmp_ignored += 1,
        }
        self.recycle(packet);
        Ingress::Consumed
    }

    fn icmpv6<'f>(
        &mut self,
        now: Time,
        packet: IpPacket<'f>,
        group: bool,
        out: &mut dyn FrameOut,
    ) -> Ingress<'f> {
        let (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) = (packet.src, packet.dst) else {
            return Ingress::Consumed;
        };
        let bytes = packet.payload();
        let message = Icmpv6Packet::new_unchecked(bytes);
        if bytes.len() < ECHO_HEADER_LEN || !message.verify_checksum(&src, &dst) {
            self.counters.bad_icmp += 1;
            self.recycle(packet);
            return Ingress::Consumed;
        }
        let kind = message.msg_type();
        let ours = self.routes.is_ours(packet.src);
        match kind {
            _ if kind.is_ndisc() && (!ours || kind == Icmpv6Message::NeighborAdvert) => {
                self.ndisc(now, &packet, (src, dst), out);
            }
            _ if ours || src.is_unspecified() => self.counters.bad_source_address += 1,
            Icmpv6Message::EchoRequest if !group => self.echo(now, &packet, out),
            Icmpv6Message::EchoReply if !group => return echo_reply(packet),
            _ if kind.is_error() => {
                let word = [bytes[4], bytes[5], bytes[6], bytes[7]];
                let problem = icmp::problem_v6(kind, message.msg_code(), word);
                return self.icmp_error(problem, packet);
            }
            _ => self.counters.icmp_ignored += 1,
        }
        self.recycle(packet);
        Ingress::Consumed
    }

    /// Answers an echo request with its own words.
    fn echo(&mut self, now: Time, request: &IpPacket<'_>, out: &mut dyn FrameOut) {
        if !self.echo_limit.take(now) {
            self.counters.echo_limited += 1;
            return;
        }
        let bytes = request.payload();
        let (ident, seq) =
            (u16::from_be_bytes([bytes[4], bytes[5]]), u16::from_be_bytes([bytes[6], bytes[7]]));
        let (src, dst) = (request.dst, request.src);
        let repr = IpRepr::new(src, dst, request.protocol, bytes.len(), self.hop_limit);
        let data = &bytes[ECHO_HEADER_LEN..];
        let mut fill = |payload: &mut [u8]| icmp::write_echo(true, src, dst, ident, seq, data, payload);
        if self.send_ip(now, repr, &mut fill, out).is_ok() {
            self.counters.echo_replies += 1;
        }
    }

    /// Hands up an error about a packet that claims to be ours.
    fn icmp_error<'f>(&mut self, problem: Option<IcmpProblem>, packet: IpPacket<'f>) -> Ingress<'f> {
        let v6 = matches!(packet.src, IpAddress::Ipv6(_));
        let error =
            problem.and_then(|problem| icmp::embedded(v6, problem, &packet.payload()[ECHO_HEADER_LEN..]));
        self.recycle(packet);
        match error {
            Some(error) if self.routes.is_ours(error.local.addr) && error.remote.addr.is_unicast() => {
                Ingress::IcmpError(error)
            }
            _ => {
                self.counters.icmp_error_unrelated += 1;
                Ingress::Consumed
            }
        }
    }

    /// Tells the sender of a datagram that nobody listens on its port. Rate limited; never about a broadcast.
    pub(crate) fn port_unreachable(&mut self, now: Time, packet: &IpPacket<'_>, out: &mut dyn FrameOut) {
        if self.routes.is_ours(packet.dst) {
            let kind = ErrorKind::PortUnreachable;
            self.send_error(now, kind, packet.src, packet.dst, packet.bytes(), &[], out);
        }
    }

    /// Sends an ICMP error about a packet from `to` to `about`, whose bytes are `head` and `tail`. The caller has
    /// made sure that the packet was not sent to a group and is no ICMP error itself (RFC 1122 §3.2.2, RFC 4443
    /// §2.4 e).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn send_error(
        &mut self,
        now: Time,
        kind: ErrorKind,
        to: IpAddress,
        about: IpAddress,
        head: &[u8],
        tail: &[u8],
        out: &mut dyn FrameOut,
    ) {
        if !to.is_unicast() || !self.error_limit.take(now) {
            self.counters.icmp_errors_limited += 1;
            return;
        }
        let v6 = matches!(to, IpAddress::Ipv6(_));
        let protocol = if v6 { IpProtocol::Icmpv6 } else { IpProtocol::Icmp };
        let len = icmp::error_len(v6, head.len() + tail.len());
        let repr = IpRepr::new(about, to, protocol, len, self.hop_limit);
        let mut fill = |payload: &mut [u8]| icmp::write_error(kind, about, to, head, tail, payload);
        if self.send_ip(now, repr, &mut fill, out).is_ok() {
            self.counters.icmp_errors_sent += 1;
        }
    }

    /// Sends an echo request. The reply comes as [`Ingress::EchoReply`], an error as [`Ingress::IcmpError`].
    ///
    /// # Errors
    ///
    /// Those of [`Link::send_ip`].
    pub(crate) fn ping(
        &mut self,
        now: Time,
        to: IpAddress,
        (ident, seq): (u16, u16),
        data: &[u8],
        out: &mut dyn FrameOut,
    ) -> Result<(), SendError> {
        let src = self.source(to).ok_or(SendError::NoRoute(to))?;
        let protocol = if matches!(to, IpAddress::Ipv4(_)) { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
        let repr = IpRepr::new(src, to, protocol, ECHO_HEADER_LEN + data.len(), self.hop_limit);
        let mut fill = |payload: &mut [u8]| icmp::write_echo(false, src, to, ident, seq, data, payload);
        self.send_ip(now, repr, &mut fill, out)
    }
}

fn echo_reply(packet: IpPacket<'_>) -> Ingress<'_> {
    let bytes = packet.payload();
    let (ident, seq) = (u16::from_be_bytes([bytes[4], bytes[5]]), u16::from_be_bytes([bytes[6], bytes[7]]));
    Ingress::EchoReply { packet, ident, seq }
}
