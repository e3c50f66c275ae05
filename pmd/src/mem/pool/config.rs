//! What a pool is to hold, and why it cannot.

use thiserror::Error;

use crate::mem::element::ROOM_UNIT_BYTES;
use crate::mem::region::RegionError;

/// What a pool holds.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Number of mbufs.
    pub mbufs: usize,
    /// Free bytes in front of the data of a fresh mbuf; at least 64, since a device's packet header goes there.
    pub headroom_bytes: u32,
    /// Bytes for data behind the headroom: 64 to 65,600. There are up to seven more, as a room is a multiple of eight.
    pub data_room_bytes: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { mbufs: 8192, headroom_bytes: 128, data_room_bytes: 2048 }
    }
}

impl PoolConfig {
    /// The longest IP packet, and its Ethernet header with two VLAN tags, and some.
    const MAX_DATA_ROOM_BYTES: u32 = (64 << 10) + 64;
    const MAX_MBUFS: usize = 1 << 24;

    /// A room in units, the last one whole.
    pub(super) fn room_units(&self) -> u16 {
        let units = (self.headroom_bytes + self.data_room_bytes).div_ceil(ROOM_UNIT_BYTES);
        u16::try_from(units).unwrap_or(u16::MAX)
    }

    /// Bytes between two data rooms: an odd number of cache lines, so that the hot first lines of the rooms
    /// spread over all sets of the cache.
    pub(super) fn stride_bytes(&self) -> usize {
        let lines = ((self.headroom_bytes + self.data_room_bytes) as usize).div_ceil(64);
        (lines | 1) * 64
    }

    /// Bytes of a [`Region`](crate::Region) that the pool will carve.
    #[must_use]
    pub fn region_bytes(&self) -> usize {
        self.mbufs * self.stride_bytes()
    }

    /// Whether such a pool can be.
    ///
    /// # Errors
    /// [`PoolError::OutOfRange`].
    pub fn check(&self) -> Result<(), PoolError> {
        let in_range = |what, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(PoolError::OutOfRange { what, value, least, most })
            }
        };
        in_range("mbufs", self.mbufs, 1, Self::MAX_MBUFS)?;
        in_range("headroom_bytes", self.headroom_bytes as usize, 64, 4096)?;
        let most = Self::MAX_DATA_ROOM_BYTES as usize;
        in_range("data_room_bytes", self.data_room_bytes as usize, 64, most)
    }
}

/// Why there is no pool, or no home.
#[derive(Debug, Error)]
pub enum PoolError {
    /// A number of the configuration is out of range.
    #[error("{what} is {value}, must be {least} to {most}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: usize,
        /// Its least value.
        least: usize,
        /// Its greatest value.
        most: usize,
    },
    /// The data rooms do not fit in the region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// No private memory for the metadata.
    #[error("cannot allocate the metadata of {mbufs} mbufs")]
    Metadata {
        /// How many.
        mbufs: usize,
        /// errno of `mmap`.
        source: std::io::Error,
    },
    /// Another thread is the pool's home.
    #[error("another thread is this pool's home; each core needs a pool of its own")]
    Adopted,
}

/// Where a pool's mbufs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLevels {
    /// All of them.
    pub mbufs: usize,
    /// On the home stack or in the return ring: free.
    pub free: usize,
}
