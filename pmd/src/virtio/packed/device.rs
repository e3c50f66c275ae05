//! The device's side of a packed virtqueue: chains of a hostile driver, walked within bounds.
//!
//! A chain is a run of descriptors from the next place on, linked by their flags alone. It is given back by one used
//! descriptor in the place where it began, and the places behind it are skipped. What a burst gives back is seen by the
//! driver all at once: the flags of its first descriptor are written last.

use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;

use super::{Areas, Cursor, Event, Tail};
use crate::mem::Iova;
use crate::port::{MAX_BURST, QueueFault};
use crate::virtio::attach::{Position, Ring};
use crate::virtio::ring::{Buffer, Chain, DeviceRing, Peer};
use crate::virtio::spec::feature;
use crate::virtio::spec::packed::{
    DESC_F_AVAIL, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_USED, DESC_F_WRITE, Descriptor, EVENT_F_DESC,
    EVENT_F_DISABLE, EVENT_F_ENABLE,
};

/// One packed virtqueue, device side. With `IN_ORDER` a batch of chains that were only read is given back by one used
/// descriptor (virtio 1.2 §2.8.8).
pub(crate) struct PackedDevice<const IN_ORDER: bool> {
    areas: Areas,
    peer: Peer,
    /// Where the next chain is, or will be.
    next: Cursor,
    /// Where the next used descriptor goes: where its chain was, unless the driver's last device left chains behind.
    next_used: Cursor,
    /// The first used descriptor of a burst, which is still to be written.
    first: Option<(Cursor, Tail)>,
    /// Chains taken since the start, wrapping.
    taken: u32,
    /// Chains known to have been available, taken ones included, and the place behind them.
    counted: u32,
    counted_to: Cursor,
    /// Used descriptors go where their chains were.
    in_place: bool,
    event_idx: bool,
    indirect: bool,
}

impl<const IN_ORDER: bool> PackedDevice<IN_ORDER> {
    /// The chain at `at`, which is `ahead` places from the next one; `None` if it is not there (yet).
    #[inline]
    fn chain_at(&self, at: Cursor, ahead: u16, writable: bool) -> Option<Chain> {
        let Tail { len, id, flags } = self.areas.read_tail(at);
        // The usual chain in one comparison: available, and nothing but a buffer of this direction.
        if flags == at.available_flags() | direction(writable) {
            let address = Iova(self.areas.read_address(at));
            let ptr = self.peer.memory.translate(address, len as usize);
            return Some(Chain::new(id, 1, ptr.map(|ptr| Buffer { ptr, len })));
        }
        if !at.is_available(flags) {
            return None;
        }
        let (slots, id) = self.trace(at, ahead).unwrap_or((0, id));
        Some(Chain::new(id, slots, None))
    }

    /// How many places the chain at `start` takes, `ahead` places from the next one, and its id, which is in its last
    /// descriptor.
    ///
    /// # Errors
    /// What is wrong with it.
    fn trace(&self, start: Cursor, ahead: u16) -> Result<(u16, u16), QueueFault> {
        let (mut at, mut slots) = (start, 1);
        loop {
            let Tail { id, flags, .. } = self.areas.read_tail(at);
            if !at.is_available(flags) {
                return Err(QueueFault::ChainNotAvailable { descriptors: slots });
            }
            if flags & DESC_F_NEXT == 0 {
                return Ok((slots, id));
            }
            if ahead + slots >= self.areas.size() {
                return Err(QueueFault::ChainTooLong { size: self.areas.size() });
            }
            (at, slots) = (self.areas.advance(at, 1), slots + 1);
        }
    }

    /// Takes the buffers of the table that ends a chain: all of it, in order (virtio 1.2 §2.8.7).
    fn take_table(&mut self, table: Descriptor, direction: u16) -> Result<(), QueueFault> {
        let Descriptor { address, len, flags, .. } = table;
        if flags & DESC_F_NEXT != 0 {
            return Err(self.peer.fails(QueueFault::IndirectChained { flags }));
        }
        let size = self.areas.size();
        let entries = self.peer.table(address, len, size)?;
        for index in 0..entries.count() {
            let Descriptor { address, len, flags, .. } = entries.read_packed(index);
            if flags & DESC_F_INDIRECT != 0 {
                return Err(self.peer.fails(QueueFault::IndirectNested { flags }));
            }
            if flags & DESC_F_WRITE != direction {
                return Err(self.peer.fails(QueueFault::BadDescriptorFlags { flags }));
            }
            if self.peer.pieces.len() >= usize::from(size) {
                return Err(self.peer.fails(QueueFault::ChainTooLong { size }));
            }
            self.peer.take(address, len)?;
        }
        Ok(())
    }

    /// Moves on behind a chain that is given back by `flags`. The driver looks at what is behind the first of a burst
    /// only when it sees that one, so the others can be written at once.
    #[inline]
    fn pass(&mut self, chain: Chain, len: u32, flags: u16) {
        let at = self.next_used;
        let tail = Tail { len, id: chain.id, flags: flags | at.used_flags() };
        match self.first {
            None => self.first = Some((at, tail)),
            Some(_) => self.areas.write_tail(at, tail),
        }
        self.advance(chain);
    }

    #[inline]
    fn advance(&mut self, chain: Chain) {
        self.next = self.behind(self.next, chain);
        self.next_used = if self.in_place { self.next } else { self.behind(self.next_used, chain) };
        self.taken = self.taken.wrapping_add(1);
    }

    /// `at`, moved on by a chain: usually of one descriptor.
    #[inline]
    fn behind(&self, at: Cursor, chain: Chain) -> Cursor {
        if chain.slots == 1 { self.areas.next(at) } else { self.areas.advance(at, chain.slots) }
    }
}

impl<const IN_ORDER: bool> DeviceRing for PackedDevice<IN_ORDER> {
    fn new(ring: &Ring) -> Self {
        // SAFETY: `Ring::new` checked size and alignment; the areas stay mapped as long as the memory, which `peer`
        // keeps; a driver's memory is never borrowed. All cursors come from these areas.
        let areas = unsafe { Areas::new(ring.descriptors, ring.available, ring.used, ring.size) };
        let Position { next_available, next_used } = ring.start;
        let next = areas.cursor_of(next_available);
        let mut queue = Self {
            next,
            next_used: areas.cursor_of(next_used),
            in_place: next_available == next_used,
            areas,
            peer: Peer::new(ring),
            first: None,
            taken: 0,
            counted: 0,
            counted_to: next,
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
        Position { next_available: self.next.off_wrap(), next_used: self.next_used.off_wrap() }
    }

    fn fault(&self) -> Option<QueueFault> {
        self.peer.check().err()
    }

    /// Counts on from where it stopped the last time: each descriptor is looked at once, and none that the driver may be
    /// writing at this moment while there are enough before it.
    fn ready(&mut self, most: usize) -> Result<u16, QueueFault> {
        self.peer.check()?;
        if self.taken.wrapping_sub(self.counted).cast_signed() > 0 {
            // Taken before they were counted.
            (self.counted, self.counted_to) = (self.taken, self.next);
        }
        let size = self.areas.size();
        for _ in 0..size {
            if self.counted.wrapping_sub(self.taken) as usize >= most {
                break;
            }
            let Tail { flags, .. } = self.areas.read_tail(self.counted_to);
            if !self.counted_to.is_available(flags) {
                break;
            }
            self.counted_to = self.areas.next(self.counted_to);
            self.counted = self.counted.wrapping_add(u32::from(flags & DESC_F_NEXT == 0));
        }
        // More only if the driver makes some available anew that we have not taken yet.
        let ready = self.counted.wrapping_sub(self.taken);
        Ok(u16::try_from(ready).unwrap_or(u16::MAX).min(size))
    }

    #[inline]
    fn fetch(&mut self, count: usize, writable: bool) -> Result<ArrayVec<Chain, MAX_BURST>, QueueFault> {
        self.peer.check()?;
        let mut chains = ArrayVec::new();
        let (mut at, mut ahead) = (self.next, 0);
        for _ in 0..count.min(MAX_BURST) {
            if ahead >= self.areas.size() {
                break;
            }
            let Some(chain) = self.chain_at(at, ahead, writable) else { break };
            chain.prefetch(writable);
            chains.push(chain);
            if chain.slots == 0 {
                break;
            }
            (at, ahead) = (self.behind(at, chain), ahead + chain.slots);
        }
        Ok(chains)
    }

    fn chain(&mut self, ahead: u16, writable: bool) -> Option<Chain> {
        if ahead >= self.areas.size() {
            return None;
        }
        self.chain_at(self.areas.advance(self.next, ahead), ahead, writable)
    }

    fn walk(&mut self, chain: Chain, ahead: u16, writable: bool) -> Result<&[Buffer], QueueFault> {
        self.peer.pieces.clear();
        let mut at = self.areas.advance(self.next, ahead);
        if chain.slots == 0 {
            // If the driver has mended it meanwhile, it lied all the same.
            let unending = QueueFault::ChainTooLong { size: self.areas.size() };
            let fault = self.trace(at, ahead).err().unwrap_or(unending);
            return Err(self.peer.fails(fault));
        }
        for place in 1..=chain.slots {
            let Tail { len, id, flags } = self.areas.read_tail(at);
            let address = self.areas.read_address(at);
            let plain = flags & !OWNER;
            if plain & DESC_F_INDIRECT != 0 && self.indirect {
                self.take_table(Descriptor { address, len, id, flags: plain }, direction(writable))?;
            } else if plain & !DESC_F_NEXT != direction(writable) {
                return Err(self.peer.fails(QueueFault::BadDescriptorFlags { flags: plain }));
            } else {
                self.peer.take(address, len)?;
            }
            // A driver that changes its mind meanwhile ends the chain earlier; it is given back all the same.
            if plain & DESC_F_NEXT == 0 || place == chain.slots {
                break;
            }
            at = self.areas.advance(at, 1);
        }
        Ok(&self.peer.pieces)
    }

    #[inline]
    fn give_back(&mut self, chain: Chain, len: u32) {
        self.pass(chain, len, DESC_F_WRITE);
    }

    #[inline]
    fn give_back_read(&mut self, chain: Chain) {
        if IN_ORDER && let Some((_, batch)) = &mut self.first {
            batch.id = chain.id;
            self.advance(chain);
        } else {
            self.pass(chain, 0, 0);
        }
    }

    #[inline]
    fn publish(&mut self) -> bool {
        let Some((at, tail)) = self.first.take() else { return false };
        self.areas.write_tail(at, tail);
        let Some(call) = &self.peer.call else { return false };
        // ORDERING: SeqCst. The used descriptors are visible before the driver's wish is read, or it might go to sleep
        //           on the old ones while we believe the old wish. Partner: the driver's full barrier between
        //           its wish and its look at the ring. virtio 1.2 §2.8.22.
        fence(Ordering::SeqCst);
        let mut event = self.areas.driver_event();
        if event.flags == EVENT_F_DESC && !self.event_idx {
            // Not negotiated: it means nothing, and a notification too many does no harm.
            event.flags = EVENT_F_ENABLE;
        }
        // At least one: all of them if it ends where it began. More than that, with a driver that cheats, count as less.
        let (from, to) = (at.position(), self.next_used.position());
        let moved = if to > from { to - from } else { self.areas.size() - from + to };
        let wanted = self.areas.wants(event, self.next_used, moved);
        if wanted {
            // A counter that is full has been signalled already.
            let _ = call.write(1);
        }
        wanted
    }

    fn arm(&mut self) -> bool {
        let flags = if self.event_idx { EVENT_F_DESC } else { EVENT_F_ENABLE };
        self.areas.set_device_event(Event { off_wrap: self.next.off_wrap(), flags });
        // ORDERING: SeqCst. What we ask for is visible before the ring is read again, or the driver might add a chain
        //           and see that nobody asks. Partner: the driver's full barrier between its descriptors and our
        //           event area. virtio 1.2 §2.8.21.3.1.
        fence(Ordering::SeqCst);
        let idle = !self.next.is_available(self.areas.read_tail(self.next).flags);
        if !idle {
            self.disarm();
        }
        idle
    }

    fn disarm(&mut self) {
        self.areas.set_device_event(Event { off_wrap: self.next.off_wrap(), flags: EVENT_F_DISABLE });
    }
}

/// The two flags that say whose turn it is.
const OWNER: u16 = DESC_F_AVAIL | DESC_F_USED;

/// The only flag that a descriptor of this direction has, beside `NEXT` and [`OWNER`].
#[inline]
const fn direction(writable: bool) -> u16 {
    if writable { DESC_F_WRITE } else { 0 }
}
