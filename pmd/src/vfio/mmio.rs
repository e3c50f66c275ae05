//! Registers of a device: accesses of exactly a field's width, within a mapped part of a BAR.

use std::any::Any;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

/// A mapped part of a BAR. Accesses are volatile: each is made once, in program order, with the stated width.
///
/// Little-endian registers on a little-endian machine: no conversion (x86-64 is all that we run on).
pub(crate) struct Window {
    // Unmapped before the owner goes: a device stays open as long as a BAR of it is mapped.
    map: MmapRaw,
    owner: Arc<dyn Any + Send + Sync>,
}

impl Window {
    /// Maps `len_bytes` of the file from `offset` on; `owner` is kept alive as long as the mapping.
    pub(crate) fn map(
        file: RawFd,
        offset: u64,
        len_bytes: u32,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> io::Result<Self> {
        // The mapping's length is ours to choose, a device file has none.
        let options = MmapOptions::new().offset(offset).len(len_bytes as usize).to_owned();
        Ok(Self { map: options.map_raw(file)?, owner })
    }

    /// How long it is.
    pub(crate) fn len_bytes(&self) -> usize {
        self.map.len()
    }

    /// The register at `offset`.
    ///
    /// # Panics
    /// If it does not lie within the window, aligned to its size: offsets are constants of the specification, or
    /// were compared with [`len_bytes`](Self::len_bytes).
    pub(crate) fn register<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(size_of::<T>());
        assert!(
            end.is_some_and(|end| end <= self.len_bytes()),
            "register {offset:#x} of {}",
            self.len_bytes()
        );
        // SAFETY: within the mapping, as just checked.
        let register = unsafe { self.map.as_mut_ptr().add(offset) }.cast::<T>();
        assert!(register.is_aligned(), "register {offset:#x} of {} bytes", size_of::<T>());
        register
    }

    pub(crate) fn read_u8(&self, offset: usize) -> u8 {
        // SAFETY: `register` returned a mapped, aligned address; all bit patterns are numbers.
        unsafe { self.register::<u8>(offset).read_volatile() }
    }

    pub(crate) fn read_u16(&self, offset: usize) -> u16 {
        // SAFETY: as in `read_u8`.
        unsafe { self.register::<u16>(offset).read_volatile() }
    }

    pub(crate) fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: as in `read_u8`.
        unsafe { self.register::<u32>(offset).read_volatile() }
    }

    pub(crate) fn write_u8(&self, offset: usize, value: u8) {
        // SAFETY: `register` returned a mapped, aligned address. No Rust reference to it exists, and what the
        //         device does on a write is confined to memory that was given to it (see `mem::Region`).
        unsafe { self.register::<u8>(offset).write_volatile(value) }
    }

    pub(crate) fn write_u16(&self, offset: usize, value: u16) {
        // SAFETY: as in `write_u8`.
        unsafe { self.register::<u16>(offset).write_volatile(value) }
    }

    pub(crate) fn write_u32(&self, offset: usize, value: u32) {
        // SAFETY: as in `write_u8`.
        unsafe { self.register::<u32>(offset).write_volatile(value) }
    }

    /// Writes a 64-bit field as two of 32 bits, low half first. virtio 1.2 §4.1.3.1.
    pub(crate) fn write_u64(&self, offset: usize, value: u64) {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (low, high) = (value as u32, (value >> 32) as u32);
        self.write_u32(offset, low);
        self.write_u32(offset + 4, high);
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window")
            .field("map", &self.map)
            .field("owners", &Arc::strong_count(&self.owner))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn accesses_have_their_width_and_begin_at_the_offset() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0xff; 64], 4096 + 16).unwrap();
        let window = Window::map(file.as_raw_fd(), 4096 + 16, 64, Arc::new(())).unwrap();
        assert_eq!(window.len_bytes(), 64);
        window.write_u8(1, 0x11);
        window.write_u16(4, 0x2233);
        window.write_u32(8, 0x4455_6677);
        window.write_u64(16, 0x0102_0304_0506_0708);
        let mut bytes = [0; 25];
        file.read_exact_at(&mut bytes, 4096 + 16).unwrap();
        let expected = [
            [0xff, 0x11, 0xff, 0xff, 0x33, 0x22, 0xff, 0xff],
            [0x77, 0x66, 0x55, 0x44, 0xff, 0xff, 0xff, 0xff],
            [8, 7, 6, 5, 4, 3, 2, 1],
        ];
        assert_eq!(bytes[..24], *expected.as_flattened());
        assert_eq!((window.read_u8(1), window.read_u16(4), window.read_u32(8)), (0x11, 0x2233, 0x4455_6677));
    }

    #[test]
    #[should_panic(expected = "register 0x3e of 64")]
    fn access_beyond_the_window_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64).unwrap();
        Window::map(file.as_raw_fd(), 0, 64, Arc::new(())).unwrap().read_u32(62);
    }
}
