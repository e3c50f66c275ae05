//! The core's end of a listener.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::bell::{self, Bell};
use crate::core_door::TcpEnd;
use crate::failure::Failure;
use crate::options::TcpOptions;
use crate::tcp::{Acceptor, Socket};
use crate::wake::full_fence;

/// Why a connection was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many wait as the backlog allows.
    #[error("the accept queue is full")]
    Full,
    /// The application has closed the listener, and its core has not heard of it yet.
    #[error("the listener is being closed")]
    Closed,
    /// No memory could be mapped for its rings.
    #[error("no memory for the connection's rings")]
    NoMemory,
}

/// The core's end of a listener. A listener has one of them on each core; all hand over to the same threads.
#[derive(Debug)]
pub struct ListenerEnd {
    acceptor: Arc<Acceptor>,
    /// Which of the listener's cores this is.
    lane: usize,
}

impl ListenerEnd {
    pub(crate) fn new(acceptor: Arc<Acceptor>, lane: usize) -> Self {
        Self { acceptor, lane }
    }

    /// The address to listen at; the unspecified one stands for every address of the stack, of both families.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        self.acceptor.at
    }

    /// How many connections may wait.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.acceptor.backlog()
    }

    /// How each connection begins.
    #[must_use]
    pub fn options(&self) -> &TcpOptions {
        &self.acceptor.options.tcp
    }

    /// As [`TcpEnd::answer`].
    #[must_use]
    pub fn answer(&self) -> bool {
        bell::answer(&self.acceptor.lanes[self.lane].word)
    }

    /// The core listens.
    pub fn opened(&mut self) {
        self.acceptor.lanes[self.lane].say(Ok(()));
    }

    /// The core cannot listen.
    pub fn fail(&mut self, failure: Failure) {
        self.acceptor.lanes[self.lane].say(Err(failure));
    }

    /// See [`CoreDoor::admit`](super::CoreDoor::admit).
    pub(crate) fn admit(&self, bell: Bell, local: SocketAddr, peer: SocketAddr) -> Result<TcpEnd, Refusal> {
        let acceptor = &self.acceptor;
        if acceptor.is_closed() {
            return Err(Refusal::Closed);
        }
        if acceptor.queue.is_full() {
            return Err(Refusal::Full);
        }
        let socket =
            acceptor.spares.pop().map_or_else(|| Socket::new(&self.acceptor.options.tcp).map(Box::new), Ok);
        let mut socket = socket.map_err(|_| Refusal::NoMemory)?;
        let mut end =
            TcpEnd::new(socket.channel.clone(), self.acceptor.options.tcp).map_err(|_| Refusal::NoMemory)?;
        end.opened(local);
        socket.attach(bell, peer);
        match acceptor.queue.push(socket) {
            Ok(()) => Ok(end),
            Err(mut socket) => {
                // Another core was faster. Without its bell the socket closes silently.
                socket.detach();
                Err(Refusal::Full)
            }
        }
    }

    /// Wakes who waits to accept, or for the listener to open; a [`full_fence`](crate::full_fence) was made since the last
    /// change.
    #[inline]
    pub fn wake(&self) {
        self.acceptor.event().wake(|| ());
    }
}

impl Drop for ListenerEnd {
    fn drop(&mut self) {
        let lane = &self.acceptor.lanes[self.lane];
        if !matches!(lane.answer(), Some(Err(_))) {
            lane.say(Err(Failure::Stopped));
        }
        full_fence();
        self.wake();
    }
}
