//! Where a frame goes, and the twelve bytes of it that change on the way.
//!
//! Facts taken from DPDK (`examples/l2fwd`, `app/test-pmd`): neighbouring ports are a pair (0 and 1, 2 and 3), and
//! the last of an odd number of ports is paired with itself; MAC updating sets the source address to the
//! sending port's own and the destination to 02:00:00:00:00:*xx*, where *xx* is the sending port's number.

use pmd::Burst;

/// Bytes of an Ethernet header; a frame with fewer is none.
pub const ETHERNET_BYTES: usize = 14;

/// What happens to a frame's addresses; DPDK testpmd's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ForwardMode {
    /// Nothing: the frame is not looked at.
    Io,
    /// Source becomes the sending port's address, destination 02:00:00:00:00:xx with the sending port's number.
    #[default]
    Mac,
    /// Source and destination change places.
    Macswap,
}

/// The port that frames of `port` leave by.
pub fn paired_with(port: usize, ports: usize) -> usize {
    let other = port ^ 1;
    if other < ports { other } else { port }
}

/// Both addresses as they lie in a frame: 8 bytes, then 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    first: u64,
    last: u32,
}

impl Addresses {
    /// The addresses that mode `mac` writes on port `port`, whose own address is `mac`. Of port numbers above
    /// 255 the low byte is written.
    pub fn of_port(port: usize, mac: [u8; 6]) -> Self {
        let [number, ..] = port.to_le_bytes();
        let [a, b, c, d, e, f] = mac;
        Self {
            first: u64::from_le_bytes([2, 0, 0, 0, 0, number, a, b]),
            last: u32::from_le_bytes([c, d, e, f]),
        }
    }
}

type Header = [u8; ETHERNET_BYTES];

/// Writes both addresses: two stores.
#[inline]
fn set(header: &mut Header, addresses: Addresses) {
    header[0..8].copy_from_slice(&addresses.first.to_le_bytes());
    header[8..12].copy_from_slice(&addresses.last.to_le_bytes());
}

/// Exchanges the addresses: two loads that overlap (bytes 0–7 and 4–11), four operations, two stores.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the low half is what is meant
fn swap(header: &mut Header) {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (front, back) = (word(0), word(4));
    set(header, Addresses { first: back >> 16 | front << 48, last: (front >> 16) as u32 });
}

/// Sets the addresses of every frame of the burst. False if a frame was left as it was: too short, or shared.
#[inline]
pub fn set_addresses(burst: &mut Burst, addresses: Addresses) -> bool {
    each_header(burst, |header| set(header, addresses))
}

/// Exchanges the addresses of every frame of the burst. False if a frame was left as it was.
#[inline]
pub fn swap_addresses(burst: &mut Burst) -> bool {
    each_header(burst, swap)
}

/// The frames do not depend on each other, so the processor works on several at once and their cache misses
/// overlap without a prefetch; a frame that cannot be rewritten costs the others nothing but one flag.
#[inline]
fn each_header(burst: &mut Burst, change: impl Fn(&mut Header)) -> bool {
    let mut all = true;
    for mbuf in burst {
        match mbuf.data_mut().and_then(|data| data.first_chunk_mut()) {
            Some(header) => change(header),
            None => all = false,
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small numbers made here
mod tests {
    use super::*;
    use crate::programs::test_pool;
    use proptest::prelude::*;

    #[test]
    fn neighbours_are_pairs_and_an_odd_last_port_is_its_own() {
        let pairs = |ports: usize| (0..ports).map(|port| paired_with(port, ports)).collect::<Vec<_>>();
        assert_eq!(pairs(1), [0]);
        assert_eq!(pairs(2), [1, 0]);
        assert_eq!(pairs(3), [1, 0, 2]);
        assert_eq!(pairs(4), [1, 0, 3, 2]);
        assert_eq!(pairs(5), [1, 0, 3, 2, 4]);
    }

    proptest! {
        #[test]
        fn swapping_moves_all_twelve_bytes_and_no_other(header in any::<Header>()) {
            let mut swapped = header;
            swap(&mut swapped);
            let expected = [&header[6..12], &header[0..6], &header[12..]].concat();
            prop_assert_eq!(&swapped[..], &expected[..]);
        }

        #[test]
        fn setting_writes_the_numbered_destination_and_the_ports_own_source(
            header in any::<Header>(), mac in any::<[u8; 6]>(), port in 0..256usize,
        ) {
            let mut written = header;
            set(&mut written, Addresses::of_port(port, mac));
            let expected = [&[2, 0, 0, 0, 0, port as u8][..], &mac, &header[12..]].concat();
            prop_assert_eq!(&written[..], &expected[..]);
        }
    }

    #[test]
    fn frames_too_short_or_shared_are_reported_and_left_alone() {
        let pool = test_pool(8);
        let mut burst = Burst::new();
        for len in [60, 13, 14] {
            let mut mbuf = pool.alloc().unwrap();
            mbuf.append(len).unwrap().copy_from_slice(&(1..61).collect::<Vec<u8>>()[..len]);
            burst.push(mbuf);
        }
        assert!(!swap_addresses(&mut burst));
        assert_eq!(burst[0].data()[..13], [7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 13]);
        assert_eq!(burst[1].data(), (1..14).collect::<Vec<u8>>());
        assert_eq!(burst[2].data(), [7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 13, 14]);
        burst.remove(1);
        assert!(swap_addresses(&mut burst));
        let clone = burst[0].clone_ref(&pool).unwrap();
        assert!(!swap_addresses(&mut burst));
        assert_eq!(clone.data()[..12], (1..13).collect::<Vec<u8>>());
    }
}
