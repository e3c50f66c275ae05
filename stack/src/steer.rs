//! Which core a frame belongs to, where a device does not spread flows by itself.

use smoltcp::wire::IpEndpoint;

use crate::tuple::{Peek, Tuple, bits, high, low};

/// Ports of DHCP. Source: RFC 2131 §4.1.
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// Who is to have a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One core.
    Core(u16),
    /// Every core: neighbours, routers (ARP, neighbour discovery, router advertisements).
    All,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The owner of a received Ethernet frame among `count` cores: TCP and UDP by their 4-tuple, ICMP errors by that of
/// the packet they quote, ARP and neighbour discovery to all, everything else (fragments, echo, DHCP, broken frames)
/// to core 0. Fragments but for the first do not tell their ports: core 0 puts them together and hands the datagram on
/// ([`Stack::reassembled`](crate::Stack::reassembled)). Reads headers only; does not allocate.
pub fn owner(frame: &[u8], count: u16) -> Owner {
    if let [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x06, ..] = frame {
        return Owner::All;
    }
    if let [_, _, _, _, _, _, _, _, _, _, _, _, 0x81, 0x00, _, _, 0x08, 0x06, ..] = frame {
        return Owner::All;
    }
    let Some(peek) = Peek::frame(frame) else { return Owner::Core(0) };
    if peek.fragment {
        return Owner::Core(0);
    }
    match peek.protocol {
        // The client is on the first core, and its address may not be ours yet.
        UDP if peek.ports(frame) == Some((DHCP_SERVER, DHCP_CLIENT)) => Owner::Core(0),
        TCP | UDP => match peek.ports(frame) {
            Some((src, dst)) => {
                let local = IpEndpoint::new(peek.dst, dst);
                Owner::Core(core_of(
                    peek.protocol,
                    &Tuple { local, remote: IpEndpoint::new(peek.src, src) },
                    count,
                ))
            }
            None => Owner::Core(0),
        },
        // Destination unreachable, time exceeded, parameter problem, and so on quote the packet after 8 bytes.
        ICMP => match frame.get(peek.transport) {
            Some(3 | 4 | 11 | 12) => quoted(frame, peek.transport + 8, count),
            _ => Owner::Core(0),
        },
        ICMPV6 => match frame.get(peek.transport) {
            Some(133..=137) => Owner::All,
            Some(1..=4) => quoted(frame, peek.transport + 8, count),
            _ => Owner::Core(0),
        },
        _ => Owner::Core(0),
    }
}

/// The owner of the packet that an ICMP error quotes: one that we sent, so its source is local.
fn quoted(frame: &[u8], at: usize, count: u16) -> Owner {
    let Some(peek) = Peek::packet(frame, at) else { return Owner::Core(0) };
    match (peek.protocol, peek.ports(frame)) {
        // Of a datagram that left in fragments, usually the first is quoted.
        (TCP | UDP, Some((src, dst))) if !peek.later => {
            let local = IpEndpoint::new(peek.src, src);
            Owner::Core(core_of(
                peek.protocol,
                &Tuple { local, remote: IpEndpoint::new(peek.dst, dst) },
                count,
            ))
        }
        _ => Owner::Core(0),
    }
}

/// The core of a packet that was put together from fragments; core 0's is everything but TCP and UDP.
pub(crate) fn packet_core(packet: &[u8], count: u16) -> u16 {
    let Some(peek) = Peek::packet(packet, 0) else { return 0 };
    match (peek.protocol, peek.ports(packet)) {
        (TCP | UDP, Some((src, dst))) if (src, dst) != (DHCP_SERVER, DHCP_CLIENT) => {
            let tuple =
                Tuple { local: IpEndpoint::new(peek.dst, dst), remote: IpEndpoint::new(peek.src, src) };
            core_of(peek.protocol, &tuple, count)
        }
        _ => 0,
    }
}

/// The core of a TCP flow.
pub(crate) fn tcp_core(tuple: &Tuple, count: u16) -> u16 {
    core_of(TCP, tuple, count)
}

/// The core of datagrams between two endpoints.
pub(crate) fn udp_core(local: IpEndpoint, remote: IpEndpoint, count: u16) -> u16 {
    core_of(UDP, &Tuple { local, remote }, count)
}

/// All cores must agree, so the hash has no secret of a core. UDP goes by both addresses and the local port only for
/// connected traffic's sake: the same 4-tuple always reaches the same core.
fn core_of(protocol: u8, tuple: &Tuple, count: u16) -> u16 {
    if count <= 1 {
        return 0;
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(protocol);
    for (address, port) in [(tuple.local.addr, tuple.local.port), (tuple.remote.addr, tuple.remote.port)] {
        let bits = bits(address);
        let (high, low) = (high(bits), low(bits));
        for word in [high, low ^ u64::from(port) << 40] {
            // splitmix64's finalizer: cheap, and every bit counts.
            state = (state ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            state = (state ^ state >> 29).wrapping_mul(0x94d0_49bb_1331_11eb);
            state ^= state >> 32;
        }
    }
    // The high half times the count, shifted back: an even spread without a division.
    let spread = ((state >> 32) * u64::from(count)) >> 32;
    u16::try_from(spread).unwrap_or(0)
}
