//! The generator on the loop: sends on every port, judges what every port receives, drains, and is finished.

use std::sync::Arc;
use std::time::Duration;

use engine::tsc::{Ticks, Tsc};
use engine::{Burst, Cx, Program, ProgramError};
use pmd::Mbuf;
use pmd::port::PortInfo;
use thiserror::Error;

use super::args::{Check, Frames, GenConfig, MAX_FLOWS};
use super::copied::Copied;
use super::replay::{Capture, CaptureError};
use super::sender::{Sender, SenderConfig, Source};
use super::sink::{Sink, Verdict};
use super::sizes::SizeError;
use super::tracker::Tracker;

/// Why the generator drops a received frame: it is not of this run.
pub const FOREIGN: &str = "foreign";

/// Most ports: a payload numbers them with 8 bits.
const MAX_PORTS: usize = 256;

/// Why nothing can be generated.
#[derive(Debug, Error)]
pub enum GenError {
    /// No ports, or more than a payload can number.
    #[error("gen needs 1 to {MAX_PORTS} ports, {ports} are given; add --port, such as --port loop:a")]
    Ports {
        /// How many there are.
        ports: usize,
    },
    /// A flow count out of range.
    #[error("gen has 1 to {MAX_FLOWS} flows on a port, {flows} are asked for")]
    Flows {
        /// What was asked for.
        flows: usize,
    },
    /// A frame size that a port does not take.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// A capture that cannot be replayed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A frame longer than an mbuf.
    #[error(
        "frames of {bytes} bytes do not fit the {room} bytes of an mbuf; send smaller ones (--size, --imix=LETTERS)"
    )]
    DataRoom {
        /// Longest frame in bytes.
        bytes: usize,
        /// Data room of an mbuf in bytes.
        room: usize,
    },
}

/// Traffic generator and sink in one, for all ports of one core.
#[derive(Debug)]
pub struct Generator {
    config: GenConfig,
    run: u32,
    phase: Phase,
    senders: Vec<Sender>,
    tracker: Tracker,
    sink: Sink,
    /// Replayed and prepared frames carry no numbers: what comes back is only counted.
    counts_only: bool,
    counted: u64,
    counted_bytes: u64,
    tsc: Option<Tsc>,
}

/// How often it looks for room in ports that had none yet.
const LOOK_EVERY: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until every port has had room for a while; `since` when they all have.
    Settling { since: Option<u64> },
    /// Until every sender is finished or the engine winds down.
    Sending,
    /// Until everything is back, or the given tick.
    Draining { until: u64 },
    /// The counts are final.
    Finished,
}

impl Generator {
    /// A generator that looks at its ports, and reads its capture, when the engine prepares it.
    pub fn new(config: GenConfig) -> Self {
        let counts_only = config.check == Check::Count || matches!(config.frames, Frames::Replayed { .. });
        Self {
            phase: if config.settle.is_zero() { Phase::Sending } else { Phase::Settling { since: None } },
            config,
            run: random_run(),
            senders: Vec::new(),
            tracker: Tracker::new(0),
            sink: Sink::new(0, 0, 0, 0),
            counts_only,
            counted: 0,
            counted_bytes: 0,
            tsc: None,
        }
    }

    /// What each port sends, and how many flows of numbers that are. Logs what is odd about a capture.
    fn sources(&self, ports: &[PortInfo]) -> Result<(Vec<Source>, usize), GenError> {
        let room = self.config.data_room_bytes;
        match &self.config.frames {
            Frames::Made { sizes, flows, destination, source } => {
                if !(1..=MAX_FLOWS).contains(flows) {
                    return Err(GenError::Flows { flows: *flows });
                }
                let mut sources = Vec::with_capacity(ports.len());
                for (number, port) in ports.iter().enumerate() {
                    let order = sizes.sequence(usize::from(port.mtu))?;
                    if let Some(&bytes) = order.iter().find(|&&bytes| bytes > room) {
                        return Err(GenError::DataRoom { bytes, room });
                    }
                    let [low, ..] = number.to_le_bytes();
                    let destination = destination.unwrap_or([2, 0, 0, 0, 0, low]);
                    let source = source.unwrap_or(port.mac);
                    sources.push(match u16::try_from(flows - 1) {
                        Ok(last) if self.counts_only => {
                            Source::Copied(Copied::new(&order, source, destination, last))
                        }
                        _ => Source::made(&order, source, destination, *flows),
                    });
                }
                Ok((sources, if self.counts_only { 0 } else { *flows }))
            }
            Frames::Replayed { path, repeat, timed } => {
                let mtu = ports.iter().map(|port| usize::from(port.mtu)).min().unwrap_or(0);
                let capture = Arc::new(Capture::read(path, (mtu + 14).min(room))?);
                if capture.cut_frames > 0 {
                    log::warn!(
                        "{} of {} frames of {} were cut when they were captured, and are sent as they are; \
                         `tcpdump -s 0` captures whole frames",
                        capture.cut_frames,
                        capture.frames(),
                        path.display(),
                    );
                }
                let source = Source::Replayed { capture, repeat: *repeat, timed: *timed };
                Ok((vec![source; ports.len()], 0))
            }
        }
    }

    /// Moves to the next phase when this one is over.
    #[inline]
    fn advance(&mut self, now: u64, cx: &mut Cx<'_>) {
        match self.phase {
            // Nothing was sent, so nothing is waited for.
            Phase::Settling { .. } if cx.winding_down => self.phase = Phase::Finished,
            Phase::Settling { since: Some(since) } => {
                if cx.tsc.ns(now.saturating_sub(since)) >= duration_ns(self.config.settle) {
                    self.phase = Phase::Sending;
                }
            }
            Phase::Settling { since: None } => {
                if (0..self.senders.len()).all(|port| cx.room(port) > 0) {
                    self.phase = Phase::Settling { since: Some(now) };
                }
            }
            Phase::Sending => {
                if cx.winding_down || self.senders.iter().all(Sender::is_finished) {
                    let drain_ticks = cx.tsc.ticks(duration_ns(self.config.drain));
                    self.phase = Phase::Draining { until: now.saturating_add(drain_ticks) };
                }
            }
            Phase::Draining { until } => {
                // Of frames without numbers nobody knows which are back.
                let all_back = !self.counts_only && self.tracker.totals().missing() == 0;
                if all_back || now >= until {
                    self.phase = Phase::Finished;
                }
            }
            Phase::Finished => {}
        }
    }
}

impl Program for Generator {
    fn prepare(&mut self, ports: &[PortInfo], tsc: &Tsc) -> Result<(), ProgramError> {
        if !(1..=MAX_PORTS).contains(&ports.len()) {
            return Err(GenError::Ports { ports: ports.len() }.into());
        }
        let (sources, flows) = self.sources(ports)?;
        let longest = sources.iter().map(Source::longest_bytes).max().unwrap_or(0);
        let (run, rate, count, hz) = (self.run, self.config.rate, self.config.count, tsc.hz());
        let senders = (0..=u8::MAX).zip(sources);
        self.senders = senders
            .map(|(port, source)| Sender::new(SenderConfig { port, run, source, rate, count }, hz))
            .collect();
        self.tracker = Tracker::new(ports.len() * flows);
        self.sink = Sink::new(run, ports.len(), flows, longest);
        self.tsc = Some(*tsc);
        Ok(())
    }

    fn receive(&mut self, _port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        if self.counts_only {
            self.counted += burst.len() as u64;
            self.counted_bytes += burst.iter().map(Mbuf::pkt_len).sum::<usize>() as u64;
            return; // and the loop frees them
        }
        let now = cx.now.0;
        // Frames sent in one burst have one stamp: they are recorded together.
        let (mut run_ticks, mut run_len) = (0, 0);
        for frame in burst.drain(..) {
            match self.sink.judge(&frame, now, &mut self.tracker) {
                Verdict::Returned { ticks } if ticks == run_ticks => run_len += 1,
                Verdict::Returned { ticks } => {
                    if run_len > 0 {
                        cx.record(ROUND_TRIP_SLOT, cx.tsc.ns(run_ticks), run_len);
                    }
                    (run_ticks, run_len) = (ticks, 1);
                }
                Verdict::Foreign => cx.drop(FOREIGN, frame),
                Verdict::Repeated | Verdict::Corrupted => {}
            }
        }
        if run_len > 0 {
            cx.record(ROUND_TRIP_SLOT, cx.tsc.ns(run_ticks), run_len);
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.phase == Phase::Finished {
            return false;
        }
        // Not the turn's beginning: judging what was received may have taken longer than a frame's way.
        let now = Tsc::now().0;
        self.advance(now, cx);
        if self.phase != Phase::Sending {
            return false;
        }
        let mut burst = Burst::new();
        let mut sent = false;
        for (port, sender) in self.senders.iter_mut().enumerate() {
            sender.fill(now, cx.room(port).min(self.config.burst), cx.pool, &mut self.tracker, &mut burst);
            if !burst.is_empty() {
                sent = true;
                cx.send_burst(port, &mut burst);
            }
        }
        sent
    }

    fn wake_at(&self) -> Option<Ticks> {
        let ticks = |duration| self.tsc.map_or(0, |tsc| tsc.ticks(duration_ns(duration)));
        match self.phase {
            // Nobody tells when there is room.
            Phase::Settling { since: None } => Some(Tsc::now().after(ticks(LOOK_EVERY))),
            Phase::Settling { since: Some(since) } => Some(Ticks(since).after(ticks(self.config.settle))),
            // When all have sent theirs, the next turn sees it.
            Phase::Sending => Some(Ticks(self.senders.iter().filter_map(Sender::due_at).min().unwrap_or(0))),
            Phase::Draining { until } => Some(Ticks(until)),
            Phase::Finished => None,
        }
    }

    fn latencies(&self) -> &'static [&'static str] {
        if self.counts_only { &[] } else { &LATENCIES }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let sum = |count: fn(&Sender) -> u64| self.senders.iter().map(count).sum::<u64>();
        visit("sent", sum(Sender::sent));
        if self.counts_only {
            visit("received", self.counted);
            visit("received_bytes", self.counted_bytes);
        } else {
            let totals = self.tracker.totals();
            let is_final = self.phase == Phase::Finished;
            visit("received", totals.received);
            visit("in_flight", if is_final { 0 } else { totals.missing() });
            visit("lost", if is_final { totals.missing() } else { 0 });
            visit("reordered", totals.reordered);
            visit("duplicated", totals.duplicated);
            visit("late", totals.late);
            visit("corrupted", self.sink.corrupted());
        }
        visit("tx_nombuf", sum(Sender::nombuf));
        visit("rate_missed", sum(Sender::forfeited));
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Finished
    }
}

/// Slot of the one latency.
const ROUND_TRIP_SLOT: usize = 0;
const LATENCIES: [&str; 1] = [engine::latency::ROUND_TRIP];

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A number that no other run is likely to have: the standard library's hash keys are random.
fn random_run() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
