//! Waiting for file descriptors, the one system call behind it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What a file descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Reading would not block.
    pub readable: bool,
    /// The other side has hung up, or the descriptor is broken.
    pub gone: bool,
}

/// Waits until one of `fds` is readable or gone, at most for `timeout` (forever if `None`), and tells which are.
/// A signal counts as nothing being ready.
pub(crate) fn poll<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[Ready; N]> {
    let mut entries =
        fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 });
    let timeout_ms =
        timeout.map_or(-1, |timeout| libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX));
    // SAFETY: `entries` is an array of N pollfd, which the call fills in.
    let count = unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, timeout_ms) };
    if count < 0 {
        let errno = io::Error::last_os_error();
        if errno.kind() != io::ErrorKind::Interrupted {
            return Err(errno);
        }
    }
    let has = |entry: &libc::pollfd, events| entry.revents & events != 0;
    Ok(entries.each_ref().map(|entry| Ready {
        readable: has(entry, libc::POLLIN),
        gone: has(entry, libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR | libc::POLLNVAL),
    }))
}

/// Waits, at most for `timeout`, until `fd` can be written or is broken. A signal ends the wait.
pub(crate) fn poll_writable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let timeout_ms = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one pollfd, which the call fills in.
    let count = unsafe { libc::poll(&raw mut entry, 1, timeout_ms) };
    match io::Error::last_os_error() {
        errno if count < 0 && errno.kind() != io::ErrorKind::Interrupted => Err(errno),
        _ => Ok(()),
    }
}
