//! ICMP: echo, errors about what came, errors about what left.

use super::*;
use crate::icmp::Unreachable;

/// A checksum over `bytes` and what else it covers is right if the sum of all is zero.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn sum6(frame: &[u8]) -> u16 {
    let len = u32::try_from(frame.len() - 54).unwrap().to_be_bytes();
    sum(&[&frame[22..54], &len, &[0, 0, 0, 58], &frame[54..]])
}

#[test]
fn echo_requests_are_answered() {
    let mut bench = Bench::acquainted(config6());
    bench.receive(&ping(b"payload"));
    bench.receive(&ping6(b"payload"));
    let replies = bench.wire.take();
    let mut expected = ping(b"payload")[34..].to_vec();
    expected[0] = 0;
    expected[2..4].copy_from_slice(&replies[0][36..38]);
    assert_eq!(replies[0][34..], expected);
    assert_eq!((&replies[0][26..30], &replies[0][30..34]), (&OUR.octets()[..], &PEER.octets()[..]));
    assert_eq!(sum(&[&replies[0][34..]]), 0);
    let mut expected = ping6(b"payload")[54..].to_vec();
    expected[0] = 129;
    expected[2..4].copy_from_slice(&replies[1][56..58]);
    assert_eq!(replies[1][54..], expected);
    assert_eq!(sum6(&replies[1]), 0);
}

#[test]
fn a_thousand_pings_a_second_are_all_answered_and_a_flood_is_not() {
    let mut bench = Bench::acquainted(config());
    for _ in 0..3000 {
        bench.receive(&ping(b""));
        bench.now += Duration::from_millis(1);
    }
    assert_eq!(bench.wire.take().len(), 3000);
    for _ in 0..100_000 {
        bench.receive(&ping(b""));
    }
    let answered = bench.wire.take().len() as u64;
    assert!((1000..=3000).contains(&answered), "{answered}");
    assert_eq!(bench.counter("echo_limited"), 100_000 - answered);
}

#[test]
fn echo_requests_to_everybody_are_not_answered() {
    let mut bench = Bench::acquainted(config());
    let mut frame = patched(&ping(b""), |f| f[30..34].fill(0xff));
    frame[..6].fill(0xff);
    bench.drops(&frame, "icmp_ignored");
}

#[test]
fn broken_messages_are_dropped() {
    let mut bench = Bench::acquainted(config6());
    let mut frame = ping(b"x");
    frame[42] ^= 1;
    bench.drops(&frame, "bad_icmp");
    let mut frame = ping6(b"x");
    frame[62] ^= 1;
    bench.drops(&frame, "bad_icmp");
    let short = patched(&ping(b"")[..41], |f| f[17] = 27);
    bench.drops(&short, "bad_icmp");
}

#[test]
fn pings_leave_and_replies_come_up() {
    let mut bench = Bench::acquainted(config6());
    for (to, kind, offset) in [(IpAddress::from(PEER), 8, 34), (IpAddress::from(PEER6), 128, 54)] {
        bench.link.ping(bench.now, to, (0xabcd, 3), b"data", &mut bench.wire).unwrap();
        let frame = bench.wire.take().remove(0);
        assert_eq!(frame[offset], kind);
        assert_eq!(frame[offset + 4..], *b"\xab\xcd\x00\x03data");
    }
    let mut reply = ping(b"data");
    reply[34] = 0;
    reply[36..38].fill(0);
    let check = sum(&[&reply[34..]]);
    reply[36..38].copy_from_slice(&check.to_be_bytes());
    let Ingress::EchoReply { packet, ident, seq } = bench.receive(&reply) else { panic!("no reply") };
    assert_eq!((ident, seq, &packet.payload()[8..]), (0x1234, 9, &b"data"[..]));
    assert_eq!(packet.src, PEER.into());
}

#[test]
fn unknown_protocols_are_refused_politely() {
    let mut bench = Bench::acquainted(config6());
    let odd = patched(&udp(b"data"), |f| f[23] = 132);
    bench.receive(&odd);
    let error = bench.wire.take().remove(0);
    assert_eq!(error[34..36], [3, 2]);
    assert_eq!(error[42..], odd[14..]);
    assert_eq!(sum(&[&error[34..]]), 0);
    let mut odd = udp6(b"data");
    odd[20] = 132;
    bench.receive(&odd);
    let error = bench.wire.take().remove(0);
    assert_eq!(error[54..56], [4, 1], "parameter problem, unrecognized next header");
    assert_eq!(error[58..62], [0, 0, 0, 6], "its place");
    assert_eq!(error[62..], odd[14..]);
    assert_eq!(sum6(&error), 0);
    assert_eq!(bench.counter("unknown_protocol"), 2);
}

#[test]
fn errors_are_rate_limited_and_never_about_broadcasts() {
    let mut bench = Bench::acquainted(config());
    let odd = patched(&udp(b"data"), |f| f[23] = 132);
    for _ in 0..1000 {
        bench.receive(&odd);
    }
    assert_eq!(bench.wire.take().len(), 50);
    assert_eq!(bench.counter("icmp_errors_limited"), 950);
    bench.now += Duration::from_secs(1);
    let mut broadcast = patched(&odd, |f| f[30..34].fill(0xff));
    broadcast[..6].fill(0xff);
    bench.drops(&broadcast, "unknown_protocol");
}

/// An ICMP error from a router about the packet in `frame`, a frame that we sent.
fn error_about(frame: &[u8], kind: u8, code: u8, word: u32) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(&frame[14..]);
    let check = sum(&[&message]);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv4(GATEWAY.octets(), OUR.octets(), 60)
        .write(&mut packet, etherparse::IpNumber::ICMP, &message)
        .unwrap();
    packet
}

fn error6_about(frame: &[u8], kind: u8, code: u8, word: u32) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(&frame[14..]);
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv6(PEER6.octets(), OUR6.octets(), 60)
        .write(&mut packet, etherparse::IpNumber::IPV6_ICMP, &message)
        .unwrap();
    super::ndp::fix(&mut packet);
    packet
}

/// A datagram of ours, as the peer would see it.
fn ours(bench: &mut Bench) -> Vec<u8> {
    bench.send(PEER.into(), 40).unwrap();
    bench.wire.take().remove(0)
}

#[test]
fn errors_about_our_packets_come_up_with_their_endpoints() {
    let mut bench = Bench::acquainted(config6());
    let sent = ours(&mut bench);
    let word = |at: usize| u16::from_be_bytes([sent[at], sent[at + 1]]);
    for (kind, code, why) in [
        (3, 0, Unreachable::Network),
        (3, 1, Unreachable::Host),
        (3, 2, Unreachable::Protocol),
        (3, 3, Unreachable::Port),
        (3, 13, Unreachable::Prohibited),
        (11, 0, Unreachable::TimeExceeded),
        (12, 0, Unreachable::Other),
    ] {
        let Ingress::IcmpError(error) = bench.receive(&error_about(&sent, kind, code, 0)) else {
            panic!("{kind}, {code}")
        };
        assert_eq!(error.problem, IcmpProblem::Unreachable(why));
        assert_eq!((error.protocol, error.tcp_seq), (IpProtocol::Udp, None));
        assert_eq!((error.local.addr, error.local.port), (OUR.into(), word(34)));
        assert_eq!((error.remote.addr, error.remote.port), (PEER.into(), word(36)));
    }
    let Ingress::IcmpError(error) = bench.receive(&error_about(&sent, 3, 4, 1400)) else { panic!() };
    assert_eq!(error.problem, IcmpProblem::TooBig { mtu: 1400 });
    // With as little of the packet as a router may quote (RFC 792).
    let Ingress::IcmpError(_) = bench.receive(&error_about(&sent[..42], 3, 3, 0)) else { panic!() };
    let tcp = patched(&sent, |f| f[23] = 6);
    let Ingress::IcmpError(error) = bench.receive(&error_about(&tcp, 3, 1, 0)) else { panic!() };
    assert_eq!(error.tcp_seq, Some(u32::from(word(38)) << 16 | u32::from(word(40))));
    bench.send(PEER6.into(), 40).unwrap();
    let sent = bench.wire.take().remove(0);
    let Ingress::IcmpError(error) = bench.receive(&error6_about(&sent, 2, 0, 1300)) else { panic!() };
    assert_eq!(error.problem, IcmpProblem::TooBig { mtu: 1300 });
    assert_eq!(error.local.addr, OUR6.into());
    let Ingress::IcmpError(error) = bench.receive(&error6_about(&sent, 1, 4, 0)) else { panic!() };
    assert_eq!(error.problem, IcmpProblem::Unreachable(Unreachable::Port));
}

#[test]
fn errors_about_pings_name_the_ping() {
    let mut bench = Bench::acquainted(config());
    bench.link.ping(bench.now, PEER.into(), (77, 5), b"", &mut bench.wire).unwrap();
    let sent = bench.wire.take().remove(0);
    let Ingress::IcmpError(error) = bench.receive(&error_about(&sent, 11, 0, 0)) else { panic!() };
    assert_eq!((error.local.port, error.remote.port, error.protocol), (77, 5, IpProtocol::Icmp));
}

#[test]
fn errors_about_what_we_never_sent_are_dropped() {
    let mut bench = Bench::acquainted(config());
    let sent = ours(&mut bench);
    let of = |patch: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = sent.clone();
        patch(&mut frame);
        error_about(&frame, 3, 3, 0)
    };
    bench.drops(&of(&|f| f[26..30].copy_from_slice(&FAR.octets())), "icmp_error_unrelated");
    bench.drops(&of(&|f| f[30..34].fill(0xff)), "icmp_error_unrelated");
    bench.drops(&of(&|f| f[14] = 0x65), "icmp_error_unrelated");
    bench.drops(&of(&|f| f[14] = 0x4f), "icmp_error_unrelated");
    bench.drops(&of(&|f| f[21] = 1), "icmp_error_unrelated");
    bench.drops(&of(&|f| f.truncate(35)), "icmp_error_unrelated");
    // An error about an error, and about an echo reply.
    bench.drops(&of(&|f| (f[23], f[34]) = (1, 3)), "icmp_error_unrelated");
    bench.drops(&of(&|f| (f[23], f[34]) = (1, 0)), "icmp_error_unrelated");
}

#[test]
fn a_lowered_path_mtu_cuts_what_follows_and_expires() {
    let mut bench = Bench::acquainted(config6());
    let peer = IpAddress::from(PEER);
    assert_eq!(bench.link.path_mtu(peer), 1500);
    assert_eq!(bench.link.lower_path_mtu(bench.now, peer, 1300), Some(1300));
    assert_eq!((bench.link.path_mtu(peer), bench.link.path_mtu(FAR.into())), (1300, 1500));
    bench.send(peer, 1400).unwrap();
    let frames = bench.wire.take();
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().all(|f| f.len() <= 1314));
    bench.wait(Duration::from_secs(601));
    assert_eq!(bench.link.path_mtu(peer), 1500);
    assert_eq!(bench.counter("path_mtu_lowered"), 1);
}
