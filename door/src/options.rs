//! What can be set of a connection, and how it is written in shared memory.

use std::time::Duration;

use crate::layout::AppLine;
use crate::sync::Ordering;

/// How a connection is to behave. Sizes count when it is made, all else can be changed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Bytes of the ring from the core: a power of two from 1 KiB to 1 GiB.
    pub rx_bytes: usize,
    /// Bytes of the ring to the core, likewise.
    pub tx_bytes: usize,
    /// Send at once instead of gathering small writes (RFC 896).
    pub nodelay: bool,
    /// Ask a silent peer whether it is there, this often.
    pub keep_alive: Option<Duration>,
    /// Give up when the peer has not answered for this long (RFC 5482); `None`: the engine's default.
    pub timeout: Option<Duration>,
    /// Time to live, 1 to 255; `None`: the stack's default.
    pub hop_limit: Option<u8>,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
}

impl Default for TcpOptions {
    /// Rings of 64 KiB, small writes sent at once, no keep-alive, the engine's timeout.
    fn default() -> Self {
        Self {
            rx_bytes: 64 << 10,
            tx_bytes: 64 << 10,
            nodelay: true,
            keep_alive: None,
            timeout: None,
            hop_limit: None,
            dscp: 0,
        }
    }
}

/// How a listener is to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// How many connections may wait to be accepted, over all cores, 1 to 65,535. More are reset, and counted as
    /// `accept_full`: the peer hears at once, where the system's sockets would have it send its SYN again. It is also how
    /// many handshakes may be under way on each core, of which the oldest makes room. So it is to be no less than the
    /// connections that may come in one burst.
    pub backlog: usize,
    /// How each accepted connection begins.
    pub tcp: TcpOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 1024, tcp: TcpOptions::default() }
    }
}

/// How a connection is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// For how long the stack tries.
    pub timeout: Duration,
    /// How the connection begins.
    pub tcp: TcpOptions,
}

impl Default for ConnectOptions {
    /// Tries for a minute.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), tcp: TcpOptions::default() }
    }
}

/// Milliseconds of an optional duration; 0 for none, at least 1 for some.
fn to_ms(duration: Option<Duration>) -> u32 {
    duration.map_or(0, |duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1))
}

fn from_ms(ms: u32) -> Option<Duration> {
    (ms != 0).then(|| Duration::from_millis(ms.into()))
}

impl TcpOptions {
    /// The application's: writes them where the core finds them.
    pub(crate) fn store(&self, line: &AppLine) {
        // ORDERING: Relaxed, then Release. The words come before the count that announces them. Two threads that set
        // options at once are kept apart by the socket's lock. Partner: `load`.
        line.nodelay.store(self.nodelay.into(), Ordering::Relaxed);
        line.keep_alive_ms.store(to_ms(self.keep_alive), Ordering::Relaxed);
        line.timeout_ms.store(to_ms(self.timeout), Ordering::Relaxed);
        line.hop_limit.store(self.hop_limit.unwrap_or(0).into(), Ordering::Relaxed);
        line.dscp.store(self.dscp.into(), Ordering::Relaxed);
        line.options.fetch_add(1, Ordering::Release);
    }

    /// The core's: the options if they changed since `seen`. Whatever stands there becomes something allowed.
    pub(crate) fn load(&mut self, line: &AppLine, seen: &mut u32) -> bool {
        // ORDERING: Acquire, then Relaxed. Partner: `store`. A mixture of two settings is followed by another count.
        let now = line.options.load(Ordering::Acquire);
        if now == *seen {
            return false;
        }
        *seen = now;
        self.nodelay = line.nodelay.load(Ordering::Relaxed) != 0;
        self.keep_alive = from_ms(line.keep_alive_ms.load(Ordering::Relaxed));
        self.timeout = from_ms(line.timeout_ms.load(Ordering::Relaxed));
        self.hop_limit =
            u8::try_from(line.hop_limit.load(Ordering::Relaxed)).ok().filter(|limit| *limit != 0);
        self.dscp = u8::try_from(line.dscp.load(Ordering::Relaxed) & 63).unwrap_or(0);
        true
    }
}
