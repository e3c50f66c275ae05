//! ARP: answers, learning, requests, conflicts, floods.

use super::*;

const STRANGER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);

#[test]
fn requests_for_us_are_answered_and_teach() {
    let mut bench = Bench::new(config());
    assert!(matches!(bench.receive(&arp(ArpOperation::Request, PEER_MAC, PEER, OUR)), Ingress::Consumed));
    let replies = bench.wire.take();
    assert_eq!(replies.len(), 1);
    assert_eq!(&replies[0][..6], PEER_MAC.as_bytes());
    assert_eq!(parse_arp(&replies[0]), (ArpOperation::Reply, OUR, PEER));
    bench.send(PEER.into(), 8).unwrap();
    let frames = bench.wire.take();
    assert_eq!(frames.len(), 1, "no request needed");
    assert_eq!(&frames[0][..6], PEER_MAC.as_bytes());
    bench.receive(&arp(ArpOperation::Request, PEER_MAC, PEER, GATEWAY));
    assert!(bench.wire.take().is_empty(), "not our question");
}

#[test]
fn a_probe_is_answered_and_teaches_nothing() {
    let mut bench = Bench::new(config());
    bench.receive(&arp(ArpOperation::Request, PEER_MAC, Ipv4Address::UNSPECIFIED, OUR));
    assert_eq!(parse_arp(&bench.wire.take()[0]), (ArpOperation::Reply, OUR, Ipv4Address::UNSPECIFIED));
    assert_eq!(bench.counter("neighbours"), 0);
}

#[test]
fn only_the_first_core_answers_and_all_learn() {
    let mut second = config();
    second.share = crate::config::Share { index: 1, count: 2 };
    let mut link = Link::new(&second, Time::from_ns(0));
    let mut wire = Wire::default();
    assert!(link.poll_at().is_none(), "no probes and announcements either");
    link.receive(Time::from_ns(0), &arp(ArpOperation::Request, PEER_MAC, PEER, OUR), &mut wire);
    assert!(wire.take().is_empty());
    assert_eq!(link.next_hop(Time::from_ns(1), PEER.into(), &mut wire), NextHop::Mac(PEER_MAC));
}

#[test]
fn packets_wait_for_the_answer_and_then_leave_in_order() {
    let mut bench = Bench::new(config());
    for len in [8, 16, 24] {
        bench.send(FAR.into(), len).unwrap();
    }
    let asked = bench.wire.take();
    assert_eq!(asked.len(), 1, "one request for three packets");
    assert_eq!(parse_arp(&asked[0]), (ArpOperation::Request, OUR, GATEWAY));
    assert_eq!(bench.counter("pending"), 3);
    assert!(!bench.link.is_idle());
    bench.receive(&arp(ArpOperation::Reply, PEER_MAC, GATEWAY, OUR));
    let sent = bench.wire.take();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [34 + 8, 34 + 16, 34 + 24]);
    assert!(sent.iter().all(|f| &f[..6] == PEER_MAC.as_bytes() && f[30..34] == FAR.octets()));
    assert_eq!(bench.events(), [Event::Resolved(GATEWAY.into())]);
    assert!(bench.link.is_idle());
}

#[test]
fn an_unanswered_neighbour_fails_after_three_requests() {
    let mut bench = Bench::new(config());
    bench.send(PEER.into(), 8).unwrap();
    bench.link.ping(bench.now, PEER.into(), (77, 5), b"", &mut bench.wire).unwrap();
    assert_eq!(bench.link.next_hop(bench.now, PEER.into(), &mut bench.wire), NextHop::Pending);
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.wire.take().len(), 3);
    let [Event::Undeliverable(udp), Event::Undeliverable(ping), last] = bench.events()[..] else {
        panic!("not told what was lost")
    };
    assert_eq!(last, Event::Unresolvable(PEER.into()));
    assert_eq!((udp.protocol, udp.local.addr, udp.remote.addr), (IpProtocol::Udp, OUR.into(), PEER.into()));
    assert_eq!((ping.protocol, ping.local.port, ping.remote.port), (IpProtocol::Icmp, 77, 5));
    assert_eq!(ping.problem, IcmpProblem::Unreachable(crate::icmp::Unreachable::Host));
    assert_eq!(bench.counter("pending_unresolved"), 2);
    assert_eq!((bench.counter("neighbours"), bench.counter("pending")), (0, 0));
}

#[test]
fn the_queue_of_an_unresolved_neighbour_is_bounded() {
    let mut bench = Bench::new(config());
    let limit = config().limits.pending_per_neighbour;
    let kept = (0..100).filter(|_| bench.send(PEER.into(), 8).is_ok()).count();
    assert_eq!(kept, limit);
    assert_eq!(bench.counter("pending_full"), 100 - limit as u64);
    // All neighbours together, too.
    for host in 3..250 {
        for _ in 0..limit {
            let _ = bench.send(Ipv4Address::new(10, 0, 0, host).into(), 1000);
        }
    }
    assert_eq!(bench.counter("pending"), u64::from(PENDING_PACKETS));
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.counter("pending"), 0);
}

#[test]
fn a_reachable_neighbour_is_probed_again_only_while_it_is_used() {
    let mut bench = Bench::new(config());
    bench.send(PEER.into(), 8).unwrap();
    bench.receive(&arp(ArpOperation::Reply, PEER_MAC, PEER, OUR));
    bench.wire.take();
    bench.wait(Duration::from_secs(120));
    assert!(bench.wire.take().is_empty(), "idle");
    bench.send(PEER.into(), 8).unwrap();
    assert_eq!(bench.wire.take().len(), 1, "stale entries are used");
    bench.wait(Duration::from_secs(6));
    let probes = bench.wire.take();
    assert_eq!(&probes[0][..6], PEER_MAC.as_bytes(), "unicast probe");
    bench.receive(&arp(ArpOperation::Reply, PEER_MAC, PEER, OUR));
    bench.wait(Duration::from_secs(20));
    assert!(bench.wire.take().is_empty(), "confirmed");
    // And one that has gone away is forgotten, without a failure for anybody who waits.
    bench.wait(Duration::from_secs(30));
    bench.send(PEER.into(), 8).unwrap();
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.wire.take().len(), 1 + 3);
    assert_eq!(bench.counter("neighbours"), 0);
}

#[test]
fn a_moved_neighbour_is_followed() {
    let mut bench = Bench::acquainted(config());
    bench.send(PEER.into(), 8).unwrap();
    bench.receive(&arp(ArpOperation::Request, STRANGER_MAC, PEER, PEER));
    bench.wire.take();
    bench.send(PEER.into(), 8).unwrap();
    assert_eq!(&bench.wire.take()[0][..6], STRANGER_MAC.as_bytes(), "gratuitous ARP");
}

#[test]
fn strangers_and_nonsense_make_no_entries() {
    let mut bench = Bench::new(config());
    bench.receive(&arp(ArpOperation::Request, PEER_MAC, PEER, PEER));
    bench.receive(&arp(ArpOperation::Reply, PEER_MAC, PEER, OUR));
    bench.receive(&arp(ArpOperation::Request, PEER_MAC, FAR, OUR));
    assert_eq!(bench.counter("neighbours"), 0);
    bench.wire.take();
    bench.drops(&arp(ArpOperation::Reply, PEER_MAC, Ipv4Address::UNSPECIFIED, OUR), "bad_arp");
    bench.drops(&arp(ArpOperation::Request, PEER_MAC, Ipv4Address::new(224, 0, 0, 1), OUR), "bad_arp");
    bench.drops(&arp(ArpOperation::Request, PEER_MAC, Ipv4Address::new(10, 0, 0, 255), OUR), "bad_arp");
    bench.drops(&arp(ArpOperation::Unknown(8), PEER_MAC, PEER, OUR), "bad_arp");
    let mut group = arp(ArpOperation::Request, PEER_MAC, PEER, OUR);
    group[22] |= 1;
    bench.drops(&group, "bad_arp");
    let mut hardware = arp(ArpOperation::Request, PEER_MAC, PEER, OUR);
    hardware[15] = 6;
    bench.drops(&hardware, "bad_arp");
}

#[test]
fn a_flood_of_requests_is_bounded_and_spares_neighbours_in_use() {
    let mut small = config();
    small.addresses = vec![IpCidr::new(OUR.into(), 8)];
    small.limits.neighbours = 64;
    let mut bench = Bench::acquainted(small);
    for n in 0..20_000u32 {
        let host = Ipv4Address::from_bits(0x0a01_0000 + n);
        let mac = EthernetAddress([2, 1, 0, 0, (n >> 8) as u8, n as u8]);
        bench.receive(&arp(ArpOperation::Request, mac, host, OUR));
        if n % 16 == 0 {
            assert_eq!(bench.link.next_hop(bench.now, PEER.into(), &mut bench.wire), NextHop::Mac(PEER_MAC));
        }
        bench.wire.take();
    }
    assert_eq!(bench.counter("neighbours"), 64);
    assert_eq!(bench.counter("neighbour_evicted"), 20_001 - 64);
}

#[test]
fn our_addresses_are_probed_announced_and_defended() {
    let now = Time::from_ns(0);
    let mut bench = Bench { link: Link::new(&config(), now), wire: Wire::default(), now };
    assert_eq!(bench.events(), [Event::AddressAdded(IpCidr::new(OUR.into(), 24))]);
    bench.wait(Duration::from_secs(10));
    let said: Vec<_> = bench.wire.take().iter().map(|f| parse_arp(f)).collect();
    let request = ArpOperation::Request;
    assert_eq!(said, [(request, Ipv4Address::UNSPECIFIED, OUR), (request, OUR, OUR), (request, OUR, OUR)]);
    for _ in 0..5 {
        bench.receive(&arp(ArpOperation::Reply, PEER_MAC, OUR, PEER));
    }
    assert_eq!(bench.counter("address_conflicts"), 5);
    assert_eq!(
        bench.events(),
        [Event::Conflict { address: OUR.into(), mac: PEER_MAC }],
        "once in ten seconds"
    );
    let defence = bench.wire.take();
    assert_eq!(defence.len(), 1);
    assert_eq!(parse_arp(&defence[0]), (request, OUR, OUR));
    assert_eq!(bench.counter("neighbours"), 0, "our address is nobody's");
}

#[test]
fn what_cannot_leave_is_counted() {
    let mut bench = Bench::acquainted(config());
    bench.wire.full = true;
    assert_eq!(bench.send(PEER.into(), 8), Err(crate::error::SendError::NoBuffers));
    assert_eq!(bench.counter("tx_no_room"), 1);
}
