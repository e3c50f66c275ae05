//! One check per NIC on the PCI bus: whose it is, and what it lacks to be a `vfio:` port.

use pmd::vfio::host::Member;
use pmd::vfio::{PciAddress, pci};

use super::machine::{Access, Machine, Nic};
use super::{Check, Target};

/// What was found of one NIC.
pub(super) struct NicCheck {
    pub address: PciAddress,
    /// Bound, viable, and this process may open it.
    pub ready: bool,
    pub check: Check,
}

/// A check of every NIC there is and of every one that was asked for.
pub(super) fn checks(machine: &Machine, asked: &[Target]) -> Vec<NicCheck> {
    let nics = machine.nics();
    let mut checks: Vec<NicCheck> = nics.iter().map(|nic| check(machine, nic, asked)).collect();
    for target in asked {
        let Some(address) = target.nic() else { continue };
        if checks.iter().any(|check| check.address == address) {
            continue;
        }
        let found = if machine.host.device_dir(address).exists() {
            "is not a network device".to_owned()
        } else {
            "there is no such PCI device".to_owned()
        };
        checks.push(NicCheck {
            address,
            ready: false,
            check: Check::stops(
                format!("nic {address}"),
                found,
                Some("./hugepage-setup.sh --status lists the NICs".to_owned()),
                vec![target.to_string()],
            ),
        });
    }
    checks
}

fn check(machine: &Machine, nic: &Nic, asked: &[Target]) -> NicCheck {
    let name = format!("nic {}", nic.address);
    let stopped: Vec<String> =
        asked.iter().filter(|target| target.nic() == Some(nic.address)).map(Target::to_string).collect();
    let interfaces =
        if nic.interfaces.is_empty() { "no interface".to_owned() } else { nic.interfaces.join(", ") };
    let driver = nic.driver.as_deref().unwrap_or("no driver");

    let problem = problem(machine, nic);
    let ready = problem.is_none();
    let check = match problem {
        None => {
            let group = nic.group.map_or_else(|| "-".to_owned(), |group| group.to_string());
            Check::pass(name, format!("{driver}, group {group}: ready"))
        }
        // What nobody asked for and nobody should take is as it should be.
        Some(Problem { kind: Kind::Foreign | Kind::InUse, found, .. }) if stopped.is_empty() => {
            Check::pass(name, format!("{interfaces}, {driver}: {found}; stays with the kernel"))
        }
        Some(problem) => {
            Check::stops(name, format!("{interfaces}, {driver}: {}", problem.found), problem.fix, stopped)
        }
    };
    NicCheck { address: nic.address, ready, check }
}

enum Kind {
    /// No device of ours.
    Foreign,
    /// The machine would lose its network.
    InUse,
    /// Something can be done about it.
    Unready,
}

/// Why a NIC is no `vfio:` port.
pub(crate) struct Problem {
    kind: Kind,
    /// What is there.
    pub found: String,
    fix: Option<String>,
}

impl Problem {
    /// Whether the device is none that `vfio:` drives, whatever one does.
    pub fn is_foreign(&self) -> bool {
        matches!(self.kind, Kind::Foreign)
    }
}

/// The first thing that keeps the NIC from being a `vfio:` port, in the order in which one mends them.
pub(crate) fn problem(machine: &Machine, nic: &Nic) -> Option<Problem> {
    let sudo = machine.sudo();
    let unready = |found: String, fix: Option<String>| Some(Problem { kind: Kind::Unready, found, fix });

    let is_net = matches!(nic.device, pci::VIRTIO_NET_MODERN | pci::VIRTIO_NET_TRANSITIONAL);
    if nic.vendor != pci::VIRTIO_VENDOR || !is_net {
        return Some(Problem {
            kind: Kind::Foreign,
            found: format!(
                "{:04x}:{:04x} is not virtio-net, the only device that vfio: drives",
                nic.vendor, nic.device
            ),
            fix: None,
        });
    }
    if let Some(interface) = nic.interfaces.iter().find(|name| machine.carries_default_route(name)) {
        return Some(Problem {
            kind: Kind::InUse,
            found: format!("{interface} carries the default route"),
            fix: Some("choose another NIC; taking this one would cut the machine off".to_owned()),
        });
    }
    let Some(group) = nic.group else {
        return unready("in no IOMMU group".to_owned(), Some("see iommu above".to_owned()));
    };
    let ours = nic.driver.as_deref() == Some("vfio-pci");
    let own = nic.address.to_string();
    let others = machine.host.members(group).into_iter().filter(|member| member.address != own);
    let blockers: Vec<Member> = others.filter(|member| !member.is_harmless()).collect();
    if !blockers.is_empty() {
        let named: Vec<String> = blockers
            .iter()
            .map(|member| {
                format!("{} (driver {})", member.address, member.driver.as_deref().unwrap_or("none"))
            })
            .collect();
        let all_network = blockers.iter().all(|member| machine.is_network(&member.address));
        let bind: String = blockers.iter().map(|member| format!(" --bind {}", member.address)).collect();
        return unready(
            format!("IOMMU group {group} is not viable, the kernel drives {}", named.join(", ")),
            Some(if all_network {
                format!("{sudo}./hugepage-setup.sh --bind {}{bind}", nic.address)
            } else {
                "unload that driver, or put the NIC into another slot".to_owned()
            }),
        );
    }
    if !ours {
        return unready(
            "not bound to vfio-pci".to_owned(),
            Some(format!("{sudo}./hugepage-setup.sh --bind {}", nic.address)),
        );
    }
    let node = format!("/dev/vfio/{group}");
    match machine.access(&node) {
        Access::Allowed => None,
        Access::Missing => unready(
            format!("{node} does not exist"),
            Some(format!(
                "{sudo}./hugepage-setup.sh --unbind {0} && {sudo}./hugepage-setup.sh --bind {0}",
                nic.address
            )),
        ),
        Access::Denied { owner, mode } => unready(
            format!("{node} belongs to user {owner}, mode {mode:03o}"),
            Some(format!("{sudo}./hugepage-setup.sh --user $USER")),
        ),
    }
}
