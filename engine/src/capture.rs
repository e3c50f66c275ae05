//! Captures: what passes between the programs and one port, copied while the loops turn.
//!
//! ```text
//!   lcore ─ rx_burst ─► Lane ─► program        Captures::begin ──► a Tap for each core of the port, by its news board
//!                        │ tap                 Capture ◄── frame rings ◄── Tap
//!                        ▼                        └─► stream: pcapng to a socket or a file, then what was missed
//!                     frame ring
//! ```
//!
//! The cores never wait: where a ring is full, the frame is counted as missed. While nobody captures, a lane has no tap,
//! which is one branch a burst. At most [`MAX_CAPTURES`] at a time, each with [`RING_BYTES`] for every core of its port.

mod stream;
mod tap;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pmd::pcap::{FrameConsumer, frame_ring};
use serde::Deserialize;
use thiserror::Error;

use crate::news::Board;
use crate::tsc::Tsc;
use tap::Counts;
pub(crate) use tap::{Order, Tap};

/// Captures at a time.
pub(crate) const MAX_CAPTURES: usize = 8;

/// Bytes that wait to be written for each core, at most.
const RING_BYTES: usize = 4 << 20;

/// How long a core may take to begin, and to give a tap back: a turn, unless it is held up.
const WITHIN: Duration = Duration::from_millis(500);

/// Which way frames go that are captured, seen from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ways {
    /// Received ones.
    In,
    /// Sent ones.
    Out,
    /// All.
    #[default]
    Both,
}

/// What is to be captured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaptureSpec {
    /// Index of the port.
    pub port: usize,
    /// Bytes of each frame at most.
    pub snaplen: u32,
    pub ways: Ways,
}

/// Why nothing is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum CaptureError {
    #[error("{MAX_CAPTURES} captures are running already; end one of them")]
    TooMany,
    #[error("the engine is stopping")]
    Stopping,
}

/// Where captures begin. One an engine, shared with whoever asks for them.
#[derive(Debug)]
pub(crate) struct Captures {
    /// Of each core.
    boards: Vec<Board>,
    /// For each port the cores that have a part in it.
    members: Vec<Vec<usize>>,
    tsc: Tsc,
    next_id: AtomicU64,
    running: AtomicUsize,
    stopping: Arc<AtomicBool>,
}

impl Captures {
    /// Once `stopping` is set, captures come to their end and none begins.
    pub(crate) fn new(
        boards: Vec<Board>,
        members: Vec<Vec<usize>>,
        tsc: Tsc,
        stopping: Arc<AtomicBool>,
    ) -> Self {
        let (next_id, running) = (AtomicU64::new(1), AtomicUsize::new(0));
        Self { boards, members, tsc, next_id, running, stopping }
    }

    /// Begins to capture, and waits until the cores do (at most half a second). Allocates the rings.
    pub(crate) fn begin(self: &Arc<Self>, spec: CaptureSpec) -> Result<Capture, CaptureError> {
        if self.is_stopping() {
            return Err(CaptureError::Stopping);
        }
        // ORDERING: Relaxed. A count on its own. Partner: `Capture::drop`.
        if self.running.fetch_add(1, Ordering::Relaxed) >= MAX_CAPTURES {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return Err(CaptureError::TooMany);
        }
        // ORDERING: Relaxed. Only unlike each other.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut capture = Capture { captures: Arc::clone(self), id, spec, sources: Vec::new(), ended: false };
        for core in self.members.get(spec.port).into_iter().flatten() {
            let (frames, consumer) = frame_ring(RING_BYTES);
            let counts = Arc::<Counts>::default();
            let tap = Tap::new(id, spec, frames, Arc::clone(&counts));
            capture.sources.push(Source { core: *core, frames: consumer, counts });
            self.boards[*core].order(Order::Begin(Box::new(tap)));
        }
        let deadline = Instant::now() + WITHIN;
        while !capture.sources.iter().all(|source| source.counts.has_begun()) && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(100));
        }
        Ok(capture)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        // ORDERING: Relaxed. A flag on its own. Partner: `control::Server::drop`.
        self.stopping.load(Ordering::Relaxed)
    }
}

/// One core's part of a capture.
#[derive(Debug)]
struct Source {
    core: usize,
    frames: FrameConsumer,
    counts: Arc<Counts>,
}

/// A capture that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Capture {
    captures: Arc<Captures>,
    id: u64,
    spec: CaptureSpec,
    sources: Vec<Source>,
    ended: bool,
}

/// What a capture got, and what not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Frames that passed while it ran.
    pub passed: u64,
    /// Those of them for which there was no room.
    pub missed: u64,
}

impl Capture {
    /// Asks the cores to capture no more, and waits until they do (at most half a second): what the rings hold then is
    /// all there will be.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (back, taps) = mpsc::sync_channel(self.sources.len());
        for source in &self.sources {
            self.captures.boards[source.core].order(Order::End { id: self.id, back: back.clone() });
        }
        let deadline = Instant::now() + WITHIN;
        let mut missing = self.sources.len();
        while missing > 0 && Instant::now() < deadline {
            // A core that has ended took its taps with it.
            if self.sources.iter().all(|source| source.frames.is_abandoned()) {
                break;
            }
            missing -= usize::from(taps.recv_timeout(Duration::from_millis(5)).is_ok());
        }
    }

    fn totals(&self) -> Totals {
        self.sources.iter().fold(Totals::default(), |sum, source| {
            let (passed, missed) = source.counts.read();
            Totals { passed: sum.passed + passed, missed: sum.missed + missed }
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
        // ORDERING: Relaxed. A count on its own. Partner: `Captures::begin`.
        self.captures.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
