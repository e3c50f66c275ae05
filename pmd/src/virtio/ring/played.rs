//! The device's side of a queue of either format, played by a test: plain, slow, and able to break every rule.

// The fuzz targets use but a part of it.
#![cfg_attr(fuzzing, allow(dead_code))]

use super::QueueMemory;
use crate::virtio::packed::{self, Cursor, Event, Tail};
use crate::virtio::spec::packed::{
    DESC_F_INDIRECT, DESC_F_NEXT, EVENT_F_DESC, EVENT_F_DISABLE, EVENT_F_ENABLE,
};
use crate::virtio::spec::split::{AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY, UsedElement};
use crate::virtio::split;
use crate::virtio::transport::RingLayout;

/// A buffer that the device holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub id: u16,
    /// Address, length and flags of each descriptor; of the flags, those that say what it is for.
    pub descriptors: Vec<(u64, u32, u16)>,
    /// How many of the ring it takes: fewer, if they are in an indirect table.
    pub in_ring: u16,
}

impl Held {
    /// Follows a descriptor that names an indirect table.
    fn follow(&mut self, packed: bool) {
        self.in_ring = self.descriptors.len().try_into().unwrap();
        let [(address, len, DESC_F_INDIRECT)] = self.descriptors[..] else { return };
        assert!(len.is_multiple_of(16) && len > 0);
        self.descriptors.clear();
        let mut entry = 0;
        loop {
            // SAFETY: the driver says that its table is there; it is one of ours, not a hostile one.
            let [address, tail] = unsafe { (address as *const [u64; 2]).add(entry).read_volatile() };
            #[allow(clippy::cast_possible_truncation)] // the parts
            let (len_of, flags, next) = (tail as u32, (tail >> 32) as u16, (tail >> 48) as u16);
            // A packed table has an id where a split one has flags, and the reverse.
            let (flags, next) = if packed { (next, flags) } else { (flags, next) };
            self.descriptors.push((address, len_of, flags & !DESC_F_NEXT));
            entry += 1;
            let more = if packed { entry < len as usize / 16 } else { flags & DESC_F_NEXT != 0 };
            assert!(packed || !more || usize::from(next) == entry);
            if !more {
                break;
            }
        }
        assert_eq!(entry, len as usize / 16);
    }
}

enum Format {
    Split { areas: split::Areas, next_available: u16, next_used: u16 },
    Packed { areas: packed::Areas, next_available: Cursor, next_used: Cursor },
}

/// The device's side.
pub(crate) struct Played {
    format: Format,
    event_idx: bool,
}

impl Played {
    /// Plays the device on a queue whose driver keeps its memory, both sides having started `start` places after the
    /// beginning: indices of a split queue, descriptors of a packed one.
    pub(crate) fn new(layout: &RingLayout, start: u16, event_idx: bool) -> Self {
        let RingLayout { size, descriptors, available, used, packed } = *layout;
        let [descriptors, available, used] = [descriptors, available, used].map(|iova| iova.0 as *mut u8);
        let format = if packed {
            // SAFETY: carved from a region, which the test bed keeps; the addresses are ours as well as the device's.
            let areas = unsafe { packed::Areas::new(descriptors, available, used, size) };
            let (position, wrap) = packed_start(size, start);
            let at = areas.cursor(position, wrap);
            Format::Packed { areas, next_available: at, next_used: at }
        } else {
            // SAFETY: as above.
            let areas = unsafe { split::Areas::new(descriptors, available, used, size) };
            areas.publish_used(start);
            Format::Split { areas, next_available: start, next_used: start }
        };
        Self { format, event_idx }
    }

    pub(crate) fn of(memory: &QueueMemory, start: u16, event_idx: bool) -> Self {
        Self::new(&memory.layout(), start, event_idx)
    }

    /// Takes the next buffer, if there is one.
    pub(crate) fn take(&mut self) -> Option<Held> {
        let mut held = Held { id: 0, descriptors: Vec::new(), in_ring: 0 };
        match &mut self.format {
            Format::Split { areas, next_available, .. } => {
                if *next_available == areas.available_index() {
                    return None;
                }
                held.id = areas.read_available(*next_available);
                let mut id = held.id;
                for _ in 0..areas.size() {
                    let found = areas.read_descriptor(id);
                    held.descriptors.push((found.address, found.len, found.flags));
                    if found.flags & DESC_F_NEXT == 0 {
                        break;
                    }
                    id = found.next;
                }
                *next_available = next_available.wrapping_add(1);
            }
            Format::Packed { areas, next_available, .. } => loop {
                let Tail { len, id, flags } = areas.read_tail(*next_available);
                if !next_available.is_available(flags) {
                    assert!(held.descriptors.is_empty(), "half a chain");
                    return None;
                }
                held.descriptors.push((areas.read_address(*next_available), len, flags & 7));
                *next_available = areas.advance(*next_available, 1);
                if flags & DESC_F_NEXT == 0 {
                    held.id = id;
                    break;
                }
            },
        }
        held.follow(matches!(self.format, Format::Packed { .. }));
        Some(held)
    }

    /// Writes one used element for `id`, and goes on `buffers` buffers, which have `descriptors` descriptors together.
    pub(crate) fn use_id(&mut self, id: u32, len: u32, buffers: u16, descriptors: u16) {
        match &mut self.format {
            Format::Split { areas, next_used, .. } => {
                areas.write_used(*next_used, UsedElement { id, len });
                *next_used = next_used.wrapping_add(buffers);
                areas.publish_used(*next_used);
            }
            Format::Packed { areas, next_used, .. } => {
                #[allow(clippy::cast_possible_truncation)] // a lie longer than 16 bits cannot be told here
                let id = id as u16;
                areas.write_tail(*next_used, Tail { len, id, flags: next_used.used_flags() });
                *next_used = areas.advance(*next_used, descriptors);
            }
        }
    }

    /// Goes on as if it had used so many buffers of one descriptor, without a word about them.
    pub(crate) fn go_on(&mut self, by: u16) {
        match &mut self.format {
            Format::Split { areas, next_used, .. } => {
                *next_used = next_used.wrapping_add(by);
                areas.publish_used(*next_used);
            }
            Format::Packed { areas, next_used, .. } => *next_used = areas.advance(*next_used, by),
        }
    }

    /// Gives one buffer back.
    pub(crate) fn give_back(&mut self, held: &Held, len: u32) {
        self.give_back_batch(std::slice::from_ref(held), len);
    }

    /// Gives `batch` back with one used element, which names the last.
    pub(crate) fn give_back_batch(&mut self, batch: &[Held], len: u32) {
        let Some(last) = batch.last() else { return };
        let descriptors = batch.iter().map(|held| held.in_ring).sum();
        self.use_id(u32::from(last.id), len, batch.len().try_into().unwrap(), descriptors);
    }

    /// Asks for a notification of the buffer (packed: descriptor) `ahead` of the next; `None` for none at all.
    /// Without `EVENT_IDX` only whether any is wanted.
    pub(crate) fn want(&mut self, ahead: Option<u16>) {
        match &mut self.format {
            Format::Split { areas, next_available, .. } => match ahead {
                Some(ahead) if self.event_idx => areas.set_avail_event(next_available.wrapping_add(ahead)),
                None if self.event_idx => areas.set_avail_event(next_available.wrapping_sub(1)),
                wanted => areas.set_used_flags(if wanted.is_some() { 0 } else { USED_F_NO_NOTIFY }),
            },
            Format::Packed { areas, next_available, .. } => {
                let flags = match ahead {
                    Some(_) if self.event_idx => EVENT_F_DESC,
                    Some(_) => EVENT_F_ENABLE,
                    None => EVENT_F_DISABLE,
                };
                let off_wrap = areas.advance(*next_available, ahead.unwrap_or(0)).off_wrap();
                areas.set_device_event(Event { off_wrap, flags });
            }
        }
    }

    /// Whether the driver wants to be told of the next buffer that is used.
    pub(crate) fn driver_wants_next(&self) -> bool {
        match &self.format {
            Format::Split { areas, next_used, .. } if self.event_idx => areas.used_event() == *next_used,
            Format::Split { areas, .. } => areas.available_flags() & AVAIL_F_NO_INTERRUPT == 0,
            Format::Packed { areas, next_used, .. } => {
                areas.wants(areas.driver_event(), areas.advance(*next_used, 1), 1)
            }
        }
    }

    /// The areas of a split queue, for lies that only it can tell.
    pub(crate) fn split(&self) -> Option<&split::Areas> {
        match &self.format {
            Format::Split { areas, .. } => Some(areas),
            Format::Packed { .. } => None,
        }
    }
}

/// Position and wrap counter `start` descriptors after the beginning.
pub(crate) fn packed_start(size: u16, start: u16) -> (u16, bool) {
    (start % size, (start / size).is_multiple_of(2))
}
