use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Set(u32, u64),
    Cancel(u32),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    // Delays up to three turns of the wheel, and steps from nothing to more than a turn.
    let ns = prop_oneof![0..5_000_000u64, 0..30_000_000_000u64];
    prop_oneof![
        4 => (0..20u32, ns.clone()).prop_map(|(index, ns)| Op::Set(index, ns)),
        1 => (0..20u32).prop_map(Op::Cancel),
        3 => ns.prop_map(Op::Pass),
    ]
}

proptest! {
    #[test]
    fn like_a_sorted_map(start in 0..u64::MAX / 4, ops in proptest::collection::vec(op(), 1..200)) {
        let mut now = Time::from_ns(start);
        let mut wheel = Timers::new(20, now);
        wheel.cover(19);
        let mut model: BTreeMap<u32, Time> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Set(index, ns) => {
                    let due = Time::from_ns(now.ns() + ns);
                    wheel.set(index, due);
                    model.insert(index, due);
                }
                Op::Cancel(index) => {
                    wheel.cancel(index);
                    model.remove(&index);
                }
                Op::Pass(ns) => {
                    now = Time::from_ns(now.ns() + ns);
                    let mut fired = Vec::new();
                    wheel.expire(now, usize::MAX, |index| fired.push(index));
                    for index in fired {
                        let due = model.remove(&index);
                        prop_assert!(due.is_some_and(|due| due <= now), "{index} fired early or twice");
                    }
                    for (index, due) in &model {
                        prop_assert!(due.ns() + (1 << TICK_BITS) > now.ns(), "{index} is late");
                    }
                }
            }
            if let Some(first) = model.values().min() {
                let next = wheel.next().expect("something is set");
                prop_assert!(next.ns() <= first.ns() + (1 << TICK_BITS), "told to sleep too long");
            }
        }
    }
}

#[test]
fn a_budget_leaves_the_rest_for_later() {
    let mut wheel = Timers::new(100, Time::ZERO);
    wheel.cover(99);
    (0..100).for_each(|index| wheel.set(index, Time::from_ms(1)));
    let mut fired = 0;
    assert_eq!(wheel.expire(Time::from_ms(10), 30, |_| fired += 1), 30);
    assert_eq!(wheel.expire(Time::from_ms(10), 1000, |_| fired += 1), 70);
    assert_eq!(fired, 100);
    assert_eq!(wheel.next(), None);
}
