//! The doctor on machines made of files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use tempfile::TempDir;

use crate::output::Colour;

use super::{Check, Level, Report, Target, examine, host, show};

const BOUND: &str = "0000:02:00.0";
const FREE: &str = "0000:03:00.0";
const DEFAULT_ROUTE: &str = "0000:01:00.0";

/// A folder that looks like a machine.
struct Fake(TempDir);

impl Fake {
    /// An ordinary user on a laptop: two cores, no hugepages, no IOMMU, no NIC, small memlock limit.
    fn laptop() -> Self {
        let fake = Fake(tempfile::tempdir().unwrap());
        // Nobody runs these tests with this id, so files here belong to somebody else.
        fake.user(4_000_000_000, 0);
        fake.write(
            "proc/self/limits",
            "Limit  Soft Hard Units\nMax locked memory         8388608    8388608   bytes\n",
        );
        fake.write(
            "proc/cpuinfo",
            "vendor_id\t: GenuineIntel\nflags\t\t: fpu constant_tsc nonstop_tsc sse2\n",
        );
        fake.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
        fake.write("sys/devices/system/cpu/online", "0-1\n");
        fake.write("sys/devices/system/cpu/isolated", "\n");
        for cpu in ["cpu0", "cpu1"] {
            fake.write(&format!("sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor"), "powersave\n");
        }
        fake.pages(0, 0);
        fake
    }

    /// A server that `hugepage-setup.sh` prepared: one NIC bound, one free, one with the default route.
    fn server() -> Self {
        let fake = Fake::laptop();
        fake.pages(1024, 1000);
        fake.write("proc/self/limits", "Max locked memory         unlimited    unlimited   bytes\n");
        fake.write("sys/devices/system/cpu/isolated", "1\n");
        for cpu in ["cpu0", "cpu1"] {
            fake.write(&format!("sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor"), "performance\n");
        }
        fake.write("sys/bus/pci/drivers/vfio-pci/bind", "");
        fake.nic(DEFAULT_ROUTE, "0x1041", Some("virtio-pci"), Some("11"), Some("eth0"));
        fake.nic(BOUND, "0x1041", Some("vfio-pci"), Some("12"), None);
        fake.nic(FREE, "0x1041", Some("virtio-pci"), Some("13"), Some("eth2"));
        fake.write(
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t01\t0003\t0\t0\t0\t00000000\n\
             eth2\t000000C0\t00\t0001\t0\t0\t0\t00FFFFFF\n",
        );
        fake.node("dev/vfio/vfio", 0o666);
        fake.node("dev/vfio/12", 0o666);
        fake
    }

    fn user(&self, uid: u32, capabilities: u64) {
        let status = format!(
            "Name:\tbywash\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nGroups:\t \n\
             CapEff:\t{capabilities:016x}\nCpus_allowed_list:\t0-1\n"
        );
        self.write("proc/self/status", &status);
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn pages(&self, total: u64, free: u64) {
        let folder = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
        self.write(&format!("{folder}/nr_hugepages"), &format!("{total}\n"));
        self.write(&format!("{folder}/free_hugepages"), &format!("{free}\n"));
    }

    fn node(&self, path: &str, mode: u32) {
        self.write(path, "");
        fs::set_permissions(self.0.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn device(&self, address: &str, class: &str, driver: Option<&str>, group: Option<&str>) {
        let folder = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{folder}/class"), &format!("{class}\n"));
        if let Some(driver) = driver {
            self.link(&format!("{folder}/driver"), &format!("../../drivers/{driver}"));
        }
        if let Some(group) = group {
            self.link(&format!("{folder}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
            self.link(&format!("sys/kernel/iommu_groups/{group}/devices/{address}"), "elsewhere");
        }
    }

    fn nic(
        &self,
        address: &str,
        id: &str,
        driver: Option<&str>,
        group: Option<&str>,
        interface: Option<&str>,
    ) {
        self.device(address, "0x020000", driver, group);
        let folder = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{folder}/vendor"), "0x1af4\n");
        self.write(&format!("{folder}/device"), &format!("{id}\n"));
        if let Some(interface) = interface {
            fs::create_dir_all(self.0.path().join(format!("{folder}/virtio0/net/{interface}"))).unwrap();
        }
    }

    fn examine(&self, ports: &[&str]) -> Report {
        let asked: Vec<Target> = ports.iter().map(|port| Target::parse(port).unwrap()).collect();
        examine(self.0.path(), &asked)
    }
}

#[track_caller]
fn find<'a>(report: &'a Report, name: &str) -> &'a Check {
    report
        .checks
        .iter()
        .find(|check| check.name == name)
        .unwrap_or_else(|| panic!("no check {name}: {report:#?}"))
}

#[track_caller]
fn assert_check(report: &Report, name: &str, level: Level, found: &str, fix: &str) {
    let check = find(report, name);
    assert_eq!(check.level, level, "{check:?}");
    assert!(check.found.contains(found), "expected `{found}` in {check:?}");
    assert!(check.fix.as_deref().unwrap_or("").contains(fix), "expected the fix `{fix}` in {check:?}");
}

fn text(report: &Report, colour: Colour) -> String {
    let mut out = Vec::new();
    show::write(&mut out, report, colour).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn an_ordinary_user_without_nic_is_told_that_the_demo_runs() {
    let report = Fake::laptop().examine(&[]);
    assert!(report.checks.iter().all(|check| check.level != Level::Fail), "{report:#?}");
    assert_check(&report, "iommu", Level::Warn, "absent", "intel_iommu=on");
    assert_check(&report, "vfio-pci", Level::Warn, "not loaded", "sudo modprobe vfio-pci");
    assert_check(&report, "hugepages", Level::Warn, "none reserved", "sudo ./hugepage-setup.sh --pages");
    assert_check(&report, "memlock", Level::Warn, "8 MiB", "sudo ./hugepage-setup.sh --memlock --user $USER");
    assert_check(&report, "governor", Level::Warn, "powersave", "cpupower frequency-set -g performance");
    assert_check(&report, "isolation", Level::Warn, "no isolated cores", "isolcpus=1 ");
    assert_check(&report, "tsc", Level::Pass, "constant", "");
    assert_check(&report, "cpus", Level::Pass, "cores 0-1", "");
    let text = text(&report, Colour::Plain);
    assert!(text.contains("bywash demo                 no NIC, no hugepages, no root needed"), "{text}");
    assert!(text.contains("no vfio: port"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_quota_of_any_group_around_the_process_is_told() {
    let fake = Fake::laptop();
    assert_check(&fake.examine(&[]), "quota", Level::Pass, "no control group limits", "");
    fake.write("proc/self/cgroup", "0::/box.slice/inner\n");
    fake.write("sys/fs/cgroup/box.slice/inner/cpu.max", "max 100000\n");
    assert_check(&fake.examine(&[]), "quota", Level::Pass, "no control group limits", "");
    fake.write("sys/fs/cgroup/box.slice/cpu.max", "150000 100000\n");
    let report = fake.examine(&[]);
    assert_check(
        &report,
        "quota",
        Level::Warn,
        "/sys/fs/cgroup/box.slice/cpu.max leaves 1.50 cores' time",
        "CPUQuota=",
    );
    fake.write("sys/fs/cgroup/box.slice/inner/cpu.max", "50000 100000\n");
    assert_check(
        &fake.examine(&[]),
        "quota",
        Level::Warn,
        "inner/cpu.max leaves 0.50 cores'",
        "--idle adaptive",
    );
    // As much as there is: nothing is lost. Of the first version, too.
    fake.write("proc/self/cgroup", "4:memory:/x\n2:cpu,cpuacct:/y\n");
    fake.write("sys/fs/cgroup/cpu/y/cpu.cfs_quota_us", "-1\n");
    fake.write("sys/fs/cgroup/cpu/y/cpu.cfs_period_us", "100000\n");
    assert_check(&fake.examine(&[]), "quota", Level::Pass, "no control group limits", "");
    fake.write("sys/fs/cgroup/cpu/y/cpu.cfs_quota_us", "200000\n");
    assert_check(&fake.examine(&[]), "quota", Level::Pass, "leaves 2.00 cores' time, for 2 cores", "");
}

#[test]
fn missing_capabilities_come_with_the_command_that_gives_them() {
    let fake = Fake::laptop();
    let fix = "sudo setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep";
    assert_check(&fake.examine(&[]), "capabilities", Level::Warn, "CAP_NET_ADMIN (tap:, xdp:)", fix);
    fake.user(1000, 1 << 12 | 1 << 13 | 1 << 39);
    let report = fake.examine(&[]);
    assert_check(
        &report,
        "capabilities",
        Level::Warn,
        "without CAP_IPC_LOCK (vfio:",
        "setcap cap_ipc_lock+ep",
    );
    assert!(!find(&report, "capabilities").found.contains("NET_ADMIN"));
    fake.user(0, u64::MAX);
    assert_check(&fake.examine(&[]), "capabilities", Level::Pass, "all that tap:", "");
}

#[test]
fn a_node_without_hugepages_is_named() {
    let fake = Fake::server();
    let second = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";
    fake.write(&format!("{second}/nr_hugepages"), "0\n");
    fake.write(&format!("{second}/free_hugepages"), "0\n");
    let report = fake.examine(&[]);
    assert_check(
        &report,
        "hugepages",
        Level::Warn,
        "1000 of 1024 2M free on node 0; none on node 1",
        "--pages 512 --node 1",
    );
    fake.write(&format!("{second}/nr_hugepages"), "512\n");
    fake.write(&format!("{second}/free_hugepages"), "512\n");
    assert_check(&fake.examine(&[]), "hugepages", Level::Pass, "512 of 512 2M free on node 1", "");
}

#[test]
fn what_is_missing_stops_the_vfio_port_that_was_asked_for() {
    let report = Fake::laptop().examine(&["vfio:0000:03:00.0", "loop:a"]);
    for name in ["iommu", "vfio-pci", "memlock", "nic 0000:03:00.0"] {
        assert_eq!(find(&report, name).level, Level::Fail, "{name}");
        assert_eq!(find(&report, name).stops, ["vfio:0000:03:00.0"]);
    }
    assert_check(&report, "nic 0000:03:00.0", Level::Fail, "no such PCI device", "--status");
    assert_eq!(find(&report, "hugepages").level, Level::Warn, "a port opens on ordinary pages too");
    let ready: Vec<bool> = report.ports.iter().map(|port| port.ready).collect();
    assert_eq!(ready, [false, true]);
    let text = text(&report, Colour::Plain);
    assert!(
        text.contains(
            "vfio:0000:03:00.0 does not open; stopped by: memlock, iommu, vfio-pci, nic 0000:03:00.0"
        ),
        "{text}"
    );
    assert!(text.contains("loop:a is ready"), "{text}");
}

#[test]
fn a_prepared_server_passes_and_names_the_command() {
    let report = Fake::server().examine(&["vfio:02:00.0"]);
    assert_eq!(report.ready_nics, [BOUND]);
    assert!(report.ports[0].ready, "{report:#?}");
    assert_check(&report, "nic 0000:02:00.0", Level::Pass, "vfio-pci, group 12: ready", "");
    assert_check(
        &report,
        "nic 0000:01:00.0",
        Level::Pass,
        "eth0 carries the default route; stays with the kernel",
        "",
    );
    assert_check(
        &report,
        "nic 0000:03:00.0",
        Level::Warn,
        "not bound",
        "sudo ./hugepage-setup.sh --bind 0000:03:00.0",
    );
    assert_check(&report, "hugepages", Level::Pass, "1000 of 1024 2M free on node 0", "");
    assert_check(&report, "isolation", Level::Pass, "cores 1 are isolated", "");
    assert!(text(&report, Colour::Plain).contains("bywash l2fwd --port vfio:0000:02:00.0"));
}

#[test]
fn the_nic_of_the_default_route_fails_when_asked_for_over_ipv4_and_ipv6() {
    let fake = Fake::server();
    assert_check(
        &fake.examine(&["vfio:0000:01:00.0"]),
        "nic 0000:01:00.0",
        Level::Fail,
        "eth0 carries the default route",
        "choose another NIC",
    );
    fake.write(
        "proc/net/ipv6_route",
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe80 00000400 1 0 00000003 eth2\n",
    );
    let report = fake.examine(&["vfio:0000:03:00.0"]);
    assert_check(
        &report,
        "nic 0000:03:00.0",
        Level::Fail,
        "eth2 carries the default route",
        "choose another",
    );
}

#[test]
fn a_group_that_is_not_viable_names_the_other_device_and_its_driver() {
    let fake = Fake::server();
    fake.device("0000:02:00.1", "0x010802", Some("nvme"), Some("12"));
    fake.device("0000:00:1c.0", "0x060400", Some("pcieport"), Some("12"));
    let report = fake.examine(&["vfio:0000:02:00.0"]);
    assert_check(
        &report,
        "nic 0000:02:00.0",
        Level::Fail,
        "group 12 is not viable, the kernel drives 0000:02:00.1 (driver nvme)",
        "another slot",
    );
    assert!(!find(&report, "nic 0000:02:00.0").found.contains("pcieport"));
    assert!(report.ready_nics.is_empty());

    let fake = Fake::server();
    fake.nic("0000:03:00.1", "0x1041", Some("virtio-pci"), Some("13"), Some("eth3"));
    let report = fake.examine(&["vfio:0000:03:00.0"]);
    let fix = "./hugepage-setup.sh --bind 0000:03:00.0 --bind 0000:03:00.1";
    assert_check(&report, "nic 0000:03:00.0", Level::Fail, "0000:03:00.1 (driver virtio-pci)", fix);
}

#[test]
fn a_device_node_of_another_user_fails_and_of_our_own_passes() {
    let fake = Fake::server();
    fake.node("dev/vfio/12", 0o600);
    let report = fake.examine(&["vfio:0000:02:00.0"]);
    assert_check(&report, "nic 0000:02:00.0", Level::Fail, "/dev/vfio/12 belongs to user", "--user $USER");
    let owner = fs::metadata(fake.0.path().join("dev/vfio/12")).unwrap().uid();
    fake.user(owner, 0);
    assert!(fake.examine(&["vfio:0000:02:00.0"]).ports[0].ready);
    // Owner by capability: what root has.
    fake.user(4_000_000_000, 1 << 1);
    assert!(fake.examine(&["vfio:0000:02:00.0"]).ports[0].ready);
}

#[test]
fn a_missing_container_or_group_node_fails() {
    let fake = Fake::server();
    fs::remove_file(fake.0.path().join("dev/vfio/12")).unwrap();
    let report = fake.examine(&["vfio:0000:02:00.0"]);
    assert_check(
        &report,
        "nic 0000:02:00.0",
        Level::Fail,
        "/dev/vfio/12 does not exist",
        "--unbind 0000:02:00.0",
    );
    fake.node("dev/vfio/12", 0o666);
    fs::remove_file(fake.0.path().join("dev/vfio/vfio")).unwrap();
    let report = fake.examine(&["vfio:0000:02:00.0"]);
    assert_check(&report, "container", Level::Fail, "/dev/vfio/vfio does not exist", "vfio_iommu_type1");
    assert!(report.ready_nics.is_empty(), "the NIC is bound, but no vfio: port opens");
}

#[test]
fn a_nic_that_is_not_virtio_is_left_to_the_kernel_unless_asked_for() {
    let fake = Fake::server();
    fake.nic("0000:05:00.0", "0x1572", Some("i40e"), Some("15"), None);
    let report = fake.examine(&[]);
    assert_check(&report, "nic 0000:05:00.0", Level::Pass, "stays with the kernel", "");
    let report = fake.examine(&["vfio:0000:05:00.0"]);
    assert_check(&report, "nic 0000:05:00.0", Level::Fail, "1af4:1572 is not virtio-net", "");
}

#[test]
fn a_pci_device_that_is_no_nic_is_named_as_such() {
    let fake = Fake::server();
    fake.device("0000:06:00.0", "0x010802", Some("nvme"), None);
    let report = fake.examine(&["vfio:0000:06:00.0"]);
    assert_check(&report, "nic 0000:06:00.0", Level::Fail, "is not a network device", "--status");
}

#[test]
fn memlock_does_not_bind_a_process_with_the_capability() {
    let fake = Fake::laptop();
    fake.user(0, 1 << 14);
    let report = fake.examine(&["vfio:0000:03:00.0"]);
    assert_check(&report, "memlock", Level::Pass, "no limit", "");
    let fix = find(&report, "vfio-pci").fix.as_deref().unwrap();
    assert!(!fix.contains("sudo"), "root needs none: {fix}");
}

#[test]
fn an_unsteady_clock_is_a_warning() {
    let fake = Fake::laptop();
    fake.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    assert_check(&fake.examine(&[]), "tsc", Level::Warn, "`hpet`", "dmesg");
    fake.write("proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : fpu constant_tsc\n");
    let report = fake.examine(&[]);
    assert_check(&report, "tsc", Level::Warn, "lacks nonstop_tsc", "invtsc");
    assert_check(&report, "iommu", Level::Warn, "absent", "amd_iommu=on");
}

#[test]
fn all_hugepages_in_use_is_a_warning() {
    let fake = Fake::laptop();
    fake.pages(64, 0);
    assert_check(&fake.examine(&[]), "hugepages", Level::Warn, "0 of 64 2M free on node 0", "--pages");
}

#[test]
fn a_vhost_user_port_needs_its_socket() {
    let fake = Fake::laptop();
    let port = "vhost-user:/run/x.sock";
    assert_check(
        &fake.examine(&[port]),
        "socket",
        Level::Fail,
        "/run/x.sock does not exist",
        "start the backend",
    );
    fake.node("run/x.sock", 0o666);
    assert_check(&fake.examine(&[port]), "socket", Level::Fail, "is no socket", "");
    fs::remove_file(fake.0.path().join("run/x.sock")).unwrap();
    let _listener = UnixListener::bind(fake.0.path().join("run/x.sock")).unwrap();
    fs::set_permissions(fake.0.path().join("run/x.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    let report = fake.examine(&[port]);
    assert_check(&report, "socket", Level::Pass, "is there", "");
    assert!(report.ports[0].ready);
    fs::set_permissions(fake.0.path().join("run/x.sock"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_check(&fake.examine(&[port]), "socket", Level::Fail, "mode 600", "");
}

#[test]
fn a_tap_port_needs_the_driver_and_a_capability_or_an_interface_of_its_users() {
    let fake = Fake::laptop();
    let told = |port: &str, level, found: &str, fix: &str| {
        assert_check(&fake.examine(&[port]), "tap", level, found, fix);
    };
    told("tap:bw0", Level::Fail, "no /dev/net/tun", "modprobe tun");
    fake.node("dev/net/tun", 0o666);
    told("tap:bw0,queues=2", Level::Fail, "bw0 is not this user's", "ip tuntap add dev bw0 mode tap");
    fake.write("sys/class/net/bw0/owner", "0\n");
    fake.write("sys/class/net/bw0/group", "-1\n");
    told("tap:bw0", Level::Fail, "bw0 is not this user's", "ip link del bw0 && sudo ip tuntap add");
    fake.write("sys/class/net/bw0/owner", "4000000000\n");
    told("netem:loss=1%/tap:bw0", Level::Pass, "bw0 can be opened", "");
    fake.write("sys/class/net/bw0/owner", "-1\n");
    told("tap:bw0", Level::Pass, "bw0 can be opened", "");
}

#[test]
fn an_xdp_port_needs_a_kernel_an_interface_capabilities_and_an_mtu_that_fits() {
    let fake = Fake::laptop();
    let told = |level, found: &str, fix: &str| {
        assert_check(&fake.examine(&["xdp:eth7,mode=copy"]), "af_xdp", level, found, fix);
    };
    fake.write("proc/net/protocols", "protocol  size sockets\nTCP  1 2\n");
    told(Level::Fail, "this kernel has no AF_XDP sockets", "CONFIG_XDP_SOCKETS");
    fake.write("proc/net/protocols", "protocol  size sockets\nXDP  1 2\n");
    told(Level::Fail, "there is no interface eth7", "ip -br link");
    fake.write("sys/class/net/eth7/mtu", "9000\n");
    told(Level::Fail, "lacks CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF", "setcap cap_net_raw");
    fake.user(1000, 1 << 12 | 1 << 13);
    told(Level::Fail, "lacks CAP_BPF", "run as root");
    fake.user(0, 1 << 12 | 1 << 13 | 1 << 21);
    told(Level::Fail, "the MTU of eth7 is 9000, a buffer takes 1838", "ip link set eth7 mtu 1838");
    fake.write("sys/class/net/eth7/mtu", "1500\n");
    told(Level::Pass, "eth7 can be taken", "");
}

#[test]
fn a_vhost_user_server_port_needs_its_folder() {
    let fake = Fake::laptop();
    let report = fake.examine(&["vhost-user-server:/run/none/x.sock"]);
    assert_check(&report, "socket", Level::Fail, "the folder /run/none does not exist", "mkdir -p /run/none");
    fs::create_dir_all(fake.0.path().join("run/some")).unwrap();
    fs::set_permissions(fake.0.path().join("run/some"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(fake.examine(&["vhost-user-server:/run/some/x.sock"]).ports[0].ready);
}

#[test]
fn an_empty_machine_is_examined_without_a_panic() {
    let fake = Fake(tempfile::tempdir().unwrap());
    let report = fake.examine(&["vfio:0000:03:00.0"]);
    assert_check(&report, "cpus", Level::Warn, "does not say", "");
    assert!(!report.ports[0].ready);
}

#[test]
fn this_machine_is_examined_without_a_panic() {
    let report = examine(Path::new("/"), &[]);
    assert!(
        report.checks.iter().all(|check| check.level != Level::Fail),
        "nothing was asked for: {report:#?}"
    );
    assert!(find(&report, "cpus").found.contains("cores"), "{report:#?}");
}

#[test]
fn options_after_a_port_are_no_part_of_its_place() {
    let fake = Fake::laptop();
    let report = fake.examine(&["vhost-user:/run/x.sock,mac=02:00:00:00:00:01"]);
    assert_check(&report, "socket", Level::Fail, "/run/x.sock does not exist", "start the backend");
    let report = Fake::server().examine(&["vfio:02:00.0,mac=02:00:00:00:00:01"]);
    assert!(report.ports[0].ready, "{report:#?}");
}

#[test]
fn what_is_no_port_is_refused_as_the_programs_refuse_it() {
    for (spec, why) in [("eth0", "no kind"), ("vfio:eth0", "eth0"), ("dpdk:x", "dpdk")] {
        let told = Target::parse(spec).unwrap_err().to_string();
        assert!(told.contains(why), "{spec}: {told}");
    }
}

#[test]
fn cpu_lists_are_read_as_the_kernel_writes_them() {
    assert_eq!(host::cpu_list("0-2,5\n"), [0, 1, 2, 5]);
    assert_eq!(host::cpu_list("7"), [7]);
    assert_eq!(host::cpu_list(""), [0_u32; 0]);
}

#[test]
fn json_has_the_documented_keys() {
    let report = serde_json::to_value(Fake::server().examine(&["vfio:0000:03:00.0"])).unwrap();
    assert_eq!(report["program"], "doctor");
    assert_eq!(report["ports"][0], serde_json::json!({"port": "vfio:0000:03:00.0", "ready": false}));
    assert_eq!(report["ready_nics"], serde_json::json!([BOUND]));
    let nic = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "nic 0000:03:00.0")
        .unwrap();
    assert_eq!(nic["level"], "fail");
    assert_eq!(nic["stops"], serde_json::json!(["vfio:0000:03:00.0"]));
    assert_eq!(nic["fix"], "sudo ./hugepage-setup.sh --bind 0000:03:00.0");
    assert_eq!(report["checks"][0]["fix"], serde_json::Value::Null);
}

#[test]
fn colour_marks_levels() {
    let text = text(&Fake::laptop().examine(&["vfio:0000:03:00.0"]), Colour::Ansi);
    for painted in ["\x1b[32mpass\x1b[0m", "\x1b[33mwarn\x1b[0m", "\x1b[1;31mFAIL\x1b[0m"] {
        assert!(text.contains(painted), "{text}");
    }
}
