//! Memory for socket buffers: lent for a connection's life, kept for the next one.
//!
//! smoltcp's buffers are either a `Vec` of their own, which would be an allocation for every connection, or a borrowed
//! slice. Here they are slices out of chunks that live as long as the pool. New chunks come zeroed from the system and
//! are not touched before bytes arrive, so an idle connection with 64 KiB buffers costs address space, not memory.
//!
//! That holds with small pages only. Where the system gives out transparent hugepages unasked
//! (`/sys/kernel/mm/transparent_hugepage/enabled` is `always`), a buffer's first byte takes 2 MiB: measured, a byte in each
//! of 3,100 buffers of 64 KiB took 190 MiB with hugepages and 12 MiB without. So chunks are mapped here, not allocated,
//! and without hugepages. What a peak has touched stays in memory for the next one, until the pool is dropped: giving it
//! back would be a system call on the loop.

use std::ptr::NonNull;

use memmap2::{Advice, MmapMut};

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
    /// Owned here, reached through loans: a mapping is a pointer to its bytes, and makes no claim to be the only way to
    /// them. No loan is in use when they are dropped: who holds the pool drops the sockets first (`Flows` declares them
    /// before it).
    chunks: Vec<MmapMut>,
    lent: usize,
}

/// Between buffers of a chunk: with power-of-two distances the beginnings of all buffers, which are their hottest
/// lines, would compete for the same few sets of each cache.
const STAGGER: usize = 3 * 64;
/// Bytes of a chunk, at least.
const CHUNK: usize = 2 * 1024 * 1024;

impl Buffers {
    /// Lends a buffer of `len` bytes; `None` if the system has no memory for it. Maps memory only when none of that
    /// length was given back before.
    pub fn lend(&mut self, len: usize) -> Option<Loan> {
        let at = match self.classes.iter().position(|class| class.len == len) {
            Some(at) => at,
            None => {
                self.classes.push(Class { len, free: Vec::new() });
                self.classes.len() - 1
            }
        };
        if self.classes[at].free.is_empty() {
            self.grow(at)?;
        }
        let loan = self.classes[at].free.pop()?;
        self.lent += 1;
        Some(loan)
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

    fn grow(&mut self, at: usize) -> Option<()> {
        let class = &mut self.classes[at];
        let stride = class.len + STAGGER;
        let count = (CHUNK / stride).max(1);
        let len = count * stride;
        let mut chunk = MmapMut::map_anon(len).ok()?;
        // Refused only by a kernel without transparent hugepages, which needs no telling.
        let _ = chunk.advise(Advice::NoHugePage);
        let start = NonNull::new(chunk.as_mut_ptr())?;
        self.chunks.push(chunk);
        // Room for all of this class that were ever made: giving back never allocates.
        let made = class.free.capacity() + count;
        class.free.reserve_exact(made);
        for index in (0..count).rev() {
            // SAFETY: `index * stride + class.len` is at most `len`, the size of the chunk.
            let start = unsafe { start.add(index * stride) };
            class.free.push(Loan { start, len: class.len });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loans_are_disjoint_zeroed_and_reused() {
        let mut pool = Buffers::default();
        let loans: Vec<Loan> = (0..100).map(|_| pool.lend(65_536).unwrap()).collect();
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
        let again: Vec<Loan> = (0..100).map(|_| pool.lend(65_536).unwrap()).collect();
        assert_eq!(pool.chunks.len(), chunks, "given back, lent again");
        again.into_iter().for_each(|loan| pool.give_back(loan));
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn sizes_have_their_own_classes() {
        let mut pool = Buffers::default();
        let (small, large) = (pool.lend(1024).unwrap(), pool.lend(16 * 1024 * 1024).unwrap());
        assert_eq!((small.len, large.len), (1024, 16 * 1024 * 1024));
        pool.give_back(small);
        assert_eq!(pool.lend(1024).unwrap().len, 1024);
        pool.give_back(large);
    }

    /// Pages of a chunk that are in memory. Source: proc(5), `/proc/pid/pagemap`: bit 63 says present.
    fn resident(chunk: &MmapMut) -> usize {
        use std::os::unix::fs::FileExt;
        const PAGE: usize = 4096;
        let pages = std::fs::File::open("/proc/self/pagemap").unwrap();
        let (first, count) = (chunk.as_ptr() as usize / PAGE, chunk.len().div_ceil(PAGE));
        let mut words = vec![0; count * 8];
        pages.read_exact_at(&mut words, first as u64 * 8).unwrap();
        words.chunks(8).filter(|word| word[7] & 0x80 != 0).count()
    }

    /// Writes a byte into each of `count` buffers; the pages that this takes.
    fn touched(pool: &mut Buffers, count: usize) -> usize {
        let loans: Vec<Loan> = (0..count).map(|_| pool.lend(65_536).unwrap()).collect();
        for loan in &loans {
            // SAFETY: One slice of each loan, dropped at the end of the iteration.
            let bytes = unsafe { loan.slice() };
            bytes[100] = 1;
        }
        loans.into_iter().for_each(|loan| pool.give_back(loan));
        pool.chunks.iter().map(resident).sum()
    }

    #[test]
    fn a_byte_in_each_buffer_takes_a_page_of_each_and_no_hugepage() {
        let mut pool = Buffers::default();
        assert_eq!(touched(&mut pool, 310), 310);
        assert_eq!(pool.chunks.len(), 10);
        assert_eq!(touched(&mut pool, 310), 310, "the same ones again");
    }

    #[test]
    fn chunks_say_that_they_want_no_hugepages() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists() {
            eprintln!("SKIPPED: this kernel has no transparent hugepages");
            return;
        }
        let mut pool = Buffers::default();
        let loan = pool.lend(65_536).unwrap();
        let (mut inside, mut flags) = (false, None);
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let mut words = line.split_whitespace();
            let word = words.next().unwrap_or("");
            if let Some((from, to)) = word.split_once('-') {
                let bound = |text| usize::from_str_radix(text, 16).unwrap();
                inside = (bound(from)..bound(to)).contains(&loan.address());
            } else if inside && word == "VmFlags:" {
                flags = Some(words.any(|flag| flag == "nh"));
            }
        }
        assert_eq!(flags, Some(true));
        pool.give_back(loan);
    }
}
