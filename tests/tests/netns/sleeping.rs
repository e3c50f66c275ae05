//! Cores that sleep while an interface of the kernel's brings nothing, and wake when it does.

use std::time::Duration;

use peers::bywash::Bywash;
use peers::netns::Netns;

use super::host::{KERNEL, OURS, namespace_with_tap, start};
use super::port::wait_for;
use super::{SOON, namespace_with};

/// Questions, each long after the answer to the one before.
const PINGS: usize = 20;

/// What a sleeping core must answer, and how it must have slept.
fn assert_sleeps_and_wakes(kernel: &Netns, port: &str, start: impl Fn(&str) -> Bywash) {
    for idle in ["adaptive", "interrupt"] {
        let mut ours = start(&format!("--ip {}/24 --idle {idle}", OURS[0]));
        wait_for("an answer", || kernel.run("ping", &["-c1", "-W1", "-n", OURS[0]], SOON).is_ok());
        let count = PINGS.to_string();
        kernel.run("ping", &["-c", &count, "-i", "0.05", "-W5", "-n", OURS[0]], SOON).unwrap();
        // Nothing comes now; what was slept through shows in the report.
        std::thread::sleep(Duration::from_secs(1));
        ours.interrupt();
        let report = ours.report(SOON).unwrap();
        let told = report.value();
        let wakes = report.count("/cores/0/wakes/port").unwrap();
        assert!(wakes >= PINGS as u64 / 2, "{port}, {idle}: {wakes} wake-ups by the port: {told}");
        let asleep = report.number("/cores/0/asleep").unwrap();
        assert!(asleep > 0.3, "{port}, {idle}: asleep {asleep} of the time: {told}");
        assert_eq!(report.count("/ports/0/faults").unwrap(), 0, "{told}");
    }
}

#[test]
fn a_tap_interface_wakes_a_core() {
    let Some(netns) = namespace_with_tap(&["ping"]) else { return };
    assert_sleeps_and_wakes(&netns, "tap:", |flags| start(&netns, "echo", "tap:bw0", flags));
}

/// Also where the core itself polls the interface's driver while it is awake.
#[test]
fn an_interface_under_af_xdp_wakes_a_core() {
    let Some(netns) = namespace_with(&["ping"]) else { return };
    peers::bywash::binary().unwrap();
    netns.ip("link add bw0 type veth peer name bw1").unwrap();
    netns.ip(&format!("addr add {} dev bw0", KERNEL[0])).unwrap();
    for name in ["bw0", "bw1"] {
        netns.ip(&format!("link set {name} up")).unwrap();
    }
    for busy_poll in ["64", "off"] {
        let port = format!("xdp:bw1,mode=copy,busy_poll={busy_poll}");
        assert_sleeps_and_wakes(&netns, &port, |flags| start(&netns, "echo", &port, flags));
    }
}
