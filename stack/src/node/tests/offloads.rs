//! A device that sums and segments, and gives frames of several segments.

use smoltcp::wire::{IpAddress, IpCidr, IpEndpoint};

use super::harness::*;
use crate::{ConnectOptions, TcpOptions};

/// Bytes of Ethernet, IP and TCP headers without options.
const HEADERS: [usize; 2] = [14 + 20 + 20, 14 + 40 + 20];

/// The summed frames of 200 KB there and back (the first is the SYN, of whose peer nothing is known), and the milliseconds that it took; `peer_mtu` is that of the host that
/// answers.
fn echo(v6: bool, peer_mtu: usize) -> (Vec<(usize, u16)>, u64) {
    let six = |host: u16| IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, host);
    let mut world = World::with(|config| {
        let host = u16::from(config.mac.0[5]);
        config.addresses.push(IpCidr::new(six(host), 64));
        config.mtu = if host == 2 { peer_mtu } else { 1500 };
    });
    world.hosts.iter_mut().for_each(|host| host.wire.offloads = true);
    world.script(0).mode = Mode::Keep;
    world.listen(7);
    let to = if v6 { six(2) } else { address(1) };
    let tcp = TcpOptions { rx_bytes: 1 << 20, tx_bytes: 1 << 20, ..TcpOptions::default() };
    let options = ConnectOptions { tcp, ..ConnectOptions::default() };
    let id = world.ask(0, move |net| net.connect(IpEndpoint::new(to, 7), options)).unwrap();
    world.run(SECOND);
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    world.send(0, id, &bytes);
    let began = world.now;
    while world.script(0).received.get(&id).map_or(0, Vec::len) < bytes.len() {
        world.run(MS);
        assert!(world.now < began + SECOND, "it stands still");
    }
    assert!(world.script(0).received[&id] == bytes, "intact and in order");
    for host in [0, 1] {
        assert_eq!(world.counter(host, "retransmitted"), 0);
        assert_eq!(world.counter(host, "bad_tcp_checksum"), 0);
    }
    let took = (world.now.ns() - began.ns()) / 1_000_000;
    (std::mem::take(&mut world.hosts[0].wire.summed), took)
}

#[test]
fn long_segments_pass_over_both_versions_of_ip_and_are_acknowledged_at_once() {
    for v6 in [false, true] {
        let (frames, took_ms) = echo(v6, 1500);
        let mss = 1514 - HEADERS[usize::from(v6)];
        assert!(frames[1..].iter().all(|(_, segment)| usize::from(*segment) == mss), "{frames:?}");
        assert!(frames.iter().any(|(len, _)| *len > 10_000), "none is long: {frames:?}");
        assert!(frames.iter().all(|(len, _)| *len <= 65_549), "{frames:?}");
        // With each window waiting for a delayed acknowledgement of 10 ms it would be 50 and more.
        assert!(took_ms < 10, "{took_ms} ms");
    }
}

#[test]
fn segments_are_no_longer_than_the_peer_announced_in_its_syn() {
    for v6 in [false, true] {
        let (frames, _) = echo(v6, 1300);
        let mss = 1314 - HEADERS[usize::from(v6)];
        assert!(frames[1..].iter().all(|(_, segment)| usize::from(*segment) == mss), "{frames:?}");
    }
}
