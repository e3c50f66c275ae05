//! The application's end of a connection: what threads and tasks share, and each call's single try.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bell::Bell;
use crate::channel::Channel;
use crate::core_door::TcpEnd;
use crate::failure::Failure;
use crate::layout::app_state;
use crate::options::TcpOptions;
use crate::ring::{Consumer, Lie, Producer};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::wake::{Patience, Wish, monotonic_ns};

/// What nobody has connected yet says of its addresses.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// One connection. Its drop closes it: the last handle's.
#[derive(Debug)]
pub(crate) struct Socket {
    pub channel: Arc<Channel>,
    /// `None` while it waits, unused, among a listener's spares.
    bell: Option<Bell>,
    pub peer: SocketAddr,
    /// Held for one copy at a time, never asleep: threads that share the stream take turns.
    rx: Mutex<Consumer>,
    tx: Mutex<Producer>,
    settings: Mutex<Settings>,
    /// Failures told so far, see `State::untold`.
    told: AtomicU32,
    /// The wake-up that was measured last.
    measured_ns: AtomicU64,
}

/// What calls of this process look at; the core knows nothing of it, but for the options.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub nonblocking: bool,
    pub read_timeout: Option<Duration>,
    pub write_timeout: Option<Duration>,
    pub busy_poll: Duration,
    pub linger: Option<Duration>,
    pub options: TcpOptions,
}

/// Nobody panics while holding one of these locks; if somebody does, the indices are still right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Socket {
    /// A socket with its memory mapped and nothing else. One system call.
    pub(crate) fn new(options: &TcpOptions) -> io::Result<Self> {
        Ok(Self {
            channel: Arc::new(Channel::new(options.rx_bytes, options.tx_bytes)?),
            bell: None,
            peer: NOWHERE,
            rx: Mutex::default(),
            tx: Mutex::default(),
            settings: Mutex::new(Settings { options: *options, ..Settings::default() }),
            told: AtomicU32::new(0),
            measured_ns: AtomicU64::new(0),
        })
    }

    /// From here on its drop closes the connection.
    pub(crate) fn attach(&mut self, bell: Bell, peer: SocketAddr) {
        (self.bell, self.peer) = (Some(bell), peer);
    }

    /// Its drop does nothing any more.
    pub(crate) fn detach(&mut self) {
        self.bell = None;
    }

    /// The core's end of it.
    pub(crate) fn end(&self) -> io::Result<TcpEnd> {
        TcpEnd::new(self.channel.clone(), lock(&self.settings).options)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    pub(crate) fn local(&self) -> SocketAddr {
        *self.channel.local.get().unwrap_or(&NOWHERE)
    }

    pub(crate) fn settings(&self) -> Settings {
        *lock(&self.settings)
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.settings));
    }

    /// Changes options and tells the core.
    pub(crate) fn set_options(&self, change: impl FnOnce(&mut TcpOptions)) {
        let mut settings = lock(&self.settings);
        change(&mut settings.options);
        settings.options.store(&self.channel.header().app);
        drop(settings);
        self.ring();
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring(&self.channel.header().app.bell);
        }
    }

    /// Sets bits of the application's state, and says which stood before.
    fn say(&self, bits: u32) -> u32 {
        // ORDERING: AcqRel. Bytes written before a shutdown are seen by who sees it. Partner: `TcpEnd::app_state`.
        self.channel.header().app.state.fetch_or(bits, Ordering::AcqRel)
    }

    fn said(&self, bits: u32) -> bool {
        // ORDERING: Relaxed. The application's own word.
        self.channel.header().app.state.load(Ordering::Relaxed) & bits != 0
    }

    /// The failure if it is to be told now.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.channel.state().untold(&self.told)
    }

    /// `None`: still connecting.
    pub(crate) fn try_connected(&self) -> Option<io::Result<()>> {
        let state = self.channel.state();
        if let Some(failure) = state.untold(&self.told) {
            return Some(Err(failure.into()));
        }
        state.is_open().then_some(Ok(()))
    }

    /// Reads, or looks at, what is there; `None`: nothing yet.
    pub(crate) fn try_read(&self, data: &mut [u8], peek: bool) -> Option<io::Result<usize>> {
        if data.is_empty() || self.said(app_state::SHUT_READ) {
            return Some(Ok(0));
        }
        match self.copy(data, peek) {
            Ok(0) => {}
            other => return Some(other),
        }
        let state = self.channel.state();
        if !state.is_finished() && !state.is_closed() && state.failure().is_none() {
            return None;
        }
        // What came before the state counts before it.
        match self.copy(data, peek) {
            Ok(0) if state.is_finished() => Some(Ok(0)),
            Ok(0) => Some(state.untold(&self.told).map_or(Ok(0), |failure| Err(failure.into()))),
            other => Some(other),
        }
    }

    fn copy(&self, data: &mut [u8], peek: bool) -> io::Result<usize> {
        let ring = self.channel.memory.rx();
        let mut rx = lock(&self.rx);
        let count = if peek {
            rx.peek(ring, data).map_err(lied)? as usize
        } else {
            rx.pop(ring, data).map_err(lied)?
        };
        drop(rx);
        if count > 0 && !peek && Wish(&ring.header().events.room).take() {
            self.ring();
        }
        Ok(count)
    }

    /// Writes what there is room for; `None`: none yet.
    pub(crate) fn try_write(&self, data: &[u8]) -> Option<io::Result<usize>> {
        let state = self.channel.state();
        if state.is_closed() || state.failure().is_some() || self.said(app_state::SHUT_WRITE) {
            let error =
                state.untold(&self.told).map_or_else(|| ErrorKind::BrokenPipe.into(), io::Error::from);
            return Some(Err(error));
        }
        if data.is_empty() {
            return Some(Ok(0));
        }
        let written = lock(&self.tx).push(self.channel.memory.tx(), data);
        match written {
            Ok(0) => None,
            Ok(count) => {
                self.ring();
                Some(Ok(count))
            }
            Err(lie) => Some(Err(lied(lie))),
        }
    }

    /// See `TcpStream::shutdown`. Threads of this process that sleep in the same direction are woken.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if self.channel.state().is_closed() {
            return Err(ErrorKind::NotConnected.into());
        }
        self.say(match how {
            Shutdown::Read => app_state::SHUT_READ,
            Shutdown::Write => app_state::SHUT_WRITE,
            Shutdown::Both => app_state::SHUT_READ | app_state::SHUT_WRITE,
        });
        self.ring();
        self.channel.data().notify();
        self.channel.room().notify();
        Ok(())
    }

    /// Resets the connection; every later call fails.
    pub(crate) fn abort(&self) {
        self.say(app_state::ABORT | app_state::SHUT_WRITE);
        self.ring();
    }

    /// How a blocking call is to wait; `None`: not at all.
    pub(crate) fn patience(&self, timeout: impl FnOnce(&Settings) -> Option<Duration>) -> Option<Patience> {
        let settings = self.settings();
        let patience = Patience { spin: settings.busy_poll, timeout: timeout(&settings) };
        (!settings.nonblocking).then_some(patience)
    }

    /// A thread that slept is running again: measures how long that took, if the core woke it.
    pub(crate) fn note_handoff(&self) {
        // ORDERING: Relaxed. Figures; the word that woke this thread orders the stamp. Partner: `TcpEnd::wake`.
        let woken = self.channel.header().core.woken_ns.load(Ordering::Relaxed);
        if woken == 0 || self.measured_ns.swap(woken, Ordering::Relaxed) == woken {
            return;
        }
        let ns = monotonic_ns().saturating_sub(woken).clamp(1, u32::MAX.into());
        self.channel.header().app.handoff_ns.store(u32::try_from(ns).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

fn lied(lie: Lie) -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, lie)
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(bell) = self.bell.take() else { return };
        let linger = lock(&self.settings).linger;
        match linger {
            Some(Duration::ZERO) => self.say(app_state::ABORT),
            Some(_) => self.say(app_state::LINGER),
            None => 0,
        };
        bell.close(&self.channel.header().app.bell);
        if let Some(timeout) = linger.filter(|linger| !linger.is_zero()) {
            let patience = Patience { spin: Duration::ZERO, timeout: Some(timeout) };
            let over = || self.channel.state().is_closed().then_some(());
            // Whether it ended or the time was up: the core goes on by itself.
            drop(self.channel.data().wait(patience, over));
        }
    }
}
