//! QEMU's monitor for people (HMP), spoken by a program: a command, then text up to the next prompt.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

const PROMPT: &str = "(qemu) ";

/// How long QEMU may take to answer a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to the monitor.
#[derive(Debug)]
pub(super) struct Monitor(UnixStream);

impl Monitor {
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context("connect to QEMU's monitor")?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut monitor = Self(stream);
        monitor.read_answer()?;
        Ok(monitor)
    }

    /// Runs a command; its answer, with the echo of the command.
    pub(super) fn run(&mut self, command: &str) -> Result<String> {
        writeln!(self.0, "{command}").context("write to QEMU's monitor")?;
        self.read_answer()
    }

    fn read_answer(&mut self) -> Result<String> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let mut text = String::new();
        while !text.ends_with(PROMPT) {
            ensure!(Instant::now() < deadline, "QEMU's monitor says no more than {text:?}");
            let mut bytes = [0; 4096];
            match self.0.read(&mut bytes) {
                Ok(0) => anyhow::bail!("QEMU has closed its monitor after {text:?}"),
                Ok(read) => text.push_str(&String::from_utf8_lossy(&bytes[..read])),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(text)
    }
}
