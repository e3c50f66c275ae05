//! What connections take, they give back: flows, buffers and memory after very many of them, one after the other and
//! all at once.
//!
//! `BYWASH_LEAK_CONNECTIONS` says how many are opened and closed, `BYWASH_LEAK_OPEN` how many are open at once. A
//! binary of its own with one test: the process's memory is part of what is looked at.

#[path = "support/outbox.rs"]
mod outbox;

use std::collections::BTreeMap;
use std::time::Duration;

use outbox::Outbox;
use stack::{
    Closed, Conn, ConnId, ConnectOptions, EthernetAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint,
    ListenOptions, Net, Service, Stack, StackConfig, TcpOptions, Time,
};

const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 1);
const CLIENT: IpAddress = IpAddress::v4(10, 0, 0, 2);
const FIRST_PORT: u16 = 100;
/// So that a hundred thousand connections find ports.
const PORTS: u16 = 8;
/// Connections that are under way at the same time while they are opened and closed.
const AT_ONCE: usize = 256;
const MESSAGE: [u8; 64] = [7; 64];
const MTU_BYTES: usize = 1500;
/// Between two moments of the virtual clock.
const TICK: Duration = Duration::from_micros(20);
/// What an allocator may keep, or give out to the harness, beyond what was there before.
const TOLERANCE_BYTES: usize = 8 << 20;

/// Echoes, and closes when the peer has.
struct Server;

impl Service for Server {
    fn start(&mut self, net: &mut Net<'_>) {
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            let options = ListenOptions { backlog: 1 << 16, tcp: tcp() };
            net.listen(IpListenEndpoint::from(port), options).expect("a free port");
        }
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn ready(&mut self, conn: &mut Conn<'_>) {
        let mut bytes = [0; MESSAGE.len()];
        let len = conn.recv_slice(&mut bytes);
        assert_eq!(conn.send_slice(&bytes[..len]), len);
        if conn.peer_finished() {
            conn.close();
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}
}

/// Keeps a number of connections open until enough were made: each sends a message and is closed once that came back.
#[derive(Default)]
struct Client {
    /// Connections to be made yet.
    left: usize,
    at_once: usize,
    /// Answered connections stay open while this holds.
    hold: bool,
    /// Bytes that came back.
    open: BTreeMap<ConnId, usize>,
    answered: usize,
    done: usize,
    failed: Vec<Closed>,
    next: u16,
}

impl Service for Client {
    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        assert_eq!(conn.send_slice(&MESSAGE), MESSAGE.len());
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        let mut bytes = [0; MESSAGE.len()];
        let len = conn.recv_slice(&mut bytes);
        let echoed = self.open.get_mut(&conn.id()).expect("only open connections are announced");
        assert_eq!(bytes[..len], MESSAGE[*echoed..*echoed + len]);
        *echoed += len;
        if len > 0 && *echoed == MESSAGE.len() {
            self.answered += 1;
            if !self.hold {
                conn.close();
            }
        }
    }

    fn closed(&mut self, id: ConnId, _tag: u64, why: Closed, _net: &mut Net<'_>) {
        self.open.remove(&id).expect("a connection is closed once");
        self.done += 1;
        if why != Closed::Done {
            self.failed.push(why);
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let mut worked = false;
        // Some at a time, as many as the half-open limit leaves room for.
        for _ in 0..64 {
            if self.left == 0 || self.open.len() >= self.at_once {
                break;
            }
            let to = IpEndpoint::new(SERVER, FIRST_PORT + self.next % PORTS);
            self.next = self.next.wrapping_add(1);
            let id = net
                .connect(to, ConnectOptions { tcp: tcp(), ..ConnectOptions::default() })
                .expect("a free port");
            self.open.insert(id, 0);
            self.left -= 1;
            worked = true;
        }
        if !self.hold && self.answered > 0 && self.left == 0 {
            // Those that were held.
            let held: Vec<_> =
                self.open.iter().filter(|(_, echoed)| **echoed == MESSAGE.len()).map(|(id, _)| *id).collect();
            for id in held {
                if let Some(mut conn) = net.conn(id) {
                    conn.close();
                }
            }
        }
        worked
    }

    fn is_done(&self) -> bool {
        self.left == 0 && self.open.is_empty()
    }
}

fn tcp() -> TcpOptions {
    TcpOptions { rx_bytes: 1024, tx_bytes: 1024, ..TcpOptions::default() }
}

struct Pair {
    now: Time,
    server: Stack<Server>,
    client: Stack<Client>,
    server_device: Outbox,
    client_device: Outbox,
}

impl Pair {
    fn new(flows: usize) -> Self {
        let now = Time::from_ns(1_000_000_000);
        let config = |address, last| {
            let mut config = StackConfig::new(EthernetAddress([2, 0, 0, 0, 0, last]), MTU_BYTES);
            config.addresses = vec![IpCidr::new(address, 24)];
            config.limits.flows = flows + 16;
            config.seed = [last; 32];
            config
        };
        Self {
            now,
            server: Stack::new(config(SERVER, 1), Server, now).expect("a configuration that fits"),
            client: Stack::new(config(CLIENT, 2), Client::default(), now).expect("a configuration that fits"),
            server_device: Outbox::new(1 << 20, MTU_BYTES),
            client_device: Outbox::new(1 << 20, MTU_BYTES),
        }
    }

    fn step(&mut self) {
        self.client.turn(self.now, &mut self.client_device);
        let frames = self.client_device.take();
        self.server.receive(self.now, frames.iter().map(Vec::as_slice), &mut self.server_device);
        self.server.turn(self.now, &mut self.server_device);
        let frames = self.server_device.take();
        self.client.receive(self.now, frames.iter().map(Vec::as_slice), &mut self.client_device);
        self.now += TICK;
    }

    /// Has `count` connections made, at most `at_once` at the same time, and waits for their end.
    fn churn(&mut self, count: usize, at_once: usize) {
        let client = self.client.service_mut();
        (client.left, client.at_once, client.hold) = (count, at_once, false);
        self.drain();
    }

    /// Has `count` connections made that stay open after their answer.
    fn open(&mut self, count: usize) {
        let client = self.client.service_mut();
        (client.left, client.at_once, client.hold, client.answered) = (count, count, true, 0);
        let mut steps = 0;
        while self.client.service().answered < count {
            self.step();
            steps += 1;
            assert!(steps < 10_000_000, "{} of {count} were answered", self.client.service().answered);
        }
        assert_eq!(self.client.service().open.len(), count);
    }

    /// Until all are closed.
    fn drain(&mut self) {
        self.client.service_mut().hold = false;
        let mut steps = 0;
        while !self.client.service().is_done() {
            self.step();
            steps += 1;
            assert!(steps < 10_000_000, "{} connections are still open", self.client.service().open.len());
        }
        assert_eq!(self.client.service().failed, []);
        // LAST-ACK on the other side: where an acknowledgement was lost, a retransmission or a reset has to end it, and
        // resets are limited.
        let mut steps = 0;
        while !(self.client.is_idle() && self.server.is_idle()) {
            self.step();
            self.now += Duration::from_millis(1);
            steps += 1;
            assert!(
                steps < 300_000,
                "idle: client {}, server {}",
                self.client.is_idle(),
                self.server.is_idle()
            );
        }
        // TIME-WAIT.
        self.now += Duration::from_secs(20);
        self.step();
    }

    /// Everything that is held, by name.
    fn held(&self) -> BTreeMap<String, u64> {
        let mut held = BTreeMap::new();
        let mut visit = |side: &str, name: &str, value: u64| {
            if HELD.contains(&name) {
                held.insert(format!("{side}.{name}"), value);
            }
        };
        self.server.counters(&mut |name, value| visit("server", name, value));
        self.client.counters(&mut |name, value| visit("client", name, value));
        assert_eq!(held.len(), 2 * HELD.len(), "gauges have other names");
        held
    }
}

/// Counters of what there is, not of what there was.
const HELD: [&str; 5] = ["flows", "half_open", "time_wait", "buffers_lent", "pending"];

fn number(name: &str, default: usize) -> usize {
    let Ok(value) = std::env::var(name) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{name} is {value}: must be a number"))
}

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the second number");
    pages * 4096
}

fn assert_back(what: &str, before: usize, after: usize) {
    println!("{what}: {} KiB resident before, {} KiB after", before >> 10, after >> 10);
    assert!(
        after <= before + TOLERANCE_BYTES,
        "{what}: memory grew from {} to {} KiB",
        before >> 10,
        after >> 10
    );
}

#[test]
fn connections_give_everything_back() {
    let connections = number("BYWASH_LEAK_CONNECTIONS", 5_000);
    let open = number("BYWASH_LEAK_OPEN", 1_000);
    let mut pair = Pair::new(open.max(AT_ONCE));
    // What is kept for reuse is there after the first of them.
    pair.churn(connections / 10, AT_ONCE);
    let (held, before) = (pair.held(), resident_bytes());
    assert!(held.values().all(|&value| value == 0), "{held:?}");
    pair.churn(connections, AT_ONCE);
    assert_eq!(pair.held(), held);
    assert_back("one after the other", before, resident_bytes());
    assert_eq!(pair.client.service().done, connections + connections / 10);

    // The most that were ever open decides what is kept: slabs reuse memory and do not give it back. So the first round
    // sets the mark that the others must return to.
    let empty = resident_bytes();
    let mut mark = None;
    for round in 0..3 {
        pair.open(open);
        let most = resident_bytes();
        println!("{open} open: {} bytes each for both ends", (most - empty.min(most)) / open);
        pair.drain();
        assert_eq!(pair.held(), held, "round {round}");
        assert_back("all at once", *mark.get_or_insert_with(resident_bytes), resident_bytes());
    }
}
