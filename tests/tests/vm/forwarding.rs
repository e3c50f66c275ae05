//! A forwarder's life on two NICs: bound, started, seen at work, killed, started again, stopped, unbound.

use peers::guest::{Guest, Nic};

use super::wire::{assert_forwards, assert_kernel_answers_arp, wait_until_forwarding};
use super::{PROGRAMS, SOON, assert_says, background, guest_runs, guest_with_bywash, l2fwd_error};

/// Frames each way; every length comes up.
const FRAMES: u32 = 2000;

/// The two ports.
const A: &str = "0000:00:03.0";
const B: &str = "0000:00:04.0";

#[test]
fn frames_pass_unchanged_through_kill_restart_and_unbind() {
    if !guest_runs(&PROGRAMS) {
        return;
    }
    // One of the two offers packed virtqueues as well, which must not confuse a driver that takes split ones.
    let builder = guest_with_bywash().nic(Nic::host()).nic(Nic::host().packed());
    let mut guest = builder.hugepages_2m(64).start().unwrap();
    assert_says(&doctor(&mut guest, "root", 1), &["not bound to vfio-pci", "does not open; stopped by: nic"]);
    setup(&mut guest, &format!("--bind {A} --bind {B}"));
    assert_says(&doctor(&mut guest, "root", 0), &["vfio-pci, group 1: ready", &format!("vfio:{A} is ready")]);
    setup(&mut guest, "--check");

    start(&mut guest, "root", "--forward-mode io");
    for way in [(0, 1), (1, 0)] {
        assert_forwards(&guest, way, FRAMES, |frame| frame);
    }
    assert_busy(&mut guest);

    // SIGKILL: no reset by us, so the kernel's must do.
    guest
        .shell_ok("kill -9 $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.1; done")
        .unwrap();
    start(&mut guest, "root", "--forward-mode macswap");
    assert_forwards(&guest, (0, 1), FRAMES, swapped);
    let report = background::stop(&mut guest);
    assert!(report.count("/packets").unwrap() >= u64::from(FRAMES), "{report:?}");
    assert_eq!(report.count("/ports/0/rx_nombuf").unwrap(), 0, "{report:?}");

    as_ordinary_user(&mut guest);

    setup(&mut guest, &format!("--unbind {A} --unbind {B}"));
    for (nic, address) in [A, B].into_iter().enumerate() {
        let driver = guest.shell_ok(&format!("readlink /sys/bus/pci/devices/{address}/driver")).unwrap();
        assert!(driver.trim().ends_with("/virtio-pci"), "{address}: {driver}");
        guest
            .shell_ok(&format!(
                "dev=$(ls /sys/bus/pci/devices/{address}/virtio*/net)\n\
             ip addr add 10.0.{nic}.1/24 dev $dev && ip link set $dev up"
            ))
            .unwrap();
        let ip = [10, 0, u8::try_from(nic).unwrap(), 1];
        assert_kernel_answers_arp(&guest, nic, ip, guest.mac(nic));
    }
}

/// A user other than root may not, until `--user` and the memlock limit let it.
fn as_ordinary_user(guest: &mut Guest) {
    let attempt = |guest: &mut Guest, limit_kib: &str| {
        let command = format!("bywash l2fwd --port vfio:{A} --port vfio:{B} --seconds 1");
        let output = guest.shell(&format!("ulimit -l {limit_kib}; su user -c '{command}'"), SOON).unwrap();
        assert_eq!(output.status, 1, "{}", output.text);
        output.text
    };
    let denied = attempt(guest, "unlimited");
    assert_says(&denied, &["/dev/vfio/", "cannot be opened by user 1000", "--user NAME"]);
    assert_says(&doctor(guest, "user", 1), &["/dev/vfio/1 belongs to user 0", "hugepage-setup.sh --user"]);

    setup(guest, "--user user");
    let limited = attempt(guest, "1024");
    assert_says(
        &limited,
        &["must be locked, and this process may lock 1048576", "hugepage-setup.sh --memlock"],
    );

    start(guest, "user", "--forward-mode io");
    assert_forwards(guest, (1, 0), FRAMES, |frame| frame);
    background::stop(guest);
}

/// A second forwarder is told who has the device.
fn assert_busy(guest: &mut Guest) {
    let pid = guest.shell_ok("cat /tmp/pid").unwrap();
    let text = l2fwd_error(guest, [A, B], "");
    assert_says(&text, &["PCI device 0000:00:03.0 is in use", &format!("process {} (bywash)", pid.trim())]);
}

/// What the doctor says of the first port, and that it ends with this status.
fn doctor(guest: &mut Guest, user: &str, status: u32) -> String {
    let output = guest.shell(&format!("su {user} -c 'bywash doctor --port vfio:{A}'"), SOON).unwrap();
    assert_eq!(output.status, status, "{}", output.text);
    output.text
}

fn setup(guest: &mut Guest, arguments: &str) {
    let output = guest.shell(&format!("hugepage-setup.sh {arguments}"), SOON).unwrap();
    assert_eq!(output.status, 0, "{}", output.text);
}

/// Starts the forwarder in the background and waits until it forwards.
fn start(guest: &mut Guest, user: &str, flags: &str) {
    let command = format!("bywash l2fwd --port vfio:{A} --port vfio:{B} --seconds 120 --json {flags}");
    background::start(guest, user, &command);
    wait_until_forwarding(guest, 0, 1);
}

/// What `--forward-mode macswap` makes of a frame.
fn swapped(mut frame: Vec<u8>) -> Vec<u8> {
    let (destination, rest) = frame.split_at_mut(6);
    destination.swap_with_slice(&mut rest[..6]);
    frame
}
