//! Reads one request of each connection, and hands it to whoever answers it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::VERSION;
use super::acceptor::{Acceptor, Guest, MAX_CONNECTIONS, Serve};
use super::directory::{Claim, ControlError, Folder};

/// The longest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 4096;

/// How long a client may take to ask.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// How long a client that does not read is waited for before the server looks whether it is to stop.
pub(super) const WRITE_STEP: Duration = Duration::from_millis(100);

/// Answers one kind of request.
pub(crate) type Handler = Box<dyn Fn(&Value, Client<'_>) -> io::Result<()> + Send + Sync>;

/// A connection whose request is being answered.
pub(crate) struct Client<'a> {
    stream: UnixStream,
    stopping: &'a AtomicBool,
}

impl Client<'_> {
    /// The first line of a good answer, with the fields of `answer`; what else is to be said goes into the stream.
    pub(crate) fn accept(mut self, answer: Value) -> io::Result<UnixStream> {
        let mut line = json!({ "bywash": VERSION, "ok": true });
        if let (Value::Object(line), Value::Object(fields)) = (&mut line, answer) {
            line.extend(fields);
        }
        self.write_line(&line)?;
        Ok(self.stream)
    }

    /// The only line of an answer that says no.
    pub(crate) fn refuse(mut self, error: &str) -> io::Result<()> {
        self.write_line(&json!({ "bywash": VERSION, "ok": false, "error": error }))
    }

    /// Who asks, for the log: what the kernel says of the process that connected.
    pub(crate) fn who(&self) -> String {
        match rustix::net::sockopt::socket_peercred(&self.stream) {
            Ok(peer) => format!("process {} of user {}", peer.pid.as_raw_nonzero(), peer.uid.as_raw()),
            Err(_) => "a process".to_owned(),
        }
    }

    fn write_line(&mut self, line: &Value) -> io::Result<()> {
        let mut text = line.to_string();
        text.push('\n');
        Patient { stream: &self.stream, stopping: self.stopping }.write_all(text.as_bytes())
    }
}

/// Writes to a client for as long as that takes, unless the server stops.
pub(crate) struct Patient<'a> {
    pub stream: &'a UnixStream,
    pub stopping: &'a AtomicBool,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                // Nothing was taken for a while.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // ORDERING: Relaxed. A flag on its own. Partner: `Acceptor::drop`.
                    if self.stopping.load(Ordering::Relaxed) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The control socket, open. Dropping it ends all connections and takes the socket away.
pub(crate) struct Server {
    _acceptor: Acceptor,
    _claim: Claim,
}

impl Server {
    /// Listens in `folder`. What `stopping` says when it is set ends answers that go on.
    pub(crate) fn start(
        folder: &Folder,
        stopping: Arc<AtomicBool>,
        handlers: Vec<(&'static str, Handler)>,
    ) -> Result<Self, ControlError> {
        let claim = folder.claim()?;
        let socket = claim.socket();
        let failed = |source| ControlError::System { folder: socket.clone(), source };
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        claim.protect().map_err(failed)?;
        let serve: Serve<UnixStream> = Box::new(move |stream, guest| answer(stream, &guest, &handlers));
        let acceptor = Acceptor::start("control", listener, stopping, serve).map_err(failed)?;
        Ok(Self { _acceptor: acceptor, _claim: claim })
    }
}

fn answer(stream: UnixStream, guest: &Guest<'_>, handlers: &[(&'static str, Handler)]) -> io::Result<()> {
    stream.set_read_timeout(Some(ASK_WITHIN))?;
    stream.set_write_timeout(Some(WRITE_STEP))?;
    let mut line = String::new();
    let read = BufReader::new((&stream).take(MAX_REQUEST_BYTES)).read_line(&mut line);
    let client = Client { stream, stopping: guest.stopping };
    if guest.is_too_many {
        return client.refuse(&format!("{MAX_CONNECTIONS} clients are connected already"));
    }
    match read {
        Ok(_) if line.ends_with('\n') => {}
        Ok(0) => return Ok(()),
        Ok(_) => {
            return client.refuse(&format!("a request is one line of at most {MAX_REQUEST_BYTES} bytes"));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return client.refuse("a request is one line of JSON");
        }
        Err(error) => return Err(error),
    }
    let Ok(request) = serde_json::from_str::<Value>(&line) else {
        return client.refuse("a request is one line of JSON");
    };
    if request["bywash"] != VERSION {
        return client.refuse(&format!("this engine speaks version {VERSION} of the protocol"));
    }
    let name = request["request"].as_str().unwrap_or_default();
    match handlers.iter().find(|(known, _)| *known == name) {
        Some((_, handler)) => handler(&request, client),
        None => {
            let known: Vec<&str> = handlers.iter().map(|(name, _)| *name).collect();
            client.refuse(&format!("no request is called {name:?}; there are {}", known.join(", ")))
        }
    }
}
