//! Receive-side scaling: which receive queue a packet goes to, by a hash over its addresses and ports.
//! virtio 1.2 §5.1.6.4.3 (the hash), §5.1.6.5.6.4 (key and table).
//!
//! The one place in this crate that reads IP headers: the specification defines the hash over them, and a device has to
//! compute it. It reads the front of a frame, believes no length in it, and takes what it cannot make sense of for a
//! packet without a hash.

mod toeplitz;

use thiserror::Error;

pub use toeplitz::{KEY_BYTES, Toeplitz};

/// The kinds of packets that get a hash. virtio 1.2 §5.1.6.4.3.1.
pub mod hash_type {
    /// IPv4: source and destination address.
    pub const IPV4: u32 = 1 << 0;
    /// TCP over IPv4: addresses and ports.
    pub const TCPV4: u32 = 1 << 1;
    /// UDP over IPv4.
    pub const UDPV4: u32 = 1 << 2;
    /// IPv6: addresses.
    pub const IPV6: u32 = 1 << 3;
    /// TCP over IPv6: addresses and ports.
    pub const TCPV6: u32 = 1 << 4;
    /// UDP over IPv6.
    pub const UDPV6: u32 = 1 << 5;

    /// What is computed here: all but those that look into extension headers for a home address.
    pub const SUPPORTED: u32 = IPV4 | TCPV4 | UDPV4 | IPV6 | TCPV6 | UDPV6;
    /// The kinds that have ports.
    pub const TRANSPORT: u32 = TCPV4 | UDPV4 | TCPV6 | UDPV6;
}

/// What a hash was computed over, as the receive header says. virtio 1.2 §5.1.6.4.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum HashReport {
    /// [`hash_type::IPV4`].
    Ipv4 = 1,
    /// [`hash_type::TCPV4`].
    TcpV4 = 2,
    /// [`hash_type::UDPV4`].
    UdpV4 = 3,
    /// [`hash_type::IPV6`].
    Ipv6 = 4,
    /// [`hash_type::TCPV6`].
    TcpV6 = 5,
    /// [`hash_type::UDPV6`].
    UdpV6 = 6,
}

/// A key that repeats itself every 16 bits: both directions of a flow get the same hash, and a core computes it in a few
/// instructions.
pub const SYMMETRIC_KEY: [u8; KEY_BYTES] = {
    let mut key = [0x6d; KEY_BYTES];
    let mut at = 1;
    while at < KEY_BYTES {
        key[at] = 0x5a;
        at += 2;
    }
    key
};

/// The longest table that a device here takes; the least that one must. virtio 1.2 §5.1.4.
pub const MAX_TABLE: usize = 128;

/// How a device is to deal packets to receive queues: key, kinds of packets and table.
/// virtio 1.2 §5.1.6.5.6.4 `virtio_net_rss_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssConfig {
    /// Kinds of packets that get a hash: [`hash_type`].
    pub hash_types: u32,
    /// The receive queue of each value of the hash's lower bits; a power of two of entries.
    pub table: Vec<u16>,
    /// The receive queue of packets without a hash.
    pub unclassified_queue: u16,
    /// How many transmit queues the driver uses.
    pub transmit_queues: u16,
    /// The key, at most as long as the device says; 40 bytes cover every kind of packet.
    pub key: Vec<u8>,
}

/// How a device is to compute the hash that it reports, where it does not deal by it.
/// virtio 1.2 §5.1.6.5.6.4 `virtio_net_hash_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashConfig {
    /// Kinds of packets that get a hash: [`hash_type`].
    pub hash_types: u32,
    /// The key.
    pub key: Vec<u8>,
}

/// Why a device cannot deal packets as it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RssError {
    /// The table.
    #[error("indirection table of {entries} entries; a power of two up to {MAX_TABLE} is possible")]
    Table {
        /// Its length.
        entries: usize,
    },
    /// A queue that there is not.
    #[error("queue {queue} of {pairs} queue pairs")]
    Queue {
        /// Which.
        queue: u16,
        /// How many there are.
        pairs: u16,
    },
    /// The key.
    #[error("key of {bytes} bytes; 1 to {KEY_BYTES} are possible")]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// The kinds of packets.
    #[error("hash types {types:#x}; of {:#x} are possible", hash_type::SUPPORTED)]
    Types {
        /// What was asked for.
        types: u32,
    },
}

/// Computes the hash of frames: key and kinds of packets, checked.
#[derive(Clone, Debug)]
pub struct Hasher {
    toeplitz: Toeplitz,
    types: u32,
}

impl Hasher {
    /// # Errors
    /// [`RssError`] for kinds of packets and keys that there are not.
    pub fn new(types: u32, key: &[u8]) -> Result<Self, RssError> {
        if types & !hash_type::SUPPORTED != 0 {
            return Err(RssError::Types { types });
        }
        Ok(Self { toeplitz: Toeplitz::new(key).ok_or(RssError::Key { bytes: key.len() })?, types })
    }

    /// The hash of an Ethernet frame, and what it is of; `None` for a packet of no kind that gets one. Reads at most
    /// the headers; nothing else.
    #[inline]
    #[must_use]
    pub fn hash(&self, frame: &[u8]) -> Option<(u32, HashReport)> {
        let (input, len, report) = input(frame, self.types)?;
        Some((self.toeplitz.hash(&input[..len]), report))
    }

    /// The hash of the packet that answers this one: source and destination change places.
    #[inline]
    #[must_use]
    pub fn answered(&self, frame: &[u8]) -> Option<u32> {
        let (input, len, _) = input(frame, self.types)?;
        // Two addresses, and behind them two ports if there are any.
        let address = if len > 12 { 16 } else { 4 };
        let [src, dst] = [&input[..address], &input[address..2 * address]];
        let mut swapped = [0; INPUT_BYTES];
        swapped[..address].copy_from_slice(dst);
        swapped[address..2 * address].copy_from_slice(src);
        if let [a, b, c, d] = input[2 * address..len] {
            swapped[2 * address..len].copy_from_slice(&[c, d, a, b]);
        }
        Some(self.toeplitz.hash(&swapped[..len]))
    }
}

/// Deals frames to receive queues: an [`RssConfig`], checked.
#[derive(Clone, Debug)]
pub struct Rss {
    hasher: Hasher,
    table: Box<[u16]>,
    unclassified: u16,
}

impl Rss {
    /// # Errors
    /// [`RssError`] for what a device of `pairs` queue pairs cannot do.
    pub fn new(config: &RssConfig, pairs: u16) -> Result<Self, RssError> {
        let RssConfig { hash_types, table, unclassified_queue, transmit_queues, key } = config;
        if !table.len().is_power_of_two() || table.len() > MAX_TABLE {
            return Err(RssError::Table { entries: table.len() });
        }
        let queues = table.iter().chain([unclassified_queue]).copied().chain(transmit_queues.checked_sub(1));
        if let Some(queue) = queues.into_iter().find(|queue| *queue >= pairs) {
            return Err(RssError::Queue { queue, pairs });
        }
        if *transmit_queues == 0 {
            return Err(RssError::Queue { queue: 0, pairs: 0 });
        }
        Ok(Self {
            hasher: Hasher::new(*hash_types, key)?,
            table: table.as_slice().into(),
            unclassified: *unclassified_queue,
        })
    }

    /// The receive queue of a frame, and its hash.
    #[inline]
    #[must_use]
    pub fn place(&self, frame: &[u8]) -> (u16, Option<(u32, HashReport)>) {
        let hash = self.hasher.hash(frame);
        let queue = match hash {
            Some((hash, _)) => self.table[hash as usize & (self.table.len() - 1)],
            None => self.unclassified,
        };
        (queue, hash)
    }
}

/// Two addresses of 16 bytes, two ports.
const INPUT_BYTES: usize = 36;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What the hash is computed over, how long it is, and what it is called.
#[inline]
fn input(frame: &[u8], types: u32) -> Option<([u8; INPUT_BYTES], usize, HashReport)> {
    let mut at = 12;
    let mut ethertype = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
    // One tag, or two: 802.1Q, 802.1ad.
    for _ in 0..2 {
        if ethertype != 0x8100 && ethertype != 0x88a8 {
            break;
        }
        at += 4;
        ethertype = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
    }
    let packet = &frame[at + 2..];
    match ethertype {
        0x0800 => ipv4(packet, types),
        0x86dd => ipv6(packet, types),
        _ => None,
    }
}

#[inline]
fn ipv4(packet: &[u8], types: u32) -> Option<([u8; INPUT_BYTES], usize, HashReport)> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let header_bytes = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_bytes < 20 {
        return None;
    }
    // "Has a TCP header": no fragment does for certain but the first, and all of one go the same way.
    let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
    let mut input = [0; INPUT_BYTES];
    input[..8].copy_from_slice(&header[12..20]);
    let transport = whole.then(|| packet.get(header_bytes..)?.first_chunk::<4>()).flatten();
    let report = match (header[9], transport) {
        (TCP, Some(_)) if types & hash_type::TCPV4 != 0 => HashReport::TcpV4,
        (UDP, Some(_)) if types & hash_type::UDPV4 != 0 => HashReport::UdpV4,
        _ if types & hash_type::IPV4 != 0 => return Some((input, 8, HashReport::Ipv4)),
        _ => return None,
    };
    input[8..12].copy_from_slice(transport?);
    Some((input, 12, report))
}

/// The most extension headers that are looked past.
const MAX_EXTENSIONS: usize = 8;

fn ipv6(packet: &[u8], types: u32) -> Option<([u8; INPUT_BYTES], usize, HashReport)> {
    let header: &[u8; 40] = packet.first_chunk()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut input = [0; INPUT_BYTES];
    input[..32].copy_from_slice(&header[8..]);
    let transport = transport_of_ipv6(packet, header[6]);
    let report = match transport {
        Some((TCP, _)) if types & hash_type::TCPV6 != 0 => HashReport::TcpV6,
        Some((UDP, _)) if types & hash_type::UDPV6 != 0 => HashReport::UdpV6,
        _ if types & hash_type::IPV6 != 0 => return Some((input, 32, HashReport::Ipv6)),
        _ => return None,
    };
    input[32..].copy_from_slice(&transport?.1);
    Some((input, 36, report))
}

/// The transport protocol behind the extension headers, and its ports; `None` in a fragment, and where there is no
/// end in sight.
#[inline]
fn transport_of_ipv6(packet: &[u8], mut next: u8) -> Option<(u8, [u8; 4])> {
    let mut at = 40;
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            TCP | UDP => return Some((next, *packet.get(at..)?.first_chunk()?)),
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let [following, units] = *packet.get(at..)?.first_chunk()?;
                (next, at) = (following, at + 8 * (usize::from(units) + 1));
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests;
