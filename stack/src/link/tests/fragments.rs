//! Fragments in and out.

use super::*;
use crate::fragment::pieces;

/// Cuts the IPv4 packet of a frame into fragments for `mtu`.
fn cut(frame: &[u8], ident: u16, mtu: usize) -> Vec<Vec<u8>> {
    let (header, payload) = frame.split_at(34);
    pieces(payload.len(), 20, mtu)
        .map(|(offset, len, more)| {
            let mut fragment = header.to_vec();
            fragment.extend(&payload[offset..offset + len]);
            patched(&fragment, |f| {
                f[16..18].copy_from_slice(&u16::try_from(20 + len).unwrap().to_be_bytes());
                f[18..20].copy_from_slice(&ident.to_be_bytes());
                let word = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
                f[20..22].copy_from_slice(&word.to_be_bytes());
            })
        })
        .collect()
}

/// Cuts the IPv6 packet of a frame.
fn cut6(frame: &[u8], ident: u32, mtu: usize) -> Vec<Vec<u8>> {
    let (header, payload) = frame.split_at(54);
    pieces(payload.len(), 48, mtu)
        .map(|(offset, len, more)| {
            let mut fragment = header.to_vec();
            fragment[18..20].copy_from_slice(&u16::try_from(8 + len).unwrap().to_be_bytes());
            fragment[20] = 44;
            let word = u16::try_from(offset).unwrap() | u16::from(more);
            fragment.extend([header[20], 0]);
            fragment.extend(word.to_be_bytes());
            fragment.extend(ident.to_be_bytes());
            fragment.extend(&payload[offset..offset + len]);
            fragment
        })
        .collect()
}

#[track_caller]
fn assert_whole(bench: &mut Bench, last: &[u8], whole: &[u8]) {
    let Ingress::Udp(packet) = bench.receive(last) else { panic!("not whole") };
    let ip_header = whole.len() - 14 - packet.payload().len();
    assert_eq!(packet.payload(), &whole[14 + ip_header..]);
    if packet.bytes()[0] >> 4 == 4 {
        let header = Ipv4Packet::new_checked(packet.bytes()).unwrap();
        assert!(header.verify_checksum() && !header.more_frags() && header.frag_offset() == 0);
        assert_eq!(usize::from(header.total_len()), packet.bytes().len());
    } else {
        let header = Ipv6Packet::new_checked(packet.bytes()).unwrap();
        assert_eq!((header.next_header(), header.total_len()), (IpProtocol::Udp, packet.bytes().len()));
    }
    bench.link.recycle(packet);
}

#[test]
fn fragments_make_a_datagram_in_any_order() {
    let mut bench = Bench::new(config6());
    for (whole, fragments) in [
        (udp(&patterned(60_000)), cut(&udp(&patterned(60_000)), 1, 1500)),
        (udp6(&patterned(60_000)), cut6(&udp6(&patterned(60_000)), 1, 1280)),
        (udp(&patterned(65_507)), cut(&udp(&patterned(65_507)), 2, 1500)),
    ] {
        let (last, rest) = fragments.split_last().unwrap();
        for fragment in rest {
            assert!(matches!(bench.receive(fragment), Ingress::Consumed));
        }
        assert_whole(&mut bench, last, &whole);
        let (first, rest) = fragments.split_first().unwrap();
        for fragment in rest.iter().rev() {
            assert!(matches!(bench.receive(fragment), Ingress::Consumed));
        }
        assert_whole(&mut bench, first, &whole);
    }
    assert_eq!(bench.counter("reassembled"), 6);
    assert_eq!((bench.counter("reassemblies"), bench.counter("reassembly_bytes")), (0, 0));
}

#[test]
fn datagrams_are_told_apart_by_identification() {
    let mut bench = Bench::new(config());
    let (a, b) = (udp(&patterned(3000)), udp(&[9; 3000]));
    let (cut_a, cut_b) = (cut(&a, 1, 1500), cut(&b, 2, 1500));
    for n in 0..2 {
        bench.receive(&cut_a[n]);
        bench.receive(&cut_b[n]);
    }
    assert_whole(&mut bench, &cut_b[2], &b);
    assert_whole(&mut bench, &cut_a[2], &a);
}

#[test]
fn duplicates_are_harmless_and_overlaps_fatal() {
    let mut bench = Bench::new(config());
    let whole = udp(&patterned(4000));
    let fragments = cut(&whole, 1, 1500);
    bench.receive(&fragments[0]);
    bench.receive(&fragments[0]);
    bench.receive(&fragments[1]);
    bench.receive(&fragments[0]);
    assert_whole(&mut bench, &fragments[2], &whole);

    // The same place with other bytes.
    let fragments = cut(&whole, 2, 1500);
    let lie = patched(&fragments[0], |f| f[100] ^= 1);
    bench.receive(&fragments[0]);
    bench.drops(&lie, "fragment_overlap");
    for fragment in &fragments {
        bench.drops(fragment, "fragment_overlap");
    }
    // Partly over another, from either side.
    for shift in [184u16, 186] {
        let fragments = cut(&whole, 100 + shift, 1500);
        let shifted = patched(&fragments[1], |f| f[20..22].copy_from_slice(&(shift | 0x2000).to_be_bytes()));
        let (first, second) = if shift < 185 { (0, shifted) } else { (2, shifted) };
        bench.receive(&fragments[first]);
        bench.drops(&second, "fragment_overlap");
        for fragment in &fragments {
            bench.drops(fragment, "fragment_overlap");
        }
    }
    // Behind the end, and a second end.
    let fragments = cut(&whole, 5, 1500);
    bench.receive(&fragments[2]);
    let behind = patched(&fragments[1], |f| f[20..22].copy_from_slice(&(0x2000u16 | 700).to_be_bytes()));
    bench.drops(&behind, "fragment_overlap");
    assert_eq!(bench.counter("reassembly_bytes"), 0, "poisoned ones hold no bytes");
}

#[test]
fn impossible_fragments_are_dropped() {
    let mut bench = Bench::new(config6());
    let fragments = cut(&udp(&patterned(3000)), 1, 1500);
    // Not a multiple of eight bytes; nothing at all; beyond 65,535.
    let odd = patched(&fragments[0][..fragments[0].len() - 1], |f| {
        let len = u16::try_from(f.len() - 14).unwrap();
        f[16..18].copy_from_slice(&len.to_be_bytes());
    });
    bench.drops(&odd, "bad_fragment");
    let empty = patched(&fragments[0][..34], |f| f[16..18].copy_from_slice(&[0, 20]));
    bench.drops(&empty, "bad_fragment");
    bench.drops(&patched(&fragments[0], |f| f[20..22].copy_from_slice(&[0x3f, 0xff])), "bad_fragment");
    bench.drops(&patched(&fragments[2], |f| f[20..22].copy_from_slice(&[0x1f, 0xff])), "bad_fragment");
    assert_eq!(bench.counter("reassemblies"), 0);
}

#[test]
fn fragments_that_never_complete_cost_bounded_memory_and_time_out() {
    let mut small = config6();
    small.limits.reassembly_bytes = 200_000;
    let mut bench = Bench::acquainted(small);
    let fragments = cut(&udp(&patterned(60_000)), 0, 1500);
    for n in 0..5000u16 {
        let at = usize::from(n) % fragments.len();
        bench.receive(&patched(&fragments[at], |f| f[18..20].copy_from_slice(&n.to_be_bytes())));
        assert!(bench.counter("reassembly_bytes") <= 200_000);
        assert!(bench.counter("reassemblies") <= MAX_REASSEMBLIES as u64);
    }
    assert!(bench.counter("reassembly_evicted") > 0);
    bench.wait(Duration::from_secs(31));
    assert_eq!((bench.counter("reassemblies"), bench.counter("reassembly_bytes")), (0, 0));
    assert!(bench.counter("reassembly_timeout") > 0);
}

#[test]
fn the_sender_of_a_first_fragment_hears_of_the_timeout() {
    let mut bench = Bench::acquainted(config6());
    let fragments = cut(&udp(&patterned(3000)), 1, 1500);
    bench.receive(&fragments[0]);
    bench.receive(&patched(&fragments[1], |f| f[19] = 2));
    let fragments6 = cut6(&udp6(&patterned(3000)), 1, 1500);
    bench.receive(&fragments6[0]);
    bench.wait(Duration::from_secs(31));
    // Without the ARP that the answer may bring about.
    let sent: Vec<_> = bench.wire.take().into_iter().filter(|f| f[12..14] == [8, 0]).collect();
    assert_eq!(sent.len(), 1, "not for the one whose first fragment is missing");
    assert_eq!(sent[0][34..36], [11, 1]);
    assert_eq!(sent[0][42..62], fragments[0][14..34]);
    assert_eq!(sent[0][62..570], fragments[0][34..542]);
    assert_eq!(sent[0].len(), 14 + 576);
    // It has not answered our probes for long: it has to introduce itself again.
    bench.wait(Duration::from_secs(27));
    bench.receive(&super::ndp::solicit(PEER6, OUR6, Some(PEER_MAC)));
    bench.wait(Duration::from_secs(4));
    let sent: Vec<_> = bench.wire.take().into_iter().filter(|f| f[20] == 58 && f[54] == 3).collect();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].len(), 14 + 1280);
    assert_eq!(sent[0][62..], fragments6[0][14..14 + 1232]);
    assert_eq!(bench.counter("reassembly_timeout"), 3);
}

/// What a receiver makes of our frames.
fn put_together(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut ident = None;
    for (n, frame) in frames.iter().enumerate() {
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(packet.verify_checksum() && frame.len() <= 1514 && !packet.dont_frag());
        assert_eq!(usize::from(packet.frag_offset()), payload.len());
        assert_eq!(packet.more_frags(), n + 1 < frames.len());
        assert_eq!(*ident.get_or_insert(packet.ident()), packet.ident());
        payload.extend(packet.payload());
    }
    payload
}

#[test]
fn large_datagrams_leave_in_fragments() {
    let mut bench = Bench::acquainted(config6());
    bench.send(PEER.into(), 1480).unwrap();
    let frames = bench.wire.take();
    assert_eq!(frames.len(), 1);
    assert!(Ipv4Packet::new_unchecked(&frames[0][14..]).dont_frag());
    for len in [1481, 20_000, 65_515] {
        bench.send(PEER.into(), len).unwrap();
        assert_eq!(put_together(&bench.wire.take()), patterned(len));
    }
    assert_eq!(
        bench.send(PEER.into(), 65_516),
        Err(crate::error::SendError::TooLong { len: 65_516, max: 65_515 })
    );
    assert_eq!(bench.counter("fragmented"), 3);
}

#[test]
fn large_ipv6_datagrams_leave_with_fragment_headers() {
    let mut bench = Bench::acquainted(config6());
    bench.send(PEER6.into(), 65_535).unwrap();
    let mut payload = Vec::<u8>::new();
    let frames = bench.wire.take();
    for (n, frame) in frames.iter().enumerate() {
        let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        assert_eq!((packet.next_header(), packet.total_len()), (IpProtocol::Ipv6Frag, frame.len() - 14));
        assert!(frame.len() <= 1514);
        assert_eq!(frame[54..56], [17, 0]);
        let word = u16::from_be_bytes([frame[56], frame[57]]);
        assert_eq!(usize::from(word & !7), payload.len());
        assert_eq!(word & 7, u16::from(n + 1 < frames.len()));
        assert_eq!(frame[58..62], frames[0][58..62]);
        payload.extend(&frame[62..]);
    }
    assert_eq!(payload, patterned(65_535));
}

#[test]
fn a_large_datagram_waits_whole_for_its_neighbour() {
    let mut bench = Bench::new(config());
    bench.send(PEER.into(), 60_000).unwrap();
    bench.wire.take();
    bench.receive(&arp(ArpOperation::Reply, PEER_MAC, PEER, OUR));
    assert_eq!(put_together(&bench.wire.take()), patterned(60_000));
}

#[test]
fn large_echo_requests_come_back_whole() {
    let mut bench = Bench::acquainted(config());
    let request = ping(&patterned(30_000));
    for fragment in cut(&request, 1, 1500) {
        bench.receive(&fragment);
    }
    let reply = put_together(&bench.wire.take());
    assert_eq!(reply[8..], request[42..]);
    assert_eq!((reply[0], &reply[4..8]), (0, &request[38..42]));
}
