//! What a report shows over time, collected while a run lasts; bounded, however long that is.

use engine::latency::Latencies;
use engine::stats::{PortSnapshot, Snapshot};

use crate::hist::timeline::{INTERVALS, Interval, Timeline};
use crate::output::REQUESTS;

/// The intervals of a run so far.
#[derive(Debug, Default)]
pub struct Recorder {
    result_ports: Vec<usize>,
    timelines: Vec<(&'static str, Timeline)>,
    /// End of an interval in seconds, and what there was since the start.
    counts: Vec<Counts>,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    end: f64,
    packets: u64,
    requests: u64,
}

impl Recorder {
    /// Nothing yet; `result_ports` are those whose received frames are the result.
    #[must_use]
    pub fn new(result_ports: &[usize]) -> Recorder {
        Recorder { result_ports: result_ports.to_vec(), ..Recorder::default() }
    }

    /// Adds the interval that ends with `snapshot`. Allocates; at most [`INTERVALS`] are kept.
    pub fn add(&mut self, snapshot: &Snapshot) {
        let mut interval = Latencies::new(&[]);
        snapshot.cores.iter().for_each(|core| interval.merge(&core.interval));
        let start = snapshot.elapsed.saturating_sub(snapshot.interval);
        for (name, histogram) in interval.iter().filter(|(_, histogram)| !histogram.is_empty()) {
            let at = self.timelines.iter().position(|(have, _)| *have == name).unwrap_or_else(|| {
                self.timelines.push((name, Timeline::default()));
                self.timelines.len() - 1
            });
            self.timelines[at].1.push(Interval::new(start, snapshot.interval, histogram));
        }
        let is_result = |port: &&PortSnapshot| self.result_ports.contains(&port.total.port);
        let packets =
            snapshot.ports.iter().filter(is_result).map(|port| port.total.counters.rx_packets).sum();
        let requests = snapshot.cores.iter().map(|core| core.total.counters.get(REQUESTS)).sum();
        if self.counts.len() == INTERVALS {
            // Of two neighbours the later one knows what both counted.
            self.counts = self.counts.chunks(2).map(|two| two[two.len() - 1]).collect();
        }
        self.counts.push(Counts { end: snapshot.elapsed.as_secs_f64(), packets, requests });
    }

    /// The intervals of the latency `name`; none if it was never recorded.
    #[must_use]
    pub fn timeline(&self, name: &str) -> Timeline {
        let found = self.timelines.iter().find(|(have, _)| *have == name);
        found.map(|(_, timeline)| timeline.clone()).unwrap_or_default()
    }

    /// Whether any requests were counted.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.counts.last().is_some_and(|counts| counts.requests > 0)
    }

    /// Start and length of each interval in seconds, and frames a second.
    #[must_use]
    pub fn packet_rates(&self) -> Vec<(f64, f64, f64)> {
        self.rates(|counts| counts.packets)
    }

    /// The same of requests.
    #[must_use]
    pub fn request_rates(&self) -> Vec<(f64, f64, f64)> {
        self.rates(|counts| counts.requests)
    }

    fn rates(&self, of: impl Fn(&Counts) -> u64) -> Vec<(f64, f64, f64)> {
        let (mut end, mut before) = (0.0, 0);
        let rate = |counts: &Counts| {
            let (start, now) = (end, of(counts));
            let length = counts.end - start;
            let rate = crate::output::per_second(now.saturating_sub(before), length);
            (end, before) = (counts.end, now);
            (start, length, rate)
        };
        // An interval without length has no rate.
        self.counts.iter().map(rate).filter(|(_, length, _)| *length > 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use std::time::Duration;

    fn snapshot(second: u64, packets: u64) -> Snapshot {
        let mut snapshot = fixture::snapshot();
        snapshot.elapsed = Duration::from_secs(second);
        snapshot.ports[0].total.counters.rx_packets = packets;
        snapshot
    }

    #[test]
    fn rates_are_the_differences_of_counts() {
        let mut recorder = Recorder::new(&[0]);
        for (second, packets) in [(1, 1_000), (2, 1_000), (4, 7_000), (4, 7_000)] {
            recorder.add(&snapshot(second, packets));
        }
        assert_eq!(recorder.packet_rates(), [(0.0, 1.0, 1_000.0), (1.0, 1.0, 0.0), (2.0, 2.0, 3_000.0)]);
        assert!(!recorder.has_requests());
        assert_eq!(recorder.timeline("round_trip").intervals().len(), 4);
        assert!(recorder.timeline("connect").intervals().is_empty());
    }

    #[test]
    fn a_day_of_seconds_is_kept_in_few_intervals_of_the_same_rate() {
        let mut recorder = Recorder::new(&[0]);
        let mut short = snapshot(0, 0);
        short.cores.clear();
        for second in 1..=86_400 {
            short.elapsed = Duration::from_secs(second);
            short.ports[0].total.counters.rx_packets = 500 * second;
            recorder.add(&short);
        }
        let rates = recorder.packet_rates();
        assert!(rates.len() <= INTERVALS, "{}", rates.len());
        assert!(rates.iter().all(|(.., rate)| (rate - 500.0).abs() < 1e-6));
        let whole: f64 = rates.iter().map(|(_, length, _)| length).sum();
        assert!((whole - 86_400.0).abs() < 1e-6);
    }
}
