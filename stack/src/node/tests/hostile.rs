use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, IpRepr, Ipv4Packet, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::harness::*;
use crate::{Closed, ConnectOptions, ListenOptions, TcpOptions};

/// A TCP segment from `source` to host 1's port `port`, as a frame.
pub(super) fn segment(
    source: (IpAddress, u16),
    port: u16,
    control: TcpControl,
    seq: i32,
    ack: Option<i32>,
    data: &[u8],
) -> Vec<u8> {
    let tcp = TcpRepr {
        src_port: source.1,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(seq),
        ack_number: ack.map(TcpSeqNumber),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: data,
    };
    let ip = IpRepr::new(source.0, address(1), IpProtocol::Tcp, tcp.buffer_len(), 64);
    let mut frame = vec![0; 14 + ip.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    ethernet.set_src_addr(EthernetAddress([2, 0, 0, 0, 0, 1]));
    ethernet.set_dst_addr(EthernetAddress([2, 0, 0, 0, 0, 2]));
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let checksum = ChecksumCapabilities::default();
    ip.emit(&mut frame[14..], &checksum);
    tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[34..]), &source.0, &address(1), &checksum);
    frame
}

pub(super) fn syn(source: (IpAddress, u16), seq: i32) -> Vec<u8> {
    segment(source, 7, TcpControl::Syn, seq, None, &[])
}

/// The TCP segments that host 1 sends, in order.
pub(super) fn answers(frames: &[Vec<u8>]) -> Vec<(TcpControl, i32, Option<i32>)> {
    let mut answers = Vec::new();
    for frame in frames.iter().filter(|frame| frame[12..14] == [8, 0]) {
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(ip.verify_checksum());
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        let (src, dst) = (ip.src_addr().into(), ip.dst_addr().into());
        let repr = TcpRepr::parse(&tcp, &src, &dst, &ChecksumCapabilities::default()).unwrap();
        answers.push((repr.control, repr.seq_number.0, repr.ack_number.map(|ack| ack.0)));
    }
    answers
}

pub(super) fn is_arp(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6]
}

/// A world where host 0 is a liar: host 1's neighbours are known, host 0's stack sees nothing.
pub(super) fn world(change: impl Fn(&mut crate::StackConfig)) -> World {
    let mut world = World::with(change);
    world.listen(7);
    // Host 1 learns who host 0 is.
    let id = world.connect(7);
    world.run(10 * MS);
    world.with_conn(0, id, |conn| conn.abort());
    world.run(10 * MS);
    world.script(1).accepted.clear();
    world.script(1).closed.clear();
    world
}

#[test]
fn a_syn_flood_takes_bounded_memory_and_real_peers_get_through() {
    let mut world = world(|config| config.limits.half_open = 50);
    let lent = world.counter(1, "buffers_lent");
    for n in 0..5000u16 {
        let source = (IpAddress::v4(10, 0, 0, 100), 1000 + n);
        world.inject(1, &syn(source, 0));
        assert!(world.counter(1, "half_open") <= 50);
    }
    assert_eq!(world.counter(1, "half_open"), 50);
    assert_eq!(world.counter(1, "buffers_lent"), lent + 100);
    assert_eq!(world.counter(1, "half_open_full"), 4950);
    let id = world.connect(7);
    world.run(10 * MS);
    assert!(world.script(0).connected.contains(&id), "the newest are served");
    // The rest goes by itself.
    world.run(11 * SECOND);
    assert_eq!(world.counter(1, "half_open"), 0);
    assert_eq!(world.counter(1, "half_open_timeout"), 49);
    assert_eq!(world.script(1).accepted.len(), 1);
    assert_eq!(world.script(1).closed, [], "the service never heard of them");
}

#[test]
fn a_listener_has_its_own_limit() {
    let mut world = World::new();
    let options = ListenOptions { backlog: 3, ..ListenOptions::default() };
    world.ask(1, move |net| net.listen(7.into(), options)).unwrap();
    world.ask(1, |net| net.listen(8.into(), ListenOptions::default())).unwrap();
    let other = segment((address(0), 999), 8, TcpControl::Syn, 0, None, &[]);
    world.inject(1, &other);
    for n in 0..10 {
        world.inject(1, &syn((address(0), 1000 + n), 0));
    }
    assert_eq!(world.counter(1, "half_open"), 4, "three and the other listener's");
    assert_eq!(world.counter(1, "half_open_full"), 7);
}

#[test]
fn strays_are_reset_at_a_limited_rate() {
    let mut world = world(|config| config.limits.resets_per_second = 10);
    let before = world.counter(1, "resets_sent");
    let ack = segment((address(0), 5), 9, TcpControl::None, 1, Some(77), b"x");
    let frames = world.inject(1, &ack);
    assert_eq!(answers(&frames), [(TcpControl::Rst, 77, None)], "where the peer expects it");
    let lone = segment((address(0), 5), 9, TcpControl::Syn, 10, None, &[]);
    assert_eq!(answers(&world.inject(1, &lone)), [(TcpControl::Rst, 0, Some(11))]);
    let reset = segment((address(0), 5), 9, TcpControl::Rst, 1, Some(77), &[]);
    assert_eq!(answers(&world.inject(1, &reset)), [], "no reset answers a reset");
    for _ in 0..1000 {
        world.inject(1, &ack);
    }
    assert_eq!(world.counter(1, "resets_sent") - before, 10);
    assert_eq!(world.counter(1, "resets_limited"), 992);
}

#[test]
fn broken_segments_are_counted() {
    let mut world = world(|_| {});
    let mut bad_sum = syn((address(0), 5), 0);
    bad_sum[50] ^= 1;
    assert_eq!(answers(&world.inject(1, &bad_sum)), []);
    assert_eq!(world.counter(1, "bad_tcp_checksum"), 1);
    let mut bad_offset = syn((address(0), 5), 0);
    bad_offset[46] = 0x10;
    assert_eq!(answers(&world.inject(1, &bad_offset)), []);
    assert_eq!(world.counter(1, "bad_tcp_header"), 1);
    assert_eq!(world.counter(1, "half_open"), 0);
}

#[test]
fn segments_that_smoltcp_would_drop_are_counted() {
    let mut world = world(|_| {});
    world.passes = Box::new(|_, frame| is_arp(frame));
    let source = (address(0), 5);
    let [(TcpControl::Syn, isn, Some(1))] = answers(&world.inject(1, &syn(source, 0)))[..] else { panic!() };
    let next = Some(isn.wrapping_add(1));
    world.inject(1, &segment(source, 7, TcpControl::None, 1, next, &[]));
    /// Four bytes of options in place of the first four of the data; flags on top of the others.
    fn with(frame: &[u8], options: Option<[u8; 4]>, flags: u8) -> Vec<u8> {
        let mut frame = frame.to_vec();
        if let Some(options) = options {
            frame[46] = 0x60;
            frame[54..58].copy_from_slice(&options);
        }
        frame[47] |= flags;
        TcpPacket::new_unchecked(&mut frame[34..]).fill_checksum(&address(0), &address(1));
        frame
    }
    let data = segment(source, 7, TcpControl::Psh, 1, next, b"....abc");
    let bad = [[5, 3, 1, 1], [3, 0, 0, 0], [3, 4, 7, 1], [1, 1, 1, 9], [8, 12, 0, 0], [2, 1, 0, 0]];
    for (count, options) in (1..).zip(bad) {
        assert_eq!(answers(&world.inject(1, &with(&data, Some(options), 0))), [], "{options:?}");
        assert_eq!(world.counter(1, "bad_tcp_options"), count, "{options:?}");
    }
    for (count, flags) in (1..).zip([0b101, 0b110, 0b111]) {
        assert_eq!(answers(&world.inject(1, &with(&data, None, flags))), []);
        assert_eq!(world.counter(1, "bad_tcp_flags"), count);
    }
    // A SYN does not displace a half-open connection for it.
    world.inject(1, &with(&segment((address(0), 6), 7, TcpControl::Syn, 0, None, b"...."), Some(bad[0]), 0));
    assert_eq!((world.counter(1, "bad_tcp_options"), world.counter(1, "half_open")), (7, 0));
    assert_eq!(world.script(1).closed, []);
    // Unknown ones are skipped, whatever follows the end of the list is not read.
    let frames = world.inject(1, &with(&data, Some([254, 3, 7, 1]), 0));
    assert_eq!(answers(&frames), [(TcpControl::Psh, isn.wrapping_add(1), Some(4))], "echoed");
    let data = segment(source, 7, TcpControl::Psh, 4, next, b"....abc");
    let frames = world.inject(1, &with(&data, Some([0, 2, 0, 0]), 0));
    assert_eq!(answers(&frames)[0].2, Some(7), "acknowledged");
}

/// Opens a connection by hand, has host 1 finish first, and returns our and its next sequence number.
pub(super) fn into_time_wait(world: &mut World, source: (IpAddress, u16)) -> (i32, i32) {
    world.script(1).mode = Mode::Keep;
    let [(TcpControl::Syn, isn, Some(1))] = answers(&world.inject(1, &syn(source, 0)))[..] else { panic!() };
    let next = isn.wrapping_add(1);
    world.inject(1, &segment(source, 7, TcpControl::None, 1, Some(next), &[]));
    let id = *world.script(1).accepted.last().unwrap();
    let frames = world.ask_frames(1, move |net| net.conn(id).unwrap().close());
    assert_eq!(answers(&frames), [(TcpControl::Fin, next, Some(1))]);
    let end = next.wrapping_add(1);
    let frames = world.inject(1, &segment(source, 7, TcpControl::Fin, 1, Some(end), &[]));
    assert_eq!(answers(&frames), [(TcpControl::None, end, Some(2))]);
    assert_eq!(world.script(1).closed.last(), Some(&(id, 0, Closed::Done)));
    (2, end)
}

#[test]
fn time_wait_answers_late_fins_and_lets_newer_connections_in() {
    let mut world = world(|_| {});
    world.passes = Box::new(|_, frame| is_arp(frame));
    let source = (address(0), 5);
    let (_, end) = into_time_wait(&mut world, source);
    assert_eq!((world.counter(1, "time_wait"), world.counter(1, "flows")), (1, 0), "no socket, no buffers");
    world.assert_clean();
    let fin = segment(source, 7, TcpControl::Fin, 1, Some(end), &[]);
    assert_eq!(answers(&world.inject(1, &fin)), [(TcpControl::None, end, Some(2))]);
    for seq in [1, 3, -5000] {
        let reset = segment(source, 7, TcpControl::Rst, seq, None, &[]);
        assert_eq!(answers(&world.inject(1, &reset)), []);
        assert_eq!(world.counter(1, "time_wait"), 1, "a reset from elsewhere is no reason to forget");
    }
    let old = syn(source, -100);
    assert_eq!(
        answers(&world.inject(1, &old)),
        [(TcpControl::None, end, Some(2))],
        "an old SYN is not let in"
    );
    world.run(MS);
    let [(TcpControl::Syn, isn, Some(101))] = answers(&world.inject(1, &syn(source, 100)))[..] else {
        panic!()
    };
    assert!(isn.wrapping_sub(end) > 0, "our numbers go on after the old ones");
    assert_eq!((world.counter(1, "time_wait"), world.counter(1, "half_open")), (0, 1));
    world.run(11 * SECOND);
    let (_, end) = into_time_wait(&mut world, source);
    world.run(11 * SECOND);
    let fin = segment(source, 7, TcpControl::Fin, 1, Some(end), &[]);
    assert_eq!(answers(&world.inject(1, &fin)), [(TcpControl::Rst, end, None)], "forgotten by now");
}

#[test]
fn sequence_numbers_are_those_of_the_rfc() {
    let mut world = world(|_| {});
    world.passes = Box::new(|_, frame| is_arp(frame));
    let isn = |world: &mut World, source| answers(&world.inject(1, &syn(source, 0)))[0].1;
    let first = isn(&mut world, (address(0), 5));
    let other = isn(&mut world, (address(0), 6));
    world.run(11 * SECOND);
    let later = isn(&mut world, (address(0), 5));
    let passed = later.wrapping_sub(first);
    // A tick of 4 µs: 11 s are 2,750,000. This holds only while smoltcp draws the number that was chosen for it.
    assert!((2_750_000..2_750_100).contains(&passed), "{passed}");
    assert!(other.wrapping_sub(first).unsigned_abs() > 1_000_000, "unrelated");
}

#[test]
fn bytes_before_the_end_are_read_after_it() {
    let mut world = world(|_| {});
    let source = (address(0), 5);
    world.passes = Box::new(|_, _| false);
    world.script(1).mode = Mode::Deaf;
    let [(_, isn, _)] = answers(&world.inject(1, &syn(source, 0)))[..] else { panic!() };
    let next = isn.wrapping_add(1);
    world.inject(1, &segment(source, 7, TcpControl::None, 1, Some(next), &[]));
    let id = world.script(1).accepted[0];
    world.inject(1, &segment(source, 7, TcpControl::Fin, 1, Some(next), b"the last words"));
    world.ask(1, move |net| net.conn(id).unwrap().close());
    world.run(10 * MS);
    world.inject(1, &segment(source, 7, TcpControl::None, 16, Some(next.wrapping_add(1)), &[]));
    assert_eq!(world.script(1).closed, [], "not while there is something to read");
    world.run(20 * SECOND);
    let words = world.with_conn(1, id, |conn| {
        let mut words = [0; 20];
        let n = conn.recv_slice(&mut words);
        assert!(conn.peer_finished());
        words[..n].to_vec()
    });
    assert_eq!(words, b"the last words");
    world.run(10 * MS);
    assert_eq!(world.script(1).closed, [(id, 0, Closed::Done)]);
    world.assert_clean();
}

#[test]
fn unread_bytes_are_not_kept_for_ever() {
    let mut world = world(|_| {});
    world.script(1).mode = Mode::Deaf;
    let id = world.connect(7);
    world.send(0, id, b"never read");
    world.run(10 * MS);
    world.with_conn(0, id, |conn| conn.close());
    world.run(10 * MS);
    let other = world.script(1).accepted[0];
    world.with_conn(1, other, |conn| conn.close());
    world.run(299 * SECOND);
    assert_eq!(world.script(1).closed, []);
    world.run(2 * SECOND);
    assert_eq!(world.script(1).closed, [(other, 0, Closed::Done)]);
    assert_eq!(world.counter(1, "unread_discarded"), 10);
    world.assert_clean();
}

#[test]
fn a_full_device_loses_nothing() {
    let mut world = world(|_| {});
    world.script(0).mode = Mode::Keep;
    let ids: Vec<_> = (0..20).map(|_| world.connect(7)).collect();
    world.run(10 * MS);
    for host in &mut world.hosts {
        host.wire.room = 1;
    }
    for id in &ids {
        world.send(0, *id, &[3; 20_000]);
    }
    world.run(10 * SECOND);
    for id in &ids {
        assert_eq!(world.script(0).received[id].len(), 20_000);
    }
    assert!(world.counter(0, "egress_no_room") > 0);
    assert_eq!(world.counter(0, "closed_timed_out"), 0);
}

/// Both ways at once: each end then retransmits while the other's acknowledgements are lost.
#[test]
fn loss_is_repaired() {
    for every in [7, 13, 29, 100] {
        let mut world = world(|_| {});
        world.script(0).mode = Mode::Keep;
        let id = world.connect(7);
        world.run(10 * MS);
        let mut count = 0;
        world.passes = Box::new(move |_, frame| {
            count += 1;
            is_arp(frame) || count % every != 0
        });
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
        world.send(0, id, &bytes);
        world.run(60 * SECOND);
        assert_eq!(world.script(0).received[&id].len(), bytes.len(), "every {every}th lost");
        assert!(world.script(0).received[&id] == bytes);
    }
}

#[test]
fn ten_thousand_flows() {
    let mut world = World::with(|config| config.limits.flows = 10_000);
    world.script(0).mode = Mode::Keep;
    world.listen(7);
    let tcp = TcpOptions { rx_bytes: 1024, tx_bytes: 1024, ..TcpOptions::default() };
    let mut ids = Vec::new();
    for _ in 0..100 {
        for _ in 0..100 {
            ids.push(world.connect_with(7, ConnectOptions { tcp, ..ConnectOptions::default() }));
        }
        world.run(2 * MS);
    }
    world.run(100 * MS);
    assert_eq!(world.script(1).accepted.len(), 10_000);
    let to = (address(1), 7).into();
    let full = world.ask(0, move |net| net.connect(to, ConnectOptions::default())).unwrap_err();
    assert_eq!(full, crate::ConnectError::TooMany(10_000));
    world.ask(0, {
        let ids = ids.clone();
        move |net| {
            for id in ids {
                assert_eq!(net.conn(id).unwrap().send_slice(&id.to_bits().to_le_bytes()), 8);
            }
        }
    });
    world.run(500 * MS);
    for id in &ids {
        assert_eq!(world.script(0).received[id], id.to_bits().to_le_bytes());
    }
    world.ask(0, move |net| ids.into_iter().for_each(|id| net.conn(id).unwrap().close()));
    world.run(SECOND);
    assert_eq!(world.script(0).closed.len(), 10_000);
    world.assert_clean();
}

#[test]
fn a_fin_beyond_the_window_waits_for_the_bytes_before_it() {
    let mut world = world(|config| config.tcp.rx_bytes = 1024);
    world.passes = Box::new(|_, frame| is_arp(frame));
    world.script(1).mode = Mode::Deaf;
    let tcp = TcpOptions { rx_bytes: 1024, ..TcpOptions::default() };
    world.ask(1, move |net| net.listen(9.into(), ListenOptions { tcp, ..ListenOptions::default() })).unwrap();
    let source = (address(0), 5);
    let hand = |control, seq, ack, data: &[u8]| segment(source, 9, control, seq, ack, data);
    let [(TcpControl::Syn, isn, Some(1))] =
        answers(&world.inject(1, &hand(TcpControl::Syn, 0, None, &[])))[..]
    else {
        panic!()
    };
    let ours = Some(isn.wrapping_add(1));
    world.inject(1, &hand(TcpControl::None, 1, ours, &[]));
    let id = world.script(1).accepted[0];
    let bytes: Vec<u8> = (0..1100_u16).map(|n| n.to_le_bytes()[0]).collect();
    world.inject(1, &hand(TcpControl::Psh, 1, ours, &bytes[..1000]));
    world.inject(1, &hand(TcpControl::Fin, 1001, ours, &bytes[1000..]));
    assert_eq!(world.counter(1, "early_fin"), 1);
    assert_eq!(world.script(1).finished, [], "76 bytes are missing");

    world.script(1).mode = Mode::Keep;
    let mut read = vec![0; 1024];
    let read = world.with_conn(1, id, move |conn| {
        assert_eq!(conn.recv_slice(&mut read), 1024);
        read
    });
    assert_eq!(read, bytes[..1024]);
    world.inject(1, &hand(TcpControl::Fin, 1001, ours, &bytes[1000..]));
    assert_eq!(world.script(1).received[&id], bytes[1024..]);
    assert_eq!(world.script(1).finished, [id]);
}
