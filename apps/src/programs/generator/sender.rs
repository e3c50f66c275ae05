//! One port's frames: which is next, whether it is due, and its bytes.

use std::sync::Arc;

use pmd::{Burst, HomePool};

use super::pacer::{Pacer, Rate};
use super::payload::{Payload, STAMP_MASK};
use super::replay::Capture;
use super::template::Template;
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

/// The frames of one port.
#[derive(Debug)]
pub struct Sender {
    port: u8,
    run: u32,
    source: Source,
    rate: Rate,
    pacer: Pacer,
    /// Ticks per second, and when the first frame (of this round of a capture) was due.
    hz: u64,
    started: u64,
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
    /// A sender whose clock starts at `now`, on a counter of `hz` ticks a second.
    pub fn new(config: SenderConfig, hz: u64, now: u64) -> Self {
        let SenderConfig { port, run, source, rate, count } = config;
        let (longest, once) = match &source {
            Source::Made { templates, .. } => {
                (templates.iter().map(Template::len_bytes).max().unwrap_or(0), u64::MAX)
            }
            Source::Replayed { capture, repeat, .. } => {
                let longest =
                    (0..capture.frames()).map(|index| capture.frame(index).0.len()).max().unwrap_or(0);
                (longest, if *repeat { u64::MAX } else { capture.frames() as u64 })
            }
        };
        let pacer = Pacer::new(rate, rate.cost(longest), hz, now);
        let left = count.unwrap_or(u64::MAX).min(once);
        Self { port, run, source, rate, pacer, hz, started: now, place: 0, flow: 0, left, sent: 0, nombuf: 0 }
    }

    /// Frames handed over so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Times the pool was empty when a frame was due.
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

    /// Appends the frames due at `now`, at most `room` and what the burst takes, stamped `now`. Never blocks;
    /// one copy a frame.
    #[inline]
    pub fn fill(&mut self, now: u64, room: usize, pool: &HomePool, tracker: &mut Tracker, burst: &mut Burst) {
        self.pacer.earn(now);
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(room).min(burst.remaining_capacity());
        let before = burst.len();
        match &self.source {
            Source::Made { templates, sequence, flows } => {
                let row = usize::from(self.port) * flows;
                for _ in 0..most {
                    let template = &templates[sequence[self.place]];
                    let cost = self.rate.cost(template.len_bytes());
                    if !self.pacer.pay(cost) {
                        break;
                    }
                    let Some(mut mbuf) = pool.alloc() else {
                        self.pacer.refund(cost);
                        self.nombuf += 1;
                        break;
                    };
                    // Sizes were compared with the data room at start, and a fresh mbuf is nobody else's.
                    let frame = mbuf.append(template.len_bytes()).expect("a fresh mbuf holds every template");
                    #[allow(clippy::cast_possible_truncation)] // at most 65,536 flows, checked at start
                    let flow = self.flow as u16;
                    let sequence_number = tracker.next_sequence(row + self.flow);
                    let payload = Payload {
                        run: self.run,
                        sequence: sequence_number,
                        flow,
                        port: self.port,
                        stamp: now & STAMP_MASK,
                    };
                    template.fill(frame, &payload);
                    burst.push(mbuf);
                    self.place = following(self.place, sequence.len());
                    self.flow = following(self.flow, *flows);
                }
            }
            Source::Replayed { capture, timed, .. } => {
                for _ in 0..most {
                    let (bytes, offset_ns) = capture.frame(self.place);
                    if *timed && now.saturating_sub(self.started) < ticks(offset_ns, self.hz) {
                        break;
                    }
                    let cost = self.rate.cost(bytes.len());
                    if !self.pacer.pay(cost) {
                        break;
                    }
                    let Some(mut mbuf) = pool.alloc() else {
                        self.pacer.refund(cost);
                        self.nombuf += 1;
                        break;
                    };
                    mbuf.append(bytes.len())
                        .expect("a fresh mbuf holds every frame of the capture")
                        .copy_from_slice(bytes);
                    burst.push(mbuf);
                    self.place = following(self.place, capture.frames());
                    if self.place == 0 {
                        // The next round starts when this one's last frame was due: no time adds up.
                        self.started = now.min(self.started + ticks(capture.duration_ns(), self.hz));
                    }
                }
            }
        }
        let filled = (burst.len() - before) as u64;
        self.sent += filled;
        self.left -= filled;
    }
}

/// The index after `index` in a ring of `len`, without a division.
#[inline]
fn following(index: usize, len: usize) -> usize {
    if index + 1 == len { 0 } else { index + 1 }
}

/// Ticks of a counter of `hz` in `ns` nanoseconds.
#[inline]
fn ticks(ns: u64, hz: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(hz) / 1_000_000_000).unwrap_or(u64::MAX)
}
