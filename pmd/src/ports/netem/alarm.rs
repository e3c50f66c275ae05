//! A timer that a core can sleep on together with other file descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Readable when its time has come.
pub(super) struct Alarm {
    timer: OwnedFd,
    is_set: bool,
}

impl Alarm {
    /// One that is not set.
    pub(super) fn new() -> io::Result<Alarm> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes numbers only.
        let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and is nobody else's.
        Ok(Alarm { timer: unsafe { OwnedFd::from_raw_fd(timer) }, is_set: false })
    }

    /// Goes off once, after `time`, or not at all; what it did before is forgotten. Returns whether the system agreed. One
    /// system call, none to leave it as it is.
    pub(super) fn set(&mut self, time: Option<Duration>) -> bool {
        if time.is_none() && !self.is_set {
            return true;
        }
        // A time of zero would switch it off.
        let value = time.map_or(Duration::ZERO, |time| time.max(Duration::from_nanos(1)));
        let it_value = libc::timespec {
            tv_sec: libc::time_t::try_from(value.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(value.subsec_nanos()),
        };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: never, it_value };
        // SAFETY: the call reads one setting, borrowed for it, and writes nothing.
        let result = unsafe {
            libc::timerfd_settime(self.timer.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut())
        };
        self.is_set = time.is_some();
        result == 0
    }

    /// What to sleep on; nothing while it is not set.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.is_set.then(|| self.timer.as_fd())
    }
}
