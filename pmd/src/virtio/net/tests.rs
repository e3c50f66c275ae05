//! Both sides in one process: frames of every shape through a `loop:`, in both directions.

use super::SUPPORTED;
use crate::mem::{HomePool, Mbuf, PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::port::{Burst, OpenConfig, Port, PortEvent, QueuePair, open};
use crate::virtio::spec::feature;
use crate::virtio::transport::in_process::Hub;

/// A link with both ends open, and the pool that both sides allocate from.
struct Linked {
    pool: HomePool,
    driver: Box<dyn QueuePair>,
    device: Box<dyn QueuePair>,
    _ports: [Box<dyn Port>; 2],
    hub: Hub,
}

fn linked(options: &str, descriptors: u16, pool: PoolConfig) -> Linked {
    let len_bytes = pool.region_bytes() + (1 << 20);
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    let hub = Hub::default();
    let config = OpenConfig {
        region: &region,
        hub: &hub,
        rx_descriptors: descriptors,
        tx_descriptors: descriptors,
        queue_pairs: 1,
        interrupts: false,
        data_room_bytes: pool.data_room_bytes as usize,
        offloads: false,
    };
    let mut driver = open(&format!("loop:a{options}"), &config).unwrap();
    let mut device = open("loop:b", &config).unwrap();
    Linked {
        pool: Pool::new(&region, pool).unwrap().adopt().unwrap(),
        driver: driver.take_queue_pairs().remove(0),
        device: device.take_queue_pairs().remove(0),
        _ports: [driver, device],
        hub,
    }
}

fn frame(pool: &HomePool, len: usize, seed: usize) -> Mbuf {
    let mut head: Option<Mbuf> = None;
    let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + seed) as u8).collect();
    for piece in bytes.chunks(pool.data_room_bytes()) {
        let mut mbuf = pool.alloc().unwrap();
        mbuf.append(piece.len()).unwrap().copy_from_slice(piece);
        match &mut head {
            None => head = Some(mbuf),
            Some(head) => head.chain(mbuf),
        }
    }
    head.unwrap()
}

fn bytes(frame: &Mbuf) -> Vec<u8> {
    frame.segments().flat_map(|segment| segment.data().to_vec()).collect()
}

/// Sends frames of these lengths from one side to the other and compares; the other side polls as it likes.
fn passes(pool: &HomePool, from: &mut dyn QueuePair, to: &mut dyn QueuePair, lengths: &[usize]) {
    let mut received = Burst::new();
    to.rx_burst(pool, &mut received, 64); // posts the first buffers
    for (seed, &len) in lengths.iter().enumerate() {
        let sent = frame(pool, len, seed);
        let expected = bytes(&sent);
        let mut burst = Burst::from_iter([sent]);
        assert_eq!(from.tx_burst(&mut burst), 1, "{len} bytes");
        assert_eq!(to.rx_burst(pool, &mut received, 64), 1, "{len} bytes");
        assert_eq!(bytes(&received[0]), expected, "{len} bytes");
        received.clear();
        from.rx_burst(pool, &mut received, 64); // reclaims
    }
    assert_eq!(to.counters().rx_packets, lengths.len() as u64);
    assert_eq!(to.counters().rx_bytes, lengths.iter().sum::<usize>() as u64);
    assert_eq!((from.fault(), to.fault()), (None, None));
}

#[test]
fn frames_of_every_length_pass_from_driver_to_device() {
    let Linked { pool, mut driver, mut device, _ports, .. } = linked("", 64, PoolConfig::default());
    let lengths: Vec<usize> = (1..=2048).collect();
    passes(&pool, &mut *driver, &mut *device, &lengths);
}

#[test]
fn frames_of_every_length_pass_from_device_to_driver() {
    let Linked { pool, mut driver, mut device, _ports, .. } = linked("", 64, PoolConfig::default());
    let lengths: Vec<usize> = (1..=2036).collect();
    passes(&pool, &mut *device, &mut *driver, &lengths);
}

#[test]
fn chained_frames_pass_both_ways_over_merged_buffers() {
    let small = PoolConfig { mbufs: 2048, data_room_bytes: 256, ..PoolConfig::default() };
    let lengths: Vec<usize> = (1..=2000).step_by(13).chain([244, 245, 256, 257, 500, 9000]).collect();
    let Linked { pool, mut driver, mut device, _ports, .. } = linked(",mrg_rxbuf=on", 64, small);
    passes(&pool, &mut *driver, &mut *device, &lengths);
    let Linked { pool, mut driver, mut device, _ports, .. } = linked(",mrg_rxbuf=on", 64, small);
    passes(&pool, &mut *device, &mut *driver, &lengths);
}

#[test]
fn frame_longer_than_any_buffer_is_dropped_and_counted_without_merging() {
    let small = PoolConfig { mbufs: 256, data_room_bytes: 256, ..PoolConfig::default() };
    let Linked { pool, mut driver, mut device, _ports, .. } = linked(",mrg_rxbuf=off", 64, small);
    let mut burst = Burst::new();
    driver.rx_burst(&pool, &mut burst, 64);
    burst.push(frame(&pool, 245, 0));
    burst.push(frame(&pool, 244, 0));
    assert_eq!(device.tx_burst(&mut burst), 2);
    assert_eq!((device.counters().tx_errors, device.counters().tx_packets), (1, 1));
    assert_eq!(driver.rx_burst(&pool, &mut burst, 64), 1);
    assert_eq!(burst[0].len(), 244);
}

#[test]
fn shared_frames_are_sent_with_a_header_of_their_own() {
    let Linked { pool, mut driver, mut device, _ports, .. } = linked("", 64, PoolConfig::default());
    let original = frame(&pool, 100, 3);
    let clone = original.clone_ref(&pool).unwrap();
    let expected = bytes(&original);
    let mut burst = Burst::from_iter([original, clone]);
    assert_eq!(driver.tx_burst(&mut burst), 2);
    assert_eq!(device.rx_burst(&pool, &mut burst, 64), 2);
    assert_eq!((bytes(&burst[0]), bytes(&burst[1])), (expected.clone(), expected));
}

#[test]
fn full_queue_takes_what_fits_and_leaves_the_rest_in_order() {
    let Linked { pool, mut driver, mut device, _ports, .. } = linked("", 16, PoolConfig::default());
    let mut burst: Burst = (0..20).map(|seed| frame(&pool, 60, seed)).collect();
    assert_eq!(driver.tx_room(), 16);
    assert_eq!(driver.tx_burst(&mut burst), 16);
    assert_eq!((burst.len(), driver.tx_room(), driver.tx_waiting()), (4, 0, 16));
    assert_eq!(bytes(&burst[0]), bytes(&frame(&pool, 60, 16)));
    let mut received = Burst::new();
    assert_eq!(device.rx_burst(&pool, &mut received, 10), 10);
    assert_eq!(driver.tx_waiting(), 6);
    assert_eq!(driver.tx_burst(&mut burst), 4);
    assert_eq!(device.rx_burst(&pool, &mut received, 64), 10);
    for (seed, got) in received.iter().enumerate() {
        assert_eq!(bytes(got), bytes(&frame(&pool, 60, seed)));
    }
}

#[test]
fn a_burst_of_long_frames_ends_before_there_are_too_many_bytes_of_them() {
    let Linked { pool, mut driver, mut device, _ports, .. } =
        linked(",mrg_rxbuf=on", 256, PoolConfig::default());
    let mut received = Burst::new();
    assert_eq!(driver.rx_burst(&pool, &mut received, 64), 0, "posts its buffers");
    let mut burst: Burst = (0..4).map(|seed| frame(&pool, 60_000, seed)).collect();
    assert_eq!(device.tx_burst(&mut burst), 4);
    assert_eq!(driver.rx_burst(&pool, &mut received, 64), 3, "128 KiB are reached with the third");
    assert_eq!(driver.rx_burst(&pool, &mut received, 64), 1);
    for (seed, got) in received.iter().enumerate() {
        assert_eq!(bytes(got), bytes(&frame(&pool, 60_000, seed)));
    }
}

#[test]
fn empty_pool_is_counted_and_receiving_resumes_when_mbufs_come_back() {
    let few = PoolConfig { mbufs: 8, ..PoolConfig::default() };
    let Linked { pool, mut driver, mut device, _ports, .. } = linked("", 64, few);
    let mut burst = Burst::new();
    driver.rx_burst(&pool, &mut burst, 64);
    assert_eq!(driver.counters().rx_nombuf, 1);
    assert!(pool.alloc().is_none());
    // The driver could post 8 of 64 buffers.
    assert_eq!((device.tx_room(), device.tx_waiting()), (8, 56));
    device.quiesce();
    drop(driver);
    assert_eq!(pool.levels().free, 8);
}

#[test]
fn empty_frame_is_an_error_not_a_packet() {
    let Linked { pool, mut driver, device: _device, _ports, .. } = linked("", 64, PoolConfig::default());
    let mut burst = Burst::from_iter([pool.alloc().unwrap()]);
    assert_eq!(driver.tx_burst(&mut burst), 1);
    assert_eq!((driver.counters().tx_errors, driver.counters().tx_packets), (1, 0));
}

#[test]
fn everything_comes_home_when_ports_stop() {
    let Linked { pool, mut driver, mut device, _ports, .. } = linked("", 64, PoolConfig::default());
    let mut burst: Burst = (0..30).map(|seed| frame(&pool, 60, seed)).collect();
    driver.tx_burst(&mut burst);
    device.rx_burst(&pool, &mut burst, 10);
    driver.rx_burst(&pool, &mut Burst::new(), 64);
    device.quiesce();
    let [mut driver_port, mut device_port] = _ports;
    driver_port.stop().unwrap();
    device_port.stop().unwrap();
    assert_eq!(device.rx_burst(&pool, &mut burst, 64), 0);
    drop((driver, device, burst));
    assert_eq!(pool.levels().free, pool.levels().mbufs);
}

#[test]
fn device_that_still_holds_the_queues_keeps_the_driver_waiting_then_says_so() {
    let Linked { pool, driver, mut device, _ports, .. } = linked("", 64, PoolConfig::default());
    assert_eq!(device.rx_burst(&pool, &mut Burst::new(), 64), 0); // now it holds them, and polls no more
    let [mut driver_port, _device_port] = _ports;
    let error = driver_port.stop().unwrap_err().to_string();
    assert!(error.contains("did not let its queues go within 1000 ms"), "{error}");
    drop(device);
    driver_port.stop().unwrap();
    drop(driver);
    assert_eq!(pool.levels().free, pool.levels().mbufs);
}

/// Every kind of virtqueue that our driver has, in combination.
fn every_kind(also: &str) -> Vec<String> {
    let bits = [feature::RING_PACKED, feature::IN_ORDER, feature::EVENT_IDX, feature::INDIRECT_DESC];
    let bits: Vec<u64> = bits.into_iter().filter(|bit| SUPPORTED & bit != 0).collect();
    let option = |bit: &u64, on| format!(",{}={}", feature::names(*bit).to_lowercase(), u8::from(on));
    (0..1 << bits.len())
        .map(|kind: usize| {
            let options = bits.iter().enumerate().map(|(at, bit)| option(bit, kind >> at & 1 == 1));
            options.chain([also.to_owned()]).collect()
        })
        .collect()
}

#[test]
fn frames_pass_both_ways_over_every_kind_of_virtqueue() {
    let lengths: Vec<usize> = (1..=2036).step_by(7).collect();
    for options in every_kind("") {
        for size in [64, 50] {
            let Linked { pool, mut driver, mut device, _ports, .. } =
                linked(&options, size, PoolConfig::default());
            passes(&pool, &mut *driver, &mut *device, &lengths);
            let Linked { pool, mut driver, mut device, _ports, .. } =
                linked(&options, size, PoolConfig::default());
            passes(&pool, &mut *device, &mut *driver, &lengths);
        }
    }
}

#[test]
fn chained_frames_pass_both_ways_over_merged_buffers_of_every_kind_of_virtqueue() {
    let small = PoolConfig { mbufs: 2048, data_room_bytes: 256, ..PoolConfig::default() };
    let lengths: Vec<usize> = (1..=2000).step_by(29).chain([244, 245, 256, 257, 500, 9000]).collect();
    for options in every_kind(",mrg_rxbuf=on") {
        let Linked { pool, mut driver, mut device, _ports, .. } = linked(&options, 64, small);
        passes(&pool, &mut *driver, &mut *device, &lengths);
        let Linked { pool, mut driver, mut device, _ports, .. } = linked(&options, 64, small);
        passes(&pool, &mut *device, &mut *driver, &lengths);
    }
}

#[test]
fn an_announcement_is_told_once_and_the_device_learns_that_it_was() {
    let told = |linked: &mut Linked| {
        let mut told = Vec::new();
        linked._ports[0].events(&mut |event| told.push(event));
        told
    };
    for options in ["", ",ring_packed=on"] {
        let mut linked = linked(options, 16, PoolConfig::default());
        assert_eq!(told(&mut linked), []);
        linked.hub.ask_to_announce("");
        assert_eq!(told(&mut linked), [PortEvent::Announce]);
        assert!(!linked.hub.asks_to_announce(""), "it was told");
        assert_eq!(told(&mut linked), []);
    }
    let mut linked = linked(",guest_announce=off", 16, PoolConfig::default());
    linked.hub.ask_to_announce("");
    assert_eq!(told(&mut linked), [], "it was not negotiated");
}
