use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const ADDRESS: &str = "0000:00:03.0";

/// A picture of a machine.
struct Fake {
    dir: TempDir,
}

impl Fake {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn host(&self) -> Host {
        Host::at(self.dir.path())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn device(self, address: &str, ids: (&str, &str), driver: Option<&str>, group: Option<u32>) -> Self {
        let dir = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{dir}/vendor"), ids.0);
        self.write(&format!("{dir}/device"), ids.1);
        if let Some(driver) = driver {
            self.link(&format!("{dir}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            self.link(&format!("{dir}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
            self.write(&format!("sys/kernel/iommu_groups/{group}/devices/{address}"), "");
        }
        self
    }

    fn net(self, driver: Option<&str>, group: Option<u32>) -> Self {
        self.device(ADDRESS, ("0x1af4\n", "0x1041\n"), driver, group)
    }

    fn error(&self) -> String {
        self.host().check(address()).unwrap_err().to_string()
    }
}

fn address() -> PciAddress {
    ADDRESS.parse().unwrap()
}

#[test]
fn addresses_are_read_as_lspci_writes_them() {
    assert_eq!(address().to_string(), ADDRESS);
    assert_eq!("af:1f.7".parse::<PciAddress>().unwrap().to_string(), "0000:af:1f.7");
    assert_eq!("10000:E1:00.0".parse::<PciAddress>().unwrap().to_string(), "10000:e1:00.0");
}

#[test]
fn what_is_no_address_is_named() {
    for text in
        ["", "eth0", "0000:00:03", "00:03.8", "00:20.0", "0:0:3.0", "+000:00:03.0", "00:+3.0", "1:2:3:4.0"]
    {
        let error = text.parse::<PciAddress>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{text:?} is no PCI address")), "{error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_address_or_an_error(text in ".{0,20}") {
        if let Ok(address) = text.parse::<PciAddress>() {
            prop_assert_eq!(address.to_string().parse::<PciAddress>().unwrap(), address);
        }
    }
}

#[test]
fn device_that_is_ready_gives_its_group() {
    let fake = Fake::new().net(Some("vfio-pci"), Some(7));
    assert_eq!(fake.host().check(address()).unwrap(), 7);
}

#[test]
fn missing_device_is_named() {
    assert!(Fake::new().error().contains("no PCI device 0000:00:03.0; lspci"));
}

#[test]
fn other_devices_are_refused_by_their_ids() {
    let fake = Fake::new().device(ADDRESS, ("0x8086\n", "0x10d3\n"), Some("vfio-pci"), Some(1));
    assert!(fake.error().contains("is 8086:10d3, not a virtio network device"));
    let block = Fake::new().device(ADDRESS, ("0x1af4\n", "0x1042\n"), Some("vfio-pci"), Some(1));
    assert!(block.error().contains("is 1af4:1042"));
    let garbled = Fake::new().device(ADDRESS, ("?", "0x1041\n"), Some("vfio-pci"), Some(1));
    assert!(garbled.error().contains("cannot read the vendor id"));
}

#[test]
fn missing_iommu_and_missing_group_are_told_apart() {
    let fake = Fake::new().net(Some("vfio-pci"), None);
    assert!(fake.error().contains("the IOMMU is off or missing"));
    fake.write("sys/kernel/iommu_groups/0/type", "DMA");
    assert!(fake.error().contains("although this machine has 1"));
}

#[test]
fn other_driver_is_named_with_the_command() {
    let error = Fake::new().net(Some("virtio-pci"), Some(1)).error();
    assert!(error.contains("is driven by virtio-pci"), "{error}");
    assert!(error.ends_with("run ./hugepage-setup.sh --bind 0000:00:03.0"), "{error}");
    assert!(Fake::new().net(None, Some(1)).error().contains("driven by nobody"));
}

#[test]
fn group_that_is_not_viable_names_everybody_in_it() {
    let fake = Fake::new()
        .net(Some("vfio-pci"), Some(4))
        .device("0000:01:04.0", ("0x1af4", "0x1041"), Some("virtio-pci"), Some(4))
        .device("0000:00:10.0", ("0x1b36", "0x000e"), None, Some(4))
        .device("0000:00:11.0", ("0x1b36", "0x000c"), Some("pcieport"), Some(4));
    let members = fake.host().members(4);
    let error = VfioError::GroupNotViable { address: address(), group: 4, members }.to_string();
    assert!(
        error.contains(
            "it has 0000:00:03.0 (vfio-pci), 0000:00:10.0 (no driver), 0000:00:11.0 (pcieport), \
             0000:01:04.0 (virtio-pci); run ./hugepage-setup.sh --bind 0000:01:04.0"
        ),
        "{error}"
    );
    assert!(error.ends_with("--bind 0000:01:04.0"), "{error}");
    assert_eq!(fake.host().members(5), []);
}

const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95961                95961                processes \n\
                      Max locked memory         8388608              unlimited            bytes     \n";

#[test]
fn memlock_limit_names_the_numbers() {
    let fake = Fake::new();
    fake.write("proc/self/limits", LIMITS);
    fake.write("proc/self/status", "Name:\tx\nVmLck:\t      64 kB\nCapEff:\t0000000000000000\n");
    let memlock = fake.host().memlock();
    assert_eq!(memlock, Memlock { limit_bytes: Some(8_388_608), locked_bytes: 65_536 });
    memlock.check(8_388_608 - 65_536).unwrap();
    let error = memlock.check(8_388_608).unwrap_err().to_string();
    assert!(
        error.contains("of 8388608 bytes must be locked")
            && error.contains("may lock 8388608, of which 65536")
    );
    assert!(error.contains("./hugepage-setup.sh --memlock"), "{error}");
}

#[test]
fn who_may_lock_all_has_no_limit() {
    let fake = Fake::new();
    fake.write("proc/self/limits", LIMITS);
    fake.write("proc/self/status", "CapEff:\t0000000000004000\n");
    fake.host().memlock().check(u64::MAX).unwrap();
    let unlimited = Fake::new();
    unlimited.write("proc/self/limits", &LIMITS.replace("8388608  ", "unlimited"));
    assert_eq!(unlimited.host().memlock().limit_bytes, None);
}

#[test]
fn holder_of_a_group_is_found() {
    let fake = Fake::new();
    fake.write("proc/77/comm", "dpdk-testpmd\n");
    fake.link("proc/77/fd/12", "/dev/vfio/3");
    fake.link("proc/78/fd/12", "/dev/vfio/30");
    assert_eq!(fake.host().holder(3), "process 77 (dpdk-testpmd)");
    assert_eq!(fake.host().holder(4), "a process of another user");
}
