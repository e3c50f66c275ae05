//! What can go wrong between a PCI address and an open device, one variant for each cause.

use std::fmt;
use std::io;

use thiserror::Error;

use super::host::{Member, PciAddress};
use super::pci::PciError;
use crate::virtio::transport::TransportError;

/// Why a device could not be opened through VFIO.
#[derive(Debug, Error)]
pub enum VfioError {
    /// Not an address.
    #[error("{text:?} is no PCI address; write it as lspci -D does, such as 0000:00:03.0")]
    BadAddress {
        /// What was given.
        text: String,
    },
    /// Nothing at that address.
    #[error("there is no PCI device {address}; lspci -D -d 1af4: lists the virtio devices")]
    NoDevice {
        /// The address.
        address: PciAddress,
    },
    /// A device that is no virtio network device.
    #[error(
        "PCI device {address} is {vendor:04x}:{device:04x}, not a virtio network device (1af4:1041 or 1af4:1000)"
    )]
    NotVirtioNet {
        /// The address.
        address: PciAddress,
        /// Its vendor id.
        vendor: u16,
        /// Its device id.
        device: u16,
    },
    /// The machine has no IOMMU, or it is off.
    #[error(
        "PCI device {address} is in no IOMMU group: the IOMMU is off or missing; switch on VT-d or AMD-Vi in the firmware and boot Linux with intel_iommu=on (in a virtual machine: give it a virtual IOMMU)"
    )]
    NoIommu {
        /// The address.
        address: PciAddress,
    },
    /// There are IOMMU groups, but the device is in none.
    #[error(
        "PCI device {address} is in no IOMMU group although this machine has {groups}; it cannot be used through VFIO"
    )]
    NoGroup {
        /// The address.
        address: PciAddress,
        /// How many groups there are.
        groups: usize,
    },
    /// Another driver has it, or none.
    #[error(
        "PCI device {address} {}, not by vfio-pci; run ./hugepage-setup.sh --bind {address}",
        driver.as_ref().map_or("is driven by nobody".into(), |name| format!("is driven by {name}"))
    )]
    NotBound {
        /// The address.
        address: PciAddress,
        /// Its driver.
        driver: Option<String>,
    },
    /// A device of the group belongs to a kernel driver, which could be made to reach our memory.
    #[error(
        "IOMMU group {group} of {address} is not viable: every device in it must be bound to vfio-pci or to nobody, and it has {}; run ./hugepage-setup.sh{}",
        list(members),
        binds(members)
    )]
    GroupNotViable {
        /// The device asked for.
        address: PciAddress,
        /// Its group.
        group: u32,
        /// Every device of the group, with its driver.
        members: Vec<Member>,
    },
    /// No right to open a device file.
    #[error(
        "{path} cannot be opened by user {uid}; run ./hugepage-setup.sh --bind {address} --user NAME as root, or run as root"
    )]
    Access {
        /// The device file.
        path: String,
        /// The device asked for.
        address: PciAddress,
        /// Who tried.
        uid: u32,
        /// errno.
        source: io::Error,
    },
    /// VFIO's device file is not there.
    #[error("{path} is missing; run modprobe vfio-pci as root")]
    NoVfio {
        /// The device file.
        path: String,
        /// errno.
        source: io::Error,
    },
    /// The kernel's VFIO cannot program the IOMMU.
    #[error("the kernel's VFIO has no driver for the IOMMU; run modprobe vfio_iommu_type1 as root")]
    NoType1,
    /// The IOMMU could not keep the device from raising arbitrary interrupts.
    #[error(
        "VFIO refuses PCI device {address}, most likely because the IOMMU has no interrupt remapping (dmesg says so); switch it on in the firmware, with QEMU use intel-iommu,intremap=on and kernel-irqchip=split or off"
    )]
    NoInterruptRemapping {
        /// The address.
        address: PciAddress,
    },
    /// The device is in use.
    #[error("PCI device {address} is in use: IOMMU group {group} is held by {holder}; stop that first")]
    Busy {
        /// The address.
        address: PciAddress,
        /// Its group.
        group: u32,
        /// Who has it, as far as we may see.
        holder: String,
    },
    /// The limit of locked memory is too low for DMA memory, which the kernel locks.
    #[error(
        "packet memory of {need_bytes} bytes must be locked, and this process may lock {limit_bytes}, of which {locked_bytes} are taken; run ./hugepage-setup.sh --memlock as root and log in again, or ask for fewer mbufs"
    )]
    Memlock {
        /// Bytes to be locked.
        need_bytes: u64,
        /// `RLIMIT_MEMLOCK`.
        limit_bytes: u64,
        /// Bytes that are locked already.
        locked_bytes: u64,
    },
    /// The region lies outside the addresses that the IOMMU translates.
    #[error(
        "packet memory at {start:#x}-{end:#x} lies outside what the IOMMU translates ({ranges}); use a smaller region, or an IOMMU with more address bits (with QEMU: intel-iommu,aw-bits=48)"
    )]
    IovaRange {
        /// First byte.
        start: u64,
        /// Last byte.
        end: u64,
        /// What it translates.
        ranges: Ranges,
    },
    /// The kernel would not map the region for the device.
    #[error("cannot map {len_bytes} bytes of packet memory at {iova:#x} for the device; dmesg may say why")]
    DmaMap {
        /// Where.
        iova: u64,
        /// How much.
        len_bytes: usize,
        /// What the kernel said.
        source: vfio_ioctls::VfioError,
    },
    /// The device's configuration space makes no sense.
    #[error("PCI device {address} cannot be used")]
    Pci {
        /// The address.
        address: PciAddress,
        /// Why.
        source: PciError,
    },
    /// A device of before virtio 1.0.
    #[error(
        "PCI device {address} is legacy-only (1af4:1000 without modern registers), which bywash does not drive; with QEMU use disable-modern=off, disable-legacy=on"
    )]
    LegacyOnly {
        /// The address.
        address: PciAddress,
    },
    /// The device would not obey the IOMMU.
    #[error(
        "PCI device {address} does not offer VIRTIO_F_ACCESS_PLATFORM, so it reaches memory past the IOMMU; with QEMU use iommu_platform=on,disable-legacy=on"
    )]
    NoAccessPlatform {
        /// The address.
        address: PciAddress,
    },
    /// A bit of the PCI command register did not stay set.
    #[error(
        "PCI device {address} does not take {wanted:#06x} in its command register, it reads back {got:#06x}"
    )]
    Command {
        /// The address.
        address: PciAddress,
        /// What was written.
        wanted: u16,
        /// What came back.
        got: u16,
    },
    /// A register access or a reset failed while opening.
    #[error("PCI device {address}")]
    Device {
        /// The address.
        address: PciAddress,
        /// How.
        source: TransportError,
    },
    /// A file could not be read or a BAR not be mapped.
    #[error("cannot {what} of PCI device {address}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The address.
        address: PciAddress,
        /// errno.
        source: io::Error,
    },
    /// The kernel refused a step of VFIO for which no cause is known to us.
    #[error("VFIO refuses PCI device {address}; dmesg may say why")]
    Kernel {
        /// The address.
        address: PciAddress,
        /// What it refused.
        source: vfio_ioctls::VfioError,
    },
}

/// The I/O virtual addresses that an IOMMU translates, as first and last byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(pub Vec<(u64, u64)>);

impl Ranges {
    /// Whether every byte from `start` to `end`, both included, lies in one range.
    #[must_use]
    pub fn cover(&self, start: u64, end: u64) -> bool {
        self.0.iter().any(|(first, last)| *first <= start && end <= *last)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{first:#x}-{last:#x}")?;
        }
        if self.0.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

fn list(members: &[Member]) -> String {
    let each = members
        .iter()
        .map(|member| format!("{} ({})", member.address, member.driver.as_deref().unwrap_or("no driver")));
    each.collect::<Vec<_>>().join(", ")
}

/// Options that bind whatever keeps the group from being viable. Bridges stay with the kernel, which lets them.
fn binds(members: &[Member]) -> String {
    let others = members.iter().filter(|member| !member.is_harmless());
    others.map(|member| format!(" --bind {}", member.address)).collect()
}
