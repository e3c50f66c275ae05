//! Our own command as a process beside the peers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::netns::Netns;
use crate::process::{Process, ProcessError};

/// The command under test, if it is not to be built: for trying an installed one.
pub const BINARY: &str = "BYWASH_BIN";

/// Why our command could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BywashError {
    /// It does not build.
    #[error("cannot build the bywash command: {0}")]
    Build(String),
    /// It did not start or end as it should.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It ended with an exit code other than 0.
    #[error("bywash {args} ended with {status}: {stderr}")]
    Failed {
        /// Its arguments.
        args: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// Its report is no JSON object or lacks a figure.
    #[error("{what} in bywash's report: {report}")]
    Report {
        /// What is wrong.
        what: String,
        /// The report.
        report: String,
    },
}

/// The release build of the `bywash` command: built once per process by Cargo, which knows whether
/// anything changed, or named by [`BINARY`].
///
/// # Errors
/// [`BywashError::Build`] with the compiler's words.
pub fn binary() -> Result<&'static Path, BywashError> {
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = PATH.get_or_init(|| match std::env::var_os(BINARY) {
        Some(path) => Ok(path.into()),
        None => build(),
    });
    built.as_deref().map_err(|told| BywashError::Build(told.clone()))
}

fn build() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "-p", "bywash", "--bin", "bywash"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .map_err(|e| format!("cannot start cargo: {e}"))?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).into_owned());
    }
    // One JSON object a line; the one of the command names its executable.
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| "cargo named no executable".to_owned())
}

/// A running `bywash`.
pub struct Bywash {
    process: Process,
    args: String,
}

impl Bywash {
    /// Starts `bywash` with `args`.
    ///
    /// # Errors
    /// [`BywashError::Build`], or [`BywashError::Process`] if it cannot be executed.
    pub fn start<S: AsRef<str>>(args: &[S]) -> Result<Self, BywashError> {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let mut command = Command::new(binary()?);
        command.args(&args);
        let args = args.join(" ");
        Ok(Self { process: Process::start(format!("bywash {args}"), &mut command)?, args })
    }

    /// Starts `bywash` with `args` in a network namespace.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in<S: AsRef<str>>(netns: &Netns, args: &[S]) -> Result<Self, BywashError> {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let mut command = netns.command(binary()?);
        command.args(&args);
        let args = args.join(" ");
        Ok(Self { process: Process::start(format!("bywash {args}"), &mut command)?, args })
    }

    /// The process: its output, and its id.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Asks it to stop, as Ctrl-C does.
    pub fn interrupt(&mut self) {
        self.process.interrupt();
    }

    /// Waits for it to end by itself within `limit` and reads its report.
    ///
    /// # Errors
    /// [`BywashError::Failed`] on an exit code other than 0, [`BywashError::Report`] if standard
    /// output is no JSON object, [`BywashError::Process`] if it had to be killed.
    pub fn report(self, limit: Duration) -> Result<Report, BywashError> {
        let finished = self.process.finish(limit)?;
        if !finished.status.success() {
            let (args, status, stderr) = (self.args, finished.status, finished.stderr);
            return Err(BywashError::Failed { args, status, stderr });
        }
        Report::parse(&finished.stdout)
    }
}

/// What `bywash … --json` printed when it ended.
#[derive(Clone, Debug)]
pub struct Report(Value);

impl Report {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// [`BywashError::Report`] if `text` is anything else.
    pub fn parse(text: &str) -> Result<Self, BywashError> {
        match serde_json::from_str(text) {
            Ok(value @ Value::Object(_)) => Ok(Self(value)),
            Ok(_) => Err(BywashError::Report { what: "no JSON object".to_owned(), report: text.to_owned() }),
            Err(e) => Err(BywashError::Report { what: e.to_string(), report: text.to_owned() }),
        }
    }

    /// The whole object.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The whole number at `pointer` (RFC 6901, as `/ports/0/rx_packets`).
    ///
    /// # Errors
    /// [`BywashError::Report`] if there is none.
    pub fn count(&self, pointer: &str) -> Result<u64, BywashError> {
        self.0.pointer(pointer).and_then(Value::as_u64).ok_or_else(|| self.lacks(pointer))
    }

    /// The number at `pointer`.
    ///
    /// # Errors
    /// [`BywashError::Report`] if there is none.
    pub fn number(&self, pointer: &str) -> Result<f64, BywashError> {
        self.0.pointer(pointer).and_then(Value::as_f64).ok_or_else(|| self.lacks(pointer))
    }

    fn lacks(&self, pointer: &str) -> BywashError {
        BywashError::Report { what: format!("no number at {pointer}"), report: self.0.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_pointer_or_named_as_missing() {
        let report = Report::parse(r#"{"pps": 2.5, "ports": [{"rx_packets": 7}]}"#).unwrap();
        assert_eq!(report.count("/ports/0/rx_packets").unwrap(), 7);
        assert!((report.number("/pps").unwrap() - 2.5).abs() < f64::EPSILON);
        let error = report.count("/ports/0/tx_packets").unwrap_err();
        assert!(error.to_string().contains("/ports/0/tx_packets"), "{error}");
    }

    #[test]
    fn a_report_is_one_object_and_nothing_else() {
        assert!(Report::parse("[]").is_err());
        assert!(Report::parse("listening\n{}").is_err());
    }
}
