//! The loop: one core, its programs, their queue pairs. Everything else in this crate is there to start, feed or read
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pmd::HomePool;
use pmd::mem::Freeing;
use pmd::port::Burst;

use crate::capture::{Order, Tap};
use crate::idle::Idler;
use crate::news::News;
use crate::program::{Cx, Lane, Program};
use crate::stats::{CoreReport, Outbox};
use crate::tsc::{Ticks, Tsc};

/// Slots of the latencies that every loop records.
pub(crate) const RESIDENCE_SLOT: usize = 0;
/// As [`RESIDENCE_SLOT`].
pub(crate) const TURN_SLOT: usize = 1;

/// How many turns pass between two looks at whether all programs are done.
const DONE_EVERY: u64 = 1024;

/// Frames in a burst from which on the next one is expected at once.
const RUSH: usize = 16;

/// What the control thread tells the loops.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub stop: AtomicBool,
    pub winding_down: AtomicBool,
    /// Loops whose programs are not all done.
    pub unfinished: AtomicUsize,
}

/// A program and the queue pairs that it alone polls.
pub(crate) struct Node {
    pub program: Box<dyn Program>,
    pub lanes: Vec<Lane>,
    /// The report's slot for each of its latencies; `None` when nothing is recorded.
    pub slots: Option<Box<[usize]>>,
}

/// One loop's state.
pub(crate) struct Lcore {
    pub nodes: Vec<Node>,
    pub budget: usize,
    pub tsc: Tsc,
    /// Whether latencies are recorded.
    pub latency: bool,
    pub signals: Arc<Signals>,
    pub report: Box<CoreReport>,
    pub outbox: Outbox<CoreReport>,
    pub burst: Box<Burst>,
    /// The last burst was a long one.
    pub rushed: bool,
    pub idler: Idler,
    pub news: News,
    pub done: bool,
    /// As the programs were last told.
    pub winding_down: bool,
}

impl Lcore {
    /// Turns until told to stop, then lets go of whatever belongs to the other sides.
    pub(crate) fn run(&mut self, pool: &HomePool) {
        self.idler.begin();
        self.report.started = Tsc::now();
        // ORDERING: Relaxed. Nothing is handed over with the flag; joining the thread orders the rest.
        while !self.signals.stop.load(Ordering::Relaxed) {
            let now = Tsc::now();
            if self.news.is_there() {
                self.read_news(now, pool);
            }
            let busy = self.turn(now, pool);
            self.account(now, busy);
            if self.outbox.is_wanted() {
                self.publish(pool);
            }
            if !busy {
                if self.rushed {
                    // The next burst is being written: a core that looks at it all the time takes the lines from who does.
                    std::hint::spin_loop();
                }
                if self.idler.sleeps() {
                    self.rest(now);
                }
            }
        }
        self.nodes.iter_mut().flat_map(|node| &mut node.lanes).for_each(|lane| lane.queue_pair.quiesce());
        self.collect(pool);
    }

    /// Begins or ends a capture of one of its lanes.
    #[cold]
    fn follow(&mut self, order: Order) {
        let report = &self.report;
        let mut lanes = self.nodes.iter_mut().flat_map(|node| &mut node.lanes);
        match order {
            Order::Begin(tap) => {
                let wants =
                    |lane: &&mut Lane| report.queues[lane.row].port == tap.port() && !tap.is_on(&lane.tap);
                if let Some(lane) = lanes.find(wants) {
                    tap.begin(&mut lane.tap);
                }
            }
            Order::End { id, back } => {
                if let Some(tap) = lanes.find_map(|lane| Tap::end(id, &mut lane.tap)) {
                    // Who waits no longer frees it here.
                    let _ = back.try_send(tap);
                }
            }
        }
    }

    /// Tells the programs what has happened to their ports, and follows orders.
    #[cold]
    fn read_news(&mut self, now: Ticks, pool: &HomePool) {
        // ORDERING: Relaxed. As in `turn`.
        let winding_down = self.signals.winding_down.load(Ordering::Relaxed);
        while let Some(order) = self.news.take_order() {
            self.follow(order);
        }
        while let Some((port, event)) = self.news.take() {
            let (tsc, report) = (&self.tsc, &mut *self.report);
            for Node { program, lanes, slots } in &mut self.nodes {
                for index in 0..lanes.len() {
                    if report.queues[lanes[index].row].port == port {
                        let slots = slots.as_deref();
                        let mut cx = Cx { now, tsc, pool, winding_down, lanes, report: &mut *report, slots };
                        program.port_event(index, &event, &mut cx);
                        cx.flush();
                    }
                }
            }
        }
    }

    /// One pass: receive, let the programs work, send. Returns whether anything moved.
    fn turn(&mut self, now: Ticks, pool: &HomePool) -> bool {
        // ORDERING: Relaxed. A hint that may be seen a turn late.
        let winding_down = self.signals.winding_down.load(Ordering::Relaxed);
        self.winding_down = winding_down;
        let mut busy = false;
        let (tsc, report) = (&self.tsc, &mut *self.report);
        for Node { program, lanes, slots } in &mut self.nodes {
            let slots = slots.as_deref();
            let mut cx = Cx { now, tsc, pool, winding_down, lanes, report: &mut *report, slots };
            for port in 0..cx.lanes.len() {
                let lane = &mut cx.lanes[port];
                let received = lane.queue_pair.rx_burst(pool, &mut self.burst, self.budget);
                if received == 0 {
                    busy |= lane.shared && lane.queue_pair.take_handed_on();
                    continue;
                }
                busy = true;
                self.rushed = received >= RUSH;
                cx.report.bursts += 1;
                cx.report.packets += received as u64;
                cx.report.full_bursts += u64::from(received == self.budget);
                if let Some(tap) = &mut lane.tap {
                    tap.received(self.burst.iter(), now.0, cx.report.queues[lane.row].queue);
                }
                if !lane.stamped {
                    self.burst.iter_mut().for_each(|frame| frame.set_rx_ticks(now.0));
                }
                program.receive(port, &mut self.burst, &mut cx);
                Freeing::all(self.burst.drain(..));
            }
            busy |= program.turn(&mut cx);
            busy |= cx.flush();
        }
        busy
    }

    /// Counts the turn and, if it moved something, how long it took.
    #[inline]
    fn account(&mut self, now: Ticks, busy: bool) {
        self.report.turns += 1;
        if busy {
            let ticks = Tsc::now().since(now);
            self.report.busy_turns += 1;
            self.report.busy_ticks += ticks;
            if self.latency {
                self.report.latencies.record(TURN_SLOT, self.tsc.ns(ticks), 1);
            }
        }
        if self.report.turns.is_multiple_of(DONE_EVERY) {
            self.look_whether_done();
        }
    }

    #[cold]
    pub(crate) fn look_whether_done(&mut self) {
        if !self.done && self.nodes.iter().all(|node| node.program.is_done()) {
            self.done = true;
            // ORDERING: Relaxed. A count that the control thread polls; nothing is handed over with it.
            self.signals.unfinished.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Hands the report to the reader who asked, and goes on in an empty one.
    #[cold]
    fn publish(&mut self, pool: &HomePool) {
        self.collect(pool);
        for lane in self.nodes.iter_mut().flat_map(|node| &mut node.lanes) {
            self.report.queues[lane.row].tx_waiting = lane.queue_pair.tx_waiting() as u64;
        }
        self.outbox.exchange(&mut self.report, |next, full| next.continue_from(full));
    }

    /// Brings the report up to date with what drivers and programs count.
    fn collect(&mut self, pool: &HomePool) {
        self.report.taken = Tsc::now();
        self.report.pools = [Some(pool.levels()), pool.large_levels()];
        self.report.counters.clear();
        for node in &self.nodes {
            node.program.counters(&mut |name, count| self.report.counters.add(name, count));
            for lane in &node.lanes {
                let row = &mut self.report.queues[lane.row];
                row.counters = lane.queue_pair.counters();
                row.fault = lane.queue_pair.fault();
                lane.queue_pair.extra_counters(&mut |name, count| self.report.counters.add(name, count));
            }
        }
    }
}
