//! What can go wrong, as values.

use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};
use thiserror::Error;

use crate::icmp::Unreachable;

/// Why a connection is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// Both sides finished and acknowledged it.
    Done,
    /// The peer reset it.
    Reset,
    /// The peer did not answer within the connection's timeout.
    TimedOut,
    /// The peer refused the connection (RST to our SYN).
    Refused,
    /// The network reported that the peer cannot be reached.
    Unreachable(Unreachable),
    /// This side aborted it.
    Aborted,
    /// There is no route to the peer any more.
    NoRoute,
}

/// Why a listener was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ListenError {
    /// Another listener has the endpoint.
    #[error("{0} is in use by another listener; choose another port or close that one first")]
    InUse(IpListenEndpoint),
    /// Port 0.
    #[error("port 0 cannot be listened on; name a port from 1 to 65535")]
    NoPort,
    /// The address is not one of this host's.
    #[error("{0} is not an address of this stack; leave it out or add it to the configuration")]
    NotLocal(IpAddress),
    /// Too many.
    #[error("{0} listeners are the limit (limits.listeners)")]
    TooMany(usize),
}

/// Why a connection was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// Port 0, an address that is not unicast, or two versions of IP.
    #[error("{0} cannot be connected to; name a unicast address of the local one's IP version and a port")]
    BadAddress(IpEndpoint),
    /// The local endpoint is taken.
    #[error("{0} is in use by another connection to the same peer; leave the port out to have one chosen")]
    InUse(IpEndpoint),
    /// The local address is not one of this host's.
    #[error("{0} is not an address of this stack; leave it out or add it to the configuration")]
    NotLocal(IpAddress),
    /// No local address to send from: none configured yet, or no route.
    #[error("no address to reach {0} from; configure one of its IP version and a gateway, or wait for DHCP")]
    NoRoute(IpAddress),
    /// All ports to this peer are taken.
    #[error("no free port towards {0}; close connections or use another local address")]
    NoPort(IpEndpoint),
    /// Too many flows.
    #[error("{0} connections are the limit (limits.flows)")]
    TooMany(usize),
}

/// Why a UDP socket was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BindError {
    /// Another socket has the endpoint.
    #[error("{0} is in use by another UDP socket; choose another port or port 0")]
    InUse(IpListenEndpoint),
    /// The address is not one of this host's.
    #[error("{0} is not an address of this stack; leave it out or add it to the configuration")]
    NotLocal(IpAddress),
    /// No port left to choose.
    #[error("no free UDP port; close sockets first")]
    NoPort,
    /// Too many.
    #[error("{0} UDP sockets are the limit (limits.udp_sockets)")]
    TooMany(usize),
}

/// Why a datagram or an echo request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The socket is closed.
    #[error("the UDP socket is closed")]
    Closed,
    /// More than a datagram holds.
    #[error("{len} bytes do not fit a datagram: at most {max}")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// No address to send from, or no route.
    #[error("no route to {0}; configure an address of its IP version and a gateway")]
    NoRoute(IpAddress),
    /// Port 0, an unspecified address, or one of another IP version than the source's.
    #[error("{0} cannot be sent to; name an address and a port")]
    BadAddress(IpEndpoint),
    /// The source is not an address of this host's, or not the one that the socket is bound to.
    #[error("{0} cannot be sent from; leave it out, or name the socket's address or one of this stack")]
    NotLocal(IpAddress),
    /// The device has no buffers free, or too many packets already wait for the neighbour. Try again later.
    #[error("no buffers free for now; try again after the next turn")]
    NoBuffers,
}
