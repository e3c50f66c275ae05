//! Two TCP/IP hosts over a `loop:` link, on one core, on two, on three: many connections, every byte checked.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::stats::Snapshot;
use engine::{Engine, Running, StackNode, StackSettings};
use stack::{
    Closed, Conn, ConnId, ConnectOptions, IpAddress, IpEndpoint, IpListenEndpoint, ListenOptions, Net,
    Service, Time, UdpId,
};

const PORT: u16 = 7;

/// Sends back what comes.
#[derive(Default)]
struct Echo {
    accepted: u64,
    closed: u64,
    answered: u64,
}

impl Service for Echo {
    fn start(&mut self, net: &mut Net<'_>) {
        let at = IpListenEndpoint { addr: None, port: PORT };
        net.listen(at, ListenOptions::default()).expect("nobody else listens");
        net.bind_udp(at).expect("nobody else has it");
    }

    fn datagram(&mut self, socket: UdpId, from: IpEndpoint, to: IpAddress, data: &[u8], net: &mut Net<'_>) {
        // Without room it is lost, and asked for again.
        self.answered += u64::from(net.send_from(socket, to, from, data).is_ok());
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
        visit("echo_answered", self.answered);
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
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b,queues=1"));
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

/// Frames that a server's two cores handed over to each other, of `goal` connections from clients behind a device, and
/// all that they received.
fn handed_over(server: &str, clients: &str, goal: u64) -> (u64, u64) {
    let mut engine = Engine::builder();
    let (a, b) = (engine.port(server), engine.port(clients));
    let cores = [engine.lcore(None), engine.lcore(None), engine.lcore(None)];
    engine.stack(&cores[..2], a, &settings(SERVER), |_| Echo::default());
    engine.program(cores[2], StackNode::new(settings(CLIENT), client(20, goal, 100_000)), [b]);
    let snapshot = finish(engine.start().unwrap(), goal);
    check(&snapshot, goal);
    let accepted: Vec<u64> =
        snapshot.cores[..2].iter().map(|core| core.total.counters.get("echo_accepted")).collect();
    assert!(accepted.iter().all(|count| *count > goal / 4), "{accepted:?}");
    (snapshot.counters().get("steered_out"), snapshot.ports[0].total.counters.rx_packets)
}

/// Each connection keeps its core in all three (`check`: none fails, no byte is lost), whoever brings its frames there.
#[test]
fn handing_over_decays_as_the_device_learns_and_is_not_needed_with_rss() {
    let _alone = alone();
    let goal = 100;
    let (steered, received) = handed_over("loop:a,queues=1", "loop:b", goal);
    assert!(steered > received / 4, "one queue pair: {steered} of {received}");
    // The first frames of a flow, until the device has seen its answer on the other queue.
    let (steered, received) = handed_over("loop:a,rss=off", "loop:b,queues=2", goal);
    assert!(20 * steered < received, "a device that learns: {steered} of {received}");
    assert!((goal / 8..4 * goal).contains(&steered), "a device that learns: {steered} of {received}");
    // ARP goes to all.
    let (steered, received) = handed_over("loop:a", "loop:b,queues=2", goal);
    assert!(steered < 20, "RSS: {steered} of {received}");
}

/// Bytes of a datagram in 41 fragments.
const DATAGRAM: usize = 60_000;

/// Sends datagrams one after another to the server, each from a port of its own, until each has come back.
struct Asker {
    server: IpEndpoint,
    goal: u64,
    socket: Option<UdpId>,
    sent_at: Time,
    back: u64,
    wrong: u64,
}

impl Asker {
    fn new(goal: u64) -> Asker {
        let server = IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), PORT);
        Asker { server, goal, socket: None, sent_at: Time::ZERO, back: 0, wrong: 0 }
    }

    fn ask(&self) -> Vec<u8> {
        (0..DATAGRAM as u64).map(|at| content(self.back, at)).collect()
    }
}

impl Service for Asker {
    fn accept(&mut self, _conn: &mut Conn<'_>) {}
    fn ready(&mut self, _conn: &mut Conn<'_>) {}
    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}

    fn datagram(&mut self, socket: UdpId, from: IpEndpoint, _: IpAddress, data: &[u8], net: &mut Net<'_>) {
        if self.socket == Some(socket) {
            self.wrong += u64::from(from != self.server || data != self.ask());
            self.back += 1;
            self.socket = None;
            net.close_udp(socket);
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        const PATIENCE: Duration = Duration::from_millis(300);
        let late = net.now() >= self.sent_at + PATIENCE;
        if self.back == self.goal || (self.socket.is_some() && !late) {
            return false;
        }
        let any = IpListenEndpoint { addr: None, port: 0 };
        let socket = self.socket.unwrap_or_else(|| {
            loop {
                let socket = net.bind_udp(any).expect("ports enough");
                if net.is_steered_here(socket, self.server) {
                    return socket;
                }
                net.close_udp(socket);
            }
        });
        self.socket = Some(socket);
        self.sent_at = net.now();
        // Without room it is sent again later.
        let _ = net.send_to(socket, self.server, &self.ask());
        true
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("asker_back", self.back);
        visit("asker_wrong", self.wrong);
    }

    fn is_done(&self) -> bool {
        self.back == self.goal
    }
}

#[test]
fn datagrams_in_fragments_reach_the_core_that_has_their_ports() {
    let _alone = alone();
    let goal = 12;
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let cores = [engine.lcore(None), engine.lcore(None)];
    engine.stack(&cores, a, &settings(CLIENT), |_| Asker::new(goal));
    engine.stack(&cores, b, &settings(SERVER), |_| Echo::default());
    let snapshot = finish(engine.start().unwrap(), 0);
    for core in &snapshot.cores {
        let counters = &core.total.counters;
        assert_eq!((counters.get("asker_back"), counters.get("asker_wrong")), (goal, 0), "{counters:?}");
        // By their ports datagrams go to either core of the server, whichever put them together.
        assert!(counters.get("echo_answered") > 0, "{counters:?}");
    }
    let counters = snapshot.counters();
    assert!(
        counters.get("reassembled_away") >= goal,
        "the second client's, and the second server's: {counters:?}"
    );
    assert_eq!(
        (counters.get("reassembled_full"), counters.get("reassembled_ring_full")),
        (0, 0),
        "{counters:?}"
    );
}
