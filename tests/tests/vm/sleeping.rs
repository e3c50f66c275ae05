//! A forwarder that sleeps on the MSI-X interrupts of two NICs.

use peers::guest::Nic;

use super::wire::{assert_forwards, wait_until_forwarding};
use super::{PROGRAMS, background, guest_runs, guest_with_bywash};

/// Frames each way.
const FRAMES: u32 = 500;

const A: &str = "0000:00:03.0";
const B: &str = "0000:00:04.0";

#[test]
fn interrupts_of_the_device_wake_a_forwarder_that_sleeps() {
    if !guest_runs(&PROGRAMS) {
        return;
    }
    let builder = guest_with_bywash().nic(Nic::host()).nic(Nic::host().packed());
    let mut guest = builder.hugepages_2m(64).start().unwrap();
    guest.shell_ok(&format!("hugepage-setup.sh --bind {A} --bind {B}")).unwrap();
    for idle in ["adaptive", "interrupt"] {
        let command = format!(
            "bywash l2fwd --port vfio:{A} --port vfio:{B} --seconds 120 --json --forward-mode io --idle {idle}"
        );
        background::start(&mut guest, "root", &command);
        wait_until_forwarding(&guest, 0, 1);
        for way in [(0, 1), (1, 0)] {
            assert_forwards(&guest, way, FRAMES, |frame| frame);
        }
        // Nothing comes now; what was slept through shows in the report.
        std::thread::sleep(std::time::Duration::from_secs(3));
        let messages = guest.shell_ok("grep -c vfio-msix /proc/interrupts").unwrap();
        assert_eq!(messages.trim(), "2", "{idle}: one vector a receive queue");
        let report = background::stop(&mut guest);
        assert!(report.count("/packets").unwrap() >= u64::from(2 * FRAMES), "{report:?}");
        assert!(report.count("/cores/0/wakes/port").unwrap() > 10, "{idle}: {report:?}");
        let asleep = report.number("/cores/0/asleep").unwrap();
        assert!(asleep > 0.3, "{idle}: asleep {asleep} of the time: {report:?}");
    }
}
