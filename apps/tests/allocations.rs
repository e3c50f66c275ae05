//! A warmed-up echo, its client and both stacks allocate nothing. Alone in its process, because it counts all
//! allocations of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bywash::programs::echo::{Echo, EchoConfig};
use bywash::programs::load::{Load, LoadConfig};
use engine::{Engine, StackSettings};
use pmd::mem::PageSize;
use stack::{IpAddress, IpCidr, Share, TcpOptions};

/// Allocations by loops; those of the thread that looks on are its own affair.
static BY_LOOPS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is the test's own.
    static LOOKS_ON: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    if !LOOKS_ON.try_with(Cell::get).unwrap_or(true) {
        // ORDERING: Relaxed. A count, read when it stands still or as it happens to be.
        BY_LOOPS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `alloc` or `realloc`, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn settings(host: u8) -> StackSettings {
    let address = IpCidr::new(IpAddress::v4(10, 0, 0, host), 24);
    StackSettings { addresses: vec![address], ..StackSettings::default() }
}

/// Allocations of the loop in half a second of work, and the requests in that time.
fn measured(config: &LoadConfig) -> (u64, u64) {
    let echo = EchoConfig {
        tcp_port: Some(7),
        udp_port: Some(7),
        counts_requests: false,
        backlog: 64,
        tcp: TcpOptions::default(),
    };
    let mut engine = Engine::builder();
    engine.memory(PageSize::Ordinary, None).descriptors(256, 256);
    let ports = [engine.port("loop:a"), engine.port("loop:b")];
    let lcore = engine.lcore(None);
    engine.stack(&[lcore], ports[0], &settings(1), |_| Load::new(config, Share::default()));
    engine.stack(&[lcore], ports[1], &settings(2), |_| Echo::new(echo));
    let mut running = engine.start().unwrap();
    // Warm-up: every connection is open, or was opened and closed many times.
    std::thread::sleep(Duration::from_millis(700));
    let requests = |running: &mut engine::Running| running.snapshot().counters().get("bytes");
    let before = requests(&mut running);
    // ORDERING: Relaxed. As above.
    let allocations = BY_LOOPS.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(500));
    let allocations = BY_LOOPS.load(Ordering::Relaxed) - allocations;
    let bytes = requests(&mut running) - before;
    running.stop().unwrap();
    (allocations, bytes / config.size as u64)
}

#[test]
fn a_warmed_up_echo_allocates_nothing() {
    LOOKS_ON.set(true);
    for (connections, size, reconnect) in [(1, 64, false), (64, 64, false), (4, 20_000, false), (8, 64, true)]
    {
        let config = LoadConfig { connections, size, reconnect, ..LoadConfig::default() };
        let (allocations, requests) = measured(&config);
        assert!(requests > 100, "{requests} requests of {config:?}");
        assert_eq!(allocations, 0, "{requests} requests of {config:?}");
    }
}
