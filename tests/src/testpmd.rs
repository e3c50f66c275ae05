//! DPDK's testpmd as the other end of a virtqueue.
//!
//! A [`Host`] has what all testpmds of one test share: hugepages, and a directory for sockets and
//! run-time files. Each [`Testpmd`] is one process on it, spoken to as a user would: commands in,
//! prose out, read into [`PortStats`] and [`ForwardStats`].
//!
//! The main lcore of a testpmd sleeps in `read` between commands, so it may share a core with the
//! other side's forwarding loop.

mod options;
mod stats;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use options::{ForwardMode, Options, Side, VirtioUser};
pub use stats::{ForwardStats, PortStats, forward_stats, port_stats};

use crate::hugepages::{Hugepages, HugepagesError};
use crate::netns::Netns;
use crate::process::{Process, ProcessError};

/// How long testpmd may take to start or to stop.
const START_STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long testpmd may take to answer a command, on a busy core.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const PROMPT: &str = "testpmd> ";

/// Why a testpmd could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TestpmdError {
    /// No hugepages.
    #[error(transparent)]
    Hugepages(#[from] HugepagesError),
    /// It did not start, answer or stop.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The machine lacks something.
    #[error("{0}")]
    Lacking(String),
    /// It answered, but not what was expected.
    #[error("no {what} in testpmd's answer: {answer}")]
    Answer {
        /// What was looked for.
        what: &'static str,
        /// What it printed.
        answer: String,
    },
}

/// What the testpmds of one test share. Dropped after the last of them.
#[derive(Debug)]
pub struct Host {
    pages: Hugepages,
    dir: tempfile::TempDir,
    started: AtomicU32,
}

impl Host {
    /// Reserves `pages` hugepages of 2 MiB for testpmds and for our own programs beside them.
    ///
    /// # Errors
    /// [`TestpmdError::Lacking`] without testpmd or a second core; [`TestpmdError::Hugepages`].
    pub fn new(pages: u64) -> Result<Arc<Self>, TestpmdError> {
        let lacking = |e: String| TestpmdError::Lacking(e);
        for program in ["dpdk-testpmd", "stdbuf"] {
            if !in_path(program) {
                return Err(lacking(format!("no {program}; apt-get install dpdk coreutils")));
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if cores < 2 {
            return Err(lacking(format!("{cores} core, but the two ends need one each")));
        }
        let dir = tempfile::Builder::new()
            .prefix("bywash-peers-")
            .tempdir()
            .map_err(|e| lacking(format!("no temporary directory: {e}")))?;
        let pages = Hugepages::reserve(pages)?;
        Ok(Arc::new(Self { pages, dir, started: AtomicU32::new(0) }))
    }

    /// A path for a Unix socket; the file goes with the host.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory for sockets and other small files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// A running testpmd that forwards.
pub struct Testpmd {
    process: Process,
    options: Options,
    read_to: usize,
    // Last: hugepages are given back after the process has gone.
    _host: Arc<Host>,
}

impl Testpmd {
    /// Starts testpmd and waits until it forwards.
    ///
    /// # Errors
    /// [`TestpmdError::Process`] with the end of its output if it does not come up.
    pub fn start(host: &Arc<Host>, options: Options) -> Result<Self, TestpmdError> {
        // Line by line even into a pipe; the C library would keep 4 KiB back.
        Self::start_by(host, options, Command::new("stdbuf"))
    }

    /// The same in a network namespace.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(netns: &Netns, host: &Arc<Host>, options: Options) -> Result<Self, TestpmdError> {
        Self::start_by(host, options, netns.command("stdbuf"))
    }

    fn start_by(host: &Arc<Host>, options: Options, mut command: Command) -> Result<Self, TestpmdError> {
        // ORDERING: Relaxed, a counter for unique names and nothing more.
        let number = host.started.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("bywash{}-{number}", std::process::id());
        command
            .arg("-oL")
            .arg("dpdk-testpmd")
            .args(options.arguments(host.pages.dir(), &prefix))
            // Its run-time files go with the host instead of staying under /var/run/dpdk.
            .env("RUNTIME_DIRECTORY", host.dir());
        let mut process = Process::start(format!("testpmd {}", options.forward_mode.name()), &mut command)?;
        let sign = if options.stats_period_s.is_some() { "Port statistics" } else { PROMPT };
        let read_to = process.wait_for(0, sign, START_STOP_LIMIT)?;
        Ok(Self { process, options, read_to, _host: Arc::clone(host) })
    }

    /// The options it was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The process: its output, and its id.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends one command and returns what testpmd printed until its next prompt.
    ///
    /// # Errors
    /// [`TestpmdError::Process`] if it does not answer in time.
    pub fn command(&mut self, command: &str) -> Result<String, TestpmdError> {
        self.process.write_line(command)?;
        let echoed = self.process.wait_for(self.read_to, command, ANSWER_LIMIT)?;
        let end = self.process.wait_for(echoed, PROMPT, ANSWER_LIMIT)?;
        self.read_to = end;
        Ok(self.process.stdout()[echoed..end - PROMPT.len()].to_owned())
    }

    /// Counters and rates of its one port. Rates are those since the last call.
    ///
    /// # Errors
    /// [`TestpmdError::Answer`] if the answer holds no statistics.
    pub fn port_stats(&mut self) -> Result<PortStats, TestpmdError> {
        let answer = self.command("show port stats 0")?;
        port_stats(&answer).last().copied().ok_or(TestpmdError::Answer { what: "port statistics", answer })
    }

    /// Counters of the forwarding loop, and its cycles per packet.
    ///
    /// # Errors
    /// [`TestpmdError::Answer`] if the answer holds no statistics.
    pub fn forward_stats(&mut self) -> Result<ForwardStats, TestpmdError> {
        let answer = self.command("show fwd stats all")?;
        forward_stats(&answer).ok_or(TestpmdError::Answer { what: "forward statistics", answer })
    }

    /// Sets the forwarding loop's counters and cycles to zero.
    ///
    /// # Errors
    /// [`TestpmdError::Process`] if it does not answer in time.
    pub fn clear_forward_stats(&mut self) -> Result<(), TestpmdError> {
        self.command("clear fwd stats all").map(drop)
    }

    /// Stops forwarding and returns the final counters; the process stays.
    ///
    /// # Errors
    /// [`TestpmdError::Answer`] if the answer holds no statistics.
    pub fn stop(&mut self) -> Result<ForwardStats, TestpmdError> {
        let answer = self.command("stop")?;
        forward_stats(&answer).ok_or(TestpmdError::Answer { what: "final statistics", answer })
    }

    /// Ends the process as a user would, and returns what it printed in all.
    ///
    /// # Errors
    /// [`TestpmdError::Process`] if it had to be killed.
    pub fn quit(mut self) -> Result<String, TestpmdError> {
        if self.options.stats_period_s.is_some() {
            self.process.interrupt();
        } else {
            self.process.write_line("quit")?;
        }
        let finished = self.process.finish(START_STOP_LIMIT)?;
        Ok(finished.stdout + &finished.stderr)
    }
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
