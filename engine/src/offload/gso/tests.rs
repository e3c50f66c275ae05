use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket};

use super::*;
use crate::offload::test_frames::{Made, home_with_long, made, pieces};

/// What the receiver of a frame sees of it: every checksum right, and the stream that it carries.
struct Seen {
    sequence: u32,
    flags: u8,
    id: u16,
    payload: Vec<u8>,
}

fn see(frame: &[u8], v6: bool) -> Seen {
    let (src, dst, id, segment) = if v6 {
        let ip = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        (ip.src_addr().into(), ip.dst_addr().into(), 0, ip.payload().to_vec())
    } else {
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(ip.verify_checksum());
        (ip.src_addr().into(), ip.dst_addr().into(), ip.ident(), ip.payload().to_vec())
    };
    let tcp = TcpPacket::new_checked(&segment[..]).unwrap();
    assert!(tcp.verify_checksum(&src, &dst));
    let sequence = u32::from_ne_bytes(tcp.seq_number().0.to_ne_bytes());
    Seen { sequence, flags: segment[13], id, payload: tcp.payload().to_vec() }
}

/// All segments of a frame, complete.
fn cut(pool: &pmd::HomePool, frame: Mbuf, port_sums: bool) -> Vec<Mbuf> {
    let mut cut = Cut::new(frame).unwrap_or_else(|_| panic!("it can be cut"));
    let mut segments = Vec::new();
    while !cut.is_done() {
        let mut segment = cut.next(pool.alloc_for(cut.longest()).unwrap(), port_sums).unwrap();
        assert_eq!(segment.offload().partial_checksum().is_some(), port_sums);
        segment.complete_checksum().unwrap();
        segments.push(segment);
    }
    segments
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The segments carry the same bytes at the same sequence numbers, whatever pieces the frame lies in.
    #[test]
    fn segments_are_the_frame_in_parts(
        v6 in any::<bool>(),
        payload in 1..20_000_usize,
        segment in 1..2000_u16,
        // The headers lie in one piece, as a frame that can be cut has them: 110 bytes at most.
        piece in 110..3000_usize,
        options in 0..10_usize,
        flags in any::<u8>(),
        sequence in prop_oneof![any::<u32>(), Just(u32::MAX - 3000)],
        port_sums in any::<bool>(),
    ) {
        let segment = segment.max(u16::try_from(payload / 400).unwrap() + 1);
        let pool = home_with_long(64);
        let bytes = made(&Made { v6, payload, flags, sequence, options, id: 0xfffe });
        let segments = cut(&pool, pieces(&pool, &bytes, piece, Some(segment)), port_sums);
        prop_assert_eq!(segments.len(), payload.div_ceil(segment.into()));
        let whole = see(&bytes, v6);
        let (mut stream, last) = (Vec::new(), segments.len() - 1);
        for (number, frame) in segments.iter().enumerate() {
            let seen = see(frame.data(), v6);
            prop_assert_eq!(seen.sequence, sequence.wrapping_add(stream.len() as u32));
            if !v6 {
                prop_assert_eq!(seen.id, 0xfffe_u16.wrapping_add(number as u16));
            }
            let mut expected = flags;
            if number != last { expected &= !(FIN | PSH) }
            if number != 0 { expected &= !CWR }
            prop_assert_eq!(seen.flags, expected);
            prop_assert!(seen.payload.len() <= usize::from(segment));
            stream.extend(seen.payload);
        }
        prop_assert!(stream == whole.payload);
    }
}

#[test]
fn what_is_not_what_it_says_is_not_cut() {
    let pool = home_with_long(8);
    let of = |v6| made(&Made { v6, payload: 3000, flags: 0x10, sequence: 1, options: 0, id: 1 });
    let mut other_kind = pieces(&pool, &of(true), 4000, Some(1000));
    let by = other_kind.offload().segmentation().unwrap();
    let offload = other_kind.offload();
    other_kind.set_offload(offload.segmented(pmd::mem::Segmentation { kind: SegmentKind::Tcp4, ..by }));
    assert!(Cut::new(other_kind).is_err());
    let mut unverified = pieces(&pool, &of(false), 4000, Some(1000));
    unverified.set_offload(Offload::NONE.segmented(by));
    assert!(Cut::new(unverified).is_err());
    let split_headers = pieces(&pool, &of(false), 40, Some(1000));
    assert!(Cut::new(split_headers).is_err());
    assert!(Cut::new(pieces(&pool, &of(false), 4000, None)).is_err());
}

#[test]
fn a_mbuf_that_is_too_small_ends_it() {
    let pool = home_with_long(8);
    let bytes = made(&Made { v6: false, payload: 9000, flags: 0x10, sequence: 1, options: 0, id: 1 });
    let mut cut = Cut::new(pieces(&pool, &bytes, 10_000, Some(4000))).unwrap_or_else(|_| panic!());
    assert_eq!(cut.longest(), 4054);
    assert!(cut.next(pool.alloc().unwrap(), true).is_none());
}
