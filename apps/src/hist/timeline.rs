//! Latencies over time, in bounded memory however long a run was.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Intervals that are kept; when one more comes, neighbours become one.
pub const INTERVALS: usize = 512;
/// Bins between a value and twice that value: bins are 4.4 % wide.
const BINS_PER_OCTAVE: f64 = 16.0;

/// What was seen in one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// Since the start of the run.
    pub start: Duration,
    /// How long it was.
    pub length: Duration,
    /// The largest value.
    pub max_ns: u64,
    /// Counts of values by bin, ascending, none of them 0.
    bins: Vec<(u16, u64)>,
}

/// The intervals of a run, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    intervals: Vec<Interval>,
}

impl Interval {
    /// What `histogram` (in nanoseconds) recorded from `start` on.
    #[must_use]
    pub fn new(start: Duration, length: Duration, histogram: &Histogram<u64>) -> Interval {
        let mut bins: Vec<(u16, u64)> = Vec::new();
        for step in histogram.iter_recorded() {
            let bin = bin_of(histogram.median_equivalent(step.value_iterated_to()));
            match bins.last_mut() {
                Some((last, count)) if *last == bin => *count += step.count_at_value(),
                _ => bins.push((bin, step.count_at_value())),
            }
        }
        Interval { start, length, max_ns: histogram.max(), bins }
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.bins.iter().map(|(_, count)| *count).sum()
    }

    /// Bins as the value in their middle, in nanoseconds, and their count.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bins.iter().map(|(bin, count)| (((f64::from(*bin) + 0.5) / BINS_PER_OCTAVE).exp2(), *count))
    }

    /// The value in nanoseconds that the part `quantile` of all values does not exceed, to 5 %; 0 if there is none.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 5 %
    pub fn value_at(&self, quantile: f64) -> u64 {
        let wanted = (self.count() as f64 * quantile).max(1.0);
        let mut up_to = 0;
        for (middle, count) in self.bins() {
            up_to += count;
            if up_to as f64 >= wanted - 1e-6 {
                return (middle.round() as u64).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// When it ended.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.start.saturating_add(self.length)
    }

    /// Both as one.
    fn join(self, next: Interval) -> Interval {
        let mut bins = self.bins;
        for (bin, count) in next.bins {
            match bins.binary_search_by_key(&bin, |(have, _)| *have) {
                Ok(at) => bins[at].1 += count,
                Err(at) => bins.insert(at, (bin, count)),
            }
        }
        let end =
            Duration::max(self.start.saturating_add(self.length), next.start.saturating_add(next.length));
        let start = self.start.min(next.start);
        Interval { start, length: end.saturating_sub(start), max_ns: self.max_ns.max(next.max_ns), bins }
    }
}

impl Timeline {
    /// Adds the next interval. At most [`INTERVALS`] are kept: then every two neighbours become one.
    pub fn push(&mut self, interval: Interval) {
        if self.intervals.len() == INTERVALS {
            let mut joined = Vec::with_capacity(INTERVALS);
            let mut old = std::mem::take(&mut self.intervals).into_iter();
            while let Some(first) = old.next() {
                joined.push(match old.next() {
                    Some(second) => first.join(second),
                    None => first,
                });
            }
            self.intervals = joined;
        }
        self.intervals.push(interval);
    }

    /// Adds the intervals of another run, behind the last of this one.
    pub fn append(&mut self, other: &Timeline) {
        let offset = self.end();
        for interval in &other.intervals {
            self.push(Interval { start: interval.start.saturating_add(offset), ..interval.clone() });
        }
    }

    /// The intervals, the oldest first.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// The end of the last interval.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.intervals.iter().map(Interval::end).max().unwrap_or_default()
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 64 octaves
fn bin_of(ns: u64) -> u16 {
    ((ns.max(1) as f64).log2() * BINS_PER_OCTAVE) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(second: u64, values: &[(u64, u64)]) -> Interval {
        let mut histogram = engine::latency::histogram();
        values.iter().for_each(|(ns, count)| histogram.record_n(*ns, *count).unwrap());
        Interval::new(Duration::from_secs(second), Duration::from_secs(1), &histogram)
    }

    #[test]
    fn percentiles_of_an_interval_are_within_five_percent() {
        for ns in [1, 7, 100, 999, 1_234_567, 59_000_000_000] {
            let interval = interval(0, &[(ns, 990), (60_000_000_000, 10)]);
            let found = interval.value_at(0.5);
            assert!(found.abs_diff(ns) <= ns / 20 + 1, "{ns} is shown as {found}");
            assert!(interval.value_at(0.999) > 56_000_000_000);
            assert_eq!(interval.count(), 1_000);
        }
        assert_eq!(interval(0, &[]).value_at(0.5), 0);
    }

    #[test]
    fn a_long_run_keeps_all_values_in_few_intervals() {
        let mut timeline = Timeline::default();
        let seconds = 5 * INTERVALS as u64 + 3;
        for second in 0..seconds {
            timeline.push(interval(second, &[(1_000 + second, 1), (50, 2)]));
        }
        let intervals = timeline.intervals();
        assert!(intervals.len() <= INTERVALS && intervals.len() > INTERVALS / 4, "{}", intervals.len());
        assert_eq!(intervals.iter().map(Interval::count).sum::<u64>(), 3 * seconds);
        assert_eq!(timeline.end(), Duration::from_secs(seconds));
        assert!(intervals.windows(2).all(|two| two[0].end() == two[1].start), "no gap, no overlap");
        assert!(intervals.iter().all(|interval| interval.value_at(0.1) < 60));
    }

    #[test]
    fn another_run_comes_behind() {
        let (mut first, mut second) = (Timeline::default(), Timeline::default());
        first.push(interval(0, &[(10, 1)]));
        first.push(interval(1, &[(10, 1)]));
        second.push(interval(0, &[(20, 1)]));
        first.append(&second);
        let starts: Vec<u64> = first.intervals().iter().map(|interval| interval.start.as_secs()).collect();
        assert_eq!(starts, [0, 1, 2]);
    }
}
