//! What `std::net` promises, over a core that is a test double.

#![allow(clippy::cast_possible_truncation)] // patterns of bytes

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::double::{Double, double};
use crate::{ConnectOptions, ListenOptions, Net, TcpListener, TcpOptions, TcpStream};

const SMALL: TcpOptions = TcpOptions {
    rx_bytes: 1024,
    tx_bytes: 1024,
    nodelay: true,
    keep_alive: None,
    timeout: None,
    hop_limit: None,
    dscp: 0,
};
const PATIENCE: Duration = Duration::from_secs(20);

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// Two ends of one connection with rings of 1 KiB.
fn pair() -> (Net, Double, TcpStream, TcpStream) {
    let (net, core) = double(8);
    let listener = TcpListener::bind_with(&net, at(7), ListenOptions { backlog: 4, tcp: SMALL }).unwrap();
    let options = ConnectOptions { tcp: SMALL, ..ConnectOptions::default() };
    let client = net.connect_with(at(7), options).unwrap();
    let (server, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!((server.peer_addr().unwrap(), client.peer_addr().unwrap()), (peer, at(7)));
    assert_eq!(server.local_addr().unwrap(), at(7));
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (net, core, client, server)
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn megabyte_each_way_at_once_arrives_whole_through_small_rings() {
    let (_net, _core, client, server) = pair();
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let run = |stream: &TcpStream| {
        let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let copy = data.clone();
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        let writing = std::thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        (reading, writing)
    };
    for (reading, writing) in [run(&client), run(&server)] {
        writing.join().unwrap();
        assert!(reading.join().unwrap() == data);
    }
}

#[test]
fn read_waits_no_longer_than_its_timeout_and_not_at_all_when_non_blocking() {
    let (_net, _core, mut client, mut server) = pair();
    client.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let started = Instant::now();
    assert_eq!(kind(client.read(&mut [0; 4])), ErrorKind::WouldBlock);
    assert!(started.elapsed() >= Duration::from_millis(30));
    client.set_read_timeout(None).unwrap();
    client.set_nonblocking(true).unwrap();
    assert_eq!(kind(client.read(&mut [0; 4])), ErrorKind::WouldBlock);
    server.write_all(b"abcd").unwrap();
    let mut data = [0; 4];
    eventually("peek", || client.peek(&mut data).is_ok_and(|count| count == 4));
    assert_eq!((client.read(&mut data).unwrap(), &data), (4, b"abcd"));
    assert_eq!(kind(client.set_read_timeout(Some(Duration::ZERO))), ErrorKind::InvalidInput);
}

#[test]
fn spinning_reader_gets_the_byte_without_sleeping() {
    let (_net, _core, mut client, mut server) = pair();
    client.set_busy_poll(PATIENCE);
    let reader = std::thread::spawn(move || {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        byte[0]
    });
    server.write_all(&[42]).unwrap();
    assert_eq!(reader.join().unwrap(), 42);
}

#[test]
fn full_rings_hold_the_writer_back_and_lose_nothing() {
    let (_net, _core, mut client, mut server) = pair();
    client.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let (mut written, started) = (0usize, Instant::now());
    let error = loop {
        match client.write(&[written as u8; 1]) {
            Ok(count) => written += count,
            Err(error) => break error,
        }
        assert!(started.elapsed() < PATIENCE);
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    // Two rings of 1 KiB and the double's buffer.
    assert_eq!(written, 1024 + 512 + 1024);
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert!(got.iter().enumerate().all(|(i, byte)| *byte == i as u8) && got.len() == written);
}

#[test]
fn half_closed_connection_still_carries_bytes_the_other_way() {
    let (_net, _core, mut client, mut server) = pair();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(kind(client.write(b"more")), ErrorKind::BrokenPipe);
    let mut question = String::new();
    server.read_to_string(&mut question).unwrap();
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
}

#[test]
fn shutdown_of_reading_wakes_a_sleeping_reader_with_end_of_file() {
    let (_net, _core, client, _server) = pair();
    let mut reader = client.try_clone().unwrap();
    let reading = std::thread::spawn(move || reader.read(&mut [0; 8]).unwrap());
    std::thread::sleep(Duration::from_millis(20));
    client.shutdown(Shutdown::Read).unwrap();
    assert_eq!(reading.join().unwrap(), 0);
}

#[test]
fn abort_resets_the_peer_who_hears_of_it_once() {
    let (_net, _core, mut client, mut server) = pair();
    client.write_all(b"lost or not").unwrap();
    client.abort();
    let mut rest = Vec::new();
    assert_eq!(kind(server.read_to_end(&mut rest)), ErrorKind::ConnectionReset);
    assert!(b"lost or not".starts_with(&rest));
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(kind(server.write(b"x")), ErrorKind::BrokenPipe);
    eventually("own end aborted", || client.read(&mut [0; 8]).is_err());
    assert_eq!(kind(client.read(&mut [0; 8])), ErrorKind::ConnectionAborted);
}

#[test]
fn take_error_takes_it_from_the_calls() {
    let (_net, _core, client, mut server) = pair();
    client.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let mut error = None;
    eventually("error", || {
        error = server.take_error().unwrap();
        error.is_some()
    });
    assert_eq!(error.unwrap().kind(), ErrorKind::ConnectionReset);
    assert!(server.take_error().unwrap().is_none());
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn unread_bytes_at_the_drop_reset_the_peer() {
    let (_net, _core, mut client, server) = pair();
    client.write_all(b"nobody reads me").unwrap();
    eventually("delivered", || server.peek(&mut [0; 8]).is_ok());
    drop(server);
    assert_eq!(kind(client.read(&mut [0; 8])), ErrorKind::ConnectionReset);
}

#[test]
fn lingering_drop_waits_for_the_peer_but_not_for_ever() {
    let (_net, _core, client, mut server) = pair();
    client.set_linger(Some(PATIENCE)).unwrap();
    let closing = std::thread::spawn(move || {
        let started = Instant::now();
        drop(client);
        started.elapsed()
    });
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    std::thread::sleep(Duration::from_millis(30));
    drop(server);
    let took = closing.join().unwrap();
    assert!((Duration::from_millis(25)..PATIENCE).contains(&took), "{took:?}");

    let (_net, _core, client, _server) = pair();
    client.set_linger(Some(Duration::from_millis(30))).unwrap();
    let started = Instant::now();
    drop(client);
    assert!((Duration::from_millis(30)..PATIENCE).contains(&started.elapsed()));
}

#[test]
fn several_threads_accept_from_one_listener() {
    let (net, _core) = double(64);
    let listener = net.listen(at(0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(port >= 49_152);
    let acceptors: Vec<_> = (0..3)
        .map(|_| {
            let listener = listener.try_clone().unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().take(5) {
                    let mut stream = stream.unwrap();
                    let mut name = String::new();
                    stream.read_to_string(&mut name).unwrap();
                    stream.write_all(name.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for index in 0..15 {
        let mut stream = TcpStream::connect(&net, at(port)).unwrap();
        stream.write_all(index.to_string().as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, index.to_string());
    }
    acceptors.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn accept_waits_as_told_and_a_full_backlog_refuses() {
    let (net, _core) = double(16);
    let listener = TcpListener::bind_with(&net, at(7), ListenOptions { backlog: 2, tcp: SMALL }).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(kind(listener.accept()), ErrorKind::WouldBlock);
    listener.set_nonblocking(false).unwrap();
    listener.set_accept_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(kind(listener.accept()), ErrorKind::WouldBlock);
    let _two = [net.connect(at(7)).unwrap(), net.connect(at(7)).unwrap()];
    assert_eq!(kind(net.connect(at(7))), ErrorKind::ConnectionRefused);
    assert!(listener.accept().is_ok());
    assert!(net.connect(at(7)).is_ok());
    let bad = ListenOptions { backlog: 0, ..ListenOptions::default() };
    assert_eq!(kind(TcpListener::bind_with(&net, at(8), bad)), ErrorKind::InvalidInput);
    let odd = TcpOptions { rx_bytes: 1000, ..SMALL };
    let bad = ListenOptions { backlog: 1, tcp: odd };
    assert_eq!(kind(TcpListener::bind_with(&net, at(8), bad)), ErrorKind::InvalidInput);
}

#[test]
fn dropped_listener_resets_who_waits_and_frees_its_port() {
    let (net, _core) = double(16);
    let listener = net.listen(at(7)).unwrap();
    assert_eq!(kind(net.listen(at(7))), ErrorKind::AddrInUse);
    let mut waiting = net.connect(at(7)).unwrap();
    drop(listener);
    assert_eq!(kind(waiting.read(&mut [0; 8])), ErrorKind::ConnectionReset);
    eventually("port free again", || net.listen(at(7)).is_ok());
}

#[test]
fn connecting_fails_with_the_reason() {
    let (net, _core) = double(16);
    assert_eq!(kind(net.connect(at(7))), ErrorKind::ConnectionRefused);
    assert_eq!(kind(net.connect(at(0))), ErrorKind::InvalidInput);
    assert_eq!(kind(TcpStream::connect_timeout(&net, at(7), Duration::ZERO)), ErrorKind::InvalidInput);
    assert_eq!(kind(TcpStream::connect_timeout(&net, at(9), Duration::from_millis(10))), ErrorKind::TimedOut);
}

#[test]
fn names_resolve_in_both_families() {
    let (net, _core) = double(4);
    let addresses = net.resolve("two.example").unwrap();
    assert!(addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6());
    assert_eq!(kind(net.resolve("none.example")), ErrorKind::NotFound);
    assert_eq!(net.resolve("192.0.2.9").unwrap(), ["192.0.2.9".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn whoever_sleeps_when_the_engine_stops_wakes_with_an_error() {
    let (net, core, client, server) = pair();
    let mut asleep = Vec::new();
    let mut sleep = |call: Box<dyn FnOnce() -> ErrorKind + Send>| asleep.push(std::thread::spawn(call));
    let mut reader = server.try_clone().unwrap();
    reader.set_read_timeout(None).unwrap();
    sleep(Box::new(move || kind(reader.read(&mut [0; 4]))));
    let mut writer = server.try_clone().unwrap();
    writer.set_write_timeout(None).unwrap();
    sleep(Box::new(move || {
        loop {
            if let Err(error) = writer.write(&[0; 100]) {
                break error.kind();
            }
        }
    }));
    let listener = net.listen(at(8)).unwrap();
    sleep(Box::new(move || kind(listener.accept())));
    let there = net.clone();
    sleep(Box::new(move || kind(there.connect(at(9)))));
    let socket = net.bind(at(53)).unwrap();
    sleep(Box::new(move || kind(socket.recv_from(&mut [0; 4]))));
    std::thread::sleep(Duration::from_millis(50));
    drop(core);
    for thread in asleep {
        assert_eq!(thread.join().unwrap(), ErrorKind::ConnectionAborted);
    }
    assert!(net.is_stopped());
    assert_eq!(kind(net.connect(at(7))), ErrorKind::ConnectionAborted);
    assert_eq!(kind(net.listen(at(7))), ErrorKind::ConnectionAborted);
    assert_eq!(kind(net.bind(at(7))), ErrorKind::ConnectionAborted);
    assert_eq!(kind(net.resolve("two.example")), ErrorKind::ConnectionAborted);
    assert_eq!(kind((&server).read(&mut [0; 4])), ErrorKind::ConnectionAborted);
    assert_eq!(kind((&client).write(&[0; 4])), ErrorKind::ConnectionAborted);
}

#[test]
fn nothing_is_left_of_sockets_dropped_in_any_state() {
    let (net, core) = double(4);
    for round in 0..200 {
        let listener = net.listen(at(7)).unwrap();
        // Of four tokens: the listener, both ends, and one over.
        let client = net.connect(at(7)).unwrap();
        if round % 2 == 0 {
            let (mut server, _) = listener.accept().unwrap();
            if round % 4 == 0 {
                server.write_all(b"unread").unwrap();
            }
            if round % 8 == 0 {
                client.shutdown(Shutdown::Write).unwrap();
            }
        }
        if round % 3 == 0 {
            drop(listener);
            drop(client);
        } else {
            drop(client);
            drop(listener);
        }
        drop(net.bind(at(7)).ok());
        let _ = TcpStream::connect_timeout(&net, at(1), Duration::from_millis(1));
        eventually("all let go", || core.held.load(Ordering::Relaxed) == 0);
        std::thread::yield_now();
    }
    // All four tokens are back.
    let sockets: Vec<_> = (1..=4).map(|port| net.bind(at(port)).unwrap()).collect();
    assert_eq!(kind(net.bind(at(5))), ErrorKind::QuotaExceeded);
    drop(sockets);
}

#[test]
fn options_are_read_back_and_bad_ones_refused() {
    let (_net, _core, client, _server) = pair();
    client.set_nodelay(false).unwrap();
    assert!(!client.nodelay().unwrap());
    client.set_keepalive(Some(Duration::from_secs(3))).unwrap();
    assert_eq!(kind(client.set_keepalive(Some(Duration::ZERO))), ErrorKind::InvalidInput);
    assert_eq!(kind(client.set_ttl(0)), ErrorKind::InvalidInput);
    assert_eq!(kind(client.set_ttl(256)), ErrorKind::InvalidInput);
    assert_eq!(kind(client.set_dscp(64)), ErrorKind::InvalidInput);
    client.set_linger(Some(Duration::from_millis(5))).unwrap();
    assert_eq!(client.linger().unwrap(), Some(Duration::from_millis(5)));
}
