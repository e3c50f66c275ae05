use super::*;

fn ms(ms: u64) -> Time {
    Time::from_ns(ms * 1_000_000)
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let mut limit = RateLimit::new(100, 5);
    assert_eq!((0..20).filter(|_| limit.take(ms(1000))).count(), 5);
    assert_eq!((0..20).filter(|_| limit.take(ms(1020))).count(), 2);
    let mut taken = 0;
    for n in 0..2000 {
        taken += usize::from(limit.take(ms(1030 + n)));
    }
    assert!((199..=202).contains(&taken), "{taken} in two seconds");
    assert_eq!((0..20).filter(|_| limit.take(ms(60_000))).count(), 5, "no more than the burst after a rest");
}

#[test]
fn limits_of_nothing_and_of_too_much_do_not_overflow() {
    let mut none = RateLimit::new(0, 1);
    assert!(none.take(ms(0)), "one a second is the least");
    assert!(!none.take(ms(1)));
    let mut unlimited = RateLimit::new(u64::MAX, 50);
    assert!((0..1000).all(|_| unlimited.take(ms(0))));
    assert!(RateLimit::new(1, 50).take(Time::from_ns(u64::MAX)));
}

#[test]
fn codes_mean_what_the_standards_say() {
    let v4 = |message, code| problem_v4(message, code, [0, 0, 0x05, 0x78]);
    assert_eq!(v4(Icmpv4Message::DstUnreachable, 4), Some(IcmpProblem::TooBig { mtu: 1400 }));
    for (code, why) in [
        (0, Unreachable::Network),
        (1, Unreachable::Host),
        (2, Unreachable::Protocol),
        (3, Unreachable::Port),
        (6, Unreachable::Network),
        (9, Unreachable::Prohibited),
        (10, Unreachable::Prohibited),
        (13, Unreachable::Prohibited),
        (200, Unreachable::Host),
    ] {
        assert_eq!(v4(Icmpv4Message::DstUnreachable, code), Some(IcmpProblem::Unreachable(why)), "{code}");
    }
    assert_eq!(v4(Icmpv4Message::EchoReply, 0), None);
    let v6 = |message, code| problem_v6(message, code, [0, 0, 0x05, 0x78]);
    assert_eq!(v6(Icmpv6Message::PktTooBig, 0), Some(IcmpProblem::TooBig { mtu: 1400 }));
    for (message, code, why) in [
        (Icmpv6Message::DstUnreachable, 0, Unreachable::Network),
        (Icmpv6Message::DstUnreachable, 1, Unreachable::Prohibited),
        (Icmpv6Message::DstUnreachable, 3, Unreachable::Host),
        (Icmpv6Message::DstUnreachable, 4, Unreachable::Port),
        (Icmpv6Message::TimeExceeded, 1, Unreachable::TimeExceeded),
        (Icmpv6Message::ParamProblem, 1, Unreachable::Protocol),
        (Icmpv6Message::ParamProblem, 0, Unreachable::Other),
    ] {
        assert_eq!(v6(message, code), Some(IcmpProblem::Unreachable(why)), "{message} {code}");
    }
    assert_eq!(v6(Icmpv6Message::EchoReply, 0), None);
}

#[test]
fn embedded_packets_of_any_length_are_read_or_refused() {
    let problem = IcmpProblem::Unreachable(Unreachable::Port);
    let mut v4 = vec![0x45, 0, 0xff, 0xff, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    v4.extend([0x13, 0x88, 0, 7, 0, 0, 0, 0]);
    for len in 0..v4.len() {
        assert_eq!(embedded(false, problem, &v4[..len]).is_some(), len >= 24, "{len}");
    }
    let error = embedded(false, problem, &v4).unwrap();
    assert_eq!(error.local, IpEndpoint::new(IpAddress::v4(10, 0, 0, 1), 5000));
    assert_eq!(error.remote, IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), 7));
    // IPv6 behind a fragment header, first and later fragment.
    let mut v6 = vec![0x60, 0, 0, 0, 0xff, 0xff, 44, 64];
    v6.extend([0; 32]);
    v6.extend([17, 0, 0, 1, 1, 2, 3, 4, 0x13, 0x88, 0, 7]);
    assert_eq!(embedded(true, problem, &v6).map(|e| (e.local.port, e.remote.port)), Some((5000, 7)));
    for len in 0..v6.len() {
        assert_eq!(embedded(true, problem, &v6[..len]), None, "{len}");
    }
    v6[43] = 9;
    assert_eq!(embedded(true, problem, &v6), None);
    assert_eq!(embedded(false, problem, &v6), None, "versions do not mix");
}

#[test]
fn errors_quote_what_fits() {
    assert_eq!(error_len(false, 20), 28);
    assert_eq!(error_len(false, 1500), 556);
    assert_eq!(error_len(true, 1500), 1240);
    let (head, tail) = ([1; 20], [2; 1000]);
    let (src, dst) = (IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2));
    let mut out = vec![0xee; error_len(false, 1020)];
    write_error(ErrorKind::PortUnreachable, src, dst, &head, &tail, &mut out);
    assert_eq!(out[..2], [3, 3]);
    assert_eq!(out[4..8], [0; 4]);
    assert_eq!((&out[8..28], &out[28..]), (&head[..], &tail[..528]));
    assert!(Icmpv4Packet::new_unchecked(&out[..]).verify_checksum());
}
