//! Memory a device may reach, and the mbufs that live in it.
//!
//! ```text
//!   Region   one memfd, mapped once: virtqueues and packet data      shared with devices
//!   Pool     mbuf metadata (private) over data rooms (in the region) one per core
//!   Mbuf     owning handle to one frame, or one segment of it        moves between rooms, cores and devices
//! ```

pub mod checksum;
#[allow(unsafe_code)]
mod element;
#[allow(unsafe_code)]
mod mapping;
mod mbuf;
mod offload;
#[allow(unsafe_code)]
mod pool;
#[allow(unsafe_code)]
mod region;

pub use element::Mbuf;
pub(crate) use element::{copy, prefetch, prefetch_for_write};
pub use mbuf::{NoRoom, Segments};
pub use offload::{Offload, PartialChecksum, SegmentKind, Segmentation};
pub use pool::{Freeing, HomePool, Pool, PoolConfig, PoolError, PoolLevels};
pub use region::{Carved, Iova, PageSize, Region, RegionConfig, RegionError};
