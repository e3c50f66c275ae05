//! How long an urgent request takes beside bulk transfers that fill the transmit ring, and what they lose: for each limit
//! of normal frames in the ring, and without priorities.
//!
//! ```sh
//! cargo run --release -p bywash-engine --example urgent [seconds for each [cores]]
//! ```
//!
//! Two hosts over a `loop:` link, on two cores or on one. One sends on 64 connections as fast as it can, and asks on one more for
//! 64 bytes at a time, which come back.

use std::time::Duration;

use engine::{Engine, Priority, StackNode, StackSettings};
use stack::{
    Closed, Conn, ConnId, ConnectOptions, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, ListenOptions,
    Net, Service, TcpOptions, Time,
};

const ECHO: u16 = 7;
const DISCARD: u16 = 9;
const BULK_CONNECTIONS: u64 = 64;
const URGENT: u64 = u64::MAX;
/// Expedited forwarding.
const EF: u8 = 46;

/// Sends on all connections but one, measures on that one.
#[derive(Default)]
struct Sender {
    asked: Time,
    sent_bytes: u64,
}

impl Sender {
    fn ask(&mut self, conn: &mut Conn<'_>) {
        self.asked = conn.now();
        conn.send_slice(&[7; 64]);
    }

    fn push(&mut self, conn: &mut Conn<'_>) {
        loop {
            let count = conn.send(|room| {
                room.fill(0x5a);
                (room.len(), room.len())
            });
            if count == 0 {
                return;
            }
            self.sent_bytes += count as u64;
        }
    }
}

impl Service for Sender {
    fn configured(&mut self, net: &mut Net<'_>) {
        let server = |port| IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), port);
        for tag in 0..BULK_CONNECTIONS {
            let options = ConnectOptions { tag, ..ConnectOptions::default() };
            net.connect(server(DISCARD), options).expect("there are ports enough");
        }
        let tcp = TcpOptions { dscp: EF, ..TcpOptions::default() };
        let options = ConnectOptions { tag: URGENT, tcp, ..ConnectOptions::default() };
        net.connect(server(ECHO), options).expect("there is one more");
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        if conn.tag() == URGENT { self.ask(conn) } else { self.push(conn) }
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        if conn.tag() != URGENT {
            return self.push(conn);
        }
        let mut bytes = [0; 64];
        if conn.recv_queue() >= bytes.len() {
            conn.recv_slice(&mut bytes);
            let ns = conn.now().since(self.asked).as_nanos();
            conn.record(0, u64::try_from(ns).unwrap_or(u64::MAX));
            self.ask(conn);
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, why: Closed, _net: &mut Net<'_>) {
        panic!("a connection ended: {why:?}");
    }

    fn latencies(&self) -> &'static [&'static str] {
        &["urgent"]
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("sent_bytes", self.sent_bytes);
    }
}

/// Echoes on one port, discards on the other.
struct Receiver;

impl Service for Receiver {
    fn start(&mut self, net: &mut Net<'_>) {
        for (port, dscp) in [(ECHO, EF), (DISCARD, 0)] {
            let tcp = TcpOptions { dscp, ..TcpOptions::default() };
            let at = IpListenEndpoint { addr: None, port };
            net.listen(at, ListenOptions { tcp, ..ListenOptions::default() }).expect("nobody else listens");
        }
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn ready(&mut self, conn: &mut Conn<'_>) {
        let mut bytes = [0; 4096];
        loop {
            let count = conn.recv_slice(&mut bytes);
            if count == 0 {
                return;
            }
            if conn.local().port == ECHO {
                conn.send_slice(&bytes[..count]);
            }
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}
}

fn settings(last: u8) -> StackSettings {
    let addresses = vec![IpCidr::new(IpAddress::v4(10, 0, 0, last), 24)];
    StackSettings { addresses, ..StackSettings::default() }
}

fn run(priority: Option<Priority>, seconds: u64, cores: u64) {
    let mut engine = Engine::builder();
    let ports = [engine.port("loop:a"), engine.port("loop:b")];
    let first = engine.lcore(None);
    let second = if cores == 1 { first } else { engine.lcore(None) };
    for port in ports {
        if let Some(priority) = priority {
            engine.priority(port, priority);
        }
    }
    engine.program(first, StackNode::new(settings(1), Sender::default()), [ports[0]]);
    engine.program(second, StackNode::new(settings(2), Receiver), [ports[1]]);
    let running = engine.start().expect("two loops and a link need nothing else");
    std::thread::sleep(Duration::from_secs(seconds));
    let snapshot = running.stop().expect("both loops live");
    let latencies = snapshot.latencies();
    let urgent = latencies.get("urgent").expect("it has a name");
    let limit = priority.map_or("none".to_owned(), |priority| priority.normal_limit.to_string());
    let us = |percentile: f64| {
        let ns = urgent.value_at_percentile(percentile);
        format!("{}.{}", ns / 1000, ns % 1000 / 100)
    };
    let megabytes = snapshot.counters().get("sent_bytes") / seconds / 1_000_000;
    let (p50, p99, p999) = (us(50.0), us(99.0), us(99.9));
    println!("{limit:>5} {megabytes:>7} {p50:>9} {p99:>9} {p999:>9} {:>9}", urgent.len());
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().unwrap_or(0_u64));
    let seconds = arguments.next().unwrap_or(2).max(1);
    let cores = arguments.next().unwrap_or(2);
    println!("limit    MB/s    p50 us    p99 us  p99.9 us    rounds");
    for normal_limit in [8, 16, 32, 64, 128, 256, 512] {
        run(Some(Priority { normal_limit, ..Priority::default() }), seconds, cores);
    }
    run(None, seconds, cores);
}
