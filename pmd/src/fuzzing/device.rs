//! A device that lies to our driver.

use std::sync::Arc;

use super::input::Input;
use super::{MOST_STEPS, POOL, SIZE, all_home, pool, receive, region, scribble, send};
use crate::port::{Hub, OpenConfig, Port};
use crate::virtio::net::{Identity, NetPort};
use crate::virtio::ring::played::Played;
use crate::virtio::spec::feature;
use crate::virtio::transport::willing::Willing;

/// Features that change what the driver reads of the device's words.
const FEATURES: [u64; 8] = [
    feature::RING_PACKED,
    feature::IN_ORDER,
    feature::EVENT_IDX,
    feature::MRG_RXBUF,
    feature::GUEST_CSUM,
    feature::GUEST_TSO4,
    feature::CSUM,
    feature::HOST_TSO4,
];

/// Our driver, and a device whose features, used elements, headers and memory the bytes decide.
pub fn device(data: &[u8]) {
    let mut input = Input::new(data);
    let chosen = input.some_of(&FEATURES);
    let size = 1 + u16::from(input.u8()) % SIZE;
    let region = region(POOL.region_bytes() + (64 << 10));
    let willing = Arc::new(Willing::new(feature::VERSION_1 | chosen, size));
    let identity = Identity {
        name: "fuzzed".into(),
        driver: "fuzzed",
        mac: [2; 6],
        with: chosen,
        ..Identity::default()
    };
    let config = OpenConfig {
        region: &region,
        hub: &Hub::default(),
        rx_descriptors: size,
        tx_descriptors: size,
        queue_pairs: 1,
        interrupts: false,
        data_room_bytes: POOL.data_room_bytes as usize,
        offloads: true,
    };
    // Features that make no sense together are refused.
    let Ok(mut port) = NetPort::open(identity, Arc::clone(&willing) as _, &config) else { return };
    let pool = pool(&region);
    let mut pairs = port.take_queue_pairs();
    let layouts = willing.layouts();
    let mut played =
        [0, 1].map(|queue: usize| Played::new(&layouts[queue], 0, chosen & feature::EVENT_IDX != 0));
    let pair = &mut *pairs[0];
    // Further than around the ring it cannot go on; what it says of itself is for `scribble`.
    let around = |count: u16| count % (size + 1);
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        let queue = &mut played[usize::from(step >> 7)];
        match step & 7 {
            0 => receive(pair, &pool, 1 + usize::from(input.u8()) % 64),
            1 => send(pair, &pool, usize::from(input.u8()) % 32, 60, 1 + usize::from(input.u8()) % 3),
            2 => queue.use_id(u32::from(input.u8()), u32::from(input.u16()), 1, 1),
            3 => queue.use_id(input.u32(), input.u32(), input.u16(), around(u16::from(input.u8()))),
            4 => queue.go_on(around(u16::from(input.u8()))),
            5 => queue.want(Some(around(input.u16()))),
            6 => scribble(&region, &mut input),
            _ => {
                let (_, _, _) = (pair.tx_room(), pair.tx_waiting(), pair.counters());
            }
        }
    }
    drop(pairs);
    drop(port);
    all_home(&pool);
}
