//! The ring's other side is the test: what waits, what passes, what is left.

use super::super::test_pair::{TestPair, extra, frame, home};
use super::*;

const EF: u8 = 46;
const BEST_EFFORT: u8 = 0;

/// The least of an IPv4 frame: Ethernet header, version, DSCP, and a number behind them.
fn ipv4(dscp: u8, number: u8) -> Vec<u8> {
    let mut bytes = vec![0; 34];
    bytes[12..16].copy_from_slice(&[0x08, 0x00, 0x45, dscp << 2]);
    bytes[33] = number;
    bytes
}

fn burst(pool: &HomePool, dscp: u8, numbers: std::ops::Range<u8>) -> Burst {
    numbers.map(|number| frame(pool, &ipv4(dscp, number))).collect()
}

fn numbers<'m>(frames: impl IntoIterator<Item = &'m Mbuf>) -> Vec<u8> {
    frames.into_iter().map(|frame| frame.data()[33]).collect()
}

#[test]
fn the_code_point_is_found_in_ipv4_and_ipv6_with_a_tag_and_without() {
    assert_eq!(dscp(&ipv4(EF, 0)), Some(EF));
    let mut ipv6 = vec![0; 54];
    ipv6[12..16].copy_from_slice(&[0x86, 0xdd, 0x60 | EF >> 2, EF << 6]);
    assert_eq!(dscp(&ipv6), Some(EF));
    for untagged in [ipv4(EF, 0), ipv6] {
        let mut tagged = untagged.clone();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        assert_eq!(dscp(&tagged), Some(EF));
    }
    let arp = [&[0xff; 12][..], &[0x08, 0x06], &[0; 28]].concat();
    assert_eq!(dscp(&arp), None);
    for len in 0..16 {
        assert_eq!(dscp(&ipv4(EF, 0)[..len]), None, "{len} bytes");
    }
}

#[test]
fn urgent_frames_leave_before_normal_ones_of_the_same_turn_in_one_burst() {
    let pool = home(256);
    let (inner, wire) = TestPair::new(256);
    let mut pair = Prioritised::new(inner, Priority::default());
    let mut mixed = burst(&pool, BEST_EFFORT, 0..3);
    mixed.extend(burst(&pool, EF, 10..12));
    mixed.extend(burst(&pool, BEST_EFFORT, 3..5));
    assert_eq!(pair.tx_burst(&mut mixed), 7);
    let wire = wire.lock().unwrap();
    assert_eq!(numbers(&wire.tx), [10, 11, 0, 1, 2, 3, 4]);
    assert_eq!(wire.bursts, 1);
    assert_eq!((extra(&pair, "tx_urgent"), extra(&pair, "tx_waited")), (2, 0));
}

#[test]
fn normal_frames_fill_a_part_of_the_ring_and_urgent_ones_all_of_it() {
    let pool = home(512);
    let (inner, wire) = TestPair::new(64);
    let mut pair = Prioritised::new(inner, Priority { normal_limit: 8, ..Priority::default() });
    assert_eq!(pair.tx_room(), 8 + WAITING);
    // What does not fit in the ring waits; what may not wait either is given back, the youngest.
    assert_eq!(pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..60)), 60);
    let mut more = burst(&pool, BEST_EFFORT, 60..80);
    assert_eq!(pair.tx_room(), 12);
    assert_eq!(pair.tx_burst(&mut more), 12);
    assert_eq!(numbers(&more), (72..80).collect::<Vec<_>>());
    more.clear();
    assert_eq!((pair.tx_room(), pair.tx_room_urgent()), (0, 56 + WAITING));
    assert_eq!(extra(&pair, "tx_waited"), 52 + 12);
    // The urgent pass all that waits: eight frames of others are before them, and no more.
    assert_eq!(pair.tx_burst(&mut burst(&pool, EF, 100..156)), 56);
    let sent = numbers(&wire.lock().unwrap().tx);
    assert_eq!(sent, (0..8).chain(100..156).collect::<Vec<_>>());
    // Polling alone moves on what waits, in order, as the ring empties.
    wire.lock().unwrap().tx.clear();
    let mut none = Burst::new();
    let mut rest = Vec::new();
    while rest.len() < 64 {
        pair.rx_burst(&pool, &mut none, 64);
        let left = std::mem::take(&mut wire.lock().unwrap().tx);
        assert!((1..=8).contains(&left.len()));
        rest.extend(numbers(&left));
    }
    assert_eq!(rest, (8..72).collect::<Vec<_>>());
    pair.rx_burst(&pool, &mut none, 64);
    assert_eq!((pair.tx_room(), pool.levels().free), (8 + WAITING, 512));
}

#[test]
fn a_ring_that_is_emptied_meanwhile_does_not_make_a_turn_longer() {
    let pool = home(512);
    let (inner, wire) = TestPair::new(64);
    let mut pair = Prioritised::new(inner, Priority { normal_limit: 8, ..Priority::default() });
    let mut accepted = 0;
    for _ in 0..20 {
        accepted += pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..8));
        wire.lock().unwrap().tx.clear();
    }
    // As much as may lie in the ring, and as much as may wait beside it; the urgent have room all the same.
    assert_eq!((accepted, pair.tx_room()), (8 + WAITING, 0));
    assert_eq!(pair.tx_burst(&mut burst(&pool, EF, 0..5)), 5);
    assert_eq!(wire.lock().unwrap().tx.len(), 5);
    pair.rx_burst(&pool, &mut Burst::new(), 64);
    // The five are still in the ring, so three of those that waited may join them.
    assert_eq!(wire.lock().unwrap().tx.len(), 8);
    wire.lock().unwrap().tx.clear();
    pair.rx_burst(&pool, &mut Burst::new(), 64);
    assert_eq!(wire.lock().unwrap().tx.len(), 8);
}

#[test]
fn a_full_ring_keeps_the_order_of_both_classes() {
    let pool = home(512);
    let (inner, wire) = TestPair::new(4);
    let mut pair = Prioritised::new(inner, Priority { normal_limit: 4, ..Priority::default() });
    pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..2));
    assert_eq!(pair.tx_burst(&mut burst(&pool, EF, 100..110)), 10);
    assert_eq!(pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 2..6)), 4);
    let mut sent = Vec::new();
    for _ in 0..8 {
        pair.rx_burst(&pool, &mut Burst::new(), 64);
        sent.extend(numbers(&std::mem::take(&mut wire.lock().unwrap().tx)));
    }
    assert_eq!(sent, (0..2).chain(100..110).chain(2..6).collect::<Vec<_>>());
    assert_eq!(extra(&pair, "tx_urgent"), 10);
}

#[test]
fn a_queue_without_another_side_takes_what_may_wait_and_then_has_no_room() {
    let pool = home(128);
    let (inner, _) = TestPair::new(0);
    let mut pair = Prioritised::new(inner, Priority::default());
    assert_eq!((pair.tx_room(), pair.tx_room_urgent()), (WAITING, WAITING));
    assert_eq!(pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..64)), 64);
    assert_eq!((pair.tx_room(), pair.tx_room_urgent()), (0, WAITING));
    assert_eq!(pair.tx_burst(&mut burst(&pool, EF, 0..64)), 64);
    assert_eq!((pair.tx_room_urgent(), pair.tx_waiting()), (0, 128));
}

#[test]
fn a_ring_that_is_never_filled_whole_delays_normal_frames_once_and_does_not_stop_them() {
    let pool = home(256);
    let (mut inner, wire) = TestPair::new(100);
    inner.absent = 50; // of the other side's 100 descriptors
    let mut pair = Prioritised::new(inner, Priority { normal_limit: 8, ..Priority::default() });
    pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..40));
    let mut poll = || {
        pair.rx_burst(&pool, &mut Burst::new(), 64);
        numbers(&std::mem::take(&mut wire.lock().unwrap().tx))
    };
    let still = (0..=STILL_POLLS + 1).take_while(|_| poll().is_empty()).count();
    assert!(still.abs_diff(STILL_POLLS as usize) <= 2, "{still}");
    let rest: Vec<u8> = (0..4).flat_map(|_| poll()).collect();
    assert_eq!(rest, (8..40).collect::<Vec<_>>(), "eight at a time, as the ring empties");
}

#[test]
fn what_waits_at_the_end_goes_home() {
    let pool = home(128);
    let (inner, wire) = TestPair::new(64);
    let mut pair = Prioritised::new(inner, Priority { normal_limit: 1, ..Priority::default() });
    pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..50));
    pair.quiesce();
    assert_eq!(wire.lock().unwrap().tx.len(), 1);
    assert_eq!(pool.levels().free, 127);
}
