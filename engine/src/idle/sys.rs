//! The system calls of a loop that sleeps.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::stats::Wake;

/// What a loop sleeps on. Allocates while it grows, and not afterwards.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    /// The bell's first.
    fds: Vec<libc::pollfd>,
}

impl Sleeper {
    /// Forgets all file descriptors.
    pub(super) fn clear(&mut self) {
        self.fds.clear();
    }

    /// Adds one; the first is the bell's. It is to stay open until after the next [`wait`](Self::wait).
    pub(super) fn add(&mut self, fd: BorrowedFd<'_>) {
        self.fds.push(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    }

    /// Sleeps until one is readable, broken or hung up, at most for `limit_ns`. A readable bell is [`Wake::Other`]: who
    /// rang it, the bell knows.
    pub(super) fn wait(&mut self, limit_ns: Option<u64>) -> Wake {
        let limit = limit_ns.map(timespec);
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the call writes `revents` of as many entries as it is told of, and reads the time; both are borrowed
        // for longer. A descriptor that was closed meanwhile is no danger: it counts as broken.
        let count = unsafe {
            libc::ppoll(self.fds.as_mut_ptr(), self.fds.len() as libc::nfds_t, limit, std::ptr::null())
        };
        match self.fds.first() {
            _ if count == 0 => Wake::Timer,
            Some(bell) if count > 0 && bell.revents == 0 => Wake::Port,
            // Or a signal: nothing was written then.
            _ => Wake::Other,
        }
    }
}

/// Sleeps for so many nanoseconds and hears nobody.
pub(super) fn pause(ns: u64) {
    let time = timespec(ns);
    // SAFETY: the call reads the time. Whether it was cut short by a signal does not matter.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

/// Asks the kernel to end this thread's sleeps when they are over, and not up to 50 µs later, as is the default.
pub(super) fn set_least_timer_slack() {
    // SAFETY: takes numbers only, and changes nothing but this thread's timer slack. It cannot fail on it.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

fn timespec(ns: u64) -> libc::timespec {
    let seconds = libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(libc::time_t::MAX);
    #[allow(clippy::cast_possible_wrap)] // below 10^9
    let rest = (ns % 1_000_000_000) as libc::c_long;
    libc::timespec { tv_sec: seconds, tv_nsec: rest }
}
