//! The other end of the socket: asks a running engine.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

use super::VERSION;
use super::directory::Folder;

/// How long an engine may take to answer; it may be starting rings of some megabytes.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The longest first line of an answer, in bytes.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Why an engine did not do what it was asked.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens: it has ended, or was killed.
    #[error("engine {name} does not run; `bywash dump` lists those that do")]
    Gone {
        /// Its name.
        name: String,
        /// errno.
        source: io::Error,
    },
    /// Nobody listens, and the socket is there.
    #[error(
        "engine {name} was killed, or died: its socket is left, and goes when another of that name starts"
    )]
    Killed {
        /// Its name.
        name: String,
        /// errno.
        source: io::Error,
    },
    /// It is somebody else's.
    #[error("no permission to ask engine {name}; it belongs to another user: try sudo")]
    Permission {
        /// Its name.
        name: String,
        /// errno.
        source: io::Error,
    },
    /// It said no.
    #[error("engine {name}: {error}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        error: String,
    },
    /// It answered nothing, or nothing that makes sense.
    #[error("engine {name} does not answer: {why}")]
    NoAnswer {
        /// Its name.
        name: String,
        /// What was wrong.
        why: String,
    },
}

/// Asks the engine in `folder` for `request`, whose further fields are in `fields`. Returns the first line of its answer,
/// and the stream in which the rest comes. Waits for at most 20 seconds.
///
/// # Errors
/// [`AskError`].
pub fn ask(folder: &Folder, request: &str, fields: &Value) -> Result<(Value, UnixStream), AskError> {
    // Byte by byte: what comes behind the line is not ours to read.
    exchange(folder, request, fields, 1)
}

/// The same for a request whose answer is one line.
///
/// # Errors
/// [`AskError`].
pub fn ask_line(folder: &Folder, request: &str, fields: &Value) -> Result<Value, AskError> {
    exchange(folder, request, fields, 64 << 10).map(|(answer, _)| answer)
}

/// Reads the answer `at_once` bytes at a time.
fn exchange(
    folder: &Folder,
    request: &str,
    fields: &Value,
    at_once: usize,
) -> Result<(Value, UnixStream), AskError> {
    let name = || folder.name().to_owned();
    let mut stream = UnixStream::connect(folder.socket()).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::Permission { name: name(), source },
        io::ErrorKind::ConnectionRefused => AskError::Killed { name: name(), source },
        _ => AskError::Gone { name: name(), source },
    })?;
    let mut line = json!({ "bywash": VERSION, "request": request });
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields.clone());
    }
    let answer = answer(&mut stream, &format!("{line}\n"), at_once)
        .map_err(|error| AskError::NoAnswer { name: name(), why: error.to_string() })?;
    let answer: Value = serde_json::from_str(&answer)
        .map_err(|error| AskError::NoAnswer { name: name(), why: error.to_string() })?;
    if answer["ok"] == true {
        return Ok((answer, stream));
    }
    let error = answer["error"].as_str().unwrap_or("refused without a reason").to_owned();
    Err(AskError::Refused { name: name(), error })
}

fn answer(stream: &mut UnixStream, line: &str, at_once: usize) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(line.as_bytes())?;
    let mut answer = Vec::new();
    let mut bytes = vec![0; at_once];
    loop {
        match stream.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => {
                let read = read?;
                answer.extend(&bytes[..read]);
                if read == 0 || bytes[..read].ends_with(b"\n") {
                    break;
                }
            }
        }
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(io::Error::other("it never comes to the end of a line"));
        }
    }
    stream.set_read_timeout(None)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    String::from_utf8(answer).map_err(io::Error::other)
}
