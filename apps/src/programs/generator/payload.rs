//! The 18 bytes that every generated frame carries after its UDP header.
//!
//! They fit the smallest Ethernet frame (60 bytes without FCS: 14 Ethernet, 20 IPv4, 8 UDP, 18 left), so
//! every count is available at every frame size. All fields are little-endian.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | run | random number of this run: what makes a frame ours, whatever port it comes back on |
//! | 4 | 4 | sequence | counts the frames of one flow of one port from 0, modulo 2³² |
//! | 8 | 2 | flow | flow number, from 0 |
//! | 10 | 1 | port | the port it was sent on |
//! | 11 | 5 | stamp | low 40 bits of the TSC when it was sent (523 s at 2.1 GHz) |
//! | 16 | 2 | complement | makes the ones' complement sum of the 18 bytes zero |
//!
//! The complement does two jobs. The UDP checksum of a template stays right whatever the numbers are, so
//! nobody needs to sum a frame when it is sent (the idea of RFC 7820). And the receiver sees in a few
//! additions whether the numbers can be believed.

/// Length of the payload's numbers in bytes.
pub const PAYLOAD_BYTES: usize = 18;

/// The stamp holds this many low bits of the TSC.
const STAMP_BITS: u32 = 40;

/// Selects the bits of a stamp.
pub const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;

/// What one frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The run it belongs to.
    pub run: u32,
    /// Its place in its flow, from 0, modulo 2³².
    pub sequence: u32,
    /// Its flow, from 0.
    pub flow: u16,
    /// The port it was sent on.
    pub port: u8,
    /// Low 40 bits of the TSC when it was sent.
    pub stamp: u64,
}

/// Why 18 bytes are not a payload of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// Another run's, or no generator's at all.
    Foreign,
    /// This run's by its number, but its sum is wrong: nothing in it can be believed.
    Corrupted,
}

impl Payload {
    /// Writes the payload with its complement. Bits of `stamp` above the 40th are left out.
    #[inline]
    pub fn write(&self, bytes: &mut [u8; PAYLOAD_BYTES]) {
        let low = u64::from(self.run) | u64::from(self.sequence) << 32;
        let high = u64::from(self.flow) | u64::from(self.port) << 16 | self.stamp << 24;
        bytes[0..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..16].copy_from_slice(&high.to_le_bytes());
        bytes[16..18].copy_from_slice(&(!fold(low, high)).to_le_bytes());
    }

    /// Reads a payload of run `run`.
    ///
    /// # Errors
    /// [`NotOurs`], which is what to count the frame as.
    #[inline]
    pub fn read(bytes: &[u8; PAYLOAD_BYTES], run: u32) -> Result<Self, NotOurs> {
        let [low, high] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        });
        #[allow(clippy::cast_possible_truncation)] // the low half is what is meant
        if low as u32 != run {
            return Err(NotOurs::Foreign);
        }
        if !fold(low, high) != u16::from_le_bytes([bytes[16], bytes[17]]) {
            return Err(NotOurs::Corrupted);
        }
        #[allow(clippy::cast_possible_truncation)] // each field's own width is what is meant
        Ok(Self {
            run,
            sequence: (low >> 32) as u32,
            flow: high as u16,
            port: (high >> 16) as u8,
            stamp: high >> 24,
        })
    }
}

/// Ticks from `stamp` to `now`, both modulo 2⁴⁰; 0 if `stamp` is the later one by less than half of that.
#[inline]
pub fn ticks_since(stamp: u64, now: u64) -> u64 {
    let ticks = now.wrapping_sub(stamp) & STAMP_MASK;
    if ticks > STAMP_MASK / 2 { 0 } else { ticks }
}

/// Ones' complement sum of the eight 16-bit words of two 64-bit words. The sum does not depend on the byte
/// order (RFC 1071 §2 (B)), so wide little-endian additions serve.
#[inline]
#[allow(clippy::cast_possible_truncation)] // halves are what is meant
fn fold(low: u64, high: u64) -> u16 {
    let (sum, carry) = low.overflowing_add(high);
    // At most 2 · (2³² − 1) + 1, then 2 · (2¹⁶ − 1) + 2: the last addition cannot carry out of 17 bits.
    let sum = (sum >> 32) + (sum & 0xffff_ffff) + u64::from(carry);
    let sum = (sum >> 32) + ((sum >> 16) & 0xffff) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload() -> impl Strategy<Value = Payload> {
        (any::<u32>(), any::<u32>(), any::<u16>(), any::<u8>(), 0..=STAMP_MASK)
            .prop_map(|(run, sequence, flow, port, stamp)| Payload { run, sequence, flow, port, stamp })
    }

    /// RFC 1071 as it is written: 16-bit big-endian words, carries added back one at a time.
    fn plain_sum(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0u16, |sum, pair| {
            let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
            sum + u16::from(carry)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(payload in payload()) {
            let mut bytes = [0; PAYLOAD_BYTES];
            payload.write(&mut bytes);
            prop_assert_eq!(Payload::read(&bytes, payload.run), Ok(payload));
        }

        #[test]
        fn the_sum_of_every_payload_is_zero(payload in payload()) {
            let mut bytes = [0; PAYLOAD_BYTES];
            payload.write(&mut bytes);
            prop_assert_eq!(plain_sum(&bytes), 0xffff);
        }

        #[test]
        fn any_one_flipped_bit_is_noticed(payload in payload(), bit in 0..PAYLOAD_BYTES * 8) {
            let mut bytes = [0; PAYLOAD_BYTES];
            payload.write(&mut bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 32 { NotOurs::Foreign } else { NotOurs::Corrupted };
            prop_assert_eq!(Payload::read(&bytes, payload.run), Err(expected));
        }

        #[test]
        fn another_runs_payload_is_foreign(payload in payload(), other in any::<u32>()) {
            prop_assume!(other != payload.run);
            let mut bytes = [0; PAYLOAD_BYTES];
            payload.write(&mut bytes);
            prop_assert_eq!(Payload::read(&bytes, other), Err(NotOurs::Foreign));
        }

        #[test]
        fn the_time_between_stamp_and_now_survives_the_40_bit_wrap(sent in any::<u64>(), took in 0..=STAMP_MASK / 2) {
            let now = sent.wrapping_add(took);
            prop_assert_eq!(ticks_since(sent & STAMP_MASK, now), took);
            prop_assert_eq!(ticks_since(now & STAMP_MASK, sent), 0);
        }
    }
}
