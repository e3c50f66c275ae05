//! What concerns the machine as a whole: processors, memory, IOMMU.

use super::machine::{Access, Hugepages, Machine};
use super::{Check, Target, quota};

/// What the region of an engine with default settings stays below; a `vfio:` port locks all of it.
const REGION_BYTES: u64 = 64 << 20;

/// The node of the VFIO container, which every `vfio:` port opens first.
const CONTAINER: &str = "/dev/vfio/vfio";

/// All checks that are not about one port.
pub(super) fn checks(machine: &Machine, asked: &[Target]) -> Vec<Check> {
    let vfio: Vec<String> =
        asked.iter().filter(|target| target.nic().is_some()).map(Target::to_string).collect();
    about(machine, &vfio)
}

/// The checks, for these `vfio:` ports.
fn about(machine: &Machine, vfio: &[String]) -> Vec<Check> {
    let mut checks = vec![
        cpus(machine),
        quota::check(machine),
        tsc(machine),
        isolation(machine),
        governor(machine),
        hugepages(machine),
        memlock(machine, vfio),
        capabilities(machine),
        iommu(machine, vfio),
        vfio_pci(machine, vfio),
    ];
    checks.extend(container(machine, vfio));
    checks
}

/// Would any `vfio:` port open, as far as the host is concerned? Not while one of its checks stops a NIC that
/// somebody asks for.
pub(super) fn lets_vfio_open(machine: &Machine) -> bool {
    about(machine, &["any".to_owned()]).iter().all(|check| check.stops.is_empty())
}

fn cpus(machine: &Machine) -> Check {
    let allowed = machine.allowed_cpus();
    let found = format!("this process may run on cores {allowed} of {}", machine.online_cpus());
    match cpu_list(&allowed).len() {
        0 => Check::warn("cpus", "the kernel does not say on which cores this process may run", None),
        1 => Check::warn(
            "cpus",
            format!("{found}: the loop shares its only core with everything else"),
            Some("give the process or the virtual machine a second core (taskset -c, vCPUs)".to_owned()),
        ),
        _ => Check::pass("cpus", found),
    }
}

fn tsc(machine: &Machine) -> Check {
    let missing: Vec<&str> =
        ["constant_tsc", "nonstop_tsc"].into_iter().filter(|flag| !machine.has_cpu_flag(flag)).collect();
    let clocksource = machine.clocksource();
    if !missing.is_empty() {
        Check::warn(
            "tsc",
            format!("the processor lacks {}: latencies follow its frequency", missing.join(" and ")),
            Some("in a virtual machine, pass the host's CPU flag invtsc through".to_owned()),
        )
    } else if clocksource != "tsc" {
        Check::warn(
            "tsc",
            format!(
                "constant, but the kernel's clock is `{clocksource}`: it may have found the TSC unsteady"
            ),
            Some(
                "see dmesg | grep -i tsc; boot with tsc=reliable if the machine is known to be sound"
                    .to_owned(),
            ),
        )
    } else {
        Check::pass("tsc", "constant, does not stop, is the kernel's clock")
    }
}

fn isolation(machine: &Machine) -> Check {
    let isolated = machine.isolated_cpus();
    if !isolated.is_empty() {
        return Check::pass("isolation", format!("cores {isolated} are isolated; give them to --cores"));
    }
    // Core 0 stays with the kernel, which does some of its work only there.
    let cpus = cpu_list(&machine.online_cpus());
    let spare = match cpus.as_slice() {
        [] | [_] => None,
        [_, only] => Some(only.to_string()),
        [_, first, .., last] => Some(format!("{first}-{last}")),
    };
    Check::warn(
        "isolation",
        "no isolated cores: other programs interrupt the loop, which shows in p99.9 and above",
        spare.map(|list| format!("boot with isolcpus={list} nohz_full={list} rcu_nocbs={list}")),
    )
}

fn governor(machine: &Machine) -> Check {
    let governors = machine.governors();
    if governors.is_empty() {
        Check::pass("governor", "none: firmware or hypervisor sets the frequency")
    } else if governors.iter().all(|governor| governor == "performance") {
        Check::pass("governor", "performance")
    } else {
        Check::warn(
            "governor",
            format!(
                "{}: a core that slept answers slowly",
                governors.into_iter().collect::<Vec<_>>().join(", ")
            ),
            Some(format!("{}cpupower frequency-set -g performance", machine.sudo())),
        )
    }
}

fn hugepages(machine: &Machine) -> Check {
    let pages = machine.hugepages();
    let held: Vec<String> = pages
        .iter()
        .filter(|pages| pages.total > 0)
        .map(|pages| format!("{} of {} {} free on node {}", pages.free, pages.total, pages.size, pages.node))
        .collect();
    let fix = Some(format!("{}./hugepage-setup.sh --pages 512", machine.sudo()));
    if pages.is_empty() {
        Check::warn("hugepages", "this kernel has none: ordinary pages are used, which cost TLB misses", None)
    } else if held.is_empty() {
        Check::warn("hugepages", "none reserved: ordinary pages are used, which cost TLB misses", fix)
    } else if pages.iter().all(|pages| pages.free == 0) {
        Check::warn("hugepages", format!("all in use ({}): ordinary pages are used", held.join(", ")), fix)
    } else if let Some(bare) = pages.iter().find(|bare| is_bare(bare, &pages)) {
        let node = bare.node;
        let found =
            format!("{}; none on node {node}, whose cores and NICs then use distant ones", held.join(", "));
        let fix = format!("{}./hugepage-setup.sh --pages 512 --node {node}", machine.sudo());
        Check::warn("hugepages", found, Some(fix))
    } else {
        Check::pass("hugepages", held.join(", "))
    }
}

/// Whether a node has no page of any size, while this is not so everywhere.
fn is_bare(pages: &Hugepages, all: &[Hugepages]) -> bool {
    all.iter().filter(|other| other.node == pages.node).all(|other| other.total == 0)
}

/// What a process needs to do without root, and for what. Source: linux/capability.h.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "tap:, xdp:"),
    (13, "CAP_NET_RAW", "xdp:"),
    (39, "CAP_BPF", "xdp:"),
    (14, "CAP_IPC_LOCK", "vfio: beyond the memlock limit"),
];

fn capabilities(machine: &Machine) -> Check {
    let missing: Vec<&(u32, &str, &str)> =
        CAPABILITIES.iter().filter(|(number, ..)| !machine.has_capability(*number)).collect();
    if missing.is_empty() {
        return Check::pass("capabilities", "all that tap:, xdp: and vfio: ports need");
    }
    let lacks: Vec<String> = missing.iter().map(|(_, name, purpose)| format!("{name} ({purpose})")).collect();
    let names: Vec<String> = missing.iter().map(|(_, name, _)| name.to_lowercase()).collect();
    Check::warn(
        "capabilities",
        format!("without {}", lacks.join(", ")),
        Some(format!("{}setcap {}+ep \"$(command -v bywash)\"", machine.sudo(), names.join(","))),
    )
}

fn memlock(machine: &Machine, vfio: &[String]) -> Check {
    let memlock = machine.host.memlock();
    match (memlock.limit_bytes, memlock.check(REGION_BYTES)) {
        (None, _) => Check::pass("memlock", "no limit for this process"),
        (Some(bytes), Ok(())) => Check::pass("memlock", format!("{} MiB", bytes >> 20)),
        (Some(bytes), Err(_)) => Check::stops(
            "memlock",
            format!("{} MiB; a vfio: port locks up to {} MiB and more", bytes >> 20, REGION_BYTES >> 20),
            Some(format!("{}./hugepage-setup.sh --memlock --user $USER, then log in again", machine.sudo())),
            vfio.to_vec(),
        ),
    }
}

fn iommu(machine: &Machine, vfio: &[String]) -> Check {
    match machine.iommu_groups() {
        0 => {
            let parameter = if machine.is_amd() { "amd_iommu=on" } else { "intel_iommu=on" };
            Check::stops(
                "iommu",
                "absent; vfio: ports need one",
                Some(format!(
                    "enable VT-d or AMD-Vi in the firmware (or the VM's IOMMU), boot with {parameter}"
                )),
                vfio.to_vec(),
            )
        }
        groups => Check::pass("iommu", format!("present, {groups} groups")),
    }
}

fn vfio_pci(machine: &Machine, vfio: &[String]) -> Check {
    if machine.has_vfio_pci() {
        Check::pass("vfio-pci", "loaded")
    } else {
        Check::stops(
            "vfio-pci",
            "not loaded; vfio: ports need it",
            Some(format!("{}modprobe vfio-pci", machine.sudo())),
            vfio.to_vec(),
        )
    }
}

/// Only where vfio-pci is loaded: without it the node cannot be there, and one line about that is enough.
fn container(machine: &Machine, vfio: &[String]) -> Option<Check> {
    if !machine.has_vfio_pci() {
        return None;
    }
    Some(match machine.access(CONTAINER) {
        Access::Allowed => Check::pass("container", format!("{CONTAINER} may be opened")),
        Access::Missing => Check::stops(
            "container",
            format!("{CONTAINER} does not exist"),
            Some(format!("{}modprobe vfio_iommu_type1", machine.sudo())),
            vfio.to_vec(),
        ),
        Access::Denied { owner, mode } => Check::stops(
            "container",
            format!("{CONTAINER} belongs to user {owner}, mode {mode:03o}"),
            Some(format!("{}chmod 666 {CONTAINER}", machine.sudo())),
            vfio.to_vec(),
        ),
    })
}

/// The numbers of a list as the kernel writes it: `0-2,5` is 0, 1, 2, 5.
pub(super) fn cpu_list(list: &str) -> Vec<u32> {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
        })
        .flatten()
        .collect()
}
