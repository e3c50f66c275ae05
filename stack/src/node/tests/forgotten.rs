//! One end has forgotten the connection, or never heard that it is over.

use smoltcp::wire::{IpAddress, TcpControl};

use super::harness::*;
use super::hostile::{answers, into_time_wait, is_arp, segment, syn, world};
use crate::Closed;

/// A connection made by hand; its first sequence number that is free on either side.
fn open(world: &mut World, source: (IpAddress, u16)) -> (i32, i32) {
    let [(TcpControl::Syn, isn, Some(1))] = answers(&world.inject(1, &syn(source, 0)))[..] else { panic!() };
    let next = isn.wrapping_add(1);
    world.inject(1, &segment(source, 7, TcpControl::None, 1, Some(next), &[]));
    (1, next)
}

#[test]
fn a_syn_on_an_open_connection_is_challenged() {
    let mut world = world(|_| {});
    world.passes = Box::new(|_, frame| is_arp(frame));
    let source = (address(0), 5);
    let (theirs, ours) = open(&mut world, source);
    let id = world.script(1).accepted[0];
    // RFC 5961 §4.2: whatever its sequence number, and neither the connection nor its bytes suffer.
    for seq in [-5000, 0, theirs, 100_000] {
        let frames = world.inject(1, &syn(source, seq));
        assert_eq!(answers(&frames), [(TcpControl::None, ours, Some(theirs))], "SYN {seq}");
    }
    let frames = world.inject(1, &segment(source, 7, TcpControl::Psh, theirs, Some(ours), b"still"));
    assert_eq!(answers(&frames)[0], (TcpControl::Psh, ours, Some(theirs + 5)), "echoed");
    assert_eq!(world.script(1).closed, []);
    // The peer that has really forgotten answers the challenge with a reset where it was told to, and begins anew.
    let ours = ours.wrapping_add(5);
    let frames = world.inject(1, &syn(source, 70_000));
    assert_eq!(answers(&frames), [(TcpControl::None, ours, Some(theirs + 5))]);
    world.inject(1, &segment(source, 7, TcpControl::Rst, theirs + 5, None, &[]));
    assert_eq!(world.script(1).closed, [(id, 0, Closed::Reset)]);
    let frames = world.inject(1, &syn(source, 70_000));
    assert!(matches!(answers(&frames)[..], [(TcpControl::Syn, _, Some(70_001))]), "let in");
}

#[test]
fn challenges_are_sent_at_a_limited_rate() {
    let mut world = world(|config| config.limits.resets_per_second = 10);
    world.passes = Box::new(|_, frame| is_arp(frame));
    let source = (address(0), 5);
    open(&mut world, source);
    let sent: usize = (0..100).map(|_| answers(&world.inject(1, &syn(source, 9))).len()).sum();
    assert_eq!(sent, 10);
}

#[test]
fn the_last_acknowledgement_waits_for_room() {
    let mut world = world(|_| {});
    world.script(1).mode = Mode::Keep;
    world.passes = Box::new(|_, frame| is_arp(frame));
    let source = (address(0), 5);
    let (theirs, ours) = open(&mut world, source);
    let id = world.script(1).accepted[0];
    let frames = world.ask_frames(1, move |net| net.conn(id).unwrap().close());
    assert_eq!(answers(&frames), [(TcpControl::Fin, ours, Some(theirs))]);
    let end = ours.wrapping_add(1);
    world.hosts[1].wire.room = 0;
    let fin = segment(source, 7, TcpControl::Fin, theirs, Some(end), &[]);
    assert_eq!(answers(&world.inject(1, &fin)), []);
    assert_eq!((world.counter(1, "time_wait"), world.counter(1, "flows")), (0, 1), "not before it is sent");
    world.hosts[1].wire.room = 1;
    let frames = world.ask_frames(1, |_| {});
    assert_eq!(answers(&frames), [(TcpControl::None, end, Some(theirs + 1))]);
    assert_eq!(world.counter(1, "time_wait"), 1);
    assert_eq!(world.script(1).closed, [(id, 0, Closed::Done)]);
    world.assert_clean();
}

/// Who is pushed out of TIME-WAIT is the one who is least likely to ask, and is told the truth.
#[test]
fn a_full_time_wait_forgets_the_oldest() {
    let mut world = world(|config| config.limits.time_wait = 3);
    world.passes = Box::new(|_, frame| is_arp(frame));
    let ends: Vec<_> = (0..4)
        .map(|port| {
            world.run(MS);
            into_time_wait(&mut world, (address(0), 100 + port)).1
        })
        .collect();
    assert_eq!((world.counter(1, "time_wait"), world.counter(1, "time_wait_full")), (3, 1));
    for (port, end) in (100..).zip(ends) {
        let fin = segment((address(0), port), 7, TcpControl::Fin, 1, Some(end), &[]);
        let answer = match port {
            100 => (TcpControl::Rst, end, None),
            _ => (TcpControl::None, end, Some(2)),
        };
        assert_eq!(answers(&world.inject(1, &fin)), [answer], "port {port}");
    }
}

/// What a peer does that has forgotten a connection of ours in TIME-WAIT, and chose a lower number for its new one.
#[test]
fn a_peer_that_begins_anew_with_a_lower_number_gets_in_after_its_reset() {
    let mut world = world(|_| {});
    world.passes = Box::new(|_, frame| is_arp(frame));
    let source = (address(0), 5);
    let (theirs, end) = into_time_wait(&mut world, source);
    let new = syn(source, -100_000);
    assert_eq!(answers(&world.inject(1, &new)), [(TcpControl::None, end, Some(theirs))]);
    // RFC 9293 §3.10.7.3: in SYN-SENT that acknowledgement is answered by a reset at the place it names.
    let reset = segment(source, 7, TcpControl::Rst, theirs, None, &[]);
    assert_eq!(answers(&world.inject(1, &reset)), []);
    assert_eq!((world.counter(1, "time_wait"), world.counter(1, "time_wait_reset")), (0, 1));
    // The SYN again, a second later.
    world.run(SECOND);
    let frames = world.inject(1, &new);
    let [(TcpControl::Syn, isn, Some(-99_999))] = answers(&frames)[..] else { panic!("{frames:?}") };
    world.inject(1, &segment(source, 7, TcpControl::None, -99_999, Some(isn.wrapping_add(1)), &[]));
    assert_eq!(world.script(1).accepted.len(), 2);
}
