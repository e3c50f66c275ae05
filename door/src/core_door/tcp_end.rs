//! The core's end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::bell;
use crate::channel::{Channel, StateWriter};
use crate::failure::Failure;
use crate::layout::{LayoutError, app_state, core_state};
use crate::options::TcpOptions;
use crate::ring::{Consumer, Lie, Producer};
use crate::sync::Ordering;
use crate::wake::{Wish, full_fence, monotonic_ns};

/// What the application wants, when it was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppState {
    /// It reads no more: throw away what comes.
    pub shut_read: bool,
    /// It writes no more: finish after [`TcpEnd::outgoing`] gave the last byte. Look at this *before* taking the bytes.
    pub shut_write: bool,
    /// Reset the connection.
    pub abort: bool,
    /// Somebody waits for the connection to end.
    pub linger: bool,
}

/// The core's end of a connection: bytes both ways, states both ways.
///
/// After a [`Lie`] the connection is to be reset; nothing else may be done with the end than [`fail`](Self::fail).
#[derive(Debug)]
pub struct TcpEnd {
    channel: Arc<Channel>,
    rx: Producer,
    tx: Consumer,
    state: StateWriter,
    options: TcpOptions,
    options_seen: u32,
}

impl TcpEnd {
    /// The end of memory that may come from another process.
    pub(crate) fn new(channel: Arc<Channel>, options: TcpOptions) -> Result<Self, LayoutError> {
        channel.memory.check()?;
        let (rx, tx) = (Producer::default(), Consumer::default());
        let mut end = Self { channel, rx, tx, state: StateWriter::default(), options, options_seen: 0 };
        // What the options began with stands in `options` already.
        let mut stored = options;
        stored.load(&end.channel.header().app, &mut end.options_seen);
        Ok(end)
    }

    /// Answers a ring: from here on the application may ring again, so look at everything after this. `true`: it was the
    /// last ring, the application holds nothing any more.
    #[must_use]
    #[inline]
    pub fn answer(&self) -> bool {
        bell::answer(&self.channel.header().app.bell)
    }

    /// What the application wants.
    #[must_use]
    #[inline]
    pub fn app_state(&self) -> AppState {
        // ORDERING: Acquire. Bytes written before the shutdown are seen after it. Partner: `Socket::say`.
        let bits = self.channel.header().app.state.load(Ordering::Acquire);
        let is = |bit| bits & bit != 0;
        AppState {
            shut_read: is(app_state::SHUT_READ),
            shut_write: is(app_state::SHUT_WRITE),
            abort: is(app_state::ABORT),
            linger: is(app_state::LINGER),
        }
    }

    /// The options it began with, and later changes; `Some` when they changed since the last call.
    pub fn changed_options(&mut self) -> Option<TcpOptions> {
        self.options.load(&self.channel.header().app, &mut self.options_seen).then_some(self.options)
    }

    /// The options as last seen.
    #[must_use]
    pub fn options(&self) -> &TcpOptions {
        &self.options
    }

    /// The connection is established; `local` is its address here.
    pub fn opened(&mut self, local: SocketAddr) {
        // Set once only, whatever a caller does.
        let _ = self.channel.local.set(local);
        self.state.set(&self.channel, core_state::OPEN);
    }

    /// Copies as much of `data` to the application as it has room for, and says how much.
    ///
    /// # Errors
    /// [`Lie`] when the application's index is impossible.
    #[inline]
    pub fn deliver(&mut self, data: &[u8]) -> Result<usize, Lie> {
        self.rx.push(self.channel.memory.rx(), data)
    }

    /// After bytes had to stay behind: asks to be rung for when there is room, and looks once more. `true`: there is room
    /// already, so deliver again.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    pub fn wish_for_room(&mut self) -> Result<bool, Lie> {
        let ring = self.channel.memory.rx();
        Wish(&ring.header().events.room).make();
        Ok(self.rx.room(ring, 1)? > 0)
    }

    /// Whether the application has read all that was delivered.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    pub fn is_drained(&mut self) -> Result<bool, Lie> {
        self.rx.is_drained(self.channel.memory.rx())
    }

    /// Moves bytes that the application wrote to the front of `data`, and says how many.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    #[inline]
    pub fn outgoing(&mut self, data: &mut [u8]) -> Result<usize, Lie> {
        self.tx.pop(self.channel.memory.tx(), data)
    }

    /// Bytes that the application wrote and that were not taken yet: 0 only if there are none.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    #[inline]
    pub fn outgoing_len(&mut self) -> Result<usize, Lie> {
        Ok(self.tx.len(self.channel.memory.tx(), 1)? as usize)
    }

    /// The peer has finished, and every byte was delivered.
    pub fn finish(&mut self) {
        if !self.state.is(core_state::FINISHED) {
            self.state.set(&self.channel, core_state::FINISHED);
        }
    }

    /// The connection failed.
    pub fn fail(&mut self, failure: Failure) {
        self.state.fail(&self.channel, failure);
    }

    /// The connection is over, well or not.
    pub fn closed(&mut self) {
        self.state.set(&self.channel, core_state::CLOSED);
    }

    /// Wakes readers and writers that sleep; a [`full_fence`](crate::full_fence) was made since the last change. At most
    /// two system calls, none when nobody sleeps.
    #[inline]
    pub fn wake(&self) {
        // ORDERING: Relaxed. A figure, published by the swap that wakes. Partner: `Socket::note_handoff`.
        let stamp = || self.channel.header().core.woken_ns.store(monotonic_ns(), Ordering::Relaxed);
        self.channel.data().wake(stamp);
        self.channel.room().wake(stamp);
    }

    /// Nanoseconds from the last wake-up to the thread's running again, if a thread measured it since the last call.
    #[inline]
    pub fn take_handoff_ns(&self) -> Option<u32> {
        let place = &self.channel.header().app.handoff_ns;
        // ORDERING: Relaxed. A figure.
        (place.load(Ordering::Relaxed) != 0).then(|| place.swap(0, Ordering::Relaxed))
    }
}

impl Drop for TcpEnd {
    fn drop(&mut self) {
        if !self.state.is(core_state::CLOSED) && self.state.failure().is_none() {
            self.state.fail(&self.channel, Failure::Stopped);
        }
        self.state.set(&self.channel, core_state::CLOSED);
        full_fence();
        self.wake();
    }
}
