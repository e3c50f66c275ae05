//! Ethernet, VLAN and IP header rules on the way in.

use super::*;

#[track_caller]
fn assert_udp(ingress: Ingress<'_>, data: &[u8]) {
    let Ingress::Udp(packet) = ingress else { panic!("{ingress:?} is not UDP") };
    assert_eq!(&packet.payload()[8..], data);
}

#[test]
fn datagrams_for_us_pass_without_padding_or_options() {
    let mut bench = Bench::new(config6());
    assert_udp(bench.receive(&udp(b"hello")), b"hello");
    assert_udp(bench.receive(&udp6(b"hello")), b"hello");
    let mut padded = udp(b"x");
    padded.resize(60, 0xee);
    assert_udp(bench.receive(&padded), b"x");
    let mut padded = udp6(b"x");
    padded.resize(80, 0xee);
    assert_udp(bench.receive(&padded), b"x");
    // Four bytes of options: three no-operations and an end.
    let mut options = udp(b"abc");
    options.splice(34..34, [1, 1, 1, 0]);
    let options = patched(&options, |f| {
        f[14] = 0x46;
        f[17] += 4;
    });
    assert_udp(bench.receive(&options), b"abc");
    // A TTL of 0 is not a host's business.
    assert_udp(bench.receive(&patched(&udp(b"ttl"), |f| f[22] = 0)), b"ttl");
}

#[test]
fn only_our_station_broadcast_and_our_groups_pass_the_filter() {
    let mut bench = Bench::new(config6());
    let mut frame = udp(b"");
    frame[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    bench.drops(&frame, "not_for_us");
    for group in [[0x01, 0, 0x5e, 0, 0, 9], [0x33, 0x33, 0, 0, 0, 2], [0x33, 0x33, 0xff, 0, 0, 9]] {
        frame[..6].copy_from_slice(&group);
        bench.drops(&frame, "not_for_us");
    }
    // Members, but a unicast address inside a group frame is an amplifier's trick.
    for group in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [0x33, 0x33, 0xff, 0, 0, 1], [1, 0, 0x5e, 0, 0, 1]] {
        frame[..6].copy_from_slice(&group);
        bench.drops(&frame, "broadcast_mismatch");
    }
    let mut own = udp(b"");
    own[6..12].copy_from_slice(OUR_MAC.as_bytes());
    bench.drops(&own, "bad_ethernet_source");
    own[6..12].copy_from_slice(&[0xff; 6]);
    bench.drops(&own, "bad_ethernet_source");
}

#[test]
fn broadcasts_reach_udp_but_not_tcp() {
    let mut bench = Bench::new(config());
    for dst in [Ipv4Address::BROADCAST, Ipv4Address::new(10, 0, 0, 255), Ipv4Address::new(224, 0, 0, 1)] {
        let mut frame = udp_between(PEER, dst, b"all");
        frame[..6].fill(0xff);
        assert_udp(bench.receive(&frame), b"all");
        let tcp = patched(&frame, |f| f[23] = 6);
        bench.drops(&tcp, "not_our_address");
    }
}

#[test]
fn untagged_and_tagged_worlds_are_apart() {
    let tag = |vid: u16| {
        let mut frame = udp(b"tagged");
        let [a, b] = vid.to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, a, b]);
        frame
    };
    let mut plain = Bench::new(config());
    plain.drops(&tag(5), "wrong_vlan");
    assert_udp(plain.receive(&tag(0xe000)), b"tagged");
    let mut config = config();
    config.vlan = Some(5);
    let mut bench = Bench::new(config);
    bench.drops(&udp(b""), "wrong_vlan");
    bench.drops(&tag(6), "wrong_vlan");
    bench.drops(&tag(0), "wrong_vlan");
    assert_udp(bench.receive(&tag(5)), b"tagged");
    assert_udp(bench.receive(&tag(0x6005)), b"tagged");
    bench.drops(&tag(5)[..16], "frame_truncated");
    // And answers carry the tag.
    let mut request = arp(ArpOperation::Request, PEER_MAC, PEER, OUR);
    request.splice(12..12, [0x81, 0x00, 0, 5]);
    bench.receive(&request);
    let replies = bench.wire.take();
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0][12..18], [0x81, 0x00, 0, 5, 0x08, 0x06]);
    assert_eq!(replies[0].len(), 18 + 28);
    assert_eq!(bench.link.header_len(), 18);
}

#[test]
fn other_ethertypes_are_counted() {
    let mut bench = Bench::new(config());
    bench.drops(&ethernet(OUR_MAC, 0x88cc, &[0; 46]), "unknown_ethertype");
    bench.drops(&ethernet(OUR_MAC, 46, &[0; 46]), "unknown_ethertype");
    bench.drops(&[0; 13], "frame_truncated");
    bench.drops(&[], "frame_truncated");
}

#[test]
fn ipv4_headers_that_contradict_themselves_are_dropped() {
    let mut bench = Bench::new(config());
    let good = udp(b"data");
    bench.drops(&patched(&good, |f| f[14] = 0x55), "bad_ip_header");
    bench.drops(&patched(&good, |f| f[14] = 0x44), "bad_ip_header");
    bench.drops(&patched(&good, |f| f[16..18].copy_from_slice(&[0, 19])), "bad_ip_header");
    bench.drops(&patched(&good, |f| f[17] += 1), "ip_truncated");
    let mut wrong_sum = good.clone();
    wrong_sum[24] ^= 1;
    bench.drops(&wrong_sum, "bad_ip_checksum");
    bench.drops(&good[..33], "bad_ip_header");
}

#[test]
fn ipv6_headers_that_contradict_themselves_are_dropped() {
    let mut bench = Bench::new(config6());
    let good = udp6(b"data");
    let patch = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    bench.drops(&patch(14, 0x40), "bad_ip_header");
    bench.drops(&patch(19, 200), "ip_truncated");
    bench.drops(&good[..53], "bad_ip_header");
}

#[test]
fn impossible_sources_are_dropped() {
    let mut bench = Bench::new(config6());
    for src in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
        [10, 0, 0, 255],
        OUR.octets(),
    ] {
        bench.drops(&udp_between(Ipv4Address::from(src), OUR, b""), "bad_source_address");
    }
    let mut frame = udp6(b"");
    for src in [
        Ipv6Address::UNSPECIFIED,
        Ipv6Address::LOCALHOST,
        Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Address::new(0, 0, 0, 0, 0, 0xffff, 0x0102, 0x0304),
        OUR6,
    ] {
        frame[22..38].copy_from_slice(&src.octets());
        bench.drops(&frame, "bad_source_address");
    }
}

#[test]
fn other_hosts_packets_are_dropped() {
    let mut bench = Bench::new(config6());
    bench.drops(&udp_between(PEER, Ipv4Address::new(10, 0, 0, 9), b""), "not_our_address");
    bench.drops(&udp_between(PEER, Ipv4Address::new(127, 0, 0, 1), b""), "not_our_address");
    bench.drops(&udp_between(PEER, Ipv4Address::new(224, 0, 0, 251), b""), "not_our_address");
    let mut frame = udp6(b"");
    frame[53] = 9;
    bench.drops(&frame, "not_our_address");
}

#[test]
fn dhcp_passes_before_there_is_an_address() {
    let mut dhcp = config();
    dhcp.addresses.clear();
    dhcp.gateways.clear();
    dhcp.dhcp = true;
    let mut bench = Bench::new(dhcp);
    let offer = patched(&udp_between(GATEWAY, Ipv4Address::new(10, 0, 0, 77), b"offer"), |f| {
        f[34..38].copy_from_slice(&[0, 67, 0, 68]);
    });
    let Ingress::Dhcp(packet) = bench.receive(&offer) else { panic!("not for the client") };
    assert_eq!(&packet.payload()[8..], b"offer");
    bench.drops(&udp_between(GATEWAY, Ipv4Address::new(10, 0, 0, 77), b"other"), "not_our_address");
    let mut without = Bench::new(config());
    without.drops(&offer, "not_our_address");
}

/// An IPv6 packet to us with these extension headers: `(kind, bytes)`, the first byte of which is overwritten.
fn extended(headers: &[(u8, Vec<u8>)], last: u8) -> Vec<u8> {
    let mut frame = udp6(b"behind");
    let upper = frame.split_off(54);
    frame[20] = headers.first().map_or(last, |h| h.0);
    for (n, (_, bytes)) in headers.iter().enumerate() {
        let mut bytes = bytes.clone();
        bytes[0] = headers.get(n + 1).map_or(last, |h| h.0);
        frame.extend(bytes);
    }
    frame.extend(upper);
    let len = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame
}

#[test]
fn extension_headers_are_walked_within_bounds() {
    let mut bench = Bench::new(config6());
    let pad = || vec![0, 0, 1, 4, 0, 0, 0, 0];
    let routing = |left: u8| vec![0, 0, 4, left, 0, 0, 0, 0];
    assert_udp(bench.receive(&extended(&[(0, pad())], 17)), b"behind");
    assert_udp(
        bench.receive(&extended(&[(0, pad()), (60, pad()), (43, routing(0)), (60, pad())], 17)),
        b"behind",
    );
    // An atomic fragment.
    assert_udp(bench.receive(&extended(&[(44, vec![0, 0, 0, 0, 1, 2, 3, 4])], 17)), b"behind");
    let many: Vec<_> = (0..8).map(|_| (60, pad())).collect();
    assert_udp(bench.receive(&extended(&many, 17)), b"behind");
    let many: Vec<_> = (0..9).map(|_| (60, pad())).collect();
    bench.drops(&extended(&many, 17), "bad_extension_header");
    bench.drops(&extended(&[(60, pad()), (0, pad())], 17), "bad_extension_header");
    bench.drops(&extended(&[(43, routing(1))], 17), "source_routed");
    // Longer than the packet; an option longer than its header; an unknown option that demands a drop.
    bench.drops(&extended(&[(60, vec![0, 200, 1, 4, 0, 0, 0, 0])], 17), "bad_extension_header");
    bench.drops(&extended(&[(60, vec![0, 0, 1, 9, 0, 0, 0, 0])], 17), "bad_extension_header");
    bench.drops(&extended(&[(60, vec![0, 0, 0xc2, 4, 0, 0, 0, 0])], 17), "bad_extension_header");
    assert_udp(bench.receive(&extended(&[(60, vec![0, 0, 0x22, 4, 0, 0, 0, 0])], 17)), b"behind");
}

#[test]
fn a_packet_without_its_extension_headers_is_whole() {
    let mut bench = Bench::new(config6());
    let frame = extended(&[(0, vec![0, 0, 1, 4, 0, 0, 0, 0])], 17);
    let Ingress::Udp(packet) = bench.receive(&frame) else { panic!("not UDP") };
    assert_eq!(packet.bytes(), &udp6(b"behind")[14..]);
    bench.link.recycle(packet);
}
