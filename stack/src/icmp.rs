//! ICMP and ICMPv6: rate limits, errors that we send, and errors about what we sent.

use core::time::Duration;

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet,
    IpAddress, IpEndpoint, IpProtocol, Ipv4Packet, Ipv6Packet,
};

use crate::clock::Time;
use crate::link::{IcmpError, IcmpProblem};

/// Bytes of an ICMP or ICMPv6 header, before the data of an echo or the embedded packet of an error.
pub(crate) const ECHO_HEADER_LEN: usize = 8;

/// What an ICMP error, or our own neighbour resolution, says of a destination (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// No route at a router.
    Network,
    /// The host does not answer ARP or neighbour discovery, here or at a router.
    Host,
    /// The host does not speak the protocol.
    Protocol,
    /// Nobody listens on the port.
    Port,
    /// Forbidden by an administrator.
    Prohibited,
    /// Hop limit or reassembly time exceeded.
    TimeExceeded,
    /// Anything else (a parameter problem, an unknown code).
    Other,
}

/// A token bucket. Source: RFC 4443 §2.4 (f).
#[derive(Debug)]
pub(crate) struct RateLimit {
    interval_ns: u64,
    burst: u64,
    /// When the bucket was last full, in the future while it is in use: the virtual time of the last token.
    full_at_ns: u64,
}

impl RateLimit {
    /// `per_second` in the long run, `burst` at once.
    pub(crate) fn new(per_second: u64, burst: u64) -> Self {
        Self { interval_ns: 1_000_000_000 / per_second.max(1), burst, full_at_ns: 0 }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        let full_at = self.full_at_ns.max(now.ns());
        if full_at - now.ns() > self.interval_ns.saturating_mul(self.burst - 1) {
            return false;
        }
        self.full_at_ns = full_at.saturating_add(self.interval_ns);
        true
    }
}

/// Errors that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// No UDP socket on the port.
    PortUnreachable,
    /// No handler for the protocol. `pointer`: place of the next-header field (IPv6).
    ProtocolUnreachable { pointer: u32 },
    /// Fragments did not come in time.
    ReassemblyTimeExceeded,
}

impl ErrorKind {
    /// Type, code and the word that follows the checksum.
    fn v4(self) -> (Icmpv4Message, u8, u32) {
        match self {
            Self::PortUnreachable => {
                (Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::PortUnreachable.into(), 0)
            }
            Self::ProtocolUnreachable { .. } => {
                (Icmpv4Message::DstUnreachable, Icmpv4DstUnreachable::ProtoUnreachable.into(), 0)
            }
            Self::ReassemblyTimeExceeded => (Icmpv4Message::TimeExceeded, 1, 0),
        }
    }

    fn v6(self) -> (Icmpv6Message, u8, u32) {
        match self {
            Self::PortUnreachable => {
                (Icmpv6Message::DstUnreachable, Icmpv6DstUnreachable::PortUnreachable.into(), 0)
            }
            // RFC 8200 §4: parameter problem, code 1.
            Self::ProtocolUnreachable { pointer } => (Icmpv6Message::ParamProblem, 1, pointer),
            Self::ReassemblyTimeExceeded => (Icmpv6Message::TimeExceeded, 1, 0),
        }
    }
}

/// Largest error packet, IP header included. Sources: RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c).
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1280;

/// Length of the ICMP message (without IP header) that reports about a packet of `packet_len` bytes.
pub(crate) fn error_len(v6: bool, packet_len: usize) -> usize {
    let room = if v6 { MAX_ERROR_V6 - 40 } else { MAX_ERROR_V4 - 20 };
    room.min(ECHO_HEADER_LEN + packet_len)
}

/// Writes an error about the packet `head` followed by `tail` into `out`, which has `error_len` bytes.
pub(crate) fn write_error(
    kind: ErrorKind,
    src: IpAddress,
    dst: IpAddress,
    head: &[u8],
    tail: &[u8],
    out: &mut [u8],
) {
    let room = &mut out[ECHO_HEADER_LEN..];
    let from_head = head.len().min(room.len());
    room[..from_head].copy_from_slice(&head[..from_head]);
    let rest = room.len() - from_head;
    room[from_head..].copy_from_slice(&tail[..rest]);
    match (src, dst) {
        (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) => {
            let (message, code, word) = kind.v6();
            out[4..8].copy_from_slice(&word.to_be_bytes());
            let mut packet = Icmpv6Packet::new_unchecked(out);
            packet.set_msg_type(message);
            packet.set_msg_code(code);
            packet.fill_checksum(&src, &dst);
        }
        _ => {
            let (message, code, word) = kind.v4();
            out[4..8].copy_from_slice(&word.to_be_bytes());
            let mut packet = Icmpv4Packet::new_unchecked(out);
            packet.set_msg_type(message);
            packet.set_msg_code(code);
            packet.fill_checksum();
        }
    }
}

/// Writes an echo request or reply with `data` into `out` (`ECHO_HEADER_LEN + data.len()` bytes).
pub(crate) fn write_echo(
    reply: bool,
    src: IpAddress,
    dst: IpAddress,
    ident: u16,
    seq: u16,
    data: &[u8],
    out: &mut [u8],
) {
    out[ECHO_HEADER_LEN..].copy_from_slice(data);
    match (src, dst) {
        (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) => {
            let mut packet = Icmpv6Packet::new_unchecked(out);
            packet.set_msg_type(if reply { Icmpv6Message::EchoReply } else { Icmpv6Message::EchoRequest });
            packet.set_msg_code(0);
            packet.set_echo_ident(ident);
            packet.set_echo_seq_no(seq);
            packet.fill_checksum(&src, &dst);
        }
        _ => {
            let mut packet = Icmpv4Packet::new_unchecked(out);
            packet.set_msg_type(if reply { Icmpv4Message::EchoReply } else { Icmpv4Message::EchoRequest });
            packet.set_msg_code(0);
            packet.set_echo_ident(ident);
            packet.set_echo_seq_no(seq);
            packet.fill_checksum();
        }
    }
}

/// What an ICMPv4 message of type 3, 11 or 12 says. `None` for codes that mean nothing to a host.
pub(crate) fn problem_v4(message: Icmpv4Message, code: u8, word: [u8; 4]) -> Option<IcmpProblem> {
    use Icmpv4DstUnreachable as Dst;
    let why = match message {
        Icmpv4Message::DstUnreachable => match Dst::from(code) {
            Dst::FragRequired => {
                // RFC 1191 §4: the low 16 bits of the word are the next hop's MTU.
                return Some(IcmpProblem::TooBig {
                    mtu: usize::from(u16::from_be_bytes([word[2], word[3]])),
                });
            }
            Dst::ProtoUnreachable => Unreachable::Protocol,
            Dst::PortUnreachable => Unreachable::Port,
            Dst::NetUnreachable | Dst::DstNetUnknown | Dst::NetUnreachToS => Unreachable::Network,
            Dst::NetProhibited | Dst::HostProhibited | Dst::CommProhibited => Unreachable::Prohibited,
            _ => Unreachable::Host,
        },
        Icmpv4Message::TimeExceeded => Unreachable::TimeExceeded,
        Icmpv4Message::ParamProblem => Unreachable::Other,
        _ => return None,
    };
    Some(IcmpProblem::Unreachable(why))
}

/// What an ICMPv6 error says.
pub(crate) fn problem_v6(message: Icmpv6Message, code: u8, word: [u8; 4]) -> Option<IcmpProblem> {
    use Icmpv6DstUnreachable as Dst;
    let why = match message {
        Icmpv6Message::PktTooBig => {
            let mtu = usize::try_from(u32::from_be_bytes(word)).unwrap_or(usize::MAX);
            return Some(IcmpProblem::TooBig { mtu });
        }
        Icmpv6Message::DstUnreachable => match Dst::from(code) {
            Dst::NoRoute | Dst::RejectRoute => Unreachable::Network,
            Dst::AdminProhibit | Dst::FailedPolicy | Dst::BeyondScope => Unreachable::Prohibited,
            Dst::PortUnreachable => Unreachable::Port,
            _ => Unreachable::Host,
        },
        Icmpv6Message::TimeExceeded => Unreachable::TimeExceeded,
        // Code 1: unrecognized next header.
        Icmpv6Message::ParamProblem if code == 1 => Unreachable::Protocol,
        Icmpv6Message::ParamProblem => Unreachable::Other,
        _ => return None,
    };
    Some(IcmpProblem::Unreachable(why))
}

/// Reads the packet that an error embeds: whose it was. It may be cut anywhere behind its ports, and its
/// lengths may promise more than is there. `None` if it cannot have been sent by a stack like this one.
pub(crate) fn embedded(v6: bool, problem: IcmpProblem, bytes: &[u8]) -> Option<IcmpError> {
    let (src, dst, protocol, upper) = if v6 { embedded_v6(bytes)? } else { embedded_v4(bytes)? };
    let word = |at: usize| Some(u16::from_be_bytes([*upper.get(at)?, *upper.get(at + 1)?]));
    let (local, remote) = match protocol {
        IpProtocol::Tcp | IpProtocol::Udp => (word(0)?, word(2)?),
        // Only echo requests: errors about errors are not sent, and nobody waits for replies.
        IpProtocol::Icmp if *upper.first()? == u8::from(Icmpv4Message::EchoRequest) => (word(4)?, word(6)?),
        IpProtocol::Icmpv6 if *upper.first()? == u8::from(Icmpv6Message::EchoRequest) => (word(4)?, word(6)?),
        _ => return None,
    };
    let tcp_seq = match protocol {
        IpProtocol::Tcp => Some(u32::from(word(4)?) << 16 | u32::from(word(6)?)),
        _ => None,
    };
    let (local, remote) = (IpEndpoint::new(src, local), IpEndpoint::new(dst, remote));
    Some(IcmpError { problem, protocol, local, remote, tcp_seq })
}

type Embedded<'a> = (IpAddress, IpAddress, IpProtocol, &'a [u8]);

fn embedded_v4(bytes: &[u8]) -> Option<Embedded<'_>> {
    let packet = Ipv4Packet::new_unchecked(bytes);
    if bytes.len() < 20 || packet.version() != 4 || packet.frag_offset() != 0 {
        return None;
    }
    let upper = bytes.get(usize::from(packet.header_len()).max(20)..)?;
    Some((packet.src_addr().into(), packet.dst_addr().into(), packet.next_header(), upper))
}

fn embedded_v6(bytes: &[u8]) -> Option<Embedded<'_>> {
    let packet = Ipv6Packet::new_unchecked(bytes);
    if bytes.len() < 40 || packet.version() != 6 {
        return None;
    }
    let (mut next, mut upper) = (packet.next_header(), &bytes[40..]);
    if next == IpProtocol::Ipv6Frag {
        // The one extension header that we send. Behind a later fragment there are no ports.
        let header = upper.get(..8)?;
        if u16::from_be_bytes([header[2], header[3]]) & !7 != 0 {
            return None;
        }
        next = IpProtocol::from(header[0]);
        upper = &upper[8..];
    }
    Some((packet.src_addr().into(), packet.dst_addr().into(), next, upper))
}

/// How often echo requests are answered: 10,000/s in the long run, so that a flood costs a bounded share of
/// the core and any sane monitoring never notices.
pub(crate) fn echo_limit() -> RateLimit {
    RateLimit::new(10_000, 2_000)
}

/// How often errors are sent: at most 50 at once, as Linux does by default (`net.ipv4.icmp_msgs_burst`).
pub(crate) fn error_limit(per_second: u32) -> RateLimit {
    RateLimit::new(u64::from(per_second), 50)
}

/// Interval in which one of our addresses is defended at most once. Source: RFC 5227 §1.1, `DEFEND_INTERVAL`.
pub(crate) const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
