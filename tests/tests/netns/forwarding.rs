//! Programs on `tap:` ports: frames through the kernel's bridge and back.

use std::net::UdpSocket;

use peers::bywash::{Bywash, Report};
use peers::netns::Netns;

use super::{SOON, namespace_with};

/// Two TAP interfaces joined by a bridge, without the kernel's own traffic.
fn bridged() -> Option<Netns> {
    let netns = namespace_with(&[])?;
    peers::bywash::binary().unwrap();
    netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    netns.ip("link add br0 type bridge mcast_snooping 0").unwrap();
    netns.ip("link set br0 up").unwrap();
    for name in ["bw0", "bw1"] {
        netns.tap(name, &[]).unwrap();
        netns.ip(&format!("link set {name} master br0")).unwrap();
    }
    Some(netns)
}

fn start(netns: &Netns, args: &str) -> Bywash {
    Bywash::start_in(netns, &args.split_whitespace().collect::<Vec<_>>()).unwrap()
}

/// Stops a program that runs until it is told to, and returns its report.
fn stop(mut bywash: Bywash) -> Report {
    bywash.interrupt();
    bywash.report(SOON).unwrap()
}

/// Sends numbered frames through the bridge to a forwarder that sends them back.
fn round_trips(netns: &Netns, port: &str, reflector: &str) -> (Report, Report) {
    let reflector = start(netns, &format!("l2fwd --port {reflector} --forward-mode macswap --json"));
    netns.wait_for_link("bw1", SOON).unwrap();
    // Below the rate at which two loops and the kernel share one core without losing.
    let args = format!("gen --port {port} --count 20000 --rate 5k --imix=abcdefg --settle-ms 500 --json");
    let ours = start(netns, &args).report(SOON).unwrap();
    (ours, stop(reflector))
}

#[test]
fn numbered_frames_of_all_sizes_return_from_the_bridge() {
    let Some(netns) = bridged() else { return };
    let (ours, reflector) = round_trips(&netns, "tap:bw0", "tap:bw1");
    let told = format!("{}\n{}", ours.value(), reflector.value());
    assert_eq!(ours.count("/counters/sent").unwrap(), 20_000, "{told}");
    assert_eq!(ours.count("/counters/received").unwrap(), 20_000, "{told}");
    for wrong in ["lost", "reordered", "duplicated", "late", "corrupted"] {
        assert_eq!(ours.count(&format!("/counters/{wrong}")).unwrap(), 0, "{wrong}: {told}");
    }
    assert_eq!(ours.count("/errors").unwrap() + reflector.count("/errors").unwrap(), 0, "{told}");
}

/// The generator's own judgement of what the bad link did is the bad link's own account.
#[test]
fn a_bad_link_does_what_it_says_it_did() {
    let Some(netns) = bridged() else { return };
    let options = "netem:loss=1%,duplicate=1%,reorder=5%,delay=2ms,seed=7";
    let (ours, reflector) = round_trips(&netns, "tap:bw0", &format!("{options}/tap:bw1"));
    let told = format!("{}\n{}", ours.value(), reflector.value());
    let count = |name: &str| ours.count(&format!("/counters/{name}")).unwrap();
    let did = |name: &str| reflector.count(&format!("/ports/0/netem_{name}")).unwrap();
    // Both ways: about 400 of 40,000.
    assert!((300..500).contains(&did("lost")), "{told}");
    assert!((300..500).contains(&did("duplicated")), "{told}");
    assert!((1700..2300).contains(&did("reordered")), "{told}");
    // A frame that was duplicated may have lost one of its two.
    assert!(count("lost").abs_diff(did("lost")) < 30, "{told}");
    assert!(count("duplicated").abs_diff(did("duplicated")) < 30, "{told}");
    assert!(count("reordered") > 500, "{told}");
    assert_eq!(count("corrupted"), 0, "{told}");
    assert_eq!(reflector.count("/drops/netem_lost").unwrap(), did("lost"), "{told}");
    let p50 = ours.count("/latency_ns/round_trip/p50").unwrap();
    assert!((4_000_000..100_000_000).contains(&p50), "twice 2 ms at least: {told}");
}

#[test]
fn rxonly_counts_every_datagram_that_the_kernel_sends() {
    let Some(netns) = namespace_with(&[]) else { return };
    peers::bywash::binary().unwrap();
    netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let sink = start(&netns, "rxonly --port tap:bw0 --json");
    netns.wait_for_link("bw0", SOON).unwrap();
    netns.ip("addr add 192.0.2.1/24 dev bw0").unwrap();
    netns.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev bw0").unwrap();
    let socket = netns.inside(|| UdpSocket::bind("192.0.2.1:0").unwrap()).unwrap();
    for number in 0..2000_u32 {
        socket.send_to(&[0x55; 100], "192.0.2.2:9").unwrap();
        if number % 50 == 49 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    let report = stop(sink);
    assert_eq!(report.count("/packets").unwrap(), 2000, "{}", report.value());
    assert_eq!(report.count("/bytes").unwrap(), 2000 * (14 + 20 + 8 + 100), "{}", report.value());
    assert_eq!(report.count("/errors").unwrap(), 0);
}

/// Both the exit and the words: a program whose interface is deleted under it ends in good order when told to.
#[test]
fn a_deleted_interface_is_reported() {
    let Some(netns) = namespace_with(&[]) else { return };
    peers::bywash::binary().unwrap();
    let sink = start(&netns, "rxonly --port tap:bw0 --json");
    netns.wait_for_link("bw0", SOON).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    netns.ip("link del bw0").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let report = stop(sink);
    assert_eq!(report.count("/ports/0/faults").unwrap(), 1);
    let fault = report.value()["ports"][0]["fault"].as_str().unwrap().to_owned();
    assert!(fault.contains("the interface is gone"), "{fault}");
}
