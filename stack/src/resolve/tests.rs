use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::wire::{DnsPacket, DnsQueryType, DnsQuestion};

use super::*;

const OURS: IpAddress = IpAddress::v4(10, 0, 0, 7);
const FIRST: IpAddress = IpAddress::v4(10, 0, 0, 53);
const SECOND: IpAddress = IpAddress::v4(10, 0, 0, 54);
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

fn seconds(seconds: u64) -> Time {
    Time::from_ns(seconds * 1_000_000_000)
}

/// One question that a server has got.
#[derive(Clone, Debug)]
struct Asked {
    server: IpAddress,
    source: IpAddress,
    port: u16,
    id: u16,
    name: Vec<u8>,
    kind: DnsQueryType,
}

/// The network as the resolver sees it.
struct Network {
    source: Option<IpAddress>,
    fits: fn(u16) -> bool,
    asked: Vec<Asked>,
}

impl Below for Network {
    fn source(&mut self, to: IpAddress) -> Option<IpAddress> {
        self.source.filter(|source| source.version() == to.version())
    }

    fn port_fits(&mut self, _local: IpAddress, port: u16, _server: IpAddress) -> bool {
        (self.fits)(port)
    }

    fn send(&mut self, repr: IpRepr, datagram: &[u8]) {
        let packet = UdpPacket::new_checked(datagram).unwrap();
        assert!(packet.verify_checksum(&repr.src_addr(), &repr.dst_addr()));
        assert_eq!((packet.dst_port(), repr.next_header()), (DNS_PORT, IpProtocol::Udp));
        assert_eq!(repr.payload_len(), datagram.len());
        let message = DnsPacket::new_checked(packet.payload()).unwrap();
        let (_, question) = DnsQuestion::parse(message.payload()).unwrap();
        self.asked.push(Asked {
            server: repr.dst_addr(),
            source: repr.src_addr(),
            port: packet.src_port(),
            id: message.transaction_id(),
            name: question.name.to_vec(),
            kind: question.type_,
        });
    }
}

fn network() -> Network {
    Network { source: Some(OURS), fits: |_| true, asked: Vec::new() }
}

fn resolver(servers: &[IpAddress]) -> Resolver {
    let mut resolver = Resolver::new([3; 16]);
    resolver.set_servers(servers);
    resolver
}

/// A record of type `kind` for the name at `name_at` of the message.
fn record(name_at: u16, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = (0xc000 | name_at).to_be_bytes().to_vec();
    record.extend(kind.to_be_bytes());
    record.extend(1_u16.to_be_bytes());
    record.extend(60_u32.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}

fn message(asked: &Asked, flags: u16, rcode: u8, records: &[Vec<u8>]) -> Vec<u8> {
    let mut message = asked.id.to_be_bytes().to_vec();
    message.extend((0x8180 | flags | u16::from(rcode)).to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    message.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    message.extend([0; 4]);
    message.extend(&asked.name);
    message.extend(u16::from(asked.kind).to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    for record in records {
        message.extend(record);
    }
    message
}

/// `message` as the datagram that `from` would send to who asked.
fn reply(asked: &Asked, from: IpAddress, message: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: DNS_PORT, dst_port: asked.port };
    let mut datagram = vec![0; repr.header_len() + message.len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(datagram.as_mut_slice()),
        &from,
        &asked.source,
        message.len(),
        |payload| payload.copy_from_slice(message),
        &ChecksumCapabilities::default(),
    );
    datagram
}

fn a(octets: [u8; 4]) -> Vec<u8> {
    record(12, 1, &octets)
}

/// Asks for `name` at second 1; returns the one question that was sent.
fn ask(resolver: &mut Resolver, network: &mut Network, name: &str, kind: RecordKind) -> (QueryId, Asked) {
    let id = resolver.query(seconds(1), name, kind).unwrap();
    assert!(resolver.turn(seconds(1), network));
    (id, network.asked.pop().expect("a question"))
}

fn answered(resolver: &mut Resolver, asked: &Asked, message: &[u8]) -> bool {
    resolver.receive(seconds(1), asked.server, asked.source, &reply(asked, asked.server, message))
}

fn addresses(list: &[IpAddress]) -> Addresses {
    list.to_vec()
}

#[test]
fn question_is_answered_with_every_address() {
    let (mut resolver, mut network) = (resolver(&[FIRST]), network());
    let (id, asked) = ask(&mut resolver, &mut network, "WWW.example.org.", RecordKind::A);
    assert_eq!(asked.name, b"\x03www\x07example\x03org\x00");
    assert_eq!((asked.kind, asked.server, asked.source), (DnsQueryType::A, FIRST, OURS));
    assert!(answered(&mut resolver, &asked, &message(&asked, 0, 0, &[a([1, 2, 3, 4]), a([5, 6, 7, 8])])));
    assert_eq!(resolver.poll_at(), Some(Time::from_ns(0)));
    let expected = addresses(&[IpAddress::v4(1, 2, 3, 4), IpAddress::v4(5, 6, 7, 8)]);
    assert_eq!(resolver.answer(), Some((id, Ok(expected))));
    assert_eq!((resolver.answer(), resolver.in_use()), (None, 0));
}

#[test]
fn ipv6_addresses_are_asked_for_over_ipv6() {
    let server = IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 0x53);
    let ours = IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 7);
    let mut network = Network { source: Some(ours), ..network() };
    let mut resolver = resolver(&[server]);
    let (id, asked) = ask(&mut resolver, &mut network, "six.example", RecordKind::Aaaa);
    assert_eq!(asked.kind, DnsQueryType::Aaaa);
    let mut octets = [0; 16];
    octets[0] = 0x20;
    octets[15] = 1;
    // An address of the other kind, which nobody asked for, is left out.
    let records = [record(12, 28, &octets), a([1, 1, 1, 1])];
    assert!(answered(&mut resolver, &asked, &message(&asked, 0, 0, &records)));
    let expected = addresses(&[IpAddress::v6(0x2000, 0, 0, 0, 0, 0, 0, 1)]);
    assert_eq!(resolver.answer(), Some((id, Ok(expected))));
}

#[test]
fn alias_is_followed_within_the_answer() {
    let (mut resolver, mut network) = (resolver(&[FIRST]), network());
    let (id, asked) = ask(&mut resolver, &mut network, "alias.example", RecordKind::A);
    let alias = record(12, 5, b"\x04real\x07example\x00");
    // The alias' data starts behind header (12), question (15 + 4) and the record's own 12 bytes.
    let real = record(12 + 15 + 4 + 12, 1, &[9, 9, 9, 9]);
    assert!(answered(&mut resolver, &asked, &message(&asked, 0, 0, &[alias, real])));
    assert_eq!(resolver.answer(), Some((id, Ok(addresses(&[IpAddress::v4(9, 9, 9, 9)])))));
}

#[test]
fn literal_addresses_need_no_server() {
    let mut resolver = resolver(&[]);
    let four = resolver.query(seconds(1), "192.0.2.1", RecordKind::A).unwrap();
    let six = resolver.query(seconds(1), "2001:db8::1", RecordKind::Aaaa).unwrap();
    let wrong = resolver.query(seconds(1), "2001:db8::1", RecordKind::A).unwrap();
    assert_eq!(resolver.answer(), Some((four, Ok(addresses(&[IpAddress::v4(192, 0, 2, 1)])))));
    let expected = addresses(&[IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)]);
    assert_eq!(resolver.answer(), Some((six, Ok(expected))));
    assert_eq!(resolver.answer(), Some((wrong, Err(ResolveError::NoAddress))));
    assert_eq!(resolver.query(seconds(1), "a.name", RecordKind::A), Err(ResolveError::NoServer));
}

#[test]
fn names_that_cannot_exist_are_refused() {
    let mut resolver = resolver(&[FIRST]);
    let mut refused = |name: &str| resolver.query(seconds(1), name, RecordKind::A).unwrap_err();
    assert_eq!(refused(""), ResolveError::Malformed { label: 1 });
    assert_eq!(refused("."), ResolveError::Malformed { label: 1 });
    assert_eq!(refused("a..b"), ResolveError::Malformed { label: 2 });
    assert_eq!(refused("a.b.."), ResolveError::Malformed { label: 3 });
    assert_eq!(refused("a.b c"), ResolveError::Malformed { label: 2 });
    assert_eq!(refused("ä.example"), ResolveError::Malformed { label: 1 });
    assert_eq!(refused(&"x".repeat(64)), ResolveError::Malformed { label: 1 });
    assert_eq!(refused(&"x.".repeat(128)), ResolveError::NameTooLong { len: 255 });
    let longest = "x.".repeat(126) + "x";
    assert_eq!(longest.len(), 253);
    assert!(resolver.query(seconds(1), &longest, RecordKind::A).is_ok());
    let too_long = "x.".repeat(126) + "xx";
    assert_eq!(
        resolver.query(seconds(1), &too_long, RecordKind::A),
        Err(ResolveError::NameTooLong { len: 254 })
    );
}

#[test]
fn longest_name_is_sent() {
    let (mut resolver, mut network) = (resolver(&[FIRST]), network());
    let (_, asked) = ask(&mut resolver, &mut network, &("x.".repeat(126) + "x"), RecordKind::A);
    assert_eq!(asked.name.len(), 255);
}

#[test]
fn only_the_asked_server_and_port_may_answer() {
    let (mut resolver, mut network) = (resolver(&[FIRST, SECOND]), network());
    let (id, asked) = ask(&mut resolver, &mut network, "www.example", RecordKind::A);
    let forged = message(&asked, 0, 0, &[a([6, 6, 6, 6])]);
    let now = seconds(1);
    // From the other server, to another address, to another port: not the resolver's at all.
    assert!(!resolver.receive(now, SECOND, OURS, &reply(&asked, SECOND, &forged)));
    assert!(!resolver.receive(now, FIRST, IpAddress::v4(10, 0, 0, 8), &reply(&asked, FIRST, &forged)));
    let other_port = Asked { port: asked.port ^ 1, ..asked.clone() };
    assert!(!resolver.receive(now, FIRST, OURS, &reply(&other_port, FIRST, &forged)));
    // With another id, another question, a wrong sum, or as a question: taken and dropped.
    let other_id = Asked { id: asked.id ^ 1, ..asked.clone() };
    assert!(answered(&mut resolver, &asked, &message(&other_id, 0, 0, &[a([6, 6, 6, 6])])));
    assert!(answered(&mut resolver, &asked, &message(&other_id, 0, NXDOMAIN, &[])));
    assert!(answered(&mut resolver, &asked, &message(&other_id, 0, SERVFAIL, &[])));
    let other_name = Asked { name: b"\x03wwx\x07example\x00".to_vec(), ..asked.clone() };
    assert!(answered(&mut resolver, &asked, &message(&other_name, 0, 0, &[a([6, 6, 6, 6])])));
    let mut question = forged.clone();
    question[2] &= 0x7f;
    assert!(answered(&mut resolver, &asked, &question));
    let mut damaged = reply(&asked, FIRST, &forged);
    damaged[20] ^= 1;
    assert!(resolver.receive(now, FIRST, OURS, &damaged));
    assert_eq!(resolver.answer(), None);
    // And the true answer is still heard.
    assert!(answered(&mut resolver, &asked, &message(&asked, 0, 0, &[a([1, 2, 3, 4])])));
    assert_eq!(resolver.answer(), Some((id, Ok(addresses(&[IpAddress::v4(1, 2, 3, 4)])))));
}

#[test]
fn negative_answers_say_what_is_missing() {
    for (flags, rcode, why) in [
        (0, NXDOMAIN, ResolveError::NoSuchName),
        (0, 0, ResolveError::NoAddress),
        (0x0200, 0, ResolveError::Truncated),
    ] {
        let (mut resolver, mut network) = (resolver(&[FIRST, SECOND]), network());
        let (id, asked) = ask(&mut resolver, &mut network, "www.example", RecordKind::A);
        assert!(answered(&mut resolver, &asked, &message(&asked, flags, rcode, &[])));
        assert_eq!(resolver.answer(), Some((id, Err(why))));
    }
}

#[test]
fn failing_server_has_the_next_one_asked_at_once() {
    let (mut resolver, mut network) = (resolver(&[FIRST, SECOND]), network());
    let (id, asked) = ask(&mut resolver, &mut network, "www.example", RecordKind::A);
    assert!(answered(&mut resolver, &asked, &message(&asked, 0, SERVFAIL, &[])));
    resolver.turn(seconds(1), &mut network);
    let next = network.asked.pop().unwrap();
    assert_eq!(next.server, SECOND);
    assert_ne!((next.port, next.id), (asked.port, asked.id));
    // What the first one says now is not heard any more.
    assert!(!answered(&mut resolver, &asked, &message(&asked, 0, 0, &[a([6, 6, 6, 6])])));
    assert!(answered(&mut resolver, &next, &message(&next, 0, 0, &[a([1, 2, 3, 4])])));
    assert_eq!(resolver.answer(), Some((id, Ok(addresses(&[IpAddress::v4(1, 2, 3, 4)])))));
}

#[test]
fn when_all_servers_fail_the_last_code_is_told() {
    let (mut resolver, mut network) = (resolver(&[FIRST, SECOND]), network());
    let (id, mut asked) = ask(&mut resolver, &mut network, "www.example", RecordKind::A);
    for _ in 0..3 {
        assert!(answered(&mut resolver, &asked, &message(&asked, 0, SERVFAIL, &[])));
        resolver.turn(seconds(1), &mut network);
        asked = network.asked.pop().unwrap();
    }
    assert!(answered(&mut resolver, &asked, &message(&asked, 0, 5, &[])));
    resolver.turn(seconds(1), &mut network);
    assert_eq!(resolver.answer(), Some((id, Err(ResolveError::ServerFailed { rcode: 5 }))));
}

#[test]
fn silent_servers_are_asked_again_and_given_up_in_bounded_time() {
    let (mut resolver, mut network) = (resolver(&[FIRST, SECOND]), network());
    let id = resolver.query(seconds(1), "www.example", RecordKind::A).unwrap();
    let mut now = seconds(1);
    let mut turns = 0;
    let answer = loop {
        resolver.turn(now, &mut network);
        if let Some(answer) = resolver.answer() {
            break answer;
        }
        now =
            resolver.poll_at().expect("the resolver waits for something").max(now + Duration::from_nanos(1));
        turns += 1;
        assert!(turns < 100, "it keeps asking for turns");
    };
    assert_eq!(answer, (id, Err(ResolveError::TimedOut)));
    assert_eq!(now, seconds(1 + 4 * 5));
    let servers: Vec<_> = network.asked.iter().map(|asked| asked.server).collect();
    assert_eq!(servers.len(), 12);
    assert_eq!((servers[0], servers[3], servers[6], servers[9]), (FIRST, SECOND, FIRST, SECOND));
    assert_eq!((resolver.poll_at(), resolver.in_use()), (None, 0));
}

#[test]
fn unreachable_server_is_not_waited_for() {
    let (mut resolver, mut network) = (resolver(&[FIRST, SECOND]), network());
    let (_, asked) = ask(&mut resolver, &mut network, "www.example", RecordKind::A);
    assert!(!resolver.unreachable(seconds(1), OURS, asked.port ^ 1, FIRST));
    assert!(resolver.unreachable(seconds(1), OURS, asked.port, FIRST));
    resolver.turn(seconds(1), &mut network);
    assert_eq!(network.asked.pop().unwrap().server, SECOND);
}

#[test]
fn without_an_address_nobody_can_be_asked() {
    let mut network = Network { source: None, ..network() };
    let mut resolver = resolver(&[FIRST]);
    let id = resolver.query(seconds(1), "www.example", RecordKind::A).unwrap();
    resolver.turn(seconds(1), &mut network);
    assert_eq!(resolver.answer(), Some((id, Err(ResolveError::NoRoute))));
}

#[test]
fn queries_are_bounded_and_places_are_given_back() {
    let (mut resolver, mut network) = (resolver(&[FIRST]), network());
    let ids: Vec<_> = (0..MAX_QUERIES)
        .map(|i| resolver.query(seconds(1), &format!("n{i}"), RecordKind::A).unwrap())
        .collect();
    let refused = resolver.query(seconds(1), "one-more", RecordKind::A);
    assert_eq!(refused, Err(ResolveError::TooMany(MAX_QUERIES)));
    resolver.turn(seconds(1), &mut network);
    assert_eq!(network.asked.len(), MAX_QUERIES);
    let ports: HashSet<_> = network.asked.iter().map(|asked| asked.port).collect();
    let txids: HashSet<_> = network.asked.iter().map(|asked| asked.id).collect();
    assert!(ports.len() > MAX_QUERIES - 4 && txids.len() > MAX_QUERIES - 4, "ports and ids are random");
    resolver.cancel(ids[9]);
    resolver.cancel(ids[9]);
    let again = resolver.query(seconds(1), "one-more", RecordKind::A).unwrap();
    assert_eq!(again.index, ids[9].index);
    assert_ne!(again, ids[9]);
    // The cancelled one's answer reaches nobody.
    let late = network.asked[9].clone();
    assert!(!answered(&mut resolver, &late, &message(&late, 0, 0, &[a([1, 1, 1, 1])])));
    assert_eq!((resolver.answer(), resolver.in_use()), (None, MAX_QUERIES));
}

#[test]
fn ports_are_those_that_fit() {
    let mut network = Network { fits: |port| port % 64 == 13, ..network() };
    let mut resolver = resolver(&[FIRST]);
    let (_, asked) = ask(&mut resolver, &mut network, "www.example", RecordKind::A);
    assert_eq!(asked.port % 64, 13);
}

#[test]
fn another_seed_asks_from_another_port() {
    let ask_with = |seed| {
        let mut resolver = Resolver::new([seed; 16]);
        resolver.set_servers(&[FIRST]);
        let (_, asked) = ask(&mut resolver, &mut network(), "www.example", RecordKind::A);
        (asked.port, asked.id)
    };
    assert_eq!(ask_with(1), ask_with(1));
    assert_ne!(ask_with(1), ask_with(2));
}

proptest! {
    /// Whatever the asked server says: no panic, and the query ends.
    #[test]
    fn hostile_messages_end_in_an_answer(
        changes in prop::collection::vec((2_usize..120, any::<u8>()), 0..8),
        cut in 0_usize..120,
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (mut resolver, mut network) = (resolver(&[FIRST]), network());
        let (_, asked) = ask(&mut resolver, &mut network, "www.example.org", RecordKind::A);
        let alias = record(12, 5, b"\x04real\xc0\x10");
        let mut bytes = message(&asked, 0, 0, &[alias, a([1, 2, 3, 4]), record(50, 1, &[4, 3, 2, 1])]);
        bytes.truncate(cut.max(2));
        bytes.extend(tail);
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        prop_assert!(answered(&mut resolver, &asked, &bytes));
        let mut now = seconds(1);
        for _ in 0..100 {
            resolver.turn(now, &mut network);
            if resolver.answer().is_some() {
                return Ok(());
            }
            now = resolver.poll_at().unwrap().max(now);
        }
        prop_assert!(false, "no answer by {now:?}");
    }
}
