//! What one connection may be told to do differently.

use std::time::Duration;

use smoltcp::wire::IpListenEndpoint;

/// Congestion control of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 5681.
    Reno,
    /// None: only the peer's window limits.
    None,
}

/// Options of a TCP connection. All durations are real time: the stack converts them to a flow's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Receive buffer in bytes, 1 KiB to 16 MiB; memory is touched only when bytes arrive. Also the largest window.
    pub rx_bytes: usize,
    /// Send buffer in bytes, 1 KiB to 16 MiB; memory is touched only when bytes are sent.
    pub tx_bytes: usize,
    /// Send small segments at once (Nagle's algorithm off, RFC 9293 §3.7.4).
    pub nodelay: bool,
    /// How long an acknowledgement may wait for data to travel with (RFC 9293 §3.8.6.3); `None`: not at all.
    pub ack_delay: Option<Duration>,
    /// After how much silence to probe the peer (RFC 9293 §3.8.4); `None`: never.
    pub keep_alive: Option<Duration>,
    /// How long the peer may leave data, FIN or keep-alive probes unanswered before the connection is given up
    /// (RFC 9293 §3.8.3); `None`: for ever.
    pub timeout: Option<Duration>,
    /// Congestion control.
    pub congestion: Congestion,
    /// Differentiated services code point of all its packets, 0 to 63. Urgent ones (see
    /// [`StackConfig::urgent`](crate::StackConfig::urgent)) are served first.
    pub dscp: u8,
    /// IPv4 TTL or IPv6 hop limit, 1 to 255.
    pub hop_limit: u8,
}

impl Default for TcpOptions {
    fn default() -> Self {
        TcpOptions {
            rx_bytes: 64 * 1024,
            tx_bytes: 64 * 1024,
            nodelay: true,
            ack_delay: Some(Duration::from_millis(10)),
            keep_alive: None,
            timeout: Some(Duration::from_secs(120)),
            congestion: Congestion::Cubic,
            dscp: 0,
            hop_limit: 64,
        }
    }
}

impl TcpOptions {
    /// Smallest buffer.
    pub const MIN_BUFFER_BYTES: usize = 1024;
    /// Largest buffer.
    pub const MAX_BUFFER_BYTES: usize = 16 * 1024 * 1024;

    /// The same with every value moved into its range.
    pub(crate) fn clamped(mut self) -> Self {
        self.rx_bytes = self.rx_bytes.clamp(Self::MIN_BUFFER_BYTES, Self::MAX_BUFFER_BYTES);
        self.tx_bytes = self.tx_bytes.clamp(Self::MIN_BUFFER_BYTES, Self::MAX_BUFFER_BYTES);
        self.dscp = self.dscp.min(63);
        self.hop_limit = self.hop_limit.max(1);
        self
    }
}

/// Options of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// How many connections may be half open (SYN seen, handshake not complete) at once; the oldest makes room for a
    /// new one. The limit of the whole stack is [`Limits::half_open`](crate::Limits::half_open).
    pub backlog: usize,
    /// Of the connections it makes.
    pub tcp: TcpOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions { backlog: 1024, tcp: TcpOptions::default() }
    }
}

/// Options of an outgoing connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Local address and port; what is missing (no address, port 0) is chosen.
    pub local: Option<IpListenEndpoint>,
    /// The service's own number for the connection.
    pub tag: u64,
    /// How long the handshake may take.
    pub timeout: Duration,
    /// Of the connection.
    pub tcp: TcpOptions,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions { local: None, tag: 0, timeout: Duration::from_secs(60), tcp: TcpOptions::default() }
    }
}
