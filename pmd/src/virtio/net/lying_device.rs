//! A device that lies: every rule of the used ring and the header broken, one at a time and at random. The queue
//! stops with the fault's name, the counter rises, nothing panics or spins, and every mbuf comes home.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{Identity, NetPort};
use crate::mem::{HomePool, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::port::{Burst, Hub, OpenConfig, Port, QueueFault, QueuePair};
use crate::virtio::spec::net::HEADER_BYTES;
use crate::virtio::spec::split::{Descriptor, UsedElement};
use crate::virtio::spec::{feature, status};
use crate::virtio::split::Areas;
use crate::virtio::transport::{Notifier, RingLayout, Transport, TransportError};

const SIZE: u16 = 16;

/// A transport whose device is the test.
#[derive(Default)]
struct TestDevice {
    layouts: Mutex<Vec<RingLayout>>,
    status: Mutex<u8>,
    offered: u64,
}

impl Transport for TestDevice {
    fn device_features(&self) -> Result<u64, TransportError> {
        Ok(self.offered)
    }
    fn set_driver_features(&self, _features: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn status(&self) -> Result<u8, TransportError> {
        Ok(*self.status.lock().unwrap())
    }
    fn set_status(&self, status: u8) -> Result<(), TransportError> {
        *self.status.lock().unwrap() |= status;
        Ok(())
    }
    fn reset(&self) -> Result<(), TransportError> {
        *self.status.lock().unwrap() = 0;
        Ok(())
    }
    fn read_config(&self, _offset: usize, bytes: &mut [u8]) -> Result<(), TransportError> {
        bytes.fill(0);
        Ok(())
    }
    fn queue_count(&self) -> Result<u16, TransportError> {
        Ok(2)
    }
    fn max_queue_size(&self, _queue: u16) -> Result<u16, TransportError> {
        Ok(SIZE)
    }
    fn enable_queue(&self, _queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError> {
        self.layouts.lock().unwrap().push(*layout);
        Ok(Notifier::Polled)
    }
}

/// A driver on a device that the test plays: receive queue 0, transmit queue 1.
struct Victim {
    // Dropped in this order: the queue pair needs the rest.
    pair: Box<dyn QueuePair>,
    _port: NetPort,
    pool: HomePool,
    queues: [Areas; 2],
    region: Arc<Region>,
}

impl Victim {
    fn new(mergeable: bool) -> Self {
        let pool = PoolConfig { mbufs: 64, headroom_bytes: 128, data_room_bytes: 256 };
        let len_bytes = pool.region_bytes() + (64 << 10);
        let region =
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
        let merging = if mergeable { feature::MRG_RXBUF } else { 0 };
        let device = Arc::new(TestDevice { offered: feature::VERSION_1 | merging, ..TestDevice::default() });
        let (hub, data_room_bytes) = (Hub::default(), 256);
        let config = OpenConfig {
            region: &region,
            hub: &hub,
            rx_descriptors: SIZE,
            tx_descriptors: SIZE,
            queue_pairs: 1,
            data_room_bytes,
            offloads: false,
        };
        let identity =
            Identity { name: "test".into(), driver: "test", mac: [2, 0, 0, 0, 0, 1], with: 0, without: 0 };
        let mut port = NetPort::open(identity, Arc::clone(&device) as _, &config).unwrap();
        assert_ne!(device.status().unwrap() & status::DRIVER_OK, 0);
        let layouts = device.layouts.lock().unwrap();
        // SAFETY: carved from the region by the driver; the test bed keeps the region.
        let queues = [0, 1].map(|queue: usize| unsafe {
            let RingLayout { size, descriptors, available, used, .. } = layouts[queue];
            Areas::new(descriptors.0 as *mut u8, available.0 as *mut u8, used.0 as *mut u8, size)
        });
        let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
        let mut victim = Self {
            pair: port.take_queue_pairs().remove(0),
            _port: port,
            pool,
            queues,
            region: region.clone(),
        };
        assert_eq!(victim.receive(), 0);
        assert_eq!(victim.queues[0].available_index(), SIZE, "all receive buffers are posted");
        victim
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

    /// Gives `elements` back on queue `queue` and moves the used index by as many.
    fn give_back(&self, queue: usize, elements: &[(u32, u32)]) {
        let areas = &self.queues[queue];
        let mut index = areas.used_index();
        for &(id, len) in elements {
            areas.write_used(index, UsedElement { id, len });
            index = index.wrapping_add(1);
        }
        areas.publish_used(index);
    }

    /// Writes the header of the receive buffer `id`, as a device would.
    fn write_num_buffers(&self, id: u16, num_buffers: u16) {
        let Descriptor { address, len, .. } = self.queues[0].read_descriptor(id);
        assert!(usize::try_from(len).unwrap() >= HEADER_BYTES);
        // SAFETY: the address of a posted buffer of at least 12 bytes; the test is the device.
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

#[test]
fn used_id_beyond_the_queue() {
    let mut victim = Victim::new(false);
    victim.give_back(0, &[(0, 72), (16, 72)]);
    assert_eq!(victim.receive(), 1, "what came before the lie is good");
    victim.stopped_with(QueueFault::UsedIdOutOfRange { id: 16, size: 16 });
    let mut victim = Victim::new(false);
    victim.give_back(0, &[(u32::MAX, 72)]);
    assert_eq!(victim.receive(), 0);
    victim.stopped_with(QueueFault::UsedIdOutOfRange { id: u32::MAX, size: 16 });
}

#[test]
fn used_id_given_back_twice() {
    let mut victim = Victim::new(false);
    victim.give_back(0, &[(3, 72), (3, 72)]);
    assert_eq!(victim.receive(), 1);
    victim.stopped_with(QueueFault::UsedIdNotOutstanding { id: 3 });
}

#[test]
fn transmit_id_that_was_never_sent() {
    let mut victim = Victim::new(false);
    assert_eq!(victim.send(4), 4);
    victim.give_back(1, &[(0, 0), (9, 0)]);
    victim.receive(); // an idle poll reclaims
    victim.stopped_sending_with(QueueFault::UsedIdNotOutstanding { id: 9 });
}

#[test]
fn used_length_beyond_the_buffer() {
    let mut victim = Victim::new(false);
    victim.give_back(0, &[(0, 256), (1, 257)]);
    assert_eq!(victim.receive(), 1);
    victim.stopped_with(QueueFault::UsedLenTooLong { len: 257, posted: 256 });
}

#[test]
fn used_length_of_a_transmitted_buffer_is_ignored() {
    let mut victim = Victim::new(false);
    assert_eq!(victim.send(2), 2);
    victim.give_back(1, &[(0, u32::MAX), (1, 5)]);
    victim.receive();
    assert_eq!(victim.pair.fault(), None);
    assert_eq!(victim.pool.levels().free, 64 - 16);
}

#[test]
fn used_index_that_jumps() {
    for jump in [17, 1000, 32_768, 65_535] {
        let mut victim = Victim::new(false);
        victim.queues[0].publish_used(jump);
        assert_eq!(victim.receive(), 0);
        victim.stopped_with(QueueFault::UsedIndexJump { moved: jump, outstanding: 16 });
    }
    let mut victim = Victim::new(false);
    assert_eq!(victim.send(4), 4);
    victim.queues[1].publish_used(5);
    victim.receive();
    victim.stopped_sending_with(QueueFault::UsedIndexJump { moved: 5, outstanding: 4 });
}

#[test]
fn frames_shorter_than_a_header_are_counted_and_the_queue_goes_on() {
    let mut victim = Victim::new(false);
    victim.give_back(0, &[(0, 0), (1, 11), (2, 12), (3, 13)]);
    assert_eq!(victim.receive(), 1, "only the last holds a byte");
    assert_eq!((victim.pair.counters().rx_errors, victim.pair.fault()), (3, None));
    assert_eq!(victim.queues[0].available_index(), SIZE + 4, "their buffers are posted again");
}

#[test]
fn merged_buffer_count_of_zero_or_more_than_there_are() {
    for num_buffers in [0, 17, 65_535] {
        let mut victim = Victim::new(true);
        victim.write_num_buffers(0, num_buffers);
        victim.give_back(0, &[(0, 72)]);
        assert_eq!(victim.receive(), 0);
        victim.stopped_with(QueueFault::BadNumBuffers { num_buffers, ready: 1 });
    }
}

#[test]
fn merged_frame_whose_buffers_never_come_waits_without_spinning() {
    let mut victim = Victim::new(true);
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

#[test]
fn merged_frame_with_a_piece_of_no_length_is_dropped_and_the_queue_stays_in_step() {
    let mut victim = Victim::new(true);
    victim.write_num_buffers(0, 2);
    victim.write_num_buffers(2, 1);
    victim.give_back(0, &[(0, 256), (1, 0), (2, 72)]);
    assert_eq!(victim.receive(), 1);
    assert_eq!((victim.pair.counters().rx_errors, victim.pair.fault()), (1, None));
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
        data_room_bytes: 2048,
        offloads: false,
    };
    let identity = Identity { name: "test".into(), driver: "test", mac: [2; 6], with: 0, without: 0 };
    let legacy = Arc::new(TestDevice { offered: feature::MAC, ..TestDevice::default() });
    let error = NetPort::open(identity, legacy, &config).err().unwrap().to_string();
    assert!(
        error.starts_with("device does not offer VERSION_1, it offers MAC; it is a legacy device"),
        "{error}"
    );
}

/// One thing a device may do, true or not.
#[derive(Clone, Debug)]
enum Deed {
    GiveBack(usize, u32, u32),
    MoveIndex(usize, u16),
    Header(u16, u16),
    Flags(usize, u16),
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
        1 => (queue(), any::<u16>()).prop_map(|(q, by)| Deed::MoveIndex(q, by)),
        2 => (0_u16..16, 0_u16..5).prop_map(|(id, n)| Deed::Header(id, n)),
        1 => (queue(), any::<u16>()).prop_map(|(q, flags)| Deed::Flags(q, flags)),
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
        mergeable in any::<bool>(),
        deeds in prop::collection::vec(deed(), 0..200),
    ) {
        let mut victim = Victim::new(mergeable);
        for deed in deeds {
            match deed {
                Deed::GiveBack(queue, id, len) => victim.give_back(queue, &[(id, len)]),
                Deed::MoveIndex(queue, by) => {
                    let areas = &victim.queues[queue];
                    areas.publish_used(areas.used_index().wrapping_add(by));
                }
                Deed::Header(id, num_buffers) => {
                    // Only where the descriptor still is what the driver wrote.
                    let Descriptor { address, .. } = victim.queues[0].read_descriptor(id);
                    let base = victim.region.iova().0;
                    if (base..base + victim.region.len_bytes() as u64 - 12).contains(&address) {
                        victim.write_num_buffers_at(address, num_buffers);
                    }
                }
                Deed::Flags(queue, flags) => victim.queues[queue].set_used_flags(flags),
                Deed::Scribble(at, value) => {
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

impl Victim {
    fn write_num_buffers_at(&self, address: u64, num_buffers: u16) {
        // SAFETY: the caller checked that the address and the 12 bytes behind it lie in the region.
        unsafe { (address as *mut u8).add(HEADER_BYTES - 2).cast::<u16>().write_unaligned(num_buffers) }
    }
}
