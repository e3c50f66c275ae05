//! PCI devices through VFIO: the kernel gives us a device's registers and lets it reach our memory, through an
//! IOMMU and nowhere else.
//!
//! ```text
//!   host     what sysfs and procfs say before anything is opened: group, drivers, limits
//!   iommu    one address space per Region: the VFIO container, with the region mapped once
//!   device   one open device: configuration space, BARs, bus mastering
//!   pci      where the virtio structures lie: pure functions over a copy of the configuration space
//!   mmio     register accesses of exactly a field's width
//! ```
//!
//! `virtio/transport/vfio.rs` makes a virtio transport of it. Every way in which this can fail on somebody's
//! machine is a [`VfioError`] of its own, with the next command in its text.

#[allow(unsafe_code)]
mod device;
mod error;
pub mod host;
#[allow(unsafe_code)]
mod iommu;
#[allow(unsafe_code)]
mod mmio;
pub mod pci;

pub(crate) use device::{BusMaster, OpenDevice};
pub use error::{Ranges, VfioError};
pub use host::{Host, PciAddress};
pub(crate) use mmio::Window;
