//! The reference: if this fails, it is the guest and not our driver.

use peers::guest::{Guest, Nic, testpmd};

#[test]
fn testpmd_forwards_on_vfio() {
    if !super::guest_runs(&["dpdk-testpmd"]) {
        return;
    }
    let builder = Guest::builder().nic(Nic::hub(0)).nic(Nic::hub(0));
    let builder = builder.hugepages_2m(testpmd::HUGEPAGES_2M);
    let mut guest = testpmd::install(builder).unwrap().start().unwrap();
    guest.bind_vfio(0).unwrap();
    guest.bind_vfio(1).unwrap();
    let forwarded = testpmd::forward(&mut guest, 3).unwrap();
    // An idle guest on a slow machine gives tens of thousands; frames that do not come round give none.
    assert!(forwarded.median_pps() > 1000, "{forwarded:?}");
}
