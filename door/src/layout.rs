//! What both sides of the door agree on: the shared memory of one socket, byte by byte.
//!
//! ```text
//!   0    Preamble   64 B   magic, version, sizes and offsets: written once by who made the memory
//!   64   CoreLine   64 B   the core writes, the application reads
//!   128  AppLine    64 B   the application writes, the core reads
//!   192  RingHeader 192 B  rx: core ─► application
//!   384  RingHeader 192 B  tx: application ─► core
//!   4096                   rx bytes, a power of two
//!   4096 + rx              tx bytes, a power of two
//! ```
//!
//! No pointers, only offsets. Indices are free-running `u32` counts of bytes, masked when used. Each line of 64 bytes has
//! one writer, but for the event words, which sleepers set and wakers clear.
//!
//! **Neither side believes the other.** Sizes are checked once against what was mapped and then kept in private memory;
//! an index is read once, compared with what it may be, and only then used; unknown bits are ignored.

use crate::sync::{AtomicU32, AtomicU64, FutexWord};

/// First word of each socket's memory: "BYWD".
pub const MAGIC: u32 = u32::from_le_bytes(*b"BYWD");
/// Changes with every change of this file.
pub const VERSION: u32 = 1;
/// Where the first ring's bytes begin.
pub const HEADER_BYTES: usize = FIRST_OFFSET as usize;
/// The same as an offset in the preamble.
const FIRST_OFFSET: u32 = 4096;
/// Smallest size of a ring, bytes.
pub const MIN_RING_BYTES: usize = 1 << 10;
/// Largest size of a ring, bytes: an index may never be a whole turn of `u32` ahead of the other.
pub const MAX_RING_BYTES: usize = 1 << 30;

/// What the memory says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Preamble {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of the ring from the core to the application.
    pub rx_bytes: u32,
    /// Bytes of the ring from the application to the core.
    pub tx_bytes: u32,
    /// Where the rx bytes begin.
    pub rx_offset: u32,
    /// Where the tx bytes begin.
    pub tx_offset: u32,
}

/// Why memory cannot be a socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a socket's memory at all.
    #[error("shared memory begins with {0:#010x}, not with {MAGIC:#010x}")]
    Magic(u32),
    /// Made by another version.
    #[error(
        "shared memory of layout version {0}; this side speaks {VERSION}: use the same release on both sides"
    )]
    Version(u32),
    /// Rings are powers of two.
    #[error("a ring of {0} bytes: must be a power of two from {MIN_RING_BYTES} to {MAX_RING_BYTES}")]
    RingBytes(u32),
    /// A ring does not lie where it must.
    #[error("a ring at offset {0}: must be at {1}")]
    Offset(u32, usize),
    /// Less memory than the rings need.
    #[error("{0} bytes of shared memory; the rings need {1}")]
    TooSmall(usize, usize),
}

impl Preamble {
    /// The preamble of memory with rings of these sizes.
    ///
    /// # Errors
    /// [`LayoutError::RingBytes`] unless both are powers of two within bounds.
    pub fn new(rx_bytes: usize, tx_bytes: usize) -> Result<Self, LayoutError> {
        let size = |bytes: usize| {
            let allowed = bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes);
            let short = u32::try_from(bytes).unwrap_or(u32::MAX);
            if allowed { Ok(short) } else { Err(LayoutError::RingBytes(short)) }
        };
        let (rx_bytes, tx_bytes, rx_offset) = (size(rx_bytes)?, size(tx_bytes)?, FIRST_OFFSET);
        Ok(Self {
            magic: MAGIC,
            version: VERSION,
            rx_bytes,
            tx_bytes,
            rx_offset,
            tx_offset: rx_offset + rx_bytes,
        })
    }

    /// Bytes of memory that header and rings take together.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.rx_bytes as usize + self.tx_bytes as usize
    }

    /// Checks a copy of what the other side wrote against the `mapped` bytes.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub fn check(&self, mapped: usize) -> Result<(), LayoutError> {
        if self.magic != MAGIC {
            return Err(LayoutError::Magic(self.magic));
        }
        if self.version != VERSION {
            return Err(LayoutError::Version(self.version));
        }
        let right = Self::new(self.rx_bytes as usize, self.tx_bytes as usize)?;
        if self.rx_offset != right.rx_offset {
            return Err(LayoutError::Offset(self.rx_offset, right.rx_offset as usize));
        }
        if self.tx_offset != right.tx_offset {
            return Err(LayoutError::Offset(self.tx_offset, right.tx_offset as usize));
        }
        if mapped < right.total_bytes() {
            return Err(LayoutError::TooSmall(mapped, right.total_bytes()));
        }
        Ok(())
    }
}

/// The index that one side of a ring publishes, alone on its cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Index(pub(crate) AtomicU32);

/// What sleepers and wakers share.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Events {
    /// The consumer sleeps here for bytes.
    pub(crate) data: FutexWord,
    /// The producer sleeps here for room. Of the rx ring the producer is a core: it never sleeps, but says that it left
    /// bytes behind and wants to be rung for.
    pub(crate) room: FutexWord,
}

/// One ring's shared words: producer's line, consumer's line, sleepers' line.
#[derive(Debug)]
#[repr(C)]
pub struct RingHeader {
    /// Bytes ever pushed, mod 2^32. The producer's.
    pub(crate) tail: Index,
    /// Bytes ever popped, mod 2^32. The consumer's.
    pub(crate) head: Index,
    pub(crate) events: Events,
}

/// What the core says.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct CoreLine {
    /// Bits of [`core_state`].
    pub(crate) state: AtomicU32,
    /// When the core last woke a sleeper, nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) woken_ns: AtomicU64,
}

/// What the application says.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct AppLine {
    /// See `bell.rs`.
    pub(crate) bell: AtomicU32,
    /// Bits of [`app_state`].
    pub(crate) state: AtomicU32,
    /// Time from the core's wake-up to the thread running again, nanoseconds; 0: none measured since it was taken.
    pub(crate) handoff_ns: AtomicU32,
    /// Counts changes of the words below, which hold what `TcpOptions` says.
    pub(crate) options: AtomicU32,
    pub(crate) nodelay: AtomicU32,
    pub(crate) keep_alive_ms: AtomicU32,
    pub(crate) timeout_ms: AtomicU32,
    pub(crate) hop_limit: AtomicU32,
    pub(crate) dscp: AtomicU32,
}

/// All of a socket's memory but the rings' bytes.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    pub(crate) preamble: Preamble,
    pub(crate) core: CoreLine,
    pub(crate) app: AppLine,
    pub(crate) rx: RingHeader,
    pub(crate) tx: RingHeader,
}

/// Bits of the core's state.
pub mod core_state {
    /// Connected, or bound.
    pub const OPEN: u32 = 1;
    /// The peer has finished: no byte comes after those already in the ring.
    pub const FINISHED: u32 = 2;
    /// The connection is over in both directions, and the core has let go of it.
    pub const CLOSED: u32 = 4;
    /// Where the [`Failure`](crate::Failure)'s code begins: eight bits.
    pub const FAILURE_SHIFT: u32 = 8;
}

/// Bits of the application's state.
pub mod app_state {
    /// Reads no more: what comes is thrown away.
    pub const SHUT_READ: u32 = 1;
    /// Writes no more: finish after what is in the ring.
    pub const SHUT_WRITE: u32 = 2;
    /// Reset the connection, at once.
    pub const ABORT: u32 = 4;
    /// Somebody waits in `drop` for the connection to end: say so when it has.
    pub const LINGER: u32 = 8;
}

impl RingHeader {
    /// An empty ring whose indices begin at `start` (0 but for tests of wrapping).
    pub(crate) fn new(start: u32) -> Self {
        Self {
            tail: Index(AtomicU32::new(start)),
            head: Index(AtomicU32::new(start)),
            events: Events { data: FutexWord::new(), room: FutexWord::new() },
        }
    }
}

impl Header {
    /// The header of a new socket.
    pub(crate) fn new(preamble: Preamble) -> Self {
        let zero = || AtomicU32::new(0);
        Self {
            preamble,
            core: CoreLine { state: zero(), woken_ns: AtomicU64::new(0) },
            app: AppLine {
                bell: zero(),
                state: zero(),
                handoff_ns: zero(),
                options: zero(),
                nodelay: zero(),
                keep_alive_ms: zero(),
                timeout_ms: zero(),
                hop_limit: zero(),
                dscp: zero(),
            },
            rx: RingHeader::new(0),
            tx: RingHeader::new(0),
        }
    }
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Preamble>() == 64 && size_of::<CoreLine>() == 64 && size_of::<AppLine>() == 64);
    assert!(size_of::<RingHeader>() == 192 && offset_of!(RingHeader, head) == 64);
    assert!(offset_of!(RingHeader, events) == 128);
    assert!(offset_of!(Header, core) == 64 && offset_of!(Header, app) == 128);
    assert!(offset_of!(Header, rx) == 192 && offset_of!(Header, tx) == 384);
    assert!(size_of::<Header>() == 576 && size_of::<Header>() <= HEADER_BYTES);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn preamble_of_another_shape_is_refused() {
        let good = Preamble::new(4096, 1024).unwrap();
        let total = good.total_bytes();
        assert_eq!(good.check(total), Ok(()));
        assert_eq!(good.check(total - 1), Err(LayoutError::TooSmall(total - 1, total)));
        assert_eq!(Preamble { magic: 7, ..good }.check(total), Err(LayoutError::Magic(7)));
        assert_eq!(Preamble { version: 9, ..good }.check(total), Err(LayoutError::Version(9)));
        for bytes in [0, 1, 512, 4095, 1 << 31, u32::MAX] {
            assert_eq!(Preamble { rx_bytes: bytes, ..good }.check(total), Err(LayoutError::RingBytes(bytes)));
            assert_eq!(Preamble { tx_bytes: bytes, ..good }.check(total), Err(LayoutError::RingBytes(bytes)));
        }
        assert_eq!(Preamble { tx_offset: 0, ..good }.check(total), Err(LayoutError::Offset(0, 8192)));
        assert_eq!(Preamble { rx_offset: 1, ..good }.check(total), Err(LayoutError::Offset(1, 4096)));
    }
}
