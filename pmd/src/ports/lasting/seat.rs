//! Where a queue pair changes under a core that polls it: the hand-over between the port's control thread and that core.
//!
//! | control thread: [`Seat`] | polling core: [`Sitting`] |
//! |---|---|
//! | [`replace`](Seat::replace)s the queue pair, or takes it away | sees [`changed`](Sitting::changed): one plain load a burst |
//! | | [`switch`](Sitting::switch)es: drops the old one here, so that its mbufs go home to the core's own pool |
//! | sees that nothing [`is_held`](Seat::is_held) any more | |
//!
//! The device of the old queue pair must have been stopped before, or dropping it would stop it on the core.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::port::QueuePair;

#[derive(Default)]
struct State {
    /// What the core is to have from now on, if it has not fetched it.
    next: Option<Option<Box<dyn QueuePair>>>,
    /// The core has one.
    held: bool,
}

struct Shared {
    /// Counts the changes of `State::next`; written under the mutex.
    generation: AtomicU64,
    state: Mutex<State>,
    /// Wakes a core that sleeps.
    bell: EventFd,
}

impl Shared {
    // Nothing that is done under this lock can panic half way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control thread's end. Every call takes a mutex.
pub(super) struct Seat(Arc<Shared>);

/// The polling core's end, with the queue pair that it polls.
pub(super) struct Sitting {
    seen: u64,
    pub pair: Option<Box<dyn QueuePair>>,
    shared: Arc<Shared>,
}

/// Makes a seat that is taken by `pair` from the start, or by none.
///
/// # Errors
/// Those of an eventfd.
pub(super) fn seat(pair: Option<Box<dyn QueuePair>>) -> std::io::Result<(Seat, Sitting)> {
    let shared = Arc::new(Shared {
        generation: AtomicU64::new(0),
        state: Mutex::new(State { next: None, held: pair.is_some() }),
        bell: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
    });
    Ok((Seat(Arc::clone(&shared)), Sitting { seen: 0, pair, shared }))
}

impl Seat {
    /// Gives the core this queue pair, or none, in place of the one it may have.
    pub(super) fn replace(&self, pair: Option<Box<dyn QueuePair>>) {
        let mut state = self.0.lock();
        // ORDERING: Relaxed. Only the hint that there is something to fetch: `Sitting::switch` fetches it under the
        //           mutex, which is held here. Partner: `Sitting::changed`.
        self.0.generation.fetch_add(1, Ordering::Relaxed);
        let unseen = state.next.replace(pair);
        drop(state);
        drop(unseen);
        // A full counter (EAGAIN) means that the core is being woken already.
        drop(self.0.bell.write(1));
    }

    /// Whether the core has a queue pair, or will fetch one.
    pub(super) fn is_held(&self) -> bool {
        let state = self.0.lock();
        state.held || matches!(state.next, Some(Some(_)))
    }
}

impl Sitting {
    /// Whether to [`switch`](Self::switch) before using the queue pair again: to be asked once a burst. One load.
    #[inline]
    pub(super) fn changed(&self) -> bool {
        // ORDERING: Relaxed. Nothing is read on the strength of it but what `switch` reads under the mutex.
        //           Partner: `Seat::replace`.
        self.shared.generation.load(Ordering::Relaxed) != self.seen
    }

    /// Lets the queue pair go that it had, to `parting` first, and takes the next one.
    #[cold]
    pub(super) fn switch(&mut self, parting: impl FnOnce(&mut Box<dyn QueuePair>)) {
        let mut state = self.shared.lock();
        // ORDERING: Relaxed: changes only under the mutex, which is held here.
        self.seen = self.shared.generation.load(Ordering::Relaxed);
        let Some(next) = state.next.take() else { return };
        drop(state);
        if let Some(old) = &mut self.pair {
            parting(old);
        }
        // The old one's memory is free before the control thread hears of it.
        self.pair = None;
        self.pair = next;
        self.shared.lock().held = self.pair.is_some();
    }

    /// To sleep on, beside what the queue pair has to sleep on.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as `shared`, and that lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.shared.bell.as_raw_fd()) }
    }

    /// The core is awake.
    pub(super) fn heard(&self) {
        // Nothing in it is the usual case.
        drop(self.shared.bell.read());
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        self.pair = None;
        self.shared.lock().held = false;
    }
}
