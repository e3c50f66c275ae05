//! Fragments of datagrams that are larger than the path takes: where to cut, and identifications.

use core::hash::Hasher;

use siphasher::sip::SipHasher13;
use smoltcp::wire::IpAddress;

/// Counters of identifications. Several destinations share one, which hides how much is sent to each.
const COUNTERS: usize = 256;

/// Identifications that outsiders cannot predict and that do not repeat soon: a keyed hash of the addresses
/// plus a counter. Source: RFC 7739 §5.3 ("double hash" with a table of counters).
pub(crate) struct Identifications {
    hasher: SipHasher13,
    counters: Box<[u32; COUNTERS]>,
}

impl Identifications {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self { hasher: SipHasher13::new_with_key(key), counters: Box::new([0; COUNTERS]) }
    }

    /// The next identification from `src` to `dst`. IPv4 takes its low 16 bits.
    pub(crate) fn next(&mut self, src: IpAddress, dst: IpAddress) -> u32 {
        let mut hasher = self.hasher;
        for address in [src, dst] {
            match address {
                IpAddress::Ipv4(a) => hasher.write(&a.octets()),
                IpAddress::Ipv6(a) => hasher.write(&a.octets()),
            }
        }
        let hash = hasher.finish().to_le_bytes();
        let [a, b, c, d, bucket, ..] = hash;
        let counter = &mut self.counters[usize::from(bucket)];
        *counter = counter.wrapping_add(1);
        u32::from_le_bytes([a, b, c, d]).wrapping_add(*counter)
    }
}

/// Cuts `payload_len` bytes into pieces so that each, with `header_len` bytes before it, fits `mtu`. Yields
/// `(offset, len, more)`; all but the last are multiples of 8 bytes.
///
/// `mtu` must leave room for 8 bytes behind the header, as every IP MTU does.
pub(crate) fn pieces(
    payload_len: usize,
    header_len: usize,
    mtu: usize,
) -> impl Iterator<Item = (usize, usize, bool)> {
    let room = (mtu.saturating_sub(header_len) & !7).max(8);
    let mut offset = 0;
    core::iter::from_fn(move || {
        let left = payload_len.checked_sub(offset).filter(|&left| left > 0)?;
        let len = left.min(room);
        let piece = (offset, len, left > len);
        offset += len;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_payload_once_in_multiples_of_eight() {
        for (payload, header, mtu) in [(1481, 20, 1500), (65_515, 20, 1500), (60_008, 48, 1280), (9, 20, 28)]
        {
            let mut end = 0;
            let mut last = false;
            for (offset, len, more) in pieces(payload, header, mtu) {
                assert!(!last, "nothing follows the last");
                assert_eq!(offset, end);
                assert!(len + header <= mtu && len > 0);
                assert!(!more || len % 8 == 0);
                end += len;
                last = !more;
            }
            assert_eq!((end, last), (payload, true));
        }
    }

    #[test]
    fn identifications_depend_on_key_and_destination_and_do_not_repeat() {
        let host = |n| IpAddress::v4(10, 0, 0, n);
        let mut a = Identifications::new(&[1; 16]);
        let mut b = Identifications::new(&[2; 16]);
        assert_ne!(a.next(host(1), host(2)), b.next(host(1), host(2)), "another key");
        let mut seen: Vec<u16> =
            (0..60_000).map(|_| (a.next(host(1), host(2)) & 0xffff).try_into().unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 60_000, "16 bits do not repeat before they must");
        let (first, other) = (a.next(host(1), host(2)), a.next(host(1), host(3)));
        assert!(first.abs_diff(other) > 1000, "another destination starts elsewhere");
    }
}
