//! One region per engine: a memfd mapped once, from which virtqueues and packet data are carved.
//!
//! One region means one VFIO DMA mapping and one vhost-user memory region (backends accept only 8),
//! and a memfd leaves nothing on disk when the process dies.

use std::any::Any;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use thiserror::Error;

use super::mapping::Mapping;

/// An address as the device sees it: an I/O virtual address.
///
/// Where an IOMMU or a vhost-user backend translates, which is everywhere we run, it has the same
/// number as our own virtual address; the type keeps the two from being mixed up all the same. A
/// [`Region`] is mapped low enough (below 2^39) for every IOMMU in use to take its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Iova(pub u64);

/// The pages behind a [`Region`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PageSize {
    /// 2 MiB hugepages if enough are free, ordinary pages with one warning in the log if not.
    #[default]
    Auto,
    /// The system's base pages (4 KiB).
    Ordinary,
    /// 2 MiB hugepages, or an error.
    Huge2M,
    /// 1 GiB hugepages, or an error.
    Huge1G,
}

impl PageSize {
    /// Size of one page in bytes (`Auto` counts as 2 MiB).
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            PageSize::Ordinary => 4 << 10,
            PageSize::Auto | PageSize::Huge2M => 2 << 20,
            PageSize::Huge1G => 1 << 30,
        }
    }

    const fn memfd_flags(self) -> libc::c_uint {
        match self {
            PageSize::Ordinary => 0,
            PageSize::Auto | PageSize::Huge2M => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
            PageSize::Huge1G => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
        }
    }
}

/// What to reserve.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionConfig {
    /// Bytes needed; rounded up to whole pages.
    pub len_bytes: usize,
    /// Which pages.
    pub page: PageSize,
    /// The NUMA node whose memory to use; `None` leaves the choice to the kernel.
    pub numa_node: Option<u32>,
}

/// Why a region could not be made, or nothing more be carved from it.
#[derive(Debug, Error)]
pub enum RegionError {
    /// Too few free hugepages.
    #[error(
        "{free} of {needed} hugepages of {page_kib} KiB free{}; run ./hugepage-setup.sh --pages {needed}{}",
        node.map(|n| format!(" on node {n}")).unwrap_or_default(),
        if *page_kib > 2048 { " --size 1G" } else { "" }
    )]
    NoHugepages {
        /// Free pages at the time of the attempt.
        free: u64,
        /// Pages the region needs.
        needed: u64,
        /// Page size in KiB.
        page_kib: usize,
        /// The node asked for.
        node: Option<u32>,
    },
    /// The NUMA node does not exist or may not be used.
    #[error("no memory may be taken from NUMA node {node}; see /sys/devices/system/node for those there are")]
    Node {
        /// The node asked for.
        node: u32,
        /// errno of `mbind`.
        source: io::Error,
    },
    /// More than the machine has to give: taking it would bring the kernel to kill processes.
    #[error(
        "{len_bytes} bytes of packet memory asked for, {available_bytes} are available; ask for fewer mbufs"
    )]
    TooLarge {
        /// Bytes asked for.
        len_bytes: usize,
        /// Bytes that the kernel says can be had without swapping.
        available_bytes: usize,
    },
    /// The kernel would not give the memory.
    #[error(
        "cannot reserve {len_bytes} bytes of packet memory ({step}); free some memory or ask for fewer mbufs"
    )]
    Reserve {
        /// Bytes asked for.
        len_bytes: usize,
        /// The call that failed.
        step: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// The region is used up.
    #[error(
        "packet memory is full: {asked} bytes asked for, {left} of {len_bytes} left; ask for fewer mbufs or descriptors"
    )]
    Full {
        /// Bytes asked for.
        asked: usize,
        /// Bytes left, before alignment.
        left: usize,
        /// Size of the region.
        len_bytes: usize,
    },
}

/// Memory that devices may read and write.
///
/// # The DMA contract
///
/// A device that was given this region (VFIO DMA map, vhost-user memory table, or our own device side
/// in another thread) may read and write **any** byte of it at **any** time until it has been reset and
/// the region taken away from it. Therefore:
///
/// 1. Nothing that our own memory safety rests on lies here: no pointer, length, index or reference
///    count that we would believe. Mbuf metadata and the rings' shadow state are private memory.
/// 2. No Rust reference covers bytes that a device *was asked* to write. Posting an mbuf **moves** it
///    into the virtqueue's slot table, completion moves it out; the types allow no borrow in between.
///    Ring fields are read and written by raw, volatile or atomic access only.
/// 3. What a device says (ids, lengths, indices, headers) is read once into private memory and checked
///    before use.
/// 4. Memory goes away in this order: device reset and read back, mapping removed from the device,
///    mbufs freed, region unmapped. Ports hold an `Arc<Region>`, so the last step cannot come early.
///
/// A device that writes where it was not asked to (a broken one, or a hostile vhost-user peer) can spoil
/// the *contents* of frames, never the structures that say where frames are.
#[derive(Debug)]
pub struct Region {
    memory: Arc<Memory>,
    /// What may be carved: all of it, or a [part](Region::part).
    bounds: Range<usize>,
    /// Where the next piece begins, at the earliest.
    carved_bytes: AtomicUsize,
}

/// The mapping, and what goes with it.
#[derive(Debug)]
struct Memory {
    map: Mapping,
    file: File,
    page: PageSize,
    shared: Mutex<Weak<dyn Any + Send + Sync>>,
}

/// A piece of a [`Region`], zeroed, never given back before the region goes, or the part of it that it
/// was carved from.
#[derive(Clone, Copy, Debug)]
pub struct Carved {
    /// Where we see it.
    pub ptr: *mut u8,
    /// Where the device sees it.
    pub iova: Iova,
}

impl Region {
    /// Reserves, places and populates the memory, so that no later access can fault. Blocks for as long
    /// as the kernel needs to clear the pages.
    ///
    /// # Errors
    /// [`RegionError`], each with the number that was short.
    pub fn new(config: RegionConfig) -> Result<Arc<Self>, RegionError> {
        match config.page {
            PageSize::Auto => match Self::with_pages(config, PageSize::Huge2M) {
                Err(why @ RegionError::NoHugepages { .. }) => {
                    log::warn!("using ordinary pages: {why}");
                    Self::with_pages(config, PageSize::Ordinary)
                }
                other => other,
            },
            page => Self::with_pages(config, page),
        }
        .map(Arc::new)
    }

    fn with_pages(config: RegionConfig, page: PageSize) -> Result<Self, RegionError> {
        let len_bytes = config.len_bytes.max(1).next_multiple_of(page.bytes());
        if page == PageSize::Ordinary
            && let Some(available_bytes) = available_bytes().filter(|available| len_bytes > *available)
        {
            return Err(RegionError::TooLarge { len_bytes, available_bytes });
        }
        let reserve = |step| move |source| RegionError::Reserve { len_bytes, step, source };
        let file = memfd(page).map_err(reserve("memfd_create"))?;
        file.set_len(len_bytes as u64).map_err(reserve("ftruncate"))?;
        // Seals let the other side of a shared mapping trust that the file will not shrink under it.
        seal(&file).map_err(reserve("F_ADD_SEALS"))?;
        let map = Mapping::new(&file, len_bytes).map_err(|source| {
            if page == PageSize::Ordinary {
                RegionError::Reserve { len_bytes, step: "mmap", source }
            } else {
                no_hugepages(len_bytes, page, config.numa_node)
            }
        })?;
        if let Some(node) = config.numa_node {
            bind_to_node(&map, node).map_err(|source| RegionError::Node { node, source })?;
        }
        // Populated here, after the placement, with an error instead of a SIGBUS where pages run out.
        map.populate().map_err(|source| match page {
            PageSize::Ordinary => RegionError::Reserve { len_bytes, step: "populate", source },
            _ => no_hugepages(len_bytes, page, config.numa_node),
        })?;
        let shared = Mutex::new(Weak::<()>::new() as _);
        let memory = Arc::new(Memory { map, file, page, shared });
        Ok(Self { memory, bounds: 0..len_bytes, carved_bytes: AtomicUsize::new(0) })
    }

    /// Sets `len_bytes` apart for one user: the same mapping for devices to reach, to carve from up to there, and, other
    /// than the region itself, to be used [again](Self::reuse).
    ///
    /// # Errors
    /// [`RegionError::Full`].
    pub(crate) fn part(&self, len_bytes: usize) -> Result<Arc<Region>, RegionError> {
        const ALIGN: usize = 128;
        let piece = self.carve(len_bytes, ALIGN)?;
        let start = piece.ptr.addr() - self.base().addr();
        Ok(Arc::new(Self {
            memory: Arc::clone(&self.memory),
            bounds: start..start + len_bytes,
            carved_bytes: AtomicUsize::new(start),
        }))
    }

    /// Makes all of a part free again, and zero. Whoever uses pieces of it holds it, so that there are none if this is
    /// the last handle; else nothing is done, and `false` returned.
    pub(crate) fn reuse(part: &mut Arc<Region>) -> bool {
        let Some(only) = Arc::get_mut(part) else { return false };
        let Range { start, end } = only.bounds;
        // SAFETY: within the mapping, and set apart for this handle by `part`; nobody carved anything from it who is
        //         still there, and what a device may write there is never read as anything but numbers.
        unsafe { only.memory.map.ptr().add(start).write_bytes(0, end - start) };
        *only.carved_bytes.get_mut() = start;
        true
    }

    /// A handle that keeps the mapping alive, with nothing to carve.
    pub(crate) fn keep(&self) -> Arc<Region> {
        let end = self.len_bytes();
        Arc::new(Self {
            memory: Arc::clone(&self.memory),
            bounds: end..end,
            carved_bytes: AtomicUsize::new(end),
        })
    }

    /// Cuts off `len_bytes` zeroed bytes aligned to `align` (a power of two).
    ///
    /// # Errors
    /// [`RegionError::Full`].
    pub fn carve(&self, len_bytes: usize, align: usize) -> Result<Carved, RegionError> {
        assert!(align.is_power_of_two() && align <= PageSize::Ordinary.bytes(), "alignment {align}");
        let start_of = |carved: usize| carved.next_multiple_of(align);
        // ORDERING: Relaxed. The counter alone divides the bytes; whoever is handed a piece gets it by
        //           a move of the value, which carries its own ordering.
        let carved = self
            .carved_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |carved| {
                start_of(carved).checked_add(len_bytes).filter(|end| *end <= self.bounds.end)
            })
            .map_err(|carved| RegionError::Full {
                asked: len_bytes,
                left: self.bounds.end - carved,
                len_bytes: self.bounds.len(),
            })?;
        // SAFETY: the piece ends within the mapping, as the filter above made sure.
        let ptr = unsafe { self.memory.map.ptr().add(start_of(carved)) };
        Ok(Carved { ptr, iova: Iova(ptr as u64) })
    }

    /// The one thing that all devices of this region share as long as one of them is open, made by the first:
    /// the IOMMU's address space that the region is mapped into.
    ///
    /// # Errors
    /// What `make` gives.
    pub(crate) fn shared<T, E>(&self, make: impl FnOnce() -> Result<Arc<T>, E>) -> Result<Arc<T>, E>
    where
        T: Any + Send + Sync,
    {
        // Nothing can panic with the slot half written.
        let mut slot = self.memory.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(there)) = slot.upgrade().map(Arc::downcast) {
            return Ok(there);
        }
        let made = make()?;
        let weak: Weak<T> = Arc::downgrade(&made);
        *slot = weak;
        Ok(made)
    }

    /// Lets whoever comes next make a new one, beside the one that others may still hold.
    pub(crate) fn forget_shared(&self) {
        let mut slot = self.memory.shared.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Weak::<()>::new();
    }

    /// First byte of the mapping.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.memory.map.ptr()
    }

    /// Length of the mapping: whole pages.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.memory.map.len_bytes()
    }

    /// Where the device sees [`base`](Self::base).
    #[must_use]
    pub fn iova(&self) -> Iova {
        Iova(self.base() as u64)
    }

    /// The memfd, to be mapped by a vhost-user backend from offset 0.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.file.as_fd()
    }

    /// The pages that were got: never [`PageSize::Auto`].
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.memory.page
    }
}

fn memfd(page: PageSize) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | page.memfd_flags();
    // SAFETY: the name is a C string; the call has no other memory operand.
    let fd = unsafe { libc::memfd_create(c"bywash".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: fcntl on a descriptor we hold; no memory operand.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bind_to_node(map: &Mapping, node: u32) -> io::Result<()> {
    const MPOL_BIND: libc::c_int = 2; // linux/mempolicy.h
    let mut mask = [0_u64; 16];
    let bits = mask.len() * 64;
    let word = mask.get_mut(node as usize / 64).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    *word = 1 << (node % 64);
    // SAFETY: the range is our mapping, the mask has the stated number of bits; mbind moves no data that
    // anybody borrows, the pages are not populated yet.
    let got = unsafe {
        libc::syscall(libc::SYS_mbind, map.ptr(), map.len_bytes(), MPOL_BIND, mask.as_ptr(), bits + 1, 0)
    };
    if got == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `MemAvailable` of /proc/meminfo.
fn available_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn no_hugepages(len_bytes: usize, page: PageSize, node: Option<u32>) -> RegionError {
    let page_kib = page.bytes() >> 10;
    let folder = node.map_or("/sys/kernel/mm/hugepages".to_owned(), |node| {
        format!("/sys/devices/system/node/node{node}/hugepages")
    });
    let free = std::fs::read_to_string(format!("{folder}/hugepages-{page_kib}kB/free_hugepages"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    RegionError::NoHugepages { free, needed: (len_bytes / page.bytes()) as u64, page_kib, node }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordinary(len_bytes: usize) -> Arc<Region> {
        Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap()
    }

    #[test]
    fn carved_pieces_are_aligned_disjoint_and_end_with_the_region() {
        let region = ordinary(3 * 4096 - 5);
        assert_eq!(region.len_bytes(), 3 * 4096);
        let first = region.carve(100, 64).unwrap();
        let second = region.carve(4096, 4096).unwrap();
        assert_eq!(first.ptr, region.base());
        assert_eq!(second.ptr as usize, region.base() as usize + 4096);
        assert_eq!(second.iova.0, second.ptr as u64);
        region.carve(4096, 1).unwrap();
        let full = region.carve(1, 1).unwrap_err();
        assert!(matches!(full, RegionError::Full { asked: 1, left: 0, len_bytes: 12288 }), "{full}");
        let overflow = region.carve(usize::MAX, 64).unwrap_err();
        assert!(matches!(overflow, RegionError::Full { .. }));
    }

    #[test]
    fn a_part_is_used_again_when_nobody_holds_it_and_reaches_no_further() {
        let region = ordinary(3 * 4096);
        let before = region.carve(100, 64).unwrap();
        let mut part = region.part(4096).unwrap();
        let after = region.carve(100, 64).unwrap();
        assert_eq!((part.base(), part.len_bytes()), (region.base(), region.len_bytes()));
        let first = part.carve(4000, 128).unwrap();
        assert!(before.ptr < first.ptr && first.ptr.wrapping_add(4000) < after.ptr);
        let full = part.carve(4000, 128).unwrap_err();
        assert!(matches!(full, RegionError::Full { left: 96, len_bytes: 4096, .. }), "{full}");
        // SAFETY: just carved, and nobody else's.
        unsafe { first.ptr.write_bytes(0xff, 4000) };
        let user = Arc::clone(&part);
        assert!(!Region::reuse(&mut part), "somebody uses it");
        drop(user);
        assert!(Region::reuse(&mut part));
        let again = part.carve(4000, 128).unwrap();
        assert_eq!(again.ptr, first.ptr);
        // SAFETY: as above.
        assert!(unsafe { std::slice::from_raw_parts(again.ptr, 4000) }.iter().all(|byte| *byte == 0));
        let keep = part.keep();
        assert!(keep.carve(1, 1).is_err() && keep.base() == region.base());
        assert!(Region::reuse(&mut part), "who keeps the mapping uses nothing of the part");
    }

    #[test]
    fn more_hugepages_than_the_machine_has_is_an_error_that_says_what_to_run() {
        let asked = RegionConfig { len_bytes: 1 << 46, page: PageSize::Huge2M, numa_node: None };
        let text = Region::new(asked).unwrap_err().to_string();
        assert!(
            text.contains("of 33554432 hugepages") && text.contains("./hugepage-setup.sh --pages"),
            "{text}"
        );
    }

    #[test]
    fn more_memory_than_the_machine_has_is_refused_before_it_is_taken() {
        let asked = RegionConfig { len_bytes: 1 << 46, page: PageSize::Ordinary, numa_node: None };
        let text = Region::new(asked).unwrap_err().to_string();
        assert!(text.contains("70368744177664 bytes of packet memory asked for"), "{text}");
    }

    #[test]
    fn auto_falls_back_to_ordinary_pages() {
        let config = RegionConfig { len_bytes: 1 << 20, ..RegionConfig::default() };
        let region = Region::new(config).unwrap();
        assert_ne!(region.page_size(), PageSize::Auto);
        region.carve(1 << 20, 4096).unwrap();
    }

    #[test]
    fn what_is_shared_lives_as_long_as_its_users() {
        let region = ordinary(4096);
        let make = |value: u32| region.shared(|| Ok::<_, ()>(Arc::new(value))).unwrap();
        let (first, second) = (make(1), make(2));
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        assert_eq!(*make(3), 3);
        assert_eq!(region.shared::<u32, _>(|| Err("no")), Err("no"));
    }

    #[test]
    fn node_that_does_not_exist_is_named() {
        let config = RegionConfig { len_bytes: 4096, page: PageSize::Ordinary, numa_node: Some(977) };
        let text = Region::new(config).unwrap_err().to_string();
        assert!(text.contains("NUMA node 977"), "{text}");
    }
}
