//! What a loop does while nothing comes: poll on, or sleep until something does.
//!
//! ```text
//!   nothing to do ─► adaptive: spin, pause ─┐
//!                ─► interrupt: moderate ────┴─► arm bell and ports ─► look again ─► ppoll ─► disarm ─► next turn
//!                                                                      └─ something: disarm, next turn
//! ```
//!
//! The order is NAPI's: ask for notifications, and only then look whether something came before they were asked for. What
//! comes later ends the sleep, whoever it comes from:
//!
//! | from | by |
//! |---|---|
//! | a port | its file descriptors: [`QueuePair::arm`](pmd::QueuePair::arm) |
//! | an application's thread, another core, stop, a reader of counters | the core's bell: [`CoreBell`] |
//! | the programs' timers | the time limit: [`Program::wake_at`](crate::Program::wake_at) |
//!
//! However fast these come, wake-ups are bounded. `adaptive` has polled for [`SPIN_NS`] before each sleep. `interrupt`
//! sleeps as often as it likes for a while ([`SLEEPS_AT_ONCE`]) and then once in [`INTERVAL_NS`]; while more comes than
//! that, it asks for no notification at all, and looks once in that time.

#[allow(unsafe_code)]
mod sys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use door::{Caller, CoreBell};
use pmd::port::Arm;

use crate::lcore::{Lcore, Node, Signals};
use crate::stats::{Rest, Wake};
use crate::tsc::{Ticks, Tsc};
use sys::Sleeper;

/// For how long `adaptive` polls on after the last thing it did, in nanoseconds. About what a sleep and a wake-up cost
/// the frame that ends it: so the policy costs at most twice what one would that knew when the next frame comes.
pub const SPIN_NS: u64 = 50_000;

/// The part of [`SPIN_NS`] that is polled at full speed. In the rest the processor is told to pause between two looks,
/// which leaves its sibling thread more of the core.
const FULL_SPEED_NS: u64 = 25_000;

/// `interrupt` sleeps once in so many nanoseconds, in the long run: at most 20,000 times a second.
pub const INTERVAL_NS: u64 = 50_000;

/// How many sleeps `interrupt` may be ahead of that.
pub const SLEEPS_AT_ONCE: u64 = 16;

/// A timer that is due within so many nanoseconds is waited for awake: a sleep and a wake-up take longer.
const NOT_WORTH_NS: u64 = 10_000;

/// How often the processor is told to pause between two looks.
const PAUSES: u32 = 16;

/// What a loop does while nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the least delay, and all of a processor.
    #[default]
    Poll,
    /// Polls on for 50 µs, then sleeps until something comes.
    Adaptive,
    /// Sleeps as soon as nothing is there, at most 20,000 times a second.
    Interrupt,
}

impl Idle {
    /// All, in the order of how much of a processor they use.
    pub const ALL: [Idle; 3] = [Idle::Poll, Idle::Adaptive, Idle::Interrupt];

    /// As it is written on the command line and in TOML.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Idle::Poll => "poll",
            Idle::Adaptive => "adaptive",
            Idle::Interrupt => "interrupt",
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Idle {
    type Err = String;

    fn from_str(text: &str) -> Result<Idle, String> {
        let found = Idle::ALL.into_iter().find(|idle| idle.name() == text);
        found.ok_or_else(|| format!("`{text}` is no idle policy; use poll, adaptive or interrupt"))
    }
}

/// When one loop sleeps.
pub(crate) struct Idler {
    policy: Idle,
    bell: Arc<CoreBell>,
    sleeper: Sleeper,
    spin: u64,
    full_speed: u64,
    not_worth: u64,
    interval: u64,
    /// Busy turns when the loop was last seen to do nothing.
    seen: u64,
    /// Since when it does nothing, or nothing but wake up.
    quiet_since: Ticks,
    /// From when on the next sleep is within the bound: long ago where sleeps were saved up.
    allowed: Ticks,
    /// Busy turns before the last pause, if the loop only paused since.
    before_pause: Option<u64>,
}

/// What an idle loop is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Look again at once.
    Poll,
    /// Look again after a moment.
    Pause,
    /// Look again after [`INTERVAL_NS`], and let nobody interrupt.
    Moderate,
    /// Sleep until something comes.
    Sleep,
}

impl Idler {
    /// For a loop whose bell is open, unless it polls.
    pub(crate) fn new(policy: Idle, bell: Arc<CoreBell>, tsc: &Tsc) -> Idler {
        Idler {
            policy,
            bell,
            sleeper: Sleeper::default(),
            spin: tsc.ticks(SPIN_NS),
            full_speed: tsc.ticks(FULL_SPEED_NS),
            not_worth: tsc.ticks(NOT_WORTH_NS),
            interval: tsc.ticks(INTERVAL_NS),
            seen: 0,
            quiet_since: Ticks(0),
            allowed: Ticks(0),
            before_pause: None,
        }
    }

    /// Whether the loop ever sleeps.
    #[inline]
    pub(crate) fn sleeps(&self) -> bool {
        self.policy != Idle::Poll
    }

    /// Called on the loop's thread before its first turn.
    pub(crate) fn begin(&self) {
        if self.sleeps() {
            sys::set_least_timer_slack();
        }
    }

    /// The turn that began at `now` did nothing; `busy_turns` so far did something.
    fn next(&mut self, now: Ticks, busy_turns: u64) -> Next {
        if busy_turns != self.seen {
            (self.seen, self.quiet_since) = (busy_turns, now);
        }
        let quiet = now.since(self.quiet_since);
        match self.policy {
            Idle::Poll => Next::Poll,
            Idle::Adaptive if quiet < self.full_speed => Next::Poll,
            Idle::Adaptive if quiet < self.spin => Next::Pause,
            Idle::Adaptive => Next::Sleep,
            Idle::Interrupt => {
                // As long as each look after a pause finds something, there will be something to find.
                let found = self.before_pause.take().is_some_and(|before| before != busy_turns);
                if !found && self.allowed <= now {
                    return Next::Sleep;
                }
                self.before_pause = Some(busy_turns);
                Next::Moderate
            }
        }
    }

    /// The loop slept, or could not, and goes on at `now`.
    fn woke(&mut self, now: Ticks) {
        self.quiet_since = now;
        let saved_up = Ticks(now.0.saturating_sub(SLEEPS_AT_ONCE * self.interval));
        self.allowed = self.allowed.max(saved_up).after(self.interval);
    }

    /// Looks again in `ticks` at the latest.
    fn moderate(&self, ticks: u64, tsc: &Tsc, rest: &mut Rest) {
        let begun = Tsc::now();
        sys::pause(tsc.ns(ticks));
        rest.pauses += 1;
        rest.ticks += Tsc::now().since(begun);
    }
}

impl Lcore {
    /// The turn that began at `now` did nothing: spins, pauses or sleeps, as the policy says, and comes back when there
    /// is to be another turn.
    #[inline(never)]
    pub(crate) fn rest(&mut self, now: Ticks) {
        let next = self.idler.next(now, self.report.busy_turns);
        if next == Next::Poll {
            return;
        }
        let due = due(&self.nodes).map_or(u64::MAX, |due| due.since(now));
        if due <= self.idler.not_worth {
            return;
        }
        match next {
            Next::Poll => {}
            Next::Pause => (0..PAUSES).for_each(|_| std::hint::spin_loop()),
            Next::Moderate => {
                self.idler.moderate(due.min(self.idler.interval), &self.tsc, &mut self.report.rest);
            }
            Next::Sleep => self.sleep(),
        }
    }

    /// Arms, looks again, sleeps, disarms.
    fn sleep(&mut self) {
        // Nobody else would see that it is done before it wakes.
        self.look_whether_done();
        self.idler.bell.arm();
        let mut arm = Arm::Armed;
        for lane in self.nodes.iter_mut().flat_map(|node| &mut node.lanes) {
            arm = arm.and(lane.queue_pair.arm());
        }
        // The second look: at what other cores and threads left for the programs, and at what the engine wants. Both
        // come after the bell was armed, and whoever leaves something now rings it.
        let due = due(&self.nodes);
        let wake = if arm == Arm::Armed && !self.is_called() { self.wait(due) } else { None };
        self.nodes.iter_mut().flat_map(|node| &mut node.lanes).for_each(|lane| lane.queue_pair.disarm());
        let caller = self.idler.bell.disarm(wake == Some(Wake::Other));
        let rest = &mut self.report.rest;
        match (wake, caller) {
            (None, _) => rest.refused += 1,
            (Some(_), Some(Caller::Thread)) => rest.woke(Wake::Thread),
            (Some(_), Some(Caller::Core)) => rest.woke(Wake::Core),
            (Some(_), Some(Caller::Control)) => rest.woke(Wake::Control),
            (Some(wake), None) => rest.woke(wake),
        }
        self.idler.woke(Tsc::now());
    }

    /// Whether somebody wants something that a turn, or the end of the loop, would give him.
    fn is_called(&self) -> bool {
        // ORDERING: Relaxed. The bell's fence stands before; whoever raises one of these rings it afterwards. Partner:
        // `CoreBell::ring` in `Running`, `Inbox::request` and `Board::post`.
        let Signals { stop, winding_down, .. } = &*self.signals;
        stop.load(Ordering::Relaxed)
            || winding_down.load(Ordering::Relaxed) != self.winding_down
            || self.outbox.is_wanted()
            || self.news.is_there()
    }

    /// Sleeps on ports and bell, until `due` at the latest. `None` if there was no time for it.
    fn wait(&mut self, due: Option<Ticks>) -> Option<Wake> {
        let sleeper = &mut self.idler.sleeper;
        sleeper.clear();
        let begun = Tsc::now();
        let limit = due.map(|due| self.tsc.ns_between(begun, due));
        if limit == Some(0) {
            return None;
        }
        // Without a bell the loop could not be stopped.
        sleeper.add(self.idler.bell.fd()?);
        for lane in self.nodes.iter().flat_map(|node| &node.lanes) {
            lane.queue_pair.wait_fds(&mut |fd| sleeper.add(fd));
        }
        let wake = sleeper.wait(limit);
        self.report.rest.ticks += Tsc::now().since(begun);
        Some(wake)
    }
}

/// When the programs want their next turn.
fn due(nodes: &[Node]) -> Option<Ticks> {
    nodes.iter().filter_map(|node| node.program.wake_at()).min()
}
