//! What the host says of a device before anything is opened, from sysfs and procfs.
//!
//! VFIO answers most mistakes with EINVAL or EPERM; looking first is what lets each be named.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::VfioError;
use super::pci;

/// Domain, bus, device and function of a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = VfioError;

    /// Reads `0000:00:03.0`, or `00:03.0` in domain 0.
    fn from_str(text: &str) -> Result<Self, VfioError> {
        parse(text).ok_or_else(|| VfioError::BadAddress { text: text.into() })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        let plain = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let (place, function) = text.rsplit_once('.')?;
    let (rest, device) = place.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    let address = PciAddress {
        domain: hex(domain, 4..=8)?,
        bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
        device: u8::try_from(hex(device, 2..=2)?).ok()?,
        function: u8::try_from(hex(function, 1..=1)?).ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

/// A device of an IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name in sysfs: for a PCI device, the address.
    pub address: String,
    /// Its driver.
    pub driver: Option<String>,
}

impl Member {
    /// Whether the kernel lets the rest of the group be used while this device has its driver: nobody, a VFIO
    /// driver, or one that does no DMA.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.driver
            .as_deref()
            .is_none_or(|name| name.contains("vfio") || matches!(name, "pci-stub" | "pcieport"))
    }
}

/// What this process may lock in memory. VFIO charges the memory it maps, unless the process may lock what it
/// likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memlock {
    /// `RLIMIT_MEMLOCK` in bytes; `None` is unlimited, or not for this process (`CAP_IPC_LOCK`).
    pub limit_bytes: Option<u64>,
    /// Bytes locked already.
    pub locked_bytes: u64,
}

impl Memlock {
    /// Whether `need_bytes` more may be locked.
    ///
    /// # Errors
    /// [`VfioError::Memlock`] with the numbers.
    pub fn check(&self, need_bytes: u64) -> Result<(), VfioError> {
        match self.limit_bytes {
            Some(limit_bytes) if self.locked_bytes.saturating_add(need_bytes) > limit_bytes => {
                Err(VfioError::Memlock { need_bytes, limit_bytes, locked_bytes: self.locked_bytes })
            }
            _ => Ok(()),
        }
    }
}

/// The machine we run on, or a picture of one in a directory.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    /// A machine whose `/sys` and `/proc` are in `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The device's directory in sysfs.
    #[must_use]
    pub fn device_dir(&self, address: PciAddress) -> PathBuf {
        self.root.join(format!("sys/bus/pci/devices/{address}"))
    }

    /// Checks all that can be known before opening, in the order in which a user would set it up, and returns the
    /// IOMMU group.
    ///
    /// Whether the group is viable is for the kernel to say; [`members`](Self::members) then tells why not.
    ///
    /// # Errors
    /// [`VfioError::NoDevice`], [`VfioError::NotVirtioNet`], [`VfioError::NoIommu`], [`VfioError::NoGroup`],
    /// [`VfioError::NotBound`].
    pub fn check(&self, address: PciAddress) -> Result<u32, VfioError> {
        let dir = self.device_dir(address);
        if !dir.exists() {
            return Err(VfioError::NoDevice { address });
        }
        let id =
            |name, what| read_hex(&dir.join(name)).map_err(|source| VfioError::Io { what, address, source });
        let vendor = id("vendor", "read the vendor id")?;
        let device = id("device", "read the device id")?;
        let is_net = matches!(device, pci::VIRTIO_NET_MODERN | pci::VIRTIO_NET_TRANSITIONAL);
        if vendor != pci::VIRTIO_VENDOR || !is_net {
            return Err(VfioError::NotVirtioNet { address, vendor, device });
        }
        let group = link_name(&dir.join("iommu_group")).and_then(|name| name.parse().ok());
        let Some(group) = group else {
            let groups = self.root.join("sys/kernel/iommu_groups");
            return Err(match fs::read_dir(groups).map_or(0, Iterator::count) {
                0 => VfioError::NoIommu { address },
                groups => VfioError::NoGroup { address, groups },
            });
        };
        let driver = link_name(&dir.join("driver"));
        if driver.as_deref() != Some("vfio-pci") {
            return Err(VfioError::NotBound { address, driver });
        }
        Ok(group)
    }

    /// Every device of an IOMMU group, in the order of their names.
    #[must_use]
    pub fn members(&self, group: u32) -> Vec<Member> {
        let dir = self.root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names: BTreeSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let driver = |name: &str| link_name(&self.root.join(format!("sys/bus/pci/devices/{name}/driver")));
        names.into_iter().map(|address| Member { driver: driver(&address), address }).collect()
    }

    /// What this process may lock in memory. What cannot be read counts as no limit: the kernel has the last word.
    #[must_use]
    pub fn memlock(&self) -> Memlock {
        let read =
            |name: &str| fs::read_to_string(self.root.join("proc/self").join(name)).unwrap_or_default();
        let status = read("status");
        // Capability bits are hexadecimal, CAP_IPC_LOCK is number 14. capabilities(7).
        let capabilities = field(&status, "CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok());
        let may_lock_all = capabilities.is_some_and(|bits| bits >> 14 & 1 == 1);
        let limits = read("limits");
        let soft_limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
        let soft_limit = soft_limit.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let locked_kib: u64 = field(&status, "VmLck:").and_then(|text| text.parse().ok()).unwrap_or(0);
        Memlock {
            limit_bytes: soft_limit.filter(|_| !may_lock_all),
            locked_bytes: locked_kib.saturating_mul(1024),
        }
    }

    /// Which process has the file of an IOMMU group open, as far as we may see.
    #[must_use]
    pub fn holder(&self, group: u32) -> String {
        let file = Path::new("/dev/vfio").join(group.to_string());
        let processes = fs::read_dir(self.root.join("proc")).into_iter().flatten().flatten();
        for process in processes {
            let name = process.file_name().to_string_lossy().into_owned();
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            if files.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == file) {
                let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return format!("process {name} ({})", command.trim());
            }
        }
        "a process of another user".into()
    }
}

/// The last component of what a symbolic link points to.
fn link_name(link: &Path) -> Option<String> {
    fs::read_link(link).ok()?.file_name()?.to_str().map(Into::into)
}

/// A number as sysfs writes ids: `0x1af4`.
fn read_hex(file: &Path) -> io::Result<u16> {
    let text = fs::read_to_string(file)?;
    let digits = text.trim().trim_start_matches("0x");
    u16::from_str_radix(digits, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// The first word after `name` in a file of `name: value` lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

#[cfg(test)]
mod tests;
