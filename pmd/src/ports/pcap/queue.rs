//! The hot side: frames out of one ring into mbufs, and out of mbufs into the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;

use super::spec::Speed;
use super::{MAX_FRAME_BYTES, Shared};
use crate::mem::{HomePool, Mbuf};
use crate::pcap::{FrameConsumer, FrameProducer, RECORD_BYTES, Stamped};
use crate::port::{Arm, Burst, OpenConfig, QueueCounters, QueueFault, QueuePair};

/// An Ethernet header; a shorter frame is none.
const MIN_FRAME_BYTES: usize = 14;

/// The most mbufs of one frame.
const MAX_SEGMENTS: usize = 64;

/// A frame's headroom, which a frame that is sent may have filled with headers.
const HEADROOM_BYTES: usize = 128;

pub(super) struct PcapQueue {
    input: Option<Input>,
    output: Option<FrameProducer>,
    shared: Arc<Shared>,
    quiesced: bool,
    tx_descriptors: usize,
    /// The longest single-segment frame.
    segment_bytes: usize,
    counters: QueueCounters,
    fault: Option<QueueFault>,
}

struct Input {
    frames: FrameConsumer,
    /// How many times as fast as the capture, and since when; `None`: as fast as frames are taken.
    pace: Option<(f64, Option<Instant>)>,
    ended: bool,
}

impl Input {
    /// Up to which stamp frames are due.
    fn due_ns(&mut self) -> u64 {
        let Some((factor, began)) = &mut self.pace else { return u64::MAX };
        let elapsed_ns = began.get_or_insert_with(Instant::now).elapsed().as_nanos();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // positive; 2⁵³ ns are 104 days, and beyond that it is inexact by nanoseconds
        let due = (elapsed_ns as f64 * *factor) as u64;
        due
    }
}

impl PcapQueue {
    pub(super) fn new(
        input: Option<FrameConsumer>,
        output: Option<FrameProducer>,
        speed: Speed,
        shared: Arc<Shared>,
        config: &OpenConfig<'_>,
    ) -> Self {
        let pace = match speed {
            Speed::Max => None,
            Speed::Times(factor) => Some((factor, None)),
        };
        Self {
            input: input.map(|frames| Input { frames, pace, ended: false }),
            output,
            shared,
            quiesced: false,
            tx_descriptors: config.tx_descriptors.into(),
            segment_bytes: config.data_room_bytes + HEADROOM_BYTES,
            counters: QueueCounters::default(),
            fault: None,
        }
    }

    #[inline]
    fn is_still(&self) -> bool {
        self.quiesced || self.shared.is_stopped()
    }

    /// The ring is empty: for good?
    #[cold]
    fn look_for_the_end(&mut self) {
        let Some(input) = &mut self.input else { return };
        // ORDERING: Acquire. If it is set, all frames are in the ring. Partner: the Release in `input::Pass::run`.
        if input.ended || !self.shared.read.load(Ordering::Acquire) || !input.frames.is_empty() {
            return;
        }
        input.ended = true;
        // ORDERING: Relaxed. Stored before the Release that was just seen.
        if let Some(offset) = self.shared.damage.load(Ordering::Relaxed).checked_sub(1) {
            self.fault = Some(QueueFault::FileDamaged { offset });
            self.counters.faults += 1;
        }
        // ORDERING: Relaxed. A flag on its own; partner: the load in `PcapPort::input`.
        self.shared.ended.store(true, Ordering::Relaxed);
    }

    /// Whether the writer still writes.
    #[inline]
    fn look_at_the_writer(&mut self) -> bool {
        // ORDERING: Relaxed. A number on its own; partner: the store in `output::Job::run`.
        let errno = self.shared.write_errno.load(Ordering::Relaxed);
        if errno != 0 && self.fault.is_none() {
            self.fault = Some(QueueFault::SystemCall { errno });
            self.counters.faults += 1;
        }
        errno == 0
    }
}

/// Makes a frame of `first` and `second` in `segments`, of which there are enough; `None` if not.
#[inline]
fn fill(segments: &mut ArrayVec<Mbuf, MAX_SEGMENTS>, first: &[u8], second: &[u8]) -> Option<Mbuf> {
    let room = segments.first()?.tailroom();
    let len = first.len() + second.len();
    let mut frame: Option<Mbuf> = None;
    // From the last to the first, so that chaining walks nothing.
    for begin in (0..segments.len()).rev().map(|index| index * room) {
        let mut segment = segments.pop()?;
        let end = len.min(begin + room);
        let to = segment.append(end.checked_sub(begin)?).ok()?;
        let (a, b) = (begin.min(first.len()), end.min(first.len()));
        let (here, there) = to.split_at_mut_checked(b - a)?;
        here.copy_from_slice(&first[a..b]);
        there.copy_from_slice(&second[begin.saturating_sub(first.len())..end.saturating_sub(first.len())]);
        if let Some(rest) = frame.take() {
            segment.chain(rest);
        }
        frame = Some(segment);
    }
    frame
}

impl QueuePair for PcapQueue {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        if self.is_still() {
            return 0;
        }
        let Some(input) = &mut self.input else { return 0 };
        if input.ended {
            return 0;
        }
        let before = burst.len();
        let due_ns = input.due_ns();
        let mut dry = false;
        while burst.len() - before < budget && !burst.is_full() {
            let Some(next) = input.frames.peek() else {
                dry = true;
                break;
            };
            if next.stamp > due_ns {
                break;
            }
            let count = (next.len as usize).div_ceil(pool.data_room_bytes().max(1));
            if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&(next.len as usize)) || count > MAX_SEGMENTS {
                if input.frames.pop(|_, _, _| ()).is_none() {
                    break;
                }
                self.counters.rx_errors += 1;
                continue;
            }
            // Mbufs for all of it before it leaves the ring: an empty pool loses nothing.
            let mut segments: ArrayVec<Mbuf, MAX_SEGMENTS> = ArrayVec::new();
            segments.extend(pool.alloc_bulk(count));
            if segments.len() < count {
                self.counters.rx_nombuf += 1;
                break;
            }
            match input.frames.pop(|_, first, second| fill(&mut segments, first, second)) {
                // Not all of it is there yet.
                None => break,
                Some(Some(frame)) => {
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += u64::from(next.len);
                    burst.push(frame);
                }
                Some(None) => self.counters.rx_errors += 1,
            }
        }
        if dry {
            self.look_for_the_end();
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if self.is_still() || !self.look_at_the_writer() {
            return 0;
        }
        let Some(output) = &mut self.output else {
            let count = burst.len();
            self.counters.tx_errors += count as u64;
            burst.clear();
            return count;
        };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        let mut taken = 0;
        for frame in burst.iter() {
            let len = frame.pkt_len();
            if len == 0 || len > MAX_FRAME_BYTES {
                self.counters.tx_errors += 1;
            } else {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                let stamped = Stamped { stamp: now_ns, len, original_len: len, tag: 0 };
                if !output.push(stamped, frame.segments().map(Mbuf::data)) {
                    break;
                }
                self.counters.tx_packets += 1;
                self.counters.tx_bytes += u64::from(len);
            }
            taken += 1;
        }
        burst.drain(..taken);
        taken
    }

    /// Frames of any length are taken, so it is counted in the longest.
    fn tx_room(&mut self) -> usize {
        if self.is_still() || !self.look_at_the_writer() {
            return 0;
        }
        let longest = self.segment_bytes + RECORD_BYTES;
        self.output
            .as_ref()
            .map_or(self.tx_descriptors, |output| self.tx_descriptors.min(output.room_bytes() / longest))
    }

    fn quiesce(&mut self) {
        self.quiesced = true;
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    /// Nothing tells of a frame that a thread put into the ring, so only an input that is at its end can be slept on:
    /// nothing will come.
    fn arm(&mut self) -> Arm {
        match &self.input {
            None => Arm::Armed,
            Some(input) if input.ended => Arm::Armed,
            Some(_) => Arm::CannotWait,
        }
    }
}
