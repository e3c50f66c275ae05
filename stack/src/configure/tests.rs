use proptest::prelude::*;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, IpAddress};

use super::*;

const MAC: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x42]);
const SERVER_MAC: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x53]);
const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const ROUTER: Ipv4Address = Ipv4Address::new(10, 0, 0, 254);
const DNS: Ipv4Address = Ipv4Address::new(10, 0, 0, 53);
const FIRST: Ipv4Address = Ipv4Address::new(10, 0, 0, 77);
const SECOND: Ipv4Address = Ipv4Address::new(10, 0, 0, 78);
const LEASE_SECONDS: u32 = 600;

fn seconds(seconds: u64) -> Time {
    Time::from_ns(seconds * 1_000_000_000)
}

/// What a message of the client's says.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    kind: DhcpMessageType,
    id: u32,
    destination: IpAddress,
    client: Ipv4Address,
}

fn said(repr: IpRepr, datagram: &[u8]) -> Said {
    let udp = UdpPacket::new_checked(datagram).unwrap();
    assert!(udp.verify_checksum(&repr.src_addr(), &repr.dst_addr()));
    assert_ne!(udp.checksum(), 0);
    assert_eq!((udp.src_port(), udp.dst_port()), (DHCP_CLIENT_PORT, DHCP_SERVER_PORT));
    let packet = DhcpPacket::new_checked(udp.payload()).unwrap();
    let dhcp = DhcpRepr::parse(&packet).unwrap();
    assert_eq!(dhcp.client_hardware_address, MAC);
    Said {
        kind: dhcp.message_type,
        id: dhcp.transaction_id,
        destination: repr.dst_addr(),
        client: dhcp.client_ip,
    }
}

fn turn(client: &mut Configure, now: Time) -> Vec<Said> {
    let mut messages = Vec::new();
    client.turn(now, &mut |repr, datagram| messages.push(said(repr, datagram)));
    messages
}

fn frame(vlan: Option<u16>, kind: DhcpMessageType, id: u32, address: Ipv4Address) -> Vec<u8> {
    let ends = kind != DhcpMessageType::Nak;
    let dhcp = DhcpRepr {
        message_type: kind,
        transaction_id: id,
        secs: 0,
        client_hardware_address: MAC,
        client_ip: Ipv4Address::UNSPECIFIED,
        your_ip: if ends { address } else { Ipv4Address::UNSPECIFIED },
        server_ip: SERVER,
        router: ends.then_some(ROUTER),
        subnet_mask: ends.then_some(Ipv4Address::new(255, 255, 255, 0)),
        relay_agent_ip: Ipv4Address::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: ends.then(|| [DNS].into_iter().collect()),
        max_size: None,
        lease_duration: ends.then_some(LEASE_SECONDS),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut message = vec![0; dhcp.buffer_len()];
    dhcp.emit(&mut DhcpPacket::new_unchecked(&mut message)).unwrap();
    let (source, destination) = (SERVER.into(), address.into());
    let udp = UdpRepr { src_port: DHCP_SERVER_PORT, dst_port: DHCP_CLIENT_PORT };
    let ip = IpRepr::new(source, destination, IpProtocol::Udp, udp.header_len() + message.len(), 64);
    let checksums = ChecksumCapabilities::default();
    let mut packet = vec![0; ip.buffer_len()];
    ip.emit(packet.as_mut_slice(), &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut packet[ip.header_len()..]),
        &source,
        &destination,
        message.len(),
        |payload| payload.copy_from_slice(&message),
        &checksums,
    );
    let mut frame = Vec::new();
    frame.extend(MAC.0);
    frame.extend(SERVER_MAC.0);
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend([0x08, 0]);
    frame.extend(packet);
    frame
}

fn client() -> Configure {
    Configure::new(MAC, 1500, None, 7, seconds(1))
}

/// A client that was given `FIRST` at second 1.
fn configured() -> Configure {
    let mut client = client();
    let discover = turn(&mut client, seconds(1));
    assert!(client.receive(seconds(1), &frame(None, DhcpMessageType::Offer, discover[0].id, FIRST)));
    let request = turn(&mut client, seconds(1));
    assert_eq!(request[0].kind, DhcpMessageType::Request);
    assert!(client.receive(seconds(1), &frame(None, DhcpMessageType::Ack, request[0].id, FIRST)));
    assert_eq!(client.event(), Some(Event::Configured(lease(FIRST))));
    client
}

fn lease(address: Ipv4Address) -> Lease {
    Lease { address: Ipv4Cidr::new(address, 24), router: Some(ROUTER), dns: ArrayVec::from_iter([DNS]) }
}

/// Turns the client whenever it asks for it, until it says something.
fn wait(client: &mut Configure, now: &mut Time) -> Said {
    for _ in 0..100 {
        *now = client.poll_at().expect("the client waits for something").max(*now);
        if let Some(said) = turn(client, *now).pop() {
            return said;
        }
    }
    panic!("nothing said until {now:?}");
}

#[test]
fn lease_brings_address_router_and_servers() {
    let mut client = client();
    assert_eq!(client.event(), None);
    let discover = turn(&mut client, seconds(1));
    assert_eq!(discover.len(), 1);
    assert_eq!(discover[0].kind, DhcpMessageType::Discover);
    assert_eq!(discover[0].destination, IpAddress::Ipv4(Ipv4Address::BROADCAST));
    assert_eq!(turn(&mut client, seconds(1)), []);
    client.receive(seconds(1), &frame(None, DhcpMessageType::Offer, discover[0].id, FIRST));
    let request = turn(&mut client, seconds(1));
    client.receive(seconds(1), &frame(None, DhcpMessageType::Ack, request[0].id, FIRST));
    assert_eq!(client.event(), Some(Event::Configured(lease(FIRST))));
    assert_eq!(client.event(), None);
}

#[test]
fn discover_is_repeated_until_a_server_answers() {
    let mut client = client();
    let mut now = seconds(1);
    let first = wait(&mut client, &mut now);
    let second = wait(&mut client, &mut now);
    assert_eq!((second.kind, now), (DhcpMessageType::Discover, seconds(11)));
    assert_ne!(first.id, second.id);
    assert!(client.receive(now, &frame(None, DhcpMessageType::Offer, first.id, FIRST)));
    assert_eq!(turn(&mut client, now), [], "an offer to an earlier question is not taken");
}

#[test]
fn lease_is_renewed_with_its_server_and_nothing_changes() {
    let mut client = configured();
    let mut now = seconds(1);
    let renewal = wait(&mut client, &mut now);
    assert_eq!(now, seconds(1 + u64::from(LEASE_SECONDS) / 2));
    assert_eq!((renewal.kind, renewal.destination), (DhcpMessageType::Request, SERVER.into()));
    assert_eq!(renewal.client, FIRST);
    client.receive(now, &frame(None, DhcpMessageType::Ack, renewal.id, FIRST));
    assert_eq!(client.event(), None);
    let again = wait(&mut client, &mut now);
    assert_eq!((again.kind, now), (DhcpMessageType::Request, seconds(1 + u64::from(LEASE_SECONDS))));
}

#[test]
fn renewal_may_change_the_address() {
    let mut client = configured();
    let mut now = seconds(1);
    let renewal = wait(&mut client, &mut now);
    client.receive(now, &frame(None, DhcpMessageType::Ack, renewal.id, SECOND));
    assert_eq!(client.event(), Some(Event::Configured(lease(SECOND))));
}

#[test]
fn refused_renewal_takes_the_address_away_and_starts_anew() {
    let mut client = configured();
    let mut now = seconds(1);
    let renewal = wait(&mut client, &mut now);
    client.receive(now, &frame(None, DhcpMessageType::Nak, renewal.id, FIRST));
    assert_eq!(client.event(), Some(Event::Deconfigured));
    let discover = wait(&mut client, &mut now);
    assert_eq!(
        (discover.kind, discover.destination),
        (DhcpMessageType::Discover, Ipv4Address::BROADCAST.into())
    );
    client.receive(now, &frame(None, DhcpMessageType::Offer, discover.id, SECOND));
    let request = wait(&mut client, &mut now);
    client.receive(now, &frame(None, DhcpMessageType::Ack, request.id, SECOND));
    assert_eq!(client.event(), Some(Event::Configured(lease(SECOND))));
}

#[test]
fn unanswered_renewal_is_broadcast_and_at_last_the_lease_is_lost() {
    let mut client = configured();
    let mut now = seconds(1);
    let mut destinations = Vec::new();
    loop {
        let message = wait(&mut client, &mut now);
        let event = client.event();
        if message.kind == DhcpMessageType::Discover {
            assert_eq!(event, Some(Event::Deconfigured));
            break;
        }
        assert_eq!(event, None);
        destinations.push(message.destination);
    }
    assert_eq!(now, seconds(1 + u64::from(LEASE_SECONDS)));
    assert_eq!(destinations.first(), Some(&SERVER.into()));
    assert_eq!(destinations.last(), Some(&Ipv4Address::BROADCAST.into()));
}

#[test]
fn server_that_offers_and_refuses_without_end_is_not_followed() {
    let mut client = client();
    let mut now = seconds(1);
    let mut messages = 0;
    while now < seconds(31) {
        for message in turn(&mut client, now) {
            messages += 1;
            let reply = match message.kind {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                _ => DhcpMessageType::Nak,
            };
            client.receive(now, &frame(None, reply, message.id, FIRST));
            assert_eq!(client.event(), None);
        }
        now += Duration::from_millis(10);
        assert!(client.poll_at().is_some());
    }
    assert!((20..=40).contains(&messages), "{messages} messages in 30 s");
}

#[test]
fn only_its_own_vlan_is_heard() {
    let mut client = Configure::new(MAC, 1500, Some(5), 7, seconds(1));
    let id = turn(&mut client, seconds(1))[0].id;
    assert!(!client.receive(seconds(1), &frame(None, DhcpMessageType::Offer, id, FIRST)));
    assert!(!client.receive(seconds(1), &frame(Some(6), DhcpMessageType::Offer, id, FIRST)));
    assert_eq!(turn(&mut client, seconds(1)), []);
    // The priority is no part of the number.
    assert!(client.receive(seconds(1), &frame(Some(0xa005), DhcpMessageType::Offer, id, FIRST)));
    assert_eq!(turn(&mut client, seconds(1))[0].kind, DhcpMessageType::Request);
}

#[test]
fn frames_that_are_no_dhcp_are_left_to_the_link() {
    let mut client = client();
    let good = frame(None, DhcpMessageType::Offer, 1, FIRST);
    for (at, byte) in [(12, 0x86), (23, 6), (36, 9), (21, 1)] {
        let mut other = good.clone();
        other[at] = byte;
        assert!(!client.receive(seconds(1), &other), "byte {at}");
    }
    for len in 0..good.len() {
        assert!(!client.receive(seconds(1), &good[..len]), "length {len}");
    }
}

#[test]
fn damaged_offer_is_taken_and_dropped() {
    let mut client = client();
    let id = turn(&mut client, seconds(1))[0].id;
    let mut damaged = frame(None, DhcpMessageType::Offer, id, FIRST);
    damaged[60] ^= 1;
    assert!(client.receive(seconds(1), &damaged));
    assert_eq!(turn(&mut client, seconds(1)), []);
}

proptest! {
    /// Neither panics nor configures anything, whatever a server sends.
    #[test]
    fn hostile_messages_do_no_harm(
        changes in prop::collection::vec((0_usize..600, any::<u8>()), 0..12),
        cut in 240_usize..400,
        kind in prop::sample::select(vec![DhcpMessageType::Offer, DhcpMessageType::Ack, DhcpMessageType::Nak]),
    ) {
        let mut client = configured();
        let mut now = seconds(1);
        let renewal = wait(&mut client, &mut now);
        let mut bytes = frame(None, kind, renewal.id, SECOND);
        bytes.truncate(cut);
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[42 + at % (len - 42)] = byte;
        }
        // Lengths and sum of a message of this size, so that it reaches the parser.
        let udp_len = u16::try_from(bytes.len() - 34).unwrap();
        bytes[16..18].copy_from_slice(&(udp_len + 20).to_be_bytes());
        bytes[38..40].copy_from_slice(&udp_len.to_be_bytes());
        bytes[40..42].copy_from_slice(&[0, 0]);
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[14..]);
        ip.fill_checksum();
        prop_assert!(client.receive(now, &bytes));
        while let Some(event) = client.event() {
            if let Event::Configured(lease) = event {
                prop_assert!(is_unicast(lease.address.address()));
                prop_assert!(lease.router.is_none_or(is_unicast));
                prop_assert!(lease.dns.iter().all(|&server| is_unicast(server)));
            }
        }
        turn(&mut client, now);
    }
}
