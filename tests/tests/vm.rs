//! VFIO where it is real: a Linux guest under QEMU with a virtual IOMMU.
//!
//! `BYWASH_REQUIRE=vm` makes a skip a failure. A boot costs some 8 s, so each guest serves several scenarios.

use peers::guest::{self, Guest, Nic, testpmd};
use peers::require::{self, Suite};

/// Whether a guest can run here; says why if not.
fn guest_runs() -> bool {
    match guest::unavailable() {
        None => true,
        Some(why) => {
            require::skip(Suite::Vm, why);
            false
        }
    }
}

/// If this fails, it is the guest and not our driver.
#[test]
fn testpmd_forwards_on_vfio() {
    if !guest_runs() {
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
