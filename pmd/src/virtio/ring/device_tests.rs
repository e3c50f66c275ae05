//! The device's side of every format against a naive driver whose descriptors come in any order, and both of our sides
//! against each other; in every size and from places near the wraps.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::played::packed_start;
use super::played_driver::{self, PlayedDriver};
use super::tests::{TestRing, sizes, start};
use super::{DeviceRing, Piece, QueueMemory};
use crate::mem::{PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::virtio::attach::{GuestMemory, Position, Ring};
use crate::virtio::packed::device::PackedDevice;
use crate::virtio::packed::driver::PackedDriver;
use crate::virtio::spec::feature;
use crate::virtio::spec::packed::EVENT_WRAP;
use crate::virtio::spec::split::{DESC_F_WRITE, MAX_SIZE};
use crate::virtio::split::device::SplitDevice;
use crate::virtio::split::driver::SplitDriver;

/// A format, for the tests.
trait TestDevice: DeviceRing {
    const PACKED: bool;
    const IN_ORDER: bool;
}

impl<const IN_ORDER: bool> TestDevice for SplitDevice<IN_ORDER> {
    const PACKED: bool = false;
    const IN_ORDER: bool = IN_ORDER;
}

impl<const IN_ORDER: bool> TestDevice for PackedDevice<IN_ORDER> {
    const PACKED: bool = true;
    const IN_ORDER: bool = IN_ORDER;
}

fn region(len_bytes: usize) -> Arc<Region> {
    Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap()
}

/// The position `start` places after the beginning.
fn position(packed: bool, size: u16, start: u16) -> Position {
    let place = if packed {
        let (place, wrap) = packed_start(size, start);
        place | if wrap { EVENT_WRAP } else { 0 }
    } else {
        start
    };
    Position { next_available: place, next_used: place }
}

fn ring(memory: &QueueMemory, region: &Arc<Region>, features: u64, start: u16) -> Ring {
    let mut ring = Ring::new(0, &memory.layout(), Arc::new(GuestMemory::of_region(region))).unwrap();
    ring.features = features;
    ring.start = position(memory.packed, memory.size, start);
    ring
}

#[derive(Clone, Debug)]
enum Step {
    /// The driver offers a chain of so many buffers, in a table behind the first so many of them.
    Offer(usize, Option<usize>),
    /// The driver asks for a notification so far ahead, or for none.
    Want(Option<u16>),
    /// The device takes up to so many chains and gives up to so many of them back.
    Serve(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_usize..5, prop::option::of(0_usize..4)).prop_map(|(count, table)| Step::Offer(count, table)),
        1 => prop::option::of(0_u16..12).prop_map(Step::Want),
        3 => (0_usize..80, 0_usize..80).prop_map(|(take, give)| Step::Serve(take, give)),
    ];
    prop::collection::vec(step, 0..200)
}

/// A chain that is with the device.
struct Offered {
    /// What it is known by.
    id: u16,
    pieces: Vec<(u64, u32)>,
    places: u16,
    /// It is one plain buffer.
    single: bool,
}

/// Whether the event of `wish` lies within the places `old..new`, counted from the beginning and told modulo `period`.
fn is_due(wish: Option<u64>, old: u64, new: u64, period: u64) -> bool {
    wish.is_some_and(|wish| (old..new).any(|place| place % period == wish % period))
}

/// What a driver offers, the device sees, in order, buffer for buffer; what it gives back comes back, all of it, in
/// order, with its length; the driver is interrupted when it asked for that.
fn follows_the_model<D: TestDevice>(
    size: u16,
    start: u16,
    event_idx: bool,
    writable: bool,
    seed: u64,
    steps: &[Step],
) {
    const BYTES: usize = 1 << 16;
    let region = region(BYTES + QueueMemory::region_bytes(size) + 4096);
    let memory = QueueMemory::carve(&region, size, D::PACKED).unwrap();
    let buffers = region.carve(BYTES, 64).unwrap().iova.0;
    let features = feature::INDIRECT_DESC | if event_idx { feature::EVENT_IDX } else { 0 };
    let mut driver = PlayedDriver::of(&memory, start, event_idx, seed);
    let mut ring = ring(&memory, &region, features, start);
    let call = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    ring.call = Some(Arc::clone(&call));
    let mut device = D::new(&ring);
    assert!(!driver.device_wants_next(), "it polls from the start");
    driver.want(None);
    let flags = if writable { DESC_F_WRITE } else { 0 };
    let period = if D::PACKED { 2 * u64::from(size) } else { 65_536 };
    let mut offered: VecDeque<Offered> = VecDeque::new();
    let mut wish = (event_idx && !D::PACKED).then_some(65_535);
    let (mut number, mut used) = (0_u64, 0_u64);
    for step in steps {
        match *step {
            Step::Offer(count, table) => {
                let count = count.min(size.into());
                let pieces: Vec<played_driver::Piece> = (0..count as u64)
                    .map(|at| (buffers + (number * 5 + at) % 0x4000, (number * 7 + at) as u32 % 100, flags))
                    .collect();
                let expected: Vec<(u64, u32)> = pieces.iter().map(|piece| (piece.0, piece.1)).collect();
                let in_ring = match table {
                    // A table behind at least none and at most all but one of them.
                    Some(before) => {
                        let (before, rest) = pieces.split_at(before.min(count - 1));
                        let at = buffers + 0x8000 + number % 0x100 * 0x50;
                        // SAFETY: 5 descriptors for each number, within the buffers.
                        let table = unsafe { played_driver::table(at, rest, D::PACKED) };
                        [before, &[table]].concat()
                    }
                    None => pieces,
                };
                if driver.free() < in_ring.len() {
                    continue;
                }
                let id = driver.offer(&in_ring);
                let places = if D::PACKED { in_ring.len() as u16 } else { 1 };
                offered.push_back(Offered {
                    id,
                    pieces: expected,
                    places,
                    single: count == 1 && table.is_none(),
                });
                number += 1;
            }
            Step::Want(ahead) => {
                let ahead = ahead.map(|ahead| ahead % size);
                driver.want(ahead);
                wish = match ahead {
                    // A whole lap of the index away.
                    None if event_idx && !D::PACKED => Some(used + period - 1),
                    ahead => ahead.map(|ahead| used + u64::from(ahead)),
                };
            }
            Step::Serve(take, give) => {
                assert_eq!(usize::from(device.ready(usize::MAX).unwrap()), offered.len());
                let chains = device.fetch(take, writable).unwrap();
                assert_eq!(chains.len(), take.min(offered.len()).min(64));
                let mut ahead = 0;
                for (chain, Offered { id, pieces, places, single }) in chains.iter().zip(&offered) {
                    assert_eq!((chain.id, chain.slots, chain.single().is_some()), (*id, *places, *single));
                    let again = device.chain(ahead, writable).unwrap();
                    assert_eq!((again.id, again.slots), (*id, *places));
                    let seen = device.walk(*chain, ahead, writable).unwrap();
                    let seen: Vec<(u64, u32)> = seen.iter().map(|one| (one.ptr as u64, one.len)).collect();
                    assert_eq!(&seen, pieces);
                    ahead += places;
                }
                let (before, give) = (used, give.min(chains.len()));
                for (number, chain) in chains.into_iter().take(give).enumerate() {
                    if writable {
                        device.give_back(chain, number as u32);
                    } else {
                        device.give_back_read(chain);
                    }
                    used += u64::from(chain.slots);
                }
                assert_eq!(driver.take_back(), [], "nothing is seen before it is published");
                let expected = if event_idx {
                    is_due(wish, before, used, period)
                } else {
                    wish.is_some() && before < used
                };
                assert_eq!(device.publish(), expected, "{before}..{used}, wish {wish:?}");
                assert_eq!(call.read().ok(), expected.then_some(1), "one write for all of them");
                let back = driver.take_back();
                assert_eq!(back.len(), give);
                for (at, (id, len)) in back.into_iter().enumerate() {
                    let expected = offered.pop_front().unwrap().id;
                    let stated = if writable { Some(at as u32) } else { Some(0) };
                    let batched = D::IN_ORDER && !writable && at + 1 < give;
                    assert_eq!((id, len), (expected, if batched { None } else { stated }));
                }
            }
        }
    }
    // From `start` on, so many places further.
    let expected = if D::PACKED {
        let (place, wrap) = packed_start(size, start);
        let place = u64::from(place) + used;
        let wrap = wrap ^ !(place / u64::from(size)).is_multiple_of(2);
        (place % u64::from(size)) as u16 | if wrap { EVENT_WRAP } else { 0 }
    } else {
        start.wrapping_add(used as u16)
    };
    assert_eq!(device.position(), Position { next_available: expected, next_used: expected });
    assert_eq!(device.fault(), None);
}

proptest! {
    #[test]
    fn split_device_follows_the_model(
        size in sizes(false), start in start(), event in any::<bool>(), writable in any::<bool>(),
        seed in any::<u64>(), steps in steps(),
    ) {
        follows_the_model::<SplitDevice<false>>(size, start, event, writable, seed, &steps);
        follows_the_model::<SplitDevice<true>>(size, start, event, writable, seed, &steps);
    }

    #[test]
    fn packed_device_follows_the_model(
        size in sizes(true), start in start(), event in any::<bool>(), writable in any::<bool>(),
        seed in any::<u64>(), steps in steps(),
    ) {
        follows_the_model::<PackedDevice<false>>(size, start, event, writable, seed, &steps);
        follows_the_model::<PackedDevice<true>>(size, start, event, writable, seed, &steps);
    }
}

/// Whoever sleeps is told: arming looks once more, and from then on the driver knows that it has to speak.
fn arms_and_disarms<D: TestDevice>(event_idx: bool) {
    for start in [0, 7, 65_535] {
        let region = region(QueueMemory::region_bytes(8) + 4096);
        let memory = QueueMemory::carve(&region, 8, D::PACKED).unwrap();
        let features = if event_idx { feature::EVENT_IDX } else { 0 };
        let mut driver = PlayedDriver::of(&memory, start, event_idx, 1);
        let mut device = D::new(&ring(&memory, &region, features, start));
        for _ in 0..40 {
            assert!(!driver.device_wants_next());
            assert!(device.arm(), "nothing is there");
            assert!(driver.device_wants_next());
            driver.offer(&[(region.iova().0, 9, 0)]);
            device.disarm();
            assert!(!device.arm(), "something is there: no sleep");
            assert!(!driver.device_wants_next());
            let chains = device.fetch(1, false).unwrap();
            assert_eq!(chains.len(), 1);
            device.give_back_read(chains[0]);
            device.publish();
            assert_eq!(driver.take_back().len(), 1);
        }
    }
}

#[test]
fn every_device_arms_and_disarms() {
    for event_idx in [false, true] {
        arms_and_disarms::<SplitDevice<false>>(event_idx);
        arms_and_disarms::<SplitDevice<true>>(event_idx);
        arms_and_disarms::<PackedDevice<false>>(event_idx);
        arms_and_disarms::<PackedDevice<true>>(event_idx);
    }
}

/// Our two sides pass buffers, single ones and chains, to be read or written, from places near the wraps.
fn both_sides<R: TestRing, D: TestDevice>(size: u16, start: u16, event_idx: bool, writable: bool) {
    assert_eq!((R::PACKED, R::IN_ORDER), (D::PACKED, D::IN_ORDER));
    let told = format!("queue of {size} from {start}, event_idx {event_idx}, writable {writable}");
    let mbufs = 2 * usize::from(size) + 2;
    let pool = PoolConfig { mbufs, headroom_bytes: 64, data_room_bytes: 64 };
    let region = region(pool.region_bytes() + QueueMemory::region_bytes(size) + 4096);
    let memory = QueueMemory::carve(&region, size, R::PACKED).unwrap();
    let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
    let features = if event_idx { feature::EVENT_IDX } else { 0 };
    let mut driver = R::start(&memory, &region, features, start);
    if let Some(areas) = PlayedDriver::of(&memory, start, event_idx, 0).split() {
        // It is the device's to say; in a packed ring it stands in the descriptors, written above.
        areas.publish_used(start);
    }
    let mut device = D::new(&ring(&memory, &region, features, start));
    let (mut sent, mut taken, mut back) = (0_u64, 0_u64, 0_u64);
    let goal = 3 * u64::from(size) + 20;
    while back < goal {
        while driver.free() > 0 && sent < goal {
            let mut frame = pool.alloc().unwrap();
            frame.append(8).unwrap().copy_from_slice(&sent.to_be_bytes());
            let piece = Piece::of(&frame);
            if !writable && sent.is_multiple_of(3) && driver.free() > 1 {
                driver.post_chain(frame, Piece { address: region.iova().0, len: 12 });
            } else {
                driver.post(frame, piece, writable);
            }
            sent += 1;
        }
        driver.publish();
        // A third of what is there, at least one: the two sides drift apart.
        let ready = usize::from(device.ready(usize::MAX).unwrap());
        for chain in device.fetch(ready.div_ceil(3), writable).unwrap() {
            let last = *device.walk(chain, 0, writable).unwrap().last().unwrap();
            assert_eq!(last.len, 8, "{told}");
            // SAFETY: the data of an mbuf that is posted.
            let tag = u64::from_be_bytes(unsafe { last.ptr.cast::<[u8; 8]>().read() });
            assert_eq!(tag, taken, "{told}");
            if writable {
                device.give_back(chain, 3);
            } else {
                device.give_back_read(chain);
            }
            taken += 1;
        }
        device.publish();
        for _ in 0..driver.ready(usize::MAX).unwrap() {
            let (mbuf, len) = driver.complete().unwrap();
            assert_eq!(mbuf.data(), back.to_be_bytes(), "{told}");
            assert!(!writable || len == 3, "{told}: length {len}");
            back += 1;
        }
        assert_eq!((driver.fault(), device.fault()), (None, None), "{told}");
    }
    assert_eq!((driver.free(), driver.outstanding()), (size, 0));
}

fn both_sides_in_every_way<R: TestRing, D: TestDevice>(size: u16) {
    for start in [0, 65_530] {
        for event_idx in [false, true] {
            for writable in [false, true] {
                both_sides::<R, D>(size, start, event_idx, writable);
            }
        }
    }
}

#[test]
fn both_sides_of_split_queues_pass_every_buffer_in_every_size() {
    for log in 0..=12 {
        both_sides_in_every_way::<SplitDriver<false>, SplitDevice<false>>(1 << log);
        both_sides_in_every_way::<SplitDriver<true>, SplitDevice<true>>(1 << log);
    }
    both_sides::<SplitDriver<false>, SplitDevice<false>>(MAX_SIZE, 65_530, false, false);
    both_sides::<SplitDriver<true>, SplitDevice<true>>(MAX_SIZE, 65_530, true, false);
}

#[test]
fn both_sides_of_packed_queues_pass_every_buffer_in_every_size() {
    for size in (1..=66).chain([100, 127, 255, 257, 1000, 4095]) {
        both_sides_in_every_way::<PackedDriver<false>, PackedDevice<false>>(size);
        both_sides_in_every_way::<PackedDriver<true>, PackedDevice<true>>(size);
    }
    for size in [MAX_SIZE - 1, MAX_SIZE] {
        both_sides::<PackedDriver<false>, PackedDevice<false>>(size, 65_530, false, false);
        both_sides::<PackedDriver<true>, PackedDevice<true>>(size, 65_530, true, true);
    }
}
