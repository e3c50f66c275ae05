//! One host on two cores: `tap:` with a queue pair for each, and the kernel deals the connections as it likes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::host::{Host, KERNEL, OURS, both_addresses, bytes, start};
use super::{SOON, namespace_with};

/// Odds that all of them belong to one of two cores: 1 in 2³¹.
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 8;
const MESSAGE_BYTES: usize = 20_000;

#[test]
fn connections_are_spread_over_two_cores_and_streams_stay_whole() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return peers::require::skip(peers::require::Suite::Netns, "two loops need two cores");
    }
    let Some(netns) = namespace_with(&["ping"]) else { return };
    // The build must not count against a time limit.
    peers::bywash::binary().unwrap();
    netns.ip("tuntap add dev bw0 mode tap multi_queue").unwrap();
    for address in KERNEL {
        netns.ip(&format!("addr add {address} dev bw0")).unwrap();
    }
    netns.ip("link set bw0 up").unwrap();
    let ours = start(&netns, "echo", "tap:bw0,queues=2", &format!("{} --cores 0,1", both_addresses()));
    let mut host = Host { netns, ours };
    host.wait_for_ping(OURS[0]);
    let to: SocketAddr = format!("{}:7", OURS[0]).parse().unwrap();
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let stream = host.netns.inside(|| TcpStream::connect_timeout(&to, SOON)).unwrap().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.set_write_timeout(Some(SOON)).unwrap();
            stream
        })
        .collect();
    let mut back = vec![0; MESSAGE_BYTES];
    for round in 0..ROUNDS {
        let message = |index: usize| bytes(MESSAGE_BYTES, (round * CONNECTIONS + index) as u64 * 2);
        // All are under way at once.
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&message(index)).unwrap();
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.read_exact(&mut back).unwrap();
            assert!(back == message(index), "connection {index}, round {round}: other bytes came back");
        }
    }
    drop(streams);
    let report = host.stop();
    let told = report.value();
    for core in 0..2 {
        let received = report.count(&format!("/cores/{core}/packets")).unwrap();
        // A request of 20,000 bytes has fourteen segments, and each core has some connections of the 32.
        assert!(received > (ROUNDS * 14) as u64, "core {core} received {received} frames: {told}");
    }
}
