//! What the kernel tells about the machine, read from files under a root folder.
//!
//! Nothing here fails: a file that is not there, or says something else than expected, reads as "not known", and
//! the check above it says what that means.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use pmd::vfio::{Host, PciAddress};

/// The capability to open what owner and mode forbid. Source: linux/capability.h.
const CAP_DAC_OVERRIDE: u32 = 1;

/// The capability to make interfaces, and to use those of others. Source: linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;

/// What AF_XDP needs: sockets that see all frames, programs on interfaces, programs in the kernel. Source:
/// linux/capability.h.
const XDP_CAPABILITIES: [(u32, &str); 3] =
    [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (39, "CAP_BPF")];

/// The capability that stands for many, the last of those among them. Source: linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;

/// A machine, or a tree of files that looks like one.
pub(crate) struct Machine {
    root: PathBuf,
    /// What the driver itself looks at before it opens a device: the doctor must not see it otherwise.
    pub host: Host,
}

/// A network device on the PCI bus.
pub(crate) struct Nic {
    pub address: PciAddress,
    /// PCI ids; 0 where they cannot be read.
    pub vendor: u16,
    pub device: u16,
    pub driver: Option<String>,
    pub group: Option<u32>,
    pub interfaces: Vec<String>,
}

/// Hugepages of one size on one node.
pub(crate) struct Hugepages {
    /// `2M` or `1G`.
    pub size: &'static str,
    pub node: u32,
    pub total: u64,
    pub free: u64,
}

/// Whether this process may open a file for reading and writing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Allowed,
    Denied { owner: u32, mode: u32 },
    Missing,
}

impl Machine {
    pub fn at(root: &Path) -> Self {
        Machine { root: root.to_owned(), host: Host::at(root) }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Content without surrounding white space; empty if it cannot be read.
    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default().trim().to_owned()
    }

    fn names(&self, folder: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Last component of where a symbolic link points.
    fn link_name(&self, path: &str) -> Option<String> {
        fs::read_link(self.path(path)).ok()?.file_name()?.to_str().map(str::to_owned)
    }

    // ---- this process ----

    /// A field of `/proc/self/status`, such as `CapEff`.
    fn status(&self, field: &str) -> String {
        let status = self.text("/proc/self/status");
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    pub fn has_capability(&self, capability: u32) -> bool {
        u64::from_str_radix(&self.status("CapEff"), 16).is_ok_and(|set| set & (1 << capability) != 0)
    }

    /// Is there an interface of this name?
    pub fn has_interface(&self, name: &str) -> bool {
        self.exists(&format!("/sys/class/net/{name}"))
    }

    /// The largest payload of the interface's frames, in bytes.
    pub fn interface_mtu(&self, name: &str) -> Option<u32> {
        self.text(&format!("/sys/class/net/{name}/mtu")).parse().ok()
    }

    /// Has the kernel AF_XDP sockets? Where it does not list its protocols, it is given the benefit of the doubt.
    pub fn has_af_xdp(&self) -> bool {
        let protocols = self.text("/proc/net/protocols");
        protocols.is_empty() || protocols.lines().any(|line| line.split_whitespace().next() == Some("XDP"))
    }

    /// The capabilities for AF_XDP that this process lacks.
    pub fn lacks_for_af_xdp(&self) -> Vec<&'static str> {
        let has = |capability| match capability {
            39 => self.has_capability(39) || self.has_capability(CAP_SYS_ADMIN),
            other => self.has_capability(other),
        };
        XDP_CAPABILITIES.iter().filter(|(number, _)| !has(*number)).map(|(_, name)| *name).collect()
    }

    /// May this process attach to the TAP interface `name`: as an administrator, because it is its user's, or
    /// because it is nobody's? A group's counts as somebody else's.
    pub fn may_use_tap(&self, name: &str) -> bool {
        let id = |of: &str| self.text(&format!("/sys/class/net/{name}/{of}"));
        let (owner, group) = (id("owner"), id("group"));
        self.has_capability(CAP_NET_ADMIN)
            || owner == "-1" && group == "-1"
            || owner.parse().is_ok_and(|owner: u32| self.status_number("Uid", 1) == Some(owner))
    }

    /// The `which`-th number of a field: 1 is the effective id in `Uid` and `Gid`.
    fn status_number(&self, field: &str, which: usize) -> Option<u32> {
        self.status(field).split_whitespace().nth(which)?.parse().ok()
    }

    /// What a command for root begins with: nothing for root himself.
    pub fn sudo(&self) -> &'static str {
        if self.status_number("Uid", 1) == Some(0) { "" } else { "sudo " }
    }

    /// May this process open `path` for reading and writing? By owner, group and mode, as the kernel decides;
    /// access lists are not looked at, so a file that only such a list opens counts as denied.
    pub fn access(&self, path: impl AsRef<Path>) -> Access {
        let Ok(file) = fs::metadata(self.path(path)) else { return Access::Missing };
        let (owner, mode) = (file.uid(), file.mode() & 0o777);
        let groups = self.status("Groups");
        let mut groups = groups.split_whitespace().filter_map(|group| group.parse().ok());
        let triple = if self.status_number("Uid", 1) == Some(owner) {
            mode >> 6
        } else if self.status_number("Gid", 1) == Some(file.gid())
            || groups.any(|group: u32| group == file.gid())
        {
            mode >> 3
        } else {
            mode
        };
        if triple & 0o6 == 0o6 || self.has_capability(CAP_DAC_OVERRIDE) {
            Access::Allowed
        } else {
            Access::Denied { owner, mode }
        }
    }

    pub fn is_socket(&self, path: &Path) -> bool {
        fs::metadata(self.path(path)).is_ok_and(|file| file.file_type().is_socket())
    }

    // ---- processors ----

    /// Cores on which this process may run, as the kernel writes lists: `0-3,6`.
    pub fn allowed_cpus(&self) -> String {
        self.status("Cpus_allowed_list")
    }

    pub fn online_cpus(&self) -> String {
        self.text("/sys/devices/system/cpu/online")
    }

    pub fn isolated_cpus(&self) -> String {
        self.text("/sys/devices/system/cpu/isolated")
    }

    pub fn has_cpu_flag(&self, flag: &str) -> bool {
        let info = self.text("/proc/cpuinfo");
        let flags = info.lines().find(|line| line.starts_with("flags"));
        flags.is_some_and(|line| line.split_whitespace().any(|word| word == flag))
    }

    pub fn is_amd(&self) -> bool {
        self.text("/proc/cpuinfo").contains("AuthenticAMD")
    }

    pub fn clocksource(&self) -> String {
        self.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    }

    /// The frequency governors in use, each once; empty where the kernel does not set the frequency.
    pub fn governors(&self) -> BTreeSet<String> {
        let cpus = self.names("/sys/devices/system/cpu");
        let governors =
            cpus.iter().map(|cpu| format!("/sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor"));
        governors.map(|file| self.text(&file)).filter(|governor| !governor.is_empty()).collect()
    }

    // ---- memory ----

    pub fn hugepages(&self) -> Vec<Hugepages> {
        let nodes = self.names("/sys/devices/system/node");
        let mut found = Vec::new();
        for (size, kib) in [("2M", 2048), ("1G", 1_048_576)] {
            for node in nodes.iter().filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok()) {
                let folder = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB");
                let count = |file: &str| self.text(&format!("{folder}/{file}")).parse::<u64>().ok();
                if let (Some(total), Some(free)) = (count("nr_hugepages"), count("free_hugepages")) {
                    found.push(Hugepages { size, node, total, free });
                }
            }
        }
        found
    }

    // ---- devices ----

    pub fn iommu_groups(&self) -> usize {
        self.names("/sys/kernel/iommu_groups").len()
    }

    pub fn has_vfio_pci(&self) -> bool {
        self.exists("/sys/bus/pci/drivers/vfio-pci")
    }

    pub fn nics(&self) -> Vec<Nic> {
        let devices = self.names("/sys/bus/pci/devices");
        devices.iter().filter(|name| self.is_network(name)).filter_map(|name| self.nic(name)).collect()
    }

    /// Class 2 is network controllers. PCI Code and ID Assignment Specification.
    pub fn is_network(&self, address: &str) -> bool {
        self.text(&format!("/sys/bus/pci/devices/{address}/class")).starts_with("0x02")
    }

    /// The NUMA node that a PCI device is next to; none where the kernel says -1, or nothing.
    pub fn numa_node(&self, address: &str) -> Option<u32> {
        self.text(&format!("/sys/bus/pci/devices/{address}/numa_node")).parse().ok()
    }

    fn nic(&self, name: &str) -> Option<Nic> {
        let folder = format!("/sys/bus/pci/devices/{name}");
        let mut interfaces = self.names(&format!("{folder}/net"));
        // A virtio NIC's interface hangs below its virtio device.
        for child in self.names(&folder).iter().filter(|name| name.starts_with("virtio")) {
            interfaces.extend(self.names(&format!("{folder}/{child}/net")));
        }
        let id = |file: &str| {
            u16::from_str_radix(self.text(&format!("{folder}/{file}")).trim_start_matches("0x"), 16)
                .unwrap_or(0)
        };
        Some(Nic {
            address: name.parse().ok()?,
            vendor: id("vendor"),
            device: id("device"),
            driver: self.link_name(&format!("{folder}/driver")),
            group: self.link_name(&format!("{folder}/iommu_group")).and_then(|group| group.parse().ok()),
            interfaces: interfaces.into_iter().collect(),
        })
    }

    /// Does a default route, IPv4 or IPv6, leave through this interface?
    pub fn carries_default_route(&self, interface: &str) -> bool {
        // Columns: interface, destination, …, mask in the eighth; both zero for the default.
        let v4 = self.text("/proc/net/route");
        let v4 = v4.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut v4 = v4.filter(|f| f.len() > 7 && f[1] == "00000000" && f[7] == "00000000");
        // Columns: destination, its prefix length, …, interface last; the kernel's own reject route is on `lo`.
        let v6 = self.text("/proc/net/ipv6_route");
        let v6 = v6.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut v6 = v6.filter(|f| f.len() > 9 && f[0].bytes().all(|b| b == b'0') && f[1] == "00");
        v4.any(|f| f[0] == interface) || v6.any(|f| f[9] == interface)
    }
}
