//! Which frames came back: lost, reordered, duplicated and late, per flow, in bounded memory.
//!
//! One row per flow: how many frames were sent, the next sequence number expected, and a bitmap of what was
//! seen below it. The bitmap is a ring of 64-bit words, and a word is cleared when the flow first enters it,
//! so nothing is ever shifted (RFC 6479).
//!
//! | count | definition |
//! |---|---|
//! | received | distinct frames that came back, reordered ones included |
//! | reordered | a distinct frame whose number is smaller than one already seen: RFC 4737 §3.3, s < NextExp |
//! | duplicated | a frame whose number was seen before (RFC 5560); it is counted nowhere else |
//! | late | so far behind that the bitmap no longer knows whether it is the first; it is counted nowhere else |
//! | lost | sent − received: late and corrupted frames are lost (RFC 7680) |

/// Words of all bitmaps together. The more flows, the fewer frames of each are on their way at once, so the
/// window shrinks with the number of flows and covers about the same time.
const BITMAP_WORDS: usize = 1 << 17;

/// A flow's bitmap has at least this many words. One is always being filled, so one less is remembered.
const MIN_WORDS: usize = 4;

/// A flow's bitmap has at most this many words.
const MAX_WORDS: usize = 1 << 10;

/// What a received sequence number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The highest so far.
    InOrder,
    /// New, but a higher one came before.
    Reordered,
    /// Seen before.
    Duplicate,
    /// Behind the window: new or not, nobody knows any more.
    Late,
    /// Never sent: no number of this run.
    Unsent,
}

/// Totals over all flows, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Numbers handed out.
    pub sent: u64,
    /// Distinct frames that came back.
    pub received: u64,
    /// Of those, the ones behind a higher number.
    pub reordered: u64,
    /// Frames that came once more.
    pub duplicated: u64,
    /// Frames behind the window.
    pub late: u64,
}

impl Totals {
    /// Frames sent of which no first copy was seen: lost once all had the time to come back, on their way
    /// until then.
    pub fn missing(&self) -> u64 {
        self.sent - self.received
    }
}

/// The sequence numbers of all flows, both ways.
#[derive(Debug)]
pub struct Tracker {
    /// Per flow: frames sent, the next number expected, then the bitmap.
    rows: Vec<u64>,
    /// Bitmap words per flow, a power of two.
    bitmap_words: usize,
    totals: Totals,
}

/// Where a row's words are.
const SENT: usize = 0;
const EXPECTED: usize = 1;
const BITMAP: usize = 2;

impl Tracker {
    /// A tracker for `flows` flows, all at sequence number 0. Allocates about 1 MiB, or 48 bytes a flow where
    /// that is more.
    pub fn new(flows: usize) -> Self {
        let share = (BITMAP_WORDS / flows.max(1)).clamp(MIN_WORDS, MAX_WORDS);
        let bitmap_words = 1 << share.ilog2();
        Self { rows: vec![0; flows * (BITMAP + bitmap_words)], bitmap_words, totals: Totals::default() }
    }

    /// How far behind the highest seen a frame may be and still be told apart from a duplicate.
    pub fn window_frames(&self) -> usize {
        (self.bitmap_words - 1) * 64
    }

    /// The counts so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Hands out the next sequence number of `flow`.
    ///
    /// # Panics
    /// If there is no such flow; flows come from the sender's own counting, never from a frame.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // frames carry the low 32 bits
    pub fn next_sequence(&mut self, flow: usize) -> u32 {
        let sent = &mut self.rows[flow * (BITMAP + self.bitmap_words) + SENT];
        let sequence = *sent as u32;
        *sent += 1;
        self.totals.sent += 1;
        sequence
    }

    /// Takes note of frame `sequence` of `flow`, both as read from a frame: any value is answered.
    /// Constant time but for a jump ahead, which clears at most the flow's bitmap.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the low 32 bits are what frames carry
    pub fn arrived(&mut self, flow: usize, sequence: u32) -> Arrival {
        let start = flow * (BITMAP + self.bitmap_words);
        let Some(row) = self.rows.get_mut(start..start + BITMAP + self.bitmap_words) else {
            return Arrival::Unsent;
        };
        let (head, bitmap) = row.split_at_mut(BITMAP);
        let (sent, expected) = (head[SENT], head[EXPECTED]);
        // How many frames ago it was sent tells the upper half of its number: no wrap to think of below.
        let ago = u64::from((sent as u32).wrapping_sub(sequence));
        if ago == 0 || ago > sent {
            return Arrival::Unsent;
        }
        let sequence = sent - ago;
        let mask = self.bitmap_words as u64 - 1;
        let (word, bit) = (sequence / 64, 1u64 << (sequence % 64));
        let last_word = expected.saturating_sub(1) / 64;
        if sequence >= expected {
            // Clear the words entered since the last one: none for 63 frames of 64.
            for entered in (last_word + 1..=word).rev().take(bitmap.len()) {
                bitmap[(entered & mask) as usize] = 0;
            }
            bitmap[(word & mask) as usize] |= bit;
            head[EXPECTED] = sequence + 1;
            self.totals.received += 1;
            return Arrival::InOrder;
        }
        if last_word - word > mask {
            self.totals.late += 1;
            return Arrival::Late;
        }
        let seen = &mut bitmap[(word & mask) as usize];
        if *seen & bit != 0 {
            self.totals.duplicated += 1;
            return Arrival::Duplicate;
        }
        *seen |= bit;
        self.totals.received += 1;
        self.totals.reordered += 1;
        Arrival::Reordered
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // numbers as frames carry them
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Every number ever seen, no window, 64-bit numbers: what the tracker must agree with.
    #[derive(Default)]
    struct Naive {
        sent: u64,
        seen: BTreeSet<u64>,
    }

    impl Naive {
        fn arrived(&mut self, sequence: u64, oldest_remembered: impl Fn(u64) -> u64) -> Arrival {
            let highest = self.seen.last().copied();
            if sequence >= self.sent {
                return Arrival::Unsent;
            }
            if highest.is_none_or(|highest| sequence > highest) {
                self.seen.insert(sequence);
                return Arrival::InOrder;
            }
            if sequence < oldest_remembered(highest.unwrap_or(0)) {
                return Arrival::Late;
            }
            if self.seen.insert(sequence) { Arrival::Reordered } else { Arrival::Duplicate }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send {
            flow: usize,
            frames: u16,
        },
        /// A frame that was sent `ago` frames before the newest.
        Arrive {
            flow: usize,
            ago: u64,
        },
        /// Everything sent so far, in order, but `skip`.
        ArriveAll {
            flow: usize,
            skip: u64,
        },
    }

    fn step(flows: usize) -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..flows, 1..400u16).prop_map(|(flow, frames)| Step::Send { flow, frames }),
            (0..flows, prop_oneof![0..8u64, 0..400u64, 0..4_000u64])
                .prop_map(|(flow, ago)| Step::Arrive { flow, ago }),
            (0..flows, 0..64u64).prop_map(|(flow, skip)| Step::ArriveAll { flow, skip }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Flows start near the wrap of the 32-bit number that frames carry, too.
        #[test]
        fn agrees_with_a_set_of_everything_seen(
            start in prop_oneof![Just(0u64), Just(u64::from(u32::MAX) - 300), Just((7 << 32) - 1)],
            steps in prop::collection::vec(step(3), 1..80),
        ) {
            let mut tracker = Tracker::new(BITMAP_WORDS / MIN_WORDS);
            let words = tracker.bitmap_words;
            prop_assert_eq!(words, MIN_WORDS);
            let mut naive: Vec<Naive> = (0..3).map(|_| Naive { sent: start, ..Naive::default() }).collect();
            let mut want = Totals::default();
            // As if everything below `start` were long past, and the frame before it the newest seen.
            for (flow, naive) in naive.iter_mut().enumerate().filter(|_| start > 0) {
                let row = &mut tracker.rows[flow * (BITMAP + words)..];
                (row[SENT], row[EXPECTED]) = (start, start);
                row[BITMAP + ((start - 1) / 64) as usize % words] |= 1 << ((start - 1) % 64);
                naive.seen.insert(start - 1);
            }
            let first = start.saturating_sub(1);
            for step in steps {
                let arrivals: Vec<(usize, u64)> = match step {
                    Step::Send { flow, frames } => {
                        for _ in 0..frames {
                            prop_assert_eq!(tracker.next_sequence(flow), naive[flow].sent as u32);
                            naive[flow].sent += 1;
                            want.sent += 1;
                        }
                        vec![]
                    }
                    Step::Arrive { flow, ago } => vec![(flow, naive[flow].sent.saturating_sub(ago).max(first))],
                    Step::ArriveAll { flow, skip } => (start..naive[flow].sent)
                        .rev().take(500).filter(|number| number % 64 != skip).map(|number| (flow, number))
                        .collect::<Vec<_>>().into_iter().rev().collect(),
                };
                for (flow, number) in arrivals {
                    let got = tracker.arrived(flow, number as u32);
                    let oldest = |highest: u64| (highest / 64).saturating_sub(words as u64 - 1) * 64;
                    prop_assert_eq!(got, naive[flow].arrived(number, oldest), "frame {} of flow {}", number, flow);
                    match got {
                        Arrival::InOrder => want.received += 1,
                        Arrival::Reordered => { want.received += 1; want.reordered += 1 }
                        Arrival::Duplicate => want.duplicated += 1,
                        Arrival::Late => want.late += 1,
                        Arrival::Unsent => {}
                    }
                    prop_assert_eq!(tracker.totals(), want);
                }
            }
        }

        #[test]
        fn no_number_and_no_flow_off_the_wire_panics(flow in any::<u16>(), sequence in any::<u32>(), sent in 0..200u32) {
            let mut tracker = Tracker::new(2);
            for _ in 0..sent { tracker.next_sequence(1); }
            let got = tracker.arrived(usize::from(flow), sequence);
            let ours = usize::from(flow) == 1 && sequence < sent;
            prop_assert_eq!(got, if ours { Arrival::InOrder } else { Arrival::Unsent });
        }
    }

    #[test]
    fn the_window_promised_is_remembered() {
        for flows in [1, 100, 5_000, 70_000] {
            let mut tracker = Tracker::new(flows);
            let window = tracker.window_frames() as u32;
            assert!(window >= 192, "{flows} flows: {window} frames");
            for _ in 0..window + 64 {
                tracker.next_sequence(0);
            }
            for highest in window..window + 64 {
                assert_eq!(tracker.arrived(0, highest), Arrival::InOrder);
                assert_eq!(tracker.arrived(0, highest - window), Arrival::Reordered);
                assert_eq!(tracker.arrived(0, highest - window), Arrival::Duplicate);
            }
        }
    }
}
