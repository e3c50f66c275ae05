//! What the device side asks of a virtqueue, whatever its layout: the data path is generic over it and compiled once
//! for each.
//!
//! Chains are taken and given back in the order in which they were made available, so a driver that negotiated
//! IN_ORDER gets it, and one that did not pays nothing.

use arrayvec::ArrayVec;

use crate::mem::{prefetch, prefetch_for_write};
use crate::port::{MAX_BURST, QueueFault};
use crate::virtio::attach::{Position, Ring};

/// One buffer of a chain in our address space, valid as long as the queue's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub ptr: *mut u8,
    pub len: u32,
}

// SAFETY: an address in the memory of a driver, which the queue keeps mapped; whoever writes there answers for it.
unsafe impl Send for Buffer {}

/// A chain of descriptors, and its buffer if there is but one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// Null for several buffers, and for a lie, which [`DeviceRing::walk`] names.
    ptr: *mut u8,
    len: u32,
    /// What the driver knows it by: its head (split) or its buffer id (packed).
    pub id: u16,
    /// How far the ring moves on with it: 1 (split) or its descriptors (packed; 0 if it does not end).
    pub slots: u16,
}

impl Chain {
    #[inline]
    pub(crate) fn new(id: u16, slots: u16, single: Option<Buffer>) -> Self {
        let Buffer { ptr, len } = single.unwrap_or(Buffer { ptr: std::ptr::null_mut(), len: 0 });
        Self { ptr, len, id, slots }
    }

    /// Its one buffer.
    #[inline]
    pub(crate) fn single(&self) -> Option<Buffer> {
        let Self { ptr, len, .. } = *self;
        (!ptr.is_null()).then_some(Buffer { ptr, len })
    }

    /// Asks for the first two lines of its one buffer: to be written if `writable`, else to be read.
    #[inline]
    pub(crate) fn prefetch(&self, writable: bool) {
        // A null pointer is not fetched, nor is it an error.
        let fetch = if writable { prefetch_for_write } else { prefetch };
        fetch(self.ptr);
        fetch(self.ptr.wrapping_add(64));
    }
}

/// One virtqueue, device side. Every call is bounded by the queue's size and never blocks. After a fault the queue
/// stands still until the driver sets it up anew.
pub(crate) trait DeviceRing: Sized {
    /// Serves `ring` from where it says, without asking for notifications: we poll.
    fn new(ring: &Ring) -> Self;

    /// How many descriptors it has.
    fn size(&self) -> u16;

    /// How far we have come.
    fn position(&self) -> Position;

    /// Why it stopped.
    fn fault(&self) -> Option<QueueFault>;

    /// How many chains the driver has made available and we have not taken: all of them, or at least `most`.
    ///
    /// # Errors
    /// [`QueueFault`] when the driver broke the rules. The queue stops.
    fn ready(&mut self, most: usize) -> Result<u16, QueueFault>;

    /// The next chains, at most `count` and at most a burst, their buffers on the way to the cache: to be written if
    /// `writable`, else to be read. The first access to a buffer is a miss on the driver's core's cache; asked for
    /// together, the misses of a burst overlap.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    fn fetch(&mut self, count: usize, writable: bool) -> Result<ArrayVec<Chain, MAX_BURST>, QueueFault>;

    /// The chain that starts `ahead` slots from the next one; `None` if there is none (yet).
    fn chain(&mut self, ahead: u16, writable: bool) -> Option<Chain>;

    /// The buffers of `chain`, which starts `ahead` slots from the next one, in order, all of the direction `writable`
    /// (else readable). Each descriptor is read once.
    ///
    /// # Errors
    /// [`QueueFault`] when the driver broke the rules. The queue stops.
    fn walk(&mut self, chain: Chain, ahead: u16, writable: bool) -> Result<&[Buffer], QueueFault>;

    /// Gives the next chain back with `len` bytes written. Seen by the driver at the next [`publish`](Self::publish).
    fn give_back(&mut self, chain: Chain, len: u32);

    /// The same of a chain that was only read. All chains between two calls of [`publish`](Self::publish) are given
    /// back by the one or the other.
    fn give_back_read(&mut self, chain: Chain);

    /// Shows the driver what was given back since the last call, and interrupts it if it asks for that. Returns
    /// whether it did. One fence and at most one notification.
    fn publish(&mut self) -> bool;

    /// Asks the driver for a notification of the next chain and looks again. `false`: there is one already, and none
    /// was asked for; do not sleep.
    fn arm(&mut self) -> bool;

    /// Asks for no more notifications: polling again.
    fn disarm(&mut self);
}
