//! What runs on the loop, and what the loop gives it.

use arrayvec::ArrayVec;
use pmd::port::{Burst, MAX_BURST, PortEvent, PortInfo, QueuePair};
use pmd::{HomePool, Mbuf};

use crate::capture::Tap;
use crate::stats::CoreReport;
use crate::tsc::{Ticks, Tsc};

/// Why a program cannot run on the ports it was given.
pub type ProgramError = Box<dyn std::error::Error + Send + Sync>;

/// What runs on the loop: `l2fwd`, a traffic generator, a stack node, or your own.
///
/// All calls but `prepare` happen on the program's own core, between two polls: they must be bounded, and neither
/// block, allocate, lock nor log. Ports are numbered from 0 in the order in which they were given to the program.
///
/// ```
/// use engine::{Burst, Cx, Program};
///
/// /// Sends every frame back where it came from.
/// struct Reflect;
///
/// impl Program for Reflect {
///     fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
///         cx.send_burst(port, burst);
///     }
/// }
/// ```
pub trait Program: Send {
    /// The ports are open, the loop not yet running: look at them, allocate what is needed. Called once, on the
    /// thread that starts the engine.
    ///
    /// # Errors
    /// Any reason not to start; the engine's start returns it.
    fn prepare(&mut self, _ports: &[PortInfo], _tsc: &Tsc) -> Result<(), ProgramError> {
        Ok(())
    }

    /// A burst of at least one frame arrived on `port`. What the program leaves in `burst` is freed.
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>);

    /// Once a turn, after all ports were polled: timers, traffic of its own. Returns whether it did something.
    fn turn(&mut self, _cx: &mut Cx<'_>) -> bool {
        false
    }

    /// When it wants its next [`turn`](Self::turn), if no frame comes before; `None`: not before one comes. Asked after a
    /// turn that did nothing, of a loop that may sleep: a program with traffic of its own that says nothing here may be
    /// left asleep. Asked again when the loop's bell is armed, so that what others leave for it afterwards rings the
    /// bell; a program that finds something then, or that waits for room in a transmit queue, answers with a time that
    /// has passed.
    fn wake_at(&self) -> Option<Ticks> {
        None
    }

    /// Something happened to `port`: its link, its MTU, the device itself. A tenth of a second late at most; frames may
    /// be sent from here.
    fn port_event(&mut self, _port: usize, _event: &PortEvent, _cx: &mut Cx<'_>) {}

    /// Whether it knows what to do with [offloads](pmd::mem::Offload): frames of 64 KiB, and frames without a checksum, to
    /// receive and to send. Its ports then agree on them with the other side where their string does not say otherwise,
    /// its core has long mbufs beside the usual ones, and frames that a transmit queue has no room for wait instead of
    /// being dropped.
    fn offloads(&self) -> bool {
        false
    }

    /// Names of the latencies it records with [`Cx::record`], by slot.
    fn latencies(&self) -> &'static [&'static str] {
        &[]
    }

    /// Shows each of its counters, as totals since the start.
    fn counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}

    /// Whether it has nothing more to do of its own accord: a generator that sent all it should and waited for what
    /// is still under way. Programs that only react are always done.
    fn is_done(&self) -> bool {
        true
    }
}

/// A program's end of one port, and what is to leave by it at the end of the turn.
pub(crate) struct Lane {
    pub queue_pair: Box<dyn QueuePair>,
    /// Index of its row in the core's report.
    pub row: usize,
    /// Frames come with their receive stamp, which may be another core's.
    pub stamped: bool,
    /// Other cores have a part in the port.
    pub shared: bool,
    /// What the transmit queue has no room for waits, instead of being dropped.
    pub patient: bool,
    /// Since when no frame has left that waits.
    still_since: Option<Ticks>,
    /// Captures of what passes here, if there are any.
    pub tap: Option<Box<Tap>>,
    staged: Box<Burst>,
    /// Scratch of `flush`: 1 KiB that would be copied about if it were a return value.
    stamps: Box<Stamps>,
}

/// Receive stamps in ticks, and how many frames in a row have each.
type Stamps = ArrayVec<(u64, u64), MAX_BURST>;

impl Lane {
    pub(crate) fn new(queue_pair: Box<dyn QueuePair>, row: usize, stamped: bool, shared: bool) -> Self {
        Self {
            queue_pair,
            row,
            stamped,
            shared,
            patient: false,
            still_since: None,
            tap: None,
            staged: Box::default(),
            stamps: Box::default(),
        }
    }
}

/// What a program may do during a call.
pub struct Cx<'a> {
    /// When this turn began.
    pub now: Ticks,
    /// The clock's scale.
    pub tsc: &'a Tsc,
    /// The core's mbufs.
    pub pool: &'a HomePool,
    /// The engine is about to stop: start nothing new, finish what is under way.
    pub winding_down: bool,
    pub(crate) lanes: &'a mut [Lane],
    pub(crate) report: &'a mut CoreReport,
    /// The report's slot for each of the program's latencies; `None` when nothing is recorded.
    pub(crate) slots: Option<&'a [usize]>,
}

impl Cx<'_> {
    /// Number of ports.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.lanes.len()
    }

    /// Queues one frame to leave by `port` at the end of the turn, or at once if it is long. A frame that the transmit queue then has no room
    /// for is dropped and counted (`tx_dropped`), as is one for a port that does not exist.
    #[inline]
    pub fn send(&mut self, port: usize, frame: Mbuf) {
        let Some(lane) = self.lanes.get_mut(port) else { return self.drop("no_such_port", frame) };
        if lane.staged.is_full() {
            flush(lane, self.tsc, self.report, self.slots.is_some());
        }
        let is_long = frame.len() >= AT_ONCE_BYTES;
        if let Err(frame) = lane.staged.try_push(frame) {
            // Those before it wait.
            self.report.queues[lane.row].tx_dropped += 1;
            std::mem::drop(frame.element());
        } else if is_long {
            flush(lane, self.tsc, self.report, self.slots.is_some());
        }
    }

    /// Queues a whole burst, as [`send`](Self::send) does one frame, and leaves it empty.
    #[inline]
    pub fn send_burst(&mut self, port: usize, burst: &mut Burst) {
        let Some(lane) = self.lanes.get_mut(port) else {
            burst.drain(..).for_each(|frame| self.drop("no_such_port", frame));
            return;
        };
        if lane.staged.remaining_capacity() < burst.len() {
            flush(lane, self.tsc, self.report, self.slots.is_some());
        }
        let fits = lane.staged.remaining_capacity().min(burst.len());
        lane.staged.extend(burst.drain(..fits));
        self.report.queues[lane.row].tx_dropped += burst.len() as u64;
        burst.clear();
    }

    /// How many single-segment frames `port` can still take in this turn without dropping any.
    #[inline]
    pub fn room(&mut self, port: usize) -> usize {
        let Some(lane) = self.lanes.get_mut(port) else { return 0 };
        let staged = lane.staged.len();
        (MAX_BURST - staged).min(lane.queue_pair.tx_room().saturating_sub(staged))
    }

    /// Room for frames that a program writes one by one, urgent ones or any: sends what is staged first if that fills
    /// its burst, so that 0 means a full transmit queue.
    #[inline]
    pub(crate) fn room_behind_staged(&mut self, port: usize, urgent: bool) -> usize {
        let Some(lane) = self.lanes.get_mut(port) else { return 0 };
        if lane.staged.is_full() {
            flush(lane, self.tsc, self.report, self.slots.is_some());
        }
        let room = if urgent { lane.queue_pair.tx_room_urgent() } else { lane.queue_pair.tx_room() };
        (MAX_BURST - lane.staged.len()).min(room.saturating_sub(lane.staged.len()))
    }

    /// Records `count` values of `ns` nanoseconds in the program's latency `slot` (see [`Program::latencies`]).
    #[inline]
    pub fn record(&mut self, slot: usize, ns: u64, count: u64) {
        if let Some(slot) = self.slots.and_then(|slots| slots.get(slot)) {
            self.report.latencies.record(*slot, ns, count);
        }
    }

    /// Frees a frame and counts it under `reason`.
    #[inline]
    pub fn drop(&mut self, reason: &'static str, frame: Mbuf) {
        self.report.drops.add(reason, 1);
        drop(frame);
    }

    /// Sends what is staged on all ports. Returns whether some of it has to wait.
    #[inline]
    pub(crate) fn flush(&mut self) -> bool {
        let mut waits = false;
        for lane in &mut *self.lanes {
            if !lane.staged.is_empty() {
                flush(lane, self.tsc, self.report, self.slots.is_some());
                waits |= !lane.staged.is_empty();
            }
        }
        waits
    }
}

/// A frame of so many bytes leaves at once: the other side's core takes it while the next one is being written. Kept
/// until the end of the turn, a window's worth of them would have the two cores work in turns.
const AT_ONCE_BYTES: usize = 16 << 10;

/// How long frames wait for a transmit queue in which nothing moves: its other side is gone, or as good as gone.
const PATIENCE_NS: u64 = 100_000_000;

/// One `tx_burst`, one notification at most; what does not fit is dropped and counted, or waits.
#[inline]
fn flush(lane: &mut Lane, tsc: &Tsc, report: &mut CoreReport, recording: bool) {
    if recording {
        note_stamps(&lane.staged, &mut lane.stamps);
    }
    if lane.tap.is_some() {
        capture_sent(lane, report);
    }
    let sent = lane.queue_pair.tx_burst(&mut lane.staged);
    if !lane.staged.is_empty() {
        left_over(lane, tsc, report, sent);
    }
    if !lane.stamps.is_empty() {
        let now = Tsc::now();
        for (rx_ticks, count) in lane.stamps.drain(..) {
            let ns = tsc.ns_between(Ticks(rx_ticks), now);
            report.latencies.record(crate::lcore::RESIDENCE_SLOT, ns, count);
        }
    }
}

/// There was no room for all.
#[cold]
fn left_over(lane: &mut Lane, tsc: &Tsc, report: &mut CoreReport, sent: usize) {
    let now = Tsc::now();
    let since = if sent > 0 { now } else { lane.still_since.unwrap_or(now) };
    if lane.patient && tsc.ns_between(since, now) < PATIENCE_NS {
        lane.still_since = Some(since);
        // Their residence is recorded with this burst.
        lane.staged.iter_mut().for_each(|frame| frame.set_rx_ticks(0));
    } else {
        lane.still_since = None;
        report.queues[lane.row].tx_dropped += lane.staged.len() as u64;
        lane.staged.clear();
    }
}

/// Captures what is about to be sent: as much of it as there is room for now, since it is gone afterwards.
#[cold]
fn capture_sent(lane: &mut Lane, report: &CoreReport) {
    let room = lane.queue_pair.tx_room();
    if let Some(tap) = &mut lane.tap {
        tap.sent(lane.staged.iter().take(room), Tsc::now().0, report.queues[lane.row].queue);
    }
}

/// The receive stamps of the frames, runs of equal ones counted together: one entry for a burst that was received
/// together. Frames that were not received have none.
#[inline]
fn note_stamps(burst: &Burst, runs: &mut Stamps) {
    let (mut run, mut count) = (0, 0);
    for ticks in burst.iter().map(Mbuf::rx_ticks) {
        if ticks != run {
            if run != 0 {
                runs.push((run, count));
            }
            (run, count) = (ticks, 0);
        }
        count += 1;
    }
    if run != 0 {
        runs.push((run, count));
    }
}
