//! What each core did, and how it is read without stopping anything.
//!
//! ```text
//!  lcore (writes)                    reader: Collector (any thread)
//!  CoreReport ──► Outbox::exchange ──► Inbox ──► totals ──► Snapshot
//!      ▲                                │
//!      └──── an empty report ◄──────────┘
//! ```
//!
//! In a [`CoreReport`] the *counters* run from the start of the loop and the *histograms* hold what was recorded
//! since the report before it. So a reader that misses reports loses nothing, and needs no subtraction.

mod collector;
mod mailbox;
mod monitor;
mod rest;

pub use collector::{Collector, CoreSnapshot, PortLabel, PortSnapshot, Snapshot};
pub use mailbox::{Harvest, Inbox, Outbox, mailbox};
pub(crate) use monitor::Monitor;
pub use rest::{Rest, Wake};

use pmd::mem::PoolLevels;
use pmd::port::{QueueCounters, QueueFault};

use crate::latency::Latencies;
use crate::tsc::Ticks;

/// Counters a program or a driver may have before adding one allocates.
const RESERVED_COUNTERS: usize = 64;

/// Counters by name, in the order in which they first appeared. Small: names are searched one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Vec<(&'static str, u64)>);

impl Counters {
    /// No counters, with room for 64 names.
    #[must_use]
    pub fn new() -> Counters {
        Counters(Vec::with_capacity(RESERVED_COUNTERS))
    }

    /// Adds `count` under `name`. Allocates only for a 65th name.
    pub fn add(&mut self, name: &'static str, count: u64) {
        match self.0.iter_mut().find(|(have, _)| *have == name) {
            Some((_, total)) => *total = total.saturating_add(count),
            None => self.0.push((name, count)),
        }
    }

    /// The count under `name`; 0 if there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(have, _)| *have == name).map_or(0, |(_, count)| *count)
    }

    /// Names and counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }

    /// The sum of all counts.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Counters) {
        for (name, count) in other.iter() {
            self.add(name, count);
        }
    }

    /// Forgets all names, keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// What one queue pair did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueReport {
    /// Index of its port in the engine's list of ports.
    pub port: usize,
    /// Index of the queue pair in its port.
    pub queue: u16,
    /// What the driver counted, in DPDK's names.
    pub counters: QueueCounters,
    /// Frames that were to leave by this queue and that the loop dropped, as the queue took no more.
    pub tx_dropped: u64,
    /// Descriptors of the transmit queue that were taken at the time of the report.
    pub tx_waiting: u64,
    /// Why the driver stopped the queue, if it did.
    pub fault: Option<QueueFault>,
}

/// What one loop hands to its reader.
#[derive(Clone, Debug)]
pub struct CoreReport {
    /// Index of the loop in its engine.
    pub lcore: usize,
    /// The processor it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// When the loop started.
    pub started: Ticks,
    /// When this report was handed out.
    pub taken: Ticks,
    /// Passes of the loop.
    pub turns: u64,
    /// Passes that moved something.
    pub busy_turns: u64,
    /// Ticks spent in them.
    pub busy_ticks: u64,
    /// Bursts received that held at least one frame.
    pub bursts: u64,
    /// Frames in them.
    pub packets: u64,
    /// Bursts that filled the budget, so that more was waiting.
    pub full_bursts: u64,
    /// Its sleeps.
    pub rest: Rest,
    /// Its queue pairs.
    pub queues: Vec<QueueReport>,
    /// Its mbufs: the usual ones, and the long ones where a program sends frames of 64 KiB. `None` before the first report.
    pub pools: [Option<PoolLevels>; 2],
    /// What its programs count.
    pub counters: Counters,
    /// Frames dropped by the loop and by programs, by reason; the driver's are in `queues`.
    pub drops: Counters,
    /// What was recorded since the report before this one.
    pub latencies: Latencies,
}

impl CoreReport {
    /// An empty report of a loop with these queue pairs (port, queue) and latency names. Allocates all it needs.
    #[must_use]
    pub fn new(
        lcore: usize,
        cpu: Option<usize>,
        queues: &[(usize, u16)],
        latencies: &[&'static str],
    ) -> CoreReport {
        CoreReport {
            lcore,
            cpu,
            started: Ticks(0),
            taken: Ticks(0),
            turns: 0,
            busy_turns: 0,
            busy_ticks: 0,
            bursts: 0,
            packets: 0,
            full_bursts: 0,
            rest: Rest::default(),
            queues: queues
                .iter()
                .map(|&(port, queue)| QueueReport { port, queue, ..QueueReport::default() })
                .collect(),
            pools: [None; 2],
            counters: Counters::new(),
            drops: Counters::new(),
            latencies: Latencies::new(latencies),
        }
    }

    /// Passes that moved nothing.
    #[must_use]
    pub fn idle_turns(&self) -> u64 {
        self.turns.saturating_sub(self.busy_turns)
    }

    /// Makes `self`, an empty report, the one in which a loop goes on after it handed out `before`: takes over the
    /// running counters, leaves the histograms empty. No allocation between reports of one loop.
    pub fn continue_from(&mut self, before: &CoreReport) {
        self.lcore = before.lcore;
        self.cpu = before.cpu;
        self.started = before.started;
        self.taken = before.taken;
        self.turns = before.turns;
        self.busy_turns = before.busy_turns;
        self.busy_ticks = before.busy_ticks;
        self.bursts = before.bursts;
        self.packets = before.packets;
        self.full_bursts = before.full_bursts;
        self.rest = before.rest;
        self.queues.clone_from(&before.queues);
        self.pools = before.pools;
        self.counters.0.clone_from(&before.counters.0);
        self.drops.0.clone_from(&before.drops.0);
    }

    /// Takes in a later report of the same loop: its counters replace ours, its histograms are added to ours.
    pub fn absorb(&mut self, later: &CoreReport) {
        self.continue_from(later);
        self.latencies.merge(&later.latencies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_first_appearance_order_and_add_by_name() {
        let mut counters = Counters::new();
        counters.add("lost", 2);
        counters.add("late", 1);
        counters.add("lost", 3);
        assert_eq!(counters.iter().collect::<Vec<_>>(), [("lost", 5), ("late", 1)]);
        assert_eq!((counters.get("lost"), counters.get("none"), counters.sum()), (5, 0, 6));
    }

    #[test]
    fn a_report_that_continues_another_keeps_counters_and_drops_histograms() {
        let mut first = CoreReport::new(0, Some(3), &[(0, 0), (1, 0)], &["turn"]);
        first.turns = 10;
        first.queues[1].counters.rx_packets = 7;
        first.drops.add("tx_full", 2);
        first.latencies.record(0, 500, 4);

        let mut next = CoreReport::new(0, None, &[(0, 0), (1, 0)], &["turn"]);
        next.continue_from(&first);
        assert_eq!((next.turns, next.queues[1].counters.rx_packets, next.drops.get("tx_full")), (10, 7, 2));
        assert!(next.latencies.get("turn").unwrap().is_empty());

        next.turns = 15;
        next.latencies.record(0, 700, 1);
        first.absorb(&next);
        assert_eq!((first.turns, first.queues[1].counters.rx_packets), (15, 7));
        assert_eq!(first.latencies.get("turn").unwrap().len(), 5);
    }
}
