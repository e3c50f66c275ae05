//! The published verification suite, the definition bit by bit as an oracle, and packets of every kind.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;

/// Key and figures of Microsoft's "Verifying the RSS Hash Calculation", which data sheets of NICs repeat.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Source, destination, hash over the addresses, hash over addresses and ports.
const SUITE: [(&str, &str, u32, u32); 8] = [
    ("66.9.149.187:2794", "161.142.100.80:1766", 0x323e_8fc2, 0x51cc_c178),
    ("199.92.111.2:14230", "65.69.140.83:4739", 0xd718_262a, 0xc626_b0ea),
    ("24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0_a5de, 0x5c2b_394a),
    ("38.27.205.30:48228", "209.142.163.6:2217", 0x8298_9176, 0xafc7_327f),
    ("153.39.163.191:44251", "202.188.127.2:1303", 0x5d18_09c5, 0x10e8_28a2),
    ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc1_8cd5, 0x4020_7d3d),
    ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c_461c, 0xdde5_1bbf),
    (
        "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
        "[fe80::200:f8ff:fe21:67cf]:38024",
        0x4b61_e985,
        0x02d1_feef,
    ),
];

/// A frame of `protocol` between the two, with `tags` VLAN tags.
fn frame(from: SocketAddr, to: SocketAddr, protocol: u8, tags: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    (0..tags).for_each(|_| frame.extend([0x81, 0, 0, 5]));
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        _ => panic!("one family"),
    }
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend([0; 16]);
    frame
}

/// The definition, one bit after the other.
fn by_definition(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let mut hash = 0;
    for at in (0..8 * input.len()).filter(|at| bit(input, *at)) {
        hash ^= (0..32).fold(0, |window, ahead| window << 1 | u32::from(bit(key, at + ahead)));
    }
    hash
}

#[test]
fn the_published_verification_suite_holds() {
    for (from, to, addresses, ports) in SUITE {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let reports = match from {
            SocketAddr::V4(_) => [HashReport::TcpV4, HashReport::UdpV4, HashReport::Ipv4],
            SocketAddr::V6(_) => [HashReport::TcpV6, HashReport::UdpV6, HashReport::Ipv6],
        };
        let all = Hasher::new(hash_type::SUPPORTED, &KEY).unwrap();
        let only_ip = Hasher::new(hash_type::IPV4 | hash_type::IPV6, &KEY).unwrap();
        for tags in 0..3 {
            assert_eq!(all.hash(&frame(from, to, TCP, tags)), Some((ports, reports[0])));
            assert_eq!(all.hash(&frame(from, to, UDP, tags)), Some((ports, reports[1])));
            assert_eq!(all.hash(&frame(from, to, 1, tags)), Some((addresses, reports[2])));
            assert_eq!(only_ip.hash(&frame(from, to, TCP, tags)), Some((addresses, reports[2])));
        }
        assert_eq!(all.hash(&frame(from, to, TCP, 3)), None, "three tags are none of ours");
    }
}

#[test]
fn an_answer_has_the_hash_that_its_question_says() {
    let all = Hasher::new(hash_type::SUPPORTED, &KEY).unwrap();
    for (from, to, addresses, ports) in SUITE {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        for (protocol, hash) in [(TCP, ports), (UDP, ports), (1, addresses)] {
            assert_eq!(all.answered(&frame(to, from, protocol, 1)), Some(hash));
        }
    }
    assert_eq!(all.answered(&[0; 60]), None);
}

#[test]
fn fragments_go_by_their_addresses_and_what_is_not_asked_for_gets_no_hash() {
    let (from, to) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:2000".parse().unwrap());
    let all = Hasher::new(hash_type::SUPPORTED, &KEY).unwrap();
    for fragment in [[0x20, 0], [0, 1], [0x20, 5]] {
        let mut frame = frame(from, to, UDP, 0);
        frame[20..22].copy_from_slice(&fragment);
        assert_eq!(all.hash(&frame).unwrap().1, HashReport::Ipv4);
        let transport = Hasher::new(hash_type::TRANSPORT, &KEY).unwrap();
        assert_eq!(transport.hash(&frame), None);
    }
    // Too short for ports, or for anything.
    let whole = frame(from, to, TCP, 0);
    assert_eq!(all.hash(&whole[..37]).unwrap().1, HashReport::Ipv4);
    assert_eq!(all.hash(&whole[..33]), None);
    assert_eq!(all.hash(&[]), None);
    let mut arp = whole;
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(all.hash(&arp), None);
}

#[test]
fn extension_headers_are_looked_past_but_not_for_ever() {
    let (from, to) = ("[2001:db8::1]:1000".parse().unwrap(), "[2001:db8::2]:2000".parse().unwrap());
    let plain = frame(from, to, TCP, 0);
    let all = Hasher::new(hash_type::SUPPORTED, &KEY).unwrap();
    let with = |count: usize, kind: u8| {
        let mut frame = plain.clone();
        let transport = frame.split_off(14 + 40);
        frame[14 + 6] = kind;
        for at in 0..count {
            frame.extend([if at + 1 == count { TCP } else { kind }, 0, 0, 0, 0, 0, 0, 0]);
        }
        frame.extend(transport);
        frame
    };
    for kind in [0, 43, 60] {
        assert_eq!(all.hash(&with(1, kind)), all.hash(&plain));
        assert_eq!(all.hash(&with(MAX_EXTENSIONS, kind)), all.hash(&plain));
        assert_eq!(all.hash(&with(MAX_EXTENSIONS + 1, kind)).unwrap().1, HashReport::Ipv6);
    }
    assert_eq!(all.hash(&with(1, 44)).unwrap().1, HashReport::Ipv6, "a fragment");
}

#[test]
fn the_table_deals_by_the_lower_bits_and_the_rest_goes_where_it_is_told() {
    let config = RssConfig {
        hash_types: hash_type::TRANSPORT,
        table: (0..8).map(|entry| entry % 3).collect(),
        unclassified_queue: 2,
        transmit_queues: 3,
        key: KEY.to_vec(),
    };
    let rss = Rss::new(&config, 3).unwrap();
    for (from, to, _, hash) in SUITE {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(rss.place(&frame(from, to, TCP, 0)).0, (hash & 7) as u16 % 3);
        assert_eq!(rss.place(&frame(from, to, 1, 0)), (2, None));
    }
    let wrong = |change: fn(&mut RssConfig)| {
        let mut config = config.clone();
        change(&mut config);
        Rss::new(&config, 3).unwrap_err()
    };
    assert_eq!(wrong(|config| config.table.clear()), RssError::Table { entries: 0 });
    assert_eq!(wrong(|config| config.table.truncate(3)), RssError::Table { entries: 3 });
    assert_eq!(wrong(|config| config.table = vec![0; 256]), RssError::Table { entries: 256 });
    assert_eq!(wrong(|config| config.table[5] = 3), RssError::Queue { queue: 3, pairs: 3 });
    assert_eq!(wrong(|config| config.unclassified_queue = 9), RssError::Queue { queue: 9, pairs: 3 });
    assert_eq!(wrong(|config| config.transmit_queues = 4), RssError::Queue { queue: 3, pairs: 3 });
    assert_eq!(wrong(|config| config.transmit_queues = 0), RssError::Queue { queue: 0, pairs: 0 });
    assert_eq!(wrong(|config| config.key.clear()), RssError::Key { bytes: 0 });
    assert_eq!(wrong(|config| config.key.push(0)), RssError::Key { bytes: 41 });
    assert_eq!(wrong(|config| config.hash_types = 1 << 6), RssError::Types { types: 64 });
}

proptest! {
    #[test]
    fn the_tables_add_up_what_the_definition_does(
        key in prop::collection::vec(any::<u8>(), 1..=40),
        input in prop::collection::vec(any::<u8>(), 0..=36),
        word in any::<[u8; 2]>(),
    ) {
        prop_assert_eq!(Toeplitz::new(&key).unwrap().hash(&input), by_definition(&key, &input));
        let repeating = word.repeat(20);
        prop_assert_eq!(Toeplitz::new(&repeating).unwrap().hash(&input), by_definition(&repeating, &input));
    }

    #[test]
    fn no_bytes_are_too_wild_for_the_hash(
        front in prop::collection::vec(prop_oneof![Just(0x81_u8), Just(0), Just(8), Just(0x45), Just(60), any::<u8>()], 0..80),
        ethertype in prop_oneof![Just([8_u8, 0]), Just([0x86, 0xdd]), Just([0x81, 0])],
    ) {
        let mut frame = vec![0; 12];
        frame.extend(ethertype);
        frame.extend(front);
        let all = Hasher::new(hash_type::SUPPORTED, &KEY).unwrap();
        let none = Hasher::new(0, &KEY).unwrap();
        for len in 0..frame.len() {
            let _ = all.hash(&frame[..len]);
            prop_assert_eq!(none.hash(&frame[..len]), None);
        }
    }
}
