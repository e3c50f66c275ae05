//! The conformance suite over kinds of port that need neither root nor hardware. `tap:` and `xdp:` are in
//! `netns/conformance.rs`.

use peers::conformance::{FilesWire, Kind, Memory, NoWire, PortWire, Subject, run};
use pmd::port::Hub;

/// Nobody tells a polling end of a link that a frame has come.
const POLLED: (&str, &str) = ("arm", "both ends of a link in one process poll");

/// Features of the driver's end of a link: every ring format.
const FORMATS: [&str; 6] = [
    "ring_packed=off",
    "ring_packed=on",
    "ring_packed=off,in_order=on",
    "ring_packed=on,in_order=on",
    "ring_packed=on,event_idx=on",
    "ring_packed=off,mrg_rxbuf=on",
];

fn link(name: &str, driver: &str, device: &str, tests_driver: bool, exempt: &[(&str, &str)]) {
    let open = move |memory: &Memory| {
        let hub = Hub::default();
        let (port, wire) = if tests_driver { (driver, device) } else { (device, driver) };
        let wire = Box::new(PortWire::new(&hub, wire));
        Subject { port: memory.open(&hub, port), wire }
    };
    run(Kind { name, open: Box::new(open), exempt });
}

#[test]
fn loop_drivers_keep_their_promises() {
    for format in FORMATS {
        link(&format!("loop:a,{format}"), &format!("loop:a,{format}"), "loop:b", true, &[POLLED]);
    }
}

#[test]
fn loop_devices_keep_their_promises() {
    for format in FORMATS {
        link(&format!("loop:b of {format}"), &format!("loop:a,{format}"), "loop:b", false, &[POLLED]);
    }
}

#[test]
fn ports_behind_a_perfect_link_keep_their_promises() {
    let exempt = [
        POLLED,
        (
            "unsendable",
            "a link takes frames before the port has looked at them, and answers for what it took",
        ),
    ];
    link("netem:/loop:a", "netem:/loop:a", "loop:b", true, &exempt);
    link("netem:/loop:b", "loop:a", "netem:/loop:b", false, &exempt);
}

/// Both ends of a vhost-user socket; the server listens first.
fn vhost_user(name: &str, options: &str, tests_driver: bool) {
    let open = |memory: &Memory| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.keep().join("x.sock");
        let hub = Hub::default();
        let (server, driver) = (
            format!("vhost-user-server:{}", path.display()),
            format!("vhost-user:{}{options}", path.display()),
        );
        if tests_driver {
            let wire = Box::new(PortWire::new(&hub, &server));
            Subject { port: memory.open(&hub, &driver), wire }
        } else {
            let port = memory.open(&hub, &server);
            Subject { port, wire: Box::new(PortWire::new(&hub, &driver)) }
        }
    };
    run(Kind { name, open: Box::new(open), exempt: &[] });
}

#[test]
fn vhost_user_drivers_keep_their_promises() {
    for options in ["", ",ring_packed=on", ",ring_packed=off", ",ring_packed=on,in_order=on"] {
        vhost_user(&format!("vhost-user:{options}"), options, true);
    }
}

#[test]
fn vhost_user_devices_keep_their_promises() {
    for options in ["", ",ring_packed=on", ",ring_packed=off", ",ring_packed=on,in_order=on"] {
        vhost_user(&format!("vhost-user-server: of {options}"), options, false);
    }
}

#[test]
fn nothing_keeps_its_promises() {
    let open =
        |memory: &Memory| Subject { port: memory.open(&Hub::default(), "null:"), wire: Box::new(NoWire) };
    let nothing_comes = "nothing is at the other end";
    let exempt = [
        ("lengths", nothing_comes),
        ("chains", nothing_comes),
        ("backlog", nothing_comes),
        ("budget", nothing_comes),
        ("empty pool", "it takes no mbufs without rx=on"),
        ("death", nothing_comes),
        ("arm", "it never has to tell of anything"),
    ];
    run(Kind { name: "null:", open: Box::new(open), exempt: &exempt });
}

#[test]
fn captures_in_pipes_keep_their_promises() {
    let open = |memory: &Memory| {
        let mut wire = FilesWire::new();
        let port = memory.open(&Hub::default(), &wire.port());
        wire.begin();
        Subject { port, wire: Box::new(wire) }
    };
    let exempt = [("arm", "a thread reads the file, and nobody tells that it has: such a port is polled")];
    run(Kind { name: "pcap:", open: Box::new(open), exempt: &exempt });
}
