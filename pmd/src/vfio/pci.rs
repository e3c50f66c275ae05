//! Where a virtio device keeps its registers: the walk over its PCI capabilities.
//!
//! Pure functions over a copy of the configuration space, because a device may put anything there: every walk is
//! bounded, every place checked against the BAR it names. Source: virtio 1.2 §4.1.4; PCI Local Bus 3.0 §6.1, §6.7.

use thiserror::Error;

/// Bytes of configuration space that every device has.
pub const CONFIG_BYTES: usize = 256;

/// A copy of a device's configuration space.
pub type ConfigSpace = [u8; CONFIG_BYTES];

/// Offsets in the configuration space. PCI Local Bus 3.0 §6.1.
pub mod register {
    /// Vendor id, 16 bits.
    pub const VENDOR_ID: usize = 0x00;
    /// Device id, 16 bits.
    pub const DEVICE_ID: usize = 0x02;
    /// Command, 16 bits.
    pub const COMMAND: usize = 0x04;
    /// Status, 16 bits.
    pub const STATUS: usize = 0x06;
    /// Six base address registers of 32 bits.
    pub const BAR0: usize = 0x10;
    /// Where the list of capabilities begins, 8 bits.
    pub const CAPABILITIES: usize = 0x34;
    /// First byte that a capability may occupy.
    pub const FIRST_CAPABILITY: usize = 0x40;
}

/// Bits of [`register::COMMAND`]. PCI Local Bus 3.0 §6.2.2.
pub mod command {
    /// The device answers in its memory BARs.
    pub const MEMORY_SPACE: u16 = 1 << 1;
    /// The device may access memory (and send MSIs).
    pub const BUS_MASTER: u16 = 1 << 2;
}

/// Bit of [`register::STATUS`]: there is a list of capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Capability of a vendor's own. PCI Local Bus 3.0, appendix H.
const VENDOR_SPECIFIC: u8 = 0x09;

/// Vendor id of all virtio devices. virtio 1.2 §4.1.2.
pub const VIRTIO_VENDOR: u16 = 0x1af4;
/// Device id of a modern network device: 0x1040 plus the virtio device id. virtio 1.2 §4.1.2.1.
pub const VIRTIO_NET_MODERN: u16 = 0x1041;
/// Device id of a transitional network device. virtio 1.2 §4.1.2.3.
pub const VIRTIO_NET_TRANSITIONAL: u16 = 0x1000;

/// Which of its structures a virtio capability locates. virtio 1.2 §4.1.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// `VIRTIO_PCI_CAP_COMMON_CFG`, §4.1.4.3.
    Common,
    /// `VIRTIO_PCI_CAP_NOTIFY_CFG`, §4.1.4.4.
    Notify,
    /// `VIRTIO_PCI_CAP_DEVICE_CFG`, §4.1.4.6.
    Device,
}

impl Structure {
    fn of(cfg_type: u8) -> Option<Self> {
        match cfg_type {
            1 => Some(Self::Common),
            2 => Some(Self::Notify),
            4 => Some(Self::Device),
            // 3 (ISR) is for interrupts that we do not take; 5, 8 and 9 for devices that we do not drive.
            _ => None,
        }
    }

    /// The specification's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Common => "VIRTIO_PCI_CAP_COMMON_CFG",
            Self::Notify => "VIRTIO_PCI_CAP_NOTIFY_CFG",
            Self::Device => "VIRTIO_PCI_CAP_DEVICE_CFG",
        }
    }

    /// Bytes it has at least: common configuration up to `queue_device`, one notification register, and of the
    /// network device's configuration the MAC address and the status (virtio 1.2 §5.1.4).
    #[must_use]
    pub fn min_bytes(self) -> u32 {
        match self {
            Self::Common => 56,
            Self::Notify => 2,
            Self::Device => 8,
        }
    }
}

/// A place in a BAR that a virtio capability names; not checked against the BAR yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What is there.
    pub structure: Structure,
    /// Which BAR, 0 to 5.
    pub bar: u8,
    /// Where it begins in the BAR, bytes.
    pub offset: u32,
    /// How long it is, bytes.
    pub length: u32,
    /// `notify_off_multiplier`, bytes; 0 for the other structures. virtio 1.2 §4.1.4.4.
    pub notify_off_multiplier: u32,
}

/// What a BAR is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bar {
    /// Not implemented, or the upper half of a 64-bit one.
    #[default]
    Absent,
    /// I/O ports.
    IoPorts {
        /// Number of ports.
        size: u64,
    },
    /// Memory.
    Memory {
        /// Bytes.
        size: u64,
        /// Which parts may be mapped, as begin and length in bytes. VFIO leaves out the MSI-X table on kernels
        /// that do not let it be mapped, and all of a BAR that is smaller than a page.
        mappable: Vec<(u64, u64)>,
    },
}

/// Why the registers of a virtio device cannot be found.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PciError {
    /// The list of capabilities leads back into itself.
    #[error("the list of PCI capabilities loops at {at:#04x}")]
    Loop {
        /// The offset that came up twice.
        at: u8,
    },
    /// A capability begins in the header of the configuration space.
    #[error("a PCI capability lies at {at:#04x}, within the configuration header")]
    InHeader {
        /// Its offset.
        at: u8,
    },
    /// A virtio capability is shorter than the specification says, or runs out of the configuration space.
    #[error("the virtio capability at {at:#04x} has {len} bytes, too few (virtio 1.2 §4.1.4)")]
    Truncated {
        /// Its offset.
        at: u8,
        /// Its length.
        len: u8,
    },
    /// There is no such structure at all.
    #[error("the device has no {structure} capability (virtio 1.2 §4.1.4)", structure = structure.name())]
    Missing {
        /// Which one.
        structure: Structure,
    },
    /// The structure lies outside its BAR.
    #[error(
        "{structure}: {length} bytes at {offset:#x} do not lie in BAR {bar} of {size} bytes",
        structure = structure.name()
    )]
    OutsideBar {
        /// Which one.
        structure: Structure,
        /// The BAR it names.
        bar: u8,
        /// Where in it.
        offset: u32,
        /// How long.
        length: u32,
        /// Bytes of that BAR, 0 if there is none.
        size: u64,
    },
    /// The structure lies among I/O ports.
    #[error("{structure} lies in BAR {bar}, which is I/O ports; bywash uses memory only", structure = structure.name())]
    IoPorts {
        /// Which one.
        structure: Structure,
        /// The BAR it names.
        bar: u8,
    },
    /// The structure is too short to be used.
    #[error("{structure} has {length} bytes, at least {min} are needed", structure = structure.name())]
    TooShort {
        /// Which one.
        structure: Structure,
        /// Its length.
        length: u32,
        /// What we need.
        min: u32,
    },
    /// The structure is not aligned for the accesses that its fields need.
    #[error("{structure} at {offset:#x} in BAR {bar} is not aligned to {align} bytes", structure = structure.name())]
    Misaligned {
        /// Which one.
        structure: Structure,
        /// The BAR it names.
        bar: u8,
        /// Where in it.
        offset: u32,
        /// The alignment it needs.
        align: u32,
    },
    /// The kernel does not let that part of the BAR be mapped.
    #[error(
        "{structure}: the kernel does not let BAR {bar} be mapped at {offset:#x} (it shares a page with the MSI-X table, or the BAR is smaller than a page)",
        structure = structure.name()
    )]
    NotMappable {
        /// Which one.
        structure: Structure,
        /// The BAR it names.
        bar: u8,
        /// Where in it.
        offset: u32,
    },
}

/// The 16-bit little-endian value at `at`, which is below [`CONFIG_BYTES`] − 1.
#[must_use]
pub fn config_u16(config: &ConfigSpace, at: usize) -> u16 {
    u16::from_le_bytes([config[at], config[at + 1]])
}

fn config_u32(config: &ConfigSpace, at: usize) -> u32 {
    u32::from_le_bytes([config[at], config[at + 1], config[at + 2], config[at + 3]])
}

/// Whether base address register `index` says that it is I/O ports. PCI Local Bus 3.0 §6.2.5.1.
#[must_use]
pub fn is_io_bar(config: &ConfigSpace, index: usize) -> bool {
    config[register::BAR0 + 4 * index] & 1 == 1
}

/// All virtio structures that the capabilities name, in the order of the list, which is the device's order of
/// preference. At most 48 steps.
///
/// Unknown capabilities, unknown structures and BAR numbers beyond 5 are passed over, as virtio 1.2 §4.1.4.1 asks.
///
/// # Errors
/// [`PciError::Loop`], [`PciError::InHeader`], [`PciError::Truncated`].
pub fn virtio_capabilities(config: &ConfigSpace) -> Result<Vec<Capability>, PciError> {
    let mut found = Vec::new();
    if config_u16(config, register::STATUS) & STATUS_CAPABILITIES == 0 {
        return Ok(found);
    }
    let mut visited = [false; CONFIG_BYTES];
    // The lowest two bits are reserved and to be masked. PCI Local Bus 3.0 §6.7.
    let mut at = config[register::CAPABILITIES] & !3;
    while at != 0 {
        let start = usize::from(at);
        if start < register::FIRST_CAPABILITY {
            return Err(PciError::InHeader { at });
        }
        if std::mem::replace(&mut visited[start], true) {
            return Err(PciError::Loop { at });
        }
        // `at` is a multiple of 4 below 256, so the header fits.
        if config[start] == VENDOR_SPECIFIC {
            found.extend(virtio_capability(config, at)?);
        }
        at = config[start + 1] & !3;
    }
    Ok(found)
}

/// The `virtio_pci_cap` at `at`, if it is one for us. virtio 1.2 §4.1.4.
fn virtio_capability(config: &ConfigSpace, at: u8) -> Result<Option<Capability>, PciError> {
    const CAP_BYTES: u8 = 16;
    const NOTIFY_CAP_BYTES: u8 = 20;
    let start = usize::from(at);
    let len = config[start + 2];
    let needed = |structure| if structure == Structure::Notify { NOTIFY_CAP_BYTES } else { CAP_BYTES };
    let Some(structure) = Structure::of(config[start + 3]) else {
        return Ok(None);
    };
    if len < needed(structure) || start + usize::from(needed(structure)) > CONFIG_BYTES {
        return Err(PciError::Truncated { at, len });
    }
    let bar = config[start + 4];
    if bar > 5 {
        return Ok(None);
    }
    Ok(Some(Capability {
        structure,
        bar,
        offset: config_u32(config, start + 8),
        length: config_u32(config, start + 12),
        notify_off_multiplier: if structure == Structure::Notify {
            config_u32(config, start + 16)
        } else {
            0
        },
    }))
}

/// The first capability for `structure` that can be used with the BARs the device has.
///
/// # Errors
/// [`PciError::Missing`] if there is none; if none can be used, what is wrong with the first.
pub fn choose(
    capabilities: &[Capability],
    structure: Structure,
    bars: &[Bar; 6],
) -> Result<Capability, PciError> {
    let mut first_problem = None;
    for capability in capabilities.iter().filter(|capability| capability.structure == structure) {
        match check(capability, bars) {
            Ok(()) => return Ok(*capability),
            Err(problem) => drop(first_problem.get_or_insert(problem)),
        }
    }
    Err(first_problem.unwrap_or(PciError::Missing { structure }))
}

fn check(capability: &Capability, bars: &[Bar; 6]) -> Result<(), PciError> {
    let Capability { structure, bar, offset, length, .. } = *capability;
    let outside = |size| PciError::OutsideBar { structure, bar, offset, length, size };
    let (begin, end) = (u64::from(offset), u64::from(offset) + u64::from(length));
    let mappable = match bars.get(usize::from(bar)) {
        None | Some(Bar::Absent) => return Err(outside(0)),
        Some(Bar::IoPorts { .. }) => return Err(PciError::IoPorts { structure, bar }),
        Some(Bar::Memory { size, .. }) if end > *size => return Err(outside(*size)),
        Some(Bar::Memory { mappable, .. }) => mappable,
    };
    let min = structure.min_bytes();
    if length < min {
        return Err(PciError::TooShort { structure, length, min });
    }
    // virtio 1.2 §4.1.4.3.1, §4.1.4.4.1, §4.1.4.6.1.
    let align = if structure == Structure::Notify { 2 } else { 4 };
    if !offset.is_multiple_of(align) {
        return Err(PciError::Misaligned { structure, bar, offset, align });
    }
    if !mappable.iter().any(|(start, len)| *start <= begin && end <= start.saturating_add(*len)) {
        return Err(PciError::NotMappable { structure, bar, offset });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
