//! Interfaces that are deleted and made again under a running program.

use std::net::UdpSocket;
use std::time::Duration;

use peers::bywash::{Bywash, Report};
use peers::netns::Netns;

use super::port::wait_for;
use super::{SOON, namespace_with};

/// Longer than the tenth of a second in which the keeper notices.
const NOTICED: Duration = Duration::from_millis(400);

fn start(netns: &Netns, args: &str) -> Bywash {
    Bywash::start_in(netns, &args.split_whitespace().collect::<Vec<_>>()).unwrap()
}

fn stop(mut bywash: Bywash) -> Report {
    bywash.interrupt();
    bywash.report(SOON).unwrap()
}

/// Names of the events of `port`, in order.
fn events(report: &Report, port: u64) -> Vec<String> {
    let all = report.value()["port_events"].as_array().unwrap().clone();
    all.iter()
        .filter(|event| event["port"] == port)
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect()
}

/// Where datagrams for `name` go, in the order of the interfaces.
const OURS: [&str; 2] = ["192.0.2.2:9", "198.51.100.2:9"];

/// Makes interface `index` and what the kernel needs to send to our end of it.
fn make(netns: &Netns, index: usize) {
    let (name, address, ours) =
        [("bw0", "192.0.2.1/24", "192.0.2.2"), ("bw1", "198.51.100.1/24", "198.51.100.2")][index];
    netns.tap(name, &[address]).unwrap();
    netns.ip(&format!("neigh add {ours} lladdr 02:00:00:00:00:02 dev {name}")).unwrap();
}

/// Sends so many datagrams to each of those.
fn send(socket: &UdpSocket, to: &[&str], count: usize) {
    for number in 0..count {
        for to in to {
            socket.send_to(&[0x55; 100], to).unwrap();
        }
        if number % 50 == 49 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    std::thread::sleep(Duration::from_millis(200));
}

/// The port whose interface is deleted goes, with a reason; the other receives all that is sent meanwhile; the first
/// receives again when an interface of its name is there again.
#[test]
fn a_deleted_interface_leaves_the_others_alone_and_is_used_again_when_it_is_back() {
    let Some(netns) = namespace_with(&[]) else { return };
    peers::bywash::binary().unwrap();
    netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    make(&netns, 0);
    make(&netns, 1);
    let sink = start(&netns, "rxonly --port tap:bw0 --port tap:bw1 --json");
    for name in ["bw0", "bw1"] {
        netns.wait_for_link(name, SOON).unwrap();
    }
    let socket = netns.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    send(&socket, &OURS, 500);
    for round in 0..3 {
        netns.ip("link del bw0").unwrap();
        send(&socket, &OURS[1..], 500);
        std::thread::sleep(NOTICED);
        make(&netns, 0);
        // It has a carrier only when we have attached to it again.
        netns.wait_for_link("bw0", SOON).unwrap();
        if round == 0 {
            netns.ip("link set bw0 mtu 1400").unwrap();
        }
        std::thread::sleep(NOTICED);
        send(&socket, &OURS, 500);
    }
    let report = stop(sink);
    let told = report.value();
    let count = |pointer: &str| report.count(pointer).unwrap();
    assert_eq!(count("/ports/0/rx_packets"), 4 * 500, "{told}");
    assert_eq!(count("/ports/1/rx_packets"), 7 * 500, "the other port lost nothing: {told}");
    assert_eq!(count("/ports/0/faults"), 3, "one each time: {told}");
    assert!(told["ports"][0]["fault"].is_null(), "it works again: {told}");
    // The carrier of a new interface may take the kernel a moment, which is an event as well.
    let of_the_port: Vec<_> =
        events(&report, 0).into_iter().filter(|event| !event.starts_with("link")).collect();
    assert_eq!(of_the_port, ["gone", "back", "mtu", "gone", "back", "mtu", "gone", "back"], "{told}");
    assert_eq!(events(&report, 1), [""; 0], "{told}");
    let why = told["port_events"][0]["text"].as_str().unwrap().to_owned();
    assert!(why.contains("interface bw0 was deleted"), "{why}");
}

/// A pair of interfaces: the kernel's end, with an address, and one that is ours to take.
fn make_pair(netns: &Netns) {
    netns.ip("link add bw0 type veth peer name bw1").unwrap();
    netns.ip("addr add 192.0.2.1/24 dev bw0").unwrap();
    netns.ip("link set bw0 up").unwrap();
    netns.ip("link set bw1 up").unwrap();
}

/// As above for `xdp:`. Nothing of the interface that went is of use for the one that comes, not even its index.
#[test]
fn an_interface_under_af_xdp_is_used_again_when_it_is_back() {
    let Some(netns) = namespace_with(&["ping"]) else { return };
    peers::bywash::binary().unwrap();
    netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    make_pair(&netns);
    let ours = start(&netns, "echo --port xdp:bw1,mode=copy --ip 192.0.2.2/24 --idle adaptive --json");
    let answers = || netns.run("ping", &["-c1", "-W1", "-n", "192.0.2.2"], SOON).is_ok();
    wait_for("an answer", answers);
    for _ in 0..3 {
        netns.ip("link del bw0").unwrap();
        std::thread::sleep(NOTICED);
        make_pair(&netns);
        wait_for("an answer again", answers);
    }
    let report = stop(ours);
    let told = report.value();
    assert_eq!(report.count("/ports/0/faults").unwrap(), 3, "one each time: {told}");
    assert!(told["ports"][0]["fault"].is_null(), "it works again: {told}");
    let of_the_port: Vec<_> =
        events(&report, 0).into_iter().filter(|event| !event.starts_with("link")).collect();
    assert_eq!(of_the_port, ["gone", "back", "gone", "back", "gone", "back"], "{told}");
}

/// Down and up is no end: the link says so, and nothing else.
#[test]
fn an_interface_that_is_set_down_and_up_is_a_link_that_goes_and_comes() {
    let Some(netns) = namespace_with(&[]) else { return };
    peers::bywash::binary().unwrap();
    netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    make(&netns, 0);
    let sink = start(&netns, "rxonly --port tap:bw0 --json");
    netns.wait_for_link("bw0", SOON).unwrap();
    std::thread::sleep(NOTICED);
    netns.ip("link set bw0 down").unwrap();
    std::thread::sleep(NOTICED);
    netns.ip("link set bw0 up").unwrap();
    std::thread::sleep(NOTICED);
    let report = stop(sink);
    assert_eq!(events(&report, 0), ["link_down", "link_up"], "{}", report.value());
    assert_eq!(report.count("/ports/0/faults").unwrap(), 0);
}
