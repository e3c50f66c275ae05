//! UDP for threads.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::bell::Bell;
use crate::channel::Channel;
use crate::core_door::UdpEnd;
use crate::failure::Failure;
use crate::net::Net;
use crate::request::Request;
use crate::ring::{Consumer, Producer};
use crate::sync::AtomicU32;
use crate::wake::{Event, Patience, TimedOut};

/// Bytes of each of a socket's rings: some datagrams of the largest size, thousands of small ones.
const RING_BYTES: usize = 512 << 10;

/// Longest payload over IPv4, bytes (RFC 768: 65,535 less both headers). IPv6 could carry 20 more.
pub const MAX_DATAGRAM: usize = 65_507;

/// A UDP socket, bound on every core of the engine. Datagrams are whole or lost; they come in the order in which each core
/// got them. Errors that a router or peer reported are returned only by a [connected](Self::connect) socket, once each.
///
/// Bound to one address, it sends from that; bound to all, from the one that the route gives, as a socket of the system's
/// does. A server of a host with several addresses binds a socket to each, so that answers leave from the one that was asked.
#[derive(Debug)]
pub struct UdpSocket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    at: SocketAddr,
    lanes: Box<[Lane]>,
    /// What goes out goes by the first lane's core.
    tx: Mutex<Producer>,
    settings: Mutex<Settings>,
}

/// The socket on one core.
#[derive(Debug)]
struct Lane {
    channel: Arc<Channel>,
    bell: Bell,
    rx: Mutex<Consumer>,
    told: AtomicU32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    peer: Option<SocketAddr>,
    nonblocking: bool,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    busy_poll: Duration,
    /// The lane that is looked at first, so that none starves.
    turn: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UdpSocket {
    /// Binds `at`; port 0 chooses a free one, and the unspecified address of either family means every address of the
    /// engine, of both families. Blocks until it is bound on all cores.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`; `QuotaExceeded` at the engine's limit of sockets; `ConnectionAborted` when the
    /// engine has stopped.
    pub fn bind(net: &Net, at: SocketAddr) -> io::Result<Self> {
        net.bind(at)
    }

    /// The memory of a new socket.
    pub(crate) fn channels(cores: usize) -> io::Result<Vec<(Arc<Channel>, UdpEndMaker)>> {
        let first = Arc::new(Channel::new(RING_BYTES, RING_BYTES)?);
        let rest = (1..cores).map(|_| Channel::new(RING_BYTES, crate::layout::MIN_RING_BYTES).map(Arc::new));
        let all: io::Result<Vec<_>> = std::iter::once(Ok(first.clone())).chain(rest).collect();
        Ok(all?.into_iter().map(|channel| (channel, UdpEndMaker(first.clone()))).collect())
    }

    pub(crate) fn open(
        at: SocketAddr,
        channels: Vec<(Arc<Channel>, UdpEndMaker)>,
        bells: Vec<Bell>,
    ) -> io::Result<Self> {
        let mut requests = Vec::with_capacity(bells.len());
        let lanes = channels.into_iter().zip(bells).map(|((channel, UdpEndMaker(first)), bell)| {
            requests.push((bell.clone(), UdpEnd::new(at, channel.clone(), first)));
            Lane { channel, bell, rx: Mutex::default(), told: AtomicU32::new(0) }
        });
        let lanes = lanes.collect();
        let socket = Self(Arc::new(Shared { at, lanes, tx: Mutex::default(), settings: Mutex::default() }));
        for (bell, end) in requests {
            let end = end.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            bell.desk.open(Request::Bind(bell.token, Box::new(end)));
        }
        let shared = &socket.0;
        let opened = shared.data().wait(Patience::default(), || shared.opened());
        opened.map_or_else(|_| Err(Failure::Stopped), |(opened, _)| opened)?;
        Ok(socket)
    }

    /// The address it is bound to, with the port that was chosen.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.at)
    }

    /// The peer of a connected socket.
    ///
    /// # Errors
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        lock(&self.0.settings).peer.ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Chooses the peer of [`send`](Self::send), and the only one that [`recv`](Self::recv) and
    /// [`recv_from`](Self::recv_from) hear.
    ///
    /// # Errors
    /// `InvalidInput` for port 0 or an unspecified address.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        check_peer(peer)?;
        lock(&self.0.settings).peer = Some(peer);
        Ok(())
    }

    /// A second handle of the same socket.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.clone()))
    }

    /// Sends one datagram to the peer.
    ///
    /// # Errors
    /// `NotConnected`; as [`send_to`](Self::send_to).
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.send_to(data, self.peer_addr()?)
    }

    /// Sends one datagram. Blocks while there is no room for it; a name server, router or link may still lose it.
    ///
    /// # Errors
    /// `InvalidInput` if it is longer than [`MAX_DATAGRAM`] or cannot be addressed so; `WouldBlock` when there was no room in time;
    /// `ConnectionAborted` when the engine has stopped.
    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        let shared = &self.0;
        shared.blocking(shared.room(), |settings| settings.write_timeout, || shared.try_send(data, to))
    }

    /// As [`recv_from`](Self::recv_from), from the peer.
    ///
    /// # Errors
    /// `NotConnected`; as there.
    pub fn recv(&self, data: &mut [u8]) -> io::Result<usize> {
        self.peer_addr()?;
        self.recv_from(data).map(|(len, _)| len)
    }

    /// Receives one datagram: how much of it was copied, and where it came from. What does not fit is lost.
    ///
    /// # Errors
    /// `WouldBlock` when none came in time; `ConnectionAborted` when the engine has stopped.
    pub fn recv_from(&self, data: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(data, false)
    }

    /// As [`recv_from`](Self::recv_from), but the datagram stays.
    ///
    /// # Errors
    /// As there.
    pub fn peek_from(&self, data: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(data, true)
    }

    fn receive(&self, data: &mut [u8], peek: bool) -> io::Result<(usize, SocketAddr)> {
        let shared = &self.0;
        shared.blocking(shared.data(), |settings| settings.read_timeout, || shared.try_receive(data, peek))
    }

    pub(crate) fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.room().poll(cx, || self.0.try_send(data, to))
    }

    pub(crate) fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        data: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.0.data().poll(cx, || self.0.try_receive(data, false))
    }

    /// The failure that nobody was told yet, which then counts as told.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.0.failure(true).map(io::Error::from))
    }

    /// Whether calls that would wait return `WouldBlock` instead.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        lock(&self.0.settings).nonblocking = nonblocking;
        Ok(())
    }

    /// For how long a receive waits; `None`, the default: for ever.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ErrorKind::InvalidInput.into());
        }
        lock(&self.0.settings).read_timeout = timeout;
        Ok(())
    }

    /// The same for sends.
    ///
    /// # Errors
    /// As there.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ErrorKind::InvalidInput.into());
        }
        lock(&self.0.settings).write_timeout = timeout;
        Ok(())
    }

    /// As [`TcpStream::set_busy_poll`](crate::TcpStream::set_busy_poll).
    pub fn set_busy_poll(&self, spin: Duration) {
        lock(&self.0.settings).busy_poll = spin;
    }
}

/// What a core's end needs beside its own memory.
pub(crate) struct UdpEndMaker(Arc<Channel>);

fn check_peer(peer: SocketAddr) -> io::Result<()> {
    let valid = peer.port() != 0 && !peer.ip().is_unspecified();
    if valid { Ok(()) } else { Err(Failure::Invalid.into()) }
}

impl Shared {
    fn data(&self) -> Event<'_, atomic_waker::AtomicWaker> {
        self.lanes[0].channel.data()
    }

    fn room(&self) -> Event<'_, atomic_waker::AtomicWaker> {
        self.lanes[0].channel.room()
    }

    /// Whether all cores have bound it; `None` while some have not answered.
    fn opened(&self) -> Option<Result<(), Failure>> {
        let mut all = Some(Ok(()));
        for state in self.lanes.iter().map(|lane| lane.channel.state()) {
            if let Some(failure) = state.failure() {
                return Some(Err(failure));
            }
            if !state.is_open() {
                all = None;
            }
        }
        all
    }

    fn blocking<T>(
        &self,
        event: Event<'_, atomic_waker::AtomicWaker>,
        timeout: impl FnOnce(&Settings) -> Option<Duration>,
        mut attempt: impl FnMut() -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let settings = *lock(&self.settings);
        if settings.nonblocking {
            return attempt().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()));
        }
        let patience = Patience { spin: settings.busy_poll, timeout: timeout(&settings) };
        match event.wait(patience, attempt) {
            Ok((done, _)) => done,
            Err(TimedOut) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// The failure to tell now: one that lasts, or any if the socket is connected.
    fn failure(&self, connected: bool) -> Option<Failure> {
        self.lanes.iter().find_map(|lane| {
            let state = lane.channel.state();
            let told = state.failure().is_some_and(|failure| connected || failure.is_lasting());
            told.then(|| state.untold(&lane.told)).flatten()
        })
    }

    fn try_send(&self, data: &[u8], to: SocketAddr) -> Option<io::Result<usize>> {
        if let Err(error) = check_peer(to) {
            return Some(Err(error));
        }
        if data.len() > MAX_DATAGRAM {
            return Some(Err(Failure::TooLong.into()));
        }
        let connected = lock(&self.settings).peer.is_some();
        if let Some(failure) = self.failure(connected) {
            return Some(Err(failure.into()));
        }
        let lane = &self.lanes[0];
        match lock(&self.tx).push_datagram(lane.channel.memory.tx(), to, data) {
            Ok(false) => None,
            Ok(true) => {
                lane.bell.ring(&lane.channel.header().app.bell);
                Some(Ok(data.len()))
            }
            Err(lie) => Some(Err(io::Error::new(ErrorKind::ConnectionAborted, lie))),
        }
    }

    fn try_receive(&self, data: &mut [u8], peek: bool) -> Option<io::Result<(usize, SocketAddr)>> {
        let (peer, first) = {
            let mut settings = lock(&self.settings);
            settings.turn = (settings.turn + 1) % self.lanes.len();
            (settings.peer, settings.turn)
        };
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[(first + index) % self.lanes.len()];
            match lane.take(data, peek, peer) {
                Ok(None) => {}
                Ok(Some(taken)) => return Some(Ok(taken)),
                Err(lie) => return Some(Err(io::Error::new(ErrorKind::ConnectionAborted, lie))),
            }
        }
        self.failure(peer.is_some()).map(|failure| Err(failure.into()))
    }
}

impl Lane {
    /// The next datagram from `peer`, or from anybody; others are thrown away on the way.
    fn take(
        &self,
        data: &mut [u8],
        peek: bool,
        peer: Option<SocketAddr>,
    ) -> Result<Option<(usize, SocketAddr)>, crate::Lie> {
        let ring = self.channel.memory.rx();
        let mut rx = lock(&self.rx);
        while let Some((from, len)) = rx.peek_datagram(ring, data)? {
            let wanted = peer.is_none_or(|peer| peer == from);
            if !wanted || !peek {
                rx.pop_datagram(ring)?;
            }
            if wanted {
                return Ok(Some((len.min(data.len()), from)));
            }
        }
        Ok(None)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.bell.close(&lane.channel.header().app.bell);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
