//! A bad link in front of a perfect one.

use std::time::{Duration, Instant};

use crate::mem::{PageSize, Pool, PoolConfig, Region, RegionConfig};
use crate::port::{Burst, Hub, MAX_BURST, OpenConfig, QueueCounters, open};

/// What came out at the far end, as the numbers in the frames, and what was counted.
struct Outcome {
    numbers: Vec<u32>,
    damaged: usize,
    counters: QueueCounters,
    took: Duration,
}

/// Sends `count` frames from `loop:a` behind `netem:` to `loop:b`.
fn through(options: &str, count: u32) -> Outcome {
    let pool = PoolConfig { mbufs: 4096, ..PoolConfig::default() };
    let region = RegionConfig {
        len_bytes: pool.region_bytes() + (1 << 20),
        page: PageSize::Ordinary,
        numa_node: None,
    };
    let region = Region::new(region).unwrap();
    let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
    let before = pool.levels();
    let hub = Hub::default();
    let config = OpenConfig {
        region: &region,
        hub: &hub,
        rx_descriptors: 256,
        tx_descriptors: 256,
        queue_pairs: 1,
        interrupts: false,
        data_room_bytes: 2048,
        offloads: false,
    };
    let mut near = open(&format!("netem:{options}/loop:b"), &config).unwrap();
    let mut far = open("loop:a", &config).unwrap();
    let mut sender = near.take_queue_pairs().remove(0);
    let mut receiver = far.take_queue_pairs().remove(0);
    let (mut outgoing, mut incoming) = (Burst::new(), Burst::new());
    let mut outcome =
        Outcome { numbers: Vec::new(), damaged: 0, counters: QueueCounters::default(), took: Duration::ZERO };
    let started = Instant::now();
    let (mut sent, mut quiet_since) = (0, Instant::now());
    while sent < count || quiet_since.elapsed() < Duration::from_millis(50) {
        while sent < count && outgoing.len() < 16 {
            let mut frame = pool.alloc().unwrap();
            frame.append(60).unwrap().fill(0x55);
            frame.data_mut().unwrap()[14..18].copy_from_slice(&sent.to_be_bytes());
            outgoing.push(frame);
            sent += 1;
        }
        sender.tx_burst(&mut outgoing);
        sender.rx_burst(&pool, &mut incoming, MAX_BURST);
        assert!(incoming.is_empty(), "nobody sends that way");
        if receiver.rx_burst(&pool, &mut incoming, MAX_BURST) > 0 {
            (quiet_since, outcome.took) = (Instant::now(), started.elapsed());
        }
        for frame in incoming.drain(..) {
            let data = frame.data();
            let intact = data.len() == 60 && data[..14].iter().chain(&data[18..]).all(|byte| *byte == 0x55);
            outcome.damaged += usize::from(!intact);
            outcome.numbers.push(u32::from_be_bytes(data[14..18].try_into().unwrap()));
        }
    }
    outcome.counters = sender.counters();
    sender.quiesce();
    far.stop().unwrap();
    near.stop().unwrap();
    drop((sender, receiver, outgoing));
    drop((near, far));
    assert_eq!(pool.levels().free, before.free, "every mbuf came home");
    outcome
}

#[test]
fn a_link_without_impairments_changes_nothing() {
    let outcome = through("", 1000);
    assert_eq!(outcome.numbers, (0..1000).collect::<Vec<_>>());
    assert_eq!((outcome.damaged, outcome.counters.netem_lost), (0, 0));
}

#[test]
fn losses_are_counted_and_repeat_with_the_seed() {
    let first = through("loss=10%,seed=7", 5000);
    let lost = first.counters.netem_lost;
    assert!((400..600).contains(&lost), "{lost}");
    assert_eq!(first.numbers.len() as u64 + lost, 5000);
    assert!(first.numbers.is_sorted());
    assert_eq!(through("loss=10%,seed=7", 5000).numbers, first.numbers);
    assert_ne!(through("loss=10%,seed=8", 5000).numbers, first.numbers);
}

#[test]
fn reordered_frames_all_arrive_a_little_late() {
    let mut outcome = through("reorder=5%", 5000);
    let reordered = outcome.counters.netem_reordered;
    assert!((180..320).contains(&reordered), "{reordered}");
    let overtaken = outcome.numbers.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
    assert!(overtaken > reordered / 2 && overtaken <= reordered, "{overtaken} of {reordered}");
    let furthest = outcome.numbers.iter().enumerate().map(|(at, number)| at.abs_diff(*number as usize)).max();
    assert!(furthest.unwrap() <= 24, "{furthest:?}");
    outcome.numbers.sort_unstable();
    assert_eq!(outcome.numbers, (0..5000).collect::<Vec<_>>());
}

#[test]
fn a_held_frame_that_nothing_follows_arrives_all_the_same() {
    let outcome = through("reorder=100%", 3);
    assert_eq!(outcome.numbers.len(), 3);
    assert!(outcome.took >= Duration::from_millis(2), "{:?}", outcome.took);
}

#[test]
fn duplicates_arrive_twice() {
    let mut outcome = through("duplicate=10%", 5000);
    let twice = outcome.counters.netem_duplicated;
    assert!((400..600).contains(&twice), "{twice}");
    assert_eq!(outcome.numbers.len() as u64, 5000 + twice);
    outcome.numbers.dedup();
    assert_eq!(outcome.numbers, (0..5000).collect::<Vec<_>>());
}

#[test]
fn corrupted_frames_have_one_bit_wrong() {
    let outcome = through("corrupt=10%", 5000);
    let wrong = outcome.counters.netem_corrupted;
    assert!((400..600).contains(&wrong), "{wrong}");
    let numbers =
        outcome.numbers.iter().zip(0..).map(|(got, sent): (&u32, u32)| (got ^ sent).count_ones() as usize);
    assert_eq!((outcome.damaged + numbers.sum::<usize>()) as u64, wrong);
}

#[test]
fn a_delay_is_kept() {
    let outcome = through("delay=20ms,limit=4096", 100);
    assert_eq!(outcome.numbers, (0..100).collect::<Vec<_>>());
    assert!((20..200).contains(&outcome.took.as_millis()), "{:?}", outcome.took);
}

#[test]
fn a_full_link_makes_its_sender_wait_and_loses_nothing() {
    let outcome = through("delay=5ms,limit=8", 60);
    assert_eq!(outcome.numbers, (0..60).collect::<Vec<_>>());
    // At most 4 are offered at a time.
    assert!(outcome.took >= Duration::from_millis(5 * 60 / 8), "{:?}", outcome.took);
}
