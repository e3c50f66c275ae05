//! The driver's side of a split virtqueue: mbufs move in when they are posted, out when the device used them.
//!
//! Free descriptors form a FIFO, so a device that works in order keeps getting the same descriptor in the
//! same place, the entries of the available ring never change, and their cache lines are never taken from the
//! device again.
//!
//! With `IN_ORDER` the device promises that order: descriptors are taken round the table, the FIFO is two counters,
//! and a used element speaks for all chains up to the one it names.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::{Areas, event_is_due};
use crate::mem::{Mbuf, Region};
use crate::port::QueueFault;
use crate::virtio::ring::driver::pieces;
use crate::virtio::ring::{DriverRing, FETCH_AHEAD, Piece, QueueMemory, Tables};
use crate::virtio::spec::feature;
use crate::virtio::spec::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_F_NO_NOTIFY,
    UsedElement,
};
use crate::virtio::transport::Notifier;

/// One descriptor that names an indirect table.
const IN_TABLE: u16 = 0;

/// What a descriptor id stands for.
#[derive(Default)]
struct Slot {
    /// The mbuf whose chain starts here; while it is here, the device may use its bytes.
    mbuf: Option<Mbuf>,
    /// Descriptors of the chain that starts here, or [`IN_TABLE`].
    descriptors: u16,
    /// The chain's next descriptor.
    next: u16,
}

impl Slot {
    /// The slot of a free descriptor takes a chain of so many.
    #[inline]
    fn fill(&mut self, mbuf: Mbuf, descriptors: u16) {
        self.descriptors = descriptors;
        let before = self.mbuf.replace(mbuf);
        debug_assert!(before.is_none(), "a free descriptor has no mbuf");
        // It has none, and so there is nothing to drop and no code for it on this path.
        std::mem::forget(before);
    }
}

/// A private table of the queue's size, indexed modulo that size.
struct Masked<T> {
    items: Box<[T]>,
    mask: u16,
}

impl<T> Masked<T> {
    fn new(size: u16, item: impl FnMut(u16) -> T) -> Self {
        assert!(size.is_power_of_two(), "split queue of {size}");
        Self { items: (0..size).map(item).collect(), mask: size - 1 }
    }

    #[inline]
    fn at(&mut self, index: u16) -> &mut T {
        // SAFETY: there are `mask + 1` items.
        unsafe { self.items.get_unchecked_mut(usize::from(index & self.mask)) }
    }
}

/// No descriptor's id.
const NO_BATCH: u32 = u32::MAX;

/// One split virtqueue, driver side. Posting and completing are bounded by the queue's size and never block.
pub(crate) struct SplitDriver<const IN_ORDER: bool> {
    areas: Areas,
    notifier: Notifier,
    slots: Masked<Slot>,
    /// FIFO of free descriptors: `free[free_head..free_tail]`. With `IN_ORDER` each is its place in it.
    free: Masked<u16>,
    free_head: u16,
    free_tail: u16,
    /// What the entries of the available ring hold.
    entries: Masked<u16>,
    /// Our next index in the available ring, and what the device has been told of it.
    next_available: u16,
    published: u16,
    /// Our next index in the used ring.
    next_used: u16,
    /// The device's, when we last looked.
    used_seen: u16,
    /// With `IN_ORDER`, the last chain of the batch that is being taken back, and the bytes written to it.
    /// ([`NO_BATCH`] if there is none).
    batch: u32,
    batch_len: u32,
    event_idx: bool,
    tables: Option<Tables>,
    fault: Option<QueueFault>,
    region: Arc<Region>,
}

impl<const IN_ORDER: bool> SplitDriver<IN_ORDER> {
    /// As [`DriverRing::new`], with both indices at `start`, for a device that will be told the same.
    pub(crate) fn starting_at(memory: &QueueMemory, region: &Arc<Region>, features: u64, start: u16) -> Self {
        let QueueMemory { descriptors, driver_area, device_area, size, .. } = *memory;
        // SAFETY: carved from the region, which we keep alive, with these sizes and alignment; `carve` gives
        // each byte out once.
        let areas = unsafe { Areas::new(descriptors.ptr, driver_area.ptr, device_area.ptr, size) };
        for id in 0..size {
            areas.write_available(id, id);
        }
        areas.publish_available(start);
        let mut this = Self {
            slots: Masked::new(size, |_| Slot::default()),
            // The FIFO starts where the available ring does, so that entry and descriptor agree from the start.
            free: Masked::new(size, |id| id),
            free_head: start,
            free_tail: start.wrapping_add(size),
            entries: Masked::new(size, |id| id),
            next_available: start,
            published: start,
            next_used: start,
            used_seen: start,
            batch: NO_BATCH,
            batch_len: 0,
            tables: None,
            event_idx: features & feature::EVENT_IDX != 0,
            fault: None,
            notifier: Notifier::Polled,
            areas,
            region: Arc::clone(region),
        };
        this.disarm();
        this
    }

    #[inline]
    fn take_free(&mut self) -> u16 {
        let id = if IN_ORDER { self.free_head & self.free.mask } else { *self.free.at(self.free_head) };
        self.free_head = self.free_head.wrapping_add(1);
        id
    }

    #[inline]
    fn put_free(&mut self, id: u16) {
        if !IN_ORDER {
            *self.free.at(self.free_tail) = id;
        }
        self.free_tail = self.free_tail.wrapping_add(1);
    }

    #[inline]
    fn make_available(&mut self, head: u16) {
        let entry = self.entries.at(self.next_available);
        if *entry != head {
            *entry = head;
            self.areas.write_available(self.next_available, head);
        }
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// The bytes written to the chain `id`, which is next (`None` for all of it), when its element names another or a
    /// batch is under way. A fault when the batch that the device named reaches further than its index.
    fn next_of_batch(&mut self, id: u32, element: UsedElement) -> Result<Option<u32>, QueueFault> {
        if self.batch == NO_BATCH {
            (self.batch, self.batch_len) = (element.id, element.len);
        }
        if self.batch == id {
            self.batch = NO_BATCH;
            return Ok(Some(self.batch_len));
        }
        let (id, size) = (self.batch, self.size());
        if id >= u32::from(size) {
            return Err(self.set_fault(QueueFault::UsedIdOutOfRange { id, size }));
        }
        if self.used_seen.wrapping_sub(self.next_used) <= 1 {
            return Err(self.set_fault(QueueFault::UsedIdNotOutstanding { id }));
        }
        Ok(None)
    }

    /// Takes back used buffers as long as everything is plain: no chains, no batches, no lie. At most `most`, which are
    /// there; returns how many of them are left to be taken with more care, `None` when `each` has had enough.
    #[inline]
    fn take_plain<const FETCH: bool>(
        &mut self,
        most: usize,
        each: &mut impl FnMut(Mbuf, u32) -> bool,
    ) -> Option<usize> {
        if IN_ORDER {
            return Some(most);
        }
        let (mut used, mut tail, mut left, mut enough) = (self.next_used, self.free_tail, most, false);
        while left > 0 && !enough {
            let UsedElement { id, len } = self.areas.read_used(used);
            if FETCH {
                self.fetch_behind(used);
            }
            let Some(slot) = self.slots.items.get_mut(id as usize).filter(|slot| slot.descriptors == 1)
            else {
                break;
            };
            let Some(mbuf) = slot.mbuf.take() else { break };
            #[allow(clippy::cast_possible_truncation)] // below `size`, as the look-up above found
            let free = id as u16;
            *self.free.at(tail) = free;
            (used, tail, left) = (used.wrapping_add(1), tail.wrapping_add(1), left - 1);
            enough = !each(mbuf, len);
        }
        (self.next_used, self.free_tail) = (used, tail);
        (!enough).then_some(left)
    }

    /// As [`DriverRing::fetch`], where the next is that at `used`.
    #[inline]
    fn fetch_behind(&self, used: u16) {
        // What was made available there.
        let entry = usize::from(used.wrapping_add(FETCH_AHEAD) & self.entries.mask);
        let id = self.entries.items.get(entry).copied().unwrap_or(0);
        if let Some(Slot { mbuf: Some(mbuf), .. }) = self.slots.items.get(usize::from(id)) {
            mbuf.prefetch_data();
        }
    }

    #[cold]
    fn put_free_rest(&mut self, head: u16, mut next: u16, descriptors: u16) {
        if descriptors == IN_TABLE {
            let had = self.tables.as_mut().is_some_and(|tables| tables.take_back(head));
            debug_assert!(had, "it was put into one");
            return;
        }
        for _ in 1..descriptors {
            self.put_free(next);
            next = self.slots.at(next).next;
        }
    }
}

impl<const IN_ORDER: bool> DriverRing for SplitDriver<IN_ORDER> {
    fn new(memory: &QueueMemory, region: &Arc<Region>, features: u64) -> Self {
        Self::starting_at(memory, region, features, 0)
    }

    fn set_notifier(&mut self, notifier: Notifier) {
        self.notifier = notifier;
    }

    fn size(&self) -> u16 {
        self.areas.size()
    }

    #[inline]
    fn free(&self) -> u16 {
        self.free_tail.wrapping_sub(self.free_head)
    }

    #[inline]
    fn outstanding(&self) -> u16 {
        self.next_available.wrapping_sub(self.next_used)
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    #[cold]
    fn set_fault(&mut self, fault: QueueFault) -> QueueFault {
        *self.fault.get_or_insert(fault)
    }

    #[inline]
    fn post(&mut self, mbuf: Mbuf, piece: Piece, writable: bool) {
        let id = self.take_free();
        let flags = if writable { DESC_F_WRITE } else { 0 };
        // Where mbufs come round in order it is the same one as before, in the same place.
        let Piece { address, len } = piece;
        self.areas.update_descriptor(id, Descriptor { address, len, flags, next: 0 });
        self.slots.at(id).fill(mbuf, 1);
        self.make_available(id);
    }

    fn lend(&mut self, tables: Tables) {
        self.tables = Some(tables);
    }

    #[inline]
    fn needs(&self, descriptors: usize) -> usize {
        let indirect = self.tables.as_ref().is_some_and(|tables| tables.suit(descriptors));
        if indirect { 1 } else { descriptors }
    }

    fn post_chain(&mut self, mbuf: Mbuf, first: Piece) {
        let head = self.take_free();
        let descriptors = pieces(first, &mbuf).count();
        if let Some(tables) = self.tables.as_mut().filter(|tables| tables.suit(descriptors)) {
            let Piece { address, len } = tables.write(head, pieces(first, &mbuf));
            let descriptor = Descriptor { address, len, flags: DESC_F_INDIRECT, next: 0 };
            self.areas.write_descriptor(head, descriptor);
            self.slots.at(head).fill(mbuf, IN_TABLE);
            self.make_available(head);
            return;
        }
        let (mut id, mut piece, mut count) = (head, first, 1);
        for following in pieces(first, &mbuf).skip(1) {
            let next = self.take_free();
            let Piece { address, len } = piece;
            self.areas.write_descriptor(id, Descriptor { address, len, flags: DESC_F_NEXT, next });
            self.slots.at(id).next = next;
            (id, piece, count) = (next, following, count + 1);
        }
        let Piece { address, len } = piece;
        self.areas.write_descriptor(id, Descriptor { address, len, flags: 0, next: 0 });
        self.slots.at(head).fill(mbuf, count);
        self.make_available(head);
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if self.published == self.next_available {
            return false;
        }
        let old = std::mem::replace(&mut self.published, self.next_available);
        self.areas.publish_available(self.next_available);
        // ORDERING: SeqCst. The index is visible before the flag is read, or the device might go to sleep on the
        //           old index while we believe the old flag. Partner: the device's full barrier between
        //           clearing the flag and reading avail.idx. virtio 1.2 §2.7.13.4.1.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            event_is_due(self.areas.avail_event(), self.next_available, old)
        } else {
            self.areas.used_flags() & USED_F_NO_NOTIFY == 0
        };
        if wanted {
            self.notifier.notify();
        }
        wanted
    }

    #[inline]
    fn has_next(&mut self) -> bool {
        self.used_seen != self.next_used && self.fault.is_none() || self.ready(1).is_ok_and(|ready| ready > 0)
    }

    #[inline]
    fn ready(&mut self, _most: usize) -> Result<u16, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let used_index = self.areas.used_index();
        let moved = used_index.wrapping_sub(self.next_used);
        let outstanding = self.published.wrapping_sub(self.next_used);
        if moved > outstanding {
            return Err(self.set_fault(QueueFault::UsedIndexJump { moved, outstanding }));
        }
        self.used_seen = used_index;
        Ok(moved)
    }

    #[inline]
    fn peek(&self) -> Option<&Mbuf> {
        let id = if IN_ORDER {
            u32::from(self.free_tail & self.free.mask)
        } else {
            self.areas.read_used(self.next_used).id
        };
        self.slots.items.get(id as usize)?.mbuf.as_ref()
    }

    #[inline]
    fn complete(&mut self) -> Option<(Mbuf, u32)> {
        let element = self.areas.read_used(self.next_used);
        let (id, len) = if IN_ORDER {
            // The oldest descriptor that is not free.
            let id = u32::from(self.free_tail & self.free.mask);
            if self.batch == NO_BATCH && element.id == id {
                (id, Some(element.len))
            } else {
                (id, self.next_of_batch(id, element).ok()?)
            }
        } else {
            (element.id, Some(element.len))
        };
        let Some(slot) = self.slots.items.get_mut(id as usize) else {
            let size = self.size();
            self.set_fault(QueueFault::UsedIdOutOfRange { id, size });
            return None;
        };
        let Some(mbuf) = slot.mbuf.take() else {
            self.set_fault(QueueFault::UsedIdNotOutstanding { id });
            return None;
        };
        let (descriptors, next) = (slot.descriptors, slot.next);
        #[allow(clippy::cast_possible_truncation)] // below `size`, as the look-up above found
        self.put_free(id as u16);
        if descriptors != 1 {
            #[allow(clippy::cast_possible_truncation)] // as above
            self.put_free_rest(id as u16, next, descriptors);
        }
        self.next_used = self.next_used.wrapping_add(1);
        let len = len.unwrap_or_else(|| Piece::room_of(&mbuf).len);
        Some((mbuf, len))
    }

    #[inline]
    fn fetch(&self) {
        self.fetch_behind(self.next_used);
    }

    #[inline]
    fn take_each<const FETCH: bool>(&mut self, most: usize, mut each: impl FnMut(Mbuf, u32) -> bool) {
        let ready = self.ready(most).map_or(0, usize::from);
        let Some(rest) = self.take_plain::<FETCH>(ready.min(most), &mut each) else { return };
        for _ in 0..rest {
            if FETCH {
                self.fetch();
            }
            let Some((mbuf, len)) = self.complete() else { return };
            if !each(mbuf, len) {
                return;
            }
        }
    }

    #[inline]
    fn post_rooms(&mut self, mbufs: impl Iterator<Item = Mbuf>) -> u16 {
        let mut posted = 0;
        for mbuf in mbufs {
            let piece = Piece::room_of(&mbuf);
            self.post(mbuf, piece, true);
            posted += 1;
        }
        posted
    }

    fn arm(&mut self) -> bool {
        if self.event_idx {
            self.areas.set_used_event(self.next_used);
        } else {
            self.areas.set_available_flags(0);
        }
        // ORDERING: SeqCst. The wish is visible before the index is read, or the device might use a buffer and stay
        //           silent while we go to sleep. Partner: the device's full barrier between publishing used.idx
        //           and reading the flag. virtio 1.2 §2.7.7.2.
        fence(Ordering::SeqCst);
        !self.has_next()
    }

    fn disarm(&mut self) {
        if self.event_idx {
            // The flags mean nothing now (virtio 1.2 §2.7.7.1). The entry before the next is a whole lap of the index
            // away: one notification in 65,536 buffers is what polling costs then.
            self.areas.set_used_event(self.next_used.wrapping_sub(1));
        } else {
            self.areas.set_available_flags(AVAIL_F_NO_INTERRUPT);
        }
    }

    #[cold]
    fn abandon(&mut self) {
        for slot in &mut self.slots.items {
            std::mem::forget(slot.mbuf.take());
        }
        std::mem::forget(Arc::clone(&self.region));
    }
}
