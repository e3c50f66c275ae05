//! The shared memory of a virtqueue of either format.

use crate::mem::{Carved, Region, RegionError};
use crate::virtio::spec::{packed, split};
use crate::virtio::transport::RingLayout;

/// Each area on cache lines of its own, apart from the adjacent-line prefetcher's pair.
const ALIGN: usize = 128;

/// The shared memory of a queue before the device knows it.
pub(crate) struct QueueMemory {
    pub descriptors: Carved,
    /// The driver area: available ring, or driver event suppression.
    pub driver_area: Carved,
    /// The device area: used ring, or device event suppression.
    pub device_area: Carved,
    pub size: u16,
    pub packed: bool,
}

impl QueueMemory {
    /// Bytes of a [`Region`] that one queue carves at most, alignment included: a split one, which is the larger.
    pub(crate) const fn region_bytes(size: u16) -> usize {
        split::descriptors_bytes(size) + split::available_bytes(size) + split::used_bytes(size) + 3 * ALIGN
    }

    /// Memory of a split queue (`size` a power of two) or a packed one.
    pub(crate) fn carve(region: &Region, size: u16, packed: bool) -> Result<Self, RegionError> {
        assert!(packed || size.is_power_of_two(), "split queue of {size}");
        let (driver_bytes, device_bytes) = if packed {
            (packed::EVENT_BYTES, packed::EVENT_BYTES)
        } else {
            (split::available_bytes(size), split::used_bytes(size))
        };
        Ok(Self {
            descriptors: region.carve(split::descriptors_bytes(size), ALIGN)?,
            driver_area: region.carve(driver_bytes, ALIGN)?,
            device_area: region.carve(device_bytes, ALIGN)?,
            size,
            packed,
        })
    }

    pub(crate) fn layout(&self) -> RingLayout {
        RingLayout {
            size: self.size,
            packed: self.packed,
            descriptors: self.descriptors.iova,
            available: self.driver_area.iova,
            used: self.device_area.iova,
        }
    }
}
