use std::sync::Weak;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(10);

/// A region of `len_bytes` bytes of heap, and what tells whether it is still there.
fn heap_region(start: u64, len_bytes: usize) -> (GuestRegion, Weak<Vec<u128>>) {
    let mut heap = vec![0_u128; len_bytes.div_ceil(16)];
    let host = heap.as_mut_ptr().cast();
    let owner = Arc::new(heap);
    let alive = Arc::downgrade(&owner);
    // SAFETY: the vector's elements stay where they are until its owner is dropped.
    let region = unsafe { GuestRegion::new(Iova(start), len_bytes, host, owner) };
    (region, alive)
}

fn layout(size: u16, base: u64) -> RingLayout {
    RingLayout {
        size,
        packed: false,
        descriptors: Iova(base),
        available: Iova(base + 0x1000),
        used: Iova(base + 0x2000),
    }
}

fn ring_with_start(start: Position) -> (Ring, Weak<Vec<u128>>) {
    let (region, alive) = heap_region(0x10_0000, 0x4000);
    let memory = Arc::new(GuestMemory::new(vec![region]).unwrap());
    let mut ring = Ring::new(3, &layout(64, 0x10_0000), memory).unwrap();
    ring.start = start;
    (ring, alive)
}

fn at(next_available: u16, next_used: u16) -> Position {
    Position { next_available, next_used }
}

#[test]
fn ring_appears_once_it_is_published() {
    let (publisher, mut follower) = hand_over();
    assert!(!follower.changed());
    assert!(follower.switch(at(9, 9)).is_none());
    publisher.publish(ring_with_start(at(5, 4)).0);
    assert!(follower.changed());
    assert!(!publisher.is_followed());
    let ring = follower.switch(at(9, 9)).unwrap();
    assert_eq!((ring.queue, ring.size, ring.start), (3, 64, at(5, 4)));
    assert!(!follower.changed());
    assert!(publisher.is_followed());
}

#[test]
fn withdrawing_answers_what_became_of_the_ring() {
    let (publisher, mut follower) = hand_over();
    assert_eq!(publisher.withdraw(LONG), Withdrawal::Empty);
    publisher.publish(ring_with_start(at(7, 7)).0);
    assert_eq!(publisher.withdraw(LONG), Withdrawal::Untouched(at(7, 7)));
    assert!(follower.switch(at(0, 0)).is_none());

    publisher.publish(ring_with_start(at(7, 7)).0);
    follower.switch(at(0, 0)).unwrap();
    assert_eq!(publisher.withdraw(SOON), Withdrawal::StillHeld);
    assert_eq!(publisher.withdraw(SOON), Withdrawal::StillHeld);
    assert!(follower.changed());
    assert!(follower.switch(at(70, 69)).is_none());
    assert_eq!(publisher.withdraw(LONG), Withdrawal::Released(at(70, 69)));
    assert_eq!(publisher.withdraw(LONG), Withdrawal::Empty);
}

#[test]
fn withdrawing_waits_for_the_polling_core() {
    let (publisher, mut follower) = hand_over();
    publisher.publish(ring_with_start(at(0, 0)).0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut position = at(0, 0);
            while !stop.load(Ordering::Relaxed) {
                if follower.changed() {
                    position = follower.switch(position).map_or(position, |ring| ring.start);
                }
                if follower.ring().is_some() {
                    // Not around the wrap, or "further than before" would mean nothing.
                    position.next_available = position.next_available.saturating_add(1);
                    position.next_used = position.next_available;
                }
                std::thread::yield_now();
            }
        });
        let _stopped_on_panic_too = StopOnDrop(&stop);
        let mut last = 0;
        for _ in 0..100 {
            while !publisher.is_followed() {
                std::thread::yield_now();
            }
            let Withdrawal::Released(position) = publisher.withdraw(LONG) else {
                panic!("the core was there");
            };
            assert_eq!(position.next_available, position.next_used);
            assert!(position.next_available >= last);
            last = position.next_available;
            publisher.publish(ring_with_start(position).0);
        }
    });
}

/// Ends the polling thread of a test however the test ends: a failure must not become a hang.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn memory_stays_mapped_until_a_late_core_lets_go() {
    let (publisher, mut follower) = hand_over();
    let (ring, alive) = ring_with_start(at(0, 0));
    publisher.publish(ring);
    follower.switch(at(0, 0)).unwrap();
    assert_eq!(publisher.withdraw(SOON), Withdrawal::StillHeld);
    drop(publisher);
    assert!(alive.upgrade().is_some());
    assert!(follower.switch(at(1, 1)).is_none());
    assert!(alive.upgrade().is_none());
}

#[test]
fn ring_published_over_another_replaces_it() {
    let (publisher, mut follower) = hand_over();
    let (first, first_alive) = ring_with_start(at(1, 1));
    publisher.publish(first);
    follower.switch(at(0, 0)).unwrap();
    publisher.publish(ring_with_start(at(2, 2)).0);
    assert!(!publisher.is_followed());
    assert_eq!(follower.switch(at(1, 1)).unwrap().start, at(2, 2));
    assert!(first_alive.upgrade().is_none());
    assert!(publisher.is_followed());

    // Never begun: its start is the answer, not where the one before it was left.
    publisher.publish(ring_with_start(at(3, 3)).0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !follower.changed() {
                std::thread::yield_now();
            }
            std::thread::sleep(SOON);
            follower.leave(at(50, 50));
        });
        assert_eq!(publisher.withdraw(LONG), Withdrawal::Untouched(at(3, 3)));
    });
}

#[test]
fn core_that_leaves_is_asked_back_only_by_a_change() {
    let (publisher, mut follower) = hand_over();
    publisher.publish(ring_with_start(at(0, 0)).0);
    follower.switch(at(0, 0)).unwrap();
    follower.leave(at(8, 8));
    assert!(!follower.changed());
    assert!(follower.ring().is_none());
    assert_eq!(publisher.withdraw(LONG), Withdrawal::Untouched(at(0, 0)));
    publisher.publish(ring_with_start(at(8, 8)).0);
    assert!(follower.changed());
    assert_eq!(follower.switch(at(0, 0)).unwrap().start, at(8, 8));
}

#[test]
fn ends_may_go_in_any_order() {
    let (publisher, mut follower) = hand_over();
    let (ring, alive) = ring_with_start(at(0, 0));
    publisher.publish(ring);
    follower.switch(at(0, 0)).unwrap();
    drop(follower);
    assert!(matches!(publisher.withdraw(LONG), Withdrawal::Untouched(_)));
    assert!(alive.upgrade().is_none());

    let (publisher, mut follower) = hand_over();
    publisher.publish(ring_with_start(at(0, 0)).0);
    follower.switch(at(0, 0)).unwrap();
    drop(publisher);
    assert!(follower.changed());
    assert!(follower.switch(at(0, 0)).is_none());
}

#[test]
fn ring_outside_the_shared_memory_is_refused() {
    let new = |layout: RingLayout| {
        let (region, _) = heap_region(0x10_0000, 0x3000);
        let memory = Arc::new(GuestMemory::new(vec![region]).unwrap());
        Ring::new(0, &layout, memory).map(|ring| ring.size)
    };
    assert_eq!(new(layout(256, 0x10_0000)), Ok(256));
    for size in [0, 3, 48, 40_000] {
        assert_eq!(new(layout(size, 0x10_0000)), Err(RingError::Size { queue: 0, size, packed: false }));
    }
    // The used ring would end beyond the region: 6 + 8 * 512 bytes in the last page.
    assert!(matches!(
        new(layout(512, 0x10_0000)),
        Err(RingError::Outside { part: "used ring", len_bytes: 4102, .. })
    ));
    for bad in [0, 0xf_fff0, 0x10_3000, u64::MAX - 0x2fff] {
        assert!(matches!(new(layout(64, bad)), Err(RingError::Outside { .. })));
    }
    let misaligned = |part: fn(&mut RingLayout) -> &mut Iova, by| {
        let mut layout = layout(64, 0x10_0000);
        part(&mut layout).0 += by;
        matches!(new(layout), Err(RingError::Misaligned { .. }))
    };
    assert!(misaligned(|layout| &mut layout.descriptors, 8));
    assert!(misaligned(|layout| &mut layout.available, 1));
    assert!(misaligned(|layout| &mut layout.used, 2));
}

#[test]
fn regions_that_are_no_memory_are_refused() {
    let new = |ranges: &[(u64, usize)]| {
        let regions = ranges
            .iter()
            .map(|&(start, len_bytes)| {
                // SAFETY: never dereferenced.
                unsafe {
                    GuestRegion::new(
                        Iova(start),
                        len_bytes,
                        std::ptr::without_provenance_mut(0x1000),
                        Arc::new(()),
                    )
                }
            })
            .collect();
        GuestMemory::new(regions).map(|_| ())
    };
    assert_eq!(new(&[]), Err(GuestMemoryError::Count { count: 0 }));
    let nine: Vec<_> = (0..9).map(|i| (i * 0x1000, 0x1000)).collect();
    assert_eq!(new(&nine), Err(GuestMemoryError::Count { count: 9 }));
    assert_eq!(new(&nine[..8]), Ok(()));
    assert!(matches!(new(&[(0x1000, 0)]), Err(GuestMemoryError::Range { .. })));
    assert!(matches!(new(&[(u64::MAX - 0xfff, 0x2000)]), Err(GuestMemoryError::Range { .. })));
    assert_eq!(new(&[(0x3000, 0x1000), (0x1000, 0x2001)]), Err(GuestMemoryError::Overlap { at: 0x3000 }));
    assert_eq!(new(&[(0x3000, 0x1000), (0x1000, 0x2000)]), Ok(()));
}

proptest! {
    #[test]
    fn translation_is_that_of_a_table_of_bytes(
        ranges in prop::collection::vec((0_usize..40, 1_usize..16), 1..5),
        accesses in prop::collection::vec((0_usize..64, 0_usize..20), 64),
        near_the_end in any::<bool>(),
    ) {
        let base = if near_the_end { u64::MAX - 63 } else { 0 };
        // One byte of address each: which region is it in, at which offset?
        let mut table = [None; 64];
        let mut regions = Vec::new();
        let mut hosts = Vec::new();
        for (start, len) in ranges {
            let places = &mut table[start..start + len];
            if places.iter().any(Option::is_some) {
                continue;
            }
            for (offset, place) in places.iter_mut().enumerate() {
                *place = Some((regions.len(), offset));
            }
            let (region, _) = heap_region(base + start as u64, len);
            hosts.push(region.host);
            regions.push(region);
        }
        let memory = GuestMemory::new(regions).unwrap();
        for (start, len) in accesses {
            let expected = (start..start + len.max(1))
                .map(|byte| *table.get(byte)?)
                .collect::<Option<Vec<_>>>()
                .filter(|bytes| bytes.iter().all(|byte| byte.0 == bytes[0].0))
                .map(|bytes| hosts[bytes[0].0].wrapping_add(bytes[0].1));
            prop_assert_eq!(memory.translate(Iova(base + start as u64), len), expected);
        }
        prop_assert_eq!(memory.translate(Iova(base), usize::MAX), None);
    }
}
