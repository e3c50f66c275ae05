//! A child process under control: its output captured, every wait bounded, killed on drop.
//!
//! A child is ended by its own process id, which cannot have passed to another process because
//! only [`Process`] reaps it. If this process itself is killed, the kernel kills the child.

use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

/// How many bytes of each stream an error message shows.
const TAIL_BYTES: usize = 3_000;

/// How long the end of a stream and the end of the child that wrote it may lie apart.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What a child printed so far.
#[derive(Default)]
struct Captured {
    stdout: String,
    stderr: String,
    /// Streams that have not ended yet.
    open_streams: u8,
}

#[derive(Default)]
struct Output {
    captured: Mutex<Captured>,
    changed: Condvar,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        // A panic in another thread leaves at worst a string that misses its last bytes.
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running child process.
///
/// Start it from a thread that outlives it: the kernel's parent-death signal, which ends the child
/// when the test process is killed, follows the thread and not the process.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    status: Option<ExitStatus>,
}

/// What a child left behind.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

/// Why a child did not do what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started at all.
    #[error("cannot start {name}; is it installed?")]
    Start {
        /// The program's name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Its standard input is closed.
    #[error("cannot write to {told}")]
    Input {
        /// The program's name, with the end of its output.
        told: String,
        /// The system's answer.
        source: io::Error,
    },
    /// It was still running, or silent, when the time was up.
    #[error("{limit:?} passed; {told}")]
    Timeout {
        /// What was waited for, with the end of the output.
        told: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// It ended before it printed what was waited for.
    #[error("ended ({status}); {told}")]
    Ended {
        /// What was waited for, with the end of the output.
        told: String,
        /// How it ended.
        status: ExitStatus,
    },
}

impl Process {
    /// Starts `command` with all three standard streams piped. It is killed when the thread that calls this ends, so that
    /// thread has to be there as long as the process (prctl(2), `PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// [`ProcessError::Start`] if the program cannot be executed.
    pub fn start(name: impl Into<String>, command: &mut Command) -> Result<Self, ProcessError> {
        let name = name.into();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec the closure makes one system call that is safe there
        // (prctl takes no lock and allocates nothing) and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                    Ok(())
                } else {
                    Err(io::Error::last_os_error())
                }
            });
        }
        let mut child =
            command.spawn().map_err(|source| ProcessError::Start { name: name.clone(), source })?;
        let output = Arc::new(Output::default());
        output.lock().open_streams = 2;
        if let Some(stream) = child.stdout.take() {
            capture(stream, Arc::clone(&output), |captured| &mut captured.stdout);
        }
        if let Some(stream) = child.stderr.take() {
            capture(stream, Arc::clone(&output), |captured| &mut captured.stderr);
        }
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, output, status: None })
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the child wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.output.lock().stdout.clone()
    }

    /// What the child wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.output.lock().stderr.clone()
    }

    /// Whether the child has not ended.
    pub fn is_running(&mut self) -> bool {
        self.poll_status().is_none()
    }

    /// Writes one line to the child's standard input.
    ///
    /// # Errors
    /// [`ProcessError::Input`] if the child no longer reads.
    pub fn write_line(&mut self, line: &str) -> Result<(), ProcessError> {
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|source| ProcessError::Input { told: self.told("its input"), source })
    }

    /// Waits until standard output contains `needle` at byte `from` or later, and returns the
    /// byte offset just after it.
    ///
    /// # Errors
    /// [`ProcessError::Timeout`] after `limit`, [`ProcessError::Ended`] if the child ends first;
    /// both with the end of its output.
    pub fn wait_for(&mut self, from: usize, needle: &str, limit: Duration) -> Result<usize, ProcessError> {
        let deadline = Instant::now() + limit;
        let output = Arc::clone(&self.output);
        let mut captured = output.lock();
        loop {
            let seen = captured.stdout.get(from..).and_then(|text| text.find(needle));
            if let Some(at) = seen {
                return Ok(from + at + needle.len());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if captured.open_streams == 0 || left.is_zero() {
                drop(captured);
                let told = self.told(&format!("waited for {needle:?}"));
                // A child whose streams have closed is about to end, if it has not yet.
                let ended = self.poll_status_until(Instant::now() + left.min(LAST_WORD));
                return Err(match ended {
                    Some(status) => ProcessError::Ended { told, status },
                    None => ProcessError::Timeout { told, limit },
                });
            }
            captured = output.changed.wait_timeout(captured, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks the child to stop, as Ctrl-C on a terminal does.
    pub fn interrupt(&mut self) {
        self.signal(libc::SIGINT);
    }

    /// Kills the child at once, as `kill -9` does, and reaps it.
    pub fn kill(&mut self) -> ExitStatus {
        // Fails only for a child that has ended already, which is what was asked for.
        let _ = self.child.kill();
        let status = self.child.wait().unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL));
        *self.status.get_or_insert(status)
    }

    /// Closes the child's input and waits for it to end; kills it when `limit` has passed.
    ///
    /// # Errors
    /// [`ProcessError::Timeout`] if it had to be killed, with the end of its output.
    pub fn finish(mut self, limit: Duration) -> Result<Finished, ProcessError> {
        drop(self.stdin.take());
        let Some(status) = self.poll_status_until(Instant::now() + limit) else {
            self.kill();
            let told = self.told("it did not end by itself and was killed");
            return Err(ProcessError::Timeout { told, limit });
        };
        // The pipes may hold a last word; a grandchild that keeps them open is not waited for.
        let mut captured = self.output.lock();
        let deadline = Instant::now() + LAST_WORD;
        while captured.open_streams > 0 && Instant::now() < deadline {
            captured = self
                .output
                .changed
                .wait_timeout(captured, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let stdout = std::mem::take(&mut captured.stdout);
        let stderr = std::mem::take(&mut captured.stderr);
        drop(captured);
        Ok(Finished { status, stdout, stderr })
    }

    fn signal(&mut self, signal: libc::c_int) {
        let Ok(pid) = libc::pid_t::try_from(self.pid()) else {
            return;
        };
        if self.poll_status().is_none() {
            // SAFETY: no memory is involved. The child was not reaped (checked just above, and only
            // `self` reaps it), so the id still names it, if only as a zombie.
            unsafe { libc::kill(pid, signal) };
        }
    }

    fn poll_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    fn poll_status_until(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            let status = self.poll_status();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// `what`, followed by the program's name and the end of what it printed.
    fn told(&self, what: &str) -> String {
        let captured = self.output.lock();
        format!(
            "{}: {what}\n--- standard output ends\n{}\n--- standard error ends\n{}\n---",
            self.name,
            tail(&captured.stdout),
            tail(&captured.stderr)
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.poll_status().is_none() {
            self.kill();
        }
    }
}

/// Copies a stream of the child into its string until the stream ends.
fn capture(
    mut stream: impl Read + Send + 'static,
    output: Arc<Output>,
    into: fn(&mut Captured) -> &mut String,
) {
    thread::spawn(move || {
        let mut bytes = [0_u8; 8192];
        loop {
            let read = match stream.read(&mut bytes) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let mut captured = output.lock();
            if read == 0 {
                captured.open_streams -= 1;
            } else {
                into(&mut captured).push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
            drop(captured);
            output.changed.notify_all();
            if read == 0 {
                return;
            }
        }
    });
}

/// The last [`TAIL_BYTES`] of `text`, cut at a character.
fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Process {
        Process::start("sh", Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_dialogue_is_followed_step_by_step() {
        let mut child = sh("echo ready; read word; echo got $word; exit 3");
        let at = child.wait_for(0, "ready\n", Duration::from_secs(5)).unwrap();
        child.write_line("it").unwrap();
        child.wait_for(at, "got it", Duration::from_secs(5)).unwrap();
        let finished = child.finish(Duration::from_secs(5)).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout, "ready\ngot it\n");
    }

    #[test]
    fn a_child_that_hangs_is_killed_at_the_limit() {
        let child = sh("echo stuck; exec sleep 60");
        let pid = child.pid();
        let error = child.finish(Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, ProcessError::Timeout { .. }), "{error}");
        assert!(error.to_string().contains("stuck"), "{error}");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn waiting_for_words_of_a_dead_child_names_its_status() {
        let mut child = sh("echo oops >&2; exit 7");
        let error = child.wait_for(0, "ready", Duration::from_secs(5)).unwrap_err();
        let ProcessError::Ended { status, .. } = &error else { panic!("{error}") };
        assert_eq!(status.code(), Some(7));
        assert!(error.to_string().contains("oops"), "{error}");
    }

    #[test]
    fn dropping_ends_the_child() {
        let child = sh("exec sleep 60");
        let pid = child.pid();
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn an_interrupt_can_be_caught() {
        let mut child = sh("trap 'echo caught; exit 0' INT; echo ready; while :; do sleep 0.05; done");
        child.wait_for(0, "ready", Duration::from_secs(5)).unwrap();
        child.interrupt();
        let finished = child.finish(Duration::from_secs(5)).unwrap();
        assert!(finished.status.success() && finished.stdout.contains("caught"), "{finished:?}");
    }
}
