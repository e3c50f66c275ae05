//! The element of a pool and the handle that owns it: everything about an mbuf that needs `unsafe`.
//!
//! | field | who writes it | when |
//! |---|---|---|
//! | `pool` | the pool, once | at construction |
//! | `refcnt` | any holder of a handle to the data room | clone, drop |
//! | the rest | the one [`Mbuf`] that owns the element | while it is owned |
//!
//! Elements are private memory: a device reaches only the data room that `room` points at (see the DMA
//! contract at [`Region`](super::Region)). A free element has `refcnt` 1, no `next` and no `direct`.

use std::ptr::NonNull;
use std::slice;

use super::mbuf::NoRoom;
use super::offload::Offload;
use super::pool::PoolInner;
use super::pool::sync::{AtomicU16, Ordering, fence};
use super::region::Iova;

/// One cache line of metadata.
#[repr(C, align(64))]
pub(super) struct Element {
    pub pool: NonNull<PoolInner>,
    /// Start of the data room in use: our own, or that of `direct`.
    pub room: *mut u8,
    pub next: Option<Mbuf>,
    /// For a clone: the element that owns the data room, of which we hold one count.
    pub direct: Option<NonNull<Element>>,
    /// With `offload`, which lies beside it, cleared by one store at every allocation.
    pub rx_ticks: u64,
    /// Of a frame's first segment.
    pub offload: Offload,
    /// Where the data starts, in bytes from `room`.
    pub data_off: u32,
    pub len: u32,
    /// Meant only if `offload` says so.
    pub hash: u32,
    /// The data room in use, headroom included, in units of [`ROOM_UNIT_BYTES`].
    pub room_units: u16,
    /// Handles that may reach this element's own data room.
    pub refcnt: AtomicU16,
}

/// Data rooms have a length that is a multiple of this, so that 16 bits can say it.
pub(super) const ROOM_UNIT_BYTES: u32 = 8;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Element>() == 64);

/// An owning handle to one frame, or to one segment of it; gives itself back to its pool on drop.
///
/// Dropping on the thread that adopted the pool is a plain push; on any other thread the mbuf goes
/// through the pool's return ring. Both are bounded, wait for nobody and allocate nothing.
#[repr(transparent)]
pub struct Mbuf(NonNull<Element>);

// SAFETY: an Mbuf is the only handle to its element's plain fields; `refcnt` is atomic; the pool outlives
// every element that is out (`pool.rs`) and takes frees from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: `&Mbuf` gives out only copies and `&[u8]`.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    /// # Safety
    /// `element` is initialised, of a living pool, and owned by nobody else.
    #[inline]
    pub(super) unsafe fn from_element(element: NonNull<Element>) -> Self {
        Self(element)
    }

    /// The element, of which the caller is the owner now.
    #[inline]
    pub(super) fn into_element(self) -> NonNull<Element> {
        let element = self.0;
        std::mem::forget(self);
        element
    }

    /// The pool to whose stack the element goes when this handle is dropped, if that is all there is to it: no clone, no
    /// other segment.
    #[inline]
    pub(super) fn plain_of(&self) -> Option<NonNull<PoolInner>> {
        let Element { pool, next, direct, refcnt, .. } = self.element();
        // ORDERING: Acquire. As in `give_up`: with a count of 1 nobody else is left.
        let alone = next.is_none() && direct.is_none() && refcnt.load(Ordering::Acquire) == 1;
        alone.then_some(*pool)
    }

    /// Our element's fields. A shared reference only while nobody, we included, writes them.
    #[inline]
    fn element(&self) -> &Element {
        // SAFETY: we own the plain fields and `&self` keeps us from writing them; `refcnt`, which other
        // holders write, is an atomic.
        unsafe { self.0.as_ref() }
    }

    /// Where to write our element's plain fields.
    #[inline]
    fn element_mut(&mut self) -> *mut Element {
        self.0.as_ptr()
    }

    /// Takes the state of a fresh allocation: empty, data behind `headroom_bytes`.
    #[inline]
    pub(super) fn reset(&mut self, headroom_bytes: u32) {
        self.set_data(headroom_bytes, 0);
        self.set_rx_ticks(0);
        // SAFETY: we own the plain fields and hold no reference to them.
        unsafe { (*self.element_mut()).offload = Offload::NONE }
    }

    #[inline]
    fn set_data(&mut self, data_off: u32, len: u32) {
        let element = self.element_mut();
        // SAFETY: we own the plain fields and hold no reference to them.
        unsafe {
            (*element).data_off = data_off;
            (*element).len = len;
        }
    }

    /// Moves the bounds of the data within the data room.
    ///
    /// # Panics
    /// When they do not lie in it: every caller checks first, and a mistake must not become a bad read.
    #[inline]
    pub(crate) fn set_bounds(&mut self, data_off: usize, len: usize) {
        let end = data_off.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.room_bytes()), "data outside its room");
        #[allow(clippy::cast_possible_truncation)] // both are below room_bytes, a u32
        self.set_data(data_off as u32, len as u32);
    }

    /// Bytes of data in this segment.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.element().len as usize
    }

    /// Whether this segment holds no data.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Free bytes in front of the data.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.element().data_off as usize
    }

    /// Bytes of the whole room: headroom, data, tailroom.
    #[inline]
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        usize::from(self.element().room_units) * ROOM_UNIT_BYTES as usize
    }

    /// What is still to be done with the frame, or known of it. Of the frame's first segment.
    #[inline]
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.element().offload
    }

    /// Says what is still to be done with the frame, or known of it, to the frame's first segment. A fresh mbuf says
    /// [`Offload::NONE`]. The hash stays.
    ///
    /// Ports and what lies behind them rely on it: the places must lie within the frame. A frame for which they do not
    /// is never sent, but dropped and counted (`tx_errors`).
    #[inline]
    pub fn set_offload(&mut self, offload: Offload) {
        let offload = offload.with_hash(self.element().offload.has_hash());
        // SAFETY: we own the plain fields and hold no reference to them.
        unsafe { (*self.element_mut()).offload = offload }
    }

    /// The hash that the device computed over the frame's addresses and ports, if it did.
    #[inline]
    #[must_use]
    pub fn rx_hash(&self) -> Option<u32> {
        let Element { offload, hash, .. } = self.element();
        offload.has_hash().then_some(*hash)
    }

    /// Notes the device's hash.
    #[inline]
    pub fn set_rx_hash(&mut self, hash: u32) {
        let element = self.element_mut();
        // SAFETY: we own the plain fields and hold no reference to them.
        unsafe {
            (*element).hash = hash;
            (*element).offload = (*element).offload.with_hash(true);
        }
    }

    /// Start of the data as our address; valid for [`len`](Self::len) bytes, and for
    /// [`headroom`](Self::headroom) bytes before. For code that hands the address to a device or copies
    /// from memory that is not ours; anyone else wants [`data`](Self::data).
    #[inline]
    #[must_use]
    pub fn data_ptr(&self) -> *mut u8 {
        let element = self.element();
        // SAFETY: `data_off` lies within the room (`set_bounds`).
        unsafe { element.room.add(element.data_off as usize) }
    }

    /// Start of the data as the device sees it.
    #[inline]
    #[must_use]
    pub fn iova(&self) -> Iova {
        Iova(self.data_ptr() as u64)
    }

    /// This segment's data.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        // SAFETY: the bytes lie within the room, were zeroed or written before, and an mbuf that is owned is
        // not posted to a device for writing (the DMA contract, point 2).
        unsafe { slice::from_raw_parts(self.data_ptr(), self.len()) }
    }

    /// This segment's data for writing; `None` while a clone shares it.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> Option<&mut [u8]> {
        if self.is_shared() {
            return None;
        }
        // SAFETY: as in `data`, and no other handle reaches the room: its count is ours alone.
        Some(unsafe { slice::from_raw_parts_mut(self.data_ptr(), self.len()) })
    }

    /// Whether another handle reaches the same bytes.
    #[inline]
    #[must_use]
    pub fn is_shared(&self) -> bool {
        let element = self.element();
        let refcnt = match element.direct {
            None => &element.refcnt,
            // SAFETY: we hold a count of `direct`; only its atomic is touched.
            Some(direct) => unsafe { &(*direct.as_ptr()).refcnt },
        };
        // ORDERING: Acquire. When we are the last, the other holders' reads of the data came before.
        //           Partner: the Release in `give_up`.
        refcnt.load(Ordering::Acquire) != 1
    }

    /// Ticks of the receiving core's clock when the frame's burst was received; 0 if it was not received.
    #[inline]
    #[must_use]
    pub fn rx_ticks(&self) -> u64 {
        self.element().rx_ticks
    }

    /// Stamps the frame.
    #[inline]
    pub fn set_rx_ticks(&mut self, ticks: u64) {
        // SAFETY: we own the plain fields and hold no reference to them.
        unsafe { (*self.element_mut()).rx_ticks = ticks }
    }

    /// The next segment of the frame.
    #[inline]
    #[must_use]
    pub fn next(&self) -> Option<&Mbuf> {
        self.element().next.as_ref()
    }

    /// The next segment, to change it, cut it off or put one there.
    #[inline]
    pub(super) fn next_mut(&mut self) -> &mut Option<Mbuf> {
        // SAFETY: we own the plain fields; the borrow lasts as long as `&mut self`.
        unsafe { &mut (*self.element_mut()).next }
    }

    /// Makes the fresh `clone` show this segment's bytes without copying them.
    pub(super) fn share_with(&self, clone: &mut Mbuf) {
        let element = self.element();
        let direct = element.direct.unwrap_or(self.0);
        // ORDERING: Relaxed. A new handle is made from an existing one; nothing is published by it.
        // SAFETY: `direct` is our own element or one that we hold a count of; only its atomic is touched.
        let before = unsafe { (*direct.as_ptr()).refcnt.fetch_add(1, Ordering::Relaxed) };
        assert!(before < u16::MAX / 2, "too many clones of one mbuf");
        let Element { room, room_units, data_off, len, offload, hash, .. } = *element;
        let target = clone.element_mut();
        // SAFETY: `clone` is exclusively ours and unshared; its own room is restored when it is given up.
        unsafe {
            (*target).direct = Some(direct);
            (*target).room = room;
            (*target).room_units = room_units;
            (*target).offload = offload;
            (*target).hash = hash;
        }
        clone.set_data(data_off, len);
    }

    /// Grows the data by `count` bytes at the end of this segment (`skb_put`) and returns them, contents
    /// undefined.
    ///
    /// # Errors
    /// [`NoRoom`] when the tailroom is shorter or a clone shares the room.
    #[inline]
    pub fn append(&mut self, count: usize) -> Result<&mut [u8], NoRoom> {
        let Element { data_off, len, room, .. } = *self.element();
        let end = data_off as usize + len as usize;
        let tailroom = self.room_bytes() - end;
        if count > tailroom {
            return Err(NoRoom::Short { asked: count, room: tailroom });
        }
        if self.is_shared() {
            return Err(NoRoom::Shared);
        }
        #[allow(clippy::cast_possible_truncation)] // at most the tailroom, a u32
        self.set_data(data_off, len + count as u32);
        // SAFETY: within the room, of which nobody else has a handle; initialised as in `data`.
        Ok(unsafe { slice::from_raw_parts_mut(room.add(end), count) })
    }

    /// Grows the data by `count` bytes at the front (`skb_push`) and returns them, contents undefined.
    ///
    /// # Errors
    /// [`NoRoom`] when the headroom is shorter or a clone shares the room.
    #[inline]
    pub fn prepend(&mut self, count: usize) -> Result<&mut [u8], NoRoom> {
        let Element { data_off, len, room, .. } = *self.element();
        let headroom = data_off as usize;
        if count > headroom {
            return Err(NoRoom::Short { asked: count, room: headroom });
        }
        if self.is_shared() {
            return Err(NoRoom::Shared);
        }
        #[allow(clippy::cast_possible_truncation)] // at most the headroom, a u32
        self.set_data(data_off - count as u32, len + count as u32);
        // SAFETY: within the room, of which nobody else has a handle; initialised as in `data`.
        Ok(unsafe { slice::from_raw_parts_mut(room.add(headroom - count), count) })
    }

    /// Makes the data what a device has written into this empty mbuf: `written` bytes from its start, of which the
    /// first `skip` are left out. False, and nothing changed, if they would end outside the room.
    #[inline]
    pub(crate) fn set_written(&mut self, skip: u32, written: u32) -> bool {
        let Element { data_off, room_units, .. } = *self.element();
        if written > u32::from(room_units) * ROOM_UNIT_BYTES - data_off || skip > written {
            return false;
        }
        self.set_data(data_off + skip, written - skip);
        true
    }

    /// Appends `count` bytes from memory that is not ours.
    ///
    /// # Errors
    /// [`NoRoom`] when the tailroom is shorter or a clone shares the room.
    ///
    /// # Safety
    /// `from` is valid for `count` bytes and does not lie in this mbuf's room. Others may write there meanwhile.
    #[inline]
    pub(crate) unsafe fn append_from(&mut self, from: *const u8, count: usize) -> Result<(), NoRoom> {
        let to = self.append(count)?.as_mut_ptr();
        // SAFETY: `to` is ours for `count` bytes, `from` as the caller promised. Bytes that change under the copy
        // come out as some mix, which is the sender's loss alone.
        unsafe { copy(from, to, count) };
        Ok(())
    }

    /// `N` bytes of the data room from `offset` behind the start of the data, whether or not they count as data:
    /// what a device has written into an mbuf that was posted empty. `None` beyond the room.
    #[inline]
    pub(crate) fn read_room<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let end = self.headroom().checked_add(offset)?.checked_add(N)?;
        if end > self.room_bytes() {
            return None;
        }
        // SAFETY: within the room; a volatile copy, as a device that lies about completion may still be writing.
        Some(unsafe { self.data_ptr().add(offset).cast::<[u8; N]>().read_volatile() })
    }

    /// Hints the CPU to fetch the first line of the data: the loop knows what it will touch a few frames ahead. For
    /// writing, so that a frame whose addresses are rewritten costs one transfer between the cores' caches and not a
    /// second one to get the right to write.
    #[inline]
    pub fn prefetch_data(&self) {
        prefetch_for_write(self.data_ptr());
    }
}

/// Copies `count` bytes; those of the smallest frames without a call.
///
/// # Safety
/// As `std::ptr::copy_nonoverlapping`.
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    const HALF: usize = 32;
    if (HALF..=2 * HALF).contains(&count) {
        // The first and the last half, which overlap in the middle unless there are 64.
        let rest = count - HALF;
        // SAFETY: both halves lie within the `count` bytes. Both are read before either is written.
        unsafe {
            let first = from.cast::<[u8; HALF]>().read_unaligned();
            let last = from.add(rest).cast::<[u8; HALF]>().read_unaligned();
            to.cast::<[u8; HALF]>().write_unaligned(first);
            to.add(rest).cast::<[u8; HALF]>().write_unaligned(last);
        }
    } else {
        // SAFETY: as the caller promised.
        unsafe { from.copy_to_nonoverlapping(to, count) }
    }
}

/// Brings the cache line of `address` near; never faults, whatever the address.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint, valid for every address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// As [`prefetch`], and takes the line away from other cores' caches.
#[inline]
pub(crate) fn prefetch_for_write(address: *const u8) {
    // Not `_mm_prefetch`: for a target that may lack this kind the compiler makes one for reading of it.
    // SAFETY: a prefetch is a hint, valid for every address, and no operation on a CPU that lacks this kind.
    unsafe {
        std::arch::asm!("prefetchw byte ptr [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        let element = self.element();
        if element.next.is_some() || element.direct.is_some() {
            give_up_linked(self.0);
        } else {
            // SAFETY: the handle is going away, its count with it.
            unsafe { give_up(self.0) }
        }
    }
}

/// Gives up one count of `element`; the last one frees it.
///
/// # Safety
/// The caller owns a count, and the element has no `next` and no `direct` unless other counts remain.
#[inline]
unsafe fn give_up(element: NonNull<Element>) {
    // SAFETY: our count keeps the element alive; only its atomic is touched.
    let refcnt = unsafe { &(*element.as_ptr()).refcnt };
    // ORDERING: Acquire. With a count of 1 nobody else is left, and what the others did with the bytes came
    //           before. Partner: the Release below.
    if refcnt.load(Ordering::Acquire) != 1 {
        // ORDERING: Release. Our reads of the bytes come before the count that lets another reuse them.
        //           Partner: the Acquire above, the fence below and the load in `is_shared`.
        if refcnt.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // ORDERING: Relaxed. Nobody else holds a count; the pool's own hand-over publishes it.
        refcnt.store(1, Ordering::Relaxed);
    }
    // SAFETY: ours was the last count; the pool is alive while an element is out.
    unsafe { (*(*element.as_ptr()).pool.as_ptr()).free(element) }
}

/// The rare way out: chains and clones. A loop, not a recursion: chains may be long.
#[cold]
fn give_up_linked(first: NonNull<Element>) {
    let mut segment = Some(first);
    while let Some(element) = segment {
        // SAFETY: each element comes from the one handle that owned it, so its plain fields are ours.
        unsafe {
            let fields = element.as_ptr();
            segment = (*fields).next.take().map(|mbuf| {
                let next = mbuf.0;
                std::mem::forget(mbuf);
                next
            });
            if let Some(direct) = (*fields).direct.take() {
                let pool = (*fields).pool.as_ptr();
                (*fields).room = (*pool).room_of(element);
                (*fields).room_units = (*pool).room_units;
                give_up(direct);
            }
            give_up(element);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::copy;

    #[test]
    fn copies_every_length_and_nothing_beside() {
        let from: Vec<u8> = (1..=255).collect();
        for count in 0..=255 {
            let mut to = [0; 256];
            // SAFETY: both have 255 bytes at least.
            unsafe { copy(from.as_ptr(), to.as_mut_ptr(), count) };
            assert_eq!((&to[..count], to[count]), (&from[..count], 0), "{count} bytes");
        }
    }
}
