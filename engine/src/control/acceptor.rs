//! A thread that accepts connections, and one for each of them: what the control socket, the telemetry socket and the
//! metrics page share.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::Shutdown;

/// Connections at a time; one more is told so and closed.
pub(super) const MAX_CONNECTIONS: usize = 32;

/// How long to wait after a failure to accept: out of file descriptors, mostly.
const RETRY: Duration = Duration::from_millis(100);

/// A socket that connections come in on.
pub(super) trait Listener: AsFd + Send + 'static {
    type Stream: Send + 'static;

    fn next(&self) -> io::Result<Self::Stream>;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn next(&self) -> io::Result<UnixStream> {
        self.accept().map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn next(&self) -> io::Result<TcpStream> {
        self.accept().map(|(stream, _)| stream)
    }
}

/// A connection's share of its server.
pub(super) struct Guest<'a> {
    /// There are [`MAX_CONNECTIONS`] others: it is to be told so.
    pub is_too_many: bool,
    /// Set when the server is to end.
    pub stopping: &'a AtomicBool,
}

/// Serves one connection, on a thread of its own.
pub(super) type Serve<S> = Box<dyn Fn(S, Guest<'_>) -> io::Result<()> + Send + Sync>;

struct Shared<S> {
    name: &'static str,
    serve: Serve<S>,
    stopping: Arc<AtomicBool>,
    connections: AtomicUsize,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// The threads. Dropping it ends them.
pub(super) struct Acceptor {
    stopping: Arc<AtomicBool>,
    /// The listening socket once more, to wake the thread that waits on it.
    socket: OwnedFd,
    thread: Option<JoinHandle<()>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Acceptor {
    /// Begins to accept. `name` is the thread's, at most 15 bytes. Whoever sees `stopping` set ends.
    pub(super) fn start<L: Listener>(
        name: &'static str,
        listener: L,
        stopping: Arc<AtomicBool>,
        serve: Serve<L::Stream>,
    ) -> io::Result<Self> {
        let socket = listener.as_fd().try_clone_to_owned()?;
        let threads = Arc::<Mutex<Vec<JoinHandle<()>>>>::default();
        let shared = Arc::new(Shared {
            name,
            serve,
            stopping: Arc::clone(&stopping),
            connections: AtomicUsize::new(0),
            threads: Arc::clone(&threads),
        });
        let thread =
            thread::Builder::new().name(name.to_owned()).spawn(move || accept(&listener, &shared))?;
        Ok(Self { stopping, socket, thread: Some(thread), threads })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // ORDERING: Relaxed. A flag on its own; the threads are joined. Partners: whoever looks at `stopping`.
        self.stopping.store(true, Ordering::Relaxed);
        // Ends the wait for connections, also where the socket's file is there no more (unix(7), tcp(7)).
        if rustix::net::shutdown(&self.socket, Shutdown::Both).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept<L: Listener>(listener: &L, shared: &Arc<Shared<L::Stream>>) {
    loop {
        let accepted = listener.next();
        // ORDERING: as in `Acceptor::drop`.
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        match accepted {
            Ok(stream) => begin(stream, shared),
            Err(error) => {
                log::debug!("{}: cannot accept: {error}", shared.name);
                thread::sleep(RETRY);
            }
        }
    }
}

/// Gives a connection a thread.
fn begin<S: Send + 'static>(stream: S, shared: &Arc<Shared<S>>) {
    let serving = Arc::clone(shared);
    // ORDERING: Relaxed. A count on its own.
    let others = shared.connections.fetch_add(1, Ordering::Relaxed);
    let body = move || {
        let guest = Guest { is_too_many: others >= MAX_CONNECTIONS, stopping: &serving.stopping };
        if let Err(error) = (serving.serve)(stream, guest) {
            log::debug!("a client of {}: {error}", serving.name);
        }
        // ORDERING: Relaxed. A count on its own.
        serving.connections.fetch_sub(1, Ordering::Relaxed);
    };
    match thread::Builder::new().name(format!("{}-client", shared.name)).spawn(body) {
        Ok(thread) => {
            let mut threads = shared.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
        Err(error) => {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            log::warn!("no thread for a client of {}: {error}", shared.name);
        }
    }
}
