//! The engine's region as the memory of a socket (UMEM).
//!
//! ```text
//!   UMEM   0 ........ 64 KiB ................................ 64 KiB + region
//!          padding   │ the engine's region: every pool's rooms, each a chunk that begins where it begins
//! ```
//!
//! Rooms are a multiple of 64 bytes apart and not a power of two, so chunks are unaligned ones. An unaligned address has
//! 48 bits and an offset of 16 more, which the kernel adds and, for frames to send, gives back as it got it: the offset
//! carries the number of the transmit slot, the rest is that much lower. The padding keeps it from going below zero. It
//! exists only in this view of memory, which exists only while the kernel looks the pages up.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sys;
use crate::mem::Region;

/// Bytes in front of the region: one more than the largest offset.
pub(super) const PADDING_BYTES: usize = 1 << 16;

/// Where the region has to begin: on a page of any size.
const ALIGN: usize = 1 << 30;

/// Gives `socket` the padding and the region.
pub(super) fn register(socket: BorrowedFd<'_>, region: &Region, chunk_bytes: u32) -> io::Result<()> {
    let view = View::new(region)?;
    sys::register_umem(socket, view.umem, PADDING_BYTES + region.len_bytes(), chunk_bytes)
}

/// Gives `socket` the padding alone.
pub(super) fn register_padding(socket: BorrowedFd<'_>, chunk_bytes: u32) -> io::Result<()> {
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let reserved = map(0, PADDING_BYTES, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1)?;
    let view = View { reserved, reserved_bytes: PADDING_BYTES, umem: reserved.cast() };
    sys::register_umem(socket, view.umem, PADDING_BYTES, chunk_bytes)
}

/// A second mapping of the region, with the padding before it.
struct View {
    reserved: *mut libc::c_void,
    reserved_bytes: usize,
    umem: *const u8,
}

impl View {
    fn new(region: &Region) -> io::Result<Self> {
        let reserved_bytes = PADDING_BYTES + region.len_bytes() + 2 * ALIGN;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let reserved = map(0, reserved_bytes, libc::PROT_NONE, anonymous | libc::MAP_NORESERVE, -1)?;
        let start = (reserved as usize + PADDING_BYTES).next_multiple_of(ALIGN);
        let view = Self { reserved, reserved_bytes, umem: (start - PADDING_BYTES) as *const u8 };
        let both = libc::PROT_READ | libc::PROT_WRITE;
        map(start - PADDING_BYTES, PADDING_BYTES, both, anonymous | libc::MAP_FIXED, -1)?;
        let shared = libc::MAP_SHARED | libc::MAP_FIXED;
        map(start, region.len_bytes(), both, shared, region.fd().as_raw_fd())?;
        Ok(view)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and nobody has been told of it but the kernel, which keeps pages and not addresses.
        unsafe { libc::munmap(self.reserved, self.reserved_bytes) };
    }
}

fn map(address: usize, len: usize, protection: i32, flags: i32, fd: i32) -> io::Result<*mut libc::c_void> {
    let address = std::ptr::without_provenance_mut(address);
    // SAFETY: a fresh range of the kernel's choice, or a part of the one that we have reserved so.
    let got = unsafe { libc::mmap(address, len, protection, flags, fd, 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(got) }
}
