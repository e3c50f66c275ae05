//! Memory for socket buffers: lent for a connection's life, kept for the next one.
//!
//! smoltcp's buffers are either a `Vec` of their own, which would be an allocation for every connection, or a borrowed
//! slice. Here they are slices out of chunks that live as long as the pool. New chunks come zeroed from the system and
//! are not touched before bytes arrive, so an idle connection with 64 KiB buffers costs address space, not memory.

use std::ptr::NonNull;

/// A buffer on loan. Not `Clone`: the bytes belong to who holds it.
pub(crate) struct Loan {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: A loan is the only way to its bytes (the pool does not read or write lent ones), so that moving it to
// another thread moves the bytes with it, like a `Box<[u8]>`.
unsafe impl Send for Loan {}

impl Loan {
    /// The bytes, for a socket.
    ///
    /// # Safety
    /// At most one such slice may be in use at a time, and it must be gone before the loan is given back and before
    /// the pool is dropped.
    pub unsafe fn slice(&self) -> &'static mut [u8] {
        // SAFETY: `start..start + len` lies in a chunk of the pool, which is initialised (zeroed) and disjoint from
        // every other loan; the caller keeps the slice single and shorter-lived than the chunk.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Where it begins, for a prefetch.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }
}

struct Class {
    len: usize,
    free: Vec<Loan>,
}

/// The buffers of one stack.
#[derive(Default)]
pub(crate) struct Buffers {
    classes: Vec<Class>,
    /// Owned here, reached through loans.
    chunks: Vec<Chunk>,
    lent: usize,
}

/// Zeroed memory, owned by pointer: a `Box` would claim to be the only way to it while loans exist.
struct Chunk {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: Like a `Box<[u8]>`, whose raw parts it holds.
unsafe impl Send for Chunk {}

impl Drop for Chunk {
    fn drop(&mut self) {
        let slice = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len);
        // SAFETY: The pointer and length came from `Box::into_raw` of a boxed slice in `grow`, and are dropped once.
        // No loan is in use: who holds the pool drops the sockets first (`Flows` declares them before it).
        drop(unsafe { Box::from_raw(slice) });
    }
}

/// Between buffers of a chunk: with power-of-two distances the beginnings of all buffers, which are their hottest
/// lines, would compete for the same few sets of each cache.
const STAGGER: usize = 3 * 64;
/// Bytes of a chunk, at least.
const CHUNK: usize = 2 * 1024 * 1024;

impl Buffers {
    /// Lends a buffer of `len` bytes. Allocates only when none of that length was given back before.
    pub fn lend(&mut self, len: usize) -> Loan {
        let at = match self.classes.iter().position(|class| class.len == len) {
            Some(at) => at,
            None => {
                self.classes.push(Class { len, free: Vec::new() });
                self.classes.len() - 1
            }
        };
        if self.classes[at].free.is_empty() {
            self.grow(at);
        }
        self.lent += 1;
        self.classes[at].free.pop().expect("a chunk holds at least one buffer")
    }

    /// Takes a buffer back. No slice of it may be in use any more (see [`Loan::slice`]).
    pub fn give_back(&mut self, loan: Loan) {
        let class = self.classes.iter_mut().find(|class| class.len == loan.len).expect("lent by this pool");
        self.lent -= 1;
        class.free.push(loan);
    }

    /// Buffers on loan.
    pub fn lent(&self) -> usize {
        self.lent
    }

    fn grow(&mut self, at: usize) {
        let class = &mut self.classes[at];
        let stride = class.len + STAGGER;
        let count = (CHUNK / stride).max(1);
        let len = count * stride;
        let memory: Box<[u8]> = vec![0; len].into_boxed_slice();
        let start = NonNull::new(Box::into_raw(memory).cast::<u8>()).expect("a box is not null");
        self.chunks.push(Chunk { start, len });
        // Room for all of this class that were ever made: giving back never allocates.
        let made = class.free.capacity() + count;
        class.free.reserve_exact(made);
        for index in (0..count).rev() {
            // SAFETY: `index * stride + class.len` is at most `len`, the size of the chunk.
            let start = unsafe { start.add(index * stride) };
            class.free.push(Loan { start, len: class.len });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loans_are_disjoint_zeroed_and_reused() {
        let mut pool = Buffers::default();
        let loans: Vec<Loan> = (0..100).map(|_| pool.lend(65_536)).collect();
        for (number, loan) in (0..).zip(&loans) {
            // SAFETY: One slice of each loan, dropped at the end of the iteration.
            let bytes = unsafe { loan.slice() };
            assert!(bytes.iter().all(|&b| b == 0), "another loan's bytes");
            bytes.fill(number);
        }
        assert_eq!(pool.lent(), 100);
        let mut seen: Vec<usize> = loans.iter().map(Loan::address).collect();
        seen.sort_unstable();
        assert!(seen.windows(2).all(|w| w[1] - w[0] >= 65_536));
        loans.into_iter().for_each(|loan| pool.give_back(loan));
        let chunks = pool.chunks.len();
        let again: Vec<Loan> = (0..100).map(|_| pool.lend(65_536)).collect();
        assert_eq!(pool.chunks.len(), chunks, "given back, lent again");
        again.into_iter().for_each(|loan| pool.give_back(loan));
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn sizes_have_their_own_classes() {
        let mut pool = Buffers::default();
        let (small, large) = (pool.lend(1024), pool.lend(16 * 1024 * 1024));
        assert_eq!((small.len, large.len), (1024, 16 * 1024 * 1024));
        pool.give_back(small);
        assert_eq!(pool.lend(1024).len, 1024);
        pool.give_back(large);
    }
}
