//! What the pool's threads share, as the machine has it and as the model checker loom has it.
//!
//! Checked is the protocol around the queue: homes, hand-overs, counts.

/// The owner of a pool that has none. Equals no thread's token.
pub(in crate::mem) const NOBODY: u64 = 0;
/// The token of a thread that never adopted a pool. Equals no pool's owner.
const HOMELESS: u64 = u64::MAX;

#[cfg(not(loom))]
mod imp {
    use std::cell::{Cell, UnsafeCell};
    pub use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

    pub use crossbeam_queue::ArrayQueue;

    use super::HOMELESS;

    /// A value that one thread at a time may touch: the pool's owner.
    pub struct OwnerCell<T>(UnsafeCell<T>);

    impl<T> OwnerCell<T> {
        pub fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// # Safety
        /// The calling thread is the owner, or the only one left, and `access` does not come back here.
        #[inline]
        pub unsafe fn with<R>(&self, access: impl FnOnce(&mut T) -> R) -> R {
            // SAFETY: as the caller promised.
            access(unsafe { &mut *self.0.get() })
        }
    }

    thread_local! {
        /// This thread's token; [`HOMELESS`] until it adopts its first pool.
        static TOKEN: Cell<u64> = const { Cell::new(HOMELESS) };
    }

    #[inline]
    pub fn token() -> u64 {
        TOKEN.get()
    }

    pub fn make_token() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if TOKEN.get() == HOMELESS {
            // ORDERING: Relaxed. The numbers need only differ.
            TOKEN.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        TOKEN.get()
    }
}

#[cfg(loom)]
mod imp {
    use std::cell::Cell;

    pub use loom::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

    use super::HOMELESS;
    pub use models::ArrayQueue;

    /// Loom reports two threads that touch the value without one having come before the other.
    pub struct OwnerCell<T>(loom::cell::UnsafeCell<T>);

    impl<T> OwnerCell<T> {
        pub fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }
        /// # Safety
        /// As in the machine's version.
        pub unsafe fn with<R>(&self, access: impl FnOnce(&mut T) -> R) -> R {
            // SAFETY: as the caller promised; loom checks it.
            self.0.with_mut(|value| access(unsafe { &mut *value }))
        }
    }

    loom::thread_local! {
        static TOKEN: Cell<u64> = Cell::new(HOMELESS);
    }

    pub fn token() -> u64 {
        TOKEN.with(Cell::get)
    }

    /// Plain numbers: loom's threads run one at a time on one thread of the machine.
    pub fn make_token() -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        TOKEN.with(|token| {
            if token.get() == HOMELESS {
                // ORDERING: Relaxed. The numbers need only differ.
                token.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            }
            token.get()
        })
    }
}

pub(in crate::mem) use imp::*;
