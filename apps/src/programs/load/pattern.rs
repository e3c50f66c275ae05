//! What echoed bytes should be: a stream of its own for each connection, of which every position is known.
//!
//! The stream repeats a table of random bytes. Its length is a prime, so that no lost, repeated or misplaced segment of
//! fewer bytes than that, or of a multiple of any segment size up to that many segments, shifts the stream onto itself.

/// Bytes after which the stream repeats: the largest prime below 4096, so that the table stays in the first cache.
pub const PERIOD: usize = 4093;

/// The table, once for all connections of a core.
#[derive(Clone, Debug)]
pub struct Pattern {
    bytes: Box<[u8; PERIOD]>,
}

impl Pattern {
    /// A table that depends on `seed` alone.
    #[allow(clippy::cast_possible_truncation)] // the low byte is what is wanted
    pub fn new(seed: u64) -> Pattern {
        let mut bytes = Box::new([0; PERIOD]);
        let mut state = seed;
        for byte in bytes.iter_mut() {
            // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (mixed ^ (mixed >> 31)) as u8;
        }
        Pattern { bytes }
    }

    /// Where in the table stream number `stream` begins.
    pub fn start(stream: usize) -> usize {
        // Any odd step below the period visits every place before it repeats.
        (stream % PERIOD) * 1_597 % PERIOD
    }

    /// Writes the stream on from place `at` and returns the place behind it. `at` is below [`PERIOD`].
    #[inline]
    pub fn fill(&self, mut at: usize, mut out: &mut [u8]) -> usize {
        while !out.is_empty() {
            let run = out.len().min(PERIOD - at);
            let (now, rest) = out.split_at_mut(run);
            now.copy_from_slice(&self.bytes[at..at + run]);
            out = rest;
            at = if at + run == PERIOD { 0 } else { at + run };
        }
        at
    }

    /// The place behind `bytes` if they are the stream from place `at` on. `at` is below [`PERIOD`].
    #[inline]
    pub fn check(&self, mut at: usize, mut bytes: &[u8]) -> Option<usize> {
        while !bytes.is_empty() {
            let run = bytes.len().min(PERIOD - at);
            let (now, rest) = bytes.split_at(run);
            if *now != self.bytes[at..at + run] {
                return None;
            }
            bytes = rest;
            at = if at + run == PERIOD { 0 } else { at + run };
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(pattern: &Pattern, start: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        pattern.fill(start, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_one_stream(
            number in any::<usize>(), written in prop::collection::vec(0..5_000usize, 1..8), cut in 1..9_000usize,
        ) {
            let pattern = Pattern::new(3);
            let start = Pattern::start(number);
            prop_assert!(start < PERIOD);
            let (mut at, mut all) = (start, Vec::new());
            for len in written {
                let begin = all.len();
                all.resize(begin + len, 0);
                at = pattern.fill(at, &mut all[begin..]);
            }
            let mut read = start;
            for part in all.chunks(cut) {
                read = pattern.check(read, part).unwrap();
            }
            prop_assert_eq!(read, at);
        }

        #[test]
        fn a_changed_byte_is_seen(start in 0..PERIOD, len in 1..10_000usize, at in any::<prop::sample::Index>(), bit in 0..8u32) {
            let pattern = Pattern::new(1);
            let mut bytes = stream(&pattern, start, len);
            bytes[at.index(len)] ^= 1 << bit;
            prop_assert_eq!(pattern.check(start, &bytes), None);
        }
    }

    #[test]
    fn segments_left_out_repeated_or_of_another_stream_are_seen() {
        let pattern = Pattern::new(2);
        let (start, len) = (Pattern::start(5), 64 * 1460);
        let bytes = stream(&pattern, start, len);
        for segment in [1usize, 64, 536, 1220, 1440, 1448, 1460] {
            for count in 1..40 {
                assert_eq!(
                    pattern.check(start, &bytes[segment * count..][..64]),
                    None,
                    "{count} x {segment}"
                );
            }
        }
        assert_eq!(pattern.check(Pattern::start(6), &bytes[..64]), None);
    }
}
