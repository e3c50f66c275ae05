//! Sleeping until the other side has something, and waking only those who sleep.
//!
//! ```text
//!   sleeper                                    waker
//!   1  look: nothing                           1  publish (an index, a state)
//!   2  arm: set my bit in the word             2  full fence
//!   3  full fence                              3  read the word: no bit ─► done, no system call
//!   4  look again: something ─► done           4  clear the bits and count, in one swap
//!   5  sleep while the word is as armed        5  wake
//! ```
//!
//! With both fences one of the two sees the other: the sleeper the published index in step 4, or the waker the bit in
//! step 3. And a swap between steps 2 and 5 changes the word, so that the sleeper does not fall asleep. Whoever wakes
//! clears all bits and wakes everybody, so sleepers may be many, threads and tasks mixed.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::sync::{ArrayQueue, FutexWord, Ordering, fence};

/// A thread sleeps in the kernel.
const THREAD: u32 = 1;
/// A task left its waker.
const TASK: u32 = 2;
/// The rest of the word counts wake-ups.
const ARMED: u32 = THREAD | TASK;

/// Where wakers of tasks are left, in the memory of the process that sleeps.
pub(crate) trait Tasks {
    fn add(&self, waker: &Waker);
    fn wake(&self);
}

/// One task at a time: a stream's reader or writer. The last to ask is woken.
impl Tasks for atomic_waker::AtomicWaker {
    fn add(&self, waker: &Waker) {
        self.register(waker);
    }
    fn wake(&self) {
        Self::wake(self);
    }
}

/// Several tasks: those that accept from one listener. When there are too many, the oldest is woken too early, which
/// costs it one look.
impl Tasks for ArrayQueue<Waker> {
    fn add(&self, waker: &Waker) {
        if let Some(oldest) = self.force_push(waker.clone()) {
            oldest.wake();
        }
    }
    fn wake(&self) {
        while let Some(waker) = self.pop() {
            waker.wake();
        }
    }
}

/// How long to wait: spinning first, then asleep.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// How long to look again and again before the first sleep.
    pub spin: Duration,
    /// For how long in all; `None`: for ever.
    pub timeout: Option<Duration>,
}

/// The time was up.
#[derive(Debug)]
pub(crate) struct TimedOut;

/// A word to sleep on and the tasks that go with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a, T> {
    pub word: &'a FutexWord,
    pub tasks: &'a T,
}

impl<T: Tasks> Event<'_, T> {
    /// Sleeps until `look` finds something; it is called at least once, also when the time is up already. The flag says
    /// whether this thread slept before it found it.
    pub(crate) fn wait<R>(
        &self,
        patience: Patience,
        mut look: impl FnMut() -> Option<R>,
    ) -> Result<(R, bool), TimedOut> {
        if let Some(found) = look() {
            return Ok((found, false));
        }
        // Absurdly long waits are for ever.
        let started = Instant::now();
        let deadline = patience.timeout.and_then(|timeout| started.checked_add(timeout));
        if !patience.spin.is_zero() {
            let spin = deadline.map_or(patience.spin, |end| (end - started).min(patience.spin));
            while started.elapsed() < spin {
                for _ in 0..64 {
                    if let Some(found) = look() {
                        return Ok((found, false));
                    }
                    std::hint::spin_loop();
                }
            }
        }
        let mut slept = false;
        loop {
            let seen = self.arm(THREAD);
            if let Some(found) = look() {
                return Ok((found, slept));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(TimedOut);
            }
            self.word.wait(seen, deadline);
            slept = true;
        }
    }

    /// As [`wait`](Self::wait) for a task: leaves its waker instead of sleeping.
    pub(crate) fn poll<R>(&self, cx: &mut Context<'_>, mut look: impl FnMut() -> Option<R>) -> Poll<R> {
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        self.tasks.add(cx.waker());
        self.arm(TASK);
        look().map_or(Poll::Pending, Poll::Ready)
    }

    /// Steps 2 and 3 of the sleeper; returns the word as armed.
    fn arm(&self, bit: u32) -> u32 {
        // ORDERING: AcqRel, and then SeqCst. The bit (and the task's waker) comes before the look that follows.
        // Partner: the fence before `wake`. Source: Dekker's pattern, C++20 [atomics.fences].
        let seen = self.word.word().fetch_or(bit, Ordering::AcqRel) | bit;
        fence(Ordering::SeqCst);
        seen
    }

    /// Steps 3 to 5 of the waker, which has published and made a full fence since ([`full_fence`]). `before` runs only
    /// if somebody sleeps. At most one system call; a task's waker runs its executor's code.
    #[inline]
    pub(crate) fn wake(&self, before: impl FnOnce()) {
        // ORDERING: Relaxed. The caller's fence orders it after what was published. Partner: `arm`.
        let word = self.word.word().load(Ordering::Relaxed);
        if word & ARMED != 0 {
            self.wake_armed(word, before);
        }
    }

    #[cold]
    fn wake_armed(&self, word: u32, before: impl FnOnce()) {
        before();
        // One swap rather than a loop: a hostile sleeper could keep a loop busy. If another waker swapped meanwhile, its
        // sleepers are woken twice; each swap is followed by its own wake-up of everybody.
        // ORDERING: AcqRel. Acquire: the tasks' wakers are seen that were left before the bit. Release: what `before`
        // wrote. Partner: `arm`.
        let word = self.word.word().swap((word | ARMED).wrapping_add(1), Ordering::AcqRel) | word;
        if word & THREAD != 0 {
            self.word.wake_all();
        }
        if word & TASK != 0 {
            self.tasks.wake();
        }
    }

    /// Publishes nothing itself: a full fence, then [`wake`](Self::wake). For the rare cases; a core fences once a turn.
    pub(crate) fn notify(&self) {
        full_fence();
        self.wake(|| ());
    }
}

/// Between publishing and looking whether somebody sleeps.
#[inline]
pub(crate) fn full_fence() {
    // ORDERING: SeqCst. Everything published before it is seen by a sleeper whose bit is not seen after it.
    // Partner: the fence in `Event::arm` and in `Wish::make`.
    fence(Ordering::SeqCst);
}

/// The same protocol the other way round, for the core, which never sleeps but does something else: it wishes to be rung
/// for when there is room again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a>(pub &'a FutexWord);

impl Wish<'_> {
    /// The core's: after this it must look once more.
    pub(crate) fn make(&self) {
        // ORDERING: Release, then SeqCst. The wish comes before the look that follows. Partner: `take`, after its fence.
        self.0.word().store(1, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The application's, after it made room: whether the core wished for it. Clears the wish.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        full_fence();
        // ORDERING: Relaxed load after the fence, which orders it behind the room that was made; AcqRel swap, so that of
        // several readers one alone rings. Partner: `make`.
        let wished = self.0.word().load(Ordering::Relaxed) != 0;
        wished && self.0.word().swap(0, Ordering::AcqRel) != 0
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`: the same in all processes of the machine.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, borrowed for it.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(loom)]
#[cfg(test)]
mod loom_tests;
