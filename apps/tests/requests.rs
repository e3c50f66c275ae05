//! Clients and servers end to end: two stacks over a `loop:` link in this process, without root or hardware.

use std::time::{Duration, Instant};

use bywash::programs::echo::{Echo, EchoConfig};
use bywash::programs::load::target::Host;
use bywash::programs::load::{Load, LoadConfig, Protocol};
use engine::stats::Snapshot;
use engine::{Engine, StackSettings};
use pmd::mem::PageSize;
use stack::{
    Closed, Conn, ConnId, IpAddress, IpCidr, IpListenEndpoint, ListenOptions, Net, Service, Share, TcpOptions,
};

const PATIENCE: Duration = Duration::from_secs(30);

const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);

fn settings(v4: u8) -> StackSettings {
    let v6 = IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(v4));
    StackSettings {
        addresses: vec![IpCidr::new(IpAddress::v4(10, 0, 0, v4), 24), IpCidr::new(v6, 64)],
        ..StackSettings::default()
    }
}

/// A client and a server on one loop, run until the client is done.
fn run(config: &LoadConfig, server: impl Service + 'static) -> Snapshot {
    run_from(&settings(1), config, server)
}

/// The same with other settings of the client's stack.
fn run_from(client: &StackSettings, config: &LoadConfig, server: impl Service + 'static) -> Snapshot {
    let mut engine = Engine::builder();
    engine.memory(PageSize::Ordinary, None).descriptors(256, 256);
    let ports = [engine.port("loop:a"), engine.port("loop:b")];
    let lcore = engine.lcore(None);
    let mut server = Some(server);
    engine.stack(&[lcore], ports[0], client, |_| Load::new(config, Share::default()));
    engine.stack(&[lcore], ports[1], &settings(2), |_| server.take().unwrap());
    let running = engine.start().unwrap();
    let start = Instant::now();
    while !running.is_done() {
        assert!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    running.stop().unwrap()
}

fn echo() -> Echo {
    let tcp = TcpOptions::default();
    Echo::new(EchoConfig { tcp_port: Some(7), udp_port: Some(7), counts_requests: false, backlog: 1024, tcp })
}

fn config(requests: u64) -> LoadConfig {
    LoadConfig { host: Host::Address(SERVER), requests: Some(requests), ..LoadConfig::default() }
}

/// Every request was answered, once and rightly.
#[track_caller]
fn assert_answered(snapshot: &Snapshot, requests: u64) {
    let client = &snapshot.cores[0].total.counters;
    let latencies = snapshot.latencies();
    for wrong in ["errors", "lost", "refused", "reset", "timed_out", "closed_early", "wrong_answer", "failed"]
    {
        assert_eq!(client.get(wrong), 0, "{wrong}: {client:?}");
    }
    assert_eq!(latencies.get("round_trip").unwrap().len(), requests, "{client:?}");
}

#[test]
fn every_byte_comes_back_whatever_the_size_the_connections_and_the_depth() {
    for (connections, pipeline, size, requests) in
        [(1, 1, 1, 2_000), (1, 16, 64, 5_000), (64, 1, 64, 10_000), (5, 3, 1_460, 2_000), (3, 2, 200_000, 60)]
    {
        let config = LoadConfig { connections, pipeline, size, ..config(requests) };
        let snapshot = run(&config, echo());
        assert_answered(&snapshot, requests);
        let counters = snapshot.counters();
        assert_eq!(counters.get("connections"), connections as u64);
        assert_eq!(counters.get("open"), 0, "all are closed in the end: {counters:?}");
        assert_eq!(counters.get("bytes"), requests * size as u64);
        assert_eq!(snapshot.latencies().get("connect").unwrap().len(), connections as u64);
    }
}

#[test]
fn datagrams_come_back_over_both_versions_of_ip() {
    let v6 = IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    for (host, size) in [(SERVER, 4), (SERVER, 1_400), (SERVER, 60_000), (v6, 64), (v6, 9_000)] {
        let config = LoadConfig {
            host: Host::Address(host),
            protocol: Protocol::Udp,
            size,
            connections: 3,
            ..config(1_000)
        };
        let snapshot = run(&config, echo());
        assert_answered(&snapshot, 1_000);
        assert_eq!(snapshot.counters().get("datagram_bytes"), 1_000 * size as u64);
    }
}

/// Each core of a client has its part of the requests, and gets its own answers.
#[test]
fn a_client_on_two_cores_gets_every_answer() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let config = LoadConfig { protocol, connections: 11, ..config(2_000) };
        let mut engine = Engine::builder();
        engine.memory(PageSize::Ordinary, None).descriptors(256, 256);
        let ports = [engine.port("loop:a"), engine.port("loop:b")];
        let lcores = [engine.lcore(None), engine.lcore(None)];
        engine.stack(&lcores, ports[0], &settings(1), |index| Load::new(&config, Share { index, count: 2 }));
        engine.stack(&lcores[..1], ports[1], &settings(2), |_| echo());
        let running = engine.start().unwrap();
        let start = Instant::now();
        while !running.is_done() {
            assert!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let snapshot = running.stop().unwrap();
        let counters = snapshot.counters();
        let got = ["requests", "errors", "lost"].map(|name| counters.get(name));
        assert_eq!(got, [2_000, 0, 0], "{protocol:?}: {counters:?}");
        let each = snapshot.cores.iter().map(|core| core.total.counters.get("requests"));
        assert_eq!(each.collect::<Vec<_>>(), [1_000, 1_000], "{protocol:?}");
    }
}

#[test]
fn tcp_runs_over_ipv6() {
    let host = Host::Address(IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 2));
    assert_answered(&run(&LoadConfig { host, connections: 7, ..config(5_000) }, echo()), 5_000);
}

#[test]
fn each_request_can_have_a_connection_of_its_own() {
    for rate in [None, Some(20_000)] {
        let config = LoadConfig { reconnect: true, connections: 8, rate, ..config(3_000) };
        let snapshot = run(&config, echo());
        let answered = snapshot.latencies().get("round_trip").unwrap().len();
        let counters = snapshot.counters();
        assert_eq!((answered, counters.get("errors"), counters.get("lost")), (3_000, 0, 0), "{counters:?}");
        // In the open loop those do not count that were due before the first connection was there.
        assert!(counters.get("connections") >= 3_000, "{counters:?}");
        assert_eq!(counters.get("open"), 0);
    }
}

#[test]
fn silent_connections_stay_open_and_several_addresses_share_them() {
    let config = LoadConfig { connections: 40, active: Some(3), ..config(3_000) };
    let snapshot = run(&config, echo());
    assert_answered(&snapshot, 3_000);
    let counters = snapshot.counters();
    assert_eq!((counters.get("connections"), counters.get("open")), (40, 0), "{counters:?}");

    // From one address there would not be enough ports.
    let mut client = settings(1);
    client.addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, 3), 24));
    client.ports = (50_000, 50_019);
    let snapshot = run_from(&client, &config, echo());
    assert_answered(&snapshot, 3_000);
    assert_eq!(snapshot.counters().get("connections"), 40);
}

#[test]
fn no_request_is_made_before_all_connections_are_open() {
    // Else the first ones would have made all requests long before the last ones are due.
    let ramp_up = Duration::from_millis(200);
    for (together, all) in [(true, true), (false, false)] {
        let config = LoadConfig { together, ramp_up, connections: 50, pipeline: 2, ..config(300) };
        let snapshot = run(&config, echo());
        assert_answered(&snapshot, 300);
        let connections = snapshot.counters().get("connections");
        assert_eq!(connections == 50, all, "{connections} connections, together: {together}");
    }
}

#[test]
fn warm_up_does_not_count() {
    let config = LoadConfig { warm_up: Duration::from_millis(100), connections: 2, ..config(1_000) };
    let snapshot = run(&config, echo());
    assert_answered(&snapshot, 1_000);
    let bytes = snapshot.counters().get("bytes");
    assert!(bytes > 1_000 * 64, "{bytes} bytes: there was no warm-up");
}

#[test]
fn connections_can_be_opened_little_by_little() {
    let config = LoadConfig {
        ramp_up: Duration::from_millis(200),
        connections: 50,
        rate: Some(10_000),
        ..config(500)
    };
    let start = Instant::now();
    assert_answered(&run(&config, echo()), 500);
    assert!(start.elapsed() > Duration::from_millis(200));
}

/// An echo server that does nothing at all for a while, once.
struct Stalling {
    echo: Echo,
    /// Bytes until then.
    left: usize,
}

const STALL: Duration = Duration::from_millis(60);

impl Service for Stalling {
    fn start(&mut self, net: &mut Net<'_>) {
        self.echo.start(net);
    }
    fn accept(&mut self, conn: &mut Conn<'_>) {
        self.echo.accept(conn);
    }
    fn ready(&mut self, conn: &mut Conn<'_>) {
        if self.left > 0 {
            self.left = self.left.saturating_sub(conn.recv_queue());
            if self.left == 0 {
                std::thread::sleep(STALL);
            }
        }
        self.echo.ready(conn);
    }
    fn closed(&mut self, id: ConnId, tag: u64, why: Closed, net: &mut Net<'_>) {
        self.echo.closed(id, tag, why, net);
    }
}

/// Coordinated omission: of a stall of 60 ms a closed loop sees one slow request on each connection, and an open one
/// each request that was due meanwhile.
#[test]
fn a_stall_shows_in_every_request_that_was_due_while_it_lasted() {
    const RATE: u64 = 10_000;
    let slow = |snapshot: &Snapshot| {
        let latencies = snapshot.latencies();
        let histogram = latencies.get("round_trip").unwrap();
        let fast = histogram.count_between(0, 5_000_000);
        (histogram.len() - fast, histogram.max())
    };
    let open = LoadConfig { rate: Some(RATE), connections: 4, ..config(5_000) };
    let snapshot = run(&open, Stalling { echo: echo(), left: 2_000 * 64 });
    assert_answered(&snapshot, 5_000);
    let (count, max) = slow(&snapshot);
    // All but those of the last 5 ms of the stall; on a busy machine there may be further stalls.
    assert!(count >= 500, "{count} slow requests");
    assert!(max >= 55_000_000, "{max} ns");
    assert!(snapshot.counters().get("sent_late") >= 500, "{:?}", snapshot.counters());

    let closed = LoadConfig { rate: None, connections: 4, ..config(5_000) };
    let (count, _) = slow(&run(&closed, Stalling { echo: echo(), left: 2_000 * 64 }));
    assert!((1..400).contains(&count), "{count} slow requests");
}

/// A server that does one thing wrong.
struct Wrong(fn(&mut Conn<'_>));

impl Service for Wrong {
    fn start(&mut self, net: &mut Net<'_>) {
        net.listen(IpListenEndpoint { addr: None, port: 7 }, ListenOptions::default()).unwrap();
    }
    fn accept(&mut self, _conn: &mut Conn<'_>) {}
    fn ready(&mut self, conn: &mut Conn<'_>) {
        (self.0)(conn);
    }
    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}
}

fn read(conn: &mut Conn<'_>) -> Vec<u8> {
    conn.recv(|bytes| (bytes.len(), bytes.to_vec()))
}

/// Runs it for a short while and shows what the client counted.
fn counted(mut config: LoadConfig, server: impl Service + 'static) -> impl Fn(&str) -> u64 {
    config.requests = None;
    let mut engine = Engine::builder();
    engine.memory(PageSize::Ordinary, None).descriptors(256, 256);
    let ports = [engine.port("loop:a"), engine.port("loop:b")];
    let lcore = engine.lcore(None);
    let mut server = Some(server);
    engine.stack(&[lcore], ports[0], &settings(1), |_| Load::new(&config, Share::default()));
    engine.stack(&[lcore], ports[1], &settings(2), |_| server.take().unwrap());
    let running = engine.start().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let snapshot = running.finish(Duration::from_secs(5)).unwrap();
    let counters = snapshot.counters();
    move |name| counters.get(name)
}

#[test]
fn what_a_server_does_wrong_is_counted_by_its_name() {
    let changed = |conn: &mut Conn<'_>| {
        let mut bytes = read(conn);
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        conn.send_slice(&bytes);
    };
    let count = counted(config(1), Wrong(changed));
    assert!(count("wrong_answer") > 0 && count("errors") >= count("wrong_answer"));
    assert_eq!(count("requests"), 0);

    let twice = |conn: &mut Conn<'_>| {
        let bytes = read(conn);
        conn.send_slice(&bytes);
        conn.send_slice(&bytes);
    };
    assert!(counted(config(1), Wrong(twice))("wrong_answer") > 0);

    let closes = |conn: &mut Conn<'_>| {
        read(conn);
        conn.close();
    };
    let count = counted(config(1), Wrong(closes));
    assert!(count("closed_early") > 0 && count("lost") >= count("closed_early"));

    let resets = |conn: &mut Conn<'_>| {
        read(conn);
        conn.abort();
    };
    let count = counted(config(1), Wrong(resets));
    assert!(count("reset") > 0 && count("lost") >= count("reset"));

    let says_nothing = |conn: &mut Conn<'_>| drop(read(conn));
    let count = counted(LoadConfig { connections: 5, ..config(1) }, Wrong(says_nothing));
    assert_eq!((count("requests"), count("lost"), count("connections")), (0, 5, 5));
}

#[test]
fn nobody_there_is_given_up() {
    let start = Instant::now();
    let snapshot = run(&LoadConfig { port: 9, connections: 4, ..config(10) }, echo());
    let counters = snapshot.counters();
    assert_eq!((counters.get("refused"), counters.get("requests")), (12, 0), "{counters:?}");
    assert!(start.elapsed() >= Duration::from_millis(200), "it tries again only after a pause");
}

#[test]
fn answers_of_a_web_server_are_checked() {
    let fixed = |conn: &mut Conn<'_>| {
        let requests = read(conn);
        for _ in requests.windows(4).filter(|end| *end == b"\r\n\r\n") {
            conn.send_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    };
    let http = LoadConfig { protocol: Protocol::Http, connections: 3, pipeline: 2, ..config(2_000) };
    let snapshot = run(&http, Wrong(fixed));
    assert_answered(&snapshot, 2_000);
    let counters = snapshot.counters();
    assert_eq!((counters.get("status_200"), counters.get("other_length")), (2_000, 0));

    let missing = |conn: &mut Conn<'_>| {
        if !read(conn).is_empty() {
            conn.send_slice(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            conn.close();
        }
    };
    let snapshot = run(&LoadConfig { pipeline: 1, ..http.clone() }, Wrong(missing));
    let counters = snapshot.counters();
    assert_eq!((counters.get("status_404"), counters.get("closed_early")), (2_000, 0), "{counters:?}");
    assert!(counters.get("errors") >= 2_000);

    let no_http = |conn: &mut Conn<'_>| {
        read(conn);
        conn.send_slice(b"220 mail.example ESMTP\r\n");
    };
    assert!(counted(http, Wrong(no_http))("wrong_answer") > 0);
}
