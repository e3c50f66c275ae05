//! The Linux kernel's own virtio-net as the driver of `vhost-user-server:`: our server's frames go through a guest's
//! virtqueues, and whatever that driver and QEMU negotiate.

use std::path::Path;
use std::time::{Duration, Instant};

use peers::bywash::{Bywash, Report};
use peers::guest::{Guest, Nic};
use peers::process::Process;

use super::{SOON, assert_says, guest_runs};

/// Ours, then the guest's, of each family.
const OURS: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const GUEST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PREFIX: [u8; 2] = [24, 64];

/// How long a step may take that moves megabytes: the guest is emulated.
const LONG: Duration = Duration::from_secs(120);

/// What a stream carries.
const STREAM_BYTES: u32 = 4 << 20;

/// Bits of `/sys/bus/virtio/devices/*/features`, by their number. virtio 1.2 §5.1.3, §6.
const CSUM: usize = 0;
const GUEST_TSO4: usize = 7;
const HOST_TSO4: usize = 11;
const MRG_RXBUF: usize = 15;
const MQ: usize = 22;
const RING_PACKED: usize = 34;

/// What QEMU's device offers and the guest's driver must have taken.
struct Case {
    nic: fn(&Path) -> Nic,
    queue_pairs: usize,
    taken: &'static [usize],
    left: &'static [usize],
}

/// Everything that QEMU passes on by itself.
const PLAIN: Case = Case {
    nic: |path| Nic::vhost_user(path),
    queue_pairs: 1,
    taken: &[CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF],
    left: &[MQ, RING_PACKED],
};

/// No offloads, and no merged buffers.
const BARE: Case = Case {
    nic: |path| {
        Nic::vhost_user(path).option(
            "csum=off,gso=off,host_tso4=off,host_tso6=off,guest_csum=off,guest_tso4=off,guest_tso6=off,mrg_rxbuf=off",
        )
    },
    queue_pairs: 1,
    taken: &[],
    left: &[CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, MQ, RING_PACKED],
};

/// Two queue pairs, packed.
const WIDE: Case = Case {
    nic: |path| Nic::vhost_user(path).queue_pairs(2).packed(),
    queue_pairs: 2,
    taken: &[CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, MQ, RING_PACKED],
    left: &[],
};

#[test]
fn linux_drives_our_device_with_offloads() {
    exercise(&PLAIN, false);
}

#[test]
fn linux_drives_our_device_without_offloads() {
    exercise(&BARE, false);
}

#[test]
fn linux_drives_two_packed_queue_pairs_and_comes_back_after_reload_and_reboot() {
    exercise(&WIDE, true);
}

fn exercise(case: &Case, comes_back: bool) {
    if !guest_runs(&["nc"]) {
        return;
    }
    let folder = tempfile::Builder::new().prefix("bywash-linux-").tempdir().unwrap();
    let socket = folder.path().join("socket");
    let mut server = start(&socket, case, "echo", 600);
    wait_for_socket(server.process(), &socket);
    let mut guest = Guest::builder()
        .without_iommu()
        .reboots()
        .nic((case.nic)(&socket))
        .system_program("nc")
        .start()
        .unwrap();

    configure(&mut guest);
    assert_negotiated(&mut guest, case);
    ours_serves_the_guest(&mut guest);
    if comes_back {
        for _ in 0..2 {
            reload(&mut guest);
            configure(&mut guest);
            ours_serves_the_guest(&mut guest);
        }
        guest.reboot().unwrap();
        configure(&mut guest);
        assert_negotiated(&mut guest, case);
        ours_serves_the_guest(&mut guest);
    }
    assert_clean(&stop(server));
    the_guest_serves_us(&mut guest, &socket, case);
}

fn assert_clean(told: &Report) {
    let count = |pointer: &str| told.count(pointer).unwrap();
    assert_eq!(count("/errors") + count("/counters/open"), 0, "{}", told.value());
    assert_eq!(count("/ports/0/faults"), 0, "{}", told.value());
}

fn start(socket: &Path, case: &Case, command: &str, seconds: u32) -> Bywash {
    let port = format!("vhost-user-server:{},queues={}", socket.display(), case.queue_pairs);
    let ips = [0, 1].map(|family| format!("{}/{}", OURS[family], PREFIX[family]));
    let seconds = seconds.to_string();
    let mut args: Vec<&str> = command.split(' ').collect();
    args.extend(["--port", &port, "--ip", &ips[0], "--ip", &ips[1], "--seconds", &seconds, "--json"]);
    Bywash::start(&args).unwrap()
}

fn stop(mut server: Bywash) -> Report {
    server.interrupt();
    server.report(SOON).unwrap()
}

/// QEMU connects once, when it starts.
fn wait_for_socket(server: &mut Process, socket: &Path) {
    let deadline = Instant::now() + SOON;
    while !socket.exists() {
        assert!(server.is_running(), "{}", server.stderr());
        assert!(Instant::now() < deadline, "no socket at {}", socket.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Gives the guest's interface its addresses.
fn configure(guest: &mut Guest) {
    let script = format!(
        "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad\n\
         ip addr add {}/{} dev eth0 && ip addr add {}/{} dev eth0 && ip link set eth0 up",
        GUEST[0], PREFIX[0], GUEST[1], PREFIX[1]
    );
    // The driver may still be at it.
    guest.shell_ok("for n in $(seq 100); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done").unwrap();
    guest.shell_ok(&script).unwrap();
}

/// Unloads the kernel's driver, which resets the device, and loads it again.
fn reload(guest: &mut Guest) {
    guest.shell_ok("rmmod virtio_net && insmod /modules/*-virtio_net.ko").unwrap();
}

fn assert_negotiated(guest: &mut Guest, case: &Case) {
    let path = format!("/sys/bus/pci/devices/{}/virtio*/features", guest.address(0));
    let features = guest.shell_ok(&format!("cat {path}")).unwrap();
    let has = |bit: &usize| features.as_bytes().get(*bit) == Some(&b'1');
    assert!(case.taken.iter().all(has), "{features} lacks one of {:?}", case.taken);
    assert!(!case.left.iter().any(has), "{features} has one of {:?}", case.left);
    let queues = guest.shell_ok("ls /sys/class/net/eth0/queues | grep -c rx-").unwrap();
    assert_eq!(queues.trim(), case.queue_pairs.to_string());
}

fn ours_serves_the_guest(guest: &mut Guest) {
    for ours in OURS {
        let told = guest.shell(&format!("ping -c 20 -i 0.05 -w 30 {ours}"), LONG).unwrap().text;
        assert!(told.contains("20 packets received, 0% packet loss"), "{told}");
    }
    // The same bytes back, from both queues at once: nc sends what it reads and ends when we do.
    let stream = |ours: &str, number: u32| {
        format!(
            "(head -c {STREAM_BYTES} /tmp/bytes | /bin/nc -N -w 60 {ours} 7 | cmp - /tmp/bytes && echo same{number}) > /tmp/told{number} 2>&1 &"
        )
    };
    let script = format!(
        "[ -e /tmp/bytes ] || head -c {STREAM_BYTES} /dev/urandom > /tmp/bytes\n{}\n{}\nwait\ncat /tmp/told1 /tmp/told2",
        stream(OURS[0], 1),
        stream(OURS[1], 2)
    );
    let started = Instant::now();
    let told = guest.shell(&script, LONG).unwrap().text;
    assert_says(&told, &["same1", "same2"]);
    println!("two streams of {STREAM_BYTES} bytes, there and back: {:.1?}", started.elapsed());
}

/// A server in the guest sends back what our client sends. The client comes in place of our server while the guest runs:
/// QEMU finds it again.
fn the_guest_serves_us(guest: &mut Guest, socket: &Path, case: &Case) {
    guest.shell_ok("busybox nc -ll -p 7 -e cat > /dev/null 2>&1 &").unwrap();
    let command = format!("load --to {}:7 --connections 2 --size 1000", GUEST[0]);
    let deadline = Instant::now() + LONG;
    loop {
        let client = start(socket, case, &command, 15);
        if case.taken.contains(&RING_PACKED) {
            // Only the backend knew how far a packed virtqueue had come, and it is gone: QEMU 7.2 starts it somewhere else.
            std::thread::sleep(Duration::from_secs(3));
            reload(guest);
            configure(guest);
        }
        let told = client.report(SOON).map(|told| told.count("/requests").unwrap());
        match told {
            Ok(100..) => return,
            told => assert!(Instant::now() < deadline, "{told:?}"),
        }
    }
}
