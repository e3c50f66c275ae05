//! The Internet checksum (RFC 1071) over any bytes, and its completion in a frame: for frames that a port is to send
//! with a [partial checksum](Offload::partial_checksum) and cannot hand on so.
//!
//! Words are added as they lie in memory: the sum does not depend on the byte order but for the order of its own bytes
//! (RFC 1071 §2 B).

use super::element::Mbuf;
use super::mbuf::NoRoom;
use super::offload::Offload;

/// A sum that is being formed, of at most 4 GiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes`, which begin at an even place.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let mut sum = self.0;
        let (blocks, rest) = bytes.as_chunks::<32>();
        // Eight words side by side, which the compiler adds in vector registers.
        let mut lanes = [0_u64; 8];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        sum += lanes.iter().sum::<u64>();
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let (pairs, rest) = rest.as_chunks::<2>();
        for pair in pairs {
            sum += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = rest {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Sum(sum)
    }

    /// Adds `bytes`, which begin at an odd place.
    #[must_use]
    pub fn odd_bytes(self, bytes: &[u8]) -> Sum {
        Sum(self.0 + u64::from(Sum::default().bytes(bytes).fold().swap_bytes()))
    }

    /// Adds a number that the packet has in network order.
    #[inline]
    #[must_use]
    pub fn number(self, number: u16) -> Sum {
        Sum(self.0 + u64::from(number.to_be()))
    }

    /// The sum in 16 bits, in memory order: 0xffff if a checksum was among what was added and is right. A checksum is its
    /// complement.
    #[inline]
    #[must_use]
    pub fn fold(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap_or(0)
    }
}

impl Mbuf {
    /// Completes the frame's partial checksum, if it has one; afterwards the frame's checksum is [good](Offload::GOOD). A
    /// sum of 0 becomes 0xffff, which is the same in one's complement, and no "none" in UDP (RFC 768).
    ///
    /// # Errors
    /// [`NoRoom::Short`] when the checksum's place does not lie in the first segment, [`NoRoom::Shared`] when a clone
    /// shares that. The frame is as it was.
    pub fn complete_checksum(&mut self) -> Result<(), NoRoom> {
        let Some(at) = self.offload().partial_checksum() else { return Ok(()) };
        let (start, place) = (usize::from(at.start), usize::from(at.start) + usize::from(at.offset));
        if place + 2 > self.len() {
            return Err(NoRoom::Short { asked: place + 2, room: self.len() });
        }
        let (mut sum, mut odd) = (Sum::default(), false);
        for (number, segment) in self.segments().enumerate() {
            let bytes = if number == 0 { &segment.data()[start..] } else { segment.data() };
            sum = if odd { sum.odd_bytes(bytes) } else { sum.bytes(bytes) };
            odd ^= bytes.len() % 2 == 1;
        }
        let sum = match !sum.fold() {
            0 => 0xffff,
            sum => sum,
        };
        let field = self.data_mut().ok_or(NoRoom::Shared)?;
        field[place..place + 2].copy_from_slice(&sum.to_ne_bytes());
        self.set_offload(Offload::GOOD);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mem::{HomePool, PageSize, PartialChecksum, Pool, PoolConfig, Region, RegionConfig};
    use proptest::prelude::*;

    /// Two bytes at a time, as in RFC 1071 §4.1.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
            .sum::<u32>();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap()
    }

    fn home() -> HomePool {
        let config = PoolConfig { mbufs: 64, headroom_bytes: 64, data_room_bytes: 64 };
        let len_bytes = config.region_bytes() + 4096;
        let region = RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None };
        Pool::new(&Region::new(region).unwrap(), config).unwrap().adopt().unwrap()
    }

    fn frame(pool: &HomePool, pieces: &[&[u8]]) -> Mbuf {
        let mut pieces = pieces.iter().map(|piece| {
            let mut mbuf = pool.alloc().unwrap();
            mbuf.append(piece.len()).unwrap().copy_from_slice(piece);
            mbuf
        });
        let mut head = pieces.next().unwrap();
        pieces.for_each(|piece| head.chain(piece));
        head
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_standard_however_it_is_cut(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = Sum::default().bytes(&bytes).fold();
            prop_assert_eq!(whole.to_be(), reference(&bytes));
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let sum = Sum::default().bytes(first);
            let sum = if first.len() % 2 == 1 { sum.odd_bytes(second) } else { sum.bytes(second) };
            prop_assert_eq!(sum.fold(), whole);
        }

        #[test]
        fn a_completed_checksum_makes_its_bytes_sum_up(
            first in prop::collection::vec(any::<u8>(), 20..64),
            second in prop::collection::vec(any::<u8>(), 0..64),
            third in prop::collection::vec(any::<u8>(), 0..64),
            start in 0_u16..18,
        ) {
            let pool = home();
            let offset = 18 - start - (18 - start) % 2;
            let mut frame = frame(&pool, &[&first, &second, &third]);
            frame.set_offload(Offload::partial(PartialChecksum { start, offset }));
            frame.complete_checksum().unwrap();
            prop_assert_eq!(frame.offload(), Offload::GOOD);
            let bytes: Vec<u8> = frame.segments().flat_map(|segment| segment.data().to_vec()).collect();
            // The seed is part of the sum, so what is there now and the seed together are all ones.
            let (start, place) = (usize::from(start), usize::from(start + offset));
            let seed = Sum::default().bytes(&first[place..place + 2]);
            let sum = seed.number(Sum::default().bytes(&bytes[start..]).fold().to_be()).fold();
            prop_assert!(sum == 0xffff, "{sum:#x}");
            prop_assert_eq!(&bytes[..place], &first[..place]);
        }
    }

    #[test]
    fn a_place_outside_or_shared_changes_nothing() {
        let pool = home();
        let mut short = frame(&pool, &[&[1; 20], &[2; 20]]);
        let offload = Offload::partial(PartialChecksum { start: 4, offset: 15 });
        short.set_offload(offload);
        assert_eq!(short.complete_checksum(), Err(NoRoom::Short { asked: 21, room: 20 }));
        let mut shared = frame(&pool, &[&[1; 21]]);
        shared.set_offload(offload);
        let clone = shared.clone_ref(&pool).unwrap();
        assert_eq!(clone.offload(), offload);
        assert_eq!(shared.complete_checksum(), Err(NoRoom::Shared));
        assert_eq!((shared.offload(), shared.data()), (offload, &[1; 21][..]));
        drop(clone);
        shared.complete_checksum().unwrap();
    }
}
