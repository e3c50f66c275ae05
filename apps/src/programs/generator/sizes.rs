//! Frame sizes: one size, or a repeating sequence of sizes (IMIX, RFC 6985).
//!
//! Two conventions meet here, and are never mixed up:
//! * `--size` counts the bytes of the buffer, **without** FCS, as DPDK's testpmd does (`--txpkts`, flowgen).
//! * IMIX sizes are those of RFC 6985, of the frame on the wire **with** its 4 bytes of FCS: a 64-byte frame is
//!   a buffer of 60 bytes, and 1518 bytes just fit an MTU of 1500.

use thiserror::Error;

/// Smallest Ethernet frame without FCS. IEEE 802.3.
pub const MIN_FRAME_BYTES: usize = 60;

/// Header of an Ethernet frame, which the MTU does not include.
const ETHERNET_BYTES: usize = 14;

/// Frame check sequence, which IMIX sizes include and buffers do not.
const FCS_BYTES: usize = 4;

/// The simple IMIX in sizes with FCS, 7 : 4 : 1, spread so that the large frame is not beside its like.
const SIMPLE: [usize; 12] = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570];

/// Longest sequence of letters taken: RFC 6985 asks for no more, and each place costs a pointer.
const MAX_GENOME: usize = 1024;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// Every frame has this many bytes, without FCS.
    Fixed(usize),
    /// The simple IMIX, 7 : 4 : 1 of 64, 570 and 1518 bytes with FCS.
    SimpleImix,
    /// A sequence of RFC 6985 §3 letters: `a` 64, `b` 128, `c` 256, `d` 512, `e` 1024, `f` 1280, `g` 1518,
    /// `h` 2112, `i` 9000, `j` 16000, `z` the MTU of the port; all with FCS.
    Genome(String),
}

/// Why these sizes cannot be sent.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SizeError {
    /// Outside what the port takes.
    #[error(
        "frame size {bytes} is out of range: this port takes {MIN_FRAME_BYTES} to {most} bytes without FCS (its MTU is {mtu}); {fix}"
    )]
    Range {
        /// Asked for, in bytes without FCS.
        bytes: usize,
        /// The largest the port takes, in bytes without FCS.
        most: usize,
        /// The port's MTU in bytes.
        mtu: usize,
        /// What to change.
        fix: &'static str,
    },
    /// A letter that RFC 6985 does not define.
    #[error(
        "IMIX letter '{letter}' is unknown: the letters are a=64 b=128 c=256 d=512 e=1024 f=1280 g=1518 h=2112 i=9000 j=16000 z=MTU"
    )]
    Letter {
        /// The letter.
        letter: char,
    },
    /// No letters, or too many.
    #[error(
        "an IMIX sequence has 1 to {MAX_GENOME} letters, this one has {letters}; for the usual mix give --imix alone"
    )]
    Length {
        /// How many were given.
        letters: usize,
    },
}

impl Sizes {
    /// The repeating sequence of buffer sizes in bytes without FCS, for a port of this MTU.
    ///
    /// # Errors
    /// [`SizeError`], if a size is not one that the port takes, or a letter is unknown.
    pub fn sequence(&self, mtu: usize) -> Result<Vec<usize>, SizeError> {
        let most = mtu + ETHERNET_BYTES;
        let (sizes, fix): (Vec<usize>, _) = match self {
            Sizes::Fixed(bytes) => (vec![*bytes], "give --size within it, or raise the MTU"),
            Sizes::SimpleImix => (
                SIMPLE.map(|size| size - FCS_BYTES).to_vec(),
                "IMIX needs an MTU of 1500; give --imix with letters of sizes that fit",
            ),
            Sizes::Genome(letters) => {
                if letters.is_empty() || letters.len() > MAX_GENOME {
                    return Err(SizeError::Length { letters: letters.chars().count() });
                }
                (
                    letters.chars().map(|letter| letter_bytes(letter, most)).collect::<Result<_, _>>()?,
                    "leave out the letters of larger sizes",
                )
            }
        };
        match sizes.iter().find(|bytes| !(MIN_FRAME_BYTES..=most).contains(bytes)) {
            Some(&bytes) => Err(SizeError::Range { bytes, most, mtu, fix }),
            None => Ok(sizes),
        }
    }
}

/// Bytes without FCS of one letter. Source: RFC 6985 §3.
fn letter_bytes(letter: char, most: usize) -> Result<usize, SizeError> {
    let with_fcs = match letter.to_ascii_lowercase() {
        'a' => 64,
        'b' => 128,
        'c' => 256,
        'd' => 512,
        'e' => 1024,
        'f' => 1280,
        'g' => 1518,
        'h' => 2112,
        'i' => 9000,
        'j' => 16000,
        'z' => return Ok(most),
        _ => return Err(SizeError::Letter { letter }),
    };
    Ok(with_fcs - FCS_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_imix_mixes_seven_to_four_to_one() {
        let sequence = Sizes::SimpleImix.sequence(1500).unwrap();
        let count = |bytes| sequence.iter().filter(|&&size| size == bytes).count();
        assert_eq!((count(60), count(566), count(1514)), (7, 4, 1));
        assert_eq!(sequence.len(), 12);
    }

    #[test]
    fn letters_keep_their_order_and_z_is_the_largest_the_port_takes() {
        let sequence = Sizes::Genome("aAbgz".into()).sequence(1600).unwrap();
        assert_eq!(sequence, [60, 60, 124, 1514, 1614]);
    }

    #[test]
    fn sizes_out_of_range_are_refused_with_the_range() {
        assert!(Sizes::Fixed(60).sequence(1500).is_ok());
        assert!(Sizes::Fixed(1514).sequence(1500).is_ok());
        for bytes in [0, 59, 1515, usize::MAX] {
            let error = Sizes::Fixed(bytes).sequence(1500).unwrap_err().to_string();
            assert!(error.contains(&bytes.to_string()) && error.contains("60 to 1514"), "{error}");
        }
        let error = Sizes::Genome("abi".into()).sequence(1500).unwrap_err().to_string();
        assert!(error.contains("8996") && error.contains("leave out"), "{error}");
        assert!(Sizes::SimpleImix.sequence(1400).is_err());
    }

    #[test]
    fn unknown_letters_and_empty_sequences_are_refused() {
        assert_eq!(Sizes::Genome("abk".into()).sequence(1500), Err(SizeError::Letter { letter: 'k' }));
        assert_eq!(Sizes::Genome(String::new()).sequence(1500), Err(SizeError::Length { letters: 0 }));
        assert_eq!(Sizes::Genome("a".repeat(1025)).sequence(1500), Err(SizeError::Length { letters: 1025 }));
    }
}
