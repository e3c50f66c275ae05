//! Percentiles of a latency, in the shape that `bywash … --json` prints.

use anyhow::Result;
use hdrhistogram::Histogram;
use peers::bywash::Report;
use serde::Serialize;

/// Nanoseconds, from a histogram of [`engine::latency::histogram`]'s shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many values there are.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// 90 % are no larger.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// 99.99 %.
    pub p99_99: u64,
    /// The largest.
    pub max: u64,
}

impl Latency {
    /// Of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Latency {
            count: histogram.len(),
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
        }
    }

    /// The latency `name` of a report.
    ///
    /// # Errors
    /// If the report has none of that name, or not all of its figures.
    pub fn read(report: &Report, name: &str) -> Result<Latency> {
        let figure = |key: &str| report.count(&format!("/latency_ns/{name}/{key}"));
        Ok(Latency {
            count: figure("count")?,
            min: figure("min")?,
            p50: figure("p50")?,
            p90: figure("p90")?,
            p99: figure("p99")?,
            p99_9: figure("p99_9")?,
            p99_99: figure("p99_99")?,
            max: figure("max")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_and_the_report_of_it_are_one() {
        let mut histogram = engine::latency::histogram();
        for ns in 1..=1000 {
            histogram.record(ns).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert_eq!(
            (latency.count, latency.min, latency.p50, latency.p99, latency.max),
            (1000, 1, 500, 990, 1000)
        );
        let text = serde_json::json!({"latency_ns": {"round_trip": latency}}).to_string();
        let report = Report::parse(&text).unwrap();
        assert_eq!(Latency::read(&report, "round_trip").unwrap(), latency);
        assert!(Latency::read(&report, "connect").is_err());
    }
}
