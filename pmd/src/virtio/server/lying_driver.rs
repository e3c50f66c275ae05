//! A driver that lies: every rule of descriptors and the available ring broken, one at a time and at random. The
//! queue stops with the fault's name, the counter rises, nothing panics or spins or reads outside, and a driver that
//! sets its queues up anew is served again.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{ServerQueuePair, rx::Intake, tx::Outlet};
use crate::mem::{HomePool, Iova, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::port::{Burst, QueueFault, QueuePair};
use crate::virtio::attach::{GuestMemory, Publisher, Ring, hand_over};
use crate::virtio::ring::QueueMemory;
use crate::virtio::spec::feature;
use crate::virtio::spec::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use crate::virtio::split::Areas;

const SIZE: u16 = 16;

/// Where the driver's buffers are, in its region, one KiB each.
const BUFFERS: usize = 16 << 10;

/// A device side, and the test as its driver: queue 0 is the driver's receive queue, 1 its transmit queue.
struct Victim {
    pair: ServerQueuePair,
    pool: HomePool,
    driver: Arc<Region>,
    memory: [QueueMemory; 2],
    queues: [Areas; 2],
    publishers: [Publisher; 2],
}

impl Victim {
    fn new(features: u64) -> Self {
        let pool = PoolConfig { mbufs: 64, headroom_bytes: 128, data_room_bytes: 512 };
        let region = |len_bytes| {
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap()
        };
        let ours = region(pool.region_bytes());
        let driver = region(64 << 10);
        let memory = [(), ()].map(|()| QueueMemory::carve(&driver, SIZE, false).unwrap());
        let queues = [0, 1].map(|queue: usize| {
            let layout = memory[queue].layout();
            // SAFETY: carved from the driver's region, which the test bed keeps.
            unsafe {
                Areas::new(
                    layout.descriptors.0 as *mut u8,
                    layout.available.0 as *mut u8,
                    layout.used.0 as *mut u8,
                    SIZE,
                )
            }
        });
        let ((receive, receive_follower), (transmit, transmit_follower)) = (hand_over(), hand_over());
        let pair = ServerQueuePair { rx: Intake::new(transmit_follower), tx: Outlet::new(receive_follower) };
        let pool = Pool::new(&ours, pool).unwrap().adopt().unwrap();
        let mut victim = Self { pair, pool, driver, memory, queues, publishers: [receive, transmit] };
        victim.set_up(features);
        victim
    }

    /// What a driver does after a reset.
    fn set_up(&mut self, features: u64) {
        let memory = Arc::new(GuestMemory::of_region(&self.driver));
        for (queue, publisher) in self.publishers.iter().enumerate() {
            self.queues[queue].publish_available(0);
            self.queues[queue].publish_used(0);
            let mut ring = Ring::new(0, &self.memory[queue].layout(), Arc::clone(&memory)).unwrap();
            ring.features = features;
            publisher.publish(ring);
        }
    }

    fn buffer(&self, number: u16) -> u64 {
        self.driver.iova().0 + (BUFFERS + usize::from(number) * 1024) as u64
    }

    fn describe(&self, queue: usize, id: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.queues[queue].write_descriptor(id, Descriptor { address, len, flags, next });
    }

    /// Makes `heads` available on `queue`.
    fn offer(&self, queue: usize, heads: &[u16]) {
        let areas = &self.queues[queue];
        let mut index = areas.available_index();
        for &head in heads {
            areas.write_available(index, head);
            index = index.wrapping_add(1);
        }
        areas.publish_available(index);
    }

    fn receive(&mut self) -> usize {
        self.pair.rx_burst(&self.pool, &mut Burst::new(), 64)
    }

    fn send(&mut self, bytes: usize) -> usize {
        let mut frame = self.pool.alloc().unwrap();
        frame.append(bytes).unwrap().fill(0xee);
        self.pair.tx_burst(&mut Burst::from_iter([frame]))
    }

    fn stopped_with(mut self, fault: QueueFault) {
        assert_eq!((self.pair.fault(), self.pair.counters().faults), (Some(fault), 1));
        for _ in 0..3 {
            assert_eq!((self.receive(), self.send(60)), (0, 0), "a stopped queue moves nothing");
        }
        // A driver that starts anew is served again, and the fault stays counted.
        self.set_up(feature::VERSION_1);
        assert_eq!(self.receive(), 0);
        self.describe(1, 0, self.buffer(0), 72, 0, 0);
        self.offer(1, &[0]);
        assert_eq!((self.receive(), self.pair.fault(), self.pair.counters().faults), (1, None, 1));
        assert_eq!(self.pool.levels().free, self.pool.levels().mbufs);
    }
}

#[test]
fn available_index_that_jumps() {
    for jump in [17, 40_000, 65_535] {
        let mut victim = Victim::new(feature::VERSION_1);
        assert_eq!(victim.receive(), 0);
        victim.queues[1].publish_available(jump);
        assert_eq!(victim.receive(), 0);
        victim.stopped_with(QueueFault::AvailIndexJump { moved: jump, size: 16 });
    }
}

#[test]
fn head_and_next_beyond_the_queue() {
    let mut victim = Victim::new(feature::VERSION_1);
    victim.describe(1, 0, victim.buffer(0), 72, 0, 0);
    victim.offer(1, &[0, 16]);
    assert_eq!(victim.receive(), 1, "what came before the lie is good");
    victim.stopped_with(QueueFault::DescriptorOutOfRange { id: 16, size: 16 });

    let mut victim = Victim::new(feature::VERSION_1);
    victim.describe(1, 0, victim.buffer(0), 72, DESC_F_NEXT, 65_535);
    victim.offer(1, &[0]);
    assert_eq!(victim.receive(), 0);
    victim.stopped_with(QueueFault::DescriptorOutOfRange { id: 65_535, size: 16 });
}

#[test]
fn chain_that_loops() {
    let mut victim = Victim::new(feature::VERSION_1);
    victim.describe(1, 0, victim.buffer(0), 1, DESC_F_NEXT, 1);
    victim.describe(1, 1, victim.buffer(0), 1, DESC_F_NEXT, 0);
    victim.offer(1, &[0]);
    assert_eq!(victim.receive(), 0);
    victim.stopped_with(QueueFault::ChainTooLong { size: 16 });
}

#[test]
fn addresses_outside_the_shared_memory() {
    let victim = Victim::new(feature::VERSION_1);
    let (base, end) = (victim.driver.iova().0, victim.driver.iova().0 + victim.driver.len_bytes() as u64);
    drop(victim);
    for offset in [0_u64, 1] {
        // One past the end, a length that runs over it, a length that wraps, null, and nothing at a bad address.
        for (from_end, address, len) in
            [(true, 0, 1), (true, u64::MAX - 9, 60), (false, u64::MAX, u32::MAX), (true, offset, 0)]
        {
            let mut victim = Victim::new(feature::VERSION_1);
            let anchor = if from_end { victim.driver.iova().0 + victim.driver.len_bytes() as u64 } else { 0 };
            let address = anchor.wrapping_add(address);
            victim.describe(1, 0, address, len, 0, 0);
            victim.offer(1, &[0]);
            assert_eq!(victim.receive(), 0);
            victim.stopped_with(QueueFault::AddressNotShared { address, len });
        }
    }
    assert!(base < end);
}

#[test]
fn flags_that_were_not_negotiated_or_of_the_wrong_direction() {
    for flags in [DESC_F_WRITE, DESC_F_INDIRECT, 0x8000, DESC_F_WRITE | DESC_F_NEXT] {
        let mut victim = Victim::new(feature::VERSION_1);
        victim.describe(1, 0, victim.buffer(0), 72, flags, 0);
        victim.offer(1, &[0]);
        assert_eq!(victim.receive(), 0);
        victim.stopped_with(QueueFault::BadDescriptorFlags { flags });
    }
    let mut victim = Victim::new(feature::VERSION_1);
    victim.describe(0, 0, victim.buffer(0), 1024, 0, 0);
    victim.offer(0, &[0]);
    assert_eq!(victim.send(60), 0);
    victim.stopped_with(QueueFault::BadDescriptorFlags { flags: 0 });
}

#[test]
fn chains_shorter_than_a_header_or_absurdly_long_are_counted_and_given_back() {
    let mut victim = Victim::new(feature::VERSION_1);
    for (id, len) in [(0, 0), (1, 11), (2, 12), (3, 13)] {
        victim.describe(1, id, victim.buffer(id), len, 0, 0);
    }
    victim.offer(1, &[0, 1, 2, 3]);
    assert_eq!(victim.receive(), 1, "only the last holds a byte");
    // 15 × 48 KiB overlapping: allowed by the ring's rules, no frame by anybody's.
    for id in 0..15 {
        let next = if id < 14 { DESC_F_NEXT } else { 0 };
        victim.describe(1, id, victim.driver.iova().0, 48 << 10, next, id + 1);
    }
    victim.offer(1, &[0]);
    assert_eq!(victim.receive(), 0);
    assert_eq!((victim.pair.counters().rx_errors, victim.pair.fault()), (4, None));
    assert_eq!(victim.queues[1].used_index(), 5, "all of them given back");
    assert_eq!(victim.pool.levels().free, victim.pool.levels().mbufs);
}

#[test]
fn receive_buffers_too_short_for_the_frame_or_even_the_header() {
    let mut victim = Victim::new(feature::VERSION_1);
    victim.describe(0, 0, victim.buffer(0), 71, DESC_F_WRITE, 0);
    victim.offer(0, &[0]);
    assert_eq!(victim.send(60), 1, "taken, and dropped");
    assert_eq!((victim.pair.counters().tx_errors, victim.pair.counters().tx_packets), (1, 0));

    // Merged: buffers of five bytes, so that the header itself is spread over three.
    let mut victim = Victim::new(feature::VERSION_1 | feature::MRG_RXBUF);
    for id in 0..16 {
        victim.describe(0, id, victim.buffer(id), 5, DESC_F_WRITE, 0);
    }
    victim.offer(0, &(0..16).collect::<Vec<_>>());
    assert_eq!(victim.send(60), 1);
    assert_eq!((victim.pair.counters().tx_packets, victim.queues[0].used_index()), (1, 15));
    // SAFETY: the third buffer, in the region; bytes 10 and 11 of the header are num_buffers.
    let third = unsafe { (victim.buffer(2) as *const [u8; 5]).read() };
    assert_eq!(third, [15, 0, 0xee, 0xee, 0xee]);
    // A frame for which the whole queue is too small can never be sent.
    let mut victim = Victim::new(feature::VERSION_1 | feature::MRG_RXBUF);
    for id in 0..16 {
        victim.describe(0, id, victim.buffer(id), 5, DESC_F_WRITE, 0);
    }
    victim.offer(0, &(0..16).collect::<Vec<_>>());
    assert_eq!(victim.send(100), 1);
    assert_eq!((victim.pair.counters().tx_errors, victim.queues[0].used_index()), (1, 0));
}

#[test]
fn queue_withdrawn_in_mid_traffic_is_let_go_and_its_position_told() {
    let mut victim = Victim::new(feature::VERSION_1);
    victim.describe(1, 0, victim.buffer(0), 72, 0, 0);
    victim.offer(1, &[0]);
    assert_eq!(victim.receive(), 1);
    let publisher = victim.publishers[1].withdraw(Duration::ZERO);
    assert_eq!(publisher, crate::virtio::attach::Withdrawal::StillHeld);
    victim.offer(1, &[0]);
    assert_eq!(victim.receive(), 0, "it is not ours any more");
    let crate::virtio::attach::Withdrawal::Released(position) = victim.publishers[1].withdraw(Duration::ZERO)
    else {
        panic!("not let go")
    };
    assert_eq!((position.next_available, position.next_used), (1, 1));
}

#[derive(Clone, Debug)]
enum Deed {
    Describe(usize, u16, Address, u32, u16, u16),
    Offer(usize, u16),
    MoveIndex(usize, u16),
    Flags(usize, u16),
    Scribble(usize, u64),
    SetUp,
    Poll,
    Send(usize),
}

#[derive(Clone, Debug)]
enum Address {
    Buffer(u16),
    Any(u64),
    FromEnd(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let queue = || 0_usize..2;
    let address = prop_oneof![
        8 => (0_u16..16).prop_map(Address::Buffer),
        1 => any::<u64>().prop_map(Address::Any),
        1 => any::<u8>().prop_map(Address::FromEnd),
    ];
    let flags = prop_oneof![8 => 0_u16..4, 1 => any::<u16>()];
    let len = prop_oneof![8 => 0_u32..1024, 1 => any::<u32>()];
    prop_oneof![
        8 => (queue(), 0_u16..16, address, len, flags, 0_u16..18)
            .prop_map(|(q, id, address, len, flags, next)| Deed::Describe(q, id, address, len, flags, next)),
        8 => (queue(), 0_u16..16).prop_map(|(q, head)| Deed::Offer(q, head)),
        1 => (queue(), any::<u16>()).prop_map(|(q, head)| Deed::Offer(q, head)),
        1 => (queue(), any::<u16>()).prop_map(|(q, by)| Deed::MoveIndex(q, by)),
        1 => (queue(), any::<u16>()).prop_map(|(q, flags)| Deed::Flags(q, flags)),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(at, value)| Deed::Scribble(at, value)),
        2 => Just(Deed::SetUp),
        8 => Just(Deed::Poll),
        6 => (0_usize..512).prop_map(Deed::Send),
    ]
}

proptest! {
    /// Whatever the driver does: no panic, no access outside its memory, no mbuf lost.
    #[test]
    fn no_deed_of_the_driver_harms_the_device(
        mergeable in any::<bool>(),
        deeds in prop::collection::vec(deed(), 0..200),
    ) {
        let features = feature::VERSION_1 | if mergeable { feature::MRG_RXBUF } else { 0 };
        let mut victim = Victim::new(features);
        let end = victim.driver.iova().0 + victim.driver.len_bytes() as u64;
        for deed in deeds {
            match deed {
                Deed::Describe(queue, id, address, len, flags, next) => {
                    let address = match address {
                        Address::Buffer(number) => victim.buffer(number),
                        Address::Any(address) => address,
                        Address::FromEnd(back) => end - u64::from(back),
                    };
                    victim.describe(queue, id, address, len, flags, next);
                }
                Deed::Offer(queue, head) => victim.offer(queue, &[head]),
                Deed::MoveIndex(queue, by) => {
                    let areas = &victim.queues[queue];
                    areas.publish_available(areas.available_index().wrapping_add(by));
                }
                Deed::Flags(queue, flags) => victim.queues[queue].set_available_flags(flags),
                Deed::Scribble(at, value) => {
                    let at = at % (victim.driver.len_bytes() - 8);
                    // SAFETY: within the driver's own region.
                    unsafe { victim.driver.base().add(at).cast::<u64>().write_unaligned(value) }
                }
                Deed::SetUp => victim.set_up(features),
                Deed::Poll => {
                    victim.receive();
                }
                Deed::Send(bytes) => {
                    victim.send(bytes + 1 - usize::from(bytes > 511));
                }
            }
        }
        prop_assert_eq!(victim.pool.levels().free, victim.pool.levels().mbufs);
    }
}

#[test]
fn addresses_are_translated_with_their_length() {
    // CVE-2018-1059: the start lies in the memory, the end does not.
    let victim = Victim::new(feature::VERSION_1);
    let memory = GuestMemory::of_region(&victim.driver);
    let end = victim.driver.iova().0 + victim.driver.len_bytes() as u64;
    assert!(memory.translate(Iova(end - 16), 16).is_some());
    assert!(memory.translate(Iova(end - 16), 17).is_none());
}
