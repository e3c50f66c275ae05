//! `.hlog`: HdrHistogram's interval log, version 1.3, one line per interval and latency name.
//!
//! A line's tag is the latency's name; the histogram holds nanoseconds of all cores together, V2-compressed. The
//! interval maximum is in milliseconds (divisor 10⁶), as HdrHistogram's tools expect of nanosecond logs. Times are
//! seconds since the `BaseTime` of the header.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use engine::latency::Latencies;
use engine::stats::Snapshot;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

/// Nanoseconds in the unit of the log's interval maxima.
const MAX_DIVISOR: f64 = 1_000_000.0;

/// An interval log being written.
pub struct IntervalLog<W: Write> {
    writer: W,
    serializer: V2DeflateSerializer,
}

impl<W: Write> IntervalLog<W> {
    /// Writes the header of a log of a run of `program` that starts at `start`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn begin(mut writer: W, program: &str, start: SystemTime) -> io::Result<IntervalLog<W>> {
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .add_comment(&format!(
                "[Logged with bywash {program} {}, values in ns]",
                env!("CARGO_PKG_VERSION")
            ))
            .add_comment("[Histogram log format version 1.3]")
            .with_start_time(start)
            .with_base_time(start)
            .with_max_value_divisor(MAX_DIVISOR)
            .begin_log_with(&mut writer, &mut serializer)?;
        writeln!(
            writer,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )?;
        Ok(IntervalLog { writer, serializer })
    }

    /// Adds the interval that ends with `snapshot`; names that recorded nothing in it have no line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let mut interval = Latencies::new(&[]);
        snapshot.cores.iter().for_each(|core| interval.merge(&core.interval));
        let start = snapshot.elapsed.saturating_sub(snapshot.interval);
        self.write(&interval, start, snapshot.interval)?;
        self.writer.flush()
    }

    fn write(&mut self, latencies: &Latencies, start: Duration, length: Duration) -> io::Result<()> {
        for (name, histogram) in latencies.iter().filter(|(_, histogram)| !histogram.is_empty()) {
            self.add_one(name, histogram, start, length)?;
        }
        Ok(())
    }

    /// Adds one interval of the latency `name`; of a name with a comma or a line end, which no log can hold, without it.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add_one(
        &mut self,
        name: &str,
        histogram: &Histogram<u64>,
        start: Duration,
        length: Duration,
    ) -> io::Result<()> {
        // The crate's writer borrows what it writes to, so each line gets one, whose header goes nowhere.
        let mut line = Vec::new();
        let mut log = IntervalLogWriterBuilder::new();
        log.with_max_value_divisor(MAX_DIVISOR);
        log.begin_log_with(&mut line, &mut self.serializer)?
            .write_histogram(histogram, start, length, Tag::new(name))
            .map_err(io::Error::other)?;
        let header_end = line.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.writer.write_all(&line[header_end..])
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn a_log_read_back_has_the_header_once_and_every_name_in_each_interval() {
        let mut bytes = Vec::new();
        let mut log = IntervalLog::begin(&mut bytes, "demo", SystemTime::now()).unwrap();
        log.add(&fixture::snapshot()).unwrap();
        log.add(&fixture::snapshot()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("#[MaxValueDivisor").count(), 1, "{text}");

        // The legend is no entry of the log: the crate's reader, unlike Java's, does not skip it.
        let text: String =
            text.lines().filter(|line| !line.starts_with('"')).flat_map(|line| [line, "\n"]).collect();
        let tags: Vec<(String, u64)> = IntervalLogIterator::new(text.as_bytes())
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => {
                    assert_eq!(interval.start_timestamp(), Duration::from_secs(1));
                    Some((interval.tag().unwrap().as_str().to_string(), interval.duration().as_secs()))
                }
                _ => None,
            })
            .collect();
        let once = ["round_trip", "turn", "residence"].map(|name| (name.to_string(), 1));
        assert_eq!(tags, [once.clone(), once].concat());
    }
}
