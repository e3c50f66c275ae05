//! The door's words in the stack's, and back.

use std::net::SocketAddr;

use door::Failure;

use crate::{
    BindError, Closed, Conn, ConnectError, IpEndpoint, IpListenEndpoint, ListenError, ResolveError,
    SendError, TcpOptions, Unreachable,
};

/// IPv4 addresses in IPv6 form (RFC 4291 §2.5.5.2) become what they are.
pub(super) fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(address.ip().to_canonical().into(), address.port())
}

/// The unspecified address of either family is every address of both.
pub(super) fn listen_endpoint(address: SocketAddr) -> IpListenEndpoint {
    let ip = address.ip().to_canonical();
    IpListenEndpoint { addr: (!ip.is_unspecified()).then(|| ip.into()), port: address.port() }
}

pub(super) fn socket_addr(endpoint: IpEndpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}

/// The socket's buffers are as large as the rings, so that backpressure sets in where the application chose.
pub(super) fn options(of: &door::TcpOptions) -> TcpOptions {
    let default = TcpOptions::default();
    TcpOptions {
        rx_bytes: of.rx_bytes,
        tx_bytes: of.tx_bytes,
        nodelay: of.nodelay,
        keep_alive: of.keep_alive,
        timeout: of.timeout.or(default.timeout),
        hop_limit: of.hop_limit.unwrap_or(default.hop_limit),
        dscp: of.dscp,
        ..default
    }
}

/// Options that changed on a living connection; sizes do not.
pub(super) fn apply(of: &door::TcpOptions, conn: &mut Conn<'_>) {
    let options = options(of);
    conn.set_nodelay(options.nodelay);
    conn.set_keep_alive(options.keep_alive);
    conn.set_timeout(options.timeout);
    conn.set_hop_limit(options.hop_limit);
    conn.set_dscp(options.dscp);
}

pub(super) fn unreachable(why: Unreachable) -> Failure {
    match why {
        Unreachable::Network => Failure::NetUnreachable,
        Unreachable::Port | Unreachable::Protocol => Failure::Refused,
        Unreachable::Host | Unreachable::Prohibited | Unreachable::TimeExceeded | Unreachable::Other => {
            Failure::HostUnreachable
        }
    }
}

/// `None`: it ended as it should.
pub(super) fn closed_failure(why: Closed) -> Option<Failure> {
    Some(match why {
        Closed::Done => return None,
        Closed::Reset => Failure::Reset,
        Closed::TimedOut => Failure::TimedOut,
        Closed::Refused => Failure::Refused,
        Closed::Unreachable(why) => unreachable(why),
        Closed::Aborted => Failure::Aborted,
        Closed::NoRoute => Failure::NetUnreachable,
    })
}

pub(super) fn listen_failure(error: ListenError) -> Failure {
    match error {
        ListenError::InUse(_) => Failure::AddrInUse,
        ListenError::NotLocal(_) => Failure::AddrNotAvailable,
        ListenError::NoPort => Failure::Invalid,
        ListenError::TooMany(_) => Failure::NoRoom,
    }
}

pub(super) fn connect_failure(error: ConnectError) -> Failure {
    match error {
        ConnectError::BadAddress(_) => Failure::Invalid,
        ConnectError::InUse(_) => Failure::AddrInUse,
        ConnectError::NotLocal(_) | ConnectError::NoPort(_) => Failure::AddrNotAvailable,
        ConnectError::NoRoute(_) => Failure::NetUnreachable,
        ConnectError::TooMany(_) => Failure::NoRoom,
    }
}

pub(super) fn bind_failure(error: BindError) -> Failure {
    match error {
        BindError::InUse(_) => Failure::AddrInUse,
        BindError::NotLocal(_) | BindError::NoPort => Failure::AddrNotAvailable,
        BindError::TooMany(_) => Failure::NoRoom,
    }
}

pub(super) fn send_failure(error: SendError) -> Failure {
    match error {
        SendError::TooLong { .. } => Failure::TooLong,
        SendError::NoRoute(_) => Failure::NetUnreachable,
        SendError::BadAddress(_) => Failure::Invalid,
        SendError::NotLocal(_) => Failure::AddrNotAvailable,
        SendError::Closed | SendError::NoBuffers => Failure::NoRoom,
    }
}

pub(super) fn resolve_failure(error: ResolveError) -> Failure {
    match error {
        ResolveError::NoSuchName | ResolveError::NoAddress => Failure::NoSuchName,
        ResolveError::NameTooLong { .. } | ResolveError::Malformed { .. } => Failure::Invalid,
        ResolveError::TooMany(_) => Failure::NoRoom,
        _ => Failure::NoNameServer,
    }
}
