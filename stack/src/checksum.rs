//! The Internet checksum (RFC 1071), eight bytes at a time.
//!
//! Words are added as they lie in memory: the sum does not depend on the byte order but for the order of its own bytes
//! (RFC 1071 §2 B). One addition with carry takes in eight bytes.

/// A sum that is being formed.
#[derive(Clone, Copy, Default)]
struct Sum(u128);

impl Sum {
    /// Adds `bytes`, which begin at an even place.
    #[inline]
    fn add(mut self, bytes: &[u8]) -> Self {
        let (pairs, mut rest) = bytes.as_chunks::<16>();
        for pair in pairs {
            for word in pair.as_chunks::<8>().0 {
                self.0 += u128::from(u64::from_ne_bytes(*word));
            }
        }
        if let Some((word, tail)) = rest.split_first_chunk::<8>() {
            self.0 += u128::from(u64::from_ne_bytes(*word));
            rest = tail;
        }
        if let Some((word, tail)) = rest.split_first_chunk::<4>() {
            self.0 += u128::from(u32::from_ne_bytes(*word));
            rest = tail;
        }
        if let Some((word, tail)) = rest.split_first_chunk::<2>() {
            self.0 += u128::from(u16::from_ne_bytes(*word));
            rest = tail;
        }
        if let [last] = rest {
            self.0 += u128::from(u16::from_ne_bytes([*last, 0]));
        }
        self
    }

    /// Adds a number in network order.
    #[inline]
    fn number(self, number: u16) -> Self {
        Sum(self.0 + u128::from(number.to_be()))
    }

    /// The 16 bits, in memory order: 0xffff if the checksum was among what was added and is right.
    #[inline]
    fn fold(self) -> u16 {
        let wide = |sum: u128| u64::try_from(sum & u128::from(u64::MAX)).unwrap_or(0);
        // No packet is so long that the upper half were more than a few bits, so that this does not overflow.
        let (low, high) = (wide(self.0), wide(self.0 >> 64));
        let sum = (low >> 32) + (low & 0xffff_ffff) + high;
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        u16::try_from(sum).unwrap_or(0)
    }
}

/// Whether an IPv4 header is as it was sent.
#[inline]
pub(crate) fn is_ipv4_right(header: &[u8]) -> bool {
    Sum::default().add(header).fold() == 0xffff
}

/// Sets the sum of an IPv4 header, where there is 0 now.
#[inline]
pub(crate) fn fill_ipv4(header: &mut [u8; 20]) {
    let sum = !Sum::default().add(header).fold();
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
}

/// The sum of a pseudo-header (RFC 9293 §3.1) of a segment of `len` bytes. `ip` is the header before it: IPv4 of any
/// length, or IPv6 without extensions.
#[inline]
fn pseudo_header(ip: &[u8], len: usize) -> Option<Sum> {
    let addresses = match ip.first()? >> 4 {
        4 => ip.get(12..20)?,
        _ => ip.get(8..40)?,
    };
    Some(Sum::default().add(addresses).number(6).number(u16::try_from(len).ok()?))
}

/// The sum of a TCP segment with its pseudo-header.
#[inline]
fn tcp(ip: &[u8], segment: &[u8]) -> Option<u16> {
    Some(pseudo_header(ip, segment.len())?.add(segment).fold())
}

/// Whether a segment is as it was sent.
#[inline]
pub(crate) fn is_tcp_right(ip: &[u8], segment: &[u8]) -> bool {
    tcp(ip, segment) == Some(0xffff)
}

/// Sets the sum of a segment, where there is 0 now.
#[inline]
pub(crate) fn fill_tcp(ip: &[u8], segment: &mut [u8]) {
    let sum = tcp(ip, segment);
    if let (Some(sum), Some(field)) = (sum, segment.get_mut(16..18)) {
        field.copy_from_slice(&(!sum).to_ne_bytes());
    }
}

/// Writes the part of a segment's sum that its pseudo-header makes, for a device that adds the rest.
#[inline]
pub(crate) fn fill_tcp_pseudo_header(ip: &[u8], segment: &mut [u8]) {
    let sum = pseudo_header(ip, segment.len()).map(Sum::fold);
    if let (Some(sum), Some(field)) = (sum, segment.get_mut(16..18)) {
        field.copy_from_slice(&sum.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{Ipv4Address, Ipv4Packet, Ipv6Address, TcpPacket};

    fn octets<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().unwrap()
    }

    proptest! {
        /// smoltcp's sums are the reference.
        #[test]
        fn sums_are_those_of_smoltcp(
            mut ip in prop::collection::vec(any::<u8>(), 40),
            mut segment in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff), Just(0)], 20..3000),
            v6 in any::<bool>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let (src, dst) = if v6 {
                ip[0] = 0x60;
                let at = |from: usize| Ipv6Address::from(octets::<16>(&ip[from..from + 16])).into();
                (at(8), at(24))
            } else {
                ip.truncate(20);
                ip[0] = 0x45;
                ip[10..12].fill(0);
                let header = ip.first_chunk_mut().unwrap();
                fill_ipv4(header);
                assert!(is_ipv4_right(header) && Ipv4Packet::new_unchecked(&ip).verify_checksum());
                let at = |from: usize| Ipv4Address::from(octets::<4>(&ip[from..from + 4])).into();
                (at(12), at(16))
            };
            segment[16..18].fill(0);
            fill_tcp(&ip, &mut segment);
            assert!(TcpPacket::new_unchecked(&segment).verify_checksum(&src, &dst));
            assert!(is_tcp_right(&ip, &segment));
            // A device adds what it finds from the TCP header on, and writes the complement.
            let right = segment.clone();
            segment[16..18].fill(0);
            fill_tcp_pseudo_header(&ip, &mut segment);
            let sum = !Sum::default().add(&segment).fold();
            segment[16..18].copy_from_slice(&sum.to_ne_bytes());
            assert_eq!(segment, right);
            let at = flip.index(segment.len());
            segment[at] ^= 0x10;
            assert!(!is_tcp_right(&ip, &segment));
        }
    }

    #[test]
    fn headers_too_short_to_sum_are_wrong() {
        for len in 0..20 {
            assert!(!is_tcp_right(&[0x45; 20][..len], &[0; 20]));
        }
        assert!(!is_tcp_right(&[0x60; 39], &[0; 20]));
        assert!(!is_tcp_right(&[0x45; 20], &[0; 65_536]));
    }
}
