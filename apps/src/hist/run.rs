//! What is known of a run: its latencies by name, each with its intervals.

use hdrhistogram::Histogram;

use super::distribution::Distribution;
use super::timeline::Timeline;

/// What a latency without a name is called.
pub const UNNAMED: &str = "latency";

/// A run, or several as one.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What people call it.
    pub name: String,
    /// Where it was read.
    pub source: String,
    /// What else the file says, as names and values.
    pub notes: Vec<(String, String)>,
    /// Its latencies, in the order of the file; each name once.
    pub series: Vec<Series>,
}

/// One of a run's latencies.
#[derive(Clone, Debug)]
pub struct Series {
    /// Such as `round_trip`.
    pub name: String,
    /// All of its values.
    pub distribution: Distribution,
    /// By interval, if that is known.
    pub timeline: Timeline,
}

impl Run {
    /// The latency `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }
}

/// Adds runs up: counts by latency name, intervals one run behind the other. `Err` names the first run of which only
/// percentiles are known: those cannot be added.
///
/// # Errors
/// The run's source.
pub fn merge(runs: &[Run]) -> Result<Run, String> {
    let sources: Vec<&str> = runs.iter().map(|run| run.source.as_str()).collect();
    let mut merged =
        Run { name: format!("{} runs", runs.len()), source: sources.join(", "), ..Run::default() };
    let mut all: Vec<(String, Histogram<u64>, Timeline)> = Vec::new();
    for run in runs {
        for series in &run.series {
            let Distribution::Exact(histogram) = &series.distribution else { return Err(run.source.clone()) };
            match all.iter_mut().find(|(name, ..)| *name == series.name) {
                Some((_, sum, timeline)) => {
                    sum.add(histogram).expect("all latencies have one shape");
                    timeline.append(&series.timeline);
                }
                None => all.push((series.name.clone(), histogram.clone(), series.timeline.clone())),
            }
        }
        merged
            .notes
            .extend(run.notes.iter().map(|(name, value)| (format!("{}: {name}", run.name), value.clone())));
    }
    merged.series = all
        .into_iter()
        .map(|(name, sum, timeline)| Series { name, distribution: Distribution::Exact(sum), timeline })
        .collect();
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hist::distribution::{Row, Table};
    use crate::hist::timeline::Interval;
    use std::time::Duration;

    fn run(name: &str, values: &[(&str, u64, u64)]) -> Run {
        let series = values.iter().map(|(name, ns, count)| {
            let mut histogram = engine::latency::histogram();
            histogram.record_n(*ns, *count).unwrap();
            let mut timeline = Timeline::default();
            timeline.push(Interval::new(Duration::ZERO, Duration::from_secs(1), &histogram));
            Series { name: (*name).to_owned(), distribution: Distribution::Exact(histogram), timeline }
        });
        Run {
            name: name.to_owned(),
            source: format!("{name}.hlog"),
            notes: Vec::new(),
            series: series.collect(),
        }
    }

    #[test]
    fn counts_are_added_by_name() {
        let runs = [
            run("a", &[("turn", 1_000, 90), ("residence", 50, 1)]),
            run("b", &[("round_trip", 7, 3), ("turn", 9_000, 10)]),
        ];
        let merged = merge(&runs).unwrap();
        let counts: Vec<(&str, u64)> =
            merged.series.iter().map(|series| (series.name.as_str(), series.distribution.count())).collect();
        assert_eq!(counts, [("turn", 100), ("residence", 1), ("round_trip", 3)]);
        let turn = merged.get("turn").unwrap();
        assert_eq!((turn.distribution.value_at(0.9), turn.distribution.value_at(0.91) / 10), (1_000, 900));
        assert_eq!(turn.timeline.end(), Duration::from_secs(2));
    }

    #[test]
    fn percentiles_are_not_added() {
        let mut table = run("t", &[("turn", 1, 1)]);
        let rows = vec![Row { quantile: 1.0, ns: 5 }];
        table.series[0].distribution = Distribution::Table(Table { rows, count: 1, min_ns: 5 });
        assert_eq!(merge(&[run("a", &[("turn", 1, 1)]), table]).unwrap_err(), "t.hlog");
    }
}
