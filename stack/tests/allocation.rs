//! In steady state the stack allocates nothing: neither for requests on open connections nor for new connections.

#[allow(dead_code)]
mod wire;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// ORDERING: Relaxed, as the count is read by the thread that allocates.
#[allow(unsafe_code)]
// SAFETY: Everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: The caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: The caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations while `f` runs, by any thread; so this file has one test.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    f();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn steady_state_allocates_nothing() {
    let counted = allocations(|| drop(std::hint::black_box(Box::new(7))));
    assert_eq!(counted, 1, "the counter counts");

    let mut pair = wire::Pair::new(4096);
    pair.open(1000);
    pair.start(1000);
    pair.answers(20_000, 10_000);
    // Long enough for every timer to have fired, and every ring to have gone around, several times.
    let echo = allocations(|| pair.answers(100_000, 100_000));
    assert_eq!(echo, 0, "100,000 requests on 1,000 connections");

    let mut pair = wire::Pair::new(4096);
    let service = pair.load.service_mut();
    (service.once, service.wanted) = (true, 28_000);
    while pair.load.service().closed < 18_000 {
        pair.turn(10_000);
    }
    let connections = allocations(|| {
        while pair.load.service().closed < 28_000 {
            pair.turn(10_000);
        }
    });
    assert_eq!(connections, 0, "10,000 connections, each with one request");
}
