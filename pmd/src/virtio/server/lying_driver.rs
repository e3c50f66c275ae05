//! A driver that lies: every rule of descriptors, chains, tables and rings broken, one at a time and at random, in every
//! format. The queue stops with the fault's name, the counter rises, nothing panics or spins or reads outside, and a
//! driver that sets its queues up anew is served again, also in another format.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{ServerQueuePair, rx::Intake, tx::Outlet};
use crate::mem::{HomePool, Iova, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::port::{Burst, QueueFault, QueuePair};
use crate::virtio::attach::{GuestMemory, Position, Publisher, Ring, Withdrawal, hand_over};
use crate::virtio::ring::QueueMemory;
use crate::virtio::ring::played::packed_start;
use crate::virtio::ring::played_driver::{Piece, PlayedDriver, table};
use crate::virtio::spec::feature::{EVENT_IDX, IN_ORDER, INDIRECT_DESC, MRG_RXBUF, RING_PACKED, VERSION_1};
use crate::virtio::spec::packed::EVENT_WRAP;
use crate::virtio::spec::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

const SIZE: u16 = 16;

/// Where the driver's buffers are, in its region, one KiB each; behind them its tables.
const BUFFERS: usize = 16 << 10;
const TABLES: usize = 48 << 10;

/// A device side, and the test as its driver: queue 0 is the driver's receive queue, 1 its transmit queue.
struct Victim {
    pair: ServerQueuePair,
    pool: HomePool,
    driver: Arc<Region>,
    /// Of a split and of a packed queue.
    memory: [[QueueMemory; 2]; 2],
    queues: [PlayedDriver; 2],
    publishers: [Publisher; 2],
    features: u64,
}

/// Every kind of virtqueue.
fn kinds() -> impl Iterator<Item = u64> {
    let bits = [RING_PACKED, IN_ORDER, EVENT_IDX, INDIRECT_DESC];
    (0..16_usize).map(move |kind| {
        let chosen = bits.iter().enumerate().filter(|(at, _)| kind >> at & 1 == 1);
        chosen.fold(VERSION_1, |features, (_, bit)| features | bit)
    })
}

/// Those where the driver links descriptors by their numbers, and those where it does not.
fn split_kinds() -> impl Iterator<Item = u64> {
    kinds().filter(|kind| kind & RING_PACKED == 0)
}

fn packed_kinds() -> impl Iterator<Item = u64> {
    kinds().filter(|kind| kind & RING_PACKED != 0)
}

impl Victim {
    fn new(features: u64) -> Self {
        Self::starting_at(features, 65_533)
    }

    fn starting_at(features: u64, start: u16) -> Self {
        let pool = PoolConfig { mbufs: 64, headroom_bytes: 128, data_room_bytes: 512 };
        let region = |len_bytes| {
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap()
        };
        let ours = region(pool.region_bytes());
        let driver = region(64 << 10);
        let memory =
            [false, true].map(|packed| [(), ()].map(|()| QueueMemory::carve(&driver, SIZE, packed).unwrap()));
        let queues = [0, 1].map(|queue: usize| PlayedDriver::of(&memory[0][queue], 0, false, 1));
        let ((receive, receive_follower), (transmit, transmit_follower)) = (hand_over(), hand_over());
        let pair = ServerQueuePair { rx: Intake::new(transmit_follower), tx: Outlet::new(receive_follower) };
        let pool = Pool::new(&ours, pool).unwrap().adopt().unwrap();
        let publishers = [receive, transmit];
        let mut victim = Self { pair, pool, driver, memory, queues, publishers, features };
        victim.set_up(features, start);
        victim
    }

    /// What a driver does after a reset.
    fn set_up(&mut self, features: u64, start: u16) {
        self.features = features;
        let packed = features & RING_PACKED != 0;
        let guest = Arc::new(GuestMemory::of_region(&self.driver));
        for (queue, publisher) in self.publishers.iter().enumerate() {
            let memory = &self.memory[usize::from(packed)][queue];
            self.queues[queue] = PlayedDriver::of(memory, start, features & EVENT_IDX != 0, 1);
            let mut ring = Ring::new(0, &memory.layout(), Arc::clone(&guest)).unwrap();
            ring.features = features;
            let place = if packed {
                let (place, wrap) = packed_start(SIZE, start);
                place | if wrap { EVENT_WRAP } else { 0 }
            } else {
                start
            };
            ring.start = Position { next_available: place, next_used: place };
            publisher.publish(ring);
        }
    }

    fn buffer(&self, number: u16) -> u64 {
        self.driver.iova().0 + (BUFFERS + usize::from(number) * 1024) as u64
    }

    /// The first address that is not the driver's.
    fn end(&self) -> u64 {
        self.driver.iova().0 + self.driver.len_bytes() as u64
    }

    /// A buffer to be read that holds a frame.
    fn good(&self, number: u16) -> Piece {
        (self.buffer(number), 72, 0)
    }

    /// Makes a chain available that the device would have to read; it breaks a rule.
    fn send_lie(&mut self, pieces: &[Piece]) {
        self.queues[1].lie(3, pieces);
    }

    /// A table of these, and the descriptor that refers to it.
    fn table(&self, pieces: &[Piece]) -> Piece {
        assert!(pieces.len() <= 64);
        let at = self.driver.iova().0 + TABLES as u64;
        // SAFETY: within the driver's region, behind its buffers.
        unsafe { table(at, pieces, self.features & RING_PACKED != 0) }
    }

    fn receive(&mut self) -> usize {
        self.pair.rx_burst(&self.pool, &mut Burst::new(), 64)
    }

    fn send(&mut self, bytes: usize) -> usize {
        let mut frame = self.pool.alloc().unwrap();
        frame.append(bytes).unwrap().fill(0xee);
        self.pair.tx_burst(&mut Burst::from_iter([frame]))
    }

    /// The receive side takes nothing and has stopped with this fault, until the driver sets it up anew.
    fn refuses(mut self, fault: QueueFault) {
        assert_eq!(self.receive(), 0);
        self.stopped_with(fault);
    }

    fn stopped_with(mut self, fault: QueueFault) {
        assert_eq!((self.pair.fault(), self.pair.counters().faults), (Some(fault), 1));
        for _ in 0..3 {
            assert_eq!((self.receive(), self.send(60)), (0, 0), "a stopped queue moves nothing");
        }
        // A driver that starts anew is served again, in the other format too, and the fault stays counted.
        for features in [self.features ^ RING_PACKED, VERSION_1] {
            self.set_up(features, 0);
            assert_eq!(self.receive(), 0);
            let good = self.good(0);
            self.queues[1].offer(&[good]);
            assert_eq!((self.receive(), self.pair.fault(), self.pair.counters().faults), (1, None, 1));
        }
        assert_eq!(self.pool.levels().free, self.pool.levels().mbufs);
    }
}

#[test]
fn available_index_that_jumps() {
    for kind in split_kinds() {
        for jump in [17, 40_000, 65_535_u16] {
            let mut victim = Victim::starting_at(kind, 65_533);
            assert_eq!(victim.receive(), 0);
            victim.queues[1].split().unwrap().publish_available(65_533_u16.wrapping_add(jump));
            victim.refuses(QueueFault::AvailIndexJump { moved: jump, size: 16 });
        }
    }
}

#[test]
fn head_and_next_beyond_the_queue() {
    for kind in split_kinds() {
        let mut victim = Victim::new(kind);
        let good = victim.good(0);
        victim.queues[1].offer(&[good]);
        let areas = victim.queues[1].split().unwrap();
        areas.write_available(areas.available_index(), 16);
        areas.publish_available(areas.available_index().wrapping_add(1));
        assert_eq!(victim.receive(), 1, "what came before the lie is good");
        victim.stopped_with(QueueFault::DescriptorOutOfRange { id: 16, size: 16 });

        let mut victim = Victim::new(kind);
        let (address, len, flags) = victim.good(0);
        victim.send_lie(&[(address, len, flags | DESC_F_NEXT)]);
        victim.refuses(QueueFault::DescriptorOutOfRange { id: 0x7777, size: 16 });
    }
}

#[test]
fn chain_that_loops() {
    for kind in split_kinds() {
        let mut victim = Victim::new(kind);
        let good = victim.good(0);
        victim.send_lie(&[good, good]);
        let buffer = victim.buffer(0);
        victim.queues[1].scribble(4, buffer, 1, 3, DESC_F_NEXT);
        victim.refuses(QueueFault::ChainTooLong { size: 16 });
    }
}

#[test]
fn chain_of_the_whole_ring_that_does_not_end() {
    for kind in packed_kinds() {
        for count in [16, 17, 40] {
            let mut victim = Victim::new(kind);
            let (address, ..) = victim.good(0);
            victim.send_lie(&vec![(address, 1, DESC_F_NEXT); count]);
            victim.refuses(QueueFault::ChainTooLong { size: 16 });
        }
    }
}

#[test]
fn chain_that_runs_into_what_is_not_available() {
    for kind in packed_kinds() {
        for good_ones in [1, 2, 5] {
            let mut victim = Victim::new(kind);
            let good = victim.good(0);
            for _ in 1..good_ones {
                victim.queues[1].offer(&[good]);
            }
            victim.send_lie(&[good, (good.0, good.1, DESC_F_NEXT)]);
            assert_eq!(victim.receive(), good_ones - 1, "what came before the lie is good");
            victim.stopped_with(QueueFault::ChainNotAvailable { descriptors: 3 });
        }
    }
}

#[test]
fn addresses_outside_the_shared_memory() {
    for kind in kinds() {
        // One past the end, a length that runs over it, a length that wraps, null, and nothing at a bad address.
        for (from_end, address, len) in [
            (true, 0, 1),
            (true, u64::MAX - 9, 60),
            (false, u64::MAX, u32::MAX),
            (true, 1, 0),
            (false, 0, 60),
        ] {
            let mut victim = Victim::new(kind);
            let anchor = if from_end { victim.end() } else { 0 };
            let address = anchor.wrapping_add(address);
            victim.send_lie(&[(address, len, 0)]);
            victim.refuses(QueueFault::AddressNotShared { address, len });

            // The same as the second of a chain, and in a table.
            let mut victim = Victim::new(kind);
            let address = victim.end().wrapping_add(address.wrapping_sub(anchor));
            let good = victim.good(0);
            victim.send_lie(&[good, (address, len | 1, 0)]);
            victim.refuses(QueueFault::AddressNotShared { address, len: len | 1 });
        }
    }
}

#[test]
fn flags_that_were_not_negotiated_or_of_the_wrong_direction() {
    for kind in kinds() {
        let unknown = [DESC_F_WRITE, DESC_F_INDIRECT, 0x40, DESC_F_WRITE | 0x100];
        for flags in
            unknown.into_iter().filter(|flags| *flags != DESC_F_INDIRECT || kind & INDIRECT_DESC == 0)
        {
            let mut victim = Victim::new(kind);
            let (address, len, _) = victim.good(0);
            victim.send_lie(&[(address, len, flags)]);
            victim.refuses(QueueFault::BadDescriptorFlags { flags });
        }
        let mut victim = Victim::new(kind);
        let buffer = victim.buffer(0);
        victim.queues[0].lie(0, &[(buffer, 1024, 0)]);
        assert_eq!(victim.send(60), 0);
        victim.stopped_with(QueueFault::BadDescriptorFlags { flags: 0 });
    }
}

fn indirect_kinds() -> impl Iterator<Item = u64> {
    kinds().filter(|kind| kind & INDIRECT_DESC != 0)
}

#[test]
fn frames_come_in_tables_of_every_length() {
    for kind in indirect_kinds() {
        for count in 1..=16_u16 {
            let mut victim = Victim::new(kind);
            let pieces: Vec<Piece> = (0..count).map(|at| (victim.buffer(at), 15, 0)).collect();
            let table = victim.table(&pieces);
            victim.queues[1].offer(&[table]);
            let mut burst = Burst::new();
            assert_eq!(victim.pair.rx_burst(&victim.pool, &mut burst, 64), 1, "{:?}", victim.pair.fault());
            assert_eq!(burst[0].pkt_len(), usize::from(count) * 15 - 12);
            assert_eq!(victim.queues[1].take_back().len(), 1);
        }
    }
}

#[test]
fn tables_that_are_none() {
    for kind in indirect_kinds() {
        for len in [0, 1, 15, 17, 33, 16 * 17, 1 << 20, u32::MAX - 15] {
            let mut victim = Victim::new(kind);
            let address = victim.buffer(0);
            victim.send_lie(&[(address, len, DESC_F_INDIRECT)]);
            victim.refuses(QueueFault::BadIndirectTable { len, size: 16 });
        }
        let mut victim = Victim::new(kind);
        let address = victim.end() - 16;
        victim.send_lie(&[(address, 32, DESC_F_INDIRECT)]);
        victim.refuses(QueueFault::AddressNotShared { address, len: 32 });
    }
}

#[test]
fn tables_in_tables_and_chains_behind_tables() {
    for kind in indirect_kinds() {
        let mut victim = Victim::new(kind);
        let good = victim.good(0);
        let nested = victim.table(&[good, (good.0, 16, DESC_F_INDIRECT)]);
        victim.send_lie(&[nested]);
        victim.refuses(QueueFault::IndirectNested { flags: DESC_F_INDIRECT });

        let mut victim = Victim::new(kind);
        let table = victim.table(&[good]);
        let good = victim.good(0);
        victim.send_lie(&[table, good]);
        let flags = DESC_F_INDIRECT | DESC_F_NEXT;
        victim.refuses(QueueFault::IndirectChained { flags });

        // More in all than a chain may have.
        let mut victim = Victim::new(kind);
        let good = victim.good(0);
        let table = victim.table(&[good; 16]);
        victim.send_lie(&[good, table]);
        victim.refuses(QueueFault::ChainTooLong { size: 16 });
    }
}

#[test]
fn descriptors_in_tables_that_lie() {
    for kind in indirect_kinds() {
        let mut victim = Victim::new(kind);
        let good = victim.good(0);
        let table = victim.table(&[good, (good.0, 60, DESC_F_WRITE)]);
        victim.send_lie(&[table]);
        victim.refuses(QueueFault::BadDescriptorFlags { flags: DESC_F_WRITE });

        let mut victim = Victim::new(kind);
        let (good, address) = (victim.good(0), victim.end() - 59);
        let table = victim.table(&[good, (address, 60, 0)]);
        victim.send_lie(&[table]);
        victim.refuses(QueueFault::AddressNotShared { address, len: 60 });
    }
    for kind in indirect_kinds().filter(|kind| kind & RING_PACKED == 0) {
        // The last goes on behind the table, or to itself.
        let mut victim = Victim::new(kind);
        let good = victim.good(0);
        let table = victim.table(&[good, (good.0, 60, DESC_F_NEXT)]);
        victim.send_lie(&[table]);
        victim.refuses(QueueFault::DescriptorOutOfRange { id: 2, size: 2 });

        let mut victim = Victim::new(kind);
        let good = victim.good(0);
        let (at, ..) = victim.table(&[good, (good.0, 60, DESC_F_NEXT), good]);
        victim.send_lie(&[(at, 48, DESC_F_INDIRECT)]);
        // SAFETY: the second descriptor's `next`, in the driver's region.
        unsafe { ((at + 16 + 14) as *mut u16).write_unaligned(0) };
        victim.refuses(QueueFault::ChainTooLong { size: 16 });
    }
}

#[test]
fn chains_shorter_than_a_header_or_absurdly_long_are_counted_and_given_back() {
    for kind in kinds() {
        let mut victim = Victim::new(kind);
        for (number, len) in [(0, 0), (1, 11), (2, 12), (3, 13)] {
            let buffer = victim.buffer(number);
            victim.queues[1].offer(&[(buffer, len, 0)]);
        }
        assert_eq!(victim.receive(), 1, "only the last holds a byte");
        assert_eq!(victim.queues[1].take_back().len(), 4);
        // 15 × 48 KiB overlapping: allowed by the ring's rules, no frame by anybody's.
        let long = (victim.driver.iova().0, 48 << 10, 0);
        victim.queues[1].offer(&[long; 15]);
        assert_eq!(victim.receive(), 0);
        assert_eq!((victim.pair.counters().rx_errors, victim.pair.fault()), (4, None));
        assert_eq!(victim.queues[1].take_back().len(), 1, "given back all the same");
        assert_eq!(victim.pool.levels().free, victim.pool.levels().mbufs);
    }
}

#[test]
fn receive_buffers_too_short_for_the_frame_or_even_the_header() {
    for kind in kinds() {
        let mut victim = Victim::new(kind);
        let buffer = victim.buffer(0);
        victim.queues[0].offer(&[(buffer, 71, DESC_F_WRITE)]);
        assert_eq!(victim.send(60), 1, "taken, and dropped");
        assert_eq!((victim.pair.counters().tx_errors, victim.pair.counters().tx_packets), (1, 0));

        // Merged: buffers of five bytes, so that the header itself is spread over three.
        let of_five = |victim: &mut Victim| {
            for number in 0..16 {
                let buffer = victim.buffer(number);
                victim.queues[0].offer(&[(buffer, 5, DESC_F_WRITE)]);
            }
        };
        let mut victim = Victim::new(kind | MRG_RXBUF);
        of_five(&mut victim);
        assert_eq!(victim.send(60), 1);
        assert_eq!(victim.pair.counters().tx_packets, 1);
        let lengths: Vec<Option<u32>> =
            victim.queues[0].take_back().into_iter().map(|(_, len)| len).collect();
        assert_eq!(lengths, [[Some(5); 14].as_slice(), &[Some(2)]].concat());
        // SAFETY: the third buffer, in the region; bytes 10 and 11 of the header are num_buffers.
        let third = unsafe { (victim.buffer(2) as *const [u8; 5]).read() };
        assert_eq!(third, [15, 0, 0xee, 0xee, 0xee]);
        // A frame for which the whole queue is too small can never be sent.
        let mut victim = Victim::new(kind | MRG_RXBUF);
        of_five(&mut victim);
        assert_eq!(victim.send(100), 1);
        assert_eq!((victim.pair.counters().tx_errors, victim.queues[0].take_back().len()), (1, 0));
    }
}

#[test]
fn queue_withdrawn_in_mid_traffic_is_let_go_and_its_position_told() {
    for kind in kinds() {
        let mut victim = Victim::starting_at(kind, 15);
        let good = victim.good(0);
        victim.queues[1].offer(&[good]);
        assert_eq!(victim.receive(), 1);
        assert_eq!(victim.publishers[1].withdraw(Duration::ZERO), Withdrawal::StillHeld);
        victim.queues[1].offer(&[good]);
        assert_eq!(victim.receive(), 0, "it is not ours any more");
        let Withdrawal::Released(position) = victim.publishers[1].withdraw(Duration::ZERO) else {
            panic!("not let go")
        };
        // One after the last place of the first lap: the wrap counter is 0.
        let place = if kind & RING_PACKED == 0 { 16 } else { 0 };
        assert_eq!(position, Position { next_available: place, next_used: place });
    }
}

#[derive(Clone, Debug)]
enum Deed {
    /// A chain such as drivers make, if descriptors are free.
    Offer(usize, Vec<(Address, u32, u16)>),
    /// A chain as if nothing were with the device.
    Lie(usize, u16, Vec<(Address, u32, u16)>),
    /// The same in a table.
    Table(usize, Vec<(Address, u32, u16)>),
    MoveIndex(usize, u16),
    Want(usize, Option<u16>),
    /// A descriptor of the ring, over whatever is there.
    Overwrite(usize, u16, Address, u32, u16, u16),
    Scribble(usize, u64),
    SetUp(u64, u16),
    TakeBack(usize),
    Poll,
    Send(usize),
}

#[derive(Clone, Debug)]
enum Address {
    Buffer(u16),
    Any(u64),
    FromEnd(u8),
}

fn features() -> impl Strategy<Value = u64> {
    (0_usize..16, any::<bool>())
        .prop_map(|(kind, mergeable)| kinds().nth(kind).unwrap() | if mergeable { MRG_RXBUF } else { 0 })
}

fn start() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), 65_520..=u16::MAX, 0_u16..40]
}

fn deed() -> impl Strategy<Value = Deed> {
    let queue = || 0_usize..2;
    let address = || {
        prop_oneof![
            12 => (0_u16..16).prop_map(Address::Buffer),
            1 => any::<u64>().prop_map(Address::Any),
            1 => any::<u8>().prop_map(Address::FromEnd),
        ]
    };
    let len = || prop_oneof![12 => 0_u32..1024, 1 => any::<u32>()];
    let pieces = |bad: u32| {
        let flags = prop_oneof![20 => Just(0_u16), 20 => Just(DESC_F_WRITE), bad => any::<u16>()];
        prop::collection::vec((address(), len(), flags), 1..5)
    };
    prop_oneof![
        16 => (queue(), pieces(1)).prop_map(|(queue, pieces)| Deed::Offer(queue, pieces)),
        2 => (queue(), 0_u16..18, pieces(4)).prop_map(|(queue, first, pieces)| Deed::Lie(queue, first, pieces)),
        4 => (queue(), pieces(2)).prop_map(|(queue, pieces)| Deed::Table(queue, pieces)),
        1 => (queue(), any::<u16>()).prop_map(|(queue, by)| Deed::MoveIndex(queue, by)),
        1 => (queue(), prop::option::of(0_u16..16)).prop_map(|(queue, ahead)| Deed::Want(queue, ahead)),
        1 => (queue(), 0_u16..16, address(), len(), any::<u16>(), any::<u16>())
            .prop_map(|(queue, at, address, len, id, flags)| Deed::Overwrite(queue, at, address, len, id, flags)),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(at, value)| Deed::Scribble(at, value)),
        2 => (features(), start()).prop_map(|(features, start)| Deed::SetUp(features, start)),
        4 => queue().prop_map(Deed::TakeBack),
        8 => Just(Deed::Poll),
        6 => (1_usize..=512).prop_map(Deed::Send),
    ]
}

impl Victim {
    fn resolve(&self, pieces: &[(Address, u32, u16)], queue: usize) -> Vec<Piece> {
        // Mostly in the direction of the queue.
        let usual = if queue == 0 { DESC_F_WRITE } else { 0 };
        let flags = |flags| if flags == 0 { usual } else { flags };
        pieces.iter().map(|(address, len, wild)| (self.address(address), *len, flags(*wild))).collect()
    }

    fn address(&self, address: &Address) -> u64 {
        match *address {
            Address::Buffer(number) => self.buffer(number),
            Address::Any(address) => address,
            Address::FromEnd(back) => self.end() - u64::from(back),
        }
    }

    fn does(&mut self, deed: Deed) {
        match deed {
            Deed::Offer(queue, pieces) => {
                let pieces = self.resolve(&pieces, queue);
                if self.queues[queue].free() >= pieces.len() {
                    self.queues[queue].offer(&pieces);
                }
            }
            Deed::Lie(queue, first, pieces) => {
                let pieces = self.resolve(&pieces, queue);
                self.queues[queue].lie(first, &pieces);
            }
            Deed::Table(queue, pieces) => {
                let pieces = self.resolve(&pieces, queue);
                let table = self.table(&pieces);
                if self.queues[queue].free() >= 1 {
                    self.queues[queue].offer(&[table]);
                }
            }
            Deed::MoveIndex(queue, by) => {
                if let Some(areas) = self.queues[queue].split() {
                    areas.publish_available(areas.available_index().wrapping_add(by));
                }
            }
            Deed::Want(queue, ahead) => self.queues[queue].want(ahead),
            Deed::Overwrite(queue, at, address, len, id, flags) => {
                let address = self.address(&address);
                self.queues[queue].scribble(at, address, len, id, flags);
            }
            Deed::Scribble(at, value) => {
                let at = at % (self.driver.len_bytes() - 8);
                // SAFETY: within the driver's own region.
                unsafe { self.driver.base().add(at).cast::<u64>().write_unaligned(value) }
            }
            Deed::SetUp(features, start) => self.set_up(features, start),
            Deed::TakeBack(queue) => self.queues[queue].forget(),
            Deed::Poll => {
                self.receive();
            }
            Deed::Send(bytes) => {
                self.send(bytes);
            }
        }
    }
}

proptest! {
    /// Whatever the driver does: no panic, no access outside its memory, no mbuf lost.
    #[test]
    fn no_deed_of_the_driver_harms_the_device(
        features in features(),
        start in start(),
        deeds in prop::collection::vec(deed(), 0..200),
    ) {
        let mut victim = Victim::starting_at(features, start);
        for deed in deeds {
            victim.does(deed);
        }
        prop_assert_eq!(victim.pool.levels().free, victim.pool.levels().mbufs);
    }
}

#[test]
fn addresses_are_translated_with_their_length() {
    // CVE-2018-1059: the start lies in the memory, the end does not.
    let victim = Victim::new(VERSION_1);
    let memory = GuestMemory::of_region(&victim.driver);
    let end = victim.driver.iova().0 + victim.driver.len_bytes() as u64;
    assert!(memory.translate(Iova(end - 16), 16).is_some());
    assert!(memory.translate(Iova(end - 16), 17).is_none());
}
