//! The split virtqueue (virtio 1.2 §2.7): three areas in shared memory and the rules of who writes which.
//!
//! | area | written by | read by |
//! |---|---|---|
//! | descriptor table, available ring | [`driver`] | [`device`] |
//! | used ring | [`device`] | [`driver`] |
//!
//! Each side publishes by a release store of its ring's index and looks by an acquire load of the other's;
//! entries below an index are complete before it moves. Each side keeps a private shadow of what it wrote and
//! believes nothing it reads back: the other side is hostile.
//!
//! [`Areas`] is the one place that touches the shared bytes.

pub mod device;
pub mod driver;

use std::sync::atomic::{AtomicU16, Ordering};

use super::spec::split::{Descriptor, RING_ENTRIES, RING_IDX, UsedElement};
use crate::mem::prefetch_for_write;

/// The three areas of one virtqueue in our address space.
///
/// All access is volatile or atomic, and every index is masked to the queue's size, so no value that the
/// other side writes can lead outside the areas.
pub(crate) struct Areas {
    descriptors: *mut Descriptor,
    available: *mut u8,
    used: *mut u8,
    mask: u16,
}

// SAFETY: plain pointers to memory that stays mapped as the constructor was promised; all access is volatile
// or atomic.
unsafe impl Send for Areas {}

impl Areas {
    /// # Safety
    /// The areas are mapped, of the sizes in `spec::split` for `size` entries, aligned (16, 2 and 4 bytes), and
    /// stay so as long as the value lives; no Rust reference covers them. `size` is a power of two.
    pub(crate) unsafe fn new(descriptors: *mut u8, available: *mut u8, used: *mut u8, size: u16) -> Self {
        debug_assert!(size.is_power_of_two());
        debug_assert!((descriptors as usize).is_multiple_of(16));
        debug_assert!((available as usize).is_multiple_of(2) && (used as usize).is_multiple_of(4));
        Self { descriptors: descriptors.cast(), available, used, mask: size - 1 }
    }

    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.mask + 1
    }

    #[inline]
    fn at(&self, index: u16) -> usize {
        usize::from(index & self.mask)
    }

    #[inline]
    fn index_of(&self, ring: *mut u8) -> &AtomicU16 {
        // SAFETY: `idx` lies 2 bytes into the ring, which is 2-byte aligned and mapped; both sides access it
        // atomically.
        unsafe { AtomicU16::from_ptr(ring.add(RING_IDX).cast()) }
    }

    #[inline]
    pub(crate) fn read_descriptor(&self, id: u16) -> Descriptor {
        // SAFETY: the index is masked. One read: what it returns is private.
        unsafe { self.descriptors.add(self.at(id)).read_volatile() }
    }

    #[inline]
    pub(crate) fn write_descriptor(&self, id: u16, descriptor: Descriptor) {
        // SAFETY: the index is masked.
        unsafe { self.descriptors.add(self.at(id)).write_volatile(descriptor) }
    }

    /// Writes a descriptor, unless it stands there already: then its line stays in the device's cache as well. What is read
    /// back is compared and nothing else.
    #[inline]
    pub(crate) fn update_descriptor(&self, id: u16, descriptor: Descriptor) {
        let Descriptor { address, len, flags, next } = descriptor;
        let words = [address, u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48];
        // SAFETY: the index is masked; two words are a descriptor, little-endian as this machine is.
        unsafe {
            let at = self.descriptors.add(self.at(id)).cast::<[u64; 2]>();
            if at.read_volatile() != words {
                at.write_volatile(words);
            }
        }
    }

    #[inline]
    pub(crate) fn read_available(&self, index: u16) -> u16 {
        // SAFETY: the index is masked.
        unsafe { self.available.add(RING_ENTRIES).cast::<u16>().add(self.at(index)).read_volatile() }
    }

    #[inline]
    pub(crate) fn write_available(&self, index: u16, id: u16) {
        // SAFETY: the index is masked.
        unsafe { self.available.add(RING_ENTRIES).cast::<u16>().add(self.at(index)).write_volatile(id) }
    }

    #[inline]
    pub(crate) fn read_used(&self, index: u16) -> UsedElement {
        // SAFETY: the index is masked.
        unsafe { self.used.add(RING_ENTRIES).cast::<UsedElement>().add(self.at(index)).read_volatile() }
    }

    #[inline]
    pub(crate) fn write_used(&self, index: u16, element: UsedElement) {
        // SAFETY: the index is masked.
        unsafe {
            self.used.add(RING_ENTRIES).cast::<UsedElement>().add(self.at(index)).write_volatile(element)
        }
    }

    /// Takes the lines of `count` used elements from `index` on away from the driver's core, ahead of
    /// [`write_used`](Self::write_used): stores wait for each other, prefetches do not.
    #[inline]
    pub(crate) fn prefetch_used(&self, index: u16, count: usize) {
        const A_LINE: usize = 64 / size_of::<UsedElement>();
        let ring = self.used.wrapping_add(RING_ENTRIES).cast::<UsedElement>();
        for element in (0..=u16::MAX).take(count).step_by(A_LINE) {
            prefetch_for_write(ring.wrapping_add(self.at(index.wrapping_add(element))).cast());
        }
    }

    #[inline]
    pub(crate) fn available_index(&self) -> u16 {
        // ORDERING: Acquire. The entries and descriptors below the index are complete.
        //           Partner: the driver's Release in `publish_available` (or its wmb). virtio 1.2 §2.7.13.3.1.
        self.index_of(self.available).load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn publish_available(&self, index: u16) {
        // ORDERING: Release. Descriptors, entries and the mbufs' bytes become visible before this index.
        //           Partner: the device's read of avail.idx. virtio 1.2 §2.7.13.3.1.
        self.index_of(self.available).store(index, Ordering::Release);
    }

    #[inline]
    pub(crate) fn used_index(&self) -> u16 {
        // ORDERING: Acquire. The used elements below the index, and the buffers they name, are complete.
        //           Partner: the device's Release in `publish_used` (or its wmb). virtio 1.2 §2.7.8.2, §2.7.14.
        self.index_of(self.used).load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn publish_used(&self, index: u16) {
        // ORDERING: Release. The buffers' bytes and the used elements become visible before this index.
        //           Partner: the driver's read of used.idx. virtio 1.2 §2.7.8.2.
        self.index_of(self.used).store(index, Ordering::Release);
    }

    #[inline]
    pub(crate) fn available_flags(&self) -> u16 {
        // SAFETY: the first two bytes of the ring.
        unsafe { self.available.cast::<u16>().read_volatile() }
    }

    pub(crate) fn set_available_flags(&self, flags: u16) {
        // SAFETY: the first two bytes of the ring.
        unsafe { self.available.cast::<u16>().write_volatile(flags) }
    }

    #[inline]
    pub(crate) fn used_flags(&self) -> u16 {
        // SAFETY: the first two bytes of the ring.
        unsafe { self.used.cast::<u16>().read_volatile() }
    }

    pub(crate) fn set_used_flags(&self, flags: u16) {
        // SAFETY: the first two bytes of the ring.
        unsafe { self.used.cast::<u16>().write_volatile(flags) }
    }

    #[inline]
    fn used_event_at(&self) -> *mut u16 {
        // SAFETY: behind the last entry of the available ring. virtio 1.2 §2.7.6.
        unsafe { self.available.add(RING_ENTRIES).cast::<u16>().add(usize::from(self.size())) }
    }

    #[inline]
    fn avail_event_at(&self) -> *mut u16 {
        // SAFETY: behind the last element of the used ring. virtio 1.2 §2.7.8.
        unsafe {
            self.used.add(RING_ENTRIES).cast::<UsedElement>().add(usize::from(self.size())).cast::<u16>()
        }
    }

    /// Which used buffer the driver wants to be told of (`EVENT_IDX`).
    #[inline]
    pub(crate) fn used_event(&self) -> u16 {
        // SAFETY: within the available ring.
        unsafe { self.used_event_at().read_volatile() }
    }

    pub(crate) fn set_used_event(&self, index: u16) {
        // SAFETY: within the available ring.
        unsafe { self.used_event_at().write_volatile(index) }
    }

    /// Which available buffer the device wants to be told of (`EVENT_IDX`).
    #[inline]
    pub(crate) fn avail_event(&self) -> u16 {
        // SAFETY: within the used ring.
        unsafe { self.avail_event_at().read_volatile() }
    }

    pub(crate) fn set_avail_event(&self, index: u16) {
        // SAFETY: within the used ring.
        unsafe { self.avail_event_at().write_volatile(index) }
    }
}

/// Whether `event` is one of the entries that moving an index from `old` to `new` published. virtio 1.2 §2.7.10.1.
#[inline]
pub(crate) fn event_is_due(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
