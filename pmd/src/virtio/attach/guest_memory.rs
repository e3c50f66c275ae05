//! A driver's memory as the device side sees it: regions of the driver's addresses, mapped here.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::mem::{Iova, Region};

/// The most regions one driver's memory may consist of, as in every vhost-user backend.
pub const MAX_REGIONS: usize = 8;

/// One contiguous piece of a driver's memory, mapped here.
pub struct GuestRegion {
    start: u64,
    len_bytes: u64,
    pub(super) host: *mut u8,
    // Keeps the mapping alive; never looked into.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: `host` is only an address here; this module never dereferences it, and the owner that keeps it
// mapped is Send + Sync itself.
unsafe impl Send for GuestRegion {}
// SAFETY: as above; nothing is mutable through a shared GuestRegion.
unsafe impl Sync for GuestRegion {}

impl GuestRegion {
    /// Says that the driver's addresses from `start` on, `len_bytes` of them, are our memory at `host`.
    ///
    /// # Safety
    ///
    /// `host` to `host + len_bytes` is mapped readable and writable until `owner` is dropped, and is only ever
    /// accessed as memory that another party changes at any time (the DMA contract of
    /// [`Region`]).
    #[must_use]
    pub unsafe fn new(
        start: Iova,
        len_bytes: usize,
        host: *mut u8,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { start: start.0, len_bytes: len_bytes as u64, host, _owner: owner }
    }

    #[inline]
    fn translate(&self, iova: u64, len_bytes: usize) -> Option<*mut u8> {
        // Below the start this wraps to a number no region is long enough for.
        let offset = iova.wrapping_sub(self.start);
        if offset < self.len_bytes && len_bytes as u64 <= self.len_bytes - offset {
            // Fits a usize: it is less than the length, which was one.
            #[allow(clippy::cast_possible_truncation)]
            Some(self.host.wrapping_add(offset as usize))
        } else {
            None
        }
    }

    fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len_bytes)
    }
}

impl fmt::Debug for GuestRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x} at {:p}", self.start, self.len_bytes, self.host)
    }
}

/// Why a list of regions is not a driver's memory.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GuestMemoryError {
    /// No region, or more than we take.
    #[error(
        "driver shares {count} memory regions, from 1 to {MAX_REGIONS} are possible; with DPDK as the driver use --single-file-segments"
    )]
    Count {
        /// How many there were.
        count: usize,
    },
    /// A region of no bytes, or one that wraps around the end of the address space.
    #[error(
        "driver shares a memory region of {len_bytes} bytes at {start:#x}, which is not a range of addresses"
    )]
    Range {
        /// Its first address.
        start: u64,
        /// Its length.
        len_bytes: u64,
    },
    /// Two regions share addresses.
    #[error("driver shares two memory regions that overlap at {at:#x}")]
    Overlap {
        /// The first address they share.
        at: u64,
    },
}

/// All the memory a driver shares with us, by the addresses that it puts into descriptors.
#[derive(Debug)]
pub struct GuestMemory {
    // Apart from the others: an engine's or a DPDK process's memory is one region, and then that is all there is
    // to look at.
    first: GuestRegion,
    others: Vec<GuestRegion>,
}

impl GuestMemory {
    /// Takes the regions in any order; they may not overlap.
    pub fn new(mut regions: Vec<GuestRegion>) -> Result<Self, GuestMemoryError> {
        let count = regions.len();
        if count == 0 || count > MAX_REGIONS {
            return Err(GuestMemoryError::Count { count });
        }
        regions.sort_by_key(|region| region.start);
        let mut previous_end = 0;
        for region in &regions {
            let end = match region.end() {
                Some(end) if region.len_bytes > 0 => end,
                _ => {
                    return Err(GuestMemoryError::Range { start: region.start, len_bytes: region.len_bytes });
                }
            };
            if region.start < previous_end {
                return Err(GuestMemoryError::Overlap { at: region.start });
            }
            previous_end = end;
        }
        // The largest first: most buffers lie there.
        regions.sort_by_key(|region| std::cmp::Reverse(region.len_bytes));
        let first = regions.remove(0);
        Ok(Self { first, others: regions })
    }

    /// The memory of a driver in this process, whose addresses are ours.
    #[must_use]
    pub fn of_region(region: &Arc<Region>) -> Self {
        // SAFETY: the mapping lives as long as the region, and its bytes are only ever accessed under the DMA
        // contract.
        let first = unsafe {
            GuestRegion::new(region.iova(), region.len_bytes(), region.base(), Arc::clone(region) as _)
        };
        Self { first, others: Vec::new() }
    }

    /// Where we see the driver's `len_bytes` bytes from `iova` on, `None` unless all of them lie in one region.
    ///
    /// A length of 0 is translated like 1: the address must be the driver's even if nothing is read there.
    /// The pointer is valid as long as this `GuestMemory` lives. At most [`MAX_REGIONS`] comparisons.
    #[inline]
    #[must_use]
    pub fn translate(&self, iova: Iova, len_bytes: usize) -> Option<*mut u8> {
        match self.first.translate(iova.0, len_bytes) {
            None if !self.others.is_empty() => self.translate_in_others(iova, len_bytes),
            found => found,
        }
    }

    fn translate_in_others(&self, iova: Iova, len_bytes: usize) -> Option<*mut u8> {
        self.others.iter().find_map(|region| region.translate(iova.0, len_bytes))
    }
}
