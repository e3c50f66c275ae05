//! A shared mapping at an address that any IOMMU can take as it is.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::{io, ptr};

/// Where mappings begin: above what 32-bit devices and the MSI window (0xfee0_0000) claim.
const LOWEST: usize = 4 << 30;

/// Where they end. Every virtual address is used as I/O virtual address too, and the smallest IOMMUs in use
/// translate 39 bits (Intel's in many desktop processors, QEMU's unless told otherwise), where the kernel's own
/// choice of address needs 47.
const BEYOND: usize = 1 << 39;

/// Steps of the search; also the largest alignment that pages need.
const STEP: usize = 1 << 30;

/// A file, or a part of one, mapped readable and writable; unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    ptr: *mut u8,
    len_bytes: usize,
}

// SAFETY: an address range of the process, valid on every thread; whoever reads or writes there answers for it.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods only return where it is.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len_bytes` of `file` from its beginning, below 2^39 if there is room, else where the kernel likes.
    pub(super) fn new(file: &File, len_bytes: usize) -> io::Result<Self> {
        let step = len_bytes.next_multiple_of(STEP);
        let mut address = LOWEST;
        while address.checked_add(len_bytes).is_some_and(|end| end <= BEYOND) {
            match map(address, libc::MAP_FIXED_NOREPLACE, file, len_bytes) {
                Err(taken) if taken.raw_os_error() == Some(libc::EEXIST) => address += step,
                other => return other,
            }
        }
        map(0, 0, file, len_bytes)
    }

    pub(super) fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Brings all pages in now, writable, with an error where a later access would be a SIGBUS.
    pub(super) fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is our mapping; the call changes no byte of it.
        match unsafe { libc::madvise(self.ptr.cast(), self.len_bytes, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is our mapping, and nobody uses it any more: `Region` says who keeps it alive.
        let unmapped = unsafe { libc::munmap(self.ptr.cast(), self.len_bytes) };
        debug_assert_eq!(unmapped, 0);
    }
}

fn map(address: usize, flags: libc::c_int, file: &File, len_bytes: usize) -> io::Result<Mapping> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_SHARED;
    // SAFETY: without MAP_FIXED no mapping that exists is touched, so the new range is ours alone.
    let got = unsafe {
        libc::mmap(ptr::without_provenance_mut(address), len_bytes, protection, flags, file.as_raw_fd(), 0)
    };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(Mapping { ptr: got.cast(), len_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_lie_where_a_39_bit_iommu_reaches_and_never_overlap() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 30).unwrap();
        let maps: Vec<Mapping> =
            [4096, 3 << 30, 1 << 20].iter().map(|len| Mapping::new(&file, *len).unwrap()).collect();
        for (index, map) in maps.iter().enumerate() {
            let end = map.ptr() as usize + map.len_bytes();
            // AddressSanitizer keeps all of that range for itself.
            assert!(end <= BEYOND || cfg!(miri) || end > 1 << 44, "{map:?}");
            for other in &maps[index + 1..] {
                let other_end = other.ptr() as usize + other.len_bytes();
                assert!(end <= other.ptr() as usize || other_end <= map.ptr() as usize, "{map:?} {other:?}");
            }
        }
    }

    #[test]
    fn file_shorter_than_the_mapping_is_an_error_and_no_signal() {
        let file = tempfile::tempfile().unwrap();
        let map = Mapping::new(&file, 4096).unwrap();
        assert!(map.populate().is_err());
    }
}
