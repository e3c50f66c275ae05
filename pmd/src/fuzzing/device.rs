//! A device that lies to our driver.

use std::sync::{Arc, Mutex};

use super::input::Input;
use super::{MOST_STEPS, POOL, SIZE, all_home, pool, receive, region, scribble, send};
use crate::port::{Hub, OpenConfig, Port};
use crate::virtio::net::{Identity, NetPort};
use crate::virtio::ring::played::Played;
use crate::virtio::spec::feature;
use crate::virtio::transport::{Notifier, RingLayout, Transport, TransportError};

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

/// A transport that agrees to everything.
struct Willing {
    offered: u64,
    size: u16,
    status: Mutex<u8>,
    layouts: Mutex<Vec<RingLayout>>,
}

impl Transport for Willing {
    fn device_features(&self) -> Result<u64, TransportError> {
        Ok(self.offered)
    }
    fn set_driver_features(&self, _features: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn status(&self) -> Result<u8, TransportError> {
        Ok(*self.status.lock().expect("no panic so far"))
    }
    fn set_status(&self, status: u8) -> Result<(), TransportError> {
        *self.status.lock().expect("no panic so far") |= status;
        Ok(())
    }
    fn reset(&self) -> Result<(), TransportError> {
        *self.status.lock().expect("no panic so far") = 0;
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
        Ok(self.size)
    }
    fn enable_queue(&self, _queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError> {
        self.layouts.lock().expect("no panic so far").push(*layout);
        Ok(Notifier::Polled)
    }
}

/// Our driver, and a device whose features, used elements, headers and memory the bytes decide.
pub fn device(data: &[u8]) {
    let mut input = Input::new(data);
    let chosen = input.some_of(&FEATURES);
    let size = 1 + u16::from(input.u8()) % SIZE;
    let region = region(POOL.region_bytes() + (64 << 10));
    let willing = Arc::new(Willing {
        offered: feature::VERSION_1 | chosen,
        size,
        status: Mutex::default(),
        layouts: Mutex::default(),
    });
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
    let layouts = willing.layouts.lock().expect("no panic so far").clone();
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
