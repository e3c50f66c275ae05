//! One direction: accidents, frames held back, the delay line. Bounded, and allocates nothing after its making.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::rng::Rng;
use super::spec::Impairments;
use crate::mem::Mbuf;
use crate::port::{Burst, QueueCounters};

/// Frames held back at once, at most; a further one that should be just goes on.
const MAX_HELD: usize = 16;

/// A frame that is held back lets 1 to this many others pass.
const MAX_PASSES: u64 = 8;

/// How long a frame is held back if nothing comes to pass it.
const HOLD: Duration = Duration::from_millis(2);

struct Held {
    frame: Mbuf,
    passes: u64,
    until: Instant,
}

/// Frames under way in one direction.
pub(super) struct Pipe {
    impairments: Impairments,
    rng: Rng,
    held: ArrayVec<Held, MAX_HELD>,
    /// In the order in which they arrive, with the time when.
    line: VecDeque<(Instant, Mbuf)>,
    counters: QueueCounters,
}

impl Pipe {
    pub(super) fn new(impairments: &Impairments, stream: u64) -> Self {
        Self {
            rng: Rng::new(impairments.seed, stream),
            held: ArrayVec::new(),
            line: VecDeque::with_capacity(impairments.limit + MAX_HELD),
            counters: QueueCounters::default(),
            impairments: impairments.clone(),
        }
    }

    pub(super) fn counters(&self) -> &QueueCounters {
        &self.counters
    }

    /// How many frames [`offer`](Self::offer) takes without the pipe getting too long, should all be duplicated.
    pub(super) fn room(&self) -> usize {
        self.impairments.limit.saturating_sub(self.line.len() + self.held.len()) / 2
    }

    /// Sends one frame on its way. `spares` are for copies.
    pub(super) fn offer(&mut self, now: Instant, mut frame: Mbuf, spares: &mut Burst) {
        let Impairments { loss, duplicate, corrupt, reorder, .. } = self.impairments;
        // As many draws for each frame, so that what befalls one does not change what befalls the next.
        let [lost, twice, bad, bit, late, passes] = std::array::from_fn(|_| self.rng.next());
        if loss.hits(lost) {
            self.counters.netem_lost += 1;
            return;
        }
        let twin = if duplicate.hits(twice) { copy(&frame, spares) } else { None };
        if corrupt.hits(bad) {
            if frame.is_shared()
                && let Some(own) = copy(&frame, spares)
            {
                frame = own;
            }
            self.counters.netem_corrupted += u64::from(flip(&mut frame, bit));
        }
        if reorder.hits(late) && !self.held.is_full() {
            self.counters.netem_reordered += 1;
            self.held.push(Held { frame, passes: 1 + passes % MAX_PASSES, until: now + HOLD });
        } else {
            self.arrive(now, frame);
        }
        if let Some(twin) = twin {
            self.counters.netem_duplicated += 1;
            self.arrive(now, twin);
        }
    }

    /// Puts a frame in the delay line, and behind it those that it was the last to overtake.
    fn arrive(&mut self, now: Instant, frame: Mbuf) {
        let due = now + self.impairments.delay;
        self.line.push_back((due, frame));
        for held in &mut self.held {
            held.passes -= 1;
        }
        self.release(due, |held| held.passes == 0);
    }

    fn release(&mut self, due: Instant, is_over: impl Fn(&Held) -> bool) {
        while let Some(at) = self.held.iter().position(&is_over) {
            self.line.push_back((due, self.held.remove(at).frame));
        }
    }

    /// When the next frame arrives, as far as is known; held ones when nothing has passed them by then.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let line = self.line.front().map(|(due, _)| *due);
        self.held.iter().map(|held| held.until).chain(line).min()
    }

    /// Whether a frame has arrived.
    pub(super) fn has_due(&mut self, now: Instant) -> bool {
        if !self.held.is_empty() {
            self.release(now + self.impairments.delay, |held| held.until <= now);
        }
        self.line.front().is_some_and(|(due, _)| *due <= now)
    }

    /// The next frame that has arrived.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Mbuf> {
        if self.has_due(now) { self.line.pop_front().map(|(_, frame)| frame) } else { None }
    }

    /// Undoes [`pop_due`](Self::pop_due).
    pub(super) fn put_back(&mut self, now: Instant, frame: Mbuf) {
        self.line.push_front((now, frame));
    }

    /// Frees what is under way.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.line.clear();
    }
}

/// A copy of the frame, segment by segment; `None` if there are too few spares, or a segment is longer than theirs.
fn copy(frame: &Mbuf, spares: &mut Burst) -> Option<Mbuf> {
    let mut copy: Option<Mbuf> = None;
    for segment in frame.segments() {
        let mut part = spares.pop()?;
        part.append(segment.len()).ok()?.copy_from_slice(segment.data());
        match &mut copy {
            None => copy = Some(part),
            Some(head) => head.chain(part),
        }
    }
    let mut copy = copy?;
    copy.set_rx_ticks(frame.rx_ticks());
    Some(copy)
}

/// Flips one bit of the first segment, which one follows from `draw`. False if the bytes are not ours to write.
fn flip(frame: &mut Mbuf, draw: u64) -> bool {
    let Some(bytes) = frame.data_mut().filter(|bytes| !bytes.is_empty()) else { return false };
    let at = (draw >> 3) % bytes.len() as u64;
    // Below the length, a usize.
    if let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
        *byte ^= 1 << (draw & 7);
    }
    true
}
