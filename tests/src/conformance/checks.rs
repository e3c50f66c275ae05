//! The checks: a promise each.

use std::time::Duration;

use pmd::port::{Arm, Input, Link};
use pmd::{Burst, MAX_BURST, Mbuf};

use super::packet::is_readable;
use super::{Bed, DESCRIPTORS, HEADER_BYTES, frame, frames};

/// A promise, checked on a port of its own.
type Check = fn(&mut Bed<'_>);

/// All of them, by name.
pub(super) const CHECKS: &[(&str, Check)] = &[
    ("lengths", every_length_arrives_in_order_and_whole),
    ("chains", chains_and_clones_are_sent_as_one_frame),
    ("backlog", what_has_no_room_waits_in_order),
    ("budget", a_burst_is_never_larger_than_asked_for),
    ("empty pool", an_empty_pool_is_counted_and_loses_nothing),
    ("unsendable", what_can_never_be_sent_is_dropped_and_counted),
    ("swallowed", what_is_sent_is_counted),
    ("taken once", queue_pairs_are_taken_once),
    ("stop", a_stopped_port_moves_nothing_and_stops_twice),
    ("quiesce", a_quiesced_queue_pair_moves_nothing),
    ("busy drop", a_port_dropped_while_busy_leaks_nothing),
    ("link", the_link_is_up_until_it_is_not),
    ("death", the_other_side_may_die),
    ("arm", an_armed_queue_pair_tells_of_the_next_frame),
];

fn every_length_arrives_in_order_and_whole(bed: &mut Bed<'_>) {
    let most = usize::from(bed.port.info().mtu.min(1500)) + 14;
    let outward = frames((60..=most).chain([HEADER_BYTES, 21, 59, most, 60]), true);
    let inward = frames((60..=most).rev().chain([HEADER_BYTES, 21, 59, most, 60]), false);
    bed.exchange(&outward, &inward);
    bed.assert_counted();
    // And many more than any ring has room for, so that indices go round.
    let outward = frames((0..3000).map(|number| 60 + number * 7919 % 1455), true);
    bed.exchange(&outward, &frames((0..3000).map(|number| 60 + number * 4001 % 1455), false));
    bed.assert_counted();
}

fn chains_and_clones_are_sent_as_one_frame(bed: &mut Bed<'_>) {
    let wanted = frames((0..64).map(|number| 60 + number * 23), true);
    let mut sent = wanted.iter().enumerate();
    let mut came = wanted.iter();
    let (mut burst, mut kept) = (Burst::new(), Vec::new());
    bed.wait_for("not all chains arrived", |bed| {
        if burst.is_empty()
            && let Some((index, frame)) = sent.next()
        {
            let mbuf = chained(bed, frame, 1 + index % 5, index);
            // A clone of every third is held: its bytes may not be written then.
            if index % 3 == 0 {
                kept.push(mbuf.clone_ref(bed.pool).unwrap());
            }
            burst.push(mbuf);
        }
        bed.send(&mut burst);
        bed.poll(MAX_BURST);
        while let Some(frame) = bed.wire.receive() {
            super::assert_same(&frame, came.next().expect("a frame too many"));
        }
        came.len() == 0
    });
    for clone in &kept {
        let bytes: Vec<u8> = clone.segments().flat_map(Mbuf::data).copied().collect();
        assert!(wanted.contains(&bytes), "a clone's bytes are as they were");
    }
    drop(kept);
    bed.assert_counted();
}

/// `frame` in so many mbufs of uneven lengths.
fn chained(bed: &Bed<'_>, frame: &[u8], count: usize, seed: usize) -> Mbuf {
    let mut rest = frame;
    let mut head: Option<Mbuf> = None;
    for left in (1..=count).rev() {
        let here = if left == 1 {
            rest.len()
        } else {
            (rest.len() / left + seed % 3).clamp(1, rest.len() - left + 1)
        };
        let (part, more) = rest.split_at(here);
        rest = more;
        let segment = bed.mbuf(part);
        match &mut head {
            None => head = Some(segment),
            Some(head) => head.chain(segment),
        }
    }
    head.expect("at least one")
}

fn what_has_no_room_waits_in_order(bed: &mut Bed<'_>) {
    // More than the ring, with nobody at its other end.
    let wanted = frames((0..3 * usize::from(DESCRIPTORS)).map(|number| 60 + number % 100), true);
    let mut left = wanted.iter();
    let mut burst = Burst::new();
    let mut refused = 0;
    while refused < 3 && left.len() > 0 {
        while !burst.is_full()
            && let Some(frame) = left.next()
        {
            burst.push(bed.mbuf(frame));
        }
        refused += usize::from(bed.send(&mut burst) == 0);
    }
    // Now it is looked after: everything arrives.
    let mut came = wanted.iter();
    bed.wait_for("not all frames arrived", |bed| {
        while !burst.is_full()
            && let Some(frame) = left.next()
        {
            burst.push(bed.mbuf(frame));
        }
        bed.send(&mut burst);
        bed.poll(MAX_BURST);
        while let Some(frame) = bed.wire.receive() {
            super::assert_same(&frame, came.next().expect("a frame too many"));
        }
        came.len() == 0
    });
    bed.assert_counted();
}

fn a_burst_is_never_larger_than_asked_for(bed: &mut Bed<'_>) {
    let wanted = frames((0..bed.wire.window().min(40)).map(|number| 64 + number), false);
    let mut fed = wanted.iter().peekable();
    let mut came = Vec::new();
    let mut budget = 0;
    bed.wait_for("not all frames came", |bed| {
        while let Some(frame) = fed.peek()
            && bed.wire.send(frame)
        {
            fed.next();
        }
        bed.wire.receive();
        // 0 to 4, over and over; `poll` looks that there are no more.
        budget = (budget + 1) % 5;
        came.extend(bed.poll(budget));
        came.len() == wanted.len()
    });
    assert!(came == wanted, "order and contents");
    // A burst that has no room left takes none, whatever the budget.
    assert!(bed.wire.send(&frame(0, 64, false)));
    let mut full = Burst::new();
    full.extend((0..MAX_BURST).map(|_| bed.mbuf(&[0; 60])));
    let pool = bed.pool;
    for _ in 0..100 {
        bed.wire.receive();
        assert_eq!(bed.pair().rx_burst(pool, &mut full, MAX_BURST), 0);
    }
    full.pop();
    bed.wait_for("the one frame", |bed| {
        bed.wire.receive();
        bed.pair().rx_burst(pool, &mut full, MAX_BURST) == 1
    });
}

fn an_empty_pool_is_counted_and_loses_nothing(bed: &mut Bed<'_>) {
    // So many at a time that rings hold them; several times, so that what is posted is used up.
    let mut number = 0;
    for _ in 0..8 {
        // With what comes meanwhile kept too, or it would be received into again.
        let mut held: Vec<Mbuf> = bed.pool.alloc_bulk(usize::MAX).collect();
        let count = bed.wire.window();
        let wanted: Vec<_> = (0..count).map(|at| frame(number + at as u32, 60 + at, false)).collect();
        number += count as u32;
        let mut fed = wanted.iter().peekable();
        let mut came = Vec::new();
        let before = bed.pair().counters().rx_nombuf;
        bed.wait_for("rx_nombuf does not rise", |bed| {
            while let Some(frame) = fed.peek()
                && bed.wire.send(frame)
            {
                fed.next();
            }
            bed.wire.receive();
            came.extend(bed.poll_into(MAX_BURST, &mut held));
            bed.pair().counters().rx_nombuf > before
        });
        drop(held);
        bed.wait_for("the frames do not come when there are mbufs again", |bed| {
            while let Some(frame) = fed.peek()
                && bed.wire.send(frame)
            {
                fed.next();
            }
            bed.wire.receive();
            came.extend(bed.poll(MAX_BURST));
            came.len() == wanted.len()
        });
        assert!(came == wanted, "order and contents");
    }
    bed.assert_counted();
}

fn what_can_never_be_sent_is_dropped_and_counted(bed: &mut Bed<'_>) {
    let mut burst = Burst::new();
    burst.push(bed.mbuf(&frame(0, 60, true)));
    burst.push(bed.mbuf(&[]));
    burst.push(bed.mbuf(&frame(1, 60, true)));
    bed.wait_for("the burst does not leave", |bed| {
        bed.pair().tx_burst(&mut burst);
        bed.wire.receive();
        burst.is_empty()
    });
    let counters = bed.pair().counters();
    assert_eq!((counters.tx_packets, counters.tx_bytes, counters.tx_errors), (2, 120, 1));
}

fn what_is_sent_is_counted(bed: &mut Bed<'_>) {
    for round in 0..20 {
        let mut burst = Burst::new();
        burst.extend((0..MAX_BURST).map(|at| bed.mbuf(&frame(at as u32, 60 + round, true))));
        bed.wait_for("the burst does not leave", |bed| {
            bed.send(&mut burst);
            bed.poll(MAX_BURST);
            while bed.wire.receive().is_some() {}
            burst.is_empty()
        });
    }
    bed.assert_counted();
}

fn queue_pairs_are_taken_once(bed: &mut Bed<'_>) {
    assert!(bed.port.take_queue_pairs().is_empty());
    assert!(bed.port.info().queue_pairs >= 1 && bed.port.info().mtu >= 1280);
    assert_eq!(bed.port.info().mac[0] & 1, 0, "an address of one station");
}

/// Neither takes frames nor gives any.
fn assert_still(bed: &mut Bed<'_>) {
    let pool = bed.pool;
    let mut burst = Burst::new();
    burst.push(bed.mbuf(&frame(7, 60, true)));
    for _ in 0..50 {
        bed.wire.send(&frame(7, 60, false));
        assert_eq!(bed.pair().tx_burst(&mut burst), 0);
        assert_eq!(bed.pair().tx_room(), 0);
        let mut received = Burst::new();
        assert_eq!(bed.pair().rx_burst(pool, &mut received, MAX_BURST), 0);
    }
}

fn a_stopped_port_moves_nothing_and_stops_twice(bed: &mut Bed<'_>) {
    bed.pair().quiesce();
    bed.stop();
    bed.stop();
    assert_still(bed);
    assert_eq!(bed.port.link(), Link::Down);
}

fn a_quiesced_queue_pair_moves_nothing(bed: &mut Bed<'_>) {
    bed.pair().quiesce();
    bed.pair().quiesce();
    assert_still(bed);
}

fn a_port_dropped_while_busy_leaks_nothing(bed: &mut Bed<'_>) {
    let mut burst = Burst::new();
    for number in 0..100 {
        bed.wire.send(&frame(number, 100, false));
        burst.push(bed.mbuf(&frame(number, 100, true)));
        bed.pair().tx_burst(&mut burst);
        burst.clear();
        if number == 50 {
            bed.poll(7);
        }
    }
    // `run` counts the mbufs after all is gone; the queue pair without having been quiesced.
    bed.stop();
    bed.pair = None;
}

fn the_link_is_up_until_it_is_not(bed: &mut Bed<'_>) {
    bed.wait_for("the link never comes up", |bed| {
        bed.poll(MAX_BURST);
        bed.wire.receive();
        bed.port.link() == Link::Up
    });
    bed.pair().quiesce();
    bed.stop();
    assert_eq!(bed.port.link(), Link::Down);
}

fn the_other_side_may_die(bed: &mut Bed<'_>) {
    bed.exchange(&frames([100; 10].into_iter(), true), &frames([100; 10].into_iter(), false));
    bed.wire.die();
    bed.wait_for("it is never said that the other side is gone", |bed| {
        let mut events = 0;
        bed.port.events(&mut |_| events += 1);
        // Neither call may wait, nor fail.
        bed.poll(MAX_BURST);
        let mut burst = Burst::new();
        burst.push(bed.mbuf(&frame(0, 60, true)));
        bed.pair().tx_burst(&mut burst);
        let is_over = bed.port.link() == Link::Down || bed.port.input() == Input::Ended;
        events > 0 || is_over || bed.pair().fault().is_some()
    });
}

fn an_armed_queue_pair_tells_of_the_next_frame(bed: &mut Bed<'_>) {
    let mut slept = 0;
    for number in 0..50 {
        // What is here is taken first, as a loop does.
        bed.wait_for("it never becomes quiet", |bed| {
            bed.wire.receive();
            bed.poll(MAX_BURST).is_empty()
        });
        let arm = bed.pair().arm();
        assert_ne!(arm, Arm::CannotWait, "nobody would tell");
        let sent = frame(number, 80, false);
        assert!(bed.wire.send(&sent));
        if arm == Arm::Armed {
            let mut fds = Vec::new();
            bed.pair().wait_fds(&mut |fd| fds.push(fd.try_clone_to_owned().unwrap()));
            assert!(!fds.is_empty(), "something to sleep on");
            assert!(is_readable(&fds, Duration::from_secs(10)), "frame {number} wakes nobody");
            slept += 1;
        }
        bed.pair().disarm();
        let mut came = Vec::new();
        bed.wait_for("the frame that woke us", |bed| {
            bed.wire.receive();
            came.extend(bed.poll(MAX_BURST));
            !came.is_empty()
        });
        assert_eq!(came, [sent]);
    }
    assert!(slept > 0, "it never let us sleep");
}
