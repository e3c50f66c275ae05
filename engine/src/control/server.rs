//! Accepts connections, reads one request of each, and hands it to whoever answers it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use super::VERSION;
use super::directory::{Claim, ControlError, Folder};

/// Connections at a time; one more is told so and closed.
pub(crate) const MAX_CONNECTIONS: usize = 32;

/// The longest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 4096;

/// How long a client may take to ask.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// How long a client that does not read is waited for before the server looks whether it is to stop.
pub(super) const WRITE_STEP: Duration = Duration::from_millis(100);

/// How long to wait after a failure to accept: out of file descriptors, mostly.
const RETRY: Duration = Duration::from_millis(100);

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
                    // ORDERING: Relaxed. A flag on its own. Partner: `Server::drop`.
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

/// What the accepting thread and its connections share.
struct Shared {
    handlers: Vec<(&'static str, Handler)>,
    stopping: Arc<AtomicBool>,
    connections: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The control socket, open. Dropping it ends all connections and takes the socket away.
pub(crate) struct Server {
    shared: Arc<Shared>,
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
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
        let connections = AtomicUsize::new(0);
        let shared = Arc::new(Shared { handlers, stopping, connections, threads: Mutex::default() });
        let accepting = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &accepting))
            .map_err(failed)?;
        Ok(Self { shared, socket, thread: Some(thread), _claim: claim })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // ORDERING: Relaxed. A flag on its own; the threads are joined. Partners: the loads in this file.
        self.shared.stopping.store(true, Ordering::Relaxed);
        // A connection wakes the thread that accepts them. If the socket was deleted nothing does, and it stays.
        if UnixStream::connect(&self.socket).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
        let mut threads = self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        // ORDERING: as in `Server::drop`.
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        match accepted {
            Ok((stream, _)) => begin(stream, shared),
            Err(error) => {
                log::debug!("cannot accept on the control socket: {error}");
                thread::sleep(RETRY);
            }
        }
    }
}

/// Gives a connection a thread.
fn begin(stream: UnixStream, shared: &Arc<Shared>) {
    let answering = Arc::clone(shared);
    // ORDERING: Relaxed. A count on its own.
    let others = shared.connections.fetch_add(1, Ordering::Relaxed);
    let body = move || {
        if let Err(error) = answer(stream, others, &answering) {
            log::debug!("a client of the control socket: {error}");
        }
        // ORDERING: Relaxed. A count on its own.
        answering.connections.fetch_sub(1, Ordering::Relaxed);
    };
    match thread::Builder::new().name("control-client".to_owned()).spawn(body) {
        Ok(thread) => {
            let mut threads = shared.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
        Err(error) => {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            log::warn!("no thread for a client of the control socket: {error}");
        }
    }
}

fn answer(stream: UnixStream, others: usize, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(ASK_WITHIN))?;
    stream.set_write_timeout(Some(WRITE_STEP))?;
    let mut line = String::new();
    let read = BufReader::new((&stream).take(MAX_REQUEST_BYTES)).read_line(&mut line);
    let client = Client { stream, stopping: &shared.stopping };
    if others >= MAX_CONNECTIONS {
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
    match shared.handlers.iter().find(|(known, _)| *known == name) {
        Some((_, handler)) => handler(&request, client),
        None => {
            let known: Vec<&str> = shared.handlers.iter().map(|(name, _)| *name).collect();
            client.refuse(&format!("no request is called {name:?}; there are {}", known.join(", ")))
        }
    }
}
