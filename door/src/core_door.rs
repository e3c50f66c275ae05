//! The core's side of the door. Nothing here blocks; a system call is made only to wake somebody who sleeps.
//!
//! ```text
//!   CoreDoor::next ─► Opened(request) ─► its end, kept by the token
//!                 └─► Rung(token) ─► end.answer() ─► bytes both ways, state, options
//!   once a turn:  full_fence(), then end.wake() of each end touched
//! ```
//!
//! Whatever happens to the core, its ends are dropped, and each tells its socket in the drop that the engine has stopped.

mod listener_end;
mod tcp_end;
mod udp_end;

use std::sync::Arc;

use crate::bell::{Bell, Desk, Knock, Token};

pub use listener_end::{ListenerEnd, Refusal};
pub use tcp_end::{AppState, TcpEnd};
pub use udp_end::UdpEnd;

/// One core's side of an engine's door.
#[derive(Debug)]
pub struct CoreDoor {
    desk: Arc<Desk>,
    sockets: u32,
}

impl CoreDoor {
    pub(crate) fn new(desk: Arc<Desk>, sockets: u32) -> Self {
        Self { desk, sockets }
    }

    /// How many sockets there can be: tokens are below it.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.sockets as usize
    }

    /// Whether nobody has called.
    #[must_use]
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.desk.is_quiet()
    }

    /// The next request or ring, in the order in which they came. The caller bounds how many it takes a turn.
    #[must_use]
    #[inline]
    pub fn next_knock(&mut self) -> Option<Knock> {
        self.desk.next()
    }

    /// A token for a connection that the core accepts; `None` when all are in use.
    #[must_use]
    pub fn token(&mut self) -> Option<Token> {
        self.desk.token()
    }

    /// Gives back a token: of a socket whose last ring was answered (see [`TcpEnd::answer`]), of a lookup that was
    /// answered, or of a connection that was refused.
    pub fn free(&mut self, token: Token) {
        debug_assert!(token < self.sockets);
        self.desk.free(token);
    }

    /// Hands a new connection to the threads that accept. Allocates only when the listener's spare sockets are used up.
    ///
    /// # Errors
    /// [`Refusal`]; the token is the caller's again.
    pub fn admit(
        &self,
        listener: &ListenerEnd,
        token: Token,
        local: std::net::SocketAddr,
        peer: std::net::SocketAddr,
    ) -> Result<TcpEnd, Refusal> {
        listener.admit(Bell { desk: self.desk.clone(), token }, local, peer)
    }
}

impl Drop for CoreDoor {
    fn drop(&mut self) {
        self.desk.stop();
    }
}
