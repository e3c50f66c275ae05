//! A device that is unplugged under a running forwarder, and plugged in again.

use std::time::{Duration, Instant};

use peers::guest::{Guest, Nic};

use super::wire::{assert_forwards, frame, wait_until_forwarding};
use super::{PROGRAMS, background, guest_runs, guest_with_bywash};

/// How long the guest's kernel may take over an unplugging, slowly emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// The device that stays is NIC 0, the one that goes NIC 1.
const STAYS: usize = 0;
const GOES: usize = 1;

#[test]
fn an_unplugged_device_is_let_go_of_and_used_again_when_it_is_back() {
    if !guest_runs(&PROGRAMS) {
        return;
    }
    let builder = guest_with_bywash().nic(Nic::host()).nic(Nic::host().hot());
    let mut guest = builder.hugepages_2m(64).start().unwrap();
    let ports = [STAYS, GOES].map(|nic| format!("--port vfio:{}", guest.address(nic)));
    for nic in [STAYS, GOES] {
        guest.bind_vfio(nic).unwrap();
    }
    let command = format!("bywash l2fwd {} --forward-mode io --seconds 600 --json", ports.join(" "));
    background::start(&mut guest, "root", &command);
    std::thread::sleep(Duration::from_secs(3));
    background::assert_runs(&mut guest);
    wait_until_forwarding(&guest, STAYS, GOES);
    assert_forwards(&guest, (STAYS, GOES), 500, |frame| frame);
    assert_forwards(&guest, (GOES, STAYS), 500, |frame| frame);

    let mut sent: u64 = 500;
    guest.unplug(GOES).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while guest.is_plugged(GOES).unwrap() {
        assert!(Instant::now() < deadline, "it is not let go of: {}\n{}", told(&mut guest), guest.console());
        sent += send_some(&guest);
    }
    // It is gone, and traffic goes on.
    for _ in 0..20 {
        sent += send_some(&guest);
    }
    background::assert_runs(&mut guest);
    let text = told(&mut guest);
    assert!(text.contains("gone: the device is being unplugged"), "{text}");

    guest.plug(GOES).unwrap();
    let address = guest.address(GOES).to_owned();
    let deadline = Instant::now() + PATIENCE;
    while guest
        .shell_ok(&format!("[ -e /sys/bus/pci/devices/{address} ] && echo there || true"))
        .unwrap()
        .is_empty()
    {
        assert!(Instant::now() < deadline, "it is not found again: {}", guest.console());
    }
    guest.bind_vfio(GOES).unwrap();
    guest.wait_for("/tmp/err", ": back", PATIENCE).unwrap();
    wait_until_forwarding(&guest, STAYS, GOES);
    assert_forwards(&guest, (STAYS, GOES), 500, |frame| frame);
    assert_forwards(&guest, (GOES, STAYS), 500, |frame| frame);
    sent += 500;

    let report = background::stop(&mut guest);
    let value = report.value();
    let events: Vec<_> =
        value["port_events"].as_array().unwrap().iter().map(|event| &event["event"]).collect();
    assert_eq!(events, ["gone", "back"], "{value}");
    assert_eq!(value["port_events"][0]["port"], 1, "{value}");
    assert!(report.count("/ports/0/rx_packets").unwrap() >= sent, "{sent} sent: {value}");
    assert!(report.count("/ports/0/tx_packets").unwrap() >= 1000, "{value}");
    assert!(report.count("/ports/1/tx_dropped").unwrap() > 0, "what nobody took is counted: {value}");
    assert_eq!(report.count("/ports/1/faults").unwrap(), 1, "{value}");
    assert!(value["ports"][1]["fault"].is_null(), "{value}");
}

/// Frames for the device that stays, to be forwarded by the one that goes.
fn send_some(guest: &Guest) -> u64 {
    for number in 0..16 {
        guest.link(STAYS).send(&frame(number, 60)).unwrap();
    }
    while guest.link(GOES).receive(Duration::from_millis(1)).unwrap().is_some() {}
    16
}

fn told(guest: &mut Guest) -> String {
    guest.shell_ok("cat /tmp/err").unwrap()
}
