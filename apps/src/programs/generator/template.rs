//! Frames made once, with valid checksums, and copied into mbufs with a flow and a payload filled in.
//!
//! A frame is Ethernet, IPv4, UDP, [`Payload`], and from there on a pattern that depends on the place alone.
//! Addresses are those set aside for benchmarks (RFC 2544 appendix C.2.2, RFC 5735): flow `f` comes from
//! 198.18.0.1 + f / 16384, UDP port 49152 + f mod 16384, and goes to 198.19.0.1, UDP port 9 (discard).
//!
//! Both checksums are always right. A flow changes the IPv4 source and the UDP source port, so each template
//! keeps its two sums without them, and filling a frame adds them back (RFC 1624); the payload's own sum is
//! always zero, see [`payload`](super::payload).

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;

use super::payload::{PAYLOAD_BYTES, Payload};
use super::sizes::MIN_FRAME_BYTES;

/// An Ethernet address.
pub type Mac = [u8; 6];

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// First of the dynamic ports. RFC 6335 §6.
const FIRST_SOURCE_PORT: u16 = 49152;
const SOURCE_PORTS: u16 = 16384;
/// Whoever gets a frame by mistake throws it away. RFC 863.
const DISCARD_PORT: u16 = 9;
const TTL: u8 = 64;

/// Where things are in a frame: Ethernet 14 bytes, IPv4 20, UDP 8.
const IP_TOTAL_LENGTH: usize = 16;
const IP_CHECKSUM: usize = 24;
const IP_SOURCE: usize = 26;
const UDP_SOURCE_PORT: usize = 34;
const UDP_CHECKSUM: usize = 40;
const PAYLOAD: usize = 42;
const PATTERN: usize = PAYLOAD + PAYLOAD_BYTES;
const _: () = assert!(PATTERN == MIN_FRAME_BYTES);

/// The smallest frame holds everything that differs between frames of one size.
pub type Head = [u8; MIN_FRAME_BYTES];

/// A frame of one size for one port, and its checksums without what a flow changes.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Box<[u8]>,
    /// Sum of the IPv4 header without its source address.
    ip_sum: u32,
    /// Sum of pseudo header, UDP header and data without source address and source port.
    udp_sum: u32,
}

impl Template {
    /// A frame of `frame_bytes` without FCS from `source` to `destination`.
    ///
    /// # Panics
    /// If the frame is shorter than [`MIN_FRAME_BYTES`] or longer than an IPv4 packet can be; sizes are checked
    /// where they are read ([`Sizes::sequence`](super::sizes::Sizes::sequence)).
    pub fn new(source: Mac, destination: Mac, frame_bytes: usize) -> Self {
        let mut data = vec![0; frame_bytes - PAYLOAD];
        data[PAYLOAD_BYTES..].copy_from_slice(&pattern(frame_bytes)[PATTERN..]);
        let builder = PacketBuilder::ethernet2(source, destination)
            .ipv4(SOURCE.octets(), DESTINATION.octets(), TTL)
            .udp(FIRST_SOURCE_PORT, DISCARD_PORT);
        let mut frame = Vec::with_capacity(frame_bytes);
        builder.write(&mut frame, &data).expect("the length fits IPv4, and a vector takes every write");
        let without = |checksum: usize, words: &[u16]| {
            words.iter().fold(u32::from(!be16(&frame, checksum)), |sum, word| sum + u32::from(!word))
        };
        let [high, low] = halves(SOURCE.to_bits());
        Self {
            ip_sum: without(IP_CHECKSUM, &[high, low]),
            udp_sum: without(UDP_CHECKSUM, &[high, low, FIRST_SOURCE_PORT]),
            frame: frame.into_boxed_slice(),
        }
    }

    /// Length of the frame in bytes, without FCS.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.frame.len()
    }

    /// Writes the frame of `payload` and its flow. One copy, then five stores into the same cache line.
    ///
    /// # Panics
    /// If `frame` is not [`len_bytes`](Self::len_bytes) long.
    #[inline]
    pub fn fill(&self, frame: &mut [u8], payload: &Payload) {
        let head = self.fill_unnumbered(frame, payload.flow);
        let tail: &mut [u8; PAYLOAD_BYTES] = head.last_chunk_mut().expect("the head ends with the payload");
        payload.write(tail);
    }

    /// Writes the frame of `flow` with a payload of zeros, which no run takes for its own. Returns its head.
    ///
    /// # Panics
    /// If `frame` is not [`len_bytes`](Self::len_bytes) long.
    #[inline]
    pub fn fill_unnumbered<'a>(&self, frame: &'a mut [u8], flow: u16) -> &'a mut Head {
        frame.copy_from_slice(&self.frame);
        let head: &mut Head = frame.first_chunk_mut().expect("no template is shorter");
        let address = SOURCE.to_bits() + u32::from(flow / SOURCE_PORTS);
        let port = FIRST_SOURCE_PORT + flow % SOURCE_PORTS;
        let [high, low] = halves(address).map(u32::from);
        let ip_checksum = !fold(self.ip_sum + high + low);
        // A UDP checksum of 0 means none: the other zero is sent (RFC 768).
        let udp_checksum = match !fold(self.udp_sum + high + low + u32::from(port)) {
            0 => 0xffff,
            sum => sum,
        };
        head[IP_CHECKSUM..IP_CHECKSUM + 2].copy_from_slice(&ip_checksum.to_be_bytes());
        head[IP_SOURCE..IP_SOURCE + 4].copy_from_slice(&address.to_be_bytes());
        head[UDP_SOURCE_PORT..UDP_SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
        head[UDP_CHECKSUM..UDP_CHECKSUM + 2].copy_from_slice(&udp_checksum.to_be_bytes());
        head
    }
}

/// Where the payload of a received frame would be; none in a frame too short to be ours.
#[inline]
pub fn payload_of(frame: &[u8]) -> Option<&[u8; PAYLOAD_BYTES]> {
    frame.get(PAYLOAD..)?.first_chunk()
}

/// The bytes that a frame of `frame_bytes` has behind its payload: byte `i` of the frame is `i mod 251`, a
/// prime, so that no block of a copy gone wrong looks like its neighbour. The first 60 bytes are unused.
pub fn pattern(frame_bytes: usize) -> Vec<u8> {
    (0..251).cycle().take(frame_bytes).collect()
}

/// Whether a frame of ours, in `segments` of `frame_bytes` in all, is as long as its IPv4 header says and
/// carries `pattern` behind its payload. Reads every byte behind the payload once.
#[inline]
pub fn is_intact<'a>(segments: impl Iterator<Item = &'a [u8]>, frame_bytes: usize, pattern: &[u8]) -> bool {
    let mut at = 0;
    for segment in segments {
        if at == 0
            && (segment.len() < PATTERN || 14 + usize::from(be16(segment, IP_TOTAL_LENGTH)) != frame_bytes)
        {
            return false;
        }
        let from = PATTERN.saturating_sub(at).min(segment.len());
        let Some(expected) = pattern.get(at + from..at + segment.len()) else { return false };
        if segment[from..] != *expected {
            return false;
        }
        at += segment.len();
    }
    at == frame_bytes
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // halves are what is meant
fn halves(word: u32) -> [u16; 2] {
    [(word >> 16) as u16, word as u16]
}

/// Folds a sum of up to 2¹⁵ words.
#[inline]
#[allow(clippy::cast_possible_truncation)] // nothing is left above 16 bits after the second fold
fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // numbers as frames carry them
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn filled(frame_bytes: usize, payload: &Payload) -> Vec<u8> {
        let template = Template::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], frame_bytes);
        let mut frame = vec![0xee; frame_bytes];
        template.fill(&mut frame, payload);
        frame
    }

    fn payload() -> impl Strategy<Value = Payload> {
        (any::<u32>(), any::<u32>(), any::<u16>(), any::<u8>(), any::<u64>()).prop_map(
            |(run, sequence, flow, port, stamp)| Payload {
                run,
                sequence,
                flow,
                port,
                stamp: stamp & super::super::payload::STAMP_MASK,
            },
        )
    }

    proptest! {
        /// Parsed by a library that computes both checksums from the bytes.
        #[test]
        fn every_frame_parses_with_right_addresses_lengths_and_checksums(frame_bytes in 60..1515usize, payload in payload()) {
            let frame = filled(frame_bytes, &payload);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
            let ip_header = ip.header().to_header();
            prop_assert_eq!(ip_header.header_checksum, ip_header.calc_header_checksum());
            prop_assert_eq!(usize::from(ip_header.total_len), frame_bytes - 14);
            prop_assert_eq!(ip_header.source, [198, 18, 0, 1 + (payload.flow / 16384) as u8]);
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("not UDP") };
            prop_assert_eq!(udp.source_port(), 49152 + payload.flow % 16384);
            prop_assert_eq!(usize::from(udp.length()), frame_bytes - 34);
            let right = udp.to_header().calc_checksum_ipv4(&ip_header, udp.payload()).unwrap();
            prop_assert_eq!(udp.checksum(), right);
        }

        #[test]
        fn a_frame_is_recognised_and_whole_however_it_is_cut(frame_bytes in 60..9015usize, payload in payload(), cut in 60..9015usize) {
            let frame = filled(frame_bytes, &payload);
            prop_assert_eq!(Payload::read(payload_of(&frame).unwrap(), payload.run), Ok(payload));
            let (head, tail) = frame.split_at(cut.min(frame_bytes));
            prop_assert!(is_intact([head, tail].into_iter(), frame_bytes, &pattern(9014)));
        }

        #[test]
        fn any_changed_byte_behind_the_payload_and_any_cut_is_noticed(
            frame_bytes in 61..1515usize, payload in payload(), place in any::<prop::sample::Index>(), change in 1..=255u8,
        ) {
            let mut frame = filled(frame_bytes, &payload);
            let pattern = pattern(1514);
            let shorter = &frame[..60 + place.index(frame_bytes - 60)];
            prop_assert!(!is_intact([shorter].into_iter(), shorter.len(), &pattern));
            frame[60 + place.index(frame_bytes - 60)] ^= change;
            prop_assert!(!is_intact([&frame[..]].into_iter(), frame_bytes, &pattern));
        }

        #[test]
        fn no_bytes_off_the_wire_panic(frame in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200usize) {
            let (head, tail) = frame.split_at(cut.min(frame.len()));
            is_intact([head, tail].into_iter(), frame.len(), &pattern(100));
            let _ = payload_of(&frame).map(|payload| Payload::read(payload, 0));
        }
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_sent_as_its_other_zero() {
        let mut payload = Payload { run: 0, sequence: 0, flow: 0, port: 0, stamp: 0 };
        // The checksum depends on size and flow alone; a quarter of all sizes has a flow where it is zero.
        let found = (60..200).any(|frame_bytes| {
            let template = Template::new([2; 6], [4; 6], frame_bytes);
            let mut frame = vec![0; frame_bytes];
            (0..SOURCE_PORTS).any(|flow| {
                payload.flow = flow;
                template.fill(&mut frame, &payload);
                assert_ne!(be16(&frame, UDP_CHECKSUM), 0, "flow {flow}, {frame_bytes} bytes");
                be16(&frame, UDP_CHECKSUM) == 0xffff
            })
        });
        assert!(found);
    }

    #[test]
    fn every_flow_has_an_address_of_its_own() {
        let addresses: std::collections::HashSet<_> = (0..=u16::MAX)
            .map(|flow| {
                filled(60, &Payload { run: 0, sequence: 0, flow, port: 0, stamp: 0 })
                    [IP_SOURCE..UDP_SOURCE_PORT + 2]
                    .to_vec()
            })
            .collect();
        assert_eq!(addresses.len(), 65536);
    }
}
