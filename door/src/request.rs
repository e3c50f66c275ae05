//! What an application asks of a core. Each request carries the core's end of what it opens; dropping it unanswered tells
//! the application that the engine has stopped.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bell::Token;
use crate::core_door::{ListenerEnd, TcpEnd, UdpEnd};
use crate::lookup::LookupEnd;

/// Something to open.
#[derive(Debug)]
pub enum Request {
    /// Listen; answer with [`ListenerEnd::opened`] or [`ListenerEnd::fail`].
    Listen(Token, ListenerEnd),
    /// Connect; answer with [`TcpEnd::opened`] or [`TcpEnd::fail`].
    Connect(Token, Box<Connect>),
    /// Bind a UDP socket; answer with [`UdpEnd::opened`] or [`UdpEnd::fail`].
    Bind(Token, Box<UdpEnd>),
    /// Look up a name; answer with [`LookupEnd::answer`], then free the token.
    Resolve(Token, LookupEnd),
}

/// A connection to make.
#[derive(Debug)]
pub struct Connect {
    /// The peer.
    pub to: SocketAddr,
    /// For how long to try.
    pub timeout: Duration,
    /// The core's end, with the options.
    pub end: TcpEnd,
}
