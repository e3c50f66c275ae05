//! The device's side of a split virtqueue: chains of a hostile driver, walked within bounds.
//!
//! Every descriptor is read once into private memory and its address and length translated together. A driver
//! that breaks the rules gets a named fault, and the queue stands still until the driver sets it up anew.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;
use vmm_sys_util::eventfd::EventFd;

use super::Areas;
use crate::mem::{Iova, prefetch, prefetch_for_write};
use crate::port::{MAX_BURST, QueueFault};
use crate::virtio::attach::{GuestMemory, Position, Ring};
use crate::virtio::spec::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_F_NO_NOTIFY, UsedElement,
};

/// One buffer of a chain in our address space, valid as long as the queue's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub ptr: *mut u8,
    pub len: u32,
}

/// A chain by its head, and its buffer if there is but one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub head: u16,
    /// `None` for several buffers, and for a lie, which [`DeviceQueue::walk`] names.
    pub single: Option<Buffer>,
}

/// One split virtqueue, device side. Every call is bounded by the queue's size and never blocks.
pub(crate) struct DeviceQueue {
    areas: Areas,
    memory: Arc<GuestMemory>,
    call: Option<Arc<EventFd>>,
    err: Option<Arc<EventFd>>,
    next_available: u16,
    /// From `next_available` to our next index in the used ring: chains are given back in the order in which they are
    /// taken, so it stays, and one index to advance a chain is faster than two.
    used_offset: u16,
    /// `next_available` when the driver was last shown what was given back.
    published: u16,
    fault: Option<QueueFault>,
}

impl DeviceQueue {
    /// Serves `ring` from where it says. Sets `NO_NOTIFY`: we poll.
    pub(crate) fn new(ring: &Ring) -> Self {
        // SAFETY: `Ring::new` checked sizes and alignment; the areas stay mapped as long as `memory`, which is kept
        // below; a driver's memory is never borrowed.
        let areas = unsafe { Areas::new(ring.descriptors, ring.available, ring.used, ring.size) };
        areas.set_used_flags(USED_F_NO_NOTIFY);
        let Position { next_available, next_used } = ring.start;
        Self {
            areas,
            memory: Arc::clone(&ring.memory),
            call: ring.call.clone(),
            err: ring.err.clone(),
            next_available,
            used_offset: next_used.wrapping_sub(next_available),
            published: next_available,
            fault: None,
        }
    }

    /// How far we have come.
    pub(crate) fn position(&self) -> Position {
        Position { next_available: self.next_available, next_used: self.next_used() }
    }

    #[inline]
    fn next_used(&self) -> u16 {
        self.next_available.wrapping_add(self.used_offset)
    }

    pub(crate) fn size(&self) -> u16 {
        self.areas.size()
    }

    pub(crate) fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    #[cold]
    pub(crate) fn set_fault(&mut self, fault: QueueFault) -> QueueFault {
        if self.fault.is_none() {
            self.fault = Some(fault);
            if let Some(err) = &self.err {
                // A counter that is full has been signalled already.
                let _ = err.write(1);
            }
        }
        fault
    }

    /// How many chains the driver has made available and we have not taken.
    ///
    /// # Errors
    /// [`QueueFault::AvailIndexJump`] when that is more than the queue is long. The queue stops.
    #[inline]
    pub(crate) fn ready(&mut self) -> Result<u16, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let moved = self.areas.available_index().wrapping_sub(self.next_available);
        let size = self.areas.size();
        if moved > size {
            return Err(self.set_fault(QueueFault::AvailIndexJump { moved, size }));
        }
        Ok(moved)
    }

    /// The next `count` chains, at most a burst of them and below [`ready`](Self::ready) only, their buffers on the way
    /// to the cache: to be written if `writable`, else to be read. The first access to a buffer is a miss on the
    /// driver's core's cache; asked for together, the misses of a burst overlap.
    #[inline]
    pub(crate) fn fetch(&self, count: usize, writable: bool) -> ArrayVec<Chain, MAX_BURST> {
        let mut chains = ArrayVec::new();
        for ahead in (0..).take(count.min(MAX_BURST)) {
            let chain = self.chain(ahead, writable);
            if let Some(Buffer { ptr, .. }) = chain.single {
                let fetch = if writable { prefetch_for_write } else { prefetch };
                fetch(ptr);
                fetch(ptr.wrapping_add(64));
            }
            chains.push(chain);
        }
        chains
    }

    /// The chain `ahead` of the next one, below [`ready`](Self::ready) only.
    #[inline]
    pub(crate) fn chain(&self, ahead: u16, writable: bool) -> Chain {
        let head = self.areas.read_available(self.next_available.wrapping_add(ahead));
        Chain { head, single: self.single(head, writable) }
    }

    #[inline]
    fn single(&self, head: u16, writable: bool) -> Option<Buffer> {
        if head >= self.areas.size() {
            return None;
        }
        let Descriptor { address, len, flags, .. } = self.areas.read_descriptor(head);
        if flags != direction(writable) {
            return None;
        }
        Some(Buffer { ptr: self.memory.translate(Iova(address), len as usize)?, len })
    }

    /// The buffers of the chain that starts at `head`, in order, all of the direction `writable` (else readable).
    #[inline]
    pub(crate) fn walk(&mut self, head: u16, writable: bool) -> Walk<'_> {
        let left = self.areas.size();
        Walk { queue: self, next: Some(head), left, direction: direction(writable) }
    }

    #[inline]
    fn descriptor(&mut self, id: u16) -> Result<Descriptor, QueueFault> {
        let size = self.areas.size();
        if id >= size {
            return Err(self.set_fault(QueueFault::DescriptorOutOfRange { id, size }));
        }
        Ok(self.areas.read_descriptor(id))
    }

    /// Gives the next chain, which starts at `head`, back with `len` bytes written. Seen by the driver at the next
    /// [`publish`](Self::publish).
    #[inline]
    pub(crate) fn give_back(&mut self, head: u16, len: u32) {
        self.areas.write_used(self.next_used(), UsedElement { id: u32::from(head), len });
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Shows the driver what was given back since the last call, and interrupts it if it asks for that. Returns
    /// whether it did. One fence and at most one notification.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.published == self.next_available {
            return false;
        }
        self.published = self.next_available;
        self.areas.publish_used(self.next_used());
        let Some(call) = &self.call else { return false };
        // ORDERING: SeqCst. The index is visible before the flag is read, or the driver might go to sleep on the old
        //           index while we believe the old flag. Partner: the driver's full barrier between clearing the
        //           flag and reading used.idx. virtio 1.2 §2.7.7.2.
        fence(Ordering::SeqCst);
        let wanted = self.areas.available_flags() & AVAIL_F_NO_INTERRUPT == 0;
        if wanted {
            // A counter that is full has been signalled already.
            let _ = call.write(1);
        }
        wanted
    }
}

/// The only flag that a descriptor of this direction has, beside `NEXT`.
#[inline]
const fn direction(writable: bool) -> u16 {
    if writable { DESC_F_WRITE } else { 0 }
}

/// The buffers of one chain. Each descriptor is read once.
pub(crate) struct Walk<'a> {
    queue: &'a mut DeviceQueue,
    next: Option<u16>,
    left: u16,
    direction: u16,
}

impl Walk<'_> {
    /// The next buffer, `None` at the end of the chain.
    ///
    /// # Errors
    /// [`QueueFault`] when the driver broke the rules. The queue stops.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Buffer>, QueueFault> {
        let Some(id) = self.next.take() else { return Ok(None) };
        let Descriptor { address, len, flags, next } = self.queue.descriptor(id)?;
        if flags & !DESC_F_NEXT != self.direction {
            return Err(self.queue.set_fault(QueueFault::BadDescriptorFlags { flags }));
        }
        let Some(ptr) = self.queue.memory.translate(Iova(address), len as usize) else {
            return Err(self.queue.set_fault(QueueFault::AddressNotShared { address, len }));
        };
        if flags & DESC_F_NEXT != 0 {
            self.left -= 1;
            if self.left == 0 {
                let size = self.queue.areas.size();
                return Err(self.queue.set_fault(QueueFault::ChainTooLong { size }));
            }
            self.next = Some(next);
        }
        Ok(Some(Buffer { ptr, len }))
    }
}
