//! Reading and writing on threads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::net::Net;
use crate::options::ConnectOptions;
use crate::tcp::Socket;
use crate::wake::TimedOut;

/// A connection.
///
/// It behaves as `std::net::TcpStream` does on Linux: reads and writes block unless told otherwise; a read returns 0 after
/// the peer has finished; a failure is reported once, by the first call that meets it, after which reads return 0 and
/// writes `BrokenPipe`. When the engine stops, every call that would wait returns `ConnectionAborted`, for good.
///
/// Several threads may use one stream; dropping the last handle closes the connection: gracefully, unless there are bytes
/// that nobody read (then the peer is reset, RFC 1122 §4.2.2.13) or [`set_linger`](Self::set_linger) says otherwise.
#[derive(Debug)]
pub struct TcpStream(pub(super) Arc<Socket>);

impl TcpStream {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self(socket)
    }

    /// Connects to `to`, with [`ConnectOptions::default`]: blocks for a minute at most.
    ///
    /// # Errors
    /// `ConnectionRefused`, `TimedOut`, `HostUnreachable`, `NetworkUnreachable`; `QuotaExceeded` at the engine's limit of
    /// sockets; `ConnectionAborted` when the engine has stopped.
    pub fn connect(net: &Net, to: SocketAddr) -> io::Result<Self> {
        net.connect_with(to, ConnectOptions::default())
    }

    /// As [`connect`](Self::connect), but gives up after `timeout`.
    ///
    /// # Errors
    /// As there; `InvalidInput` for a timeout of zero.
    pub fn connect_timeout(net: &Net, to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        net.connect_with(to, ConnectOptions { timeout, ..ConnectOptions::default() })
    }

    /// A second handle of the same connection: they share settings, and each byte goes to one of them.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.clone()))
    }

    /// The peer's address.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.peer)
    }

    /// This side's address.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local())
    }

    /// Ends one direction, or both. Reads return 0 at once after `Read`; the peer sees the end of the stream after all
    /// bytes written before `Write`. Threads that sleep in such a call return.
    ///
    /// # Errors
    /// `NotConnected` when the connection is over already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    /// Resets the connection at once: what was written and not yet sent is lost.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// As [`read`](Read::read), but the bytes stay to be read again.
    ///
    /// # Errors
    /// As `read`.
    pub fn peek(&self, data: &mut [u8]) -> io::Result<usize> {
        self.receive(data, true)
    }

    fn receive(&self, data: &mut [u8], peek: bool) -> io::Result<usize> {
        let socket = &self.0;
        // Nothing to wait for: settings and clocks are not looked at.
        if let Some(done) = socket.try_read(data, peek) {
            return done;
        }
        let Some(patience) = socket.patience(|settings| settings.read_timeout) else {
            return Err(ErrorKind::WouldBlock.into());
        };
        match socket.channel.data().wait(patience, || socket.try_read(data, peek)) {
            Ok((done, slept)) => {
                if slept {
                    socket.note_handoff();
                }
                done
            }
            Err(TimedOut) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn transmit(&self, data: &[u8]) -> io::Result<usize> {
        let socket = &self.0;
        if let Some(done) = socket.try_write(data) {
            return done;
        }
        let Some(patience) = socket.patience(|settings| settings.write_timeout) else {
            return Err(ErrorKind::WouldBlock.into());
        };
        match socket.channel.room().wait(patience, || socket.try_write(data)) {
            Ok((done, slept)) => {
                if slept {
                    socket.note_handoff();
                }
                done
            }
            Err(TimedOut) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// One task reads at a time: of several only the last to ask is woken.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>, data: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.channel.data().poll(cx, || self.0.try_read(data, false))
    }

    /// One task writes at a time.
    pub(crate) fn poll_transmit(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.channel.room().poll(cx, || self.0.try_write(data))
    }

    pub(crate) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.channel.data().poll(cx, || self.0.try_connected())
    }

    /// The failure that nobody was told yet, which then counts as told.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.0.failure().map(io::Error::from))
    }
}

/// Options.
impl TcpStream {
    /// Whether calls that would wait return `WouldBlock` instead.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.0.set(|settings| settings.nonblocking = nonblocking);
        Ok(())
    }

    /// For how long a read waits before it returns `WouldBlock`; `None`, the default: for ever.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = not_zero(timeout)?;
        self.0.set(|settings| settings.read_timeout = timeout);
        Ok(())
    }

    /// The same for writes.
    ///
    /// # Errors
    /// As there.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = not_zero(timeout)?;
        self.0.set(|settings| settings.write_timeout = timeout);
        Ok(())
    }

    /// See [`set_read_timeout`](Self::set_read_timeout).
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.settings().read_timeout)
    }

    /// See [`set_write_timeout`](Self::set_write_timeout).
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.settings().write_timeout)
    }

    /// For how long a call spins before it sleeps, as `SO_BUSY_POLL` does; zero, the default: not at all. A spinning thread
    /// sees a byte within the time of a few cache misses, and costs a core meanwhile.
    pub fn set_busy_poll(&self, spin: Duration) {
        self.0.set(|settings| settings.busy_poll = spin);
    }

    /// What the last handle's drop does: `None` returns at once and the engine sends what was written; zero resets the
    /// connection; anything else blocks until all is sent and acknowledged, for so long at most, and then leaves the rest
    /// to the engine.
    ///
    /// # Errors
    /// None: as in `socket2`.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.0.set(|settings| settings.linger = linger);
        Ok(())
    }

    /// See [`set_linger`](Self::set_linger).
    ///
    /// # Errors
    /// None: as in `socket2`.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        Ok(self.0.settings().linger)
    }

    /// Whether small writes are sent at once; the default is that they are.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.set_options(|options| options.nodelay = nodelay);
        Ok(())
    }

    /// See [`set_nodelay`](Self::set_nodelay).
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.0.settings().options.nodelay)
    }

    /// How often a silent peer is asked whether it is there; `None`, the default: never.
    ///
    /// # Errors
    /// `InvalidInput` for an interval of zero.
    pub fn set_keepalive(&self, interval: Option<Duration>) -> io::Result<()> {
        let interval = not_zero(interval)?;
        self.0.set_options(|options| options.keep_alive = interval);
        Ok(())
    }

    /// After how long without an answer of the peer the connection fails with `TimedOut`; `None`: the engine's
    /// default.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = not_zero(timeout)?;
        self.0.set_options(|options| options.timeout = timeout);
        Ok(())
    }

    /// Time to live, or hop limit, of what is sent.
    ///
    /// # Errors
    /// `InvalidInput` unless it is 1 to 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let limit = u8::try_from(ttl).ok().filter(|limit| *limit != 0).ok_or(ErrorKind::InvalidInput)?;
        self.0.set_options(|options| options.hop_limit = Some(limit));
        Ok(())
    }

    /// Differentiated services code point of what is sent.
    ///
    /// # Errors
    /// `InvalidInput` if it is above 63.
    pub fn set_dscp(&self, dscp: u8) -> io::Result<()> {
        if dscp > 63 {
            return Err(ErrorKind::InvalidInput.into());
        }
        self.0.set_options(|options| options.dscp = dscp);
        Ok(())
    }
}

/// Zero is neither "never" nor "at once": refused, as the standard library does.
fn not_zero(duration: Option<Duration>) -> io::Result<Option<Duration>> {
    if duration.is_some_and(|duration| duration.is_zero()) {
        return Err(ErrorKind::InvalidInput.into());
    }
    Ok(duration)
}

impl Read for &TcpStream {
    /// Blocks until there is something; at most one system call, to sleep.
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        self.receive(data, false)
    }
}

impl Write for &TcpStream {
    /// Writes what there is room for, at least one byte; blocks while there is none.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.transmit(data)
    }

    /// Does nothing: the core takes what was written without being asked.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        self.receive(data, false)
    }
}

impl Write for TcpStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.transmit(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
