use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Packet, Ipv4Repr,
};

use super::harness::*;
use crate::steer::{Owner, owner};
use crate::{Closed, ConnectOptions, ListenOptions, Share, Unreachable};

fn v6(host: u16) -> IpAddress {
    IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, host + 1)
}

#[test]
fn ipv6_carries_bytes_both_ways() {
    let mut world = World::with(|config| {
        let host = u16::from(config.mac.0[5] - 1);
        config.addresses.push(IpCidr::new(v6(host), 64));
    });
    // Duplicate address detection.
    world.run(3 * SECOND);
    world.script(0).mode = Mode::Keep;
    world.listen(7);
    let id = world.ask(0, |net| net.connect((v6(1), 7).into(), ConnectOptions::default())).unwrap();
    world.run(10 * MS);
    assert_eq!(world.script(0).connected, [id]);
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 241) as u8).collect();
    world.send(0, id, &bytes);
    world.run(SECOND);
    assert!(world.script(0).received[&id] == bytes);
    world.with_conn(0, id, |conn| conn.close());
    world.run(SECOND);
    assert_eq!(world.script(0).closed, [(id, 0, Closed::Done)]);
    world.assert_clean();
}

/// The headers of a reply to a connection from host 0, as far as steering reads them.
fn reply(port: u16) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 6;
    frame[26..30].copy_from_slice(&[10, 0, 0, 2]);
    frame[30..34].copy_from_slice(&[10, 0, 0, 1]);
    frame[34..36].copy_from_slice(&7u16.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame
}

#[test]
fn outgoing_ports_bring_replies_to_their_core() {
    for index in 0..3 {
        let mut world = World::with(|config| {
            if config.mac.0[5] == 1 {
                config.share = Share { index, count: 3 };
            }
        });
        let mut ports = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let id = world.connect(7);
            let port = world.with_conn(0, id, |conn| conn.local().port);
            assert_eq!(owner(&reply(port), 3), Owner::Core(index), "port {port}");
            assert!(ports.insert(port), "port {port} twice towards one peer");
        }
    }
}

#[test]
fn cores_share_the_flows_evenly_and_all_hear_of_neighbours() {
    let mut counts = [0; 4];
    for port in 0..=u16::MAX {
        match owner(&reply(port), 4) {
            Owner::Core(core) => counts[usize::from(core)] += 1,
            Owner::All => panic!("TCP belongs to one"),
        }
    }
    assert!(counts.iter().all(|&n| (15_800..17_000).contains(&n)), "{counts:?}");
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(owner(&arp, 4), Owner::All);
    for len in 0..60 {
        owner(&reply(9)[..len], 4);
    }
}

#[test]
fn what_a_dhcp_server_sends_reaches_the_first_core() {
    for last in 1..=254 {
        let mut frame = reply(68);
        frame[23] = 17;
        frame[34..36].copy_from_slice(&67u16.to_be_bytes());
        frame[33] = last;
        assert_eq!(owner(&frame, 8), Owner::Core(0), "to 10.0.0.{last}");
        frame[30..34].fill(255);
        assert_eq!(owner(&frame, 8), Owner::Core(0), "to everybody");
        // Behind a VLAN tag as well.
        frame.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(owner(&frame, 8), Owner::Core(0));
    }
    // Another server's datagrams to that port go by their tuple.
    let cores: std::collections::BTreeSet<_> = (100..200u8)
        .map(|port| {
            let mut frame = reply(68);
            frame[23] = 17;
            frame[35] = port;
            format!("{:?}", owner(&frame, 2))
        })
        .collect();
    assert_eq!(cores.len(), 2, "{cores:?}");
}

#[test]
fn errors_about_a_first_fragment_reach_the_core_that_sent_it() {
    for port in 1000..1100 {
        let whole = reply(port);
        let mut error = vec![0; 14 + 28];
        error[12..14].copy_from_slice(&[8, 0]);
        (error[14], error[23], error[34]) = (0x45, 1, 3);
        let mut quoted = whole[14..].to_vec();
        // Ours, so the other way round.
        quoted[12..16].copy_from_slice(&whole[30..34]);
        quoted[16..20].copy_from_slice(&whole[26..30]);
        quoted[20..22].copy_from_slice(&whole[36..38]);
        quoted[22..24].copy_from_slice(&whole[34..36]);
        quoted[6] = 0x20;
        let first = [error.clone(), quoted.clone()].concat();
        assert_eq!(owner(&first, 4), owner(&whole, 4), "port {port}");
        quoted[7] = 1;
        assert_eq!(owner(&[error, quoted].concat(), 4), Owner::Core(0), "a later one has no ports");
    }
}

/// An ICMP error of host 1's about a packet that host 0 sent in `frame`.
fn error_about(frame: &[u8], reason: Icmpv4DstUnreachable, mtu: u16) -> Vec<u8> {
    let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    let quoted = Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).unwrap();
    let icmp = Icmpv4Repr::DstUnreachable { reason, header: quoted, data: &ip.payload()[..8] };
    let outer = Ipv4Repr {
        src_addr: quoted.dst_addr,
        dst_addr: quoted.src_addr,
        payload_len: icmp.buffer_len(),
        next_header: smoltcp::wire::IpProtocol::Icmp,
        hop_limit: 64,
    };
    let mut error = vec![0; 34 + icmp.buffer_len()];
    error[..6].copy_from_slice(&frame[6..12]);
    error[6..12].copy_from_slice(&frame[..6]);
    error[12..14].copy_from_slice(&[8, 0]);
    outer.emit(&mut Ipv4Packet::new_unchecked(&mut error[14..]), &ChecksumCapabilities::default());
    icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut error[34..]), &ChecksumCapabilities::default());
    error[40..42].copy_from_slice(&mtu.to_be_bytes());
    Icmpv4Packet::new_unchecked(&mut error[34..]).fill_checksum();
    error
}

#[test]
fn unreachable_ends_a_handshake_but_not_a_connection() {
    let mut world = World::new();
    world.listen(7);
    let open = world.connect(7);
    world.run(10 * MS);
    let to = (address(1), 9).into();
    let frames = world.ask_frames(0, move |net| {
        net.connect(to, ConnectOptions::default()).unwrap();
    });
    assert_eq!(frames.len(), 1, "the SYN");
    let mut forged = frames[0].clone();
    forged[41] ^= 1;
    Ipv4Packet::new_unchecked(&mut forged[14..]).fill_checksum();
    world.inject(0, &error_about(&forged, Icmpv4DstUnreachable::PortUnreachable, 0));
    assert_eq!(world.script(0).closed, [], "not a segment that we sent");
    assert_eq!(world.counter(0, "icmp_no_flow"), 1);
    world.inject(0, &error_about(&frames[0], Icmpv4DstUnreachable::PortUnreachable, 0));
    assert_eq!(world.script(0).closed.len(), 1);
    assert_eq!(world.script(0).closed[0].2, Closed::Unreachable(Unreachable::Port));
    let frames = world.ask_frames(0, move |net| {
        net.conn(open).unwrap().send_slice(b"x");
    });
    world.inject(0, &error_about(&frames[0], Icmpv4DstUnreachable::HostUnreachable, 0));
    assert_eq!(world.script(0).closed.len(), 1, "it survives");
    assert_eq!(world.counter(0, "icmp_soft"), 1);
}

#[test]
fn a_smaller_mtu_of_the_link_makes_segments_smaller_and_a_larger_one_those_of_new_connections_larger() {
    let mut world = World::new();
    world.listen(7);
    let id = world.connect(7);
    world.run(10 * MS);
    let longest = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).max().unwrap();
    let send = |world: &mut World, id| {
        world.ask_frames(0, move |net| {
            net.conn(id).unwrap().send_slice(&[1; 20_000]);
        })
    };
    assert_eq!(longest(&send(&mut world, id)), 1514);
    world.hosts[0].stack.set_mtu(1000);
    // Also what was on its way, and what is received from now on: its peer does not know.
    world.passes = Box::new(|_, frame| frame.len() <= 1014);
    world.script(1).mode = Mode::Keep;
    world.run(5 * SECOND);
    let other = world.script(1).accepted[0];
    assert_eq!(world.script(1).received[&other].len(), 20_000);

    let connect = |world: &mut World, port: u16| {
        let listener = world.ask(1, move |net| net.listen(port.into(), ListenOptions::default()));
        assert!(listener.is_ok());
        let id = world.connect(port);
        world.run(10 * MS);
        id
    };
    let small = connect(&mut world, 8);
    assert_eq!(longest(&send(&mut world, small)), 1014);
    world.hosts[0].stack.set_mtu(1400);
    world.passes = Box::new(|_, _| true);
    let large = connect(&mut world, 9);
    assert_eq!(longest(&send(&mut world, large)), 1414);
    // There is no less than that.
    world.hosts[0].stack.set_mtu(0);
    let least = connect(&mut world, 10);
    let frames = send(&mut world, least);
    assert!((576 + 14..=1280 + 14).contains(&longest(&frames)));
}

#[test]
fn too_big_makes_segments_smaller() {
    let mut world = World::new();
    world.listen(7);
    let id = world.connect(7);
    world.run(10 * MS);
    let longest = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).max().unwrap();
    let frames = world.ask_frames(0, move |net| {
        net.conn(id).unwrap().send_slice(&[1; 20_000]);
    });
    assert_eq!(longest(&frames), 1514);
    let about = frames.iter().find(|frame| frame.len() == 1514).unwrap();
    world.inject(0, &error_about(about, Icmpv4DstUnreachable::FragRequired, 1000));
    assert_eq!(world.counter(0, "path_mtu_shrunk"), 1);
    // Everything that was lost is sent again, in packets that fit.
    world.passes = Box::new(|_, frame| frame.len() <= 1014);
    world.script(1).mode = Mode::Keep;
    world.run(5 * SECOND);
    let other = world.script(1).accepted[0];
    assert_eq!(world.script(1).received[&other].len(), 20_000);
    // New connections announce and use it from the beginning.
    let listener = world.ask(1, |net| net.listen(8.into(), ListenOptions::default()));
    assert!(listener.is_ok());
    let new = world.connect(8);
    world.run(10 * MS);
    let frames = world.ask_frames(0, move |net| {
        net.conn(new).unwrap().send_slice(&[1; 20_000]);
    });
    assert_eq!(longest(&frames), 1014);
}
