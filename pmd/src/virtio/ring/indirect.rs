//! Indirect descriptor tables of a driver's queue: a long chain in one descriptor of the ring. virtio 1.2 §2.7.5.3,
//! §2.8.7.
//!
//! A ring that is half full of chains of 33 descriptors (64 KiB in mbufs of 2 KiB) holds 15 of them in 1,024; with
//! tables it holds as many as there are tables. A chain of two or three is cheaper in the ring itself, whose cache
//! lines the device has to fetch anyway.

use super::Piece;
use crate::mem::{Carved, Region, RegionError};
use crate::virtio::spec::split::DESC_F_NEXT;

/// Tables of a queue.
const TABLES: u16 = 64;

/// Descriptors of a table: a header and 64 KiB in mbufs of 2 KiB, and some.
const ENTRIES: u16 = 40;

/// Shorter chains go into the ring.
const SHORTEST: u16 = 5;

const ENTRY_BYTES: usize = 16;
const TABLE_BYTES: usize = ENTRIES as usize * ENTRY_BYTES;
const ALIGN: usize = 128;

/// No table's number.
const NONE: u16 = u16::MAX;

/// The tables of one queue, and which buffer has which.
pub(crate) struct Tables {
    memory: Carved,
    free: Vec<u16>,
    /// By buffer id.
    held: Box<[u16]>,
    packed: bool,
}

// SAFETY: the memory was carved for this value alone, and is only written here.
unsafe impl Send for Tables {}

impl Tables {
    /// Bytes of a [`Region`] that the tables of one queue carve, alignment included.
    pub(crate) const REGION_BYTES: usize = TABLES as usize * TABLE_BYTES + ALIGN;

    /// Tables for a queue of `size`, of the split or the packed format. The queue, which is lent them, keeps `region`.
    pub(crate) fn new(region: &Region, size: u16, packed: bool) -> Result<Self, RegionError> {
        Ok(Self {
            memory: region.carve(usize::from(TABLES) * TABLE_BYTES, ALIGN)?,
            free: (0..TABLES).rev().collect(),
            held: (0..size).map(|_| NONE).collect(),
            packed,
        })
    }

    /// Whether there is a table now for a chain of so many descriptors, and it pays.
    pub(crate) fn suit(&self, descriptors: usize) -> bool {
        (usize::from(SHORTEST)..=usize::from(ENTRIES)).contains(&descriptors) && !self.free.is_empty()
    }

    /// Writes a chain that [suits](Self::suit) into a table, which is the buffer `id`'s from now on, and returns what
    /// its one descriptor says.
    pub(crate) fn write(&mut self, id: u16, pieces: impl Iterator<Item = Piece>) -> Piece {
        let Some(table) = self.free.pop() else { unreachable!("the caller asked whether there is one") };
        self.held[usize::from(id)] = table;
        let offset = usize::from(table) * TABLE_BYTES;
        let mut count = 0_u16;
        let mut pieces = pieces.take(usize::from(ENTRIES)).peekable();
        while let Some(Piece { address, len }) = pieces.next() {
            // The order says it all in a packed queue's table; in a split one's each names the next.
            let link = if !self.packed && pieces.peek().is_some() {
                u64::from(DESC_F_NEXT) << 32 | u64::from(count + 1) << 48
            } else {
                0
            };
            // SAFETY: entry `count`, at most the last, of table `table`, within what was carved; aligned to 16. The
            // device has given the table back, or never had it.
            unsafe {
                let entry = self.memory.ptr.add(offset + usize::from(count) * ENTRY_BYTES).cast::<u64>();
                entry.write_volatile(address);
                entry.add(1).write_volatile(u64::from(len) | link);
            }
            count += 1;
        }
        Piece { address: self.memory.iova.0 + offset as u64, len: u32::from(count) * 16 }
    }

    /// Takes back the table of the buffer `id`, which the device has used; false if it had none.
    pub(crate) fn take_back(&mut self, id: u16) -> bool {
        let table = std::mem::replace(&mut self.held[usize::from(id)], NONE);
        if table != NONE {
            self.free.push(table);
        }
        table != NONE
    }
}
