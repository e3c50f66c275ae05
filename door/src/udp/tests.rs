//! Datagrams over a core that is a test double.

#![allow(clippy::cast_possible_truncation)] // patterns of bytes

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use crate::double::double;
use crate::{MAX_DATAGRAM, UdpSocket};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn datagrams_arrive_whole_up_to_the_largest() {
    let (net, _core) = double(4);
    let (one, two) = (UdpSocket::bind(&net, at(1)).unwrap(), UdpSocket::bind(&net, at(0)).unwrap());
    let there = at(two.local_addr().unwrap().port());
    let mut data = vec![0; MAX_DATAGRAM];
    for len in [0, 1, 1472, 60_000, MAX_DATAGRAM] {
        let sent: Vec<u8> = (0..len).map(|i| (i % 253) as u8).collect();
        assert_eq!(one.send_to(&sent, there).unwrap(), len);
        assert_eq!(two.recv_from(&mut data).unwrap(), (len, at(1)));
        assert!(data[..len] == sent);
    }
    assert_eq!(kind(one.send_to(&vec![0; MAX_DATAGRAM + 1], there)), ErrorKind::InvalidInput);
    assert_eq!(kind(one.send_to(b"x", at(0))), ErrorKind::InvalidInput);
    // What does not fit the caller's buffer is lost, the next datagram is not.
    one.send_to(b"first", there).unwrap();
    one.send_to(b"second", there).unwrap();
    assert_eq!(two.peek_from(&mut data[..2]).unwrap(), (2, at(1)));
    assert_eq!(two.recv_from(&mut data[..2]).unwrap(), (2, at(1)));
    assert_eq!(two.recv_from(&mut data).unwrap(), (6, at(1)));
}

#[test]
fn connected_socket_hears_its_peer_alone_and_of_errors() {
    let (net, _core) = double(4);
    let [one, two, three] = [1, 2, 3].map(|port| UdpSocket::bind(&net, at(port)).unwrap());
    assert_eq!(kind(one.send(b"x")), ErrorKind::NotConnected);
    assert_eq!(kind(one.recv(&mut [0; 4])), ErrorKind::NotConnected);
    one.connect(at(2)).unwrap();
    three.send_to(b"stranger", at(1)).unwrap();
    two.send_to(b"peer", at(1)).unwrap();
    let mut data = [0; 8];
    assert_eq!((one.recv(&mut data).unwrap(), &data[..4]), (4, &b"peer"[..]));
    // Port 9 refuses: an unconnected socket does not hear of it, a connected one once.
    two.send_to(b"x", at(9)).unwrap();
    one.connect(at(9)).unwrap();
    one.send(b"x").unwrap();
    assert_eq!(kind(one.recv(&mut data)), ErrorKind::ConnectionRefused);
    for socket in [&one, &two] {
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(kind(socket.recv_from(&mut data)), ErrorKind::WouldBlock);
        socket.set_nonblocking(true).unwrap();
        assert_eq!(kind(socket.recv_from(&mut data)), ErrorKind::WouldBlock);
    }
}

#[test]
fn bound_port_is_in_use_until_it_is_dropped() {
    let (net, core) = double(4);
    let socket = net.bind(at(5)).unwrap();
    let clone = socket.try_clone().unwrap();
    assert_eq!(kind(net.bind(at(5))), ErrorKind::AddrInUse);
    drop(socket);
    assert_eq!(kind(net.bind(at(5))), ErrorKind::AddrInUse);
    drop(clone);
    while net.bind(at(5)).is_err() {
        std::thread::yield_now();
    }
    drop(core);
}
