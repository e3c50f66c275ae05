//! What an engine answers, typed. Fields that tables do not need are left out; unknown ones are passed over.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Deserialize;

/// The answer to `show`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    pub name: String,
    pub program: String,
    pub pid: u32,
    pub uptime_seconds: f64,
    pub runtime: Option<Vec<Core>>,
    pub ports: Option<Vec<Port>>,
    pub queues: Option<Vec<Queue>>,
    pub memory: Option<Memory>,
    pub drops: Option<Drops>,
    pub latency: Option<Latency>,
    pub config: Option<serde_json::Value>,
    pub counters: Option<BTreeMap<String, u64>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Core {
    pub lcore: usize,
    pub cpu: Option<usize>,
    pub silent: bool,
    pub run_ns: u64,
    pub busy_ns: u64,
    pub asleep_ns: u64,
    pub busy_cycles: u64,
    pub turns: u64,
    pub busy_turns: u64,
    pub bursts: u64,
    pub full_bursts: u64,
    pub packets: u64,
    pub sleeps: u64,
}

/// What queues and ports count.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Counted {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_nombuf: u64,
    pub rx_errors: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
    pub tx_lost: u64,
    pub tx_dropped: u64,
    pub netem_lost: u64,
}

impl Counted {
    /// Frames that never arrived where they should.
    pub fn dropped(&self) -> u64 {
        self.tx_dropped + self.tx_lost + self.netem_lost
    }

    /// Frames that were damaged, or could not be.
    pub fn errors(&self) -> u64 {
        self.rx_errors + self.tx_errors
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Port {
    pub port: usize,
    pub name: String,
    pub driver: String,
    pub mac: String,
    pub mtu: u16,
    pub link: String,
    pub queue_pairs: u16,
    pub rx_descriptors: u16,
    pub tx_descriptors: u16,
    pub fault: Option<String>,
    #[serde(flatten)]
    pub counted: Counted,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Queue {
    pub name: Option<String>,
    pub queue: u16,
    pub lcore: usize,
    pub tx_waiting: u64,
    pub tx_descriptors: Option<u16>,
    pub fault: Option<String>,
    #[serde(flatten)]
    pub counted: Counted,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Memory {
    pub region_bytes: u64,
    pub page_bytes: u64,
    pub numa_node: Option<u32>,
    pub data_room_bytes: u64,
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pool {
    pub name: String,
    pub lcore: usize,
    pub mbufs: u64,
    pub free: u64,
    pub in_use: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Drops {
    pub places: Vec<Place>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Place {
    #[serde(rename = "where")]
    pub place: String,
    pub reason: String,
    pub frames: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Latency {
    pub latency_ns: BTreeMap<String, Percentiles>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Percentiles {
    pub count: u64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
    /// Each value that was recorded, with its count; only if asked for.
    #[serde(default)]
    pub histogram: Vec<(u64, u64)>,
}

impl Percentiles {
    /// What was recorded since `before`, which it is a continuation of. An engine that lies gets clamped values.
    pub fn since(&self, before: &Percentiles) -> Percentiles {
        let mut interval = engine::latency::histogram();
        let earlier: BTreeMap<u64, u64> = before.histogram.iter().copied().collect();
        for (value, count) in &self.histogram {
            let new = count.saturating_sub(earlier.get(value).copied().unwrap_or(0));
            // Recording a value no times would still make it the largest.
            if new > 0 {
                interval.saturating_record_n(*value, new);
            }
        }
        Percentiles::of(&interval)
    }

    fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Percentiles {
            count: histogram.len(),
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
            histogram: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_what_was_recorded_in_it_and_nothing_else() {
        let with = |histogram: Vec<(u64, u64)>| Percentiles {
            histogram,
            ..Percentiles::of(&engine::latency::histogram())
        };
        let before = with(vec![(100, 5), (9_000, 1)]);
        let interval = with(vec![(100, 7), (200, 1), (9_000, 1)]).since(&before);
        assert_eq!((interval.count, interval.min, interval.p50, interval.max), (3, 100, 100, 200));
        assert_eq!((before.since(&before).count, before.since(&before).max), (0, 0));
    }
}
