//! An application's handle to an engine: where sockets are opened.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::bell::{Bell, Desk};
use crate::core_bell::CoreBell;
use crate::core_door::{CoreDoor, ListenerEnd};
use crate::failure::Failure;
use crate::lookup::{Answer, Family, lookup};
use crate::options::{ConnectOptions, ListenOptions};
use crate::request::{Connect, Request};
use crate::sync::{AtomicU32, Ordering};
use crate::tcp::{Acceptor, Closer, Socket, TcpListener, TcpStream};
use crate::udp::UdpSocket;
use crate::wake::Patience;

/// How many ports are tried when one is to be chosen.
const PORTS_TRIED: u32 = 64;

/// Ports that are chosen: those of RFC 6335 §6 for this.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// An application's handle to an engine's cores. Cheap to clone; all clones are one.
///
/// Sockets outlive it. When the engine stops, every call on it and on its sockets returns an error, and nobody who sleeps
/// in one sleeps on.
#[derive(Clone, Debug)]
pub struct Net(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    desks: Box<[Arc<Desk>]>,
    /// The core of the next connection.
    next: AtomicU32,
}

/// Makes an engine's door: the application's handle and each core's side, in the order of the cores, whose `bells` are
/// rung when they sleep. `sockets` is each core's limit, 1 to 4,194,304: about 64 bytes each are allocated here and now.
///
/// # Panics
/// If there is no core, or `sockets` is out of range.
#[must_use]
pub fn door(bells: &[Arc<CoreBell>], sockets: u32) -> (Net, Vec<CoreDoor>) {
    assert!(!bells.is_empty() && (1..=1 << 22).contains(&sockets));
    let desks: Box<[_]> = bells.iter().map(|bell| Arc::new(Desk::new(sockets, bell.clone()))).collect();
    let doors = desks.iter().map(|desk| CoreDoor::new(desk.clone(), sockets)).collect();
    (Net(Arc::new(Shared { desks, next: AtomicU32::new(0) })), doors)
}

impl Net {
    /// Number of cores.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.0.desks.len()
    }

    /// Whether the engine has stopped, or one of its cores died.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.desks.iter().any(|desk| desk.is_stopped())
    }

    /// As [`TcpListener::bind`].
    ///
    /// # Errors
    /// As there.
    pub fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.listen_with(at, ListenOptions::default())
    }

    /// As [`TcpListener::bind_with`].
    ///
    /// # Errors
    /// As there.
    pub fn listen_with(&self, at: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
        if !(1..=65_535).contains(&options.backlog) {
            return Err(Failure::Invalid.into());
        }
        self.with_port(at, |at| {
            let spares = Acceptor::spares(&options)?;
            let acceptor = Arc::new(Acceptor::new(at, options, spares, self.bells()?));
            // From here on, dropping it closes it wherever it is open.
            let closer = Closer(acceptor.clone());
            for (index, lane) in acceptor.lanes.iter().enumerate() {
                let end = ListenerEnd::new(acceptor.clone(), index);
                lane.bell.desk.open(Request::Listen(lane.bell.token, end));
            }
            let opened = acceptor.event().wait(Patience::default(), || acceptor.opened());
            opened.map_or_else(|_| Err(Failure::Stopped), |(opened, _)| opened)?;
            Ok(TcpListener::new(closer))
        })
    }

    /// As [`TcpStream::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_with(to, ConnectOptions::default())
    }

    /// As [`TcpStream::connect`], with options.
    ///
    /// # Errors
    /// As there; `InvalidInput` for options out of range.
    pub fn connect_with(&self, to: SocketAddr, options: ConnectOptions) -> io::Result<TcpStream> {
        let socket = self.start_connecting(to, options)?;
        // The core gives up at the same time, and knows why; this is in case it does not.
        let timeout = options.timeout.saturating_add(std::time::Duration::from_secs(1));
        let patience = Patience { timeout: Some(timeout), ..Patience::default() };
        let connected = socket.channel.data().wait(patience, || socket.try_connected());
        connected.map_or_else(|_| Err(ErrorKind::TimedOut.into()), |(connected, _)| connected)?;
        Ok(TcpStream::new(socket))
    }

    /// Asks the next core to connect. Does not block.
    pub(crate) fn start_connecting(
        &self,
        to: SocketAddr,
        options: ConnectOptions,
    ) -> io::Result<Arc<Socket>> {
        if options.timeout.is_zero() || to.port() == 0 || to.ip().is_unspecified() || options.tcp.dscp > 63 {
            return Err(Failure::Invalid.into());
        }
        let mut socket = Socket::new(&options.tcp)?;
        let end = socket.end()?;
        // ORDERING: Relaxed. Only spreads the load.
        let next = self.0.next.fetch_add(1, Ordering::Relaxed) as usize;
        let desk = &self.0.desks[next % self.cores()];
        let bell = Bell { desk: desk.clone(), token: token(desk)? };
        let request = Request::Connect(bell.token, Box::new(Connect { to, timeout: options.timeout, end }));
        socket.attach(bell, to);
        desk.open(request);
        Ok(Arc::new(socket))
    }

    /// As [`UdpSocket::bind`].
    ///
    /// # Errors
    /// As there.
    pub fn bind(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        self.with_port(at, |at| {
            let channels = UdpSocket::channels(self.cores())?;
            UdpSocket::open(at, channels, self.bells()?)
        })
    }

    /// The addresses of a name, IPv4 first; an address in text form is its own. Blocks for as long as the engine's resolver
    /// tries. At most 16 of each family.
    ///
    /// # Errors
    /// `NotFound` when there is no such name or it has no address; `TimedOut` when no name server answers;
    /// `ConnectionAborted` when the engine has stopped.
    pub fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let answers = self.start_resolving(name)?;
        let [v4, v6] = answers.map(|answer| {
            let waited = answer.event().wait(Patience::default(), || answer.get());
            waited.map_or(Err(Failure::Stopped), |(addresses, _)| addresses)
        });
        join(v4, v6)
    }

    pub(crate) fn start_resolving(&self, name: &str) -> io::Result<[Answer; 2]> {
        let desk = &self.0.desks[0];
        let ask = |family| {
            let (answer, end) = lookup(name, family);
            desk.open(Request::Resolve(token(desk)?, end));
            io::Result::Ok(answer)
        };
        Ok([ask(Family::V4)?, ask(Family::V6)?])
    }

    pub(crate) fn poll_resolved(
        cx: &mut Context<'_>,
        answers: &[Answer; 2],
    ) -> Poll<io::Result<Vec<IpAddr>>> {
        let [v4, v6] = answers.each_ref().map(|answer| answer.event().poll(cx, || answer.get()));
        match (v4, v6) {
            (Poll::Ready(v4), Poll::Ready(v6)) => Poll::Ready(join(v4, v6)),
            _ => Poll::Pending,
        }
    }

    /// A new token at each core, or at none.
    fn bells(&self) -> io::Result<Vec<Bell>> {
        let mut bells: Vec<Bell> = Vec::with_capacity(self.cores());
        for desk in &self.0.desks {
            match token(desk) {
                Ok(token) => bells.push(Bell { desk: desk.clone(), token }),
                Err(error) => {
                    bells.iter().for_each(|bell| bell.desk.free(bell.token));
                    return Err(error);
                }
            }
        }
        Ok(bells)
    }

    /// Calls `open` with `at`; if that leaves the port open, with a random one until one is free on all cores.
    fn with_port<T>(&self, at: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
        if at.port() != 0 {
            return open(at);
        }
        let mut result = Err(Failure::AddrInUse.into());
        for _ in 0..PORTS_TRIED {
            let random = u64::from(getrandom::u32().map_err(io::Error::other)?);
            let span = u64::from(DYNAMIC_PORTS.end() - DYNAMIC_PORTS.start()) + 1;
            #[allow(clippy::cast_possible_truncation)] // below `span`
            let port = DYNAMIC_PORTS.start() + ((random * span) >> 32) as u16;
            result = open(SocketAddr::new(at.ip(), port));
            if !matches!(&result, Err(error) if error.kind() == ErrorKind::AddrInUse) {
                break;
            }
        }
        result
    }
}

fn token(desk: &Desk) -> io::Result<crate::bell::Token> {
    if desk.is_stopped() {
        return Err(Failure::Stopped.into());
    }
    desk.token().ok_or_else(|| Failure::NoRoom.into())
}

/// One family's failure does not matter while the other has an address.
fn join(v4: Result<Vec<IpAddr>, Failure>, v6: Result<Vec<IpAddr>, Failure>) -> io::Result<Vec<IpAddr>> {
    let failure = *v4.as_ref().err().or(v6.as_ref().err()).unwrap_or(&Failure::NoSuchName);
    let addresses: Vec<_> = v4.into_iter().chain(v6).flatten().collect();
    if addresses.is_empty() { Err(failure.into()) } else { Ok(addresses) }
}
