//! Frames between `vhost-user:` and `vhost-user-server:` in one process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pmd::mem::{PageSize, PoolConfig, RegionConfig};
use pmd::port::{Hub, Link, OpenConfig, Port, QueueCounters, open};
use pmd::{Burst, HomePool, MAX_BURST, Pool, Region};

fn open_in(region: &Arc<Region>, kind: &str, path: &Path) -> Box<dyn Port> {
    let config = OpenConfig {
        region,
        hub: &Hub::default(),
        rx_descriptors: 256,
        tx_descriptors: 256,
        queue_pairs: 1,
        interrupts: false,
        data_room_bytes: PoolConfig::default().data_room_bytes as usize,
        offloads: false,
    };
    open(&format!("{kind}:{}", path.display()), &config).unwrap()
}

fn memory() -> (Arc<Region>, Pool) {
    let pool = PoolConfig { mbufs: 2048, ..PoolConfig::default() };
    let len_bytes = pool.region_bytes() + (1 << 20);
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    let pool = Pool::new(&region, pool).unwrap();
    (region, pool)
}

fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Length and bytes follow from the number, so that whoever receives a frame can tell which it is.
fn contents(number: usize) -> Vec<u8> {
    let len = 60 + number * 7 % 1440;
    let mut bytes: Vec<u8> = (0..len).map(|at| (at + number).to_le_bytes()[0]).collect();
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The device side on a core of its own: sends back what comes, until told to stop.
fn echo(port: &mut dyn Port, pool: &Pool, stop: &AtomicBool) -> QueueCounters {
    let pool = pool.adopt().unwrap();
    let mut pair = port.take_queue_pairs().remove(0);
    let mut burst = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        pair.rx_burst(&pool, &mut burst, MAX_BURST);
        pair.tx_burst(&mut burst);
    }
    pair.quiesce();
    assert_eq!(pair.fault(), None);
    pair.counters()
}

/// Drives the other side: `count` frames there and back, in order and whole.
fn round_trips(pool: &HomePool, port: &mut dyn Port, count: usize) {
    let mut pair = port.take_queue_pairs().remove(0);
    let (mut sent, mut back) = (0, 0);
    let mut outgoing = Burst::new();
    let mut incoming = Burst::new();
    wait_for("all frames are back", || {
        while sent < count && sent - back < 128 && !outgoing.is_full() {
            let bytes = contents(sent);
            let mut mbuf = pool.alloc().unwrap();
            mbuf.append(bytes.len()).unwrap().copy_from_slice(&bytes);
            outgoing.push(mbuf);
            sent += 1;
        }
        pair.tx_burst(&mut outgoing);
        pair.rx_burst(pool, &mut incoming, MAX_BURST);
        for frame in incoming.drain(..) {
            assert_eq!(frame.data(), contents(back), "frame {back}");
            back += 1;
        }
        back == count
    });
    assert_eq!(pair.fault(), None);
    assert_eq!(pair.counters().tx_packets, count as u64);
}

#[test]
fn frames_come_back_whole_and_the_next_driver_is_served_like_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let (device_region, device_pool) = memory();
    let (driver_region, driver_pool) = memory();
    let driver_pool = driver_pool.adopt().unwrap();
    let mut device = open_in(&device_region, "vhost-user-server", &path);
    assert_eq!(device.link(), Link::Down);
    let stop = AtomicBool::new(false);
    let (counters, mut device) = std::thread::scope(|scope| {
        let echoing = scope.spawn(|| {
            let counters = echo(&mut *device, &device_pool, &stop);
            (counters, device)
        });
        for _ in 0..3 {
            let before = driver_pool.levels();
            let mut driver = open_in(&driver_region, "vhost-user", &path);
            assert_eq!(driver.link(), Link::Up);
            round_trips(&driver_pool, &mut *driver, 5000);
            driver.stop().unwrap();
            drop(driver);
            assert_eq!(driver_pool.levels(), before, "every mbuf came home");
        }
        stop.store(true, Ordering::Relaxed);
        echoing.join().unwrap()
    });
    assert_eq!((counters.rx_packets, counters.tx_packets), (15_000, 15_000));
    assert_eq!((counters.rx_errors, counters.tx_errors, counters.faults), (0, 0, 0));
    wait_for("the last driver is gone", || device.link() == Link::Down);
    device.stop().unwrap();
    assert!(!path.exists());
}

#[test]
fn driver_shows_that_its_backend_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let (region, _pool) = memory();
    let mut device = open_in(&region, "vhost-user-server", &path);
    let mut driver = open_in(&region, "vhost-user", &path);
    wait_for("the device sees its driver", || device.link() == Link::Up);
    assert_eq!(driver.link(), Link::Up);
    device.stop().unwrap();
    assert_eq!((driver.link(), device.link()), (Link::Down, Link::Down));
    driver.stop().unwrap();
}
