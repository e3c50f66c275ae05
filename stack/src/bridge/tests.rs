//! Two stacks with a bridge each, joined by a wire, on a thread of their own; the tests are the applications.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use door::{TcpListener, TcpStream, UdpSocket};
use smoltcp::wire::EthernetAddress;

use super::Bridge;
use crate::outbox::Outbox;
use crate::{IpAddress, IpCidr, Stack, StackConfig, Time};

const PATIENCE: Duration = Duration::from_secs(20);

/// Counters by name.
type Shown = Vec<(&'static str, u64)>;

/// Both stacks' thread, and what it shows.
struct World {
    nets: [door::Net; 2],
    stop: Arc<AtomicBool>,
    /// Added to the clock, so that a minute need not be waited for.
    skipped_ms: Arc<AtomicU64>,
    counters: Arc<Mutex<[Shown; 2]>>,
    samples: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

fn stack(host: u8) -> (door::Net, Stack<Bridge>) {
    let (net, mut doors) = door::door(&[Arc::default()], 256);
    let mut config = StackConfig::new(EthernetAddress([2, 0, 0, 0, 0, host]), 1500);
    config.addresses = vec![IpCidr::new(IpAddress::v4(10, 0, 0, host), 24)];
    config.seed = [host; 32];
    (net, Stack::new(config, Bridge::new(doors.remove(0)), Time::ZERO).unwrap())
}

impl World {
    fn new() -> Self {
        let [(one, first), (two, second)] = [stack(1), stack(2)];
        let mut stacks = [first, second];
        let mut world = Self {
            nets: [one, two],
            stop: Arc::default(),
            skipped_ms: Arc::default(),
            counters: Arc::default(),
            samples: Arc::default(),
            thread: None,
        };
        let (stop, skipped, counters, samples) =
            (world.stop.clone(), world.skipped_ms.clone(), world.counters.clone(), world.samples.clone());
        world.thread = Some(std::thread::spawn(move || {
            let (started, mut wires) = (Instant::now(), [(); 2].map(|()| Outbox::new(256, 1500)));
            while !stop.load(Ordering::Relaxed) {
                let skipped = Duration::from_millis(skipped.load(Ordering::Relaxed));
                let now = Time::ZERO + started.elapsed() + skipped;
                for (host, stack) in stacks.iter_mut().enumerate() {
                    let frames = wires[1 - host].take();
                    stack.receive(now, frames.iter().map(Vec::as_slice), &mut wires[host]);
                    stack.turn(now, &mut wires[host]);
                    stack.samples(&mut |_, _| {
                        samples.fetch_add(1, Ordering::Relaxed);
                    });
                    let shown = &mut counters.lock().unwrap()[host];
                    shown.clear();
                    stack.counters(&mut |name, count| shown.push((name, count)));
                }
                std::thread::yield_now();
            }
        }));
        world
    }

    fn counter(&self, host: usize, name: &str) -> u64 {
        let counters = self.counters.lock().unwrap();
        counters[host].iter().find(|(of, _)| *of == name).map_or(0, |(_, count)| *count)
    }

    /// The same engine thread's end, as an engine's stop or death ends it.
    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            assert!(started.elapsed() < PATIENCE, "never: {what}; {:?}", self.counters.lock().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A connection from host 0 to host 1: both ends.
    fn pair(&self) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(&self.nets[1], at(7)).unwrap();
        let client = TcpStream::connect(&self.nets[0], at(7)).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        (client, server)
    }

    fn assert_no_flow_is_left(&self) {
        self.wait("no flow", |world| world.counter(0, "flows") + world.counter(1, "flows") == 0);
        self.wait("no buffer", |world| {
            world.counter(0, "buffers_lent") + world.counter(1, "buffers_lent") == 0
        });
        self.wait("no orphan", |world| {
            world.counter(0, "door_orphans") + world.counter(1, "door_orphans") == 0
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], port))
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn megabytes_cross_both_stacks_whole_in_both_directions() {
    let world = World::new();
    let (client, server) = world.pair();
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    std::thread::scope(|scope| {
        for stream in [&client, &server] {
            let data = &data;
            scope.spawn(move || {
                (&*stream).write_all(data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut got = Vec::new();
                (&*stream).read_to_end(&mut got).unwrap();
                assert!(got == *data);
            });
        }
    });
    drop((client, server));
    world.assert_no_flow_is_left();
    assert!(world.samples.load(Ordering::Relaxed) > 0, "threads slept, and nobody measured it");
}

#[test]
fn slow_reader_closes_the_window_and_loses_nothing() {
    let world = World::new();
    let (mut client, mut server) = world.pair();
    client.set_nonblocking(true).unwrap();
    let (mut written, mut idle) = (0usize, Instant::now());
    while idle.elapsed() < Duration::from_millis(300) {
        if let Ok(count) = client.write(&[(written % 251).to_le_bytes()[0]]) {
            written += count;
            idle = Instant::now();
        }
    }
    // Two rings and two sockets' buffers of 64 KiB each; nothing beyond, and all but what a scaled window rounds off.
    assert!(((4 << 16) - 1024..=4 << 16).contains(&written), "{written} bytes");
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), written);
    assert!(got.iter().enumerate().all(|(i, byte)| *byte == (i % 251).to_le_bytes()[0]));
}

#[test]
fn half_close_and_resets_arrive_as_what_they_are() {
    let world = World::new();
    let (mut client, mut server) = world.pair();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).unwrap();
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    drop(client);

    let (client, mut server) = world.pair();
    client.abort();
    assert_eq!(kind(server.read(&mut [0; 4])), ErrorKind::ConnectionReset);
    drop((client, server));

    // Bytes that nobody read: the peer is reset, not finished.
    let (mut client, server) = world.pair();
    client.write_all(b"unread").unwrap();
    while server.peek(&mut [0; 8]).unwrap() == 0 {}
    drop(server);
    assert_eq!(kind(client.read(&mut [0; 4])), ErrorKind::ConnectionReset);
    drop(client);

    let (client, mut server) = world.pair();
    client.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(kind(server.read(&mut [0; 4])), ErrorKind::ConnectionReset);
    drop(server);
    assert_eq!(kind(TcpStream::connect(&world.nets[0], at(99))), ErrorKind::ConnectionRefused);
    world.assert_no_flow_is_left();
}

#[test]
fn lingering_drop_returns_when_the_peer_has_all() {
    let world = World::new();
    let (mut client, mut server) = world.pair();
    client.set_linger(Some(PATIENCE)).unwrap();
    client.write_all(&[7; 60_000]).unwrap();
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        server.read_to_end(&mut got).unwrap();
        got.len()
    });
    let started = Instant::now();
    drop(client);
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(reading.join().unwrap(), 60_000);
    world.assert_no_flow_is_left();
}

#[test]
fn orphan_whose_peer_never_finishes_is_reset_after_a_minute() {
    let world = World::new();
    let (client, mut server) = world.pair();
    drop(client);
    assert_eq!(server.read(&mut [0; 4]).unwrap(), 0);
    world.wait("orphan", |world| world.counter(0, "door_orphans") == 1);
    world.skipped_ms.store(61_000, Ordering::Relaxed);
    world.wait("timed out", |world| world.counter(0, "orphan_timeout") == 1);
    world.wait("gone", |world| world.counter(0, "flows") == 0);
    drop(server);
    world.assert_no_flow_is_left();
}

#[test]
fn bytes_of_a_closed_connection_wait_for_their_reader() {
    let world = World::new();
    let (mut client, mut server) = world.pair();
    server.shutdown(Shutdown::Write).unwrap();
    client.write_all(&[3; 190_000]).unwrap();
    // The last of them are in the client's socket when it has let go, and the peer's window is closed.
    drop(client);
    world.wait("orphan", |world| world.counter(0, "door_orphans") == 1 || world.counter(0, "flows") == 0);
    for _ in 0..3 {
        world.skipped_ms.fetch_add(61_000, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(30));
    }
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 190_000);
    drop(server);
    world.assert_no_flow_is_left();
}

#[test]
fn sockets_dropped_in_any_state_leave_nothing() {
    let world = World::new();
    for round in 0..120 {
        let listener = TcpListener::bind(&world.nets[1], at(7)).unwrap();
        let mut client = TcpStream::connect(&world.nets[0], at(7)).unwrap();
        let server = (round % 2 == 0).then(|| listener.accept().unwrap().0);
        if round % 3 == 0 {
            client.write_all(&[1; 1000]).unwrap();
        }
        if round % 5 == 0 {
            client.shutdown(Shutdown::Write).unwrap();
        }
        if let Some(mut server) = server {
            if round % 4 == 0 {
                server.write_all(&[2; 1000]).unwrap();
            }
            if round % 7 == 0 {
                server.abort();
            }
            if round % 8 == 0 { drop((client, server)) } else { drop((server, client)) }
        }
        drop(listener);
        // The port is free once the core has heard of it.
        while TcpListener::bind(&world.nets[1], at(7)).is_err() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    world.assert_no_flow_is_left();
    // Every token is back: as many sockets as the door allows can be bound at once.
    world.wait("tokens", |world| {
        let bind = |port| UdpSocket::bind(&world.nets[0], SocketAddr::from(([0, 0, 0, 0], port)));
        (1..=256).map(bind).collect::<Result<Vec<_>, _>>().is_ok()
    });
}

#[test]
fn datagrams_of_all_sizes_and_errors_cross() {
    let world = World::new();
    let one = UdpSocket::bind(&world.nets[0], SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
    let two = UdpSocket::bind(&world.nets[1], at(53)).unwrap();
    for socket in [&one, &two] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut data = vec![0; door::MAX_DATAGRAM];
    for len in [0, 1, 1472, 1473, 60_000] {
        let sent: Vec<u8> = (0..len).map(|i: u32| (i % 241).to_le_bytes()[0]).collect();
        one.send_to(&sent, at(53)).unwrap();
        let (count, from) = two.recv_from(&mut data).unwrap();
        assert!(data[..count] == sent, "{len} bytes");
        two.send_to(&sent[..sent.len().min(3)], from).unwrap();
        assert_eq!(one.recv_from(&mut data).unwrap(), (sent.len().min(3), at(53)));
    }
    one.connect(at(54)).unwrap();
    one.send(b"nobody").unwrap();
    assert_eq!(kind(one.recv(&mut data)), ErrorKind::ConnectionRefused);
    assert_eq!(kind(UdpSocket::bind(&world.nets[0], at(1))), ErrorKind::AddrNotAvailable);
    assert_eq!(kind(world.nets[0].resolve("example.org")), ErrorKind::TimedOut);
}

#[test]
fn stopped_engine_aborts_every_call() {
    let mut world = World::new();
    let (mut client, _server) = world.pair();
    client.set_read_timeout(None).unwrap();
    let listener = TcpListener::bind(&world.nets[1], at(8)).unwrap();
    let reading = std::thread::spawn(move || kind(client.read(&mut [0; 4])));
    let accepting = std::thread::spawn(move || kind(listener.accept()));
    std::thread::sleep(Duration::from_millis(30));
    world.stop();
    assert_eq!(reading.join().unwrap(), ErrorKind::ConnectionAborted);
    assert_eq!(accepting.join().unwrap(), ErrorKind::ConnectionAborted);
    assert_eq!(kind(TcpStream::connect(&world.nets[0], at(7))), ErrorKind::ConnectionAborted);
}
