//! One port's frames: which is next, whether it is due, and its bytes.

use std::sync::Arc;

use pmd::{Burst, HomePool, Mbuf};

use super::copied::{Copied, following};
use super::pacer::{Pacer, Rate};
use super::payload::{Payload, STAMP_MASK};
use super::replay::Capture;
use super::template::{Mac, Template};
use super::tracker::Tracker;

/// What is sent.
#[derive(Clone, Debug)]
pub enum Source {
    /// Numbered frames, sizes in a repeating sequence.
    Made {
        /// One for each distinct size.
        templates: Vec<Template>,
        /// Indices of templates, in the order of sending; not empty.
        sequence: Vec<usize>,
        /// Flows the frames take turns in.
        flows: usize,
    },
    /// Frames without numbers, made beforehand.
    Copied(Copied),
    /// Frames of a capture, as they are.
    Replayed {
        /// The frames.
        capture: Arc<Capture>,
        /// Whether the first follows the last.
        repeat: bool,
        /// Whether each waits for its recorded time; otherwise the rate alone decides.
        timed: bool,
    },
}

impl Source {
    /// Frames of the sizes in `order`, over and over, from `source` to `destination` in `flows` flows.
    pub fn made(order: &[usize], source: Mac, destination: Mac, flows: usize) -> Self {
        let mut distinct = order.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        Source::Made {
            sequence: order.iter().filter_map(|size| distinct.binary_search(size).ok()).collect(),
            templates: distinct.iter().map(|&size| Template::new(source, destination, size)).collect(),
            flows,
        }
    }

    /// Its longest frame in bytes, without FCS.
    pub fn longest_bytes(&self) -> usize {
        match self {
            Source::Made { templates, .. } => templates.iter().map(Template::len_bytes).max().unwrap_or(0),
            Source::Copied(copied) => copied.longest_bytes(),
            Source::Replayed { capture, .. } => {
                (0..capture.frames()).map(|index| capture.frame(index).0.len()).max().unwrap_or(0)
            }
        }
    }
}

/// The frames of one port.
#[derive(Debug)]
pub struct Sender {
    port: u8,
    run: u32,
    source: Source,
    rate: Rate,
    pacer: Pacer,
    /// Ticks per second.
    hz: u64,
    /// When the first frame, of this round of a capture, was due.
    started: Option<u64>,
    /// Place in the sequence of sizes or in the capture.
    place: usize,
    flow: usize,
    left: u64,
    sent: u64,
    nombuf: u64,
}

/// Everything a [`Sender`] is made of.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// Number of its port.
    pub port: u8,
    /// Number of the run.
    pub run: u32,
    /// What it sends.
    pub source: Source,
    /// How fast.
    pub rate: Rate,
    /// How many frames at most; `None`: no end, or once through a capture.
    pub count: Option<u64>,
}

impl Sender {
    /// A sender on a counter of `hz` ticks a second; its clock starts when it is first asked for frames.
    pub fn new(config: SenderConfig, hz: u64) -> Self {
        let SenderConfig { port, run, source, rate, count } = config;
        let once = match &source {
            Source::Replayed { capture, repeat: false, .. } => capture.frames() as u64,
            Source::Replayed { .. } | Source::Made { .. } | Source::Copied(_) => u64::MAX,
        };
        let pacer = Pacer::new(rate, rate.cost(source.longest_bytes()), hz);
        let left = count.unwrap_or(u64::MAX).min(once);
        Self {
            port,
            run,
            source,
            rate,
            pacer,
            hz,
            started: None,
            place: 0,
            flow: 0,
            left,
            sent: 0,
            nombuf: 0,
        }
    }

    /// Frames handed over so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Times no mbuf was there, or none long enough, when a frame was due.
    pub fn nombuf(&self) -> u64 {
        self.nombuf
    }

    /// Whether every frame asked for was handed over.
    pub fn is_finished(&self) -> bool {
        self.left == 0
    }

    /// Frames that were due and never sent; 0 for bits, where sizes differ.
    pub fn forfeited(&self) -> u64 {
        match self.rate {
            Rate::Frames(_) => self.pacer.forfeited_units(),
            Rate::Unlimited | Rate::WireBits(_) => 0,
        }
    }

    /// When its next frame is due, in ticks; in the past if only room or an mbuf is missing. `None` when it is finished.
    pub fn due_at(&self) -> Option<u64> {
        if self.is_finished() {
            return None;
        }
        let (bytes, recorded_at) = match &self.source {
            Source::Made { templates, sequence, .. } => (templates[sequence[self.place]].len_bytes(), 0),
            Source::Copied(copied) => (copied.upcoming_bytes().next().unwrap_or(0), 0),
            Source::Replayed { capture, timed, .. } => {
                let (recorded, offset_ns) = capture.frame(self.place);
                let offset = if *timed { ticks(offset_ns, self.hz) } else { 0 };
                (recorded.len(), self.started.unwrap_or(0).saturating_add(offset))
            }
        };
        Some(self.pacer.due_at(self.rate.cost(bytes)).max(recorded_at))
    }

    /// Appends the frames due at `now`, at most `room` and what the burst takes; numbered ones are stamped `now`.
    /// Never blocks; one copy a frame.
    #[inline]
    pub fn fill(&mut self, now: u64, room: usize, pool: &HomePool, tracker: &mut Tracker, burst: &mut Burst) {
        self.pacer.earn(now);
        let mut started = *self.started.get_or_insert(now);
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(room).min(burst.remaining_capacity());
        let before = burst.len();
        match &mut self.source {
            Source::Made { templates, sequence, flows } => {
                let first_row = usize::from(self.port) * *flows;
                for _ in 0..most {
                    let template = &templates[sequence[self.place]];
                    let cost = self.rate.cost(template.len_bytes());
                    if !self.pacer.pay(cost) {
                        break;
                    }
                    let Some(mbuf) = frame(pool, template.len_bytes(), |bytes| {
                        let payload = Payload {
                            run: self.run,
                            sequence: tracker.next_sequence(first_row + self.flow),
                            #[allow(clippy::cast_possible_truncation)] // at most 65,536 flows
                            flow: self.flow as u16,
                            port: self.port,
                            stamp: now & STAMP_MASK,
                        };
                        template.fill(bytes, &payload);
                    }) else {
                        self.pacer.refund(cost);
                        self.nombuf += 1;
                        break;
                    };
                    burst.push(mbuf);
                    self.place = following(self.place, sequence.len());
                    self.flow = following(self.flow, *flows);
                }
            }
            Source::Copied(copied) => {
                let (rate, pacer) = (self.rate, &mut self.pacer);
                let due = match rate {
                    Rate::Unlimited => most,
                    Rate::Frames(_) | Rate::WireBits(_) => {
                        let upcoming = copied.upcoming_bytes().take(most);
                        upcoming.take_while(|&bytes| pacer.pay(rate.cost(bytes))).count()
                    }
                };
                if due > 0 {
                    let filled = copied.fill(due, pool, burst);
                    if filled < due {
                        // The copies stopped before these.
                        let unsent = copied.upcoming_bytes().take(due - filled);
                        unsent.for_each(|bytes| pacer.refund(rate.cost(bytes)));
                        self.nombuf += 1;
                    }
                }
            }
            Source::Replayed { capture, timed, .. } => {
                for _ in 0..most {
                    let (recorded, offset_ns) = capture.frame(self.place);
                    if *timed && now.saturating_sub(started) < ticks(offset_ns, self.hz) {
                        break;
                    }
                    let cost = self.rate.cost(recorded.len());
                    if !self.pacer.pay(cost) {
                        break;
                    }
                    let Some(mbuf) = frame(pool, recorded.len(), |bytes| bytes.copy_from_slice(recorded))
                    else {
                        self.pacer.refund(cost);
                        self.nombuf += 1;
                        break;
                    };
                    burst.push(mbuf);
                    self.place = following(self.place, capture.frames());
                    if self.place == 0 {
                        // The next round starts when this one's last frame was due: no time adds up.
                        started = now.min(started.saturating_add(ticks(capture.duration_ns(), self.hz)));
                    }
                }
            }
        }
        self.started = Some(started);
        let filled = (burst.len() - before) as u64;
        self.sent += filled;
        self.left -= filled;
    }
}

/// A fresh mbuf of `len` bytes that `write` filled; none, and nothing written, if the pool is empty or its
/// mbufs are shorter.
#[inline]
fn frame(pool: &HomePool, len: usize, write: impl FnOnce(&mut [u8])) -> Option<Mbuf> {
    let mut mbuf = pool.alloc()?;
    write(mbuf.append(len).ok()?);
    Some(mbuf)
}

/// Ticks of a counter of `hz` in `ns` nanoseconds.
#[inline]
fn ticks(ns: u64, hz: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(hz) / 1_000_000_000).unwrap_or(u64::MAX)
}
