//! No wake-up is lost: loom reports a model in which everybody sleeps. Run with `./ci.sh model`.

use std::sync::Arc;

use super::{Event, Patience, Wish, full_fence};
use crate::sync::{ArrayQueue, AtomicU32, FutexWord, Ordering};

struct Shared {
    value: AtomicU32,
    word: FutexWord,
    tasks: ArrayQueue<std::task::Waker>,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { value: AtomicU32::new(0), word: FutexWord::new(), tasks: ArrayQueue::new(2) })
    }
    fn event(&self) -> Event<'_, ArrayQueue<std::task::Waker>> {
        Event { word: &self.word, tasks: &self.tasks }
    }
    fn look(&self, wanted: u32) -> Option<u32> {
        // ORDERING: Relaxed, both sides: the protocol's fences are what is checked.
        let value = self.value.load(Ordering::Relaxed);
        (value >= wanted).then_some(value)
    }
    fn publish(&self, value: u32) {
        self.value.store(value, Ordering::Relaxed);
        full_fence();
        self.event().wake(|| ());
    }
}

#[test]
fn loom_sleeper_wakes_for_each_of_two_publications() {
    loom::model(|| {
        let shared = Shared::new();
        let waker = loom::thread::spawn({
            let shared = shared.clone();
            move || {
                shared.publish(1);
                shared.publish(2);
            }
        });
        for wanted in [1, 2] {
            assert!(shared.event().wait(Patience::default(), || shared.look(wanted)).is_ok());
        }
        waker.join().unwrap();
    });
}

#[test]
fn loom_two_sleepers_and_two_wakers_all_end() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let shared = Shared::new();
        let run = |what: fn(&Shared)| {
            let shared = shared.clone();
            loom::thread::spawn(move || what(&shared))
        };
        let sleep: fn(&Shared) = |shared| {
            assert!(shared.event().wait(Patience::default(), || shared.look(1)).is_ok());
        };
        let threads = [run(sleep), run(sleep), run(|shared| shared.publish(1))];
        // The second waker has nothing to say: its swap must not lose the first one's.
        shared.event().notify();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn loom_wish_for_room_is_heard_or_room_is_seen() {
    loom::model(|| {
        let shared = Shared::new();
        let reader = loom::thread::spawn({
            let shared = shared.clone();
            move || {
                shared.value.store(1, Ordering::Relaxed);
                Wish(&shared.word).take()
            }
        });
        Wish(&shared.word).make();
        let seen = shared.look(1).is_some();
        let rung = reader.join().unwrap();
        assert!(seen || rung, "the core would wait for ever");
    });
}
