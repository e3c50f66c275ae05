//! Our servers on a real device: the guest's NIC is the other end of a TAP interface in a namespace, and the kernel of
//! this machine is the client.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use peers::bywash::Report;
use peers::guest::{Guest, Nic};
use peers::netns::{self, Netns};
use peers::require::{self, Suite};

use super::{PROGRAMS, SOON, background, clients, guest_runs, guest_with_bywash};

/// The kernel's addresses, and ours, one of each family.
const KERNEL: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const OURS: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const PREFIX: [u8; 2] = [24, 64];

const FILE_BYTES: usize = 1 << 20;
const CONNECTIONS: u32 = 1000;
const AT_ONCE: usize = 100;
const PINGS: u32 = 100;

/// How long a step with many packets may take: everything at the other end is emulated.
const LONG: Duration = Duration::from_secs(120);

/// Up to a full frame, and on to twenty fragments.
const DATAGRAMS: [usize; 9] = [1, 18, 100, 1452, 1453, 1472, 1473, 4000, 28_000];

#[test]
fn the_kernel_is_served_from_a_vfio_device() {
    if !guest_runs(&PROGRAMS) {
        return;
    }
    if let Some(why) = netns::unavailable_with(&["curl", "ping"]) {
        return require::skip(Suite::Vm, why);
    }
    // Declared in this order so that QEMU ends before the namespace and the folder go, also when something fails.
    let folder = tempfile::Builder::new().prefix("bywash-site-").tempdir().unwrap();
    let netns = Netns::new().unwrap();
    let addresses = [0, 1].map(|family| format!("{}/{}", KERNEL[family], PREFIX[family]));
    netns.tap("bw0", &addresses.each_ref().map(String::as_str)).unwrap();
    // QEMU may not get to run for a while, and a thousand connections that close at once fill the customary queue:
    // what the kernel drops there is no matter of ours.
    netns.ip("link set bw0 txqueuelen 10000").unwrap();

    let (content, small) = (clients::bytes(FILE_BYTES, 1), b"a small file\n");
    for (name, bytes) in [("1M", &content[..]), ("small", small)] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let mut builder = guest_with_bywash().nic(Nic::tap("bw0")).in_namespace(&netns);
    for name in ["1M", "small"] {
        builder = builder.file(folder.path().join(name), &format!("/site/{name}"));
    }
    let mut guest = builder.hugepages_2m(64).start().unwrap();
    the_guests_kernel_answers(&mut guest, &netns);
    guest.bind_vfio(0).unwrap();

    start(&mut guest, &netns, "http --root /site");
    files_are_fetched(&netns, folder.path(), &content);
    small_requests(&netns, small);
    assert_pings(&netns);
    let report = stop(&mut guest, &netns);
    let told = report.value().to_string();
    let count = |pointer: &str| report.count(pointer).unwrap();
    assert_eq!(count("/counters/requests"), u64::from(CONNECTIONS) + 2, "{told}");
    assert_eq!(count("/counters/status_2xx"), u64::from(CONNECTIONS) + 2, "{told}");
    assert_eq!(count("/counters/open"), 0, "{told}");
    assert_eq!(count("/errors") + count("/ports/0/faults"), 0, "{told}");

    // The same device, after the first server has given it back.
    start(&mut guest, &netns, "echo");
    assert_pings(&netns);
    let both_families = [0, 1].map(|family| (KERNEL[family], at(family, 7)));
    step("datagrams", || {
        inside(&netns, || {
            for (from, to) in both_families {
                clients::datagrams_come_back(from, to, &DATAGRAMS);
            }
        });
    });
    step("streams of 1 MB", || {
        inside(&netns, || {
            for (_, to) in both_families {
                clients::stream_comes_back(to, FILE_BYTES);
            }
        });
    });
    echo_connections(&netns);
    let report = stop(&mut guest, &netns);
    let told = report.value().to_string();
    let count = |pointer: &str| report.count(pointer).unwrap();
    assert_eq!(count("/counters/connections"), 3 * u64::from(CONNECTIONS) + 2, "{told}");
    assert_eq!(count("/counters/failed") + count("/counters/open"), 0, "{told}");
    assert_eq!(count("/errors") + count("/ports/0/faults"), 0, "{told}");
}

/// Where our end listens on `port`, for IPv4 (0) or IPv6 (1).
fn at(family: usize, port: u16) -> SocketAddr {
    SocketAddr::new(OURS[family].parse().unwrap(), port)
}

/// Runs a closure in the namespace; threads that it starts are in there too.
fn inside(netns: &Netns, body: impl FnOnce() + Send) {
    netns.inside(body).unwrap();
}

/// Says how long something took: emulation makes it interesting.
fn step(what: &str, body: impl FnOnce()) {
    let started = Instant::now();
    body();
    println!("{what}: {:.1?}", started.elapsed());
}

/// If this fails, it is the TAP or QEMU and not our server.
fn the_guests_kernel_answers(guest: &mut Guest, netns: &Netns) {
    let script = format!(
        "dev=$(ls /sys/bus/pci/devices/{}/virtio*/net)\n\
         ip addr add {}/{} dev $dev && ip link set $dev up",
        guest.address(0),
        OURS[0],
        PREFIX[0]
    );
    guest.shell_ok(&script).unwrap();
    netns.run("ping", &["-c3", "-i0.2", "-W5", "-n", OURS[0]], SOON).unwrap();
}

/// Starts a server on the device and waits until it answers for both of its addresses.
fn start(guest: &mut Guest, netns: &Netns, command: &str) {
    let ips = [0, 1].map(|family| format!("--ip {}/{}", OURS[family], PREFIX[family])).join(" ");
    let command = format!("bywash {command} --port vfio:{} {ips} --json", guest.address(0));
    background::start(guest, "root", &command);
    let deadline = Instant::now() + SOON;
    for ours in OURS {
        while netns.run("ping", &["-c1", "-W1", "-n", ours], SOON).is_err() {
            background::assert_runs(guest);
            assert!(Instant::now() < deadline, "no answer from {ours}\n{}", guest.console());
        }
    }
}

/// Stops the server, once it has seen all that was sent to it: an echo request comes after the last acknowledgements in
/// the same queue.
fn stop(guest: &mut Guest, netns: &Netns) -> Report {
    netns.run("ping", &["-c1", "-W20", "-n", OURS[0]], SOON).unwrap();
    background::stop(guest)
}

/// 100 a second of each family, none lost.
fn assert_pings(netns: &Netns) {
    let count = PINGS.to_string();
    for ours in OURS {
        let args = ["-n", "-q", "-i", "0.01", "-W", "5", "-c", &count, ours];
        let told = netns.run("ping", &args, LONG).unwrap().stdout;
        print!("{}", told.lines().skip(3).collect::<Vec<_>>().join("; ") + "\n");
        assert!(told.contains(&format!("{PINGS} received, 0% packet loss")), "{told}");
    }
}

fn files_are_fetched(netns: &Netns, folder: &Path, content: &[u8]) {
    let got = folder.join("got");
    let path = got.to_str().unwrap();
    for url in [format!("http://{}/1M", OURS[0]), format!("http://[{}]/1M", OURS[1])] {
        step(&format!("curl {url}"), || {
            netns.run("curl", &["-sS", "--fail", "--globoff", "-o", path, &url], LONG).unwrap();
        });
        clients::assert_same(&fs::read(&got).unwrap(), content, &url);
        fs::remove_file(&got).unwrap();
    }
}

/// A connection for each request.
fn small_requests(netns: &Netns, content: &[u8]) {
    let get = format!("GET /small HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", OURS[0]);
    let check = |number: u32, answer: &[u8]| {
        let is_whole = answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(content);
        assert!(is_whole, "request {number}: {}", String::from_utf8_lossy(answer));
    };
    step(&format!("{CONNECTIONS} requests, {AT_ONCE} at a time"), || {
        inside(netns, || {
            clients::connections(at(0, 80), CONNECTIONS, AT_ONCE, false, |_| get.clone().into(), check);
        });
    });
}

/// One after the other, some at a time, all at a time.
fn echo_connections(netns: &Netns) {
    let request = |number: u32| clients::bytes(64, number);
    let check = |number: u32, answer: &[u8]| {
        clients::assert_same(answer, &request(number), &format!("connection {number}"));
    };
    for (family, at_once) in [(0, 1), (1, AT_ONCE)] {
        step(&format!("{CONNECTIONS} connections, {at_once} at a time"), || {
            inside(netns, || {
                clients::connections(at(family, 7), CONNECTIONS, at_once, true, request, check);
            });
        });
    }
    step(&format!("{CONNECTIONS} connections held open"), || {
        inside(netns, || clients::connections_held_open(at(0, 7), CONNECTIONS as usize));
    });
}
