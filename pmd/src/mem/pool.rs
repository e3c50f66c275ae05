//! A pool of mbufs that belongs to one core.
//!
//! | call | who | cost |
//! |---|---|---|
//! | [`Pool::adopt`] | the thread that will be its home; one at a time | one compare-and-swap |
//! | [`HomePool::alloc`], [`HomePool::alloc_bulk`] | the home thread | pop from a private stack |
//! | drop of an [`Mbuf`] at home, [`Freeing`] many | the home thread | push to that stack, no atomic write |
//! | drop of an [`Mbuf`] elsewhere, [`Freeing`] many | any thread, any time | push into the return ring |
//! | drop of [`HomePool`] | the home thread | gives the home up; another thread may adopt |
//!
//! The home drains the return ring in bulk when its stack runs short. The ring has room for every element
//! of the pool, so a push into it cannot fail.
//!
//! *Visibility.* What a foreign thread did with an element comes before the home's next use of it through
//! the ring's own synchronisation; what one home did comes before the next home through `owner`.
//!
//! *Lifetime.* Elements hold no count of their pool (that would be an atomic per packet). The pool's
//! memory goes when the last handle is dropped **and** every element is back; if some are still out then,
//! the memory is kept for good and a warning says so.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, MmapMut, MmapRaw};

use super::element::{Element, Mbuf, ROOM_UNIT_BYTES};
use super::offload::Offload;
use super::region::Region;
use sync::{ArrayQueue, AtomicU16, AtomicU64, Ordering, OwnerCell};

mod bulk;
mod config;
pub(super) mod sync;

pub use bulk::Freeing;
pub use config::{PoolConfig, PoolError, PoolLevels};

/// A foreign-freed element on its way home.
struct Returned(NonNull<Element>);
// SAFETY: the element's last handle is gone; whoever pops it from the ring owns it.
unsafe impl Send for Returned {}

pub(super) struct PoolInner {
    /// The home thread's token, [`NOBODY`](sync::NOBODY) when there is none.
    owner: AtomicU64,
    /// Bytes of a room, headroom included, in units of [`ROOM_UNIT_BYTES`].
    pub(super) room_units: u16,
    headroom_bytes: u32,
    stride_bytes: usize,
    rooms: *mut u8,
    elements: MmapRaw,
    mbufs: usize,
    /// Free elements. Touched only by the owner, or by the last handle's drop.
    stack: OwnerCell<Stack>,
    returns: ArrayQueue<Returned>,
    _region: Arc<Region>,
}

/// On cache lines of its own: the home core writes `len` all the time, every core reads `owner`.
#[repr(align(128))]
struct Stack {
    /// Room for every element of the pool; those from `len` on mean nothing.
    slots: Box<[NonNull<Element>]>,
    len: usize,
}

impl Stack {
    fn new(mbufs: usize) -> Self {
        Self { slots: vec![NonNull::dangling(); mbufs].into(), len: 0 }
    }

    #[inline]
    fn push(&mut self, element: NonNull<Element>) {
        debug_assert!(self.len < self.slots.len(), "an element is here twice");
        // SAFETY: there is a slot for every element, and this one was not on the stack: it had an owner.
        unsafe { *self.slots.get_unchecked_mut(self.len) = element }
        self.len += 1;
    }

    #[inline]
    fn pop(&mut self) -> Option<NonNull<Element>> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: below the former length.
        Some(unsafe { *self.slots.get_unchecked(self.len) })
    }

    /// Pushes all of them at once: the length, on which the next push or pop depends, is read and written once.
    #[inline]
    fn push_all(&mut self, elements: &[NonNull<Element>]) {
        debug_assert!(elements.len() <= self.slots.len() - self.len, "an element is here twice");
        // SAFETY: as in `push`.
        unsafe { self.slots.get_unchecked_mut(self.len..self.len + elements.len()) }
            .copy_from_slice(elements);
        self.len += elements.len();
    }

    /// Takes at most `count` at once, the last pushed at the end.
    #[inline]
    fn pop_many(&mut self, count: usize) -> &[NonNull<Element>] {
        let before = self.len;
        self.len -= count.min(before);
        // SAFETY: both are at most the number of slots, and in this order.
        unsafe { self.slots.get_unchecked(self.len..before) }
    }
}

impl PoolInner {
    #[inline]
    fn is_home(&self) -> bool {
        // ORDERING: Relaxed. If the value is our token then we wrote it; any other value says no, and a thread that
        //           never adopted a pool has a token that no owner has.
        self.owner.load(Ordering::Relaxed) == sync::token()
    }

    #[inline]
    fn data_room_bytes(&self) -> usize {
        usize::from(self.room_units) * ROOM_UNIT_BYTES as usize - self.headroom_bytes as usize
    }

    /// Takes back an element whose last handle is gone.
    #[inline]
    pub(super) fn free(&self, element: NonNull<Element>) {
        if self.is_home() {
            // SAFETY: we are the owner thread, and no borrow of the stack lives across a call.
            unsafe { self.stack.with(|stack| stack.push(element)) }
        } else {
            self.free_foreign(element);
        }
    }

    /// Takes back elements whose last handles are gone. Nothing of the pool may be touched afterwards: these may have been
    /// all that kept it.
    #[inline]
    fn free_all(&self, elements: &[NonNull<Element>]) {
        if self.is_home() {
            // SAFETY: as in `free`.
            unsafe { self.stack.with(|stack| stack.push_all(elements)) }
        } else {
            elements.iter().for_each(|element| self.free_foreign(*element));
        }
    }

    #[cold]
    #[inline(never)]
    fn free_foreign(&self, element: NonNull<Element>) {
        let pushed = self.returns.push(Returned(element));
        debug_assert!(pushed.is_ok(), "the ring has room for every element");
    }

    /// The element's own data room.
    pub(super) fn room_of(&self, element: NonNull<Element>) -> *mut u8 {
        let index = (element.as_ptr() as usize - self.elements.as_mut_ptr() as usize) / size_of::<Element>();
        // SAFETY: one room was carved for each element.
        unsafe { self.rooms.add(index * self.stride_bytes) }
    }

    /// Moves everything in the return ring to the stack. Bounded by the pool's size.
    ///
    /// # Safety
    /// The caller is the owner thread, or the only one left.
    #[cold]
    #[inline(never)]
    unsafe fn drain_returns(&self) {
        for _ in 0..self.mbufs {
            let Some(Returned(element)) = self.returns.pop() else { break };
            // SAFETY: as the caller promised; the borrow ends with the statement.
            unsafe { self.stack.with(|stack| stack.push(element)) }
        }
    }
}

/// The last handle's duty: free the pool if everything is home, keep it if not.
struct PoolShared(NonNull<PoolInner>);

// SAFETY: the fields of PoolInner are immutable, atomic, a concurrent queue, or (the stack) touched by the
// owner thread alone, which hands over through `owner`.
unsafe impl Send for PoolShared {}
// SAFETY: as for Send.
unsafe impl Sync for PoolShared {}

impl PoolShared {
    #[inline]
    fn inner(&self) -> &PoolInner {
        // SAFETY: freed only by our own drop.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for PoolShared {
    fn drop(&mut self) {
        let inner = self.inner();
        // ORDERING: Acquire. The last home's pushes come before. Partner: the Release in HomePool::drop.
        debug_assert_eq!(inner.owner.load(Ordering::Acquire), sync::NOBODY, "a HomePool holds a handle");
        // SAFETY: the last handle: no owner is left and none can come.
        let home = unsafe {
            inner.drain_returns();
            inner.stack.with(|stack| stack.len)
        };
        if home == inner.mbufs {
            // SAFETY: made by Box::into_raw in Pool::new; every element is home, so no Mbuf points here, and
            // a push into the ring touches it for the last time before its element can be popped.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        } else {
            log::warn!(
                "{} of {} mbufs were never freed; their pool's memory is kept",
                inner.mbufs - home,
                inner.mbufs
            );
        }
    }
}

/// A pool of equal mbufs. Cloning it clones the handle.
#[derive(Clone)]
pub struct Pool(Arc<PoolShared>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("mbufs", &self.0.inner().mbufs).finish_non_exhaustive()
    }
}

impl Pool {
    /// Carves the data rooms from `region` and allocates the metadata privately.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn new(region: &Arc<Region>, config: PoolConfig) -> Result<Self, PoolError> {
        config.check()?;
        let PoolConfig { mbufs, headroom_bytes, .. } = config;
        let rooms = region.carve(config.region_bytes(), 64)?.ptr;
        let metadata = |source| PoolError::Metadata { mbufs, source };
        let map = MmapMut::map_anon(mbufs * size_of::<Element>()).map_err(metadata)?;
        // A hint; without transparent hugepages the metadata just costs more TLB entries.
        let _ = map.advise(Advice::HugePage);
        let inner = Box::new(PoolInner {
            owner: AtomicU64::new(sync::NOBODY),
            room_units: config.room_units(),
            headroom_bytes,
            stride_bytes: config.stride_bytes(),
            rooms,
            elements: MmapRaw::from(map),
            mbufs,
            stack: OwnerCell::new(Stack::new(mbufs)),
            returns: ArrayQueue::new(mbufs),
            _region: Arc::clone(region),
        });
        let inner = NonNull::from(Box::leak(inner));
        // SAFETY: just made, not yet shared.
        unsafe { fill(inner) };
        Ok(Self(Arc::new(PoolShared(inner))))
    }

    /// Makes the calling thread the pool's home.
    ///
    /// # Errors
    /// [`PoolError::Adopted`] while another home exists.
    pub fn adopt(&self) -> Result<HomePool, PoolError> {
        let token = sync::make_token();
        // ORDERING: Acquire. The former home's pushes and pops come before ours.
        //           Partner: the Release in HomePool::drop.
        self.0
            .inner()
            .owner
            .compare_exchange(sync::NOBODY, token, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|_| PoolError::Adopted)?;
        Ok(HomePool { pool: self.clone(), large: None, _home_thread_only: PhantomData })
    }

    /// Number of mbufs in the pool.
    #[must_use]
    pub fn mbufs(&self) -> usize {
        self.0.inner().mbufs
    }
}

/// Lays out every element and puts it on the stack, the first on top.
///
/// # Safety
/// Nobody else knows `inner` yet.
unsafe fn fill(inner: NonNull<PoolInner>) {
    // SAFETY: as the caller promised.
    let pool = unsafe { inner.as_ref() };
    let first = pool.elements.as_mut_ptr().cast::<Element>();
    for index in (0..pool.mbufs).rev() {
        // SAFETY: the mapping has room for `mbufs` elements and is page-aligned; the pointer is in it.
        let element = unsafe { NonNull::new_unchecked(first.add(index)) };
        let fresh = Element {
            pool: inner,
            room: pool.room_of(element),
            next: None,
            direct: None,
            rx_ticks: 0,
            data_off: pool.headroom_bytes,
            len: 0,
            hash: 0,
            room_units: pool.room_units,
            refcnt: AtomicU16::new(1),
            offload: Offload::NONE,
        };
        // SAFETY: the slot is ours and uninitialised memory is overwritten, not dropped; nobody else uses the
        // stack yet.
        unsafe {
            element.as_ptr().write(fresh);
            pool.stack.with(|stack| stack.push(element));
        }
    }
}

/// The home thread's end of a [`Pool`]: allocation. Not `Send`.
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<pmd::HomePool>();
/// ```
#[derive(Debug)]
pub struct HomePool {
    pool: Pool,
    /// For frames that no mbuf of `pool` holds.
    large: Option<Box<HomePool>>,
    _home_thread_only: PhantomData<*mut ()>,
}

impl HomePool {
    #[inline]
    fn inner(&self) -> &PoolInner {
        self.pool.0.inner()
    }

    /// One fresh mbuf: empty, data behind the headroom. `None` when the pool is empty.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        match self.pop() {
            None => self.alloc_returned(),
            mbuf => mbuf,
        }
    }

    /// The stack is empty: what others freed, if they did.
    #[cold]
    #[inline(never)]
    fn alloc_returned(&self) -> Option<Mbuf> {
        self.available(1);
        self.pop()
    }

    /// The same home with a second pool beside it, of which [`alloc_for`](Self::alloc_for) gives mbufs for frames that
    /// are too long for this one's.
    #[must_use]
    pub fn with_large(mut self, large: HomePool) -> HomePool {
        self.large = Some(Box::new(large));
        self
    }

    /// One fresh mbuf, empty, whose data room holds `bytes`: of this pool if its mbufs do, else of the one
    /// [beside it](Self::with_large). `None` when that is empty, or not there, or its mbufs are too small as well.
    #[inline]
    #[must_use]
    pub fn alloc_for(&self, bytes: usize) -> Option<Mbuf> {
        if bytes <= self.data_room_bytes() { self.alloc() } else { self.large_for(bytes)?.alloc() }
    }

    /// How many mbufs are free in the pool [beside this one](Self::with_large); 0 if there is none.
    #[inline]
    #[must_use]
    pub fn large_free(&self) -> usize {
        self.large.as_deref().map_or(0, |large| large.available(large.inner().mbufs / 2))
    }

    #[inline]
    fn large_for(&self, bytes: usize) -> Option<&HomePool> {
        self.large.as_deref().filter(|large| bytes <= large.data_room_bytes())
    }

    /// Up to `count` fresh mbufs; fewer when the pool holds fewer. Whatever is not taken goes back to the pool.
    #[inline]
    pub fn alloc_bulk(&self, count: usize) -> impl Iterator<Item = Mbuf> + '_ {
        let count = self.available(count).min(count);
        bulk::Taking::new(self.inner(), count)
    }

    /// `mbuf` as if it were freed and allocated again, without the pool's having a part in it. Freed, and `None`, if it is
    /// another pool's, a clone, shared or a chain.
    #[inline]
    pub(crate) fn renew(&self, mut mbuf: Mbuf) -> Option<Mbuf> {
        let inner = self.inner();
        if mbuf.plain_of() != Some(NonNull::from(inner)) {
            return None;
        }
        mbuf.reset(inner.headroom_bytes);
        Some(mbuf)
    }

    /// Mbufs on the stack, after draining the return ring if there are fewer than `wanted`.
    #[inline]
    fn available(&self, wanted: usize) -> usize {
        let inner = self.inner();
        // SAFETY: we are the owner thread; plain read.
        let len = || unsafe { inner.stack.with(|stack| stack.len) };
        if len() < wanted {
            // SAFETY: we are the owner thread.
            unsafe { inner.drain_returns() };
        }
        len()
    }

    #[inline]
    fn pop(&self) -> Option<Mbuf> {
        let inner = self.inner();
        // SAFETY: we are the owner thread, the borrow ends with the statement, and an element on the stack
        // is initialised and owned by nobody.
        let mut mbuf = unsafe { Mbuf::from_element(inner.stack.with(Stack::pop)?) };
        mbuf.reset(inner.headroom_bytes);
        Some(mbuf)
    }

    /// Bytes behind the headroom of a fresh mbuf.
    #[inline]
    #[must_use]
    pub fn data_room_bytes(&self) -> usize {
        self.inner().data_room_bytes()
    }

    /// Where the mbufs are now.
    #[must_use]
    pub fn levels(&self) -> PoolLevels {
        let inner = self.inner();
        // SAFETY: we are the owner thread; plain read.
        let stacked = unsafe { inner.stack.with(|stack| stack.len) };
        PoolLevels { mbufs: inner.mbufs, free: stacked + inner.returns.len() }
    }

    /// The same of the pool [beside this one](Self::with_large), if there is one.
    #[must_use]
    pub fn large_levels(&self) -> Option<PoolLevels> {
        self.large.as_deref().map(HomePool::levels)
    }
}

impl Drop for HomePool {
    fn drop(&mut self) {
        // ORDERING: Release. Our pushes and pops come before the next home's. Partner: the Acquire in `adopt`
        //           and in PoolShared::drop.
        self.inner().owner.store(sync::NOBODY, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
