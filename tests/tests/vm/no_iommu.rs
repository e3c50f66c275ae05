//! A machine without an IOMMU.

use peers::guest::Nic;

use super::{assert_says, guest_runs, guest_with_bywash, l2fwd_error};

#[test]
fn machine_without_iommu_is_told_what_to_switch_on() {
    if !guest_runs() {
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
