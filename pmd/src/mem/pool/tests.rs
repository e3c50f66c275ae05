use std::sync::Arc;

use super::{Pool, PoolConfig, PoolError};
use crate::mem::{Mbuf, PageSize, Region, RegionConfig};

fn region(len_bytes: usize) -> Arc<Region> {
    Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap()
}

fn pool(mbufs: usize) -> Pool {
    let config = PoolConfig { mbufs, ..PoolConfig::default() };
    Pool::new(&region(config.region_bytes()), config).unwrap()
}

#[test]
fn exhausted_pool_says_none_and_recovers() {
    let home = pool(3).adopt().unwrap();
    let held: Vec<Mbuf> = home.alloc_bulk(5).collect();
    assert_eq!(held.len(), 3);
    assert!(home.alloc().is_none());
    drop(held);
    assert_eq!(home.levels().free, 3);
    assert!(home.alloc().is_some());
}

#[test]
fn bulk_that_is_not_consumed_stays_in_the_pool() {
    let home = pool(8).adopt().unwrap();
    let two: Vec<Mbuf> = home.alloc_bulk(6).take(2).collect();
    assert_eq!((two.len(), home.levels().free), (2, 6));
}

#[test]
fn foreign_frees_come_home_over_the_return_ring() {
    let home = pool(64).adopt().unwrap();
    for _ in 0..10 {
        let all: Vec<Mbuf> = home.alloc_bulk(64).collect();
        assert_eq!(all.len(), 64);
        std::thread::spawn(move || drop(all)).join().unwrap();
        assert_eq!(home.levels().free, 64);
    }
}

#[test]
fn second_home_is_refused_and_a_later_one_finds_all_mbufs() {
    let pool = pool(4);
    let home = pool.adopt().unwrap();
    assert!(matches!(pool.adopt().unwrap_err(), PoolError::Adopted));
    let other = pool.clone();
    std::thread::spawn(move || assert!(matches!(other.adopt().unwrap_err(), PoolError::Adopted)))
        .join()
        .unwrap();
    let held = home.alloc().unwrap();
    drop(home);
    drop(held); // no home now: through the ring
    let other = pool.clone();
    std::thread::spawn(move || assert_eq!(other.adopt().unwrap().alloc_bulk(9).count(), 4)).join().unwrap();
}

#[test]
fn mbuf_that_outlives_its_pool_stays_readable() {
    let mut mbuf = pool(2).adopt().unwrap().alloc().unwrap();
    mbuf.append(3).unwrap().copy_from_slice(b"abc");
    assert_eq!(mbuf.data(), b"abc"); // the pool's handles are gone, its memory is not
}

#[test]
fn out_of_range_configuration_is_named() {
    let region = region(4096);
    let check = |config, text: &str| {
        let error = Pool::new(&region, config).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    check(PoolConfig { mbufs: 0, ..Default::default() }, "mbufs is 0");
    check(PoolConfig { headroom_bytes: 12, ..Default::default() }, "headroom_bytes is 12");
    check(PoolConfig { data_room_bytes: 65_601, ..Default::default() }, "data_room_bytes is 65601");
    check(PoolConfig { mbufs: 100, ..Default::default() }, "packet memory is full");
}

#[test]
fn largest_data_room_is_usable_to_its_last_byte() {
    let config = PoolConfig { mbufs: 2, headroom_bytes: 4096, data_room_bytes: 65_600 };
    let home = Pool::new(&region(config.region_bytes()), config).unwrap().adopt().unwrap();
    let mut mbuf = home.alloc().unwrap();
    mbuf.append(65_600).unwrap()[65_599] = 7;
    assert_eq!((mbuf.tailroom(), mbuf.data()[65_599]), (0, 7));
}

#[test]
fn threads_that_pass_mbufs_around_lose_none() {
    let pool = pool(256);
    let home = pool.adopt().unwrap();
    let (to, from) = std::sync::mpsc::sync_channel::<Mbuf>(32);
    let foreign =
        std::thread::spawn(move || from.into_iter().map(|mbuf| mbuf.data()[0] as usize).sum::<usize>());
    let mut sum = 0;
    for round in 0..20_000_usize {
        let Some(mut mbuf) = home.alloc() else {
            std::thread::yield_now();
            continue;
        };
        mbuf.append(1).unwrap()[0] = u8::try_from(round % 251).unwrap();
        sum += round % 251;
        to.send(mbuf).unwrap();
    }
    drop(to);
    assert_eq!(foreign.join().unwrap(), sum);
    assert_eq!(home.levels().free, 256);
}
