//! No call is lost: whatever the interleaving, a core that sleeps is woken, or has seen what was published.
//! Run with `./ci.sh model`.

use std::sync::Arc;

use super::{Caller, CoreBell};
use crate::sync::{AtomicU32, Ordering};

struct Shared {
    bell: CoreBell,
    /// What callers publish; relaxed, so that the bell alone orders it.
    published: AtomicU32,
}

fn shared() -> Arc<Shared> {
    let shared = Shared { bell: CoreBell::new(), published: AtomicU32::new(0) };
    shared.bell.open().unwrap();
    Arc::new(shared)
}

/// Sleeps until `wanted` were published. In the model a sleep that nobody ends is a deadlock, which loom reports.
fn sleep_until(shared: &Shared, wanted: u32) {
    while shared.published.load(Ordering::Relaxed) < wanted {
        shared.bell.arm();
        if shared.published.load(Ordering::Relaxed) >= wanted {
            shared.bell.disarm(false);
            return;
        }
        shared.bell.event.wait();
        shared.bell.disarm(true);
    }
}

#[test]
fn loom_a_sleeping_core_hears_each_of_two_calls_of_a_thread() {
    loom::model(|| {
        let shared = shared();
        let caller = loom::thread::spawn({
            let shared = shared.clone();
            move || {
                for _ in 0..2 {
                    shared.published.fetch_add(1, Ordering::Relaxed);
                    shared.bell.ring(Caller::Thread);
                }
            }
        });
        sleep_until(&shared, 2);
        caller.join().unwrap();
    });
}

#[test]
fn loom_a_sleeping_core_hears_two_callers_at_once() {
    loom::model(|| {
        let shared = shared();
        let call = |caller| {
            let shared = shared.clone();
            loom::thread::spawn(move || {
                shared.published.fetch_add(1, Ordering::Relaxed);
                shared.bell.ring(caller);
            })
        };
        let callers = [call(Caller::Thread), call(Caller::Core)];
        sleep_until(&shared, 2);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
}
