//! A driver that lies to our device.

use std::sync::Arc;

use super::input::Input;
use super::{MOST_STEPS, POOL, SIZE, all_home, pool, receive, region, scribble, send};
use crate::mem::Region;
use crate::port::QueuePair;
use crate::virtio::attach::{GuestMemory, Publisher, Ring, hand_over};
use crate::virtio::ring::QueueMemory;
use crate::virtio::server::queue_pair;
use crate::virtio::spec::feature;
use crate::virtio::spec::split::Descriptor;
use crate::virtio::{packed, split};

/// Features that change what the device reads of the driver's words.
const FEATURES: [u64; 9] = [
    feature::RING_PACKED,
    feature::IN_ORDER,
    feature::EVENT_IDX,
    feature::INDIRECT_DESC,
    feature::MRG_RXBUF,
    feature::CSUM,
    feature::HOST_TSO4,
    feature::GUEST_CSUM,
    feature::GUEST_TSO4,
];

/// One queue as the driver writes it.
enum Written {
    Split(split::Areas),
    Packed(packed::Areas),
}

impl Written {
    fn new(memory: &QueueMemory) -> Self {
        let layout = memory.layout();
        let [descriptors, available, used] =
            [layout.descriptors, layout.available, layout.used].map(|iova| iova.0 as *mut u8);
        // SAFETY: carved from the driver's region, which the caller keeps.
        unsafe {
            if layout.packed {
                Written::Packed(packed::Areas::new(descriptors, available, used, layout.size))
            } else {
                Written::Split(split::Areas::new(descriptors, available, used, layout.size))
            }
        }
    }

    /// A descriptor: mostly one that makes sense.
    fn describe(&self, driver: &Region, input: &mut Input<'_>) {
        let at = input.u16();
        let address = match input.u8() {
            0 => u64::from(input.u32()) << 16,
            page => driver.iova().0 + u64::from(page) * 256,
        };
        let (len, flags, next) = (u32::from(input.u16()), input.u16(), input.u16());
        match self {
            Written::Split(areas) => {
                areas
                    .write_descriptor(at % areas.size(), Descriptor { address, len, flags: flags & 7, next });
            }
            Written::Packed(areas) => {
                let cursor = areas.cursor(at % areas.size(), flags & 0x10 != 0);
                areas.write_address(cursor, address);
                let flags = flags & 7 | cursor.available_flags();
                areas.write_tail(cursor, packed::Tail { len, id: next, flags });
            }
        }
    }

    /// Makes heads available, as many as the input says.
    fn offer(&self, input: &mut Input<'_>) {
        if let Written::Split(areas) = self {
            let mut index = areas.available_index();
            for _ in 0..input.u8() % 20 {
                areas.write_available(index, u16::from(input.u8()));
                index = index.wrapping_add(1);
            }
            areas.publish_available(index);
        }
    }
}

/// Our device, and a driver whose features, descriptors, rings and memory the bytes decide.
pub fn driver(data: &[u8]) {
    let mut input = Input::new(data);
    let driver = region(64 << 10);
    let ours = region(POOL.region_bytes());
    let pool = pool(&ours);
    let ((receive_queue, receive_follower), (transmit_queue, transmit_follower)) = (hand_over(), hand_over());
    let mut pair = queue_pair(receive_follower, transmit_follower);
    let publishers = [receive_queue, transmit_queue];
    // A driver comes, goes, and comes again in another shape.
    for _ in 0..3 {
        if input.is_empty() {
            break;
        }
        let chosen = feature::VERSION_1 | input.some_of(&FEATURES);
        let Some(written) = set_up(&driver, chosen, &publishers, &mut input) else { continue };
        work(&mut pair, &pool, &driver, &written, &mut input);
    }
    pair.quiesce();
    drop(pair);
    all_home(&pool);
}

fn set_up(
    driver: &Arc<Region>,
    features: u64,
    publishers: &[Publisher; 2],
    input: &mut Input<'_>,
) -> Option<[Written; 2]> {
    let packed = features & feature::RING_PACKED != 0;
    let size = 1 + u16::from(input.u8()) % SIZE;
    let size = if packed { size } else { size.next_power_of_two() };
    let mut queues = Vec::new();
    for publisher in publishers {
        // The region lasts for a few of them.
        let memory = QueueMemory::carve(driver, size, packed).ok()?;
        let mut ring = Ring::new(0, &memory.layout(), Arc::new(GuestMemory::of_region(driver))).ok()?;
        ring.features = features;
        publisher.publish(ring);
        queues.push(Written::new(&memory));
    }
    queues.try_into().ok()
}

fn work(
    pair: &mut dyn QueuePair,
    pool: &crate::mem::HomePool,
    driver: &Region,
    written: &[Written; 2],
    input: &mut Input<'_>,
) {
    for _ in 0..MOST_STEPS {
        let step = input.u8();
        let queue = &written[usize::from(step >> 7)];
        match step & 7 {
            // Also the end of the input: the driver goes.
            0 => return,
            1 => receive(pair, pool, 1 + usize::from(input.u8()) % 64),
            2 => {
                send(
                    pair,
                    pool,
                    usize::from(input.u8()) % 16,
                    1 + usize::from(input.u8()),
                    1 + usize::from(step >> 5 & 3),
                );
            }
            3 | 4 => queue.describe(driver, input),
            5 => queue.offer(input),
            6 => scribble(driver, input),
            _ => {
                let (_, _, _) = (pair.tx_room(), pair.tx_waiting(), pair.counters());
            }
        }
    }
}
