//! The kernel is played by the test: a file takes the place of the socket, a second mapping that of the kernel's view.

use std::fs::File;
use std::os::fd::AsFd;

use memmap2::MmapRaw;

use super::*;

const SIZE: u32 = 8;
const OFFSETS: libc::xdp_ring_offset =
    libc::xdp_ring_offset { producer: 0, consumer: 64, flags: 4, desc: 128 };

struct Kernel(MmapRaw);

impl Kernel {
    /// A ring whose two ends lie in a file, its indices at `start`; rx is the one that mmap finds at offset 0.
    fn new() -> (File, Self) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = MmapRaw::map_raw(&file).unwrap();
        (file, Self(map))
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: within the page, aligned; the mapping lives as long as `self`.
        unsafe { &*self.0.as_mut_ptr().add(offset as usize).cast() }
    }

    fn entry(&self, index: u32) -> *mut u64 {
        // SAFETY: within the page.
        unsafe { self.0.as_mut_ptr().add(128).cast::<u64>().add((index % SIZE) as usize) }
    }
}

fn ring() -> (Ring<u64>, Kernel) {
    let (file, kernel) = Kernel::new();
    (Ring::new(file.as_fd(), RingKind::Rx, SIZE, &OFFSETS).unwrap(), kernel)
}

fn consumer(start: u32) -> (Consumer<u64>, Kernel) {
    let (ring, kernel) = ring();
    kernel.word(OFFSETS.producer).store(start, Ordering::Relaxed);
    let mut consumer = Consumer::new(ring);
    (consumer.next, consumer.released, consumer.produced) = (start, start, start);
    (consumer, kernel)
}

fn producer(start: u32) -> (Producer<u64>, Kernel) {
    let (ring, kernel) = ring();
    kernel.word(OFFSETS.consumer).store(start, Ordering::Relaxed);
    let mut producer = Producer::new(ring);
    (producer.next, producer.published, producer.consumed) = (start, start, start);
    (producer, kernel)
}

#[test]
fn entries_come_out_in_order_across_the_wrap() {
    let start = u32::MAX - 11;
    let (mut ring, kernel) = consumer(start);
    let mut produced = start;
    for round in 0..6_u32 {
        assert_eq!(ring.ready(1), Ok(0));
        for _ in 0..5 {
            // SAFETY: the test is the kernel, and the ring is empty.
            unsafe { kernel.entry(produced).write(produced.into()) };
            produced = produced.wrapping_add(1);
        }
        kernel.word(OFFSETS.producer).store(produced, Ordering::Release);
        assert_eq!(ring.ready(1), Ok(5), "round {round}");
        for ahead in (1..=5).rev() {
            assert_eq!(ring.take(), u64::from(produced.wrapping_sub(ahead)));
        }
        ring.release();
        assert_eq!(kernel.word(OFFSETS.consumer).load(Ordering::Acquire), produced);
    }
}

#[test]
fn a_producer_index_beyond_the_ring_or_backwards_is_a_named_fault() {
    for (start, claimed) in [(0, SIZE + 1), (0, u32::MAX), (u32::MAX, SIZE), (5, 4), (5, 1 << 31)] {
        let (mut ring, kernel) = consumer(start);
        kernel.word(OFFSETS.producer).store(claimed, Ordering::Relaxed);
        let by = claimed.wrapping_sub(start);
        let fault = QueueFault::XdpIndexJump { ring: "rx", index: claimed, by, size: SIZE };
        assert_eq!(ring.ready(1), Err(fault), "{start} {claimed}");
    }
    // More than was released may not be produced either, although the ring is large enough for what is not yet taken.
    let (mut ring, kernel) = consumer(0);
    kernel.word(OFFSETS.producer).store(SIZE, Ordering::Relaxed);
    assert_eq!(ring.ready(1), Ok(SIZE as usize));
    for _ in 0..SIZE {
        ring.take();
    }
    kernel.word(OFFSETS.producer).store(SIZE + 1, Ordering::Relaxed);
    assert!(ring.ready(1).is_err());
}

#[test]
fn room_comes_back_as_the_kernel_consumes() {
    let (mut ring, kernel) = producer(u32::MAX - 3);
    assert_eq!(ring.free(1), Ok(SIZE as usize));
    assert!(!ring.publish(), "nothing new");
    for value in 0..SIZE {
        ring.put(value.into());
    }
    assert_eq!(ring.free(1), Ok(0), "not to be overwritten");
    assert!(ring.publish());
    assert_eq!(kernel.word(OFFSETS.producer).load(Ordering::Acquire), (u32::MAX - 3).wrapping_add(SIZE));
    assert_eq!(ring.waiting(), Ok(SIZE));
    kernel.word(OFFSETS.consumer).store((u32::MAX - 3).wrapping_add(3), Ordering::Release);
    assert_eq!((ring.free(1), ring.waiting()), (Ok(3), Ok(SIZE - 3)));
    kernel.word(OFFSETS.flags).store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
    assert!(ring.needs_wakeup());
}

#[test]
fn a_consumer_index_beyond_what_was_published_is_a_named_fault() {
    let (mut ring, kernel) = producer(0);
    ring.put(1);
    ring.publish();
    ring.put(2); // not published
    kernel.word(OFFSETS.consumer).store(2, Ordering::Relaxed);
    assert_eq!(ring.waiting(), Err(QueueFault::XdpIndexJump { ring: "rx", index: 2, by: 2, size: SIZE }));
    kernel.word(OFFSETS.consumer).store(u32::MAX, Ordering::Relaxed);
    assert!(ring.free(SIZE as usize).is_err());
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    let (file, _kernel) = Kernel::new();
    for bad in [
        libc::xdp_ring_offset { producer: u64::MAX, ..OFFSETS },
        libc::xdp_ring_offset { consumer: 2, ..OFFSETS },
        libc::xdp_ring_offset { desc: 132, ..OFFSETS },
    ] {
        assert!(Ring::<u64>::new(file.as_fd(), RingKind::Rx, SIZE, &bad).is_err());
    }
}
