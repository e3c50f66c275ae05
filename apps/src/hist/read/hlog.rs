//! Interval logs, of HdrHistogram's log format up to version 1.3.

use std::io::Read;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogHistogram, IntervalLogIterator, LogEntry};

use super::{Unit, Wrong};
use crate::hist::distribution::Distribution;
use crate::hist::run::{Run, Series, UNNAMED};
use crate::hist::timeline::{Interval, Timeline};

/// What the interval maxima are divided by, if the log does not say: nanoseconds become milliseconds.
const USUAL_DIVISOR: f64 = 1e6;
/// The longest encoded counts that are believed, in bytes: each count of the finest histogram in its longest form.
const LONGEST_COUNTS: u32 = 64 << 20;

struct Log {
    unit: Option<(usize, Unit)>,
    divisor: Option<(usize, f64)>,
    notes: Vec<(String, String)>,
    series: Vec<Named>,
    decoder: Deserializer,
    first_start: Option<Duration>,
}

/// A tag's values.
struct Named {
    name: String,
    all: Histogram<u64>,
    timeline: Timeline,
}

/// Reads a whole log.
pub(super) fn parse(text: &str, given: Option<Unit>) -> Result<Run, Wrong> {
    let mut log = Log {
        unit: None,
        divisor: None,
        notes: Vec::new(),
        series: Vec::new(),
        decoder: Deserializer::new(),
        first_start: None,
    };
    let mut last = 0;
    for (at, line) in text.lines().enumerate() {
        last = at + 1;
        if line.starts_with('#') {
            log.comment(last, line)?;
        } else if !line.trim().is_empty() && !line.starts_with("\"StartTimestamp\"") {
            log.interval(last, line, given)?;
        }
    }
    if log.series.is_empty() {
        return Err(Wrong::new(
            last,
            "the log ends without an interval; nothing was recorded, or it is cut off",
        ));
    }
    let series = log.series.into_iter().map(|Named { name, all, timeline }| Series {
        name,
        distribution: Distribution::Exact(all),
        timeline,
    });
    Ok(Run { notes: log.notes, series: series.collect(), ..Run::default() })
}

impl Log {
    /// Comments tell the unit, and what was run.
    fn comment(&mut self, line: usize, text: &str) -> Result<(), Wrong> {
        let inner = text.trim_start_matches('#').trim();
        let inner = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(inner);
        if let Some(value) = inner.strip_prefix("MaxValueDivisor:") {
            let divisor: f64 = value.trim().parse().map_err(|_| {
                Wrong::new(line, format!("`{}` is no number to divide maxima by", value.trim()))
            })?;
            if self.divisor.is_some_and(|(_, before)| before != divisor) && !self.series.is_empty() {
                return Err(Wrong::new(
                    line,
                    "mixed units: another MaxValueDivisor than before; split the log here",
                ));
            }
            self.divisor = Some((line, divisor));
        } else if let Some((_, name)) = inner.rsplit_once("values in ")
            && let Some(unit) = Unit::named(name.trim())
        {
            if let Some((before, other)) = self.unit.filter(|(_, other)| *other != unit) {
                let what = format!("mixed units: {} here, {} in line {before}", unit.name(), other.name());
                return Err(Wrong::new(line, what));
            }
            self.unit = Some((line, unit));
            self.notes.push(("log".to_owned(), inner.to_owned()));
        } else if let Some((name, value)) = inner.split_once(": ").filter(|(name, _)| *name == "StartTime") {
            self.notes.push((name.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    fn interval(&mut self, line: usize, text: &str, given: Option<Unit>) -> Result<(), Wrong> {
        let ended = format!("{text}\n");
        let entry = IntervalLogIterator::new(ended.as_bytes()).next();
        let Some(Ok(LogEntry::Interval(entry))) = entry else {
            let begin: String = text.chars().take(24).collect();
            let what = format!(
                "no interval: `[Tag=NAME,]START,LENGTH,MAX,HISTOGRAM` is expected, here is `{begin}`; is the log cut off?"
            );
            return Err(Wrong::new(line, what));
        };
        let histogram = self.decode(line, entry.encoded_histogram())?;
        let unit = self.unit_of(line, &entry, &histogram, given)?;
        let name = entry.tag().map_or(UNNAMED, |tag| tag.as_str()).to_owned();
        let at = self.series.iter().position(|series| series.name == name).unwrap_or_else(|| {
            let (all, timeline) = (engine::latency::histogram(), Timeline::default());
            self.series.push(Named { name, all, timeline });
            self.series.len() - 1
        });
        let in_ns = in_ns(&histogram, unit);
        let series = &mut self.series[at];
        for step in in_ns.iter_recorded() {
            series.all.saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
        // Times of some logs are those of the calendar.
        let first = *self.first_start.get_or_insert(entry.start_timestamp());
        let is_calendar = first > Duration::from_secs(366 * 86_400);
        let origin = if is_calendar { first } else { Duration::ZERO };
        let start = entry.start_timestamp().saturating_sub(origin);
        series.timeline.push(Interval::new(start, entry.duration(), &in_ns));
        Ok(())
    }

    fn decode(&mut self, line: usize, encoded: &str) -> Result<Histogram<u64>, Wrong> {
        let cut = |why: &str| {
            Wrong::new(line, format!("the histogram cannot be decoded ({why}); is the log cut off here?"))
        };
        let bytes = STANDARD.decode(encoded.trim()).map_err(|error| cut(&error.to_string()))?;
        // The crate allocates as much as the header says, which may be anything.
        let mut header = [0_u8; 8];
        let compressed = bytes.get(8..).ok_or_else(|| cut("too short"))?;
        ZlibDecoder::new(compressed).read_exact(&mut header).map_err(|error| cut(&error.to_string()))?;
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if length > LONGEST_COUNTS {
            return Err(cut(&format!("{length} bytes of counts are more than any histogram has")));
        }
        self.decoder.deserialize(&mut bytes.as_slice()).map_err(|error| cut(&error.to_string()))
    }

    /// What the log says, or what its divisor means; in either case the maximum of the line must be the histogram's.
    fn unit_of(
        &self,
        line: usize,
        entry: &IntervalLogHistogram<'_>,
        histogram: &Histogram<u64>,
        given: Option<Unit>,
    ) -> Result<Unit, Wrong> {
        let divisor = self.divisor.map_or(USUAL_DIVISOR, |(_, divisor)| divisor);
        let shown = entry.max() * divisor;
        #[allow(clippy::cast_precision_loss)] // compared to a percent
        let recorded = histogram.max() as f64;
        // Three decimals of the unit of maxima, and a percent for histograms of two digits.
        if !histogram.is_empty() && (shown - recorded).abs() > recorded * 0.01 + divisor * 0.001 {
            let what = format!(
                "mixed units: the interval's maximum is {} (x {divisor}), that of its histogram {}; is a MaxValueDivisor \
                 missing?",
                entry.max(),
                histogram.max()
            );
            // Who says the unit has the last word about logs whose maxima have another one.
            if self.unit.is_some() || given.is_none() {
                return Err(Wrong::new(line, what));
            }
        }
        // Maxima are in milliseconds by convention.
        let by_divisor = [(1e6, Unit::Ns), (1e3, Unit::Us), (1.0, Unit::Ms)]
            .into_iter()
            .find(|(usual, _)| (usual - divisor).abs() < 1e-9)
            .map(|(_, unit)| unit);
        match super::unit(self.unit, given)?.or(by_divisor) {
            Some(unit) => Ok(unit),
            None => Err(Wrong::new(
                self.divisor.map_or(line, |(line, _)| line),
                format!("MaxValueDivisor {divisor} tells no unit; give --unit ns, us, ms or s"),
            )),
        }
    }
}

/// The same values in nanoseconds, within what all latencies hold.
fn in_ns(histogram: &Histogram<u64>, unit: Unit) -> Histogram<u64> {
    let mut ns = engine::latency::histogram();
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to().saturating_mul(unit.ns());
        ns.saturating_record_n(value, step.count_at_value());
    }
    ns
}
