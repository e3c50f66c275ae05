//! The conformance suite over `tap:` and `xdp:` ports, with the kernel's packet socket at the other end.

use std::sync::Arc;
use std::time::Duration;

use peers::conformance::{DESCRIPTORS, Kind, Memory, PacketWire, Subject, run};
use peers::netns::Netns;
use pmd::port::{Hub, OpenConfig, Port, open};

use super::namespace_with;
use super::port::wait_for;

/// Opens a port inside a namespace.
fn open_inside(netns: &Netns, memory: &Memory, text: &str) -> Box<dyn Port> {
    let (region, data_room_bytes) = (&memory.region, memory.pool.data_room_bytes());
    let body = || {
        let config = OpenConfig {
            region,
            hub: &Hub::default(),
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            queue_pairs: 1,
            interrupts: true,
            data_room_bytes,
            offloads: false,
        };
        open(text, &config).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    netns.inside(body).unwrap()
}

/// The packet socket on interface `name` of a namespace; death deletes the interface.
fn wire(netns: &Arc<Netns>, name: &'static str) -> PacketWire {
    let index = netns.ip(&format!("-o link show {name}")).unwrap();
    let index: u32 = index.split(':').next().unwrap().trim().parse().unwrap();
    let (here, killed) = (Arc::clone(netns), Arc::clone(netns));
    // What runs inside must not take the socket's other parts along between threads: it is made there, whole.
    let socket = here.inside(|| PacketWire::socket(index).unwrap()).unwrap();
    PacketWire::new(socket, move || {
        killed.ip(&format!("link del {name}")).unwrap();
    })
}

/// No frames of the kernel's own.
fn silence(netns: &Netns) {
    netns.set("net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
}

#[test]
fn tap_ports_keep_their_promises() {
    let Some(netns) = namespace_with(&[]) else { return };
    let netns = Arc::new(netns);
    silence(&netns);
    let open = |memory: &Memory| {
        let port = open_inside(&netns, memory, "tap:bw0");
        netns.wait_for_link("bw0", Duration::from_secs(10)).unwrap();
        Subject { port, wire: Box::new(wire(&netns, "bw0")) }
    };
    run(Kind { name: "tap:", open: Box::new(open), exempt: &[] });
}

#[test]
fn xdp_ports_keep_their_promises() {
    let (Some(kernel), Some(ours)) = (namespace_with(&["ethtool"]), namespace_with(&[])) else { return };
    let (kernel, ours) = (Arc::new(kernel), Arc::new(ours));
    silence(&kernel);
    silence(&ours);
    let open = |memory: &Memory| {
        // The one before may have died.
        let _ = kernel.ip("link del bw0");
        kernel.ip(&format!("link add bw0 type veth peer name bw1 netns {}", ours.name())).unwrap();
        kernel.ip("link set bw0 up").unwrap();
        ours.ip("link set bw1 up").unwrap();
        for (netns, name) in [(&kernel, "bw0"), (&ours, "bw1")] {
            let state = format!("link show {name}");
            wait_for("the link", || netns.ip(&state).unwrap().contains("state UP"));
        }
        let port = open_inside(&ours, memory, "xdp:bw1");
        Subject { port, wire: Box::new(wire(&kernel, "bw0")) }
    };
    run(Kind { name: "xdp:", open: Box::new(open), exempt: &[] });
}
