//! The packed virtqueue (virtio 1.2 §2.8): one ring of descriptors that both sides write, and two words by which
//! each side says which notifications it wants.
//!
//! | area | written by | read by |
//! |---|---|---|
//! | descriptor ring | both in turn | both |
//! | driver event suppression | driver | device |
//! | device event suppression | device | driver |
//!
//! Whose turn it is at a place in the ring, its descriptor's flags say: available when `AVAIL` equals the driver's
//! wrap counter and `USED` does not, used when both equal it. Each side keeps its own [`Cursor`]s; where it looks next
//! never depends on what the other side wrote, apart from how many descriptors a returned buffer id stands for, which
//! the driver remembers itself.
//!
//! [`Areas`] is the one place that touches the shared bytes.

pub(crate) mod device;
pub(crate) mod driver;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::spec::packed::{DESC_F_AVAIL, DESC_F_USED, Descriptor, EVENT_WRAP};

/// A place in the ring and the wrap counter there. Made and moved by [`Areas`] only, so it lies within the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    position: u16,
    /// The flags of a used descriptor here, which say it all: both set while the wrap counter is, else neither.
    used: u16,
}

/// What a lap changes.
const BOTH: u16 = DESC_F_AVAIL | DESC_F_USED;

impl Cursor {
    #[inline]
    pub(crate) fn position(self) -> u16 {
        self.position
    }

    /// As in an event suppression structure, and in vhost-user's bases: position, and the wrap counter in bit 15.
    #[inline]
    pub(crate) fn off_wrap(self) -> u16 {
        const { assert!(DESC_F_USED == EVENT_WRAP) };
        self.position | self.used & EVENT_WRAP
    }

    /// The two flags of a descriptor that is made available here. virtio 1.2 §2.8.1.
    #[inline]
    pub(crate) fn available_flags(self) -> u16 {
        self.used ^ DESC_F_USED
    }

    /// The two flags of a descriptor that is used here.
    #[inline]
    pub(crate) fn used_flags(self) -> u16 {
        self.used
    }

    /// Whether a descriptor here with these flags waits for the device.
    #[inline]
    pub(crate) fn is_available(self, flags: u16) -> bool {
        flags & BOTH == self.available_flags()
    }

    /// Whether a descriptor here with these flags has been used.
    #[inline]
    pub(crate) fn is_used(self, flags: u16) -> bool {
        flags & BOTH == self.used
    }
}

/// A descriptor without its address: what the two sides tell each other by one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Bytes of the buffer; in a used descriptor, those written.
    pub len: u32,
    /// Buffer id.
    pub id: u16,
    /// `DESC_F_*`.
    pub flags: u16,
}

impl Tail {
    #[inline]
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.len) | u64::from(self.id) << 32 | u64::from(self.flags) << 48
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the parts
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self { len: bits as u32, id: (bits >> 32) as u16, flags: (bits >> 48) as u16 }
    }
}

/// Which notifications one side wants: an event suppression structure, read or to be written as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Where, if `flags` is `EVENT_F_DESC`.
    pub off_wrap: u16,
    /// `EVENT_F_*`.
    pub flags: u16,
}

/// The three areas of one virtqueue in our address space.
///
/// All access is volatile or atomic, and goes to places that a [`Cursor`] of ours names: no value that the other side
/// writes can lead outside the areas.
pub(crate) struct Areas {
    descriptors: *mut Descriptor,
    driver_event: *mut u32,
    device_event: *mut u32,
    size: u16,
}

// SAFETY: plain pointers to memory that stays mapped as the constructor was promised; all access is volatile
// or atomic.
unsafe impl Send for Areas {}

impl Areas {
    /// # Safety
    /// The areas are mapped, of the sizes in `spec::packed` for `size` entries, aligned (16, 4 and 4 bytes), and
    /// stay so as long as the value lives; no Rust reference covers them. `size` is 1 to 32,768. Every [`Cursor`]
    /// passed to the value comes from itself or from areas of the same size.
    pub(crate) unsafe fn new(
        descriptors: *mut u8,
        driver_event: *mut u8,
        device_event: *mut u8,
        size: u16,
    ) -> Self {
        debug_assert!((1..=32_768).contains(&size));
        debug_assert!((descriptors as usize).is_multiple_of(16));
        debug_assert!((driver_event as usize).is_multiple_of(4) && (device_event as usize).is_multiple_of(4));
        Self {
            descriptors: descriptors.cast(),
            driver_event: driver_event.cast(),
            device_event: device_event.cast(),
            size,
        }
    }

    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The cursor at `position` (less than the size) with this wrap counter; both sides start at 0 with it set.
    pub(crate) fn cursor(&self, position: u16, wrap: bool) -> Cursor {
        assert!(position < self.size, "position {position} in a ring of {}", self.size);
        Cursor { position, used: if wrap { BOTH } else { 0 } }
    }

    /// The cursor that is written `off_wrap`, as an event suppression structure and a vhost-user base are; a position
    /// beyond the ring, which nobody honest names, is taken modulo its size.
    pub(crate) fn cursor_of(&self, off_wrap: u16) -> Cursor {
        self.cursor((off_wrap & !EVENT_WRAP) % self.size, off_wrap & EVENT_WRAP != 0)
    }

    /// The place behind `cursor`.
    #[inline]
    pub(crate) fn next(&self, cursor: Cursor) -> Cursor {
        let position = cursor.position + 1;
        if position == self.size {
            Cursor { position: 0, used: cursor.used ^ BOTH }
        } else {
            Cursor { position, ..cursor }
        }
    }

    /// `cursor`, `count` descriptors (at most the size) further.
    #[inline]
    pub(crate) fn advance(&self, cursor: Cursor, count: u16) -> Cursor {
        debug_assert!(count <= self.size);
        // Both at most 32,768: no overflow.
        let position = cursor.position + count;
        if position < self.size {
            Cursor { position, ..cursor }
        } else {
            Cursor { position: position - self.size, used: cursor.used ^ BOTH }
        }
    }

    /// How many descriptors lie from `start` to `end`, which are not the same: 1 to a lap.
    #[inline]
    pub(crate) fn distance(&self, start: Cursor, end: Cursor) -> u16 {
        if start.used == end.used {
            end.position - start.position
        } else {
            self.size - start.position + end.position
        }
    }

    #[inline]
    fn at(&self, cursor: Cursor) -> *mut Descriptor {
        debug_assert!(cursor.position < self.size);
        // SAFETY: a cursor lies within the ring, as `new` was promised.
        unsafe { self.descriptors.add(usize::from(cursor.position)) }
    }

    #[inline]
    fn tail_of(&self, cursor: Cursor) -> &AtomicU64 {
        // SAFETY: the second half of a descriptor, which is 16-byte aligned and mapped; both sides access it
        // atomically.
        unsafe { AtomicU64::from_ptr(self.at(cursor).cast::<u64>().add(1)) }
    }

    #[inline]
    fn address_of(&self, cursor: Cursor) -> &AtomicU64 {
        // SAFETY: the first half of a descriptor, which is 16-byte aligned and mapped; both sides access it
        // atomically.
        unsafe { AtomicU64::from_ptr(self.at(cursor).cast()) }
    }

    /// Everything but the address, read at once: what it returns is private, and was all there when the flags were.
    #[inline]
    pub(crate) fn read_tail(&self, cursor: Cursor) -> Tail {
        // ORDERING: Acquire. The address, the descriptors behind it that were written before it, and the buffers are
        //           complete. Partner: the other side's Release in `write_tail` (or its wmb before the flags).
        //           virtio 1.2 §2.8.21, §2.8.22.
        Tail::from_bits(self.tail_of(cursor).load(Ordering::Acquire))
    }

    /// Hands a descriptor, whose address is written, to the other side.
    #[inline]
    pub(crate) fn write_tail(&self, cursor: Cursor, tail: Tail) {
        // ORDERING: Release. The address and the buffers' bytes become visible before these flags.
        //           Partner: the other side's read of the flags. virtio 1.2 §2.8.21, §2.8.22.
        self.tail_of(cursor).store(tail.to_bits(), Ordering::Release);
    }

    /// The address, after [`read_tail`](Self::read_tail) said that the descriptor is ours.
    #[inline]
    pub(crate) fn read_address(&self, cursor: Cursor) -> u64 {
        // ORDERING: Relaxed. Ordered by the tail, which is read before it.
        self.address_of(cursor).load(Ordering::Relaxed)
    }

    /// The address, before [`write_tail`](Self::write_tail) hands the descriptor over.
    #[inline]
    pub(crate) fn write_address(&self, cursor: Cursor, address: u64) {
        // ORDERING: Relaxed. Ordered by the tail, which is written after it.
        self.address_of(cursor).store(address, Ordering::Relaxed);
    }

    #[inline]
    fn event_at(&self, event: *mut u32) -> &AtomicU32 {
        // SAFETY: one of the two event suppression areas: 4 bytes, aligned to 4, mapped; accessed atomically by both.
        unsafe { AtomicU32::from_ptr(event) }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the two halves
    fn read_event(&self, event: *mut u32) -> Event {
        // ORDERING: Relaxed. The caller's full fence stands between what it published and this.
        //           virtio 1.2 §2.8.21.3.1.
        let word = self.event_at(event).load(Ordering::Relaxed);
        Event { off_wrap: word as u16, flags: (word >> 16) as u16 }
    }

    fn write_event(&self, event: *mut u32, Event { off_wrap, flags }: Event) {
        // ORDERING: Relaxed. Both halves change at once; whoever goes to sleep on it fences and looks again.
        self.event_at(event).store(u32::from(off_wrap) | u32::from(flags) << 16, Ordering::Relaxed);
    }

    /// Which used buffer notifications the driver wants.
    #[inline]
    pub(crate) fn driver_event(&self) -> Event {
        self.read_event(self.driver_event)
    }

    /// Which available buffer notifications the device wants.
    #[inline]
    pub(crate) fn device_event(&self) -> Event {
        self.read_event(self.device_event)
    }

    pub(crate) fn set_driver_event(&self, event: Event) {
        self.write_event(self.driver_event, event);
    }

    pub(crate) fn set_device_event(&self, event: Event) {
        self.write_event(self.device_event, event);
    }

    /// Whether `event` asks for a notification of the `count` descriptors (at most the size) that were handed over
    /// before `end`. virtio 1.2 §2.8.10, §2.7.10.1.
    #[inline]
    pub(crate) fn wants(&self, event: Event, end: Cursor, count: u16) -> bool {
        use super::spec::packed::{EVENT_F_DESC, EVENT_F_DISABLE};
        match event.flags {
            EVENT_F_DISABLE => false,
            EVENT_F_DESC => {
                let position = event.off_wrap & !EVENT_WRAP;
                let same_lap = event.off_wrap & EVENT_WRAP == end.used & EVENT_WRAP;
                // How far behind `end` the place lies on the ring; a place in another lap than that has passed, or
                // is to come. A position beyond the ring is nowhere.
                let back = if same_lap {
                    u32::from(end.position).checked_sub(u32::from(position))
                } else {
                    (u32::from(end.position) + u32::from(self.size)).checked_sub(u32::from(position))
                };
                back.is_some_and(|back| (1..=u32::from(count)).contains(&back))
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests;
