//! A run with fixed figures, for the tests of all output.

use std::time::Duration;

use engine::latency::{RESIDENCE, ROUND_TRIP, TURN};
use engine::stats::{CoreReport, CoreSnapshot, PortLabel, PortSnapshot, QueueReport, Snapshot};
use engine::tsc::{Ticks, Tsc};
use engine::{PortEvent, PortNews};
use pmd::port::QueueCounters;

use super::Summary;

fn queue(port: usize, rx_packets: u64, tx_packets: u64, tx_dropped: u64) -> QueueReport {
    let counters = QueueCounters {
        rx_packets,
        rx_bytes: rx_packets * 60,
        tx_packets,
        tx_bytes: tx_packets * 60,
        ..QueueCounters::default()
    };
    QueueReport { port, counters, tx_dropped, ..QueueReport::default() }
}

/// Two loops, two ports, one million frames back in two seconds, seven dropped.
pub fn snapshot() -> Snapshot {
    let mut generator = CoreReport::new(0, Some(0), &[(0, 0)], &[ROUND_TRIP, TURN]);
    generator.queues[0] = queue(0, 1_000_000, 1_000_007, 0);
    generator.counters.add("sent", 1_000_007);
    generator.counters.add("lost", 7);
    generator.counters.add("reordered", 0);
    generator.counters.add("duplicated", 0);
    for (ns, count) in [(1_800, 600_000), (2_500, 350_000), (6_200, 49_000), (31_000, 990), (1_400_000, 10)] {
        generator.latencies.record(0, ns, count);
        if count >= 32 {
            generator.latencies.record(1, ns / 4, count / 32);
        }
    }
    let mut forwarder = CoreReport::new(1, Some(1), &[(1, 0)], &[RESIDENCE, TURN]);
    forwarder.queues[0] = queue(1, 1_000_007, 1_000_000, 7);
    for (ns, count) in [(300, 900_000), (450, 99_000), (9_000, 1_007)] {
        forwarder.latencies.record(0, ns, count);
        forwarder.latencies.record(1, ns / 2, count / 32);
    }
    let cores: Vec<CoreSnapshot> = [generator, forwarder]
        .into_iter()
        .map(|mut total| {
            total.taken = Ticks(4_200_000_000);
            total.turns = 500_000;
            total.busy_turns = 400_000;
            total.busy_ticks = 3_150_000_000;
            total.bursts = 40_000;
            total.packets = 1_000_000;
            CoreSnapshot { interval: total.latencies.clone(), total, silent: false }
        })
        .collect();
    let port = |index: usize, name: &str| PortSnapshot {
        label: PortLabel { name: name.to_string(), driver: "virtio-net (in process)".to_string() },
        total: cores[index].total.queues[0],
    };
    Snapshot {
        elapsed: Duration::from_secs(2),
        interval: Duration::from_secs(1),
        tsc: Tsc::from_hz(2_100_000_000),
        ports: vec![port(0, "loop:a"), port(1, "loop:b")],
        cores,
        port_events: vec![PortNews {
            port: 1,
            name: "loop:b".to_string(),
            at: Duration::from_millis(1250),
            event: PortEvent::Gone { why: "its backend ended".to_string() },
        }],
    }
}

/// The same, summed up as `bywash demo` does.
pub fn summary() -> Summary {
    Summary::new("demo", snapshot(), &[0])
}

/// The same with requests on the first loop, 900,000 in two seconds.
pub fn requests() -> Summary {
    let mut snapshot = snapshot();
    let counters = &mut snapshot.cores[0].total.counters;
    for (name, count) in [
        ("requests", 900_000),
        ("measured_us", 2_000_000),
        ("connections", 64),
        ("refused", 3),
        ("errors", 3),
        ("sent_late", 12),
    ] {
        counters.add(name, count);
    }
    Summary::new("load", snapshot, &[0])
}
