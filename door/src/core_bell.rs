//! What wakes a core that sleeps, rung only for a core that said so.
//!
//! ```text
//!   core                                       caller: a thread, another core
//!   1  look: nothing                           1  publish (an entry in a ring, a flag)
//!   2  arm: ASLEEP                             2  full fence
//!   3  full fence                              3  read the word: not ASLEEP ─► done, no system call
//!   4  look again: something ─► disarm         4  ASLEEP ─► who called, by compare and swap: the first alone goes on
//!   5  sleep until the eventfd is readable     5  write the eventfd
//!   6  disarm: AWAKE, drain
//! ```
//!
//! As in [`wake`](crate::wake), with both fences one of the two sees the other: the core what was published in step 4, or
//! the caller the word in step 3. A core that polls is never armed, and costs its callers the fence.
//!
//! Between the caller's steps 4 and 5 the core may wake for another reason and drain too early. The eventfd then stays
//! readable, and the next sleep ends at once: a wake-up too many, never one too few.

use crate::sync::{AtomicU32, Ordering, WakeFd};
use crate::wake::full_fence;

#[cfg(loom)]
#[cfg(test)]
mod loom_tests;

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// Who rang a core's bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Caller {
    /// An application's thread or task.
    Thread = 2,
    /// Another core.
    Core = 3,
    /// Whoever controls the engine: stop, a report.
    Control = 4,
}

/// One core's bell.
#[derive(Debug, Default)]
pub struct CoreBell {
    word: AtomicU32,
    event: WakeFd,
}

impl CoreBell {
    /// A bell of a core that is awake, and has nothing to sleep on before it is [opened](Self::open).
    #[must_use]
    pub fn new() -> CoreBell {
        CoreBell { word: AtomicU32::new(AWAKE), event: WakeFd::default() }
    }

    /// Makes what the core sleeps on. Before the first [`arm`](Self::arm); once.
    ///
    /// # Errors
    /// errno of `eventfd(2)`.
    pub fn open(&self) -> std::io::Result<()> {
        self.event.open()
    }

    /// The core's: from here on callers ring. It must look once more whether they left something before they knew.
    pub fn arm(&self) {
        // ORDERING: Release, then SeqCst. The word comes before the look that follows. Partner: the fence in `ring`.
        // Source: Dekker's pattern, C++20 [atomics.fences].
        self.word.store(ASLEEP, Ordering::Release);
        full_fence();
    }

    /// The core's, after the sleep or instead of it: no more rings. Returns who rang, if it was somebody. Makes a system
    /// call only then, or if it is `signalled`: its file descriptor was seen readable.
    pub fn disarm(&self, signalled: bool) -> Option<Caller> {
        // ORDERING: AcqRel. What the caller published before it rang is seen by what the core does next.
        // Partner: the compare and swap in `ring_sleeper`.
        let caller = match self.word.swap(AWAKE, Ordering::AcqRel) {
            2 => Some(Caller::Thread),
            3 => Some(Caller::Core),
            4 => Some(Caller::Control),
            _ => None,
        };
        if caller.is_some() || signalled {
            self.event.drain();
        }
        caller
    }

    /// Wakes the core if it sleeps. To be called after publishing what it is to find. One fence; one system call, if it
    /// sleeps and nobody rang since it fell asleep. Never blocks.
    #[inline]
    pub fn ring(&self, caller: Caller) {
        full_fence();
        self.ring_after_fence(caller);
    }

    /// As [`ring`](Self::ring), for a caller that made a full fence ([`full_fence`](crate::full_fence)) since it
    /// published: one serves several cores.
    #[inline]
    pub fn ring_after_fence(&self, caller: Caller) {
        // ORDERING: Relaxed. The fence orders it after what was published. Partner: `arm`.
        if self.word.load(Ordering::Relaxed) == ASLEEP {
            self.ring_sleeper(caller);
        }
    }

    #[cold]
    fn ring_sleeper(&self, caller: Caller) {
        // ORDERING: AcqRel. Partner: `disarm`. On failure somebody else rang, or it is awake: it looks after this.
        let rung =
            self.word.compare_exchange(ASLEEP, caller as u32, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if rung {
            self.event.signal();
        }
    }

    /// What the core sleeps on, for reading; `None` before it was opened.
    #[cfg(not(loom))]
    #[must_use]
    pub fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.event.fd()
    }

    /// Models have no file descriptors, and their loops do not sleep.
    #[cfg(loom)]
    pub fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn is_signalled(bell: &CoreBell) -> bool {
        use std::io::Read;
        // A duplicate shares the counter; reading it would take it, so it is put back.
        let copy = std::fs::File::from(bell.fd().unwrap().try_clone_to_owned().unwrap());
        let found = (&copy).read(&mut [0; 8]).is_ok();
        if found {
            bell.event.signal();
        }
        found
    }

    #[test]
    fn only_a_core_that_sleeps_is_rung_for_and_by_the_first_caller_alone() {
        let bell = CoreBell::new();
        assert!(bell.fd().is_none());
        bell.ring(Caller::Thread);
        bell.open().unwrap();
        bell.ring(Caller::Thread);
        assert!(!is_signalled(&bell), "awake");

        bell.arm();
        assert!(!is_signalled(&bell));
        bell.ring(Caller::Core);
        bell.ring(Caller::Thread);
        assert!(is_signalled(&bell));
        assert_eq!(bell.disarm(true), Some(Caller::Core));
        assert!(!is_signalled(&bell), "drained");
        bell.ring(Caller::Control);
        assert!(!is_signalled(&bell), "awake again");

        bell.arm();
        assert_eq!(bell.disarm(false), None);
    }

    #[test]
    fn a_signal_that_comes_late_ends_one_sleep_too_many() {
        let bell = CoreBell::new();
        bell.open().unwrap();
        bell.arm();
        bell.event.signal();
        assert!(is_signalled(&bell));
        assert_eq!(bell.disarm(true), None);
        assert!(!is_signalled(&bell));
    }
}
