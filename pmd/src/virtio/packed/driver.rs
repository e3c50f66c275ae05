//! The driver's side of a packed virtqueue: mbufs move in when they are posted, out when the device used them.
//!
//! A burst is shown to the device at once: all its descriptors but the first are written as they are posted, the
//! first one's flags when the burst is published. The device, which looks at the first, finds the rest behind it.
//!
//! The device states buffer ids. With `IN_ORDER` an id is the place of the buffer's first descriptor, and a used
//! descriptor speaks for all buffers up to the one it names, at the place of the first of them; else ids are handed
//! out from a stack, and a used descriptor, in the place where the device's last one ended, speaks for its own.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::{Areas, Cursor, Event, Tail};
use crate::mem::{Mbuf, Region};
use crate::port::QueueFault;
use crate::virtio::ring::driver::pieces;
use crate::virtio::ring::{DriverRing, FETCH_AHEAD, Piece, QueueMemory, Tables};
use crate::virtio::spec::feature;
use crate::virtio::spec::packed::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, EVENT_F_DESC, EVENT_F_DISABLE, EVENT_F_ENABLE,
};
use crate::virtio::transport::Notifier;

/// No buffer's id: a queue has at most 32,768.
const NO_BATCH: u16 = u16::MAX;

/// One packed virtqueue, driver side. Posting and completing are bounded by the queue's size and never block.
pub(crate) struct PackedDriver<const IN_ORDER: bool> {
    areas: Areas,
    /// What each buffer id stands for; while an mbuf is here, the device may use its bytes.
    slots: Box<[Option<Mbuf>]>,
    /// Descriptors of each buffer: 1 but for those chains.
    spans: Box<[u16]>,
    /// Free buffer ids: `ids[..ids_left]`. Unused with `IN_ORDER`.
    ids: Box<[u16]>,
    ids_left: u16,
    /// Which id was posted where: a guess at what a device that works in order will give back there. Unused with
    /// `IN_ORDER`.
    order: Box<[u16]>,
    /// Free descriptors.
    free: u16,
    /// Chains, of several descriptors or in an indirect table, that are with the device.
    chains: u16,
    /// Buffers posted, shown to the device and taken back since the start, wrapping.
    posted: u16,
    published: u16,
    completed: u16,
    /// Where the next buffer goes.
    next_available: Cursor,
    /// The first descriptor that the device has not been shown, and what its tail will be.
    head: Cursor,
    head_tail: Tail,
    /// Where the device's next used descriptor is that we have not taken back.
    next_used: Cursor,
    /// Used buffers found from there on, and where to look further.
    seen: u16,
    look: Cursor,
    /// With `IN_ORDER`, the last buffer of the batch that is being taken back ([`NO_BATCH`] if there is none), and the
    /// bytes written to it.
    batch: u16,
    batch_len: u32,
    event_idx: bool,
    tables: Option<Tables>,
    notifier: Notifier,
    fault: Option<QueueFault>,
    region: Arc<Region>,
}

impl<const IN_ORDER: bool> PackedDriver<IN_ORDER> {
    /// As [`DriverRing::new`], with both sides at `position` of a lap with this wrap counter, for a device that will
    /// be told the same.
    pub(crate) fn starting_at(
        memory: &QueueMemory,
        region: &Arc<Region>,
        features: u64,
        (position, wrap): (u16, bool),
    ) -> Self {
        let QueueMemory { descriptors, driver_area, device_area, size, .. } = *memory;
        // SAFETY: carved from the region, which we keep alive, with these sizes and alignment; `carve` gives
        // each byte out once. All cursors below are made or moved by these areas.
        let areas = unsafe { Areas::new(descriptors.ptr, driver_area.ptr, device_area.ptr, size) };
        let start = areas.cursor(position, wrap);
        // As the laps before have left them: used, and so neither available nor used in this one.
        for at in 0..size {
            let last_used = areas.cursor(at, if at < position { wrap } else { !wrap });
            areas.write_tail(last_used, Tail { flags: last_used.used_flags(), ..Tail::default() });
        }
        areas.set_driver_event(Event { off_wrap: 0, flags: EVENT_F_DISABLE });
        Self {
            slots: (0..size).map(|_| None).collect(),
            spans: (0..size).map(|_| 1).collect(),
            ids: (0..size).rev().collect(),
            ids_left: size,
            order: (0..size).collect(),
            free: size,
            chains: 0,
            posted: 0,
            published: 0,
            completed: 0,
            next_available: start,
            head: start,
            head_tail: Tail::default(),
            next_used: start,
            seen: 0,
            look: start,
            batch: NO_BATCH,
            batch_len: 0,
            tables: None,
            event_idx: features & feature::EVENT_IDX != 0,
            notifier: Notifier::Polled,
            fault: None,
            areas,
            region: Arc::clone(region),
        }
    }

    /// The id of the buffer that starts at `here`.
    #[inline]
    fn take_id(&mut self, here: Cursor) -> u16 {
        if IN_ORDER {
            return here.position();
        }
        debug_assert!(self.ids_left > 0, "as many ids as descriptors");
        self.ids_left -= 1;
        let id = self.ids[usize::from(self.ids_left)];
        self.order[usize::from(here.position())] = id;
        id
    }

    #[inline]
    fn put_id(&mut self, id: u16) {
        if !IN_ORDER {
            self.ids[usize::from(self.ids_left)] = id;
            self.ids_left += 1;
        }
    }

    #[inline]
    fn fill(&mut self, id: u16, mbuf: Mbuf) {
        let before = self.slots[usize::from(id)].replace(mbuf);
        debug_assert!(before.is_none(), "a free id has no mbuf");
        // It has none, and so there is nothing to drop and no code for it on this path.
        std::mem::forget(before);
    }

    /// Writes the next descriptor; hands it over unless it is the first of what will be published.
    #[inline]
    fn put(&mut self, id: u16, piece: Piece, flags: u16, first: bool) {
        let here = self.next_available;
        let tail = Tail { len: piece.len, id, flags: flags | here.available_flags() };
        self.areas.write_address(here, piece.address);
        if first {
            (self.head, self.head_tail) = (here, tail);
        } else {
            self.areas.write_tail(here, tail);
        }
        self.next_available = self.areas.next(here);
    }

    /// Takes back used buffers as long as everything is plain: no chains, no batch half taken, no lie. Returns how many
    /// of `most` are left to be taken with more care; `None` when `each` has had enough.
    #[inline]
    fn take_plain<const FETCH: bool>(
        &mut self,
        most: usize,
        each: &mut impl FnMut(Mbuf, u32) -> bool,
    ) -> Option<usize> {
        if self.chains > 0 || self.seen > 0 || self.fault.is_some() {
            return Some(most);
        }
        let held = self.published.wrapping_sub(self.completed);
        let (mut at, mut taken) = (self.next_used, 0);
        let mut enough = false;
        while usize::from(taken) < most && taken < held && !enough {
            let tail = self.areas.read_tail(at);
            if !at.is_used(tail.flags) {
                break;
            }
            if IN_ORDER && tail.id != at.position() {
                // A batch, if it is an honest one and wanted as a whole. All but its last are full, or were read.
                let most = held.min(u16::try_from(most).unwrap_or(u16::MAX)) - taken;
                let Some(before) = self.buffers_before(at, tail.id).filter(|before| *before < most) else {
                    break;
                };
                for _ in 0..before {
                    let Some(mbuf) = self.slots[usize::from(at.position())].take() else { break };
                    at = self.areas.next(at);
                    taken += 1;
                    let len = Piece::room_of(&mbuf).len;
                    if !each(mbuf, len) {
                        enough = true;
                        break;
                    }
                }
                if enough {
                    // The rest of it is for the next time.
                    (self.batch, self.batch_len) = (tail.id, tail.len);
                    self.seen = self.buffers_before(at, tail.id).map_or(0, |before| before + 1);
                    self.look = self.areas.advance(at, self.seen);
                    break;
                }
            }
            if FETCH {
                self.fetch_behind(at);
            }
            let Some(mbuf) = self.slots.get_mut(usize::from(tail.id)).and_then(Option::take) else { break };
            self.put_id(tail.id);
            at = self.areas.next(at);
            taken += 1;
            enough = !each(mbuf, tail.len);
        }
        self.next_used = at;
        self.free += taken;
        self.completed = self.completed.wrapping_add(taken);
        (!enough).then_some(most - usize::from(taken))
    }

    /// How many buffers of one descriptor lie from `at` to the one called `last`, which is not one of them; `None` if
    /// there is no such place.
    #[inline]
    fn buffers_before(&self, at: Cursor, last: u16) -> Option<u16> {
        let (size, here) = (self.size(), at.position());
        let before = if last >= here { last - here } else { last + size - here };
        (last < size).then_some(before)
    }

    /// As [`DriverRing::fetch`], where the next is `at`.
    #[inline]
    fn fetch_behind(&self, at: Cursor) {
        let place = usize::from(self.areas.advance(at, FETCH_AHEAD.min(self.size())).position());
        let id = if IN_ORDER { place } else { usize::from(self.order[place]) };
        if let Some(Some(mbuf)) = self.slots.get(id) {
            mbuf.prefetch_data();
        }
    }

    /// Notes a chain whose descriptors are written.
    fn end_chain(&mut self, id: u16, mbuf: Mbuf, descriptors: u16) {
        self.chains += 1;
        self.spans[usize::from(id)] = descriptors;
        self.fill(id, mbuf);
        self.free -= descriptors;
        self.posted = self.posted.wrapping_add(1);
    }

    /// Frees the descriptors of the buffer `id`, while some have several.
    fn step_over(&mut self, id: u16) {
        let span = std::mem::replace(&mut self.spans[usize::from(id)], 1);
        let had_table = self.tables.as_mut().is_some_and(|tables| tables.take_back(id));
        self.chains -= u16::from(span > 1 || had_table);
        self.free += span;
        self.next_used = self.areas.advance(self.next_used, span);
    }

    /// How many descriptors the buffer `id`, which is with the device, has.
    #[inline]
    fn span(&self, id: u16) -> u16 {
        if self.chains == 0 { 1 } else { self.spans[usize::from(id)] }
    }

    /// Looks at one used descriptor, at `look`: how many buffers it speaks for. 0 when there is none.
    fn look_further(&mut self) -> Result<u16, QueueFault> {
        let tail = self.areas.read_tail(self.look);
        if !self.look.is_used(tail.flags) {
            return Ok(0);
        }
        if IN_ORDER && tail.id != self.look.position() {
            return self.look_at_batch(tail.id);
        }
        // An id that is out of range is for `complete` to name.
        let span = if usize::from(tail.id) < self.slots.len() { self.span(tail.id) } else { 1 };
        self.look = self.areas.advance(self.look, span);
        Ok(1)
    }

    /// Counts the buffers from `look` up to the one called `last`.
    fn look_at_batch(&mut self, last: u16) -> Result<u16, QueueFault> {
        let most = self.published.wrapping_sub(self.completed) - self.seen;
        let mut at = self.look;
        for count in 1..=most {
            let here = at.position();
            at = self.areas.advance(at, self.span(here));
            if here == last {
                self.look = at;
                return Ok(count);
            }
        }
        let (id, size) = (u32::from(last), self.size());
        Err(self.set_fault(if last < size {
            QueueFault::UsedIdNotOutstanding { id }
        } else {
            QueueFault::UsedIdOutOfRange { id, size }
        }))
    }

    /// The bytes written to the buffer `id`, which is next (`None` for all of it), when its place says that it belongs
    /// to a batch or one is under way. A fault when the device has changed its mind since it was looked at.
    fn next_of_batch(&mut self, id: u16, tail: Tail) -> Result<Option<u32>, QueueFault> {
        if self.batch == NO_BATCH {
            (self.batch, self.batch_len) = (tail.id, tail.len);
        }
        if self.batch == id {
            self.batch = NO_BATCH;
            return Ok(Some(self.batch_len));
        }
        if self.seen <= 1 {
            return Err(self.set_fault(QueueFault::UsedIdNotOutstanding { id: u32::from(self.batch) }));
        }
        Ok(None)
    }
}

impl<const IN_ORDER: bool> DriverRing for PackedDriver<IN_ORDER> {
    fn new(memory: &QueueMemory, region: &Arc<Region>, features: u64) -> Self {
        Self::starting_at(memory, region, features, (0, true))
    }

    fn set_notifier(&mut self, notifier: Notifier) {
        self.notifier = notifier;
    }

    #[inline]
    fn size(&self) -> u16 {
        self.areas.size()
    }

    #[inline]
    fn free(&self) -> u16 {
        self.free
    }

    #[inline]
    fn outstanding(&self) -> u16 {
        self.posted.wrapping_sub(self.completed)
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
        let id = self.take_id(self.next_available);
        self.fill(id, mbuf);
        let flags = if writable { DESC_F_WRITE } else { 0 };
        self.put(id, piece, flags, self.posted == self.published);
        self.free -= 1;
        self.posted = self.posted.wrapping_add(1);
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
        let id = self.take_id(self.next_available);
        let count = pieces(first, &mbuf).count();
        let mut held = self.posted == self.published;
        if let Some(tables) = self.tables.as_mut().filter(|tables| tables.suit(count)) {
            let table = tables.write(id, pieces(first, &mbuf));
            self.put(id, table, DESC_F_INDIRECT, held);
            self.end_chain(id, mbuf, 1);
            return;
        }
        for (number, piece) in pieces(first, &mbuf).enumerate() {
            let flags = if number + 1 < count { DESC_F_NEXT } else { 0 };
            self.put(id, piece, flags, std::mem::take(&mut held));
        }
        #[allow(clippy::cast_possible_truncation)] // so many descriptors were free
        self.end_chain(id, mbuf, count as u16);
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if self.published == self.posted {
            return false;
        }
        self.published = self.posted;
        self.areas.write_tail(self.head, self.head_tail);
        // ORDERING: SeqCst. The flags are visible before the device's wish is read, or it might go to sleep on the
        //           old flags while we believe the old wish. Partner: the device's full barrier between setting
        //           its event suppression and reading the flags. virtio 1.2 §2.8.21.3.1.
        fence(Ordering::SeqCst);
        let event = self.areas.device_event();
        let wanted = event.flags != EVENT_F_DISABLE && {
            let count = self.areas.distance(self.head, self.next_available);
            self.areas.wants(event, self.next_available, count)
        };
        if wanted {
            self.notifier.notify();
        }
        wanted
    }

    #[inline]
    fn has_next(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.seen > 0 {
            return true;
        }
        if self.completed == self.published {
            return false;
        }
        let tail = self.areas.read_tail(self.next_used);
        if !self.next_used.is_used(tail.flags) {
            return false;
        }
        if IN_ORDER && tail.id != self.next_used.position() {
            self.look = self.next_used;
            self.seen = self.look_at_batch(tail.id).unwrap_or(0);
            return self.seen > 0;
        }
        true
    }

    #[inline]
    fn ready(&mut self, most: usize) -> Result<u16, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let most = usize::from(self.published.wrapping_sub(self.completed)).min(most);
        if self.seen == 0 {
            // The same, unless the device changed an id between our two looks at it.
            self.look = self.next_used;
        }
        while usize::from(self.seen) < most {
            match self.look_further() {
                Ok(0) => break,
                Ok(more) => self.seen += more,
                // What came before the lie is good.
                Err(fault) if self.seen == 0 => return Err(fault),
                Err(_) => break,
            }
        }
        Ok(self.seen)
    }

    #[inline]
    fn peek(&self) -> Option<&Mbuf> {
        let id = if IN_ORDER { self.next_used.position() } else { self.areas.read_tail(self.next_used).id };
        self.slots.get(usize::from(id))?.as_ref()
    }

    #[inline]
    fn complete(&mut self) -> Option<(Mbuf, u32)> {
        let tail = self.areas.read_tail(self.next_used);
        let (id, len) = if IN_ORDER {
            let id = self.next_used.position();
            if self.batch == NO_BATCH && tail.id == id {
                (id, Some(tail.len))
            } else {
                (id, self.next_of_batch(id, tail).ok()?)
            }
        } else {
            (tail.id, Some(tail.len))
        };
        let Some(slot) = self.slots.get_mut(usize::from(id)) else {
            let (id, size) = (u32::from(id), self.size());
            self.set_fault(QueueFault::UsedIdOutOfRange { id, size });
            return None;
        };
        let Some(mbuf) = slot.take() else {
            self.set_fault(QueueFault::UsedIdNotOutstanding { id: u32::from(id) });
            return None;
        };
        self.put_id(id);
        if self.chains == 0 {
            self.free += 1;
            self.next_used = self.areas.next(self.next_used);
        } else {
            self.step_over(id);
        }
        self.completed = self.completed.wrapping_add(1);
        self.seen = self.seen.saturating_sub(1);
        let len = len.unwrap_or_else(|| Piece::room_of(&mbuf).len);
        Some((mbuf, len))
    }

    #[inline]
    fn fetch(&self) {
        self.fetch_behind(self.next_used);
    }

    #[inline]
    fn take_each<const FETCH: bool>(&mut self, most: usize, mut each: impl FnMut(Mbuf, u32) -> bool) {
        let Some(rest) = self.take_plain::<FETCH>(most, &mut each) else { return };
        for _ in 0..rest {
            if !self.has_next() {
                return;
            }
            let Some((mbuf, len)) = self.complete() else { return };
            if !each(mbuf, len) {
                return;
            }
        }
    }

    #[inline]
    fn post_rooms(&mut self, mbufs: impl Iterator<Item = Mbuf>) -> u16 {
        let (mut here, mut posted) = (self.next_available, 0);
        for mbuf in mbufs {
            let id = self.take_id(here);
            let Piece { address, len } = Piece::room_of(&mbuf);
            self.fill(id, mbuf);
            self.areas.write_address(here, address);
            let tail = Tail { len, id, flags: DESC_F_WRITE | here.available_flags() };
            if posted == 0 && self.posted == self.published {
                (self.head, self.head_tail) = (here, tail);
            } else {
                self.areas.write_tail(here, tail);
            }
            here = self.areas.next(here);
            posted += 1;
        }
        self.next_available = here;
        self.free -= posted;
        self.posted = self.posted.wrapping_add(posted);
        posted
    }

    fn arm(&mut self) -> bool {
        let event = if self.event_idx {
            Event { off_wrap: self.next_used.off_wrap(), flags: EVENT_F_DESC }
        } else {
            Event { off_wrap: 0, flags: EVENT_F_ENABLE }
        };
        self.areas.set_driver_event(event);
        // ORDERING: SeqCst. The wish is visible before the flags are read, or the device might use a buffer and stay
        //           silent while we go to sleep. Partner: the device's full barrier between writing the flags and
        //           reading the driver's event suppression. virtio 1.2 §2.8.22.
        fence(Ordering::SeqCst);
        !self.has_next()
    }

    fn disarm(&mut self) {
        self.areas.set_driver_event(Event { off_wrap: 0, flags: EVENT_F_DISABLE });
    }

    #[cold]
    fn abandon(&mut self) {
        for slot in &mut self.slots {
            std::mem::forget(slot.take());
        }
        std::mem::forget(Arc::clone(&self.region));
    }
}
