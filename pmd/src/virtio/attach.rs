//! Device side: how a driver's virtqueues come to the core that polls them, and leave it again.
//!
//! A driver in another process (vhost-user) or in another port of this one (`loop:`) sets its queues up,
//! tears them down and takes its memory away whenever it likes, on a control thread of ours; meanwhile a
//! core polls them and must not pay for that. Each virtqueue has one hand-over point between the two:
//!
//! | | control thread: [`Publisher`] | polling core: [`Follower`] |
//! |---|---|---|
//! | queue starts | [`publish`](Publisher::publish) a [`Ring`] | sees [`changed`](Follower::changed), [`switch`](Follower::switch)es to it |
//! | queue stops | [`withdraw`](Publisher::withdraw), waits at most so long | sees `changed`, `switch` says where it stopped |
//! | either side goes | drop: the queue stops | drop: the ring is let go |
//!
//! * The core pays one plain load per burst while nothing changes, and takes a mutex only on change.
//! * A [`Ring`] holds its [`GuestMemory`], and that holds every mapping, so a core that is late reads and
//!   writes memory that is still mapped. Waiting makes the *answer* right (where did processing stop, may the
//!   driver reuse its buffers); memory safety never rests on it.
//! * `changed` may be seen late, never wrongly: what to do is always decided under the mutex.
//! * A core that sleeps has [`wakes_on`](Follower::wakes_on) among what it sleeps on: each change makes it readable, the
//!   core's `switch` drains it, both under the mutex.
//!
//! ```text
//!          publish                 switch
//!  empty ───────────► published ───────────► held ──┐
//!    ▲                    │ withdraw: Untouched     │ withdraw, publish: `changed`
//!    ├────────────────────┘                         ▼
//!    └───────────────────────────────────── switch(position): Released
//! ```

mod guest_memory;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::spec::packed::{EVENT_BYTES, EVENT_WRAP};
use super::transport::{Interrupt, RingLayout};
use crate::mem::Iova;
pub use guest_memory::{GuestMemory, GuestMemoryError, GuestRegion, MAX_REGIONS};

/// The largest virtqueue. virtio 1.2 §2.7, §2.8.10.1.
pub const MAX_RING_SIZE: u16 = 32_768;

/// Why a driver's virtqueue cannot be served.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RingError {
    /// Not a size of virtqueue.
    #[error(
        "virtqueue {queue}: size {size} is not {} up to {MAX_RING_SIZE}",
        if *packed { "a number from 1" } else { "a power of two" }
    )]
    Size {
        /// The virtqueue.
        queue: u16,
        /// Its size.
        size: u16,
        /// Whether it is packed.
        packed: bool,
    },
    /// A part of it does not lie in the memory the driver shares.
    #[error(
        "virtqueue {queue}: its {part} of {len_bytes} bytes at {at:#x} does not lie in the memory that the driver shares"
    )]
    Outside {
        /// The virtqueue.
        queue: u16,
        /// Which of its three parts.
        part: &'static str,
        /// Where the part should be.
        at: u64,
        /// How long it would be.
        len_bytes: usize,
    },
    /// A part of it is not aligned as virtio 1.2 §2.7 and §2.8.10.1 demand.
    #[error("virtqueue {queue}: its {part} at {at:#x} is not aligned to {align_bytes} bytes")]
    Misaligned {
        /// The virtqueue.
        queue: u16,
        /// Which of its three parts.
        part: &'static str,
        /// Where the part is.
        at: u64,
        /// The alignment it should have.
        align_bytes: usize,
    },
}

/// How far the device side has come in a virtqueue. In a split one both count modulo 2^16; in a packed one both are
/// places in the ring, with the wrap counter there in bit 15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Index of the next entry of the available ring to take, or place of the next available descriptor.
    pub next_available: u16,
    /// Value of `used.idx` after all that was given back, or place of the next used descriptor.
    pub next_used: u16,
}

impl Position {
    /// Where a virtqueue begins: the wrap counters of a packed one are 1. virtio 1.2 §2.8.1.
    #[must_use]
    pub fn first(packed: bool) -> Self {
        let start = if packed { EVENT_WRAP } else { 0 };
        Self { next_available: start, next_used: start }
    }

    /// Where the "vring base" of vhost-user says that a packed virtqueue of `size` is to be taken up: the place of the
    /// next available descriptor, above it that of the next used one. Frontends that leave the upper half 0 mean that
    /// nothing is under way: that used is where available is. `None` for places beyond the ring.
    #[must_use]
    pub fn of_packed_base(base: u32, size: u16) -> Option<Self> {
        #[allow(clippy::cast_possible_truncation)] // its halves
        let (next_available, upper) = (base as u16, (base >> 16) as u16);
        let next_used = if upper == 0 { next_available } else { upper };
        let within = |place: u16| place & !EVENT_WRAP < size;
        (within(next_available) && within(next_used)).then_some(Self { next_available, next_used })
    }

    /// The "vring base" of vhost-user: [`of_packed_base`](Self::of_packed_base), or the available index alone.
    #[must_use]
    pub fn base(self, packed: bool) -> u32 {
        let upper = if packed { u32::from(self.next_used) << 16 } else { 0 };
        u32::from(self.next_available) | upper
    }
}

/// A driver's virtqueue as the device side gets it: where it lies in our address space, what was negotiated,
/// and whom to signal.
///
/// The three pointers are aligned, cover the whole part (16 × size, 6 + 2 × size, 6 + 8 × size bytes,
/// virtio 1.2 §2.7.5, §2.7.6, §2.7.8; of a packed one 16 × size, 4, 4 bytes, §2.8.10.1) and stay mapped as long as
/// `memory` lives. The driver writes there at any time: raw volatile or atomic access only, every value read once and
/// checked.
#[derive(Debug)]
pub struct Ring {
    /// Number of the virtqueue within its device.
    pub queue: u16,
    /// Number of descriptors, a power of two unless it is packed.
    pub size: u16,
    /// Whether it is packed, and the three parts of the sizes of one.
    pub packed: bool,
    /// Descriptor table, or packed descriptor ring.
    pub descriptors: *mut u8,
    /// Available ring, or driver event suppression: the driver's.
    pub available: *mut u8,
    /// Used ring, or device event suppression: ours.
    pub used: *mut u8,
    /// The feature bits the driver accepted.
    pub features: u64,
    /// Where to go on from.
    pub start: Position,
    /// The memory that the descriptors' addresses are in.
    pub memory: Arc<GuestMemory>,
    /// Readable when the driver has notified us; `None` means that it expects us to poll.
    pub kick: Option<Arc<EventFd>>,
    /// Written to interrupt the driver; `None` means that it polls.
    pub call: Option<Arc<EventFd>>,
    /// Written once when the virtqueue turns out to be broken.
    pub err: Option<Arc<EventFd>>,
}

// SAFETY: the pointers are addresses into `memory`, which is Send + Sync and kept alive by this very struct; the
// module never dereferences them.
unsafe impl Send for Ring {}
// SAFETY: as above; whoever dereferences them answers for it there.
unsafe impl Sync for Ring {}

impl Ring {
    /// Finds the virtqueue that `layout` describes, in the addresses of `memory`. It starts where virtqueues begin;
    /// features and event fds are the caller's to fill in: 0 and none.
    pub fn new(queue: u16, layout: &RingLayout, memory: Arc<GuestMemory>) -> Result<Self, RingError> {
        let RingLayout { size, packed, .. } = *layout;
        if size == 0 || size > MAX_RING_SIZE || !(packed || size.is_power_of_two()) {
            return Err(RingError::Size { queue, size, packed });
        }
        let part = |part, at: Iova, len_bytes: usize, align_bytes: usize| {
            let ptr = memory.translate(at, len_bytes).ok_or(RingError::Outside {
                queue,
                part,
                at: at.0,
                len_bytes,
            })?;
            // Ours must be aligned as well as theirs: a mapping can differ in its lower bits.
            if !ptr.addr().is_multiple_of(align_bytes) || !at.0.is_multiple_of(align_bytes as u64) {
                return Err(RingError::Misaligned { queue, part, at: at.0, align_bytes });
            }
            Ok(ptr)
        };
        let entries = usize::from(size);
        let (descriptors, available, used) = if packed {
            (
                part("descriptor ring", layout.descriptors, 16 * entries, 16)?,
                part("driver event area", layout.available, EVENT_BYTES, 4)?,
                part("device event area", layout.used, EVENT_BYTES, 4)?,
            )
        } else {
            // The two bytes beyond the entries (used_event, avail_event) are there in every layout; virtio 1.2 §2.7.
            (
                part("descriptor table", layout.descriptors, 16 * entries, 16)?,
                part("available ring", layout.available, 6 + 2 * entries, 2)?,
                part("used ring", layout.used, 6 + 8 * entries, 4)?,
            )
        };
        Ok(Self {
            queue,
            size,
            packed,
            descriptors,
            available,
            used,
            features: 0,
            start: Position::first(packed),
            memory,
            kick: None,
            call: None,
            err: None,
        })
    }

    /// What becomes readable when the driver notifies us, if it does.
    #[must_use]
    pub fn kick_fd(&self) -> Option<BorrowedFd<'_>> {
        let kick = self.kick.as_ref()?;
        // SAFETY: open as long as the eventfd, which the ring keeps.
        Some(unsafe { BorrowedFd::borrow_raw(kick.as_raw_fd()) })
    }

    /// Forgets the notifications that came. One system call, which never blocks: the driver shares the eventfd and may
    /// have made it blocking, or have read it itself.
    pub fn drain_kick(&self) {
        let Some(kick) = &self.kick else { return };
        let mut count = 0_u64;
        let into = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: size_of::<u64>() };
        // SAFETY: one element that describes the 8 bytes of `count`; -1: an eventfd has no offset. Nothing to read is
        // as good as something.
        let _ = unsafe { libc::preadv2(kick.as_raw_fd(), &raw const into, 1, -1, libc::RWF_NOWAIT) };
    }

    /// `used.idx` as it stands in a split ring: where to go on when nobody knows better. Whoever shares the memory may
    /// have written anything there. 0 of a packed ring, which has none. virtio 1.2 §2.7.8.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        if self.packed {
            return 0;
        }
        // SAFETY: within the used ring, mapped as long as `self.memory`, aligned to 4 as `new` checked; volatile, as
        // others write there.
        u16::from_le(unsafe { self.used.add(2).cast::<u16>().read_volatile() })
    }
}

/// What became of a virtqueue that was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// None was published.
    Empty,
    /// The polling core had not looked at it yet; it would have started here.
    Untouched(Position),
    /// The polling core let it go and will not touch it again; it came this far.
    Released(Position),
    /// The polling core has not answered in time. Its memory stays mapped until it does, but it may still read
    /// and write there: the driver must not be told that it has its buffers back.
    StillHeld,
}

#[derive(Debug, Default)]
struct State {
    /// What the polling core should be using, and the generation it came with.
    published: Option<(u64, Arc<Ring>)>,
    /// The generation of the ring it holds.
    held: Option<u64>,
    /// Where it stopped in the one it held last.
    left_at: Position,
    /// The control thread was told `StillHeld` and does not know yet what became of that ring.
    answer_due: bool,
}

#[derive(Debug)]
struct Shared {
    /// Signalled with each change; `None` where the system had no eventfd to give.
    wake: Option<Interrupt>,
    /// Counts the changes of `State::published`; written under the mutex.
    generation: AtomicU64,
    state: Mutex<State>,
    let_go: Condvar,
}

impl Shared {
    // Nothing that is done under this lock can panic half way, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, state: &mut State, ring: Option<Arc<Ring>>) -> Option<(u64, Arc<Ring>)> {
        // ORDERING: Relaxed. Only the hint that there is something to fetch: `Follower::switch` fetches it under the
        //           mutex, which is held here. Partner: `Follower::changed`.
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.wake.iter().for_each(Interrupt::signal);
        std::mem::replace(&mut state.published, ring.map(|ring| (generation, ring)))
    }
}

/// Makes the hand-over point of one virtqueue, with none published.
#[must_use]
pub fn hand_over() -> (Publisher, Follower) {
    let shared = Arc::new(Shared {
        wake: Interrupt::new().ok(),
        generation: AtomicU64::default(),
        state: Mutex::default(),
        let_go: Condvar::default(),
    });
    let follower = Follower { seen: 0, ring: None, shared: Arc::clone(&shared) };
    (Publisher { shared }, follower)
}

/// The control thread's end of a virtqueue's hand-over point. Cold: every call takes a mutex.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    /// Gives the polling core this virtqueue, in place of the one it may have.
    ///
    /// To let a virtqueue go on where it was, withdraw it first and start at the position that came back.
    pub fn publish(&self, ring: Ring) {
        let mut state = self.shared.lock();
        state.answer_due = false;
        let old = self.shared.replace(&mut state, Some(Arc::new(ring)));
        drop(state);
        // Perhaps the last owner of a mapping: unmapped with the lock released.
        drop(old);
    }

    /// Takes the virtqueue back and waits, at most for `timeout`, until the polling core has let it go.
    ///
    /// After [`Withdrawal::StillHeld`] it may be called again to go on waiting.
    pub fn withdraw(&self, timeout: Duration) -> Withdrawal {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        let published = self.shared.replace(&mut state, None);
        let held = state.held;
        while state.held.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.answer_due = true;
                return Withdrawal::StillHeld;
            }
            state = self.shared.let_go.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let answer_due = std::mem::take(&mut state.answer_due);
        match published {
            // Published over one that was held, and the core has not come by in between.
            Some((generation, ring)) if held != Some(generation) => Withdrawal::Untouched(ring.start),
            None if held.is_none() && !answer_due => Withdrawal::Empty,
            _ => Withdrawal::Released(state.left_at),
        }
    }

    /// Whether the polling core uses the virtqueue that was published last.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        let state = self.shared.lock();
        match &state.published {
            Some((generation, _)) => state.held == Some(*generation),
            None => false,
        }
    }
}

impl Drop for Publisher {
    /// Takes the virtqueue back without waiting.
    fn drop(&mut self) {
        self.withdraw(Duration::ZERO);
    }
}

/// The polling core's end of a virtqueue's hand-over point.
#[derive(Debug)]
pub struct Follower {
    seen: u64,
    ring: Option<Arc<Ring>>,
    shared: Arc<Shared>,
}

impl Follower {
    /// Whether to call [`switch`](Self::switch) before touching the virtqueue again: to be asked once per burst.
    /// One load; no lock, no syscall.
    #[inline]
    #[must_use]
    pub fn changed(&self) -> bool {
        // ORDERING: Relaxed. Nothing is read on the strength of it but what `switch` reads under the mutex; seen one
        //           burst late, the old ring is still mapped. Partner: `Shared::replace`.
        self.shared.generation.load(Ordering::Relaxed) != self.seen
    }

    /// Lets go of the virtqueue held, in which the core came as far as `left_at` (not looked at if none is held),
    /// and returns the one to serve from now on.
    ///
    /// Pointers taken out of the old [`Ring`] must not be used again. Cold: takes a mutex, and may be what unmaps
    /// the memory of a driver that has gone.
    pub fn switch(&mut self, left_at: Position) -> Option<&Ring> {
        // Gone before the control thread hears of it, so that what it frees next is really free.
        let held = self.ring.take().is_some();
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        if held {
            state.held = None;
            state.left_at = left_at;
            self.shared.let_go.notify_all();
        }
        // ORDERING: Relaxed: changes only under the mutex, which is held here.
        self.seen = self.shared.generation.load(Ordering::Relaxed);
        self.shared.wake.iter().for_each(Interrupt::drain);
        if let Some((generation, ring)) = &state.published {
            state.held = Some(*generation);
            self.ring = Some(Arc::clone(ring));
        }
        drop(guard);
        self.ring.as_deref()
    }

    /// Readable while [`changed`](Self::changed) is, or will be in a moment: what a core sleeps on. `None`: it has to
    /// ask instead.
    #[must_use]
    pub fn wakes_on(&self) -> Option<&Interrupt> {
        self.shared.wake.as_ref()
    }

    /// The virtqueue held.
    #[inline]
    #[must_use]
    pub fn ring(&self) -> Option<&Ring> {
        self.ring.as_deref()
    }

    /// Lets go of the virtqueue held and takes no other, until the next change: a core says so before it stops
    /// polling, and after it found the virtqueue broken.
    pub fn leave(&mut self, left_at: Position) {
        if self.ring.take().is_some() {
            let mut state = self.shared.lock();
            state.held = None;
            state.left_at = left_at;
            self.shared.let_go.notify_all();
        }
    }
}

impl Drop for Follower {
    /// Lets go of the virtqueue; where it stopped is then as unknown as if it had not begun (say
    /// [`leave`](Self::leave) first if it matters).
    fn drop(&mut self) {
        let start = self.ring.as_deref().map(|ring| ring.start);
        if let Some(start) = start {
            self.leave(start);
        }
    }
}

#[cfg(test)]
mod tests;
