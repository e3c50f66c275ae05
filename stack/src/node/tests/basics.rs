use super::harness::*;
use crate::{Closed, ConnectError, ConnectOptions, ListenOptions, TcpOptions, Unreachable};

#[test]
fn connects_echoes_and_closes() {
    let mut world = World::new();
    world.script(0).mode = Mode::Keep;
    world.listen(7);
    let id = world.connect_with(7, ConnectOptions { tag: 42, ..ConnectOptions::default() });
    world.run(10 * MS);
    assert_eq!(world.script(0).connected, [id]);
    assert_eq!(world.script(1).accepted.len(), 1);
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    world.send(0, id, &bytes);
    world.run(SECOND);
    assert!(world.script(0).received[&id] == bytes, "intact and in order");
    world.with_conn(0, id, |conn| conn.close());
    world.run(SECOND);
    assert_eq!(world.script(0).closed, [(id, 42, Closed::Done)]);
    assert_eq!(world.script(1).closed.len(), 1);
    assert_eq!(world.script(1).closed[0].2, Closed::Done);
    assert_eq!(world.counter(0, "time_wait"), 1, "who finished first waits");
    assert_eq!(world.counter(1, "time_wait"), 0);
    world.assert_clean();
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    for first in [0, 1] {
        let mut world = World::new();
        world.script(0).mode = Mode::Keep;
        world.script(1).mode = Mode::Keep;
        world.listen(7);
        let ids = [world.connect(7), {
            world.run(10 * MS);
            world.script(1).accepted[0]
        }];
        let other = 1 - first;
        world.with_conn(first, ids[first], |conn| conn.close());
        world.run(10 * MS);
        assert_eq!(world.script(other).finished, [ids[other]], "told of the FIN");
        assert!(world.with_conn(other, ids[other], |conn| conn.may_send()));
        assert!(!world.with_conn(first, ids[first], |conn| conn.may_send()));
        world.send(other, ids[other], &[5; 100_000]);
        world.run(SECOND);
        assert_eq!(world.script(first).received[&ids[first]].len(), 100_000);
        world.with_conn(other, ids[other], |conn| conn.close());
        world.run(SECOND);
        for host in [0, 1] {
            assert_eq!(world.script(host).closed, [(ids[host], 0, Closed::Done)]);
        }
        world.assert_clean();
    }
}

#[test]
fn a_reset_ends_both_sides() {
    let mut world = World::new();
    world.listen(7);
    let id = world.connect(7);
    world.run(10 * MS);
    world.with_conn(0, id, |conn| conn.abort());
    world.run(10 * MS);
    assert_eq!(world.script(0).closed, [(id, 0, Closed::Aborted)]);
    assert_eq!(world.script(1).closed[0].2, Closed::Reset);
    world.assert_clean();
}

#[test]
fn nobody_listens() {
    let mut world = World::new();
    let id = world.connect(7);
    world.run(10 * MS);
    assert_eq!(world.script(0).closed, [(id, 0, Closed::Refused)]);
    assert_eq!(world.counter(1, "no_listener"), 1);
    world.assert_clean();
}

#[test]
fn nobody_answers() {
    let mut world = World::new();
    world.listen(7);
    let known = world.connect(7);
    world.run(10 * MS);
    world.passes = Box::new(|_, _| false);
    let late = world.connect_with(7, ConnectOptions { timeout: 3 * SECOND, ..ConnectOptions::default() });
    world.run(2 * SECOND);
    assert_eq!(world.script(0).closed, []);
    world.run(2 * SECOND);
    assert_eq!(world.script(0).closed, [(late, 0, Closed::TimedOut)]);
    // The other has nothing under way and stays; once it has, the user timeout counts.
    world.run(300 * SECOND);
    world.send(0, known, b"x");
    world.run(119 * SECOND);
    assert_eq!(world.script(0).closed.len(), 1);
    world.run(2 * SECOND);
    assert_eq!(world.script(0).closed[1], (known, 0, Closed::TimedOut));
}

#[test]
fn no_such_host_and_no_route() {
    let mut world = World::new();
    let gone = "10.0.0.9:7".parse::<std::net::SocketAddrV4>().unwrap();
    let far = "192.0.2.1:7".parse::<std::net::SocketAddrV4>().unwrap();
    let id = world.ask(0, move |net| net.connect(gone.into(), ConnectOptions::default())).unwrap();
    let error = world.ask(0, move |net| net.connect(far.into(), ConnectOptions::default())).unwrap_err();
    assert_eq!(error, ConnectError::NoRoute((*far.ip()).into()));
    world.run(10 * SECOND);
    assert_eq!(world.script(0).closed, [(id, 0, Closed::Unreachable(Unreachable::Host))]);
    world.assert_clean();
}

#[test]
fn a_dead_peer_is_noticed_by_keep_alive() {
    let mut world = World::new();
    let tcp =
        TcpOptions { keep_alive: Some(10 * SECOND), timeout: Some(20 * SECOND), ..TcpOptions::default() };
    world.listen(7);
    let id = world.connect_with(7, ConnectOptions { tcp, ..ConnectOptions::default() });
    world.run(100 * SECOND);
    assert_eq!(world.script(0).closed, [], "the peer answers the probes");
    world.passes = Box::new(|_, _| false);
    world.run(41 * SECOND);
    assert_eq!(world.script(0).closed, [(id, 0, Closed::TimedOut)]);
}

#[test]
fn unlisten_refuses_new_ones_and_keeps_old_ones() {
    let mut world = World::new();
    let listener = world.ask(1, |net| net.listen(7.into(), ListenOptions::default())).unwrap();
    let old = world.connect(7);
    world.run(10 * MS);
    world.ask(1, move |net| net.unlisten(listener));
    let new = world.connect(7);
    world.run(10 * MS);
    assert_eq!(world.script(0).closed, [(new, 0, Closed::Refused)]);
    assert!(world.with_conn(0, old, |conn| conn.may_send()));
}

#[test]
fn a_request_and_its_answer_take_a_frame_each() {
    let mut world = World::new();
    world.listen(7);
    world.script(0).mode = Mode::Keep;
    let id = world.connect(7);
    world.run(50 * MS);
    let frames = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = frames.clone();
    world.passes = Box::new(move |_, _| {
        seen.set(seen.get() + 1);
        true
    });
    for _ in 0..20 {
        world.send(0, id, &[7; 64]);
        world.run(MS);
    }
    assert_eq!(world.script(0).received[&id].len(), 20 * 64);
    assert_eq!(frames.get(), 40, "acknowledgements travel with them");
    world.run(SECOND);
    assert_eq!(frames.get(), 41, "the last answer's has nothing to travel with");
}
