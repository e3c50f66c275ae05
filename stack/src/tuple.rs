//! The 4-tuple of a flow, how it is hashed, and how it is read out of a raw frame before anything is checked.

use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Address, Ipv6Address};

/// Local and remote endpoint of a TCP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub local: IpEndpoint,
    pub remote: IpEndpoint,
}

/// Secret of the hash table: peers must not be able to choose tuples that collide.
#[derive(Clone, Copy)]
pub(crate) struct HashKey([u64; 4]);

impl HashKey {
    pub fn new(words: [u64; 4]) -> Self {
        // An odd multiplier never maps everything to zero.
        HashKey([words[0], words[1] | 1, words[2], words[3] | 1])
    }

    /// Folded multiply (as in wyhash): the high and low half of a 128-bit product, so that every input bit reaches
    /// every output bit. Three multiplications for IPv4, five for IPv6.
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        let [a, b, c, d] = self.0;
        let ports = u64::from(tuple.local.port) << 16 | u64::from(tuple.remote.port);
        let state = match (tuple.local.addr, tuple.remote.addr) {
            (IpAddress::Ipv4(local), IpAddress::Ipv4(remote)) => {
                fold(u64::from(local.to_bits()) << 32 ^ u64::from(remote.to_bits()) ^ a, b)
            }
            (local, remote) => {
                let (l, r) = (bits(local), bits(remote));
                let first = fold(high(l) ^ a, low(l) ^ b);
                fold(first ^ high(r) ^ c, low(r) ^ d)
            }
        };
        fold(state ^ ports ^ c, d)
    }
}

fn fold(x: u64, y: u64) -> u64 {
    let product = u128::from(x) * u128::from(y);
    high(product) ^ low(product)
}

#[allow(clippy::cast_possible_truncation)]
pub(crate) fn low(x: u128) -> u64 {
    x as u64
}

pub(crate) fn high(x: u128) -> u64 {
    low(x >> 64)
}

pub(crate) fn bits(address: IpAddress) -> u128 {
    match address {
        IpAddress::Ipv4(a) => u128::from(a.to_bits()),
        IpAddress::Ipv6(a) => a.to_bits(),
    }
}

/// What a frame seems to be, read without checking lengths or sums beyond what reading needs. Only for hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peek {
    pub src: IpAddress,
    pub dst: IpAddress,
    /// IP protocol number.
    pub protocol: u8,
    /// Where the transport header begins.
    pub transport: usize,
    /// Not the first fragment, or not the only one.
    pub fragment: bool,
    /// Not the first fragment: there are no ports.
    pub later: bool,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl Peek {
    /// The IP packet of an Ethernet frame, behind at most one VLAN tag.
    pub fn frame(frame: &[u8]) -> Option<Peek> {
        let (ethertype, at) = match be16(frame, 12)? {
            0x8100 => (be16(frame, 16)?, 18),
            ethertype => (ethertype, 14),
        };
        match ethertype {
            0x0800 | 0x86dd => Peek::packet(frame, at),
            _ => None,
        }
    }

    /// The IP packet at `at`.
    pub fn packet(bytes: &[u8], at: usize) -> Option<Peek> {
        let ip = bytes.get(at..)?;
        match ip.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = ip.first_chunk()?;
                let v4 = |at: usize| {
                    IpAddress::Ipv4(Ipv4Address::new(
                        header[at],
                        header[at + 1],
                        header[at + 2],
                        header[at + 3],
                    ))
                };
                Some(Peek {
                    src: v4(12),
                    dst: v4(16),
                    protocol: header[9],
                    transport: at + usize::from(header[0] & 15) * 4,
                    fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
                    later: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
                })
            }
            6 => {
                let header: &[u8; 40] = ip.first_chunk()?;
                let v6 = |at: usize| -> Option<IpAddress> {
                    let octets: [u8; 16] = header[at..at + 16].try_into().ok()?;
                    Some(IpAddress::Ipv6(Ipv6Address::from(octets)))
                };
                let (protocol, transport, fragment, later) = match header[6] {
                    // A fragment header (RFC 8200 §4.5): what it carries has no ports beyond the first one.
                    44 => (*ip.get(40)?, at + 48, true, be16(ip, 42)? >> 3 != 0),
                    protocol => (protocol, at + 40, false, false),
                };
                Some(Peek { src: v6(8)?, dst: v6(24)?, protocol, transport, fragment, later })
            }
            _ => None,
        }
    }

    /// Source and destination port; `None` where the frame is too short or has none.
    pub fn ports(&self, bytes: &[u8]) -> Option<(u16, u16)> {
        Some((be16(bytes, self.transport)?, be16(bytes, self.transport + 2)?))
    }

    /// The tuple of a TCP segment that came in this frame.
    pub fn tcp(&self, bytes: &[u8]) -> Option<Tuple> {
        if self.protocol != 6 || self.fragment {
            return None;
        }
        let (src, dst) = self.ports(bytes)?;
        Some(Tuple { local: IpEndpoint::new(self.dst, dst), remote: IpEndpoint::new(self.src, src) })
    }
}
