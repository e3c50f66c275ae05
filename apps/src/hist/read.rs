//! Latencies out of files: which kind a file is shows its contents, not its name.
//!
//! | kind | what is in it | whose |
//! |---|---|---|
//! | interval log (`.hlog`) | every value, by interval | ours, and HdrHistogram's in any language |
//! | percentile table (`.hgrm`) | values at many percentiles | ours, and HdrHistogram's |
//! | JSON | values at six percentiles | `--json` of our programs |
//!
//! Whatever unit a file has, a [`Run`] has nanoseconds. A file that does not say its unit needs `--unit`; one that says
//! another than `--unit` is refused, for one of the two is wrong.

mod hgrm;
mod hlog;
mod json;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::run::Run;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 512 << 20;

/// A unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
}

impl Unit {
    /// Nanoseconds in it.
    #[must_use]
    pub fn ns(self) -> u64 {
        match self {
            Unit::Ns => 1,
            Unit::Us => 1_000,
            Unit::Ms => 1_000_000,
            Unit::S => 1_000_000_000,
        }
    }

    /// As it is written in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Unit::Ns => "ns",
            Unit::Us => "us",
            Unit::Ms => "ms",
            Unit::S => "s",
        }
    }

    fn named(name: &str) -> Option<Unit> {
        [Unit::Ns, Unit::Us, Unit::Ms, Unit::S].into_iter().find(|unit| unit.name() == name)
    }
}

/// Why a file gives no latencies.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The kernel's word.
    #[error("cannot read {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("{} is empty; did the run that wrote it end by itself?", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// More than is read.
    #[error("{} is larger than {} MiB, the most that is read", path.display(), LARGEST >> 20)]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// Something else.
    #[error(
        "{}:1: neither an interval log (.hlog), nor a percentile table (.hgrm), nor the output of --json: it begins with \
         {begin}", path.display()
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its first bytes, readable.
        begin: String,
    },
    /// A line that cannot be.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there, and what may have caused it.
        what: String,
    },
}

/// What is wrong in which line.
#[derive(Debug)]
struct Wrong {
    line: usize,
    what: String,
}

impl Wrong {
    fn new(line: usize, what: impl Into<String>) -> Wrong {
        Wrong { line, what: what.into() }
    }
}

/// Reads `path` as a run called `name`. Blocks; holds the file and its histograms in memory, one a latency name.
///
/// # Errors
/// [`ReadError`], with the line where there is one.
pub fn read(path: &Path, name: &str, unit: Option<Unit>) -> Result<Run, ReadError> {
    let open = |source| ReadError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(open)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ReadError::Large { path: path.to_owned() });
    }
    if bytes.trim_ascii().is_empty() {
        return Err(ReadError::Empty { path: path.to_owned() });
    }
    let parse = match kind(&bytes) {
        Some(Kind::Log) => hlog::parse,
        Some(Kind::Table) => hgrm::parse,
        Some(Kind::Json) => json::parse,
        None => {
            let begin = bytes[..bytes.len().min(16)].escape_ascii().to_string();
            return Err(ReadError::Kind { path: path.to_owned(), begin: format!("\"{begin}\"") });
        }
    };
    let parsed = text(&bytes).and_then(|text| parse(text, unit));
    let run = parsed.map_err(|Wrong { line, what }| ReadError::Line { path: path.to_owned(), line, what })?;
    Ok(Run { name: name.to_owned(), source: path.display().to_string(), ..run })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Log,
    Table,
    Json,
}

/// What the beginning of a file says.
fn kind(bytes: &[u8]) -> Option<Kind> {
    let begin = bytes.trim_ascii_start();
    let first = begin.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_interval = || {
        let fields = first.split(|byte| *byte == b',').count();
        let numbers = first.starts_with(b"Tag=") || first.first().is_some_and(u8::is_ascii_digit);
        numbers && (4..=5).contains(&fields)
    };
    match begin.first()? {
        b'{' => Some(Kind::Json),
        b'#' => Some(Kind::Log),
        _ if begin.starts_with(b"\"StartTimestamp\"") || is_interval() => Some(Kind::Log),
        _ if begin.starts_with(b"Value") => Some(Kind::Table),
        _ => None,
    }
}

/// The bytes as text, or the line in which they are none.
fn text(bytes: &[u8]) -> Result<&str, Wrong> {
    std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        Wrong::new(line, "bytes that are no text; is the file damaged?")
    })
}

/// The unit of a file that says `stated` in `line`, if anything, and of which the user says `given`.
fn unit(stated: Option<(usize, Unit)>, given: Option<Unit>) -> Result<Option<Unit>, Wrong> {
    match (stated, given) {
        (Some((line, stated)), Some(given)) if stated != given => Err(Wrong::new(
            line,
            format!(
                "mixed units: the file says its values are in {}, --unit says {}; leave --unit out, or read the files that \
                 need it alone",
                stated.name(),
                given.name()
            ),
        )),
        (stated, given) => Ok(stated.map(|(_, unit)| unit).or(given)),
    }
}

#[cfg(test)]
mod tests;
