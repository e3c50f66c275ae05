//! Whatever comes, nothing panics and memory stays bounded.

use proptest::prelude::*;

use super::ndp::solicit;
use super::*;

/// One valid frame of each kind.
fn frames() -> Vec<Vec<u8>> {
    let mut fragment = udp(&patterned(1000));
    fragment = patched(&fragment, |f| f[20] = 0x20);
    let mut extended = udp6(b"data");
    extended[20] = 0;
    extended.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    extended[19] += 8;
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend(&udp_between(OUR, PEER, b"data")[14..]);
    let mut unreachable = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv4(PEER.octets(), OUR.octets(), 64)
        .write(&mut unreachable, etherparse::IpNumber::ICMP, &error)
        .unwrap();
    smoltcp::wire::Icmpv4Packet::new_unchecked(&mut unreachable[34..]).fill_checksum();
    vec![
        udp(b"data"),
        udp6(b"data"),
        ping(b"data"),
        ping6(b"data"),
        arp(ArpOperation::Request, PEER_MAC, PEER, OUR),
        arp(ArpOperation::Reply, PEER_MAC, PEER, OUR),
        solicit(PEER6, OUR6, Some(PEER_MAC)),
        solicit(Ipv6Address::UNSPECIFIED, OUR6, None),
        fragment,
        extended,
        unreachable,
    ]
}

fn slaac6() -> StackConfig {
    let mut config = config6();
    config.slaac = true;
    config.limits.reassembly_bytes = 100_000;
    config.limits.neighbours = 32;
    config
}

/// With everything on that looks into packets, also what no configuration has together.
fn hostile() -> Bench {
    let mut bench = Bench::acquainted(slaac6());
    bench.link.dhcp = true;
    bench
}

fn assert_bounded(bench: &mut Bench) {
    assert!(bench.counter("neighbours") <= 32);
    assert!(bench.counter("pending") <= u64::from(PENDING_PACKETS));
    assert!(bench.counter("reassembly_bytes") <= 100_000);
    assert!(bench.events().len() <= 2 * 32 + PENDING_PACKETS as usize + 64);
    assert_eq!(bench.counter("events_lost"), 0);
    bench.wire.take();
}

/// Gives a packet back, as its user would.
fn finish(bench: &mut Bench, frame: &[u8]) {
    let ingress = bench.link.receive(bench.now, frame, &mut bench.wire);
    match ingress {
        Ingress::Tcp(packet) | Ingress::Udp(packet) | Ingress::Dhcp(packet) => {
            assert!(packet.payload().len() < packet.bytes().len());
            bench.link.recycle(packet);
        }
        Ingress::EchoReply { packet, .. } => bench.link.recycle(packet),
        Ingress::IcmpError(error) => assert!(bench.link.is_ours(error.local.addr)),
        Ingress::Consumed => {}
    }
}

#[test]
fn every_truncation_of_every_frame_is_survived() {
    let mut bench = hostile();
    for frame in frames() {
        for len in 0..frame.len() {
            finish(&mut bench, &frame[..len]);
        }
        assert_bounded(&mut bench);
    }
}

#[test]
fn every_byte_of_every_frame_may_be_wrong() {
    let mut bench = hostile();
    for frame in frames() {
        for at in 0..frame.len().min(120) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut frame = frame.clone();
                frame[at] = value;
                finish(&mut bench, &frame);
                // And with a header checksum that lets it in.
                if frame.len() >= 34
                    && frame[12..14] == [8, 0]
                    && usize::from(frame[14] & 15) * 4 + 14 <= frame.len()
                    && frame[14] & 15 >= 5
                {
                    fix_v4(&mut frame);
                    finish(&mut bench, &frame);
                }
                assert_bounded(&mut bench);
            }
        }
        bench.wait(Duration::from_millis(1500));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes behind a header that gets them past the filter.
    #[test]
    fn random_frames_are_survived(
        bodies in prop::collection::vec((0usize..6, prop::collection::vec(any::<u8>(), 0..200)), 1..40),
    ) {
        let mut bench = hostile();
        for (kind, body) in bodies {
            let frame = match kind {
                0 => body,
                1 => ethernet(OUR_MAC, 0x0800, &body),
                2 => ethernet(OUR_MAC, 0x86dd, &body),
                3 => ethernet(EthernetAddress::BROADCAST, 0x0806, &body),
                kind => {
                    // A right IPv4 or IPv6 header; the body picks protocol and, for IPv4, the fragment word.
                    let mut frame = if kind == 4 { udp(&body) } else { udp6(&body) };
                    let at = if kind == 4 { 34 } else { 54 };
                    frame.truncate(at);
                    frame.extend(&body);
                    let len = if kind == 4 { 20 + body.len() } else { body.len() };
                    let place = if kind == 4 { 16 } else { 18 };
                    frame[place..place + 2].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
                    let protocols = [0, 1, 2, 6, 17, 43, 44, 58, 60, 132];
                    let pick = protocols[usize::from(body.first().copied().unwrap_or(0)) % protocols.len()];
                    if kind == 4 {
                        frame[23] = pick;
                        frame[20] = body.get(1).copied().unwrap_or(0) & 0x3f;
                        fix_v4(&mut frame);
                    } else {
                        frame[20] = pick;
                        if pick == 58 && frame.len() >= 62 {
                            frame[21] = 255;
                            super::ndp::fix(&mut frame);
                        }
                    }
                    frame
                }
            };
            finish(&mut bench, &frame);
            assert_bounded(&mut bench);
        }
        bench.wait(Duration::from_secs(120));
        prop_assert!(bench.link.is_idle());
    }
}
