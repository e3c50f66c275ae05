//! When a queue's memory is ours again.
//!
//! The kernel takes it away from the device a little after the queue's socket is closed, on a thread of its own
//! (`xp_release_deferred`), and tells nobody. But it lets nobody else bind to the queue before.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::sys::{self, RingKind};
use super::{abi, umem};

/// How long a queue may be taken by a socket that is closed already.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

/// Entries of its rings, the least that are customary.
const ENTRIES: u32 = 64;

/// A second socket for a queue, with memory of its own, to be bound when the first is closed. Made beforehand, since a
/// socket belongs to the network namespace of the thread that makes it.
pub(super) struct Probe {
    socket: OwnedFd,
    ifindex: u32,
    queue: u32,
}

impl Probe {
    pub(super) fn new(ifindex: u32, queue: u32) -> io::Result<Self> {
        let socket = sys::socket()?;
        umem::register_padding(socket.as_fd(), abi::MAX_CHUNK_BYTES)?;
        for kind in [RingKind::Fill, RingKind::Completion, RingKind::Rx] {
            sys::make_ring(socket.as_fd(), kind, ENTRIES)?;
        }
        Ok(Self { socket, ifindex, queue })
    }

    /// Waits, at most a second, until the queue is free. Whether it is.
    pub(super) fn wait_until_released(self) -> bool {
        let bind = || sys::bind(self.socket.as_fd(), self.ifindex, self.queue, libc::XDP_COPY, None);
        match patiently(bind) {
            Ok(()) => true,
            // The interface is gone, and what it had with it.
            Err(error) => error.raw_os_error() == Some(libc::ENODEV),
        }
    }
}

/// Binds as soon as the queue is free: who restarts a program should not notice that it took a moment.
pub(super) fn patiently(bind: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let deadline = Instant::now() + LET_GO_WITHIN;
    loop {
        match bind() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}
