//! The reader of all mailboxes of an engine: totals since the start, and what the last interval added.

use std::time::{Duration, Instant};

use super::{CoreReport, Counters, Harvest, Inbox, QueueReport};
use crate::latency::Latencies;
use crate::launch::PortNews;
use crate::tsc::Tsc;
use pmd::port::QueueCounters;

/// How a port is called in what is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLabel {
    /// The port string it was opened with, such as `loop:a`.
    pub name: String,
    /// The driver behind it, such as `virtio-net`.
    pub driver: String,
}

/// One port: the sum of its queue pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSnapshot {
    /// Its name and driver.
    pub label: PortLabel,
    /// Counters since it was opened; `port` is its index, `queue` is 0.
    pub total: QueueReport,
}

impl PortSnapshot {
    /// Frames that its queues, or a loop for want of room in them, dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let QueueCounters { rx_errors, tx_errors, tx_lost, netem_lost, .. } = self.total.counters;
        [
            ("tx_dropped", self.total.tx_dropped),
            ("rx_errors", rx_errors),
            ("tx_errors", tx_errors),
            ("tx_lost", tx_lost),
            ("netem_lost", netem_lost),
        ]
        .into_iter()
    }
}

/// One loop.
#[derive(Clone, Debug)]
pub struct CoreSnapshot {
    /// Counters and histograms since the start.
    pub total: CoreReport,
    /// Histograms of the last interval alone.
    pub interval: Latencies,
    /// True if the loop did not answer in time, so that the figures are those of its last report.
    pub silent: bool,
}

/// Everything an engine knows about itself at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Since the engine started.
    pub elapsed: Duration,
    /// Since the snapshot before this one.
    pub interval: Duration,
    /// The scale of all tick counts in here.
    pub tsc: Tsc,
    /// In the order in which they were opened.
    pub ports: Vec<PortSnapshot>,
    /// In the order of the engine's loops.
    pub cores: Vec<CoreSnapshot>,
    /// What happened to the ports since the start, oldest first; the last 1,024 events.
    pub port_events: Vec<PortNews>,
}

impl Snapshot {
    /// Frames dropped anywhere, by reason: what programs dropped, `tx_dropped` for those that a full transmit queue
    /// did not take, the drivers' `rx_errors`, `tx_errors` and `tx_lost`, and `netem_lost`. (`rx_nombuf` counts missing buffers,
    /// not frames.)
    /// Reasons without a frame are left out.
    #[must_use]
    pub fn drops(&self) -> Counters {
        let mut drops = self.summed(|core| &core.total.drops);
        for (reason, count) in self.ports.iter().flat_map(PortSnapshot::drops).filter(|(_, count)| *count > 0)
        {
            drops.add(reason, count);
        }
        drops
    }

    /// What programs counted on all cores, by name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.summed(|core| &core.total.counters)
    }

    /// Makes the interval of this snapshot begin where that of `earlier`, the one before it, began.
    pub fn extend_interval(&mut self, earlier: &Snapshot) {
        self.interval += earlier.interval;
        for (core, earlier) in self.cores.iter_mut().zip(&earlier.cores) {
            core.interval.merge(&earlier.interval);
        }
    }

    /// The histograms of all cores since the start, merged by name.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        let mut merged = Latencies::new(&[]);
        self.cores.iter().for_each(|core| merged.merge(&core.total.latencies));
        merged
    }

    fn summed(&self, of: impl Fn(&CoreSnapshot) -> &Counters) -> Counters {
        let mut sum = Counters::new();
        self.cores.iter().for_each(|core| sum.merge(of(core)));
        sum
    }
}

/// Collects the reports of all loops of an engine.
#[derive(Debug)]
pub struct Collector {
    tsc: Tsc,
    started: Instant,
    last: Instant,
    ports: Vec<PortLabel>,
    cores: Vec<Core>,
}

#[derive(Debug)]
struct Core {
    inbox: Inbox<CoreReport>,
    total: CoreReport,
    interval: Latencies,
    /// Set once its loop gave its last report to [`Collector::finish`].
    finished: bool,
}

impl Collector {
    /// A collector for loops with these mailboxes. `blank` reports, one a loop and in the same order, give each
    /// loop's shape.
    #[must_use]
    pub fn new(tsc: Tsc, ports: Vec<PortLabel>, loops: Vec<(Inbox<CoreReport>, CoreReport)>) -> Collector {
        let now = Instant::now();
        let cores = loops
            .into_iter()
            .map(|(inbox, mut blank)| {
                let mut interval = Latencies::new(&[]);
                interval.merge(&blank.latencies);
                blank.latencies = interval.clone();
                Core { inbox, interval, total: blank, finished: false }
            })
            .collect();
        Collector { tsc, started: now, last: now, ports, cores }
    }

    /// Asks all loops for a report and waits for them, at most `timeout` in all. A loop that does not answer is
    /// marked silent; what it recorded is in a later snapshot.
    pub fn collect(&mut self, timeout: Duration) -> Snapshot {
        let silent = self.ask(timeout);
        self.snapshot(&silent)
    }

    /// As [`collect`](Self::collect), for a second reader: the interval goes on, and the snapshot has none of its own.
    pub fn look(&mut self, timeout: Duration) -> Snapshot {
        let silent = self.ask(timeout);
        let of = |(core, &silent): (&Core, &bool)| CoreSnapshot {
            total: core.total.clone(),
            interval: Latencies::new(&[]),
            silent,
        };
        let cores = self.cores.iter().zip(&silent).map(of).collect();
        self.describe(Instant::now(), Duration::ZERO, cores)
    }

    fn ask(&mut self, timeout: Duration) -> Vec<bool> {
        // First ask them all, so that they answer side by side and for nearly the same moment.
        self.cores.iter_mut().for_each(|core| core.inbox.request());
        let deadline = Instant::now() + timeout;
        self.cores.iter_mut().map(|core| core.harvest(deadline)).collect()
    }

    /// Takes in what the loops returned when they ended, in their order, and makes the last snapshot. A loop that
    /// has none (`None`: it panicked) is marked silent.
    pub fn finish(&mut self, last: Vec<Option<CoreReport>>) -> Snapshot {
        let mut last = last.into_iter();
        let silent: Vec<bool> =
            self.cores.iter_mut().map(|core| core.finish(last.next().flatten())).collect();
        self.snapshot(&silent)
    }

    fn snapshot(&mut self, silent: &[bool]) -> Snapshot {
        let now = Instant::now();
        let interval = now - std::mem::replace(&mut self.last, now);
        let cores: Vec<CoreSnapshot> = self
            .cores
            .iter_mut()
            .zip(silent)
            .map(|(core, &silent)| {
                let interval = core.interval.clone();
                core.interval.clear();
                CoreSnapshot { total: core.total.clone(), interval, silent }
            })
            .collect();
        self.describe(now, interval, cores)
    }

    fn describe(&self, now: Instant, interval: Duration, cores: Vec<CoreSnapshot>) -> Snapshot {
        Snapshot {
            elapsed: now - self.started,
            interval,
            tsc: self.tsc,
            ports: port_sums(&self.ports, &cores),
            cores,
            port_events: Vec::new(),
        }
    }
}

impl Core {
    /// Takes in a report, waiting until `deadline`; true if the loop is silent.
    fn harvest(&mut self, deadline: Instant) -> bool {
        if self.finished {
            return false;
        }
        match self.inbox.harvest(deadline.saturating_duration_since(Instant::now())) {
            Harvest::Report(report) => {
                self.take(report);
                false
            }
            // The loop ended (or died) and its last report has not come to `finish` yet.
            Harvest::Closed | Harvest::Silent => true,
        }
    }

    fn take(&mut self, mut report: Box<CoreReport>) {
        self.absorb(&report);
        report.latencies.clear();
        self.inbox.recycle(report);
    }

    fn absorb(&mut self, report: &CoreReport) {
        self.total.absorb(report);
        self.interval.merge(&report.latencies);
    }

    fn finish(&mut self, last: Option<CoreReport>) -> bool {
        // A report that was asked for and never taken comes before the last one.
        if let Harvest::Report(report) = self.inbox.poll() {
            self.take(report);
        }
        if let Some(last) = last {
            self.absorb(&last);
            self.finished = true;
        }
        !self.finished
    }
}

fn port_sums(labels: &[PortLabel], cores: &[CoreSnapshot]) -> Vec<PortSnapshot> {
    let mut ports: Vec<PortSnapshot> = labels
        .iter()
        .enumerate()
        .map(|(port, label)| PortSnapshot {
            label: label.clone(),
            total: QueueReport { port, ..QueueReport::default() },
        })
        .collect();
    for queue in cores.iter().flat_map(|core| &core.total.queues) {
        if let Some(port) = ports.get_mut(queue.port) {
            port.total.counters.add(&queue.counters);
            port.total.tx_dropped += queue.tx_dropped;
            port.total.tx_waiting += queue.tx_waiting;
            port.total.fault = port.total.fault.or(queue.fault);
        }
    }
    ports
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::stats::{Outbox, mailbox};

    const SOON: Duration = Duration::from_millis(20);

    fn label(name: &str) -> PortLabel {
        PortLabel { name: name.to_string(), driver: "test".to_string() }
    }

    fn blank(lcore: usize) -> CoreReport {
        CoreReport::new(lcore, None, &[(0, u16::try_from(lcore).unwrap()), (1, 0)], &["turn"])
    }

    type Loop = (Outbox<CoreReport>, Box<CoreReport>);

    /// A collector over `n` loops, and the ends and reports of those loops.
    fn engine(n: usize) -> (Collector, Vec<Loop>) {
        let (loops, inboxes) = (0..n)
            .map(|lcore| {
                let (outbox, inbox) = mailbox(Box::new(blank(lcore)));
                ((outbox, Box::new(blank(lcore))), (inbox, blank(lcore)))
            })
            .unzip();
        (Collector::new(Tsc::from_hz(1_000_000_000), vec![label("a"), label("b")], inboxes), loops)
    }

    fn turn(outbox: &Outbox<CoreReport>, report: &mut Box<CoreReport>) {
        report.turns += 1;
        report.queues[0].counters.rx_packets += 10;
        report.drops.add("tx_full", 1);
        report.latencies.record(0, 1000, 10);
        if outbox.is_wanted() {
            outbox.exchange(report, CoreReport::continue_from);
        }
    }

    #[test]
    fn totals_keep_everything_and_intervals_only_the_last_part() {
        let (mut collector, mut loops) = engine(1);
        let (outbox, mut report) = loops.pop().unwrap();
        turn(&outbox, &mut report);
        for round in 1..=3_u64 {
            collector.cores[0].inbox.request();
            turn(&outbox, &mut report);
            let snapshot = collector.collect(SOON);
            let core = &snapshot.cores[0];
            let turns_now = if round == 1 { 2 } else { 1 };
            assert!(!core.silent);
            assert_eq!(core.total.turns, round + 1);
            assert_eq!(core.total.latencies.get("turn").unwrap().len(), 10 * (round + 1));
            assert_eq!(core.interval.get("turn").unwrap().len(), 10 * turns_now);
            assert_eq!(snapshot.drops().iter().collect::<Vec<_>>(), [("tx_full", round + 1)]);
            assert_eq!(snapshot.ports[0].total.counters.rx_packets, 10 * (round + 1));
        }
    }

    #[test]
    fn two_intervals_can_be_made_one() {
        let (mut collector, mut loops) = engine(1);
        let (outbox, mut report) = loops.pop().unwrap();
        let mut snapshots = [1, 2].map(|_| {
            collector.cores[0].inbox.request();
            turn(&outbox, &mut report);
            collector.collect(SOON)
        });
        let lengths = snapshots[0].interval + snapshots[1].interval;
        let [first, second] = &mut snapshots;
        second.extend_interval(first);
        assert_eq!(second.cores[0].interval.get("turn").unwrap().len(), 20);
        assert_eq!(second.interval, lengths);
    }

    #[test]
    fn queues_of_one_port_on_two_cores_are_summed_and_a_silent_core_is_named() {
        let (mut collector, mut loops) = engine(2);
        collector.cores.iter_mut().for_each(|core| core.inbox.request());
        let (outbox, report) = &mut loops[1];
        turn(outbox, report);
        let snapshot = collector.collect(SOON);
        assert_eq!([snapshot.cores[0].silent, snapshot.cores[1].silent], [true, false]);
        let (outbox, report) = &mut loops[0];
        turn(outbox, report);
        collector.cores[1].inbox.request();
        let (outbox, report) = &mut loops[1];
        turn(outbox, report);
        let snapshot = collector.collect(SOON);
        assert!(snapshot.cores.iter().all(|core| !core.silent));
        assert_eq!(snapshot.ports[0].total.counters.rx_packets, 30);
        assert_eq!(snapshot.latencies().get("turn").unwrap().len(), 30);
    }

    #[test]
    fn the_last_snapshot_has_the_reports_nobody_took_and_those_of_the_end() {
        let (mut collector, mut loops) = engine(2);
        assert!(collector.collect(Duration::ZERO).cores.iter().all(|core| core.silent));
        let (outbox, mut report) = loops.remove(0);
        turn(&outbox, &mut report); // answers the request above, which nobody waits for any more
        turn(&outbox, &mut report);
        drop(outbox);
        let snapshot = collector.finish(vec![Some(*report), None]);
        assert_eq!(snapshot.cores[0].total.latencies.get("turn").unwrap().len(), 20);
        assert_eq!(snapshot.cores[0].total.turns, 2);
        assert_eq!([snapshot.cores[0].silent, snapshot.cores[1].silent], [false, true]);
    }
}
