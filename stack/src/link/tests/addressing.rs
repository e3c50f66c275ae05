//! Addresses and routers that come and go, next hops, and what other cores learn.

use super::*;
use crate::error::SendError;

#[test]
fn routes_decide_the_next_hop() {
    let mut routed = config();
    let via = Ipv4Address::new(10, 0, 0, 9);
    routed.routes = vec![(IpCidr::new(Ipv4Address::new(192, 0, 2, 0).into(), 24), via.into())];
    let bench = Bench::new(routed);
    assert_eq!(bench.link.via(FAR.into()), Some(via.into()));
    assert_eq!(bench.link.via(IpAddress::v4(8, 8, 8, 8)), Some(GATEWAY.into()));
    assert_eq!(bench.link.via(PEER.into()), Some(PEER.into()));
}

#[test]
fn groups_and_broadcasts_need_no_neighbour() {
    let mut bench = Bench::new(config6());
    let mac = |bench: &mut Bench, dst| bench.link.next_hop(bench.now, dst, &mut bench.wire);
    let all = NextHop::Mac(EthernetAddress::BROADCAST);
    assert_eq!(mac(&mut bench, IpAddress::v4(10, 0, 0, 255)), all);
    assert_eq!(mac(&mut bench, IpAddress::v4(255, 255, 255, 255)), all);
    let group = NextHop::Mac(EthernetAddress([1, 0, 0x5e, 0x01, 2, 3]));
    assert_eq!(mac(&mut bench, IpAddress::v4(239, 0x81, 2, 3)), group);
    let group = NextHop::Mac(EthernetAddress([0x33, 0x33, 0, 1, 0, 3]));
    assert_eq!(mac(&mut bench, IpAddress::v6(0xff02, 0, 0, 0, 0, 0, 1, 3)), group);
    assert!(bench.wire.take().is_empty());
}

#[test]
fn there_is_no_way_to_ourselves_or_without_a_route() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.link.next_hop(bench.now, OUR.into(), &mut bench.wire), NextHop::NoRoute);
    let v6 = IpAddress::from(PEER6);
    assert_eq!(bench.link.next_hop(bench.now, v6, &mut bench.wire), NextHop::NoRoute);
    assert_eq!(bench.link.source(v6), None);
    assert_eq!(bench.link.ping(bench.now, v6, (1, 1), b"", &mut bench.wire), Err(SendError::NoRoute(v6)));
    bench.link.clear_gateway(GATEWAY.into(), Origin::Static);
    assert_eq!(bench.send(FAR.into(), 8), Err(SendError::NoRoute(FAR.into())));
    assert_eq!(bench.counter("no_route"), 1);
    assert!(bench.wire.take().is_empty());
}

#[test]
fn an_answer_once_given_is_not_used_when_the_routes_change() {
    let mut bench = Bench::acquainted(config());
    let other = Ipv4Address::new(10, 0, 0, 253);
    bench.receive(&arp(ArpOperation::Request, EthernetAddress([2, 0, 0, 0, 0, 9]), other, OUR));
    bench.link.set_gateway(PEER.into(), Origin::Static);
    for _ in 0..2 {
        let hop = bench.link.next_hop(bench.now, FAR.into(), &mut bench.wire);
        assert_eq!(hop, NextHop::Mac(PEER_MAC));
    }
    bench.link.set_gateway(other.into(), Origin::Static);
    let hop = bench.link.next_hop(bench.now, FAR.into(), &mut bench.wire);
    assert_eq!(hop, NextHop::Mac(EthernetAddress([2, 0, 0, 0, 0, 9])));
}

#[test]
fn a_leased_address_comes_and_goes() {
    let mut empty = config();
    empty.addresses.clear();
    empty.gateways.clear();
    empty.dhcp = true;
    let mut bench = Bench::new(empty);
    bench.drops(&udp(b""), "not_our_address");
    let cidr = IpCidr::new(OUR.into(), 24);
    assert!(bench.link.add_address(cidr, bench.now));
    assert!(!bench.link.add_address(cidr, bench.now));
    bench.link.set_gateway(GATEWAY.into(), Origin::Dhcp);
    assert_eq!(bench.events(), [Event::AddressAdded(cidr)]);
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.wire.take().len(), 3, "probe and announcements");
    assert!(matches!(bench.receive(&udp(b"")), Ingress::Udp(_)));
    assert_eq!(bench.link.source(FAR.into()), Some(OUR.into()));
    bench.link.remove_address(OUR.into());
    bench.link.clear_gateway(GATEWAY.into(), Origin::Dhcp);
    assert_eq!(bench.events(), [Event::AddressRemoved(cidr)]);
    bench.drops(&udp(b""), "not_our_address");
    assert_eq!(bench.link.via(FAR.into()), None);
}

#[test]
fn addresses_in_use_are_announced_again_twice_when_the_network_may_be_another() {
    let mut bench = Bench::new(config6());
    bench.wait(Duration::from_secs(30));
    bench.wire.take();
    let addresses = bench.link.addresses().len();
    assert!(addresses >= 2, "IPv4 and IPv6");
    bench.link.announce_again(bench.now);
    bench.link.announce_again(bench.now);
    assert!(bench.link.poll_at().is_some_and(|at| at <= bench.now));
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.wire.take().len(), 2 * addresses, "each twice, however often it was asked for");
}

#[test]
fn other_cores_take_over_what_the_first_has_learnt() {
    let mut first = Bench::new(config6());
    let mut second = config6();
    second.share = crate::config::Share { index: 1, count: 2 };
    let mut second = Bench::new(second);
    assert_ne!(first.link.addresses(), second.link.addresses(), "the link-local address");
    let leased = IpCidr::new(IpAddress::v4(10, 9, 0, 1), 16);
    first.link.add_address(leased, first.now);
    first.link.set_gateway(IpAddress::v4(10, 9, 0, 2), Origin::Dhcp);
    let state = first.link.learnt().expect("something changed");
    assert!(first.link.learnt().is_none(), "nothing since");
    second.link.learn(&state);
    assert_eq!(first.link.addresses(), second.link.addresses());
    assert!(second.events().contains(&Event::AddressAdded(leased)));
    assert!(second.link.via(FAR.into()).is_some());
    assert!(second.link.poll_at().is_none(), "no announcements");
    first.link.remove_address(leased.address());
    second.link.learn(&first.link.learnt().unwrap());
    assert_eq!(second.events(), [Event::AddressRemoved(leased)]);
}
