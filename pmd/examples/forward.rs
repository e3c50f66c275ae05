//! The driver alone, with no engine around it: two ports, one thread, frames from each to the other.
//!
//! ```text
//! forward PORT PORT SECONDS [--tx-first]
//! forward vfio:0000:00:03.0 vfio:0000:00:04.0 10 --tx-first
//! ```
//!
//! With `--tx-first` a burst of 64-byte frames leaves each port at the start, as testpmd does it: on a wire that
//! leads back they go round for ever.

use std::error::Error;
use std::time::{Duration, Instant};

use pmd::mem::{PoolConfig, RegionConfig};
use pmd::port::{Hub, Link, OpenConfig, region_bytes};
use pmd::{Burst, HomePool, Pool, QueuePair, Region, port};

const DESCRIPTORS: u16 = 256;
const BURST: usize = 32;

fn main() {
    if let Err(error) = run() {
        eprint!("forward: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            eprint!(": {cause}");
            source = cause.source();
        }
        eprintln!();
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [a, b, seconds, rest @ ..] = args.as_slice() else {
        return Err("usage: forward PORT PORT SECONDS [--tx-first]".into());
    };
    let seconds = Duration::from_secs_f64(seconds.parse()?);

    let pool = PoolConfig { mbufs: 2048, ..PoolConfig::default() };
    let len_bytes = pool.region_bytes() + 2 * region_bytes(DESCRIPTORS, DESCRIPTORS, 1);
    let region = Region::new(RegionConfig { len_bytes, ..RegionConfig::default() })?;
    let hub = Hub::default();
    let config = OpenConfig {
        region: &region,
        hub: &hub,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        queue_pairs: 1,
        interrupts: false,
        data_room_bytes: pool.data_room_bytes as usize,
        offloads: false,
    };
    let mut ports = [port::open(a, &config)?, port::open(b, &config)?];
    for port in &ports {
        println!("{}: {:x?} {:?}", port.name(), port.info(), port.link());
    }
    let home = Pool::new(&region, pool)?.adopt()?;
    let mut pairs: Vec<_> = ports.iter_mut().flat_map(|port| port.take_queue_pairs()).collect();
    if rest.iter().any(|word| word == "--tx-first") {
        while ports.iter().any(|port| port.link() == Link::Down) {
            std::thread::sleep(Duration::from_millis(10));
        }
        pairs.iter_mut().for_each(|pair| first_burst(pair.as_mut(), &home));
    }

    let started = Instant::now();
    let mut burst = Burst::new();
    while started.elapsed() < seconds {
        // One look at the clock for some thousand turns.
        for _ in 0..1000 {
            for (from, to) in [(0, 1), (1, 0)] {
                pairs[from].rx_burst(&home, &mut burst, BURST);
                pairs[to].tx_burst(&mut burst);
                burst.clear();
            }
        }
    }
    let elapsed = started.elapsed().as_secs_f64();
    let sent: u64 = pairs.iter().map(|pair| pair.counters().tx_packets).sum();
    for (port, pair) in ports.iter().zip(&pairs) {
        let counters: Vec<_> =
            pair.counters().iter().map(|(name, value)| format!("{name} {value}")).collect();
        println!("{}: {}", port.name(), counters.join(", "));
        pair.fault().map_or(Ok(()), Err)?;
    }
    println!("{:.0} packets/s sent by both ports", sent as f64 / elapsed);
    Ok(())
}

fn first_burst(pair: &mut dyn QueuePair, home: &HomePool) {
    let mut burst = Burst::new();
    for mut mbuf in home.alloc_bulk(BURST) {
        if let Ok(frame) = mbuf.append(60) {
            frame.fill(0);
            frame[0] = 0x02;
            frame[6] = 0x02;
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            burst.push(mbuf);
        }
    }
    pair.tx_burst(&mut burst);
}
