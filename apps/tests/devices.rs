//! `bywash devices` on the machine made of files that the tests of `hugepage-setup.sh` have: `tests/setup/fake.sh`.

use std::path::Path;
use std::process::Command;

/// Runs `steps` (bash) on a machine made of files, which is `$M`; `devices …` there is our command. Its output.
fn on_fake_machine(steps: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/setup/fake.sh");
    let script = format!(
        "source '{}'\n\
         fake_machine '{}'\n\
         trap fake_machine_off EXIT\n\
         devices() {{ local code=0; PATH=\"$M/bin:$PATH\" BYWASH_SYSROOT=\"$M\" '{}' devices \"$@\" 2>&1 || code=$?; echo \"exit $code\"; }}\n\
         driver() {{ basename \"$(readlink \"$M/sys/bus/pci/devices/$1/driver\" || echo none)\"; }}\n\
         {steps}",
        fake.display(),
        folder.path().display(),
        env!("CARGO_BIN_EXE_bywash"),
    );
    let output =
        Command::new("timeout").args(["400", "bash", "-euo", "pipefail", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_list_says_of_each_nic_what_bind_would_say() {
    let text = on_fake_machine("devices --json");
    let value: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let device = |address: &str| {
        let all = value["devices"].as_array().unwrap();
        all.iter()
            .find(|device| device["address"] == address)
            .unwrap_or_else(|| panic!("no {address}: {text}"))
            .clone()
    };
    for (address, usable, why) in [
        ("0000:01:00.0", "no", "in use, eth0 carries the default route"),
        ("0000:02:00.0", "bindable", "bywash devices bind 0000:02:00.0"),
        ("0000:03:00.0", "no", "IOMMU group 13 is not viable"),
        ("0000:05:00.0", "no", "it is in no IOMMU group"),
        ("0000:06:00.0", "no", "in use, eth6 is up with address 198.51.100.7/24"),
        ("0000:07:00.0", "no", "in use, eth7 (through br0) is up with address 2001:db8::9/64"),
        ("0000:08:00.0", "bindable", "bywash devices bind"),
    ] {
        let device = device(address);
        assert_eq!(device["usable"], usable, "{device}");
        assert!(device["why"].as_str().unwrap().contains(why), "{device}");
    }
    assert_eq!(device("0000:06:00.0")["ip_addresses"], serde_json::json!(["198.51.100.7/24"]));
    assert_eq!(device("0000:02:00.0")["ip_addresses"], serde_json::json!([]), "link-local ones say nothing");
    assert_eq!(device("0000:03:00.0")["group_members"], serde_json::json!(["0000:03:00.1 (virtio-pci)"]));
    assert_eq!(device("0000:02:00.0")["id"], "1af4:1041");
    assert_eq!(value["devices"].as_array().unwrap().len(), 10, "no disk, no bridge: {text}");
}

#[test]
fn bind_unbind_and_undo_are_the_scripts() {
    let text = on_fake_machine(
        "devices bind 0000:02:00.0; driver 0000:02:00.0\n\
         devices unbind 0000:02:00.0; driver 0000:02:00.0\n\
         devices bind 0000:02:00.0 0000:03:00.0 0000:03:00.1 >/dev/null; driver 0000:03:00.1\n\
         devices undo; driver 0000:03:00.1",
    );
    let lines: Vec<&str> = text.lines().collect();
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(has("0000:02:00.0: driver virtio-pci -> vfio-pci (IOMMU group 12)"), "{text}");
    assert!(has("undo     sudo bywash devices undo"), "{text}");
    assert!(has("0000:02:00.0: driver vfio-pci -> virtio-pci"), "{text}");
    let drivers: Vec<&str> =
        lines.iter().copied().filter(|line| ["vfio-pci", "virtio-pci", "none"].contains(line)).collect();
    assert_eq!(drivers, ["vfio-pci", "virtio-pci", "vfio-pci", "virtio-pci"], "{text}");
    assert_eq!(lines.iter().filter(|line| **line == "exit 0").count(), 3, "{text}");
}

#[test]
fn what_the_script_refuses_is_refused_and_changes_nothing() {
    let text = on_fake_machine(
        "before=$(fake_machine_picture)\n\
         devices bind 0000:01:00.0\n\
         devices bind 0000:04:00.0\n\
         devices bind eth1\n\
         devices bind 0000:02:00.0 --dry-run\n\
         [[ $(fake_machine_picture) == \"$before\" ]] && echo unchanged",
    );
    let codes: Vec<&str> = text.lines().filter(|line| line.starts_with("exit ")).collect();
    assert_eq!(codes, ["exit 3", "exit 1", "exit 2", "exit 0"], "{text}");
    assert!(text.contains("eth0 carries the default route; taking it would cut this machine off"), "{text}");
    assert!(text.contains("that is an interface; its address is 0000:02:00.0"), "{text}");
    assert!(text.contains("would    0000:02:00.0: driver virtio-pci -> vfio-pci"), "{text}");
    assert!(text.ends_with("unchanged\n"), "{text}");
}
