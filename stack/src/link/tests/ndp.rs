//! Neighbour discovery, duplicate address detection.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, Ipv6Repr, NdiscNeighborFlags, NdiscRepr};

use super::*;

pub(super) const ALL_NODES: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A frame from `PEER_MAC` with a message of neighbour discovery.
pub(super) fn frame(src: Ipv6Address, dst: Ipv6Address, repr: NdiscRepr<'_>) -> Vec<u8> {
    let repr = Icmpv6Repr::Ndisc(repr);
    let mut packet = vec![0; 40 + repr.buffer_len()];
    let ip = Ipv6Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: IpProtocol::Icmpv6,
        payload_len: repr.buffer_len(),
        hop_limit: 255,
    };
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
    let mut message = Icmpv6Packet::new_unchecked(&mut packet[40..]);
    repr.emit(&src, &dst, &mut message, &ChecksumCapabilities::default());
    let to = if dst.is_multicast() {
        let o = dst.octets();
        EthernetAddress([0x33, 0x33, o[12], o[13], o[14], o[15]])
    } else {
        OUR_MAC
    };
    ethernet(to, 0x86dd, &packet)
}

pub(super) fn group_of(target: Ipv6Address) -> Ipv6Address {
    let o = target.octets();
    Ipv6Address::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

/// A solicitation for `target`, to its group.
pub(super) fn solicit(src: Ipv6Address, target: Ipv6Address, mac: Option<EthernetAddress>) -> Vec<u8> {
    let repr = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: mac.map(Into::into) };
    frame(src, group_of(target), repr)
}

fn advert(target: Ipv6Address, mac: Option<EthernetAddress>, flags: NdiscNeighborFlags) -> Vec<u8> {
    let repr = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: mac.map(Into::into) };
    let dst = if flags.contains(NdiscNeighborFlags::SOLICITED) { OUR6 } else { ALL_NODES };
    frame(target, dst, repr)
}

/// Writes the ICMPv6 checksum of a frame anew.
pub(super) fn fix(frame: &mut [u8]) {
    let ip = Ipv6Packet::new_unchecked(&frame[14..]);
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    Icmpv6Packet::new_unchecked(&mut frame[54..]).fill_checksum(&src, &dst);
}

/// Source, destination and message of a frame of ours, its hop limit and checksum checked.
pub(super) fn parse(frame: &[u8]) -> (Ipv6Address, Ipv6Address, NdiscRepr<'_>) {
    let ip = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    assert_eq!((ip.hop_limit(), ip.next_header()), (255, IpProtocol::Icmpv6));
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    let message = Icmpv6Packet::new_checked(&frame[54..]).unwrap();
    let Ok(Icmpv6Repr::Ndisc(repr)) =
        Icmpv6Repr::parse(&src, &dst, &message, &ChecksumCapabilities::default())
    else {
        panic!("not neighbour discovery")
    };
    (src, dst, repr)
}

#[test]
fn solicitations_are_answered_and_teach() {
    let mut bench = Bench::new(config6());
    bench.receive(&solicit(PEER6, OUR6, Some(PEER_MAC)));
    let replies = bench.wire.take();
    assert_eq!(replies.len(), 1);
    assert_eq!(&replies[0][..6], PEER_MAC.as_bytes());
    let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    let said = NdiscRepr::NeighborAdvert { flags, target_addr: OUR6, lladdr: Some(OUR_MAC.into()) };
    assert_eq!(parse(&replies[0]), (OUR6, PEER6, said));
    bench.send(PEER6.into(), 8).unwrap();
    assert_eq!(&bench.wire.take()[0][..6], PEER_MAC.as_bytes());
    assert_eq!(bench.counter("nd_replies"), 1);
}

#[test]
fn a_probe_for_our_address_is_answered_to_everybody() {
    let mut bench = Bench::new(config6());
    bench.receive(&solicit(Ipv6Address::UNSPECIFIED, OUR6, None));
    let replies = bench.wire.take();
    assert_eq!(&replies[0][..6], &[0x33, 0x33, 0, 0, 0, 1]);
    let (src, dst, NdiscRepr::NeighborAdvert { flags, .. }) = parse(&replies[0]) else { panic!() };
    assert_eq!((src, dst, flags), (OUR6, ALL_NODES, NdiscNeighborFlags::OVERRIDE));
}

#[test]
fn packets_wait_for_an_advertisement() {
    let mut bench = Bench::new(config6());
    bench.send(PEER6.into(), 100).unwrap();
    let asked = bench.wire.take();
    assert_eq!(asked.len(), 1);
    assert_eq!(&asked[0][..6], &[0x33, 0x33, 0xff, 0, 0, 2]);
    let said = NdiscRepr::NeighborSolicit { target_addr: PEER6, lladdr: Some(OUR_MAC.into()) };
    assert_eq!(parse(&asked[0]), (OUR6, group_of(PEER6), said));
    bench.receive(&advert(PEER6, None, NdiscNeighborFlags::SOLICITED));
    assert!(bench.wire.take().is_empty(), "without an address it is no answer");
    bench.receive(&advert(PEER6, Some(PEER_MAC), NdiscNeighborFlags::SOLICITED));
    assert_eq!(bench.wire.take().len(), 1);
    assert_eq!(bench.events(), [Event::Resolved(PEER6.into())]);
}

#[test]
fn an_advertisement_without_override_does_not_replace() {
    let mut bench = Bench::acquainted(config6());
    let other = EthernetAddress([2, 0, 0, 0, 0, 9]);
    bench.receive(&advert(PEER6, Some(other), NdiscNeighborFlags::empty()));
    bench.send(PEER6.into(), 8).unwrap();
    assert_eq!(&bench.wire.take()[0][..6], PEER_MAC.as_bytes());
    bench.receive(&advert(PEER6, Some(other), NdiscNeighborFlags::OVERRIDE));
    bench.send(PEER6.into(), 8).unwrap();
    assert_eq!(&bench.wire.take()[0][..6], other.as_bytes());
    let stranger = Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);
    let before = bench.counter("neighbours");
    bench.receive(&advert(stranger, Some(other), NdiscNeighborFlags::OVERRIDE));
    assert_eq!(bench.counter("neighbours"), before, "nobody asked");
}

#[test]
fn messages_that_break_the_rules_are_dropped() {
    let mut bench = Bench::new(config6());
    let good = solicit(PEER6, OUR6, Some(PEER_MAC));
    let patch = |patch: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        patch(&mut frame);
        fix(&mut frame);
        frame
    };
    bench.drops(&patch(&|f| f[21] = 254), "bad_nd");
    bench.drops(&patch(&|f| f[55] = 1), "bad_nd");
    bench.drops(&patch(&|f| f[79] = 0), "bad_nd");
    bench.drops(&patch(&|f| f[79] = 2), "bad_nd");
    bench.drops(&patch(&|f| f[62] = 0xff), "bad_nd");
    let mut sum = good.clone();
    sum[56] ^= 1;
    bench.drops(&sum, "bad_icmp");
    bench.drops(&solicit(Ipv6Address::UNSPECIFIED, OUR6, Some(PEER_MAC)), "bad_nd");
    let repr = NdiscRepr::NeighborSolicit { target_addr: OUR6, lladdr: None };
    bench.drops(&frame(Ipv6Address::UNSPECIFIED, OUR6, repr), "bad_nd");
    let flags = NdiscNeighborFlags::SOLICITED;
    let repr = NdiscRepr::NeighborAdvert { flags, target_addr: PEER6, lladdr: None };
    bench.drops(&frame(PEER6, ALL_NODES, repr), "bad_nd");
    assert_eq!(bench.counter("neighbours"), 0);
}

#[test]
fn redirects_are_not_followed() {
    let mut bench = Bench::acquainted(config6());
    let repr = NdiscRepr::Redirect {
        target_addr: PEER6,
        dest_addr: Ipv6Address::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
        lladdr: Some(PEER_MAC.into()),
        redirected_hdr: None,
    };
    let redirect = frame(Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 9), OUR6, repr);
    bench.drops(&redirect, "redirects_ignored");
}

#[test]
fn static_addresses_are_probed_and_conflicts_reported() {
    let now = Time::from_ns(0);
    let mut bench = Bench { link: Link::new(&config6(), now), wire: Wire::default(), now };
    bench.wait(Duration::from_secs(5));
    let frames = bench.wire.take();
    let probes: Vec<_> = frames.iter().filter(|f| f[12] == 0x86).map(|f| parse(f)).collect();
    let probe = |target| NdiscRepr::NeighborSolicit { target_addr: target, lladdr: None };
    assert_eq!(probes[0], (Ipv6Address::UNSPECIFIED, group_of(OUR6), probe(OUR6)));
    assert_eq!(probes.len(), 2, "and one for the link-local address, no router solicitation");
    bench.events();
    bench.receive(&advert(OUR6, Some(PEER_MAC), NdiscNeighborFlags::OVERRIDE));
    assert_eq!(bench.events(), [Event::Conflict { address: OUR6.into(), mac: PEER_MAC }]);
    let frames = bench.wire.take();
    let (src, dst, _) = parse(&frames[0]);
    assert_eq!((src, dst), (OUR6, ALL_NODES), "defended");
}

/// The link-local address that the bench has made itself.
fn link_local(bench: &Bench) -> Option<Ipv6Address> {
    bench.link.addresses().iter().find_map(|a| match a.address() {
        IpAddress::Ipv6(a) if a.is_unicast_link_local() => Some(a),
        _ => None,
    })
}

#[test]
fn the_link_local_address_is_stable_and_keyed() {
    let first = link_local(&Bench::new(config6())).unwrap();
    assert_eq!(link_local(&Bench::new(config6())), Some(first));
    let mut other = config6();
    other.seed = [8; 32];
    assert_ne!(link_local(&Bench::new(other)), Some(first));
    assert_eq!(link_local(&Bench::new(config())), None, "IPv6 is not in use");
}

#[test]
fn a_taken_link_local_address_is_given_up_for_another() {
    let wanted = link_local(&Bench::new(config6())).unwrap();
    let now = Time::from_ns(0);
    let mut bench = Bench { link: Link::new(&config6(), now), wire: Wire::default(), now };
    bench.link.turn(now, &mut bench.wire);
    // A question for a tentative address is not answered, a probe for it means that two want it.
    bench.wire.take();
    bench.receive(&solicit(PEER6, wanted, Some(PEER_MAC)));
    assert!(bench.wire.take().is_empty());
    bench.receive(&solicit(Ipv6Address::UNSPECIFIED, wanted, None));
    assert_eq!(bench.counter("dad_failed"), 1);
    bench.wait(Duration::from_secs(5));
    let second = link_local(&bench).unwrap();
    assert_ne!(second, wanted);
    // Somebody who has them all.
    let mut bench = Bench { link: Link::new(&config6(), now), wire: Wire::default(), now };
    for _ in 0..10 {
        bench.link.turn(bench.now, &mut bench.wire);
        for frame in bench.wire.take() {
            if frame[12] == 0x86
                && let (_, _, NdiscRepr::NeighborSolicit { target_addr, .. }) = parse(&frame)
                && target_addr.is_unicast_link_local()
            {
                let repr = NdiscRepr::NeighborAdvert {
                    flags: NdiscNeighborFlags::OVERRIDE,
                    target_addr,
                    lladdr: Some(PEER_MAC.into()),
                };
                bench.receive(&super::ndp::frame(target_addr, ALL_NODES, repr));
            }
        }
        bench.now += Duration::from_secs(1);
    }
    assert_eq!(bench.counter("dad_failed"), 4, "the first and three more");
    assert_eq!(link_local(&bench), None);
}
