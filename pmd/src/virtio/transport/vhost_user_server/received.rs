//! What a frontend sends with its messages: memory to map and eventfds to signal. All of it is hostile.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use thiserror::Error;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vmm_sys_util::eventfd::EventFd;

use crate::mem::Iova;
use crate::virtio::attach::{GuestMemory, GuestMemoryError, GuestRegion, MAX_REGIONS};

/// Why a memory table cannot be used.
#[derive(Debug, Error)]
pub enum MemoryTableError {
    /// Not one file for each region, or a number of regions that is not possible.
    #[error(
        "memory table of {regions} regions with {files} files (from 1 to {MAX_REGIONS}, one each, are possible; with DPDK \
         as the frontend use --single-file-segments)"
    )]
    Count {
        /// Regions.
        regions: usize,
        /// Files sent along.
        files: usize,
    },
    /// A region is not a range of addresses, on one of the two sides or in its file.
    #[error(
        "memory region of {len_bytes:#x} bytes at {guest:#x} (frontend's address {user:#x}, file offset {offset:#x}) is \
         not a range of addresses"
    )]
    Range {
        /// Its length.
        len_bytes: u64,
        /// Its address in descriptors.
        guest: u64,
        /// Its address in the frontend.
        user: u64,
        /// Where it starts in its file.
        offset: u64,
    },
    /// The file cannot back memory.
    #[error("memory region's file is not a regular file (memfd, hugetlbfs, tmpfs)")]
    NotAFile,
    /// The file ends before the region does.
    #[error("memory region ends at {needed:#x} in a file of {file_bytes:#x} bytes")]
    FileTooShort {
        /// Where the region ends in it.
        needed: u64,
        /// How long it is.
        file_bytes: u64,
    },
    /// Two regions have the same addresses in the frontend.
    #[error("two memory regions overlap at the frontend's address {user:#x}")]
    Overlap {
        /// The first address they share.
        user: u64,
    },
    /// As the driver addresses it.
    #[error(transparent)]
    Guest(#[from] GuestMemoryError),
    /// The system refused.
    #[error("cannot map {len_bytes:#x} bytes of the frontend's memory")]
    Map {
        /// Bytes to be mapped.
        len_bytes: u64,
        /// errno.
        source: io::Error,
    },
}

/// A frontend's memory: mapped, with what it takes to translate its own addresses too.
#[derive(Debug)]
pub(super) struct MappedTable {
    pub memory: Arc<GuestMemory>,
    /// (address in the frontend, length, address in descriptors)
    user: Vec<(u64, u64, u64)>,
}

impl MappedTable {
    /// Maps every region, readable and writable. The files are closed; the mappings stay as long as `memory`.
    ///
    /// A file that is cut short *after* it has been mapped ends this process with SIGBUS at the next access. Seals
    /// would prevent that, but the hugetlbfs files of DPDK cannot be sealed and QEMU does not seal its own; whoever
    /// may connect to the socket has to be trusted that far (file permissions).
    pub fn new(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self, MemoryTableError> {
        if regions.is_empty() || regions.len() > MAX_REGIONS || regions.len() != files.len() {
            return Err(MemoryTableError::Count { regions: regions.len(), files: files.len() });
        }
        let mut user = Vec::new();
        let mut guest = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            user.push((region.user_addr, region.memory_size, region.guest_phys_addr));
            guest.push(map_region(region, &file)?);
        }
        user.sort_unstable();
        for pair in user.windows(2) {
            // Cannot overflow: `map_region` checked the sum.
            if pair[0].0 + pair[0].1 > pair[1].0 {
                return Err(MemoryTableError::Overlap { user: pair[1].0 });
            }
        }
        Ok(Self { memory: Arc::new(GuestMemory::new(guest)?), user })
    }

    /// The address in descriptors that is the frontend's own address `user`.
    pub fn iova_of(&self, user: u64) -> Option<Iova> {
        self.user.iter().find_map(|&(start, len_bytes, guest)| {
            let offset = user.checked_sub(start)?;
            (offset < len_bytes).then(|| Iova(guest + offset))
        })
    }
}

fn map_region(region: &VhostUserMemoryRegion, file: &File) -> Result<GuestRegion, MemoryTableError> {
    let (len_bytes, offset) = (region.memory_size, region.mmap_offset);
    let (guest, user) = (region.guest_phys_addr, region.user_addr);
    let range = MemoryTableError::Range { len_bytes, guest, user, offset };
    let fits = |start: u64| start.checked_add(len_bytes);
    let (Some(_), Some(_), Some(end), true) = (fits(guest), fits(user), fits(offset), len_bytes > 0) else {
        return Err(range);
    };
    let map_error = |source| MemoryTableError::Map { len_bytes: end, source };
    let found = file.metadata().map_err(map_error)?;
    if !found.is_file() {
        return Err(MemoryTableError::NotAFile);
    }
    if found.len() < end {
        return Err(MemoryTableError::FileTooShort { needed: end, file_bytes: found.len() });
    }
    // From the start of the file and in whole pages of it: on hugetlbfs neither offset nor length may be anything else,
    // and its page is what it gives as its block size.
    let whole = found.blksize().max(4096).checked_mul(end.div_ceil(found.blksize().max(4096)));
    let (Some(whole), Ok(start)) =
        (whole.and_then(|whole| usize::try_from(whole).ok()), usize::try_from(offset))
    else {
        return Err(range);
    };
    let map: MmapRaw = MmapOptions::new().len(whole).map_raw(file).map_err(map_error)?;
    let host = map.as_mut_ptr().wrapping_add(start);
    let len = usize::try_from(len_bytes).map_err(|_| range)?;
    // SAFETY: `start + len` is at most `whole`, all mapped readable and writable by `map`, which becomes the owner.
    // Nothing but the device side reads or writes there, under the DMA contract.
    Ok(unsafe { GuestRegion::new(Iova(guest), len, host, Arc::new(map)) })
}

/// Takes an eventfd out of what was sent as one.
///
/// Whoever polls writes to it, so anything else is refused: a pipe or a socket could block, or give the frontend
/// SIGPIPE to play with. It is made non-blocking and close-on-exec. What remains: the frontend shares it, can make it
/// blocking again and fill its counter, and so hold up a core that signals it.
pub(super) fn eventfd(file: File) -> io::Result<Arc<EventFd>> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if target.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("frontend sent {} where an eventfd belongs", target.display()),
        ));
    }
    // The duplicate is close-on-exec, which what comes over a socket is not.
    let file = file.try_clone()?;
    // SAFETY: fcntl on a descriptor we hold; no memory operand.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is ours and given up by `into_raw_fd`; it is an eventfd, as checked above.
    Ok(Arc::new(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }))
}
