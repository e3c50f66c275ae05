use std::collections::HashSet;

use etherparse::PacketBuilder;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address};

use super::*;
use crate::config::StackConfig;
use crate::icmp::Unreachable;
use crate::link::{IcmpProblem, Ingress};

const OUR: IpAddress = IpAddress::v4(10, 0, 0, 1);
const PEER: IpAddress = IpAddress::v4(10, 0, 0, 2);
const OUR_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const PORTS: (u16, u16) = (40_000, 40_099);
const NOW: Time = Time::from_ns(1);

#[derive(Default)]
struct Wire(Vec<Vec<u8>>);

impl FrameOut for Wire {
    fn room(&mut self) -> usize {
        usize::MAX
    }

    fn frame(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let mut frame = vec![0xa5; len];
        fill(&mut frame);
        self.0.push(frame);
        true
    }
}

fn udp() -> Udp {
    Udp::new(128, &[9; 32])
}

fn any(port: u16) -> IpListenEndpoint {
    IpListenEndpoint { addr: None, port }
}

fn at(addr: IpAddress, port: u16) -> IpListenEndpoint {
    IpListenEndpoint { addr: Some(addr), port }
}

/// A link with `PEER` in its table.
fn link(wire: &mut Wire) -> Link {
    let mut config = StackConfig::new(OUR_MAC, 1500);
    config.addresses =
        vec![IpCidr::new(OUR, 24), IpCidr::new(IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 64)];
    let mut link = Link::new(&config, NOW);
    let mut request = vec![0xff; 6];
    request.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2]);
    request.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    link.receive(NOW, &request, wire);
    wire.0.clear();
    link
}

fn datagram(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], OUR_MAC.0)
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .udp(5000, 7)
        .write(&mut frame, data)
        .unwrap();
    frame
}

fn counter(udp: &Udp, name: &str) -> u64 {
    let mut found = 0;
    udp.counters(&mut |n, value| {
        if n == name {
            found = value;
        }
    });
    found
}

#[test]
fn the_bound_address_goes_before_any() {
    let mut udp = udp();
    let wild = udp.bind(any(7), PORTS).unwrap();
    let exact = udp.bind(at(OUR, 7), PORTS).unwrap();
    assert_eq!(udp.find(IpEndpoint::new(OUR, 7)), Some(exact));
    assert_eq!(udp.find(IpEndpoint::new(PEER, 7)), Some(wild));
    assert_eq!(udp.find(IpEndpoint::new(OUR, 8)), None);
    assert_eq!(udp.bind(any(7), PORTS), Err(BindError::InUse(any(7))));
    assert_eq!(udp.bind(at(OUR, 7), PORTS), Err(BindError::InUse(at(OUR, 7))));
    udp.close(exact);
    assert_eq!(udp.find(IpEndpoint::new(OUR, 7)), Some(wild));
    assert_eq!((udp.local(exact), udp.local(wild)), (None, Some(any(7))));
    let again = udp.bind(at(OUR, 9), PORTS).unwrap();
    assert_eq!(again.index(), exact.index());
    assert_ne!(again, exact, "the old id stays dead");
    udp.close(exact);
    assert_eq!(udp.local(again), Some(at(OUR, 9)));
}

#[test]
fn chosen_ports_are_free_unpredictable_and_end() {
    let mut udp = udp();
    udp.bind(any(40_050), PORTS).unwrap();
    let ids: Vec<_> = (0..99).map(|_| udp.bind(at(OUR, 0), PORTS).unwrap()).collect();
    let ports: Vec<u16> = ids.iter().map(|id| udp.local(*id).unwrap().port).collect();
    assert!(ports.iter().all(|p| (PORTS.0..=PORTS.1).contains(p) && *p != 40_050));
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 99);
    assert!(ports.windows(2).filter(|w| w[1] == w[0] + 1).count() < 50, "not one after another");
    assert_eq!(udp.bind(any(0), PORTS), Err(BindError::NoPort));
    assert_eq!(udp.bind(any(0), (5, 4)), Err(BindError::NoPort));
    let mut other = Udp::new(128, &[10; 32]);
    let first = other.bind(any(0), PORTS).unwrap();
    assert_ne!(other.local(first).unwrap().port, ports[0], "another seed");
}

#[test]
fn sockets_are_limited_and_slots_used_again() {
    let mut udp = Udp::new(4, &[9; 32]);
    for round in 0..100u16 {
        let ids: Vec<_> = (0..4).map(|n| udp.bind(any(1 + n + round), PORTS).unwrap()).collect();
        assert_eq!(udp.bind(any(1000), PORTS), Err(BindError::TooMany(4)));
        ids.into_iter().for_each(|id| udp.close(id));
    }
    assert_eq!(udp.slots.len(), 4);
}

#[test]
fn a_datagram_goes_to_its_socket_and_back() {
    let (mut udp, mut wire) = (udp(), Wire::default());
    let mut link = link(&mut wire);
    let id = udp.bind(any(7), PORTS).unwrap();
    let frame = datagram(b"hello");
    let Ingress::Udp(packet) = link.receive(NOW, &frame, &mut wire) else { panic!("not UDP") };
    let from = IpEndpoint::new(PEER, 5000);
    let got = udp.receive(&mut link, NOW, &packet, &mut wire);
    assert_eq!(got, Some(Datagram { socket: id, from, to: OUR, data: b"hello" }));
    udp.send(&mut link, NOW, id, None, from, b"hello", &mut wire).unwrap();
    let sent = wire.0.pop().unwrap();
    let mut expected = Vec::new();
    PacketBuilder::ethernet2(OUR_MAC.0, [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(7, 5000)
        .write(&mut expected, b"hello")
        .unwrap();
    assert_eq!(sent, expected);
}

#[test]
fn broken_datagrams_are_dropped_and_counted() {
    let (mut udp, mut wire) = (udp(), Wire::default());
    let mut link = link(&mut wire);
    udp.bind(any(7), PORTS).unwrap();
    let mut deliver = |frame: &[u8]| {
        let Ingress::Udp(packet) = link.receive(NOW, frame, &mut wire) else { panic!("not UDP") };
        udp.receive(&mut link, NOW, &packet, &mut wire).map(|got| got.data.len())
    };
    let good = datagram(b"hello");
    let patch = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    assert_eq!(deliver(&patch(42, b'j')), None, "checksum");
    assert_eq!(deliver(&patch(39, 200)), None, "length beyond the packet");
    assert_eq!(deliver(&patch(39, 7)), None, "length below the header");
    let mut unsummed = good.clone();
    unsummed[40..42].fill(0);
    assert_eq!(deliver(&unsummed), Some(5), "IPv4 may leave the checksum out");
    let mut v6 = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], OUR_MAC.0)
        .ipv6(
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            64,
        )
        .udp(5000, 7)
        .write(&mut v6, b"hello")
        .unwrap();
    assert_eq!(deliver(&v6), Some(5));
    v6[60..62].fill(0);
    assert_eq!(deliver(&v6), None, "IPv6 may not");
    assert_eq!((counter(&udp, "bad_udp"), counter(&udp, "bad_udp_checksum")), (2, 2));
    assert!(wire.0.is_empty());
}

#[test]
fn the_sender_to_a_closed_port_is_told() {
    let (mut udp, mut wire) = (udp(), Wire::default());
    let mut link = link(&mut wire);
    let frame = datagram(b"anybody?");
    let Ingress::Udp(packet) = link.receive(NOW, &frame, &mut wire) else { panic!("not UDP") };
    assert_eq!(udp.receive(&mut link, NOW, &packet, &mut wire), None);
    assert_eq!(wire.0[0][34..36], [3, 3]);
    assert_eq!(wire.0[0][42..], frame[14..]);
    // A broadcast is nobody's in particular.
    let mut broadcast = frame.clone();
    broadcast[..6].fill(0xff);
    broadcast[30..34].copy_from_slice(&[10, 0, 0, 255]);
    broadcast[40..42].fill(0);
    smoltcp::wire::Ipv4Packet::new_unchecked(&mut broadcast[14..]).fill_checksum();
    let Ingress::Udp(packet) = link.receive(NOW, &broadcast, &mut wire) else { panic!("not UDP") };
    assert_eq!(udp.receive(&mut link, NOW, &packet, &mut wire), None);
    assert_eq!(wire.0.len(), 1);
    assert_eq!(counter(&udp, "udp_no_socket"), 2);
}

#[test]
fn errors_find_their_socket_and_lower_the_path_mtu() {
    let (mut udp, mut wire) = (udp(), Wire::default());
    let mut link = link(&mut wire);
    let id = udp.bind(any(7), PORTS).unwrap();
    let mut error = IcmpError {
        problem: IcmpProblem::Unreachable(Unreachable::Port),
        protocol: IpProtocol::Udp,
        local: IpEndpoint::new(OUR, 7),
        remote: IpEndpoint::new(PEER, 5000),
        tcp_seq: None,
    };
    assert_eq!(udp.on_error(&mut link, NOW, &error), Some(id));
    error.problem = IcmpProblem::TooBig { mtu: 1400 };
    let forged = IcmpError { local: IpEndpoint::new(OUR, 8), ..error };
    assert_eq!(udp.on_error(&mut link, NOW, &forged), None);
    assert_eq!(link.path_mtu(PEER), 1500);
    assert_eq!(udp.on_error(&mut link, NOW, &error), Some(id));
    assert_eq!(link.path_mtu(PEER), 1400);
    let tcp = IcmpError { protocol: IpProtocol::Tcp, ..error };
    assert_eq!(udp.on_error(&mut link, NOW, &tcp), None);
}

#[test]
fn what_cannot_be_sent_is_an_error() {
    let (mut udp, mut wire) = (udp(), Wire::default());
    let mut link = link(&mut wire);
    let id = udp.bind(any(7), PORTS).unwrap();
    let bound = udp.bind(at(OUR, 8), PORTS).unwrap();
    let mut send = |udp: &Udp, id, to, len| udp.send(&mut link, NOW, id, None, to, &vec![1; len], &mut wire);
    let to = IpEndpoint::new(PEER, 5000);
    assert_eq!(send(&udp, id, to, 65_507), Ok(()));
    assert_eq!(send(&udp, id, to, 65_508), Err(SendError::TooLong { len: 65_508, max: 65_507 }));
    let far = IpEndpoint::new(IpAddress::v4(8, 8, 8, 8), 53);
    assert_eq!(send(&udp, id, far, 1), Err(SendError::NoRoute(far.addr)));
    let v6 = IpEndpoint::new(IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2), 53);
    assert_eq!(send(&udp, bound, v6, 1), Err(SendError::BadAddress(v6)));
    for bad in [IpEndpoint::new(PEER, 0), IpEndpoint::new(IpAddress::Ipv4(Ipv4Address::UNSPECIFIED), 1)] {
        assert_eq!(send(&udp, id, bad, 1), Err(SendError::BadAddress(bad)));
    }
    let all = IpEndpoint::new(IpAddress::v4(10, 0, 0, 255), 9);
    assert_eq!(send(&udp, id, all, 1), Err(SendError::BadAddress(all)), "not without asking");
    udp.set_broadcast(id, true);
    assert_eq!(send(&udp, id, all, 1), Ok(()));
    udp.close(id);
    assert_eq!(send(&udp, id, to, 1), Err(SendError::Closed));
    assert_eq!(wire.0.last().unwrap()[..6], [0xff; 6]);
}

#[test]
fn a_source_is_ours_and_the_sockets() {
    let (mut udp, mut wire) = (udp(), Wire::default());
    let mut link = link(&mut wire);
    let second = IpAddress::v4(10, 0, 0, 9);
    assert!(link.add_address(IpCidr::new(second, 24), NOW));
    let (any, bound) = (udp.bind(any(7), PORTS).unwrap(), udp.bind(at(OUR, 8), PORTS).unwrap());
    let to = IpEndpoint::new(PEER, 5000);
    let mut send = |id, from, to| udp.send(&mut link, NOW, id, Some(from), to, b"x", &mut wire);
    assert_eq!((send(any, second, to), send(any, OUR, to), send(bound, OUR, to)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(send(bound, second, to), Err(SendError::NotLocal(second)));
    assert_eq!(send(any, PEER, to), Err(SendError::NotLocal(PEER)));
    let v6 = IpEndpoint::new(IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2), 53);
    assert_eq!(send(any, second, v6), Err(SendError::BadAddress(v6)));
    let sources: Vec<&[u8]> = wire.0.iter().map(|frame| &frame[26..30]).collect();
    assert_eq!(sources, [[10, 0, 0, 9], [10, 0, 0, 1], [10, 0, 0, 1]]);
}
