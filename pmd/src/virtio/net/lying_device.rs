//! A device that lies: every rule of the used ring and the header broken, one at a time and at random. The queue
//! stops with the fault's name, the counter rises, nothing panics or spins, and every mbuf comes home. Over every
//! format of the queues.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Identity, NetPort};
use crate::mem::{HomePool, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::port::{Burst, Hub, OpenConfig, Port, QueueFault, QueuePair};
use crate::virtio::ring::played::{Held, Played};
use crate::virtio::spec::net::HEADER_BYTES;
use crate::virtio::spec::{feature, status};
use crate::virtio::transport::Transport;
use crate::virtio::transport::willing::Willing;

const SIZE: u16 = 16;

/// Formats of a queue: everything that changes how used buffers are told.
const FORMATS: [u64; 4] =
    [0, feature::IN_ORDER, feature::RING_PACKED, feature::RING_PACKED | feature::IN_ORDER];
/// Those whose buffers may be used in any order.
const ANY_ORDER: [u64; 2] = [0, feature::RING_PACKED];
/// Those whose may not.
const IN_ORDER: [u64; 2] = [feature::IN_ORDER, feature::RING_PACKED | feature::IN_ORDER];
/// Split ones.
const SPLIT: [u64; 2] = [0, feature::IN_ORDER];

/// A driver on a device that the test plays: receive queue 0, transmit queue 1.
struct Victim {
    // Dropped in this order: the queue pair needs the rest.
    pair: Box<dyn QueuePair>,
    _port: NetPort,
    pool: HomePool,
    queues: [Played; 2],
    /// The receive buffers, by id, as they were posted first.
    buffers: Vec<Held>,
    region: Arc<Region>,
}

impl Victim {
    /// `features` beyond `VERSION_1`, all of which the driver takes.
    fn new(features: u64) -> Self {
        let pool = PoolConfig { mbufs: 64, headroom_bytes: 128, data_room_bytes: 256 };
        let len_bytes = pool.region_bytes() + (64 << 10);
        let region =
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
        let offered = feature::VERSION_1 | features;
        let device = Arc::new(Willing::new(offered, SIZE));
        let (hub, data_room_bytes) = (Hub::default(), 256);
        let config = OpenConfig {
            region: &region,
            hub: &hub,
            rx_descriptors: SIZE,
            tx_descriptors: SIZE,
            queue_pairs: 1,
            interrupts: false,
            data_room_bytes,
            offloads: false,
        };
        let mut port = NetPort::open(identity(features), Arc::clone(&device) as _, &config).unwrap();
        assert_ne!(device.status().unwrap() & status::DRIVER_OK, 0);
        assert_eq!(port.info.features, offered);
        let layouts = device.layouts();
        let mut queues =
            [0, 1].map(|queue: usize| Played::new(&layouts[queue], 0, features & feature::EVENT_IDX != 0));
        let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
        let mut pair = port.take_queue_pairs().remove(0);
        assert_eq!(pair.rx_burst(&pool, &mut Burst::new(), 64), 0);
        let buffers: Vec<Held> = std::iter::from_fn(|| queues[0].take()).collect();
        assert_eq!(buffers.len(), usize::from(SIZE), "all receive buffers are posted");
        assert!(buffers.iter().zip(0..).all(|(held, id)| held.id == id));
        Self { pair, _port: port, pool, queues, buffers, region: region.clone() }
    }

    fn receive(&mut self) -> usize {
        let mut burst = Burst::new();
        self.pair.rx_burst(&self.pool, &mut burst, 64)
    }

    fn send(&mut self, count: usize) -> usize {
        let mut burst = Burst::new();
        for mut frame in self.pool.alloc_bulk(count) {
            frame.append(60).unwrap();
            burst.push(frame);
        }
        self.pair.tx_burst(&mut burst)
    }

    /// Writes `elements` as used on queue `queue`, each for one buffer.
    fn give_back(&mut self, queue: usize, elements: &[(u32, u32)]) {
        for &(id, len) in elements {
            self.queues[queue].use_id(id, len, 1, 1);
        }
    }

    /// Writes the header of the receive buffer `id`, as a device would.
    fn write_num_buffers(&self, id: u16, num_buffers: u16) {
        let [(address, len, _)] = self.buffers[usize::from(id)].descriptors[..] else { panic!("a chain") };
        assert!(usize::try_from(len).unwrap() >= HEADER_BYTES);
        // SAFETY: the address of a buffer of at least 12 bytes in the region, which is kept; the test is the device.
        unsafe { (address as *mut u8).add(HEADER_BYTES - 2).cast::<u16>().write_unaligned(num_buffers) }
    }

    /// The receive queue has stopped with this fault, for good; everything comes home at the end.
    fn stopped_with(mut self, fault: QueueFault) {
        self.give_back(0, &[(0, 100), (1, 100)]);
        assert_eq!(self.receive(), 0, "a stopped queue moves nothing");
        assert_eq!(self.send(1), 1, "the other goes on");
        self.ended_with(fault);
    }

    /// The same of the transmit queue.
    fn stopped_sending_with(mut self, fault: QueueFault) {
        self.give_back(1, &[(0, 0)]);
        assert_eq!(self.send(1), 0, "a stopped queue moves nothing");
        self.write_num_buffers(0, 1);
        self.give_back(0, &[(0, 72)]);
        assert_eq!(self.receive(), 1, "the other goes on");
        self.ended_with(fault);
    }

    fn ended_with(self, fault: QueueFault) {
        assert_eq!(self.pair.fault(), Some(fault));
        assert_eq!(self.pair.counters().faults, 1);
        let Self { pair, pool, .. } = self;
        drop(pair);
        assert_eq!(pool.levels().free, pool.levels().mbufs);
    }
}

fn identity(with: u64) -> Identity {
    Identity { name: "test".into(), driver: "test", mac: [2, 0, 0, 0, 0, 1], with, ..Identity::default() }
}

#[test]
fn used_id_beyond_the_queue() {
    for format in FORMATS {
        let mut victim = Victim::new(format);
        victim.give_back(0, &[(0, 72), (16, 72)]);
        assert_eq!(victim.receive(), 1, "what came before the lie is good");
        victim.stopped_with(QueueFault::UsedIdOutOfRange { id: 16, size: 16 });
        let mut victim = Victim::new(format);
        victim.give_back(0, &[(65_535, 72)]);
        assert_eq!(victim.receive(), 0);
        victim.stopped_with(QueueFault::UsedIdOutOfRange { id: 65_535, size: 16 });
    }
    let mut victim = Victim::new(0);
    victim.give_back(0, &[(u32::MAX, 72)]);
    assert_eq!(victim.receive(), 0);
    victim.stopped_with(QueueFault::UsedIdOutOfRange { id: u32::MAX, size: 16 });
}

#[test]
fn used_id_given_back_twice() {
    for format in ANY_ORDER {
        let mut victim = Victim::new(format);
        victim.give_back(0, &[(3, 72), (3, 72)]);
        assert_eq!(victim.receive(), 1);
        victim.stopped_with(QueueFault::UsedIdNotOutstanding { id: 3 });
    }
}

#[test]
fn batch_of_more_buffers_than_are_there() {
    for format in IN_ORDER {
        let mut victim = Victim::new(format);
        assert_eq!(victim.send(4), 4);
        victim.queues[1].use_id(1, 0, 2, 2); // two of them
        victim.queues[1].use_id(9, 0, 1, 1);
        victim.receive(); // an idle poll reclaims
        assert_eq!(victim.pool.levels().free, 64 - 16 - 2, "what came before the lie is good");
        victim.stopped_sending_with(QueueFault::UsedIdNotOutstanding { id: 9 });
    }
}

#[test]
fn batch_that_reaches_further_than_the_used_index() {
    let mut victim = Victim::new(feature::IN_ORDER);
    victim.queues[0].use_id(5, 72, 3, 3);
    assert_eq!(victim.receive(), 2, "buffers 0 and 1; 2 would have to be the last");
    victim.stopped_with(QueueFault::UsedIdNotOutstanding { id: 5 });
}

#[test]
fn batch_fills_all_but_its_last_buffer() {
    for format in IN_ORDER {
        let mut victim = Victim::new(format);
        victim.queues[0].use_id(3, 72, 4, 4);
        assert_eq!(victim.receive(), 4);
        assert_eq!(victim.pair.counters().rx_bytes, 3 * (256 - 12) + 72 - 12);
        victim.give_back(0, &[(4, 72), (5, 72)]);
        assert_eq!(victim.receive(), 2, "the queue stays in step");
        assert_eq!(victim.pair.fault(), None);
    }
}

#[test]
fn transmit_id_that_was_never_sent() {
    for format in ANY_ORDER {
        let mut victim = Victim::new(format);
        assert_eq!(victim.send(4), 4);
        victim.give_back(1, &[(0, 0), (9, 0)]);
        victim.receive(); // an idle poll reclaims
        victim.stopped_sending_with(QueueFault::UsedIdNotOutstanding { id: 9 });
    }
}

#[test]
fn used_length_beyond_the_buffer() {
    for format in FORMATS {
        let mut victim = Victim::new(format);
        victim.give_back(0, &[(0, 256), (1, 257)]);
        assert_eq!(victim.receive(), 1);
        victim.stopped_with(QueueFault::UsedLenTooLong { len: 257, posted: 256 });
    }
}

#[test]
fn used_length_of_a_transmitted_buffer_is_ignored() {
    for format in FORMATS {
        let mut victim = Victim::new(format);
        assert_eq!(victim.send(2), 2);
        victim.give_back(1, &[(0, u32::MAX), (1, 5)]);
        victim.receive();
        assert_eq!(victim.pair.fault(), None);
        assert_eq!(victim.pool.levels().free, 64 - 16);
    }
}

#[test]
fn used_index_that_jumps() {
    for format in SPLIT {
        for jump in [17, 1000, 32_768, 65_535] {
            let mut victim = Victim::new(format);
            victim.queues[0].split().unwrap().publish_used(jump);
            assert_eq!(victim.receive(), 0);
            victim.stopped_with(QueueFault::UsedIndexJump { moved: jump, outstanding: 16 });
        }
        let mut victim = Victim::new(format);
        assert_eq!(victim.send(4), 4);
        victim.queues[1].split().unwrap().publish_used(5);
        victim.receive();
        victim.stopped_sending_with(QueueFault::UsedIndexJump { moved: 5, outstanding: 4 });
    }
}

/// A packed queue has no index that could jump: descriptors that look used where nothing is with the device.
#[test]
fn used_descriptors_that_were_not_with_the_device() {
    for format in [feature::RING_PACKED, feature::RING_PACKED | feature::IN_ORDER] {
        let mut victim = Victim::new(format);
        assert_eq!(victim.send(4), 4);
        victim.give_back(1, &[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
        victim.receive();
        assert_eq!(victim.pair.fault(), None, "what lies beyond is not looked at");
        assert_eq!(victim.pool.levels().free, 64 - 16);
        assert_eq!(victim.send(16), 16, "and is written anew");
    }
}

#[test]
fn frames_shorter_than_a_header_are_counted_and_the_queue_goes_on() {
    for format in FORMATS {
        let mut victim = Victim::new(format);
        victim.give_back(0, &[(0, 0), (1, 11), (2, 12), (3, 13)]);
        assert_eq!(victim.receive(), 1, "only the last holds a byte");
        assert_eq!((victim.pair.counters().rx_errors, victim.pair.fault()), (3, None));
        assert_eq!(victim.receive(), 0);
        let again = std::iter::from_fn(|| victim.queues[0].take()).count();
        assert_eq!(again, 4, "their buffers are posted again with the next poll");
    }
}

#[test]
fn merged_buffer_count_of_zero_or_more_than_there_are() {
    for format in FORMATS {
        for num_buffers in [0, 17, 65_535] {
            let mut victim = Victim::new(format | feature::MRG_RXBUF);
            victim.write_num_buffers(0, num_buffers);
            victim.give_back(0, &[(0, 72)]);
            assert_eq!(victim.receive(), 0);
            victim.stopped_with(QueueFault::BadNumBuffers { num_buffers, ready: 1 });
        }
    }
}

#[test]
fn merged_frame_whose_buffers_never_come_waits_without_spinning() {
    for format in FORMATS {
        let mut victim = Victim::new(format | feature::MRG_RXBUF);
        victim.write_num_buffers(0, 3);
        victim.give_back(0, &[(0, 256), (1, 256)]);
        for _ in 0..10 {
            assert_eq!(victim.receive(), 0);
        }
        assert_eq!(victim.pair.fault(), None);
        victim.give_back(0, &[(2, 10)]);
        assert_eq!(victim.receive(), 1, "complete now");
        assert_eq!(victim.pair.counters().rx_bytes, 256 - 12 + 256 + 10);
    }
}

#[test]
fn merged_frame_of_more_buffers_than_the_budget() {
    for format in FORMATS {
        let mut victim = Victim::new(format | feature::MRG_RXBUF);
        victim.write_num_buffers(0, 3);
        victim.give_back(0, &[(0, 256), (1, 256), (2, 10)]);
        let mut burst = Burst::new();
        assert_eq!(victim.pair.rx_burst(&victim.pool, &mut burst, 1), 1);
        assert_eq!(burst[0].pkt_len(), 256 - 12 + 256 + 10);
    }
}

#[test]
fn merged_frame_in_one_batch() {
    for format in IN_ORDER {
        let mut victim = Victim::new(format | feature::MRG_RXBUF);
        victim.write_num_buffers(0, 3);
        victim.queues[0].use_id(2, 10, 3, 3);
        assert_eq!(victim.receive(), 1);
        assert_eq!(victim.pair.counters().rx_bytes, 256 - 12 + 256 + 10);
    }
}

#[test]
fn merged_frame_with_a_piece_of_no_length_is_dropped_and_the_queue_stays_in_step() {
    for format in FORMATS {
        let mut victim = Victim::new(format | feature::MRG_RXBUF);
        victim.write_num_buffers(0, 2);
        victim.write_num_buffers(2, 1);
        victim.give_back(0, &[(0, 256), (1, 0), (2, 72)]);
        assert_eq!(victim.receive(), 1);
        assert_eq!((victim.pair.counters().rx_errors, victim.pair.fault()), (1, None));
    }
}

#[test]
fn device_without_version_1_is_refused_by_name() {
    let region = Region::new(RegionConfig { len_bytes: 4096, ..RegionConfig::default() }).unwrap();
    let hub = Hub::default();
    let config = OpenConfig {
        region: &region,
        hub: &hub,
        rx_descriptors: 8,
        tx_descriptors: 8,
        queue_pairs: 1,
        interrupts: false,
        data_room_bytes: 2048,
        offloads: false,
    };
    let legacy = Arc::new(Willing::new(feature::MAC, SIZE));
    let error = NetPort::open(identity(0), legacy, &config).err().unwrap().to_string();
    assert!(
        error.starts_with("device does not offer VERSION_1, it offers MAC; it is a legacy device"),
        "{error}"
    );
}

/// One thing a device may do, true or not.
#[derive(Clone, Debug)]
enum Deed {
    GiveBack(usize, u32, u32),
    /// Takes what was posted, and gives the n-th buffer it holds back, as it should, with those before it.
    Honest(usize, usize, u32),
    /// Goes on as if it had used so many.
    MoveIndex(usize, u16),
    Header(u16, u16),
    Want(usize, Option<u16>),
    /// A write somewhere into the memory it was given.
    Scribble(usize, u64),
    Poll,
    Send(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let queue = || 0_usize..2;
    prop_oneof![
        6 => (queue(), 0_u32..18, 0_u32..300).prop_map(|(q, id, len)| Deed::GiveBack(q, id, len)),
        1 => (queue(), any::<u32>(), any::<u32>()).prop_map(|(q, id, len)| Deed::GiveBack(q, id, len)),
        6 => (queue(), 0_usize..6, 0_u32..300).prop_map(|(q, n, len)| Deed::Honest(q, n, len)),
        1 => (queue(), 0_u16..=16).prop_map(|(q, by)| Deed::MoveIndex(q, by)),
        2 => (0_u16..16, 0_u16..5).prop_map(|(id, n)| Deed::Header(id, n)),
        1 => (queue(), prop::option::of(0_u16..16)).prop_map(|(q, ahead)| Deed::Want(q, ahead)),
        2 => (any::<usize>(), any::<u64>()).prop_map(|(at, value)| Deed::Scribble(at, value)),
        6 => Just(Deed::Poll),
        3 => (0_usize..20).prop_map(Deed::Send),
    ]
}

proptest! {
    /// Whatever the device does, also with the descriptors and rings that it should only read: no panic, no
    /// access outside, and every mbuf comes home after the reset.
    #[test]
    fn no_deed_of_the_device_harms_the_driver(
        format in prop::sample::select(&FORMATS[..]),
        mergeable in any::<bool>(),
        event_idx in any::<bool>(),
        deeds in prop::collection::vec(deed(), 0..200),
    ) {
        let also = [(mergeable, feature::MRG_RXBUF), (event_idx, feature::EVENT_IDX)];
        let features = also.iter().filter(|(on, _)| *on).fold(format, |features, (_, bit)| features | bit);
        let mut victim = Victim::new(features);
        let mut held: [Vec<Held>; 2] = [std::mem::take(&mut victim.buffers), Vec::new()];
        victim.buffers.clone_from(&held[0]);
        let mut scribbled = false;
        for deed in deeds {
            match deed {
                Deed::GiveBack(queue, id, len) => victim.give_back(queue, &[(id, len)]),
                // What it would take after that is anything.
                Deed::Honest(..) if scribbled => {}
                Deed::Honest(queue, most, len) => {
                    held[queue].extend(std::iter::from_fn(|| victim.queues[queue].take()));
                    let most = most.min(held[queue].len());
                    let batch: Vec<Held> = held[queue].drain(..most).collect();
                    victim.queues[queue].give_back_batch(&batch, len);
                }
                Deed::MoveIndex(queue, by) => victim.queues[queue].go_on(by),
                Deed::Header(id, num_buffers) => victim.write_num_buffers(id, num_buffers),
                Deed::Want(queue, ahead) => victim.queues[queue].want(ahead),
                Deed::Scribble(at, value) => {
                    scribbled = true;
                    let at = at % (victim.region.len_bytes() - 8);
                    // SAFETY: within the region; a device may write anywhere in it (the DMA contract).
                    unsafe { victim.region.base().add(at).cast::<u64>().write_unaligned(value) }
                }
                Deed::Poll => {
                    victim.receive();
                }
                Deed::Send(count) => {
                    victim.send(count);
                }
            }
        }
        let Victim { pair, pool, .. } = victim;
        drop(pair);
        prop_assert_eq!(pool.levels().free, pool.levels().mbufs);
    }
}
