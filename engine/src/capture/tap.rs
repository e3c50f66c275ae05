//! The hot side: copies frames of a lane into a ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use pmd::Mbuf;
use pmd::pcap::{Direction, FrameProducer, Stamped};

use super::{CaptureSpec, Ways};

/// What a core is told of captures.
#[derive(Debug)]
pub(crate) enum Order {
    /// Capture by this.
    Begin(Box<Tap>),
    /// Capture by that no more, and give it back: its memory is not freed on the core.
    End {
        /// Which.
        id: u64,
        /// Where to.
        back: SyncSender<Box<Tap>>,
    },
}

/// What one core counts of a capture. Written by that core alone.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    begun: AtomicBool,
    passed: AtomicU64,
    missed: AtomicU64,
}

impl Counts {
    /// Whether the core captures.
    pub(super) fn has_begun(&self) -> bool {
        // ORDERING: Relaxed. A flag on its own. Partner: `Tap::begin`.
        self.begun.load(Ordering::Relaxed)
    }

    /// Frames that passed, and those of them that were missed.
    pub(super) fn read(&self) -> (u64, u64) {
        // ORDERING: Relaxed. Exact once the tap was given back, which orders it; before, a burst behind.
        //           Partner: `Counts::add`.
        (self.passed.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }

    #[inline]
    fn add(&self, passed: u64, missed: u64) {
        // ORDERING: Relaxed. One writer, so no read-modify-write is needed. Partner: `Counts::read`.
        self.passed.store(self.passed.load(Ordering::Relaxed) + passed, Ordering::Relaxed);
        if missed > 0 {
            self.missed.store(self.missed.load(Ordering::Relaxed) + missed, Ordering::Relaxed);
        }
    }
}

/// One capture of one lane; the next of the same lane hangs on it.
#[derive(Debug)]
pub(crate) struct Tap {
    id: u64,
    spec: CaptureSpec,
    frames: FrameProducer,
    counts: Arc<Counts>,
    next: Option<Box<Tap>>,
}

/// The bit of a record's tag that says that the frame was sent; the queue is in those above.
const SENT: u64 = 1;

/// What a record's tag says.
pub(super) fn way(tag: u64) -> (Direction, u16) {
    let direction = if tag & SENT == 0 { Direction::Rx } else { Direction::Tx };
    (direction, u16::try_from(tag >> 1).unwrap_or(u16::MAX))
}

impl Tap {
    pub(super) fn new(id: u64, spec: CaptureSpec, frames: FrameProducer, counts: Arc<Counts>) -> Self {
        Self { id, spec, frames, counts, next: None }
    }

    /// Index of its port in the engine.
    pub(crate) fn port(&self) -> usize {
        self.spec.port
    }

    /// Hangs it on a lane.
    pub(crate) fn begin(mut self: Box<Self>, lane: &mut Option<Box<Tap>>) {
        // ORDERING: Relaxed. A flag on its own. Partner: `Counts::has_begun`.
        self.counts.begun.store(true, Ordering::Relaxed);
        self.next = lane.take();
        *lane = Some(self);
    }

    /// Whether a capture hangs on a lane already: a core may have several parts in one port.
    pub(crate) fn is_on(&self, lane: &Option<Box<Tap>>) -> bool {
        let mut at = lane.as_deref();
        while let Some(tap) = at {
            if tap.id == self.id {
                return true;
            }
            at = tap.next.as_deref();
        }
        false
    }

    /// Takes the one called `id` off a lane.
    pub(crate) fn end(id: u64, lane: &mut Option<Box<Tap>>) -> Option<Box<Tap>> {
        let mut at = lane;
        while at.as_ref()?.id != id {
            at = &mut at.as_mut()?.next;
        }
        let mut found = at.take()?;
        *at = found.next.take();
        Some(found)
    }

    /// Copies received frames, stamped with `ticks`, into the rings of all captures of the lane. Bounded by their
    /// lengths; neither blocks nor allocates.
    #[inline(never)]
    pub(crate) fn received<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a Mbuf> + Clone,
        ticks: u64,
        queue: u16,
    ) {
        self.copy(frames, ticks, u64::from(queue) << 1, Ways::Out);
    }

    /// As [`received`](Self::received), of frames that are about to be sent.
    #[inline(never)]
    pub(crate) fn sent<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a Mbuf> + Clone,
        ticks: u64,
        queue: u16,
    ) {
        self.copy(frames, ticks, u64::from(queue) << 1 | SENT, Ways::In);
    }

    fn copy<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a Mbuf> + Clone,
        stamp: u64,
        tag: u64,
        other_way: Ways,
    ) {
        let mut next = Some(self);
        while let Some(tap) = next {
            if tap.spec.ways != other_way {
                let (mut passed, mut missed) = (0, 0);
                for frame in frames.clone() {
                    let original_len = u32::try_from(frame.pkt_len()).unwrap_or(u32::MAX);
                    let len = original_len.min(tap.spec.snaplen);
                    let record = Stamped { stamp, len, original_len, tag };
                    passed += 1;
                    missed += u64::from(!tap.frames.push(record, frame.segments().map(Mbuf::data)));
                }
                tap.counts.add(passed, missed);
            }
            next = tap.next.as_deref_mut();
        }
    }
}
