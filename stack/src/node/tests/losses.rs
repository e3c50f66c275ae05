//! Losses are repaired within round trips, not within retransmission timeouts (200 ms and more).

use std::time::Duration;

use super::harness::*;
use crate::Time;

const BYTES: usize = 60_000;

/// Host 0 sends [`BYTES`] to the other, which keeps or echoes them. Those of its segments with data go missing whose
/// turn, counted from the first, is in `lost`. Says how long it took until all had come where they are to go.
fn transfer(mode: Mode, lost: &'static [usize]) -> (World, Duration) {
    let mut world = World::new();
    world.script(0).mode = Mode::Keep;
    world.script(1).mode = mode;
    world.listen(7);
    let id = world.connect(7);
    world.run(10 * MS);
    // Past slow start, so that flights are long.
    let warm = vec![1; 200_000];
    world.send(0, id, &warm);
    world.run(SECOND);
    let server = world.script(1).accepted[0];
    let (to, of) = if mode == Mode::Echo { (0, id) } else { (1, server) };
    world.script(to).received.clear();
    assert_eq!(world.counter(0, "retransmitted"), 0);

    let mut turn = 0;
    world.passes = Box::new(move |host, frame| {
        if host == 1 || frame.len() < 100 {
            return true;
        }
        turn += 1;
        !lost.contains(&(turn - 1))
    });
    let began = world.now;
    let bytes: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    world.send(0, id, &bytes);
    while world.script(to).received.get(&of).is_none_or(|got| got.len() < BYTES) {
        world.run(MS);
        assert!(world.now.since(began) < 60 * SECOND, "it stands still");
    }
    assert!(world.script(to).received[&of] == bytes);
    let took = world.now.since(began);
    (world, took)
}

/// Less than any retransmission timeout.
const PROMPT: Duration = Duration::from_millis(100);

#[test]
fn without_loss_nothing_is_sent_twice() {
    for mode in [Mode::Keep, Mode::Echo] {
        let (world, took) = transfer(mode, &[]);
        assert!(took < PROMPT, "{mode:?}: {took:?}");
        for counter in ["retransmitted", "losses_heard", "loss_probes"] {
            assert_eq!((world.counter(0, counter), world.counter(1, counter)), (0, 0), "{mode:?}: {counter}");
        }
    }
}

#[test]
fn a_loss_is_heard_between_data_of_the_other_direction() {
    for mode in [Mode::Keep, Mode::Echo] {
        let (world, took) = transfer(mode, &[5]);
        assert!(took < PROMPT, "{mode:?}: {took:?}");
        assert_eq!(world.counter(0, "losses_heard"), 1, "{mode:?}");
        assert!(world.counter(0, "retransmitted") <= 2, "{mode:?}: {}", world.counter(0, "retransmitted"));
    }
}

/// RFC 6582 §3.2: an acknowledgement that ends between them shows the next.
#[test]
fn several_losses_of_one_flight_cost_a_round_trip_each() {
    for mode in [Mode::Keep, Mode::Echo] {
        let (world, took) = transfer(mode, &[3, 5, 6, 9]);
        assert!(took < PROMPT, "{mode:?}: {took:?}");
        assert!(world.counter(0, "losses_heard") >= 4, "{mode:?}");
    }
}

/// Nothing comes after them that the peer could answer.
#[test]
fn losses_at_the_end_are_probed_for() {
    // 41 whole segments and the rest.
    for lost in [&[40, 41][..], &[39, 40, 41], &[38, 41]] {
        let (world, took) = transfer(Mode::Keep, lost);
        assert!(took < PROMPT, "{lost:?}: {took:?}");
        assert!(world.counter(0, "losses_heard") + world.counter(0, "loss_probes") > 0, "{lost:?}");
    }
}

/// A probe is not a timer of its own: on a dead path there are two, then the retransmission timer backs off as ever.
#[test]
fn probes_of_a_dead_path_end() {
    let mut world = World::new();
    world.script(0).mode = Mode::Keep;
    world.listen(7);
    let id = world.connect(7);
    world.run(10 * MS);
    world.send(0, id, &[1; 10_000]);
    world.run(100 * MS);
    world.passes = Box::new(|_, _| false);
    world.send(0, id, &[2; 10_000]);
    world.run(20 * SECOND);
    assert_eq!(world.counter(0, "loss_probes"), 2);
    assert!(world.counter(0, "retransmitted") < 12, "{}", world.counter(0, "retransmitted"));
    // And the peer's silence is not broken by them: the user timeout of two minutes counts from when it was last heard.
    let ends = Time::from_ms(world.now.ns() / 1_000_000) + 101 * SECOND;
    world.run_until(ends);
    assert_eq!(world.script(0).closed, [(id, 0, crate::Closed::TimedOut)]);
}
