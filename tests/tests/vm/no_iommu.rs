//! Machines without an IOMMU, or without all of one.

use peers::guest::Nic;

use super::{PROGRAMS, assert_says, guest_runs, guest_with_bywash, l2fwd_error};

#[test]
fn machine_without_iommu_is_told_what_to_switch_on() {
    if !guest_runs(&PROGRAMS) {
        return;
    }
    let nic = || Nic::hub(0).without_iommu_platform();
    let mut guest = guest_with_bywash().without_iommu().nic(nic()).nic(nic()).start().unwrap();
    let text = l2fwd_error(&mut guest, ["0000:00:03.0", "0000:00:04.0"], "");
    assert_says(
        &text,
        &[
            "PCI device 0000:00:03.0 is in no IOMMU group: the IOMMU is off or missing",
            "boot Linux with intel_iommu=on",
        ],
    );
}

#[test]
fn iommu_without_interrupt_remapping_is_named() {
    if !guest_runs(&PROGRAMS) {
        return;
    }
    let builder = guest_with_bywash().without_interrupt_remapping();
    let mut guest = builder.nic(Nic::hub(0)).nic(Nic::hub(0)).start().unwrap();
    guest.bind_vfio(0).unwrap();
    guest.bind_vfio(1).unwrap();
    let text = l2fwd_error(&mut guest, ["0000:00:03.0", "0000:00:04.0"], "");
    assert_says(&text, &["VFIO refuses PCI device 0000:00:03.0", "no interrupt remapping", "intremap=on"]);
}
