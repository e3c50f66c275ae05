//! Devices and groups that cannot be used, each with its own error.

use peers::guest::Nic;

use super::{PROGRAMS, SOON, assert_says, guest_runs, guest_with_bywash, l2fwd_error};

#[test]
fn every_device_that_cannot_be_used_says_why() {
    if !guest_runs(&PROGRAMS) {
        return;
    }
    let mut guest = guest_with_bywash()
        .nic(Nic::hub(0))
        .nic(Nic::hub(1).legacy_only())
        .nic(Nic::hub(2).without_iommu_platform())
        .nic(Nic::hub(3).on_shared_bus())
        .nic(Nic::hub(3).on_shared_bus())
        .hugepages_2m(64)
        .start()
        .unwrap();
    let address: [String; 5] = std::array::from_fn(|nic| guest.address(nic).to_owned());
    let [good, legacy, past_iommu, shared, neighbour] = address.each_ref().map(String::as_str);
    let mut error = |other: &str| l2fwd_error(&mut guest, [other, good], "");

    assert_says(&error("0000:00:1e.0"), &["there is no PCI device 0000:00:1e.0", "lspci -D -d 1af4:"]);
    assert_says(&error("00:1f.2"), &["PCI device 0000:00:1f.2 is 8086:", "not a virtio network device"]);
    let unbound = error(good);
    assert_says(&unbound, &["PCI device 0000:00:03.0 is driven by virtio-pci, not by vfio-pci"]);
    assert_says(&unbound, &["run ./hugepage-setup.sh --bind 0000:00:03.0"]);

    for nic in 0..4 {
        guest.bind_vfio(nic).unwrap();
    }
    let mut error = |other: &str| l2fwd_error(&mut guest, [other, good], "");
    assert_says(&error(legacy), &["PCI device 0000:00:04.0 is legacy-only", "disable-modern=off"]);
    assert_says(
        &error(past_iommu),
        &["PCI device 0000:00:05.0 does not offer VIRTIO_F_ACCESS_PLATFORM", "iommu_platform=on"],
    );
    let not_viable = error(shared);
    assert_says(&not_viable, &[&format!("of {shared} is not viable"), &format!("{shared} (vfio-pci)")]);
    assert_says(&not_viable, &[&format!("{neighbour} (virtio-pci)"), &format!("--bind {neighbour}")]);

    // What the error says to do helps, and both devices of a group can be used by one process.
    guest.bind_vfio(4).unwrap();
    let command = format!("bywash l2fwd --port vfio:{shared} --port vfio:{neighbour} --seconds 1 --quiet");
    let output = guest.shell(&command, SOON).unwrap();
    assert_eq!(output.status, 0, "{}", output.text);

    // The same device twice.
    assert_says(&l2fwd_error(&mut guest, [good, good], ""), &["in use", "is held by this process"]);
}
