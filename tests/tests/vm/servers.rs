//! Our servers on a real device: the guest's NIC is the other end of a TAP interface, and the kernel of this machine is
//! the client.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use peers::bywash::Report;
use peers::guest::{Guest, Nic};
use peers::netns::{self, Netns};
use peers::require::{Suite, skip};

use super::{PROGRAMS, SOON, guest_runs, guest_with_bywash};

/// Everything in the guest is emulated.
const PATIENCE: Duration = Duration::from_secs(120);
const OURS: &str = "192.0.2.2";
const CONNECTIONS: usize = 1000;

/// Starts a server in the guest and waits until it answers.
fn start(guest: &mut Guest, netns: &Netns, command: &str) {
    let address = guest.address(0).to_owned();
    guest
        .shell_ok(&format!(
            "bywash {command} --port vfio:{address} --ip {OURS}/24 --json > /tmp/out 2> /tmp/err &\n\
             echo $! > /tmp/pid"
        ))
        .unwrap();
    let deadline = Instant::now() + SOON;
    while netns.run("ping", &["-c1", "-W1", "-n", OURS], SOON).is_err() {
        let told = guest.shell("cat /tmp/err", SOON).unwrap().text;
        assert!(Instant::now() < deadline, "no answer: {told}\n{}", guest.console());
    }
}

/// Stops the server, whose report must tell of no error.
fn stop(guest: &mut Guest) -> Report {
    guest
        .shell(
            "kill -INT $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.1; done",
            SOON,
        )
        .unwrap();
    let report = Report::parse(&guest.shell_ok("cat /tmp/out").unwrap()).unwrap();
    assert_eq!(report.count("/errors").unwrap(), 0, "{}", report.value());
    report
}

#[test]
fn the_kernel_of_this_machine_is_served_from_the_guest() {
    let clients = ["curl", "ping"];
    if !guest_runs(&PROGRAMS) {
        return;
    }
    if let Some(why) = netns::unavailable_with(&clients) {
        return skip(Suite::Vm, why);
    }
    let netns = Netns::new().unwrap();
    netns.tap("bw0", &["192.0.2.1/24"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("1M");
    let content: Vec<u8> =
        (0..1_u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    fs::write(&file, &content).unwrap();
    let builder = guest_with_bywash().file(&file, "/site/1M").nic(Nic::tap("bw0")).in_namespace(&netns);
    let mut guest = builder.hugepages_2m(64).start().unwrap();
    the_wire_is_there(&mut guest, &netns);
    guest.bind_vfio(0).unwrap();

    start(&mut guest, &netns, "http --root /site");
    let got = folder.path().join("got");
    let url = format!("http://{OURS}/1M");
    for _ in 0..3 {
        netns.run("curl", &["-sS", "-f", "-o", got.to_str().unwrap(), &url], PATIENCE).unwrap();
        assert!(fs::read(&got).unwrap() == content, "other bytes than the file's");
    }
    stop(&mut guest);

    start(&mut guest, &netns, "echo");
    let told = netns.run("ping", &["-n", "-q", "-i", "0.01", "-c", "300", OURS], PATIENCE).unwrap().stdout;
    assert!(told.contains("300 received, 0% packet loss"), "{told}");
    connections(&netns);
    stop(&mut guest);
}

/// The guest's own kernel answers: if that fails, it is not our server.
fn the_wire_is_there(guest: &mut Guest, netns: &Netns) {
    let address = guest.address(0).to_owned();
    guest
        .shell_ok(&format!(
            "dev=$(ls /sys/bus/pci/devices/{address}/virtio*/net)\n\
             ip addr add {OURS}/24 dev $dev && ip link set $dev up"
        ))
        .unwrap();
    netns.run("ping", &["-c3", "-i0.2", "-W5", "-n", OURS], SOON).unwrap();
    // Our end has the device's MAC address, the same: the kernel's neighbour entry may stay.
}

/// So many connections at once, a message there and back on each, twice.
fn connections(netns: &Netns) {
    let to: SocketAddr = format!("{OURS}:7").parse().unwrap();
    let connect = || TcpStream::connect_timeout(&to, PATIENCE);
    let connected = netns.inside(|| (0..CONNECTIONS).map(|_| connect()).collect::<Result<Vec<_>, _>>());
    let mut streams = connected.unwrap().unwrap();
    for stream in &streams {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for round in 0..2 {
        let message = |index: usize| format!("{round}: message of connection {index:04}");
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.write_all(message(index).as_bytes()).unwrap();
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut back = vec![0; message(index).len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, message(index).as_bytes());
        }
    }
}
