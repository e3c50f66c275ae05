//! Many mbufs at once: what a burst costs a pool.
//!
//! One by one, each push or pop waits for the length that the last one wrote; and on a core that is not the pool's home,
//! for the atomic operation of the last. A batch reads and writes the length once, and a foreign core has the lines of all
//! its elements on their way before the first atomic operation.

use std::ptr::NonNull;

use arrayvec::ArrayVec;

use super::PoolInner;
use crate::mem::element::{Element, Mbuf};

/// Elements moved at once.
const BATCH: usize = 32;

type Batch = ArrayVec<NonNull<Element>, BATCH>;

/// Fresh mbufs, taken from the stack a batch at a time. What is left of a batch goes back on drop.
pub(super) struct Taking<'a> {
    pool: &'a PoolInner,
    batch: Batch,
    /// To be taken from the stack after the batch.
    left: usize,
}

impl<'a> Taking<'a> {
    /// The caller is the owner thread, and stays on it.
    #[inline]
    pub(super) fn new(pool: &'a PoolInner, count: usize) -> Self {
        Self { pool, batch: Batch::new(), left: count }
    }

    /// False when there are no more.
    #[inline]
    fn refill(&mut self) -> bool {
        let count = self.left.min(BATCH);
        self.left -= count;
        // SAFETY: we are the owner thread (a `HomePool` is not `Send`, and this borrows it); the borrow of the stack ends
        // with the statement.
        let fits =
            unsafe { self.pool.stack.with(|stack| self.batch.try_extend_from_slice(stack.pop_many(count))) };
        debug_assert!(fits.is_ok(), "a batch at most, and it is empty");
        !self.batch.is_empty()
    }
}

impl Iterator for Taking<'_> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.batch.is_empty() && !self.refill() {
            return None;
        }
        let element = self.batch.pop()?;
        // SAFETY: an element that was on the stack is initialised and owned by nobody.
        let mut mbuf = unsafe { Mbuf::from_element(element) };
        mbuf.reset(self.pool.headroom_bytes);
        Some(mbuf)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.batch.len(), Some(self.batch.len() + self.left))
    }
}

impl Drop for Taking<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.batch.is_empty() {
            // SAFETY: as in `refill`; these came from there.
            unsafe { self.pool.stack.with(|stack| stack.push_all(&self.batch)) }
        }
    }
}

/// Frees mbufs, those of one pool together: DPDK's `rte_pktmbuf_free_bulk`. They are all free when it is dropped. Never
/// blocks or allocates.
///
/// ```
/// # fn free(burst: &mut pmd::Burst) {
/// pmd::mem::Freeing::all(burst.drain(..));
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Freeing {
    /// Of one pool, each without handle.
    batch: Batch,
    pool: Option<NonNull<PoolInner>>,
}

impl Freeing {
    /// Frees all of `mbufs`.
    #[inline]
    pub fn all(mbufs: impl IntoIterator<Item = Mbuf>) {
        let mut freeing = Self::default();
        mbufs.into_iter().for_each(|mbuf| freeing.add(mbuf));
    }

    /// Frees one more, sooner or later.
    #[inline]
    pub fn add(&mut self, mbuf: Mbuf) {
        // Chains and clones have a way of their own, which `drop` knows.
        let Some(pool) = mbuf.plain_of() else { return };
        if self.pool != Some(pool) || self.batch.is_full() {
            self.flush();
            self.pool = Some(pool);
        }
        self.batch.push(mbuf.into_element());
    }

    #[inline]
    fn flush(&mut self) {
        if let Some(pool) = self.pool
            && !self.batch.is_empty()
        {
            // SAFETY: a pool is alive while elements of it are out, and these are.
            unsafe { pool.as_ref() }.free_all(&self.batch);
            self.batch.clear();
        }
    }
}

impl Drop for Freeing {
    #[inline]
    fn drop(&mut self) {
        self.flush();
    }
}
