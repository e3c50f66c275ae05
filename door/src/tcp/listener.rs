//! Accepting on threads.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::net::Net;
use crate::options::ListenOptions;
use crate::tcp::{Closer, TcpStream};
use crate::wake::{Patience, TimedOut};

/// Accepts connections, on every core of the engine. Any number of threads may [`accept`](Self::accept) at once.
///
/// Dropping it (and all its clones) stops listening and resets the connections that nobody has accepted; those accepted
/// stay.
#[derive(Debug)]
pub struct TcpListener {
    closer: Arc<Closer>,
    waiting: Arc<Mutex<Waiting>>,
}

/// How clones of a listener wait.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    nonblocking: bool,
    patience: Patience,
}

impl TcpListener {
    pub(crate) fn new(closer: Closer) -> Self {
        Self { closer: Arc::new(closer), waiting: Arc::default() }
    }

    /// Listens at `at` with [`ListenOptions::default`]. Port 0 chooses a free one; the unspecified address of either family
    /// means every address of the engine, of both families. Blocks until all cores listen.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`; `QuotaExceeded` at the engine's limit of sockets; `ConnectionAborted` when the
    /// engine has stopped.
    pub fn bind(net: &Net, at: SocketAddr) -> io::Result<Self> {
        Self::bind_with(net, at, ListenOptions::default())
    }

    /// As [`bind`](Self::bind), with options.
    ///
    /// # Errors
    /// As there; `InvalidInput` for options out of range.
    pub fn bind_with(net: &Net, at: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        net.listen_with(at, options)
    }

    /// The next connection and its peer's address. Blocks until there is one, unless made
    /// [non-blocking](Self::set_nonblocking).
    ///
    /// # Errors
    /// `WouldBlock` when none came in time; `ConnectionAborted` when the engine has stopped.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let Waiting { nonblocking, patience } = self.waiting();
        if nonblocking {
            return self.try_accept().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()));
        }
        match self.closer.0.event().wait(patience, || self.try_accept()) {
            Ok((accepted, _)) => accepted,
            Err(TimedOut) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn try_accept(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let acceptor = &self.closer.0;
        if let Some(socket) = acceptor.queue.pop() {
            // Without a spare the core makes one itself.
            drop(acceptor.add_spare());
            let peer = socket.peer;
            return Some(Ok((TcpStream::new(Arc::from(socket)), peer)));
        }
        match acceptor.opened() {
            Some(Err(failure)) => Some(Err(failure.into())),
            _ => None,
        }
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.closer.0.event().poll(cx, || self.try_accept())
    }

    /// The address it listens at, with the port that was chosen.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.closer.0.at)
    }

    /// Each accepted connection in turn, for ever; errors do not end it.
    #[must_use]
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// A second handle of the same listener: they share settings and the accept queue.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { closer: self.closer.clone(), waiting: self.waiting.clone() })
    }

    /// Whether [`accept`](Self::accept) returns `WouldBlock` at once.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.set(|waiting| waiting.nonblocking = nonblocking);
        Ok(())
    }

    /// For how long [`accept`](Self::accept) waits; `None`: for ever.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_accept_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ErrorKind::InvalidInput.into());
        }
        self.set(|waiting| waiting.patience.timeout = timeout);
        Ok(())
    }

    /// For how long [`accept`](Self::accept) spins before it sleeps; zero, the default: not at all.
    pub fn set_busy_poll(&self, spin: Duration) {
        self.set(|waiting| waiting.patience.spin = spin);
    }

    fn waiting(&self) -> Waiting {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// See [`TcpListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a>(&'a TcpListener);

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.accept().map(|(stream, _)| stream))
    }
}
