//! `.hgrm`: the percentile distribution table that HdrHistogram's plotter reads.
//!
//! The format is that of `AbstractHistogram.outputPercentileDistribution` in HdrHistogram's Java library: a header, then
//! `value percentile total-count 1/(1-percentile)` lines, then three comment lines. **Values are in microseconds** with
//! three decimals, so that nothing of the nanoseconds is lost; a fourth comment line, which HdrHistogram's tools skip, says
//! so, and which latency it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

/// Steps between two halvings of the distance to 100 %; HdrHistogram's default.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
/// Nanoseconds in the table's unit.
const UNIT_NS: f64 = 1_000.0;

/// The table of the latency `name`.
#[must_use]
#[allow(clippy::cast_precision_loss)] // 12 columns with three decimals hold less than 53 bits
pub fn text(name: &str, histogram: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let value = histogram.highest_equivalent(step.value_iterated_to()) as f64 / UNIT_NS;
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value:12.3} {quantile:.12} {total:10}");
        if quantile < 1.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let _ = write!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n\
         #[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n\
         #[Latency = {name}, Unit = us]\n",
        histogram.mean() / UNIT_NS,
        histogram.stdev() / UNIT_NS,
        histogram.max() as f64 / UNIT_NS,
        histogram.len(),
        histogram.buckets(),
        sub_buckets(histogram),
    );
    text
}

/// Linear steps of a bucket: twice the resolution, as a power of two. HdrHistogram's `subBucketCount`.
fn sub_buckets(histogram: &Histogram<u64>) -> u64 {
    (2 * 10_u64.pow(u32::from(histogram.sigfig()))).next_power_of_two()
}

/// The files to write for `--hgrm path`: the program's first latency under that very name, each further one beside it
/// with the latency's name before the extension (`run.hgrm`, `run.turn.hgrm`). Names without values are left out.
#[must_use]
pub fn files<'n, 'h>(
    latencies: impl Iterator<Item = (&'n str, &'h Histogram<u64>)>,
    first: &str,
    path: &Path,
) -> Vec<(PathBuf, String)> {
    let mut recorded: Vec<_> = latencies.filter(|(_, histogram)| !histogram.is_empty()).collect();
    recorded.sort_by_key(|(name, _)| *name != first);
    recorded
        .into_iter()
        .enumerate()
        .map(|(at, (name, histogram))| {
            let path = if at == 0 { path.to_path_buf() } else { beside(path, name) };
            (path, text(name, histogram))
        })
        .collect()
}

fn beside(path: &Path, name: &str) -> PathBuf {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some(extension) => path.with_extension(format!("{name}.{extension}")),
        None => path.with_added_extension(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use engine::latency::Latencies;

    #[test]
    fn the_table_has_the_classic_lines() {
        let mut histogram = engine::latency::histogram();
        histogram.record_n(1_000, 3).unwrap();
        histogram.record(8_000).unwrap();
        let expected = [
            "       Value     Percentile TotalCount 1/(1-Percentile)",
            "",
            "       1.000 0.000000000000          3           1.00",
            "       1.000 0.100000000000          3           1.11",
            "       1.000 0.200000000000          3           1.25",
            "       1.000 0.300000000000          3           1.43",
            "       1.000 0.400000000000          3           1.67",
            "       1.000 0.500000000000          3           2.00",
            "       1.000 0.550000000000          3           2.22",
            "       1.000 0.600000000000          3           2.50",
            "       1.000 0.650000000000          3           2.86",
            "       1.000 0.700000000000          3           3.33",
            "       8.003 0.750000000000          4           4.00",
            "       8.003 1.000000000000          4",
            "#[Mean    =        2.751, StdDeviation   =        3.032]",
            "#[Max     =        8.003, Total count    =            4]",
            "#[Buckets =           26, SubBuckets     =         2048]",
            "#[Latency = turn, Unit = us]",
            "",
        ];
        assert_eq!(text("turn", &histogram), expected.join("\n"));
    }

    #[test]
    fn the_first_latency_gets_the_name_asked_for_and_the_others_stand_beside_it() {
        let names = |path: &str| -> Vec<String> {
            files(fixture::summary().latencies.iter(), "residence", Path::new(path))
                .into_iter()
                .map(|(path, _)| path.display().to_string())
                .collect()
        };
        assert_eq!(names("/x/run.hgrm"), ["/x/run.hgrm", "/x/run.round_trip.hgrm", "/x/run.turn.hgrm"]);
        assert_eq!(names("run"), ["run", "run.round_trip", "run.turn"]);
        assert!(files(Latencies::new(&["turn"]).iter(), "turn", Path::new("x")).is_empty());
    }
}
