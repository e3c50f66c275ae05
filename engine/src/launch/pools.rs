//! A core's mbufs: those that most frames fit into, and long ones beside them where a program speaks of 64 KiB at a time.

use std::sync::Arc;

use pmd::HomePool;
use pmd::mem::{Pool, PoolConfig, PoolError, Region};

/// Long mbufs of a core: what a few TCP flows have under way, and what is being received. 4.5 MB.
const LONG_MBUFS: usize = 64;

/// Their data room: the longest IP packet with an Ethernet header and two VLAN tags.
const LONG_ROOM_BYTES: u32 = 65_600;

/// Their headroom beyond the usual: for the front of a frame that had to be received into a usual mbuf, as its length was
/// not known.
const LONG_HEADROOM_BYTES: u32 = 128 + 2048;

/// What a core's pools hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolsConfig {
    usual: PoolConfig,
    long: Option<PoolConfig>,
}

impl PoolsConfig {
    pub(super) fn new(usual: PoolConfig, with_long: bool) -> Self {
        let (headroom_bytes, data_room_bytes) = (LONG_HEADROOM_BYTES, LONG_ROOM_BYTES);
        let long = PoolConfig { mbufs: LONG_MBUFS, headroom_bytes, data_room_bytes };
        Self { usual, long: with_long.then_some(long) }
    }

    pub(super) fn check(&self) -> Result<(), PoolError> {
        self.usual.check()
    }

    /// Bytes of a region that they carve, alignment included.
    pub(super) fn region_bytes(&self) -> usize {
        let pools = std::iter::once(&self.usual).chain(&self.long);
        pools.map(|pool| pool.region_bytes() + 64).sum()
    }
}

/// A core's pools, before and after it has adopted them.
#[derive(Clone)]
pub(super) struct CorePools {
    usual: Pool,
    long: Option<Pool>,
}

impl CorePools {
    pub(super) fn new(region: &Arc<Region>, config: &PoolsConfig) -> Result<Self, PoolError> {
        let long = config.long.map(|config| Pool::new(region, config)).transpose()?;
        Ok(Self { usual: Pool::new(region, config.usual)?, long })
    }

    /// Makes the calling thread their home.
    pub(super) fn adopt(&self) -> Result<HomePool, PoolError> {
        let home = self.usual.adopt()?;
        Ok(match &self.long {
            Some(long) => home.with_large(long.adopt()?),
            None => home,
        })
    }
}
