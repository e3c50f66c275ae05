//! The mailbox between a loop that never waits and a reader that may.
//!
//! | call | side | what the other side then sees |
//! |---|---|---|
//! | [`Inbox::harvest`] | reader | an empty box in `empty`, then the flag `wanted` |
//! | [`Outbox::is_wanted`] | loop | nothing: one relaxed load, each turn |
//! | [`Outbox::exchange`] | loop | `wanted` lowered, then the full box in `full` |
//! | drop of [`Outbox`] | loop | `closed`, after the last full box |
//!
//! One request is under way at a time: the reader raises the flag only when it put an empty box in, and puts one in
//! only when the full one came back. The flag is lowered *before* the full box is pushed; the other way round, a
//! reader that is quick to ask again would have its new request wiped out. The queues (crossbeam's `ArrayQueue`) carry
//! the contents and their ordering; the flag is a hint, and a loop that sees it too early finds no box and tries again
//! next turn. A reader that gave up waiting takes the same box later: nothing is counted twice or lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use door::{Caller, CoreBell};

use sync::{ArrayQueue, AtomicBool, Ordering};

/// How long the reader sleeps between two looks. A loop answers within a turn, some microseconds.
const LOOK_EVERY: Duration = Duration::from_micros(100);

#[cfg(not(loom))]
mod sync {
    pub use crossbeam_queue::ArrayQueue;
    pub use std::sync::atomic::{AtomicBool, Ordering};
}

/// The same names for the model checker.
#[cfg(loom)]
mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering};
    pub use models::ArrayQueue;
}

#[derive(Debug)]
struct Shared<T> {
    wanted: AtomicBool,
    closed: AtomicBool,
    empty: ArrayQueue<Box<T>>,
    full: ArrayQueue<Box<T>>,
}

/// The loop's end.
#[derive(Debug)]
pub struct Outbox<T>(Arc<Shared<T>>);

/// The reader's end.
#[derive(Debug)]
pub struct Inbox<T> {
    shared: Arc<Shared<T>>,
    /// The empty box, while it is here and not on its way.
    spare: Option<Box<T>>,
    /// The loop's, which may sleep.
    bell: Option<Arc<CoreBell>>,
}

/// What a reader got.
#[derive(Debug, PartialEq, Eq)]
pub enum Harvest<T> {
    /// The loop's report; give the box back with [`Inbox::recycle`].
    Report(Box<T>),
    /// The loop did not answer in time. It is stuck in a program, or not scheduled; the request stands.
    Silent,
    /// The loop ended and all it put in was taken.
    Closed,
}

/// A mailbox whose circulating second box is `spare` (the first one is the loop's).
#[must_use]
pub fn mailbox<T>(spare: Box<T>) -> (Outbox<T>, Inbox<T>) {
    let shared = Arc::new(Shared {
        wanted: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        empty: ArrayQueue::new(1),
        full: ArrayQueue::new(1),
    });
    (Outbox(Arc::clone(&shared)), Inbox { shared, spare: Some(spare), bell: None })
}

impl<T> Outbox<T> {
    /// True if the reader waits for a report. One load; never blocks.
    #[inline]
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        // ORDERING: Relaxed. A hint only: what it announces is found, or not yet found, by `empty.pop()` in
        // `exchange`, which orders the contents. Partner: the store in `Inbox::request`.
        self.0.wanted.load(Ordering::Relaxed)
    }

    /// Hands out `report` and leaves an empty one in its place, prepared by `prepare(empty, full)`. False, and
    /// nothing changed, if there is no empty box yet. Never blocks or allocates, nor makes a syscall.
    pub fn exchange(&self, report: &mut Box<T>, prepare: impl FnOnce(&mut T, &T)) -> bool {
        let Some(mut next) = self.0.empty.pop() else {
            return false;
        };
        prepare(&mut next, report);
        let full = std::mem::replace(report, next);
        // ORDERING: Relaxed, and before the push: the push is a release that the reader's pop acquires, so the
        // reader's next `store(true)` comes after this one. Partner: `Inbox::request`. Checked with loom below.
        self.0.wanted.store(false, Ordering::Relaxed);
        // One box of the two is the loop's, so the other is the only one that can be here: there is room.
        let pushed = self.0.full.push(full).is_ok();
        debug_assert!(pushed, "a third box in the mailbox");
        true
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        // ORDERING: Release. The last full box is in the queue before the mailbox is seen closed.
        // Partner: the load in `Inbox::harvest`.
        self.0.closed.store(true, Ordering::Release);
    }
}

impl<T> Inbox<T> {
    /// Wakes the loop by `bell` if it sleeps when it is asked.
    #[must_use]
    pub fn ringing(mut self, bell: Arc<CoreBell>) -> Self {
        self.bell = Some(bell);
        self
    }

    /// Asks for a report without waiting for it; does nothing if a request is under way.
    pub fn request(&mut self) {
        if let Some(spare) = self.spare.take() {
            match self.shared.empty.push(spare) {
                // ORDERING: Relaxed, after the box was pushed; see `Outbox::is_wanted`.
                Ok(()) => {
                    self.shared.wanted.store(true, Ordering::Relaxed);
                    self.bell.iter().for_each(|bell| bell.ring(Caller::Control));
                }
                Err(spare) => self.spare = Some(spare),
            }
        }
    }

    /// Takes what has arrived, without waiting.
    pub fn poll(&mut self) -> Harvest<T> {
        // ORDERING: Acquire, before the pop: if the loop has ended, its last box is seen now.
        // Partner: `Outbox::drop`.
        let closed = self.shared.closed.load(Ordering::Acquire);
        match self.shared.full.pop() {
            Some(report) => Harvest::Report(report),
            None if closed => Harvest::Closed,
            None => Harvest::Silent,
        }
    }

    /// Asks for a report and waits for it at most `timeout`.
    pub fn harvest(&mut self, timeout: Duration) -> Harvest<T> {
        self.request();
        let deadline = Instant::now() + timeout;
        loop {
            match self.poll() {
                Harvest::Silent if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                answer => return answer,
            }
        }
    }

    /// Gives back the box of a report, emptied.
    pub fn recycle(&mut self, empty: Box<T>) {
        self.spare = Some(empty);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    /// A loop's report in these tests: how many times something happened since the report before.
    type Count = u64;

    fn hand_out(outbox: &Outbox<Count>, report: &mut Box<Count>) -> bool {
        outbox.is_wanted() && outbox.exchange(report, |_, _| ())
    }

    #[test]
    fn a_loop_that_is_not_asked_hands_out_nothing() {
        let (outbox, _inbox) = mailbox(Box::new(0));
        let mut report = Box::new(7);
        assert!(!hand_out(&outbox, &mut report));
        assert!(!outbox.exchange(&mut report, |_, _| panic!("nothing to prepare")));
        assert_eq!(*report, 7);
    }

    #[test]
    fn a_request_is_answered_once() {
        let (outbox, mut inbox) = mailbox(Box::new(0));
        let mut report = Box::new(7);
        inbox.request();
        inbox.request();
        assert!(hand_out(&outbox, &mut report));
        assert_eq!(*report, 0);
        assert!(!hand_out(&outbox, &mut report));
        assert_eq!(inbox.harvest(SOON), Harvest::Report(Box::new(7)));
        assert_eq!(inbox.poll(), Harvest::Silent);
    }

    #[test]
    fn a_dead_loop_costs_the_reader_its_timeout_and_no_report() {
        let (outbox, mut inbox) = mailbox(Box::new(0));
        let begun = Instant::now();
        assert_eq!(inbox.harvest(SOON), Harvest::Silent);
        assert!(begun.elapsed() >= SOON);
        // It was only slow: the request still stands, and nothing was lost.
        let mut report = Box::new(9);
        assert!(hand_out(&outbox, &mut report));
        assert_eq!(inbox.harvest(SOON), Harvest::Report(Box::new(9)));
    }

    #[test]
    fn a_loop_that_ended_is_told_from_a_silent_one_after_its_last_report() {
        let (outbox, mut inbox) = mailbox(Box::new(0));
        inbox.request();
        hand_out(&outbox, &mut Box::new(5));
        drop(outbox);
        assert_eq!(inbox.harvest(SOON), Harvest::Report(Box::new(5)));
        assert_eq!(inbox.harvest(SOON), Harvest::Closed);
    }

    #[test]
    fn between_two_threads_every_event_is_reported_exactly_once() {
        const EVENTS: u64 = 200_000;
        let (outbox, mut inbox) = mailbox(Box::new(0));
        let writer = std::thread::spawn(move || {
            let mut report = Box::new(0);
            for _ in 0..EVENTS {
                *report += 1;
                hand_out(&outbox, &mut report);
            }
            *report
        });
        let (mut seen, mut reports) = (0, 0_u32);
        loop {
            match inbox.harvest(Duration::from_secs(10)) {
                Harvest::Report(mut report) => {
                    seen += *report;
                    reports += 1;
                    *report = 0;
                    inbox.recycle(report);
                }
                Harvest::Closed => break,
                Harvest::Silent => panic!("the writer stopped answering"),
            }
        }
        assert_eq!(seen + writer.join().unwrap(), EVENTS, "in {reports} reports");
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p bywash-engine --release loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn loom_every_event_is_reported_once_and_no_request_is_lost() {
        loom::model(|| {
            let (outbox, mut inbox) = mailbox(Box::new(0_u64));
            let writer = loom::thread::spawn(move || {
                let mut report = Box::new(0);
                for _ in 0..3 {
                    *report += 1;
                    if outbox.is_wanted() {
                        outbox.exchange(&mut report, |_, _| ());
                    }
                }
                (*report, outbox)
            });
            let mut seen = 0;
            for _ in 0..2 {
                inbox.request();
                loom::thread::yield_now();
                if let Harvest::Report(mut report) = inbox.poll() {
                    seen += *report;
                    *report = 0;
                    inbox.recycle(report);
                }
            }
            inbox.request();
            let (rest, outbox) = writer.join().unwrap();
            // Whatever the interleaving, a request that is now under way is visible and can be answered: either
            // its box is already full, or the flag is up and an empty box is there.
            let mut last = Box::new(rest);
            let answered = matches!(inbox.shared.full.pop().inspect(|r| seen += **r), Some(_));
            assert!(answered || (outbox.is_wanted() && outbox.exchange(&mut last, |_, _| ())));
            if answered {
                seen += *last;
            } else {
                seen += *inbox.shared.full.pop().expect("just exchanged");
            }
            assert_eq!(seen, 3);
        });
    }
}
