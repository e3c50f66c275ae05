//! The device's side of a split virtqueue: chains of a hostile driver, walked within bounds.
//!
//! Every descriptor is read once into private memory and its address and length translated together. A driver
//! that breaks the rules gets a named fault, and the queue stands still until the driver sets it up anew.

use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;

use super::{Areas, event_is_due};
use crate::mem::Iova;
use crate::port::{MAX_BURST, QueueFault};
use crate::virtio::attach::{Position, Ring};
use crate::virtio::ring::{Buffer, Chain, DeviceRing, Peer};
use crate::virtio::spec::feature;
use crate::virtio::spec::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_F_NO_NOTIFY,
    UsedElement,
};

/// One split virtqueue, device side. With `IN_ORDER` a batch of chains that were only read is given back by one element
/// (virtio 1.2 §2.7.9).
pub(crate) struct SplitDevice<const IN_ORDER: bool> {
    areas: Areas,
    peer: Peer,
    next_available: u16,
    /// The available index as it was when we last looked: never further from `next_available` than the queue is long.
    seen_available: u16,
    /// From `next_available` to our next index in the used ring: chains are given back in the order in which they are
    /// taken, so it stays, and one index to advance a chain is faster than two.
    used_offset: u16,
    /// `next_available` when the driver was last shown what was given back.
    published: u16,
    /// The last chain of a batch that is given back by one element.
    batch: Option<u16>,
    event_idx: bool,
    indirect: bool,
}

impl<const IN_ORDER: bool> SplitDevice<IN_ORDER> {
    #[inline]
    fn next_used(&self) -> u16 {
        self.next_available.wrapping_add(self.used_offset)
    }

    #[inline]
    fn look(&mut self) -> Result<u16, QueueFault> {
        self.peer.check()?;
        self.seen_available = self.areas.available_index();
        let moved = self.seen_available.wrapping_sub(self.next_available);
        let size = self.areas.size();
        if moved > size {
            self.seen_available = self.next_available;
            return Err(self.peer.fails(QueueFault::AvailIndexJump { moved, size }));
        }
        Ok(moved)
    }

    #[inline]
    fn chain_at(&self, ahead: u16, writable: bool) -> Chain {
        let head = self.areas.read_available(self.next_available.wrapping_add(ahead));
        Chain::new(head, 1, self.single(head, writable))
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
        Some(Buffer { ptr: self.peer.memory.translate(Iova(address), len as usize)?, len })
    }

    /// Follows the chain from `head` on; a table of descriptors may end it.
    fn follow(&mut self, head: u16, direction: u16) -> Result<(), QueueFault> {
        let size = self.areas.size();
        let mut next = head;
        loop {
            if next >= size {
                return Err(self.peer.fails(QueueFault::DescriptorOutOfRange { id: next, size }));
            }
            let descriptor = self.areas.read_descriptor(next);
            if descriptor.flags & DESC_F_INDIRECT != 0 && self.indirect {
                return self.follow_table(descriptor, direction);
            }
            if !self.take(descriptor, direction, size)? {
                return Ok(());
            }
            next = descriptor.next;
        }
    }

    /// The buffers of a table elsewhere in the driver's memory (virtio 1.2 §2.7.5.3).
    fn follow_table(&mut self, table: Descriptor, direction: u16) -> Result<(), QueueFault> {
        let Descriptor { address, len, flags, .. } = table;
        if flags & DESC_F_NEXT != 0 {
            return Err(self.peer.fails(QueueFault::IndirectChained { flags }));
        }
        let entries = self.peer.table(address, len, self.areas.size())?;
        let mut next = 0;
        loop {
            if next >= entries.count() {
                let size = entries.count();
                return Err(self.peer.fails(QueueFault::DescriptorOutOfRange { id: next, size }));
            }
            let descriptor = entries.read_split(next);
            if descriptor.flags & DESC_F_INDIRECT != 0 {
                return Err(self.peer.fails(QueueFault::IndirectNested { flags: descriptor.flags }));
            }
            if !self.take(descriptor, direction, self.areas.size())? {
                return Ok(());
            }
            next = descriptor.next;
        }
    }

    /// Takes one buffer of a chain of at most `most`. Returns whether the chain goes on.
    fn take(&mut self, descriptor: Descriptor, direction: u16, most: u16) -> Result<bool, QueueFault> {
        let Descriptor { address, len, flags, .. } = descriptor;
        if flags & !DESC_F_NEXT != direction {
            return Err(self.peer.fails(QueueFault::BadDescriptorFlags { flags }));
        }
        self.peer.take(address, len)?;
        let more = flags & DESC_F_NEXT != 0;
        if more && self.peer.pieces.len() >= usize::from(most) {
            return Err(self.peer.fails(QueueFault::ChainTooLong { size: most }));
        }
        Ok(more)
    }
}

impl<const IN_ORDER: bool> DeviceRing for SplitDevice<IN_ORDER> {
    fn new(ring: &Ring) -> Self {
        // SAFETY: `Ring::new` checked sizes and alignment; the areas stay mapped as long as the memory, which `peer`
        // keeps; a driver's memory is never borrowed.
        let areas = unsafe { Areas::new(ring.descriptors, ring.available, ring.used, ring.size) };
        let Position { next_available, next_used } = ring.start;
        let mut queue = Self {
            areas,
            peer: Peer::new(ring),
            next_available,
            seen_available: next_available,
            used_offset: next_used.wrapping_sub(next_available),
            published: next_available,
            batch: None,
            event_idx: ring.features & feature::EVENT_IDX != 0,
            indirect: ring.features & feature::INDIRECT_DESC != 0,
        };
        queue.disarm();
        queue
    }

    #[inline]
    fn size(&self) -> u16 {
        self.areas.size()
    }

    fn position(&self) -> Position {
        Position { next_available: self.next_available, next_used: self.next_used() }
    }

    fn fault(&self) -> Option<QueueFault> {
        self.peer.check().err()
    }

    #[inline]
    fn ready(&mut self, _most: usize) -> Result<u16, QueueFault> {
        self.look()
    }

    #[inline]
    fn fetch(&mut self, count: usize, writable: bool) -> Result<ArrayVec<Chain, MAX_BURST>, QueueFault> {
        let ready = usize::from(self.look()?);
        let count = count.min(ready).min(MAX_BURST);
        let mut chains = ArrayVec::new();
        self.areas.prefetch_used(self.next_used(), count);
        for ahead in (0..).take(count) {
            let chain = self.chain_at(ahead, writable);
            chain.prefetch(writable);
            chains.push(chain);
        }
        Ok(chains)
    }

    fn chain(&mut self, ahead: u16, writable: bool) -> Option<Chain> {
        let seen = self.seen_available.wrapping_sub(self.next_available);
        (ahead < seen).then(|| self.chain_at(ahead, writable))
    }

    fn walk(&mut self, chain: Chain, _ahead: u16, writable: bool) -> Result<&[Buffer], QueueFault> {
        self.peer.pieces.clear();
        self.follow(chain.id, direction(writable))?;
        Ok(&self.peer.pieces)
    }

    #[inline]
    fn give_back(&mut self, chain: Chain, len: u32) {
        self.areas.write_used(self.next_used(), UsedElement { id: u32::from(chain.id), len });
        self.next_available = self.next_available.wrapping_add(1);
    }

    #[inline]
    fn give_back_read(&mut self, chain: Chain) {
        if IN_ORDER {
            self.batch = Some(chain.id);
            self.next_available = self.next_available.wrapping_add(1);
        } else {
            self.give_back(chain, 0);
        }
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if self.published == self.next_available {
            return false;
        }
        let before = self.published.wrapping_add(self.used_offset);
        if IN_ORDER && let Some(last) = self.batch.take() {
            self.areas.write_used(before, UsedElement { id: u32::from(last), len: 0 });
        }
        self.published = self.next_available;
        let now = self.next_used();
        self.areas.publish_used(now);
        let Some(call) = &self.peer.call else { return false };
        // ORDERING: SeqCst. The index is visible before the flag is read, or the driver might go to sleep on the old
        //           index while we believe the old flag. Partner: the driver's full barrier between clearing the
        //           flag and reading used.idx. virtio 1.2 §2.7.7.2.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            event_is_due(self.areas.used_event(), now, before)
        } else {
            self.areas.available_flags() & AVAIL_F_NO_INTERRUPT == 0
        };
        if wanted {
            // A counter that is full has been signalled already.
            let _ = call.write(1);
        }
        wanted
    }

    fn arm(&mut self) -> bool {
        if self.event_idx {
            self.areas.set_avail_event(self.next_available);
        } else {
            self.areas.set_used_flags(0);
        }
        // ORDERING: SeqCst. What we ask for is visible before the index is read again, or the driver might add a chain
        //           and see that nobody asks. Partner: the driver's full barrier between its index and our flag.
        //           virtio 1.2 §2.7.10.2.
        fence(Ordering::SeqCst);
        let idle = self.areas.available_index() == self.next_available;
        if !idle {
            self.disarm();
        }
        idle
    }

    fn disarm(&mut self) {
        if self.event_idx {
            // An event that has passed is asked for again in 65,536 chains only.
            self.areas.set_avail_event(self.next_available.wrapping_sub(1));
            self.areas.set_used_flags(0);
        } else {
            self.areas.set_used_flags(USED_F_NO_NOTIFY);
        }
    }
}

/// The only flag that a descriptor of this direction has, beside `NEXT`.
#[inline]
const fn direction(writable: bool) -> u16 {
    if writable { DESC_F_WRITE } else { 0 }
}
