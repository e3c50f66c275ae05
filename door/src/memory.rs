//! The memory of one socket: mapped when made, unmapped by whichever side lets go last.

use crate::layout::{Header, LayoutError, Preamble};
use crate::ring::Ring;

/// The header and the bytes of two rings.
#[derive(Debug)]
pub(crate) struct Memory {
    map: imp::Map,
    /// Private copies: what stands in the memory is read once only.
    rx_bytes: u32,
    tx_bytes: u32,
}

impl Memory {
    /// Maps anonymous memory, zero and not yet populated: pages cost nothing until the first byte reaches them. One
    /// system call.
    pub(crate) fn new(rx_bytes: usize, tx_bytes: usize) -> std::io::Result<Self> {
        let preamble = Preamble::new(rx_bytes, tx_bytes)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
        let map = imp::Map::new(preamble)?;
        Ok(Self { map, rx_bytes: preamble.rx_bytes, tx_bytes: preamble.tx_bytes })
    }

    /// Whether the memory is what this side takes it for. Each side asks once, before it uses memory that the other made.
    pub(crate) fn check(&self) -> Result<(), LayoutError> {
        let preamble = self.header().preamble;
        preamble.check(self.map.len())?;
        let size = |stated: u32, mine: u32| {
            if stated == mine { Ok(()) } else { Err(LayoutError::RingBytes(stated)) }
        };
        size(preamble.rx_bytes, self.rx_bytes)?;
        size(preamble.tx_bytes, self.tx_bytes)
    }

    #[inline]
    pub(crate) fn header(&self) -> &Header {
        self.map.header()
    }

    /// Core to application.
    #[inline]
    pub(crate) fn rx(&self) -> Ring<'_> {
        Ring::new(&self.header().rx, self.map.area(0, self.rx_bytes))
    }

    /// Application to core.
    #[inline]
    pub(crate) fn tx(&self) -> Ring<'_> {
        Ring::new(&self.header().tx, self.map.area(self.rx_bytes, self.tx_bytes))
    }
}

/// A ring by itself, for tests of rings.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Alone {
    header: crate::layout::RingHeader,
    map: imp::Map,
    bytes: u32,
}

#[cfg(test)]
impl Alone {
    pub(crate) fn new(bytes: u32, start: u32) -> Self {
        let map = imp::Map::bytes_only(bytes);
        Self { header: crate::layout::RingHeader::new(start), map, bytes }
    }

    pub(crate) fn ring(&self) -> Ring<'_> {
        Ring::new(&self.header, self.map.area(0, self.bytes))
    }
}

#[cfg(not(loom))]
mod imp {
    use std::marker::PhantomData;

    use memmap2::{MmapMut, MmapRaw};

    use super::{Header, Preamble};
    use crate::layout::HEADER_BYTES;

    #[derive(Debug)]
    pub struct Map(MmapRaw);

    impl Map {
        pub fn new(preamble: Preamble) -> std::io::Result<Self> {
            let map = MmapRaw::from(MmapMut::map_anon(preamble.total_bytes())?);
            // SAFETY: the mapping is new, page-aligned and longer than the header; nobody else knows of it yet.
            unsafe { map.as_mut_ptr().cast::<Header>().write(Header::new(preamble)) };
            Ok(Self(map))
        }

        #[cfg(test)]
        pub fn bytes_only(bytes: u32) -> Self {
            Self(MmapRaw::from(MmapMut::map_anon(HEADER_BYTES + bytes as usize).unwrap()))
        }

        pub fn len(&self) -> usize {
            self.0.len()
        }

        #[inline]
        pub fn header(&self) -> &Header {
            // SAFETY: `new` put a header there, aligned to a page, and the mapping lives as long as `self`. All that
            // changes later is atomic; the preamble is written by nobody after `new`.
            unsafe { &*self.0.as_ptr().cast::<Header>() }
        }

        /// `bytes` bytes, a power of two, that begin `offset` bytes after the header's page.
        #[inline]
        pub fn area(&self, offset: u32, bytes: u32) -> Area<'_> {
            let first = HEADER_BYTES + offset as usize;
            assert!(bytes.is_power_of_two() && first + bytes as usize <= self.0.len());
            Area { first: self.0.as_mut_ptr().wrapping_add(first), mask: bytes - 1, map: PhantomData }
        }
    }

    /// The bytes of one ring. No reference to them ever exists: the other side may write at any time.
    #[derive(Clone, Copy, Debug)]
    pub struct Area<'a> {
        first: *mut u8,
        mask: u32,
        map: PhantomData<&'a Map>,
    }

    impl Area<'_> {
        #[inline]
        pub fn len(&self) -> u32 {
            self.mask + 1
        }

        /// Copies `data`, at most `len` bytes, to index `at`, across the end if need be.
        #[inline]
        pub fn copy_in(&self, at: u32, data: &[u8]) {
            let (at, before) = self.split(at, data.len());
            // SAFETY: `split` checked that both pieces lie in the area, which lies in the mapping (`Map::area`), which is
            // borrowed. Raw copies: a hostile process may write the same bytes, and spoils only what it reads itself.
            unsafe {
                self.first.add(at).copy_from_nonoverlapping(data.as_ptr(), before);
                self.first.copy_from_nonoverlapping(data.as_ptr().add(before), data.len() - before);
            }
        }

        /// Copies at most `len` bytes from index `at` to `data`.
        #[inline]
        pub fn copy_out(&self, at: u32, data: &mut [u8]) {
            let (at, before) = self.split(at, data.len());
            // SAFETY: as in `copy_in`; bytes are valid whatever they are.
            unsafe {
                self.first.add(at).copy_to_nonoverlapping(data.as_mut_ptr(), before);
                self.first.copy_to_nonoverlapping(data.as_mut_ptr().add(before), data.len() - before);
            }
        }

        /// Where `len` bytes from index `at` begin, and how many of them come before the area's end.
        #[inline]
        fn split(&self, at: u32, len: usize) -> (usize, usize) {
            let (at, size) = ((at & self.mask) as usize, self.len() as usize);
            assert!(len <= size);
            (at, len.min(size - at))
        }
    }
}

#[cfg(loom)]
mod imp {
    use super::{Header, Preamble};

    /// A byte that loom watches: two threads that touch it without order are reported.
    type Byte = loom::cell::UnsafeCell<u8>;

    #[derive(Debug)]
    pub struct Map {
        header: Box<Header>,
        bytes: Vec<Byte>,
    }

    // SAFETY: loom checks each access to a byte.
    unsafe impl Sync for Map {}

    impl Map {
        pub fn new(preamble: Preamble) -> std::io::Result<Self> {
            let bytes = (preamble.rx_bytes + preamble.tx_bytes) as usize;
            let bytes = (0..bytes).map(|_| Byte::new(0)).collect();
            Ok(Self { header: Box::new(Header::new(preamble)), bytes })
        }
        #[cfg(test)]
        pub fn bytes_only(bytes: u32) -> Self {
            let header = Box::new(Header::new(Preamble::new(1024, 1024).unwrap()));
            Self { header, bytes: (0..bytes).map(|_| Byte::new(0)).collect() }
        }
        pub fn len(&self) -> usize {
            crate::layout::HEADER_BYTES + self.bytes.len()
        }
        pub fn header(&self) -> &Header {
            &self.header
        }
        pub fn area(&self, offset: u32, bytes: u32) -> Area<'_> {
            Area(&self.bytes[offset as usize..][..bytes as usize])
        }
    }

    #[derive(Clone, Copy, Debug)]
    pub struct Area<'a>(&'a [Byte]);

    impl Area<'_> {
        #[allow(clippy::cast_possible_truncation)]
        pub fn len(&self) -> u32 {
            self.0.len() as u32
        }
        pub fn copy_in(&self, at: u32, data: &[u8]) {
            for (i, byte) in data.iter().enumerate() {
                let at = (at as usize + i) & (self.0.len() - 1);
                // SAFETY: loom checks the access.
                self.0[at].with_mut(|place| unsafe { *place = *byte });
            }
        }
        pub fn copy_out(&self, at: u32, data: &mut [u8]) {
            for (i, byte) in data.iter_mut().enumerate() {
                let at = (at as usize + i) & (self.0.len() - 1);
                // SAFETY: loom checks the access.
                *byte = self.0[at].with(|place| unsafe { *place });
            }
        }
    }
}

pub(crate) use imp::Area;
