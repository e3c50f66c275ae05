//! How often which latency was seen: whole, or as the percentiles that a table has.

use hdrhistogram::Histogram;

use crate::picture::axis::nines;

/// Points of a line of a picture, at most and beside the last.
const POINTS: u32 = 400;

/// A distribution of latencies in nanoseconds.
#[derive(Clone, Debug)]
pub enum Distribution {
    /// Every value, to the digits of the histogram: from `.hlog`, or from a run.
    Exact(Histogram<u64>),
    /// Some percentiles: from `.hgrm` or JSON.
    Table(Table),
}

/// Some percentiles of a distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Ascending in quantile and in value, the last one at quantile 1; never empty.
    pub rows: Vec<Row>,
    /// How many values there are; 0 if the file does not tell.
    pub count: u64,
    /// The smallest value.
    pub min_ns: u64,
}

/// A row of a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Part of the values that are at most `ns`, 0 to 1.
    pub quantile: f64,
    /// The value.
    pub ns: u64,
}

impl Distribution {
    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Distribution::Exact(histogram) => histogram.len(),
            Distribution::Table(table) => table.count,
        }
    }

    /// The smallest value in nanoseconds.
    #[must_use]
    pub fn min_ns(&self) -> u64 {
        match self {
            Distribution::Exact(histogram) => histogram.min(),
            Distribution::Table(table) => table.min_ns,
        }
    }

    /// The largest value in nanoseconds.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.value_at(1.0)
    }

    /// The value in nanoseconds that the part `quantile` (0 to 1) of all values does not exceed. Of a table the next
    /// row's: no less than the true one.
    #[must_use]
    pub fn value_at(&self, quantile: f64) -> u64 {
        match self {
            Distribution::Exact(histogram) if quantile >= 1.0 => histogram.max(),
            Distribution::Exact(histogram) => histogram.value_at_quantile(quantile),
            Distribution::Table(table) => {
                let row = table.rows.iter().find(|row| row.quantile >= quantile - 1e-12);
                row.or(table.rows.last()).map_or(0, |row| row.ns)
            }
        }
    }

    /// How far to the right the values reach, in nines: a thousand values say nothing beyond 99.9 %.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // a place in a picture
    pub fn reach(&self) -> f64 {
        let known = match self {
            Distribution::Table(Table { count: 0, rows, .. }) => {
                rows.iter().rev().find(|row| row.quantile < 1.0).map_or(1.0, |row| nines(row.quantile))
            }
            _ => (self.count() as f64).log10(),
        };
        known.clamp(1.0, 12.0)
    }

    /// The line of a picture: places in nines, ascending from 0 to [`reach`](Self::reach), and values in nanoseconds.
    #[must_use]
    pub fn line(&self) -> Vec<(f64, u64)> {
        let reach = self.reach();
        let mut line: Vec<(f64, u64)> = match self {
            Distribution::Exact(histogram) => sampled(histogram, reach),
            Distribution::Table(table) => {
                let rows = table.rows.iter().filter(|row| row.quantile < 1.0);
                rows.map(|row| (nines(row.quantile), row.ns)).filter(|(at, _)| *at < reach).collect()
            }
        };
        if line.first().is_none_or(|(at, _)| *at > 0.0) {
            line.insert(0, (0.0, self.min_ns()));
        }
        line.push((reach, self.max_ns()));
        line
    }
}

/// A histogram's values at even steps of nines, below `reach`; one walk through its counts.
#[allow(clippy::cast_precision_loss)] // a place in a picture
fn sampled(histogram: &Histogram<u64>, reach: f64) -> Vec<(f64, u64)> {
    let total = histogram.len() as f64;
    let mut recorded = histogram.iter_recorded();
    let (mut up_to, mut ns) = (0_u64, histogram.min());
    let mut line = Vec::with_capacity(POINTS as usize);
    for point in 0..POINTS {
        let at = f64::from(point) * reach / f64::from(POINTS);
        let wanted = (1.0 - 10_f64.powf(-at)) * total;
        while up_to == 0 || (up_to as f64) < wanted - 1e-6 {
            let Some(step) = recorded.next() else { break };
            up_to += step.count_at_value();
            ns = histogram.highest_equivalent(step.value_iterated_to());
        }
        line.push((at, ns));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(values: &[(u64, u64)]) -> Distribution {
        let mut histogram = engine::latency::histogram();
        values.iter().for_each(|(ns, count)| histogram.record_n(*ns, *count).unwrap());
        Distribution::Exact(histogram)
    }

    #[test]
    fn a_line_climbs_where_the_counts_say() {
        // 99 % at 1 µs, 0.9 % at 8 µs, the last tenth of a percent at 100 µs.
        let line = exact(&[(1_000, 9_900), (8_000, 90), (100_000, 10)]).line();
        let at = |nines: f64| line.iter().rfind(|(at, _)| *at <= nines).unwrap().1;
        assert_eq!((at(0.0), at(1.9), at(2.1), at(2.9)), (1_000, 1_000, 8_003, 8_003));
        assert!(at(3.05).abs_diff(100_000) < 100, "{}", at(3.05));
        assert!((line.last().unwrap().0 - 4.0).abs() < 1e-9, "10,000 values reach 99.99 %");
        assert!(line.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
    }

    #[test]
    fn points_of_a_line_are_the_histograms_own_percentiles() {
        let values: Vec<(u64, u64)> = (1..500).map(|at| (at * at * 37, 1 + 5_000 / at)).collect();
        let distribution = exact(&values);
        for (at, ns) in &distribution.line()[1..POINTS as usize] {
            let wanted = distribution.value_at(1.0 - 10_f64.powf(-at));
            assert_eq!(*ns, wanted, "at {at} nines");
        }
    }

    #[test]
    fn a_table_answers_with_the_next_row() {
        let row = |quantile, ns| Row { quantile, ns };
        let rows = vec![row(0.5, 100), row(0.9, 200), row(0.99, 300), row(1.0, 900)];
        let table = Distribution::Table(Table { rows: rows.clone(), count: 1_000, min_ns: 40 });
        assert_eq!(
            [0.1, 0.5, 0.9, 0.95, 0.999, 1.0].map(|at| table.value_at(at)),
            [100, 100, 200, 300, 900, 900]
        );
        let line: Vec<(String, u64)> =
            table.line().iter().map(|(at, ns)| (format!("{at:.2}"), *ns)).collect();
        let expected = [("0.00", 40), ("0.30", 100), ("1.00", 200), ("2.00", 300), ("3.00", 900)];
        assert_eq!(line, expected.map(|(at, ns)| (at.to_owned(), ns)));
        // Without a count the rows say how far they reach.
        assert_eq!(Distribution::Table(Table { rows, count: 0, min_ns: 40 }).reach(), nines(0.99));
    }
}
