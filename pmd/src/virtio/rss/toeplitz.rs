//! The Toeplitz hash: for every bit of the input that is set, 32 bits of the key from that position on, added up
//! without carry. virtio 1.2 §5.1.6.4.3 refers to Microsoft's "RSS hashing functions" for it.

use std::fmt;

/// Bytes of a key: an input of 36 bytes and the 32 bits that its last bit looks at.
pub const KEY_BYTES: usize = 40;

/// Half bytes of the longest input.
const NIBBLES: usize = 2 * (KEY_BYTES - 4);

/// A key, prepared: what each value of each half byte of the input adds. 4.5 KiB, one look-up for each half byte; four in
/// all for a key that repeats itself every 16 bits, as then all 16-bit words of the input add the same and may be added
/// up first.
#[derive(Clone)]
pub struct Toeplitz {
    table: Box<[[u32; 16]; NIBBLES]>,
    repeats: bool,
}

impl Toeplitz {
    /// A key of at most [`KEY_BYTES`]; a shorter one counts as filled up with zeros. `None` if it is empty or longer.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        if key.is_empty() || key.len() > KEY_BYTES {
            return None;
        }
        let mut full = [0; KEY_BYTES];
        full[..key.len()].copy_from_slice(key);
        let window = |bit: usize| {
            let bytes: [u8; 5] = full[bit / 8..][..5].try_into().expect("five bytes");
            let [a, b, c, d, e] = bytes.map(u64::from);
            #[allow(clippy::cast_possible_truncation)] // the 32 bits from `bit` on
            let window = ((a << 32 | b << 24 | c << 16 | d << 8 | e) >> (8 - bit % 8)) as u32;
            window
        };
        let mut table = Box::new([[0; 16]; NIBBLES]);
        for (nibble, sums) in table.iter_mut().enumerate() {
            for (value, sum) in sums.iter_mut().enumerate() {
                let set = (0..4).filter(|bit| value >> (3 - bit) & 1 == 1);
                *sum = set.map(|bit| window(4 * nibble + bit)).fold(0, |sum, add| sum ^ add);
            }
        }
        let repeats = full.chunks(2).all(|word| word == &full[..2]);
        Some(Self { table, repeats })
    }

    /// The hash of at most 36 bytes; what is beyond is not looked at.
    #[inline]
    #[must_use]
    pub fn hash(&self, input: &[u8]) -> u32 {
        let add = |sum: u32, ([high, low], byte): (&[[u32; 16]; 2], u8)| {
            sum ^ high[usize::from(byte >> 4)] ^ low[usize::from(byte & 15)]
        };
        let (pairs, _) = self.table.as_chunks::<2>();
        if self.repeats && input.len() <= KEY_BYTES - 4 {
            let (words, rest) = input.as_chunks::<2>();
            let [mut even, odd] =
                words.iter().fold([0; 2], |[even, odd], word| [even ^ word[0], odd ^ word[1]]);
            even ^= rest.first().copied().unwrap_or(0);
            return pairs.iter().zip([even, odd]).fold(0, add);
        }
        pairs.iter().zip(input.iter().copied()).fold(0, add)
    }
}

impl fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toeplitz").field("repeats", &self.repeats).finish_non_exhaustive()
    }
}
