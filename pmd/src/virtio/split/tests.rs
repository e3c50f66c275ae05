//! Each side against a naive other side that works in any order, and both against each other, for every queue
//! size and from indices near their wrap.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::Areas;
use super::device::SplitDevice;
use super::driver::SplitDriver;
use crate::mem::{HomePool, Mbuf, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::virtio::attach::{GuestMemory, Position, Ring};
use crate::virtio::ring::{DeviceRing, DriverRing, Piece, QueueMemory};
use crate::virtio::spec::split::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, MAX_SIZE, UsedElement};

/// A region, a pool in it, and the memory of one queue.
pub(crate) struct Bed {
    pub region: Arc<Region>,
    pub pool: HomePool,
    pub memory: QueueMemory,
}

impl Bed {
    pub(crate) fn new(size: u16, mbufs: usize) -> Self {
        let config = PoolConfig { mbufs, headroom_bytes: 64, data_room_bytes: 64 };
        let len_bytes = config.region_bytes() + QueueMemory::region_bytes(size) + 4096;
        let region =
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
        let memory = QueueMemory::carve(&region, size, false).unwrap();
        let pool = Pool::new(&region, config).unwrap().adopt().unwrap();
        Self { region, pool, memory }
    }

    /// The queue's areas, for the test to play the other side.
    pub(crate) fn areas(&self) -> Areas {
        let layout = self.memory.layout();
        // SAFETY: carved from the region, which the test bed keeps; the address is ours as well as the device's.
        unsafe {
            Areas::new(
                layout.descriptors.0 as *mut u8,
                layout.available.0 as *mut u8,
                layout.used.0 as *mut u8,
                layout.size,
            )
        }
    }

    fn ring(&self, start: u16) -> Ring {
        let memory = Arc::new(GuestMemory::of_region(&self.region));
        let mut ring = Ring::new(0, &self.memory.layout(), memory).unwrap();
        ring.start = Position { next_available: start, next_used: start };
        ring
    }

    fn frame(&self, tag: u64) -> Mbuf {
        let mut mbuf = self.pool.alloc().unwrap();
        mbuf.append(8).unwrap().copy_from_slice(&tag.to_be_bytes());
        mbuf
    }
}

fn tag(mbuf: &Mbuf) -> u64 {
    u64::from_be_bytes(*mbuf.data().first_chunk().unwrap())
}

fn start() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(u16::MAX), 65_500..=u16::MAX, any::<u16>()]
}

fn size() -> impl Strategy<Value = u16> {
    (0_u32..=8).prop_map(|log| 1 << log)
}

#[derive(Clone, Debug)]
enum Step {
    /// The driver posts a chain of so many segments.
    Post(usize),
    Publish,
    /// The device takes up to so many chains.
    Take(usize),
    /// The device gives back the n-th of those it holds.
    GiveBack(usize, u32),
    /// The driver takes back all that is ready.
    Complete,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1_usize..5).prop_map(Step::Post),
        2 => Just(Step::Publish),
        2 => (0_usize..20).prop_map(Step::Take),
        4 => (any::<usize>(), any::<u32>()).prop_map(|(which, len)| Step::GiveBack(which, len)),
        1 => Just(Step::Complete),
    ];
    prop::collection::vec(step, 0..300)
}

/// The naive device: takes chains in order, gives them back in any order.
struct NaiveDevice {
    areas: Areas,
    next_available: u16,
    next_used: u16,
    held: Vec<(u16, Vec<Descriptor>)>,
}

impl NaiveDevice {
    fn take(&mut self, most: usize) {
        for _ in 0..most {
            if self.next_available == self.areas.available_index() {
                return;
            }
            let head = self.areas.read_available(self.next_available);
            let mut chain = vec![self.areas.read_descriptor(head)];
            while let Some(Descriptor { flags, next, .. }) = chain.last().copied()
                && flags & DESC_F_NEXT != 0
            {
                chain.push(self.areas.read_descriptor(next));
            }
            self.held.push((head, chain));
            self.next_available = self.next_available.wrapping_add(1);
        }
    }

    fn give_back(&mut self, which: usize, len: u32) -> Option<Vec<Descriptor>> {
        let which = which.checked_rem(self.held.len())?;
        let (head, chain) = self.held.remove(which);
        self.areas.write_used(self.next_used, UsedElement { id: u32::from(head), len });
        self.next_used = self.next_used.wrapping_add(1);
        self.areas.publish_used(self.next_used);
        Some(chain)
    }
}

proptest! {
    /// What the driver posts, the device sees, in order and byte for byte; what the device gives back, in whatever
    /// order, comes out with its own mbuf; no descriptor is ever in two places.
    #[test]
    fn driver_follows_a_naive_model(size in size(), start in start(), steps in steps()) {
        let bed = Bed::new(size, 4 * usize::from(size) + 8);
        let mut driver = SplitDriver::<false>::starting_at(&bed.memory, &bed.region, 0, start);
        let areas = bed.areas();
        areas.publish_used(start);
        let (next_available, next_used) = (start, start);
        let mut device = NaiveDevice { areas, next_available, next_used, held: Vec::new() };
        let (mut posted, mut unpublished) = (VecDeque::new(), VecDeque::new());
        let mut given_back = VecDeque::new();
        let mut free = usize::from(size);
        let mut next_tag = 0;
        for step in steps {
            match step {
                Step::Post(segments) => {
                    if free < segments + 1 {
                        continue;
                    }
                    let mut frame = bed.frame(next_tag);
                    for _ in 1..segments {
                        frame.chain(bed.frame(u64::MAX));
                    }
                    let first = Piece { address: 0xabc0 + next_tag, len: 12 };
                    let expected: Vec<(u64, u32)> = std::iter::once((first.address, first.len))
                        .chain(frame.segments().map(|s| (s.iova().0, 8)))
                        .collect();
                    driver.post_chain(frame, first);
                    unpublished.push_back((next_tag, expected));
                    (next_tag, free) = (next_tag + 1, free - segments - 1);
                }
                Step::Publish => {
                    driver.publish();
                    posted.append(&mut unpublished);
                }
                Step::Take(most) => {
                    let before = device.held.len();
                    device.take(most);
                    prop_assert!(device.held.len() - before <= posted.len());
                    for (_, chain) in &device.held[before..] {
                        let (_, expected) = posted.front().unwrap();
                        let seen: Vec<(u64, u32)> = chain.iter().map(|d| (d.address, d.len)).collect();
                        prop_assert_eq!(&seen, expected);
                        posted.pop_front();
                    }
                }
                Step::GiveBack(which, len) => {
                    if let Some(chain) = device.give_back(which, len) {
                        given_back.push_back((chain[0].address - 0xabc0, len, chain.len()));
                    }
                }
                Step::Complete => {
                    let ready = driver.ready(usize::MAX).unwrap();
                    prop_assert_eq!(usize::from(ready), given_back.len());
                    for _ in 0..ready {
                        let (expected, stated, descriptors) = given_back.pop_front().unwrap();
                        let (mbuf, len) = driver.complete().unwrap();
                        prop_assert_eq!((tag(&mbuf), len), (expected, stated));
                        free += descriptors;
                    }
                }
            }
            prop_assert_eq!(usize::from(driver.free()), free);
        }
        drop(driver);
        prop_assert_eq!(bed.pool.levels().free, bed.pool.levels().mbufs);
    }

    /// The device side takes what a naive driver offers with descriptors in any order, and gives it back so that the
    /// driver finds it.
    #[test]
    fn device_follows_a_naive_model(
        size in size(),
        start in start(),
        rounds in prop::collection::vec((prop::collection::vec(1_usize..4, 0..12), 0_usize..20), 0..60),
        seed in any::<u64>(),
    ) {
        let bed = Bed::new(size, 1);
        let areas = bed.areas();
        let (mut next_available, mut next_used) = (start, start);
        areas.publish_available(start);
        areas.publish_used(start);
        let mut device = SplitDevice::<false>::new(&bed.ring(start));
        let mut free: Vec<u16> = (0..size).collect();
        let mut offered = VecDeque::new();
        let mut random = seed;
        for (chains, take) in rounds {
            for (number, buffers) in chains.into_iter().enumerate() {
                if free.len() < buffers {
                    continue;
                }
                let ids: Vec<u16> = (0..buffers).map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    free.swap_remove((random >> 33) as usize % free.len())
                }).collect();
                let writable = if number % 2 == 0 { DESC_F_WRITE } else { 0 };
                let mut expected = Vec::new();
                for (at, id) in ids.iter().enumerate() {
                    let next = ids.get(at + 1).copied();
                    let flags = writable | next.map_or(0, |_| DESC_F_NEXT);
                    let (address, len) = (bed.region.iova().0 + u64::from(*id), u32::from(*id) % 50);
                    expected.push((address, len));
                    areas.write_descriptor(*id, Descriptor { address, len, flags, next: next.unwrap_or(9) });
                }
                areas.write_available(next_available, ids[0]);
                next_available = next_available.wrapping_add(1);
                offered.push_back((ids, expected, writable != 0));
            }
            areas.publish_available(next_available);
            prop_assert_eq!(usize::from(device.ready().unwrap()), offered.len());
            for _ in 0..take.min(offered.len()) {
                let (ids, expected, writable) = offered.pop_front().unwrap();
                let chain = device.chain(0, writable).unwrap();
                prop_assert_eq!(chain.id, ids[0]);
                let pieces = device.walk(chain, 0, writable).unwrap();
                let seen: Vec<(u64, u32)> = pieces.iter().map(|piece| (piece.ptr as u64, piece.len)).collect();
                prop_assert_eq!(&seen, &expected);
                prop_assert_eq!(chain.single().is_some(), expected.len() == 1);
                device.give_back(chain, 77);
                device.publish();
                prop_assert_eq!(areas.used_index(), next_used.wrapping_add(1));
                prop_assert_eq!(areas.read_used(next_used), UsedElement { id: u32::from(ids[0]), len: 77 });
                next_used = next_used.wrapping_add(1);
                free.extend(ids);
            }
        }
        prop_assert_eq!(device.position(), Position { next_available: next_used, next_used });
    }
}

#[test]
fn both_sides_pass_every_buffer_in_every_queue_size_across_the_wrap() {
    let mut size = 1;
    while size <= MAX_SIZE {
        let bed = Bed::new(size, usize::from(size) + 1);
        let start = 65_530;
        let mut driver = SplitDriver::<false>::starting_at(&bed.memory, &bed.region, 0, start);
        bed.areas().publish_used(start);
        let mut device = SplitDevice::<false>::new(&bed.ring(start));
        let (mut sent, mut back) = (0, 0);
        let goal = 3 * u64::from(size) + 20;
        while back < goal {
            while driver.free() > 0 && sent < goal {
                let frame = bed.frame(sent);
                let piece = Piece::of(&frame);
                driver.post(frame, piece, false);
                sent += 1;
            }
            driver.publish();
            // A third of what is there, at least one: the two indices drift apart.
            for _ in 0..device.ready().unwrap().div_ceil(3) {
                let chain = device.chain(0, false).unwrap();
                assert_eq!(chain.single().unwrap().len, 8);
                device.give_back(chain, 0);
            }
            device.publish();
            for _ in 0..driver.ready(usize::MAX).unwrap() {
                let (mbuf, _) = driver.complete().unwrap();
                assert_eq!(tag(&mbuf), back, "queue of {size}");
                back += 1;
            }
        }
        assert_eq!(driver.free(), size);
        size = match size.checked_mul(2) {
            Some(next) => next,
            None => break,
        };
    }
}

#[test]
fn notification_is_sent_once_a_burst_and_only_if_wanted() {
    use crate::virtio::spec::split::USED_F_NO_NOTIFY;
    use crate::virtio::transport::Notifier;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    let bed = Bed::new(8, 8);
    let mut driver = SplitDriver::<false>::new(&bed.memory, &bed.region, 0);
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    driver.set_notifier(Notifier::EventFd(event.try_clone().unwrap()));
    let mut post = |count: u64| {
        for tag in 0..count {
            let frame = bed.frame(tag);
            let piece = Piece::of(&frame);
            driver.post(frame, piece, true);
        }
        driver.publish()
    };
    assert!(post(3));
    assert_eq!(event.read().unwrap(), 1, "one write for three buffers");
    assert!(!post(0), "nothing new, nothing to say");
    bed.areas().set_used_flags(USED_F_NO_NOTIFY);
    assert!(!post(2));
    assert!(event.read().is_err(), "suppressed");
}
