//! The core's end of a UDP socket.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::bell;
use crate::channel::{Channel, StateWriter};
use crate::failure::Failure;
use crate::layout::{LayoutError, core_state};
use crate::ring::{Consumer, Lie, Producer};
use crate::wake::full_fence;

/// The core's end of a UDP socket: datagrams both ways. A socket has one of them on each core, and sends by one.
///
/// After a [`Lie`] the socket is to be closed and the end dropped, after [`fail`](Self::fail).
#[derive(Debug)]
pub struct UdpEnd {
    at: SocketAddr,
    channel: Arc<Channel>,
    /// The channel at whose words the socket's threads sleep: the one by which it sends.
    first: Arc<Channel>,
    rx: Producer,
    tx: Consumer,
    state: StateWriter,
}

impl UdpEnd {
    pub(crate) fn new(
        at: SocketAddr,
        channel: Arc<Channel>,
        first: Arc<Channel>,
    ) -> Result<Self, LayoutError> {
        channel.memory.check()?;
        let (rx, tx) = (Producer::default(), Consumer::default());
        Ok(Self { at, channel, first, rx, tx, state: StateWriter::default() })
    }

    /// The address to bind; the unspecified one stands for every address of the stack, of both families.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// As [`TcpEnd::answer`](super::TcpEnd::answer).
    #[must_use]
    #[inline]
    pub fn answer(&self) -> bool {
        bell::answer(&self.channel.header().app.bell)
    }

    /// The socket is bound.
    pub fn opened(&mut self) {
        self.state.set(&self.channel, core_state::OPEN);
    }

    /// Hands over a datagram; `false` when there is no room for it: then it is lost, as UDP allows.
    ///
    /// # Errors
    /// [`Lie`] when the application's index is impossible.
    pub fn deliver(&mut self, from: SocketAddr, data: &[u8]) -> Result<bool, Lie> {
        self.rx.push_datagram(self.channel.memory.rx(), from, data)
    }

    /// Copies the next datagram to send into `data`; its destination and its whole length, which may be more than was
    /// copied. It stays until [`sent`](Self::sent).
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    pub fn outgoing(&mut self, data: &mut [u8]) -> Result<Option<(SocketAddr, usize)>, Lie> {
        self.tx.peek_datagram(self.channel.memory.tx(), data)
    }

    /// Removes the datagram that [`outgoing`](Self::outgoing) showed.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    pub fn sent(&mut self) -> Result<(), Lie> {
        self.tx.pop_datagram(self.channel.memory.tx()).map(drop)
    }

    /// Something failed: the next call of the application returns it.
    pub fn fail(&mut self, failure: Failure) {
        self.state.fail(&self.channel, failure);
    }

    /// As [`TcpEnd::wake`](super::TcpEnd::wake).
    #[inline]
    pub fn wake(&self) {
        self.first.data().wake(|| ());
        self.first.room().wake(|| ());
    }
}

impl Drop for UdpEnd {
    fn drop(&mut self) {
        if self.state.failure().is_none_or(|failure| self.state.is(core_state::OPEN) && !failure.is_lasting())
        {
            self.state.fail(&self.channel, Failure::Stopped);
        }
        self.state.set(&self.channel, core_state::CLOSED);
        full_fence();
        self.wake();
    }
}
