//! When a loop sleeps, as a function of time alone; that it does and wakes is `engine/tests/idle.rs`.

use super::*;

/// One tick is a nanosecond.
fn idler(policy: Idle) -> Idler {
    Idler::new(policy, Arc::default(), &Tsc::from_hz(1_000_000_000))
}

/// Turns every microsecond without anything to do from `from` on, until the loop sleeps: when.
fn sleeps_after(idler: &mut Idler, from: u64, busy_turns: u64) -> u64 {
    (from..).step_by(1000).find(|at| idler.next(Ticks(*at), busy_turns) == Next::Sleep).unwrap() - from
}

#[test]
fn names_are_read_as_they_are_written() {
    for idle in Idle::ALL {
        assert_eq!(idle.to_string().parse(), Ok(idle));
    }
    let refused = "epoll".parse::<Idle>().unwrap_err();
    assert!(refused.contains("poll, adaptive or interrupt"), "{refused}");
}

#[test]
fn who_polls_never_sleeps() {
    let mut idler = idler(Idle::Poll);
    assert!(!idler.sleeps());
    assert!((0..1000).all(|ms| idler.next(Ticks(ms * 1_000_000), 0) == Next::Poll));
}

#[test]
fn adaptive_polls_at_full_speed_then_with_pauses_then_sleeps() {
    let mut idler = idler(Idle::Adaptive);
    let start = 1_000_000;
    assert_eq!(idler.next(Ticks(start), 1), Next::Poll);
    assert_eq!(idler.next(Ticks(start + FULL_SPEED_NS - 1), 1), Next::Poll);
    assert_eq!(idler.next(Ticks(start + FULL_SPEED_NS), 1), Next::Pause);
    assert_eq!(idler.next(Ticks(start + SPIN_NS - 1), 1), Next::Pause);
    assert_eq!(idler.next(Ticks(start + SPIN_NS), 1), Next::Sleep);
    // Something to do, and all begins anew.
    assert_eq!(sleeps_after(&mut idler, start + 2 * SPIN_NS, 2), SPIN_NS);
}

#[test]
fn adaptive_polls_for_the_same_time_after_a_wake_up_that_brought_nothing() {
    let mut idler = idler(Idle::Adaptive);
    let mut now = sleeps_after(&mut idler, 1000, 1) + 1000;
    for _ in 0..100 {
        idler.woke(Ticks(now));
        let quiet = sleeps_after(&mut idler, now, 1);
        assert!(quiet >= SPIN_NS, "{quiet} ns between two sleeps");
        now += quiet;
    }
}

/// Lets a storm blow: whenever the loop sleeps it is woken `gap_ns` later, each time with something to do if `busy`.
/// Returns sleeps and pauses in `seconds`.
fn storm(policy: Idle, gap_ns: u64, busy: bool, seconds: u64) -> (u64, u64) {
    let mut idler = idler(policy);
    let (mut now, mut busy_turns) = (1_000_000_000, 0);
    let end = now + seconds * 1_000_000_000;
    let (mut sleeps, mut pauses) = (0, 0);
    while now < end {
        let mut came = 0;
        match idler.next(Ticks(now), busy_turns) {
            Next::Poll | Next::Pause => now += 200,
            Next::Moderate => {
                pauses += 1;
                now += INTERVAL_NS;
                came = INTERVAL_NS / gap_ns;
            }
            Next::Sleep => {
                sleeps += 1;
                now += gap_ns;
                idler.woke(Ticks(now));
                came = 1;
            }
        }
        busy_turns += u64::from(busy && came > 0);
    }
    (sleeps, pauses)
}

#[test]
fn no_storm_wakes_a_loop_more_often_than_the_bound() {
    let bound = 1_000_000_000 / INTERVAL_NS;
    for gap_ns in [0, 100, 1000, 10_000, 49_000] {
        for busy in [false, true] {
            let gap_ns = gap_ns.max(1);
            let (sleeps, pauses) = storm(Idle::Interrupt, gap_ns, busy, 2);
            assert!(sleeps <= 2 * bound + SLEEPS_AT_ONCE, "interrupt, {gap_ns} ns: {sleeps} sleeps");
            assert!(pauses <= 2 * bound, "interrupt, {gap_ns} ns: {pauses} pauses");
            let (sleeps, pauses) = storm(Idle::Adaptive, gap_ns, busy, 2);
            assert!(sleeps <= 2 * bound && pauses == 0, "adaptive, {gap_ns} ns: {sleeps} sleeps, {pauses}");
        }
    }
    // And what comes seldom is not held up.
    let (sleeps, pauses) = storm(Idle::Interrupt, 1_000_000, true, 2);
    assert_eq!(pauses, 0, "{sleeps} sleeps");
}

#[test]
fn while_looks_find_something_interrupt_asks_for_no_notification() {
    let (sleeps, pauses) = storm(Idle::Interrupt, 1000, true, 2);
    assert!(sleeps <= SLEEPS_AT_ONCE + 1, "{sleeps} sleeps");
    assert!(pauses > 30_000, "{pauses} pauses");
}
