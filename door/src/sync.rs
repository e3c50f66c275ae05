//! What two threads share, as the machine has it and as the model checker loom has it.
//!
//! Under `--cfg loom` the kernel's futex is replaced by a mutex and a condition variable, which compare and sleep as
//! atomically as the futex does.

#[cfg(not(loom))]
mod imp {
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::sync::OnceLock;
    pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    use std::time::Instant;

    pub use crossbeam_queue::ArrayQueue;
    use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

    /// What a core sleeps on beside its ports' file descriptors: an eventfd, once it is opened.
    #[derive(Debug, Default)]
    pub struct WakeFd(OnceLock<EventFd>);

    impl WakeFd {
        pub fn open(&self) -> std::io::Result<()> {
            let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
            // The one that is there serves as well.
            let _ = self.0.set(event);
            Ok(())
        }

        /// A counter that is full is readable already.
        pub fn signal(&self) {
            if let Some(event) = self.0.get() {
                let _ = event.write(1);
            }
        }

        /// Never blocks: an empty one is left as it is.
        pub fn drain(&self) {
            if let Some(event) = self.0.get() {
                let _ = event.read();
            }
        }

        pub fn fd(&self) -> Option<BorrowedFd<'_>> {
            // SAFETY: the descriptor is the event's, which the borrow keeps open.
            self.0.get().map(|event| unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) })
        }
    }

    /// A word that threads sleep on. Lies in memory that another process may map, so the futex is not private.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct FutexWord(AtomicU32);

    impl FutexWord {
        pub fn new() -> Self {
            Self::default()
        }

        #[inline]
        pub fn word(&self) -> &AtomicU32 {
            &self.0
        }

        /// Sleeps while the word is `seen`: until woken, until `deadline`, or for no reason at all.
        pub fn wait(&self, seen: u32, deadline: Option<Instant>) {
            let timeout = deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                libc::timespec {
                    tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                    tv_nsec: libc::c_long::from(left.subsec_nanos()),
                }
            });
            let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the word and the time are borrowed for longer than the call; the kernel writes neither.
            // Whatever it returns (woken, word changed, interrupted, timed out), the caller looks again.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, seen, timeout) };
        }

        /// Wakes all who sleep on the word. One system call.
        pub fn wake_all(&self) {
            // SAFETY: the kernel only takes the word's address.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
        }
    }
}

#[cfg(loom)]
mod imp {
    use std::time::Instant;

    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub use models::ArrayQueue;

    /// The counter of an eventfd, and who waits for it to be readable.
    #[derive(Debug)]
    pub struct WakeFd {
        readable: loom::sync::Mutex<bool>,
        woken: loom::sync::Condvar,
    }

    impl Default for WakeFd {
        fn default() -> Self {
            Self { readable: loom::sync::Mutex::new(false), woken: loom::sync::Condvar::new() }
        }
    }

    impl WakeFd {
        pub fn open(&self) -> std::io::Result<()> {
            Ok(())
        }
        pub fn signal(&self) {
            *self.readable.lock().unwrap() = true;
            self.woken.notify_all();
        }
        pub fn drain(&self) {
            *self.readable.lock().unwrap() = false;
        }
        pub fn wait(&self) {
            let mut readable = self.readable.lock().unwrap();
            while !*readable {
                readable = self.woken.wait(readable).unwrap();
            }
        }
    }

    #[derive(Debug)]
    pub struct FutexWord {
        word: AtomicU32,
        lock: loom::sync::Mutex<()>,
        woken: loom::sync::Condvar,
    }

    impl FutexWord {
        pub fn new() -> Self {
            Self {
                word: AtomicU32::new(0),
                lock: loom::sync::Mutex::new(()),
                woken: loom::sync::Condvar::new(),
            }
        }
        pub fn word(&self) -> &AtomicU32 {
            &self.word
        }
        /// Models never time out: who is not woken sleeps for ever, and loom reports it.
        pub fn wait(&self, seen: u32, _deadline: Option<Instant>) {
            let guard = self.lock.lock().unwrap();
            // ORDERING: Relaxed. The kernel reads the word under its bucket's lock; what the sleeper needs to see is
            // ordered by the fences of the protocol, which are what is checked here.
            if self.word.load(Ordering::Relaxed) == seen {
                drop(self.woken.wait(guard).unwrap());
            }
        }
        pub fn wake_all(&self) {
            let _guard = self.lock.lock().unwrap();
            self.woken.notify_all();
        }
    }
}

pub(crate) use imp::*;
