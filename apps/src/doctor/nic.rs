//! One check per NIC on the PCI bus: whose it is, and what it lacks to be a `vfio:` port.

use super::machine::{Access, Machine, Nic};
use super::{Check, Target};

/// The PCI ids that `vfio:` drives: modern and transitional virtio-net. virtio 1.2 §4.1.2.
const VIRTIO_NET: [(&str, &str); 2] = [("1af4", "1041"), ("1af4", "1000")];

/// What was found of one NIC.
pub(super) struct NicCheck {
    pub address: String,
    /// Bound, viable, and this process may open it.
    pub ready: bool,
    pub check: Check,
}

/// A check of every NIC there is and of every one that was asked for.
pub(super) fn checks(machine: &Machine, asked: &[Target]) -> Vec<NicCheck> {
    let nics = machine.nics();
    let mut checks: Vec<NicCheck> = nics.iter().map(|nic| check(machine, nic, asked)).collect();
    for target in asked {
        let Target::Vfio(address) = target else { continue };
        if nics.iter().any(|nic| nic.address == *address)
            || checks.iter().any(|check| check.address == *address)
        {
            continue;
        }
        let found = if machine.has_pci_device(address) {
            "is not a network device".to_owned()
        } else {
            "there is no such PCI device".to_owned()
        };
        checks.push(NicCheck {
            address: address.clone(),
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
    let port = Target::Vfio(nic.address.clone());
    let stopped: Vec<String> =
        asked.iter().filter(|target| **target == port).map(Target::to_string).collect();
    let interfaces =
        if nic.interfaces.is_empty() { "no interface".to_owned() } else { nic.interfaces.join(", ") };
    let driver = nic.driver.as_deref().unwrap_or("no driver");

    let check = if let Some(problem) = problem(machine, nic) {
        // What nobody asked for and nobody should take is as it should be.
        let keep = matches!(problem.kind, Kind::Foreign | Kind::InUse);
        let found = format!("{interfaces}, {driver}: {}", problem.found);
        if keep && stopped.is_empty() {
            Check::pass(name, format!("{found}; stays with the kernel"))
        } else {
            Check::stops(name, found, problem.fix, stopped)
        }
    } else {
        let check =
            Check::pass(name, format!("{driver}, group {}: ready", nic.group.as_deref().unwrap_or("-")));
        return NicCheck { address: nic.address.clone(), ready: true, check };
    };
    NicCheck { address: nic.address.clone(), ready: false, check }
}

enum Kind {
    /// No device of ours.
    Foreign,
    /// The machine would lose its network.
    InUse,
    /// Something can be done about it.
    Unready,
}

struct Problem {
    kind: Kind,
    found: String,
    fix: Option<String>,
}

/// The first thing that keeps the NIC from being a `vfio:` port, in the order in which one mends them.
fn problem(machine: &Machine, nic: &Nic) -> Option<Problem> {
    let sudo = machine.sudo();
    let unready = |found: String, fix: Option<String>| Some(Problem { kind: Kind::Unready, found, fix });

    if !VIRTIO_NET.contains(&(nic.vendor.as_str(), nic.device.as_str())) {
        return Some(Problem {
            kind: Kind::Foreign,
            found: format!(
                "{}:{} is not virtio-net, the only device that vfio: drives",
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
    let Some(group) = &nic.group else {
        return unready("in no IOMMU group".to_owned(), Some("see iommu above".to_owned()));
    };
    let ours = nic.driver.as_deref() == Some("vfio-pci");
    let blockers: Vec<(String, String)> =
        machine.group_blockers(group).into_iter().filter(|(address, _)| *address != nic.address).collect();
    if !blockers.is_empty() {
        let named: Vec<String> =
            blockers.iter().map(|(address, driver)| format!("{address} (driver {driver})")).collect();
        let all_network = blockers.iter().all(|(address, _)| machine.is_network(address));
        let bind: String = blockers.iter().map(|(address, _)| format!(" --bind {address}")).collect();
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
