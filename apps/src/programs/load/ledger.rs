//! What a core's requests came to: which may still be made, which count, and how long they took.

use std::time::Duration;

use stack::{Net, Share};

use super::args::LoadConfig;
use super::schedule::Schedule;
use crate::output::{MEASURED_US, REQUESTS};

/// Slot of the time from a request to its answer.
const ROUND_TRIP_SLOT: usize = 0;
/// Slot of the time from SYN to established.
const CONNECT_SLOT: usize = 1;
/// Names of the latencies.
pub const LATENCIES: [&str; 2] = [engine::latency::ROUND_TRIP, engine::latency::CONNECT];

/// A request of the open loop is late if it leaves so long after its time, in nanoseconds: many turns of the loop.
const LATE_NS: u64 = 100_000;

/// Most requests of the open loop that fall due in one turn; the rest falls due in the next.
const DUE_PER_TURN: usize = 256;

/// One core's account.
#[derive(Debug)]
pub struct Ledger {
    rate: Option<u64>,
    share: Share,
    warm_up_ns: u64,
    drain_ns: u64,
    /// Measured requests that may be made, if they are limited; and how many were.
    limit: Option<u64>,
    made: u64,
    /// Open loop: the times, once it runs, and how many of them have come.
    schedule: Option<Schedule>,
    fallen_due: u64,
    now_ns: u64,
    /// Requests made from here on count; none before the first connection.
    measured_from_ns: Option<u64>,
    last_answer_ns: u64,
    /// When the last request was made, and when waiting for answers ends.
    stopped_ns: Option<u64>,
    give_up_ns: Option<u64>,
    answered: u64,
    sent_late: u64,
    /// What was wrong, in requests or connections.
    pub errors: u64,
    /// Requests that were never answered.
    pub lost: u64,
}

impl Ledger {
    /// An account of this core's share of `config`.
    pub fn new(config: &LoadConfig, share: Share) -> Ledger {
        let limit = config.requests.map(|all| part(all, share));
        Ledger {
            rate: config.rate,
            share,
            warm_up_ns: ns(config.warm_up),
            drain_ns: ns(config.drain),
            limit,
            made: 0,
            schedule: None,
            fallen_due: 0,
            now_ns: 0,
            measured_from_ns: None,
            last_answer_ns: 0,
            stopped_ns: None,
            give_up_ns: None,
            answered: 0,
            sent_late: 0,
            errors: 0,
            lost: 0,
        }
    }

    /// Whether requests follow a schedule and not the answers.
    #[inline]
    pub fn is_open_loop(&self) -> bool {
        self.rate.is_some()
    }

    /// Takes note of the time, and of the end: when the engine winds down, or enough requests were made.
    pub fn turn(&mut self, net: &Net<'_>) {
        self.now_ns = net.now().ns();
        if net.winding_down() {
            self.stop();
            self.last_call();
        }
    }

    /// From now on the end is waited for as long as answers are at the end of a run.
    pub fn last_call(&mut self) {
        self.give_up_ns.get_or_insert(self.now_ns.saturating_add(self.drain_ns));
    }

    /// Whether the end is waited for already.
    pub fn is_last_call(&self) -> bool {
        self.give_up_ns.is_some()
    }

    /// Makes no more requests. Those of the open loop that are due and were not even made are lost.
    pub fn stop(&mut self) {
        if self.is_stopped() {
            return;
        }
        self.stopped_ns = Some(self.now_ns);
        let is_limited = self.limit.is_some_and(|limit| self.made >= limit);
        if let Some(schedule) = self.schedule.filter(|_| !is_limited) {
            self.lost += schedule.due_by(self.now_ns).saturating_sub(self.fallen_due);
        }
    }

    /// Whether no more requests are made.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stopped_ns.is_some()
    }

    /// Whether no answer is waited for any more.
    pub fn gives_up(&self) -> bool {
        self.give_up_ns.is_some_and(|at| self.now_ns >= at)
    }

    /// There is a connection: measuring begins, after the warm-up.
    pub fn connected(&mut self, now_ns: u64) {
        self.measured_from_ns.get_or_insert(now_ns.saturating_add(self.warm_up_ns));
    }

    /// All connections are there that will be: the schedule begins, if there is one and it has not yet.
    pub fn all_connected(&mut self) {
        if let (Some(rate), None) = (self.rate, self.schedule) {
            self.schedule = Some(Schedule::new(self.now_ns, rate, self.share.index, self.share.count));
        }
    }

    /// Open loop: when the next request falls due; `None` while there is no schedule, and when no more are made.
    pub fn next_due_ns(&self) -> Option<u64> {
        if self.is_stopped() { None } else { self.due_ns(self.fallen_due) }
    }

    /// Open loop: how many more requests have fallen due by now.
    pub fn due(&mut self) -> usize {
        let Some(schedule) = self.schedule else { return 0 };
        let mut due = 0;
        while due < DUE_PER_TURN && !self.is_stopped() && schedule.at_ns(self.fallen_due) <= self.now_ns {
            if !self.make_at(schedule.at_ns(self.fallen_due)) {
                break;
            }
            self.fallen_due += 1;
            due += 1;
        }
        due
    }

    /// Closed loop: whether another request may be made now.
    #[inline]
    pub fn make(&mut self, now_ns: u64) -> bool {
        !self.is_stopped() && self.make_at(now_ns)
    }

    #[inline]
    fn make_at(&mut self, ns: u64) -> bool {
        if self.limit.is_some() && self.counts(ns) {
            if self.limit == Some(self.made) {
                self.stop();
                return false;
            }
            self.made += 1;
        }
        true
    }

    /// Whether a request made at `ns` is measured, and not warm-up.
    #[inline]
    fn counts(&self, ns: u64) -> bool {
        self.measured_from_ns.is_some_and(|from| ns >= from)
    }

    /// Open loop: when request `k` of this core was due.
    #[inline]
    pub fn due_ns(&self, k: u64) -> Option<u64> {
        Some(self.schedule.as_ref()?.at_ns(k))
    }

    /// A request that was due at `due_ns` leaves at `now_ns`.
    #[inline]
    pub fn sent(&mut self, due_ns: u64, now_ns: u64) {
        self.sent_late += u64::from(now_ns.saturating_sub(due_ns) > LATE_NS);
    }

    /// A request that was made or due at `made_ns` is answered. Returns its round trip if it counts.
    #[inline]
    pub fn answered(&mut self, made_ns: u64, net: &mut Net<'_>) {
        if self.counts(made_ns) {
            let now_ns = net.now().ns();
            self.answered += 1;
            self.last_answer_ns = now_ns;
            net.record(ROUND_TRIP_SLOT, now_ns.saturating_sub(made_ns));
        }
    }

    /// A handshake that began at `since_ns` is complete.
    pub fn connection(&mut self, since_ns: u64, net: &mut Net<'_>) {
        let now_ns = net.now().ns();
        self.connected(now_ns);
        if self.warm_up_ns == 0 || self.counts(since_ns) {
            net.record(CONNECT_SLOT, now_ns.saturating_sub(since_ns));
        }
    }

    /// Shows what every protocol counts.
    pub fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let until = self.stopped_ns.map_or(self.now_ns, |stopped| stopped.max(self.last_answer_ns));
        let measured_ns = until.saturating_sub(self.measured_from_ns.unwrap_or(until));
        visit(REQUESTS, self.answered);
        visit(MEASURED_US, measured_ns / 1_000);
        visit("errors", self.errors);
        visit("lost", self.lost);
        if self.is_open_loop() {
            visit("sent_late", self.sent_late);
        }
    }
}

/// A core's part of `all`, the first ones getting one more where it does not divide.
pub fn part(all: u64, share: Share) -> u64 {
    let (index, count) = (u64::from(share.index), u64::from(share.count.max(1)));
    all / count + u64::from(index < all % count)
}

/// In nanoseconds, at most `u64::MAX`.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(index: u16, count: u16) -> Share {
        Share { index, count }
    }

    #[test]
    fn parts_add_up() {
        assert_eq!([part(7, share(0, 3)), part(7, share(1, 3)), part(7, share(2, 3))], [3, 2, 2]);
        assert_eq!(part(1, share(1, 2)), 0);
    }

    #[test]
    fn as_many_requests_are_made_as_asked_for_and_warm_up_is_not_one_of_them() {
        let config =
            LoadConfig { requests: Some(3), warm_up: Duration::from_nanos(10), ..LoadConfig::default() };
        let mut ledger = Ledger::new(&config, share(0, 1));
        ledger.connected(100);
        assert!((0..50).all(|_| ledger.make(109)), "warm-up is unlimited");
        assert!((0..3).all(|_| ledger.make(110)));
        assert!(!ledger.make(111) && ledger.is_stopped());
    }

    #[test]
    fn requests_fall_due_on_time_and_not_before_all_are_connected() {
        let config = LoadConfig { rate: Some(1_000_000), ..LoadConfig::default() };
        let mut ledger = Ledger::new(&config, share(0, 1));
        ledger.now_ns = 5_000;
        assert_eq!(ledger.due(), 0);
        ledger.connected(5_000);
        ledger.all_connected();
        assert_eq!(ledger.due(), 1);
        ledger.now_ns = 8_999;
        assert_eq!(ledger.due(), 3);
        ledger.now_ns = 1_000_000;
        assert_eq!((ledger.due(), ledger.due_ns(4)), (DUE_PER_TURN, Some(9_000)), "the rest a turn later");
        ledger.sent(9_000, 1_000_000);
        ledger.sent(900_000, 1_000_000);
        assert_eq!(ledger.sent_late, 1);
    }
}
