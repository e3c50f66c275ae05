//! The driver's side of a queue of either format, played by a test: plain, slow, its descriptors in any order, and able
//! to break every rule.

use std::collections::VecDeque;

use super::QueueMemory;
use super::played::packed_start;
use crate::virtio::packed::{self, Cursor, Event, Tail};
use crate::virtio::spec::packed::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, EVENT_F_DESC, EVENT_F_DISABLE, EVENT_F_ENABLE,
};
use crate::virtio::spec::split::{AVAIL_F_NO_INTERRUPT, Descriptor, USED_F_NO_NOTIFY};
use crate::virtio::split;

/// One buffer: where, how long, and flags beside those that link and hand over.
pub(crate) type Piece = (u64, u32, u16);

enum Format {
    Split { areas: split::Areas, next_available: u16, next_used: u16 },
    Packed { areas: packed::Areas, next_available: Cursor, next_used: Cursor },
}

/// A chain that is with the device.
struct Out {
    id: u16,
    /// The descriptors it takes in the ring.
    ids: Vec<u16>,
}

/// The driver's side.
pub(crate) struct PlayedDriver {
    format: Format,
    event_idx: bool,
    out: VecDeque<Out>,
    /// Free descriptors, or, of a packed queue, as many free buffer ids.
    free: Vec<u16>,
    random: u64,
}

impl PlayedDriver {
    /// Plays the driver of a queue whose memory the test keeps, both sides starting `start` places after the beginning:
    /// indices of a split queue, descriptors of a packed one.
    pub(crate) fn of(memory: &QueueMemory, start: u16, event_idx: bool, seed: u64) -> Self {
        let QueueMemory { descriptors, driver_area, device_area, size, packed } = *memory;
        let format = if packed {
            // SAFETY: carved from a region, which the test bed keeps.
            let areas =
                unsafe { packed::Areas::new(descriptors.ptr, driver_area.ptr, device_area.ptr, size) };
            let (position, wrap) = packed_start(size, start);
            let at = areas.cursor(position, wrap);
            for place in 0..size {
                // As if a lap had gone by: used, with the wrap counter there was.
                let cursor = areas.cursor(place, if place < position { wrap } else { !wrap });
                areas.write_tail(cursor, Tail { flags: cursor.used_flags(), ..Tail::default() });
            }
            Format::Packed { areas, next_available: at, next_used: at }
        } else {
            // SAFETY: as above.
            let areas = unsafe { split::Areas::new(descriptors.ptr, driver_area.ptr, device_area.ptr, size) };
            areas.publish_available(start);
            areas.publish_used(start);
            Format::Split { areas, next_available: start, next_used: start }
        };
        Self { format, event_idx, out: VecDeque::new(), free: (0..size).collect(), random: seed }
    }

    fn any_id(&mut self) -> u16 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let which = (self.random >> 33) as usize % self.free.len();
        self.free.swap_remove(which)
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Makes a chain of these available, in free descriptors; as many are there. Returns what it is known by.
    pub(crate) fn offer(&mut self, pieces: &[Piece]) -> u16 {
        let ids: Vec<u16> = pieces.iter().map(|_| self.any_id()).collect();
        // A packed chain's id is anybody's choice among those not in use.
        let id = ids[0];
        self.describe(id, &ids, pieces);
        self.out.push_back(Out { id, ids });
        id
    }

    /// Writes a chain: the descriptors `ids` of a split queue, the next ones of a packed one.
    fn describe(&mut self, id: u16, ids: &[u16], pieces: &[Piece]) {
        let more = |at: usize| if at + 1 < pieces.len() { DESC_F_NEXT } else { 0 };
        match &mut self.format {
            Format::Split { areas, next_available, .. } => {
                for (at, &(address, len, flags)) in pieces.iter().enumerate() {
                    let next = ids.get(at + 1).copied().unwrap_or(0x7777);
                    let flags = flags | more(at);
                    areas.write_descriptor(ids[at], Descriptor { address, len, flags, next });
                }
                areas.write_available(*next_available, id);
                *next_available = next_available.wrapping_add(1);
                areas.publish_available(*next_available);
            }
            Format::Packed { areas, next_available, .. } => {
                let mut at = *next_available;
                let mut tails = Vec::new();
                for (number, &(address, len, flags)) in pieces.iter().enumerate() {
                    areas.write_address(at, address);
                    // Only the last one's id means anything.
                    let id = if number + 1 < pieces.len() { 0x7777 } else { id };
                    let flags = flags | more(number) | at.available_flags();
                    tails.push((at, Tail { len, id, flags }));
                    at = areas.advance(at, 1);
                }
                *next_available = at;
                // The first one last: with it all of them are there.
                for (at, tail) in tails.into_iter().rev() {
                    areas.write_tail(at, tail);
                }
            }
        }
    }

    /// Writes a chain as [`offer`](Self::offer) does, whether or not there are as many descriptors, and forgets it:
    /// descriptor `first` and those behind it of a split queue.
    pub(crate) fn lie(&mut self, first: u16, pieces: &[Piece]) {
        #[allow(clippy::cast_possible_truncation)] // a few
        let ids: Vec<u16> = (0..pieces.len() as u16).map(|at| first.wrapping_add(at)).collect();
        self.describe(first, &ids, pieces);
    }

    /// The chains that came back, in order, each with the length stated for it; of a batch only the last has one.
    pub(crate) fn take_back(&mut self) -> Vec<(u16, Option<u32>)> {
        let mut back = Vec::new();
        while let Some(front) = self.out.front() {
            let (stated, len) = match &self.format {
                Format::Split { areas, next_used, .. } => {
                    if areas.used_index() == *next_used {
                        break;
                    }
                    let element = areas.read_used(*next_used);
                    (element.id, element.len)
                }
                Format::Packed { areas, next_used, .. } => {
                    let Tail { len, id, flags } = areas.read_tail(*next_used);
                    if !next_used.is_used(flags) {
                        break;
                    }
                    assert!(flags & DESC_F_WRITE != 0 || len == 0, "a length without the flag");
                    (id.into(), len)
                }
            };
            assert!(front.id == front.ids[0]);
            let mut descriptors = 0;
            loop {
                let Out { id, ids } = self.out.pop_front().expect("the device names a chain that it holds");
                descriptors += ids.len();
                let buffers = match &mut self.format {
                    Format::Split { next_used, .. } => {
                        *next_used = next_used.wrapping_add(1);
                        1
                    }
                    Format::Packed { .. } => ids.len(),
                };
                debug_assert!(buffers > 0);
                self.free.extend(ids);
                let last = u32::from(id) == stated;
                back.push((id, last.then_some(len)));
                if last {
                    break;
                }
            }
            if let Format::Packed { areas, next_used, .. } = &mut self.format {
                *next_used = areas.advance(*next_used, u16::try_from(descriptors).unwrap());
            }
        }
        back
    }

    /// Asks for a notification of the chain (packed: descriptor) `ahead` of the next that is used; `None` for none.
    /// Without `EVENT_IDX` only whether any is wanted.
    pub(crate) fn want(&mut self, ahead: Option<u16>) {
        match &mut self.format {
            Format::Split { areas, next_used, .. } => match ahead {
                Some(ahead) if self.event_idx => areas.set_used_event(next_used.wrapping_add(ahead)),
                None if self.event_idx => areas.set_used_event(next_used.wrapping_sub(1)),
                wanted => areas.set_available_flags(if wanted.is_some() { 0 } else { AVAIL_F_NO_INTERRUPT }),
            },
            Format::Packed { areas, next_used, .. } => {
                let flags = match ahead {
                    Some(_) if self.event_idx => EVENT_F_DESC,
                    Some(_) => EVENT_F_ENABLE,
                    None => EVENT_F_DISABLE,
                };
                let off_wrap = areas.advance(*next_used, ahead.unwrap_or(0)).off_wrap();
                areas.set_driver_event(Event { off_wrap, flags });
            }
        }
    }

    /// Whether the device wants to be told of the next chain.
    pub(crate) fn device_wants_next(&self) -> bool {
        match &self.format {
            Format::Split { areas, next_available, .. } if self.event_idx => {
                areas.avail_event() == *next_available
            }
            Format::Split { areas, .. } => areas.used_flags() & USED_F_NO_NOTIFY == 0,
            Format::Packed { areas, next_available, .. } => {
                areas.wants(areas.device_event(), areas.advance(*next_available, 1), 1)
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

    /// Takes every descriptor for free, whatever the device says.
    pub(crate) fn forget(&mut self) {
        for Out { ids, .. } in self.out.drain(..) {
            self.free.extend(ids);
        }
    }

    /// Scribbles over a descriptor of the ring, whoever's turn it is.
    pub(crate) fn scribble(&self, place: u16, address: u64, len: u32, id: u16, flags: u16) {
        match &self.format {
            Format::Split { areas, .. } => {
                areas.write_descriptor(place, Descriptor { address, len, flags, next: id });
            }
            Format::Packed { areas, .. } => {
                let at = areas.cursor(place % areas.size(), true);
                areas.write_address(at, address);
                areas.write_tail(at, Tail { len, id, flags });
            }
        }
    }
}

/// Writes a table of descriptors at `at`, in the order of the format, and returns the descriptor that refers to it.
///
/// # Safety
/// `at` is the address of memory of the test's own, of 16 bytes for each piece.
pub(crate) unsafe fn table(at: u64, pieces: &[Piece], packed: bool) -> Piece {
    for (index, &(address, len, flags)) in pieces.iter().enumerate() {
        let next = if index + 1 < pieces.len() { DESC_F_NEXT } else { 0 };
        #[allow(clippy::cast_possible_truncation)] // a few
        let following = index as u16 + 1;
        let (third, fourth) = if packed { (0x7777, flags) } else { (flags | next, following) };
        let word =
            u128::from(address) | u128::from(len) << 64 | u128::from(third) << 96 | u128::from(fourth) << 112;
        // SAFETY: as the caller promised.
        unsafe { (at as *mut u8).add(16 * index).cast::<[u8; 16]>().write_unaligned(word.to_le_bytes()) }
    }
    #[allow(clippy::cast_possible_truncation)] // a few
    (at, 16 * pieces.len() as u32, DESC_F_INDIRECT)
}
