//! The device side against a naive driver that works in any order, and both sides against each other, for every queue
//! size and from indices near their wrap. The driver side alone: `ring/tests.rs`.

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

proptest! {
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
