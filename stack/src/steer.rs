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
                Owner::Core(core_of(&Tuple { local, remote: IpEndpoint::new(peek.src, src) }, count))
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
            Owner::Core(core_of(&Tuple { local, remote: IpEndpoint::new(peek.dst, dst) }, count))
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
            core_of(&tuple, count)
        }
        _ => 0,
    }
}

/// The core of a TCP flow.
pub(crate) fn tcp_core(tuple: &Tuple, count: u16) -> u16 {
    core_of(tuple, count)
}

/// The core of datagrams between two endpoints.
pub(crate) fn udp_core(local: IpEndpoint, remote: IpEndpoint, count: u16) -> u16 {
    core_of(&Tuple { local, remote }, count)
}

/// Two bytes, over and over: the key of the Toeplitz hash by which flows belong to cores. A device with receive-side
/// scaling that is given this key, [`TABLE`] entries and the right core in each delivers every flow to its owner.
pub const KEY_WORD: [u8; 2] = [0x6d, 0x5a];

/// Entries of the table from hashes to cores: a hash belongs to entry `hash % TABLE`, an entry to core `entry % count`.
pub const TABLE: u16 = 128;

/// The hash of a 16-bit word under the key, by upper and lower byte: its lower half, which repeats itself above.
const HASHES: [[u16; 256]; 2] = {
    let key = u16::from_be_bytes(KEY_WORD);
    let mut hashes = [[0; 256]; 2];
    let mut at = 0;
    while at < 2 * 256 * 8 {
        let (half, byte, bit) = (at / 2048, at / 8 % 256, at % 8);
        if byte >> (7 - bit) & 1 == 1 {
            #[allow(clippy::cast_possible_truncation)] // below 16
            let rotation = (8 * half + bit) as u32;
            hashes[half][byte] ^= key.rotate_left(rotation);
        }
        at += 1;
    }
    hashes
};

/// All cores must agree, and the device if it can, so the hash has no secret. It is Toeplitz's under a key that repeats
/// itself every 16 bits: all 16-bit words of addresses and ports are added up first, both directions of a flow get the
/// same, and two look-ups do. The same 4-tuple always reaches the same core, whatever the protocol.
fn core_of(tuple: &Tuple, count: u16) -> u16 {
    if count <= 1 {
        return 0;
    }
    let addresses = bits(tuple.local.addr) ^ bits(tuple.remote.addr);
    let half = low(addresses) ^ high(addresses);
    let quarter = half ^ half >> 32;
    #[allow(clippy::cast_possible_truncation)] // its lower 16 bits
    let word = (quarter ^ quarter >> 16) as u16 ^ tuple.local.port ^ tuple.remote.port;
    let [upper, lower] = word.to_be_bytes().map(usize::from);
    (HASHES[0][upper] ^ HASHES[1][lower]) % TABLE % count
}
