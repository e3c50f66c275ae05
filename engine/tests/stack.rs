//! Two TCP/IP hosts over a `loop:` link, on one core, on two, on three: many connections, every byte checked.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::stats::Snapshot;
use engine::{Engine, Running, StackNode, StackSettings};
use stack::{
    Closed, Conn, ConnId, ConnectOptions, IpAddress, IpEndpoint, IpListenEndpoint, ListenOptions, Net,
    Service,
};

const PORT: u16 = 7;

/// Sends back what comes.
#[derive(Default)]
struct Echo {
    accepted: u64,
    closed: u64,
}

impl Service for Echo {
    fn start(&mut self, net: &mut Net<'_>) {
        let at = IpListenEndpoint { addr: None, port: PORT };
        net.listen(at, ListenOptions::default()).expect("nobody else listens");
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {
        self.accepted += 1;
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        let mut bytes = [0; 2048];
        loop {
            let most = conn.send_room().min(bytes.len());
            let count = conn.recv_slice(&mut bytes[..most]);
            if count == 0 {
                break;
            }
            assert_eq!(conn.send_slice(&bytes[..count]), count);
        }
        if conn.peer_finished() {
            conn.close();
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {
        self.closed += 1;
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        // One service a core; the names tell the cores of a test apart.
        visit("echo_accepted", self.accepted);
        visit("echo_closed", self.closed);
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Default)]
struct Progress {
    sent: u64,
    back: u64,
}

/// Keeps `parallel` connections open until `goal` have sent `bytes` each and got all of them back.
struct Client {
    server: IpAddress,
    parallel: u64,
    goal: u64,
    bytes: u64,
    begun: u64,
    progress: Vec<Progress>,
    whole: u64,
    wrong: u64,
    failed: u64,
}

impl Client {
    fn new(server: IpAddress, parallel: u64, goal: u64, bytes: u64) -> Client {
        let progress = vec![Progress::default(); usize::try_from(goal).unwrap()];
        Client { server, parallel, goal, bytes, begun: 0, progress, whole: 0, wrong: 0, failed: 0 }
    }

    fn begin(&mut self, net: &mut Net<'_>) {
        let options = ConnectOptions { tag: self.begun, ..ConnectOptions::default() };
        match net.connect(IpEndpoint::new(self.server, PORT), options) {
            Ok(_) => self.begun += 1,
            Err(error) => panic!("connection {}: {error}", self.begun),
        }
    }

    /// Sends what there is room for, checks what has come, finishes when all of it has.
    fn go_on(&mut self, conn: &mut Conn<'_>) {
        let tag = conn.tag();
        let Progress { sent, back } = &mut self.progress[usize::try_from(tag).unwrap()];
        let mut bytes = [0; 1000];
        loop {
            let left = usize::try_from(self.bytes - *sent).unwrap();
            let count = left.min(bytes.len()).min(conn.send_room());
            if count == 0 {
                break;
            }
            (*sent..).zip(&mut bytes[..count]).for_each(|(at, byte)| *byte = content(tag, at));
            assert_eq!(conn.send_slice(&bytes[..count]), count);
            *sent += count as u64;
        }
        loop {
            let count = conn.recv_slice(&mut bytes);
            if count == 0 {
                break;
            }
            let wrong =
                (*back..).zip(&bytes[..count]).filter(|(at, byte)| **byte != content(tag, *at)).count();
            self.wrong += wrong as u64;
            *back += count as u64;
        }
        if *back == self.bytes {
            conn.close();
        }
    }
}

/// Byte `at` of connection `tag`'s stream.
#[allow(clippy::cast_possible_truncation)]
fn content(tag: u64, at: u64) -> u8 {
    (tag.wrapping_mul(251) ^ at.wrapping_mul(7) ^ (at >> 8)) as u8
}

impl Service for Client {
    fn configured(&mut self, net: &mut Net<'_>) {
        while self.begun < self.parallel.min(self.goal) {
            self.begin(net);
        }
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {
        self.failed += 1; // nobody connects to a client
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.go_on(conn);
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        self.go_on(conn);
    }

    fn closed(&mut self, _id: ConnId, tag: u64, why: Closed, net: &mut Net<'_>) {
        let back = self.progress[usize::try_from(tag).unwrap()].back;
        if why == Closed::Done && back == self.bytes {
            self.whole += 1;
        } else {
            self.failed += 1;
        }
        if self.begun < self.goal {
            self.begin(net);
        }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("client_whole", self.whole);
        visit("client_wrong", self.wrong);
        visit("client_failed", self.failed);
    }

    fn is_done(&self) -> bool {
        self.whole + self.failed == self.goal
    }
}

/// One test at a time: they share the processor, and count the process's mappings.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn settings(address: [u8; 4]) -> StackSettings {
    let [a, b, c, d] = address;
    let cidr = stack::IpCidr::new(IpAddress::v4(a, b, c, d), 24);
    StackSettings { addresses: vec![cidr], ..StackSettings::default() }
}

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];

fn client(parallel: u64, goal: u64, bytes: u64) -> Client {
    Client::new(IpAddress::v4(10, 0, 0, 2), parallel, goal, bytes)
}

/// Waits until the clients are done, lets the servers see the last FIN, and checks that nothing is left.
fn finish(mut running: Running, goal: u64) -> Snapshot {
    let begun = Instant::now();
    while !running.is_done() || running.snapshot().counters().get("echo_closed") < goal {
        if begun.elapsed() > Duration::from_secs(60) {
            panic!("not done within a minute: {:?}", running.snapshot().counters());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let snapshot = running.stop().unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("/memfd:bywash"), "packet memory is left, so mbufs did not come home");
    snapshot
}

fn check(snapshot: &Snapshot, goal: u64) {
    let counters = snapshot.counters();
    for (name, count) in [
        ("client_whole", goal),
        ("client_wrong", 0),
        ("client_failed", 0),
        ("echo_accepted", goal),
        ("echo_closed", goal),
        ("steer_full", 0),
        ("steer_nombuf", 0),
    ] {
        assert_eq!(counters.get(name), count, "{name}: {counters:?}");
    }
    assert_eq!(snapshot.drops().sum(), 0, "{:?}", snapshot.drops());
}

#[test]
fn many_connections_between_two_stacks_on_one_core_and_on_two() {
    let _alone = alone();
    for cores in [1, 2] {
        let goal = 200;
        let mut engine = Engine::builder();
        let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
        let first = engine.lcore(None);
        let second = if cores == 1 { first } else { engine.lcore(None) };
        engine.program(first, StackNode::new(settings(CLIENT), client(100, goal, 20_000)), [a]);
        engine.program(second, StackNode::new(settings(SERVER), Echo::default()), [b]);
        let snapshot = finish(engine.start().unwrap(), goal);
        check(&snapshot, goal);
        let latencies = snapshot.latencies();
        assert!(latencies.get("residence").unwrap().len() > goal * 4, "what answers a burst has its stamp");
    }
}

#[test]
fn a_server_on_two_cores_of_one_queue_pair_gets_connections_on_both() {
    let _alone = alone();
    let goal = 150;
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let cores = [engine.lcore(None), engine.lcore(None), engine.lcore(None)];
    engine.program(cores[0], StackNode::new(settings(CLIENT), client(50, goal, 10_000)), [a]);
    engine.stack(&cores[1..], b, &settings(SERVER), |_| Echo::default());
    let snapshot = finish(engine.start().unwrap(), goal);
    check(&snapshot, goal);
    let accepted: Vec<u64> =
        snapshot.cores[1..].iter().map(|core| core.total.counters.get("echo_accepted")).collect();
    assert!(accepted.iter().all(|count| *count > goal / 4), "{accepted:?}");
    let counters = snapshot.counters();
    assert!(counters.get("steered_out") > goal && counters.get("tx_relayed") > goal, "{counters:?}");
    assert_eq!(counters.get("steered_out"), counters.get("steered_in"));
}

#[test]
fn clients_on_two_cores_choose_ports_whose_answers_are_their_own() {
    let _alone = alone();
    let goal = 100;
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let cores = [engine.lcore(None), engine.lcore(None)];
    engine.stack(&cores, a, &settings(CLIENT), |_| client(20, goal, 5_000));
    engine.program(cores[0], StackNode::new(settings(SERVER), Echo::default()), [b]);
    let snapshot = finish(engine.start().unwrap(), 2 * goal);
    check(&snapshot, 2 * goal);
    for core in &snapshot.cores {
        assert_eq!(core.total.counters.get("client_whole"), goal);
    }
}
