//! Where captured frames go.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use pmd::pcap::{Direction, Frame, Pipe, Writer};
use serde_json::json;
use thiserror::Error;

use super::line;
use crate::cli::Failure;

/// A file that cannot be written.
#[derive(Debug, Error)]
#[error("cannot write {}; is the folder there, writable and not full?", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// How frames are written.
enum Form {
    /// As pcapng.
    Capture(Writer<BufWriter<Box<dyn Write + Send>>>),
    /// A line each.
    Lines(BufWriter<io::Stdout>),
    /// A JSON object each.
    Objects(BufWriter<io::Stdout>),
}

/// Where frames go. Once nobody reads any more it is closed and takes nothing.
pub(super) struct Output {
    form: Form,
    path: PathBuf,
    failed: Option<io::Error>,
}

impl Output {
    /// Opens the file `write`, or standard output. A capture has its header at once. Waits for somebody who reads where
    /// that is a pipe; `None` if `is_over` says before that it need not be any more.
    pub(super) fn open(
        write: Option<&Path>,
        as_json: bool,
        port: &str,
        snaplen: Option<u32>,
        is_over: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<Option<Self>, Failure> {
        let path = write.unwrap_or(Path::new("-")).to_owned();
        let failed = |source| Failure::run(WriteError { path: path.clone(), source });
        let form = match write {
            None if as_json => Form::Objects(BufWriter::new(io::stdout())),
            None => Form::Lines(BufWriter::new(io::stdout())),
            Some(file) => {
                let out: Box<dyn Write + Send> = if file.as_os_str() == "-" {
                    Box::new(io::stdout())
                } else if Pipe::is_at(file) {
                    let pipe = match Pipe::open(file, is_over.clone()).map_err(failed)? {
                        Some(pipe) => Some(pipe),
                        None => {
                            eprintln!("waiting for somebody who reads {}", file.display());
                            Pipe::wait(file, is_over).map_err(failed)?
                        }
                    };
                    let Some(pipe) = pipe else { return Ok(None) };
                    Box::new(pipe)
                } else {
                    Box::new(File::create(file).map_err(failed)?)
                };
                let begin = || {
                    let mut writer = Writer::new(BufWriter::with_capacity(256 << 10, out))?;
                    writer.interface(port, "bywash dump", snaplen.unwrap_or(0))?;
                    writer.flush()?;
                    Ok(writer)
                };
                Form::Capture(begin().map_err(failed)?)
            }
        };
        Ok(Some(Self { form, path, failed: None }))
    }

    /// Whether it takes no more.
    pub(super) fn is_closed(&self) -> bool {
        self.failed.is_some()
    }

    /// Writes a frame.
    pub(super) fn frame(&mut self, frame: &Frame<'_>) {
        let len = u32::try_from(frame.original_len).unwrap_or(u32::MAX);
        let done = match &mut self.form {
            Form::Capture(writer) => writer.frame(0, frame.time_ns, len, &[frame.bytes], frame.way),
            Form::Lines(out) => writeln!(out, "{}", line::text(frame)),
            Form::Objects(out) => writeln!(out, "{}", object(frame)),
        };
        self.note(done);
    }

    /// Hands on what is buffered.
    pub(super) fn flush(&mut self) {
        let done = match &mut self.form {
            Form::Capture(writer) => writer.flush(),
            Form::Lines(out) | Form::Objects(out) => out.flush(),
        };
        self.note(done);
    }

    fn note(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            self.failed.get_or_insert(error);
        }
    }

    /// Writes what was missed, and says what went wrong: a reader that left is no mistake.
    pub(super) fn close(&mut self, totals: Option<(u64, u64)>) -> Result<(), Failure> {
        if let (Form::Capture(writer), Some((passed, missed)), None) = (&mut self.form, totals, &self.failed)
        {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let done = writer.statistics(0, u64::try_from(now.as_nanos()).unwrap_or(0), passed, missed);
            self.note(done);
        }
        self.flush();
        match self.failed.take() {
            Some(source) if source.kind() == io::ErrorKind::TimedOut => {
                let path = self.path.display();
                eprintln!("nobody reads {path}; what is left is not written");
                Ok(())
            }
            Some(source) if source.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::run(WriteError { path: self.path.clone(), source }))
            }
            _ => Ok(()),
        }
    }
}

/// A frame as JSON: `docs/json.md`.
fn object(frame: &Frame<'_>) -> serde_json::Value {
    let (direction, queue) = frame.way.unzip();
    let direction = direction.map(|direction| match direction {
        Direction::Rx => "in",
        Direction::Tx => "out",
    });
    json!({
        "time_ns": frame.time_ns,
        "direction": direction,
        "queue": queue,
        "bytes": frame.original_len,
        "captured_bytes": frame.bytes.len(),
        "summary": line::summary(frame),
    })
}
