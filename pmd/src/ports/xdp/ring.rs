//! A ring shared with the kernel: one side produces entries, the other consumes them.
//!
//! | | who writes | what it makes visible |
//! |---|---|---|
//! | entries | the producer | |
//! | `producer` | the producer, Release | the entries below it |
//! | `consumer` | the consumer, Release | that the entries below it have been read, and may be written |
//! | `flags` | the kernel | whether it sleeps until it is called |
//!
//! Both indices run freely and wrap at 2^32. What the kernel wrote is checked before it is believed: an index that goes
//! back or beyond what there is stops the queue. Source: Linux `Documentation/networking/af_xdp.rst`,
//! `net/xdp/xsk_queue.h`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::sys::RingKind;
use crate::port::QueueFault;

/// A mapped ring, to be given to its [`Producer`] or [`Consumer`].
pub(super) struct Ring<T> {
    map: *mut libc::c_void,
    map_bytes: usize,
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: *const AtomicU32,
    entries: *mut T,
    size: u32,
    kind: RingKind,
}

// SAFETY: the mapping is the process's, valid on every thread, and its parts that the kernel writes are only reached by
// atomics and volatile accesses.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps the ring of a socket on which it has been made with this size.
    pub(super) fn new(
        socket: BorrowedFd<'_>,
        kind: RingKind,
        size: u32,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        assert!(size.is_power_of_two(), "ring of {size}");
        let small = |offset: u64| usize::try_from(offset).ok().filter(|offset| *offset < 1 << 20);
        let fields = [offsets.producer, offsets.consumer, offsets.flags, offsets.desc].map(small);
        let [Some(producer), Some(consumer), Some(flags), Some(entries)] = fields else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if fields.iter().flatten().any(|offset| offset % 4 != 0) || entries % align_of::<T>() != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let bytes = entries + size as usize * size_of::<T>();
        let map_bytes = bytes.max(producer.max(consumer).max(flags) + size_of::<AtomicU32>());
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags_of_map = libc::MAP_SHARED | libc::MAP_POPULATE;
        let (fd, offset) = (socket.as_raw_fd(), kind.page_offset());
        // SAFETY: a fresh range of the kernel's choice.
        let map =
            unsafe { libc::mmap(std::ptr::null_mut(), map_bytes, protection, flags_of_map, fd, offset) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all of them lie within the mapping, by the sizes above.
        unsafe {
            Ok(Self {
                map,
                map_bytes,
                producer: map.byte_add(producer).cast(),
                consumer: map.byte_add(consumer).cast(),
                flags: map.byte_add(flags).cast(),
                entries: map.byte_add(entries).cast(),
                size,
                kind,
            })
        }
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: below `size`, of which there are so many.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }

    /// Shared with the kernel, which writes it as we do: as an atomic.
    #[inline]
    fn index(&self, place: *const AtomicU32) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned, and the mapping lives as long as `self`.
        unsafe { &*place }
    }

    #[cold]
    fn jumped(&self, index: u32, by: u32) -> QueueFault {
        let ring = match self.kind {
            RingKind::Rx => "rx",
            RingKind::Tx => "tx",
            RingKind::Fill => "fill",
            RingKind::Completion => "completion",
        };
        QueueFault::XdpIndexJump { ring, index, by, size: self.size }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody has an address in it any more.
        let unmapped = unsafe { libc::munmap(self.map, self.map_bytes) };
        debug_assert_eq!(unmapped, 0);
    }
}

/// The end of a ring at which we add entries: fill and tx.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Where the next entry goes, and what the kernel has been told of it.
    next: u32,
    published: u32,
    /// What the kernel had consumed when we looked.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    pub(super) fn new(ring: Ring<T>) -> Self {
        Self { ring, next: 0, published: 0, consumed: 0 }
    }

    /// How many entries may be added. Looks at the kernel's index only when there are fewer than `wanted` otherwise.
    ///
    /// # Errors
    /// [`QueueFault::XdpIndexJump`].
    #[inline]
    pub(super) fn free(&mut self, wanted: usize) -> Result<usize, QueueFault> {
        let free = self.known_free();
        if free >= wanted {
            return Ok(free);
        }
        self.look()?;
        Ok(self.known_free())
    }

    #[inline]
    fn known_free(&self) -> usize {
        (self.ring.size - self.next.wrapping_sub(self.consumed)) as usize
    }

    /// Entries that the kernel has not consumed yet.
    ///
    /// # Errors
    /// [`QueueFault::XdpIndexJump`].
    #[inline]
    pub(super) fn waiting(&mut self) -> Result<u32, QueueFault> {
        self.look()?;
        Ok(self.published.wrapping_sub(self.consumed))
    }

    #[inline]
    fn look(&mut self) -> Result<(), QueueFault> {
        // ORDERING: Acquire. The kernel has read the entries below before we overwrite them.
        //           Partner: the Release store of the consumer in the kernel (`__xskq_cons_release`).
        let consumed = self.ring.index(self.ring.consumer).load(Ordering::Acquire);
        let moved = consumed.wrapping_sub(self.consumed);
        if moved > self.published.wrapping_sub(self.consumed) {
            return Err(self.ring.jumped(consumed, moved));
        }
        self.consumed = consumed;
        Ok(())
    }

    /// Adds an entry; the caller knows from [`free`](Self::free) that there is room.
    #[inline]
    pub(super) fn put(&mut self, entry: T) {
        // SAFETY: within the ring; the kernel does not read it before it is published.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the kernel what was added. Returns whether there was something.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.next {
            return false;
        }
        self.published = self.next;
        // ORDERING: Release. The entries come before the index. Partner: the Acquire load of the producer in the kernel
        //           (`__xskq_cons_peek`).
        self.ring.index(self.ring.producer).store(self.next, Ordering::Release);
        true
    }

    /// Whether the kernel waits to be called before it looks at the ring. After [`publish`](Self::publish).
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // ORDERING: SeqCst. The index is visible before the flag is read, or a driver might set the flag and look at the
        //           old index while we believe the old flag. Partner: the driver sets the flag, then looks at the ring
        //           once more (`xsk_set_rx_need_wakeup`, `xsk_set_tx_need_wakeup` and their callers).
        fence(Ordering::SeqCst);
        self.ring.index(self.ring.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The end of a ring at which we take entries: rx and completion.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// The next entry to take, and what the kernel has been told of it.
    next: u32,
    released: u32,
    /// What the kernel had produced when we looked.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    pub(super) fn new(ring: Ring<T>) -> Self {
        Self { ring, next: 0, released: 0, produced: 0 }
    }

    /// How many entries can be taken. Looks at the kernel's index only when there are fewer than `wanted` otherwise.
    ///
    /// # Errors
    /// [`QueueFault::XdpIndexJump`].
    #[inline]
    pub(super) fn ready(&mut self, wanted: usize) -> Result<usize, QueueFault> {
        let ready = self.produced.wrapping_sub(self.next) as usize;
        if ready >= wanted {
            return Ok(ready);
        }
        // ORDERING: Acquire. The entries below, and the bytes of the frames they name, were written before.
        //           Partner: the Release store of the producer in the kernel (`xskq_prod_submit`).
        let produced = self.ring.index(self.ring.producer).load(Ordering::Acquire);
        let moved = produced.wrapping_sub(self.produced);
        if produced.wrapping_sub(self.released) > self.ring.size || moved > self.ring.size {
            return Err(self.ring.jumped(produced, moved));
        }
        self.produced = produced;
        Ok(produced.wrapping_sub(self.next) as usize)
    }

    /// Takes the next entry; the caller knows from [`ready`](Self::ready) that there is one.
    #[inline]
    pub(super) fn take(&mut self) -> T {
        // SAFETY: within the ring. Once, into private memory: what a second look would show does not matter.
        let entry = unsafe { self.ring.entry(self.next).read_volatile() };
        self.next = self.next.wrapping_add(1);
        entry
    }

    /// Lets the kernel reuse the entries that were taken.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.released != self.next {
            self.released = self.next;
            // ORDERING: Release. Our reads of the entries come before the index. Partner: the load of the consumer in
            //           the kernel (`xskq_prod_nb_free`), on which its writes depend.
            self.ring.index(self.ring.consumer).store(self.next, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
