//! One socket's shared memory with what goes with it inside a process, and the core's word on its state.

use std::net::SocketAddr;
use std::sync::OnceLock;

use atomic_waker::AtomicWaker;

use crate::failure::Failure;
use crate::layout::{Header, core_state};
use crate::memory::Memory;
use crate::sync::{AtomicU32, Ordering};
use crate::wake::Event;

/// What both ends of a socket hold; freed when the last of them lets go.
#[derive(Debug)]
pub(crate) struct Channel {
    pub memory: Memory,
    /// The task that waits for bytes, and the one that waits for room.
    readers: AtomicWaker,
    writers: AtomicWaker,
    /// The address the core chose, set before the socket is open.
    pub local: OnceLock<SocketAddr>,
}

impl Channel {
    pub(crate) fn new(rx_bytes: usize, tx_bytes: usize) -> std::io::Result<Self> {
        Ok(Self {
            memory: Memory::new(rx_bytes, tx_bytes)?,
            readers: AtomicWaker::new(),
            writers: AtomicWaker::new(),
            local: OnceLock::new(),
        })
    }

    #[inline]
    pub(crate) fn header(&self) -> &Header {
        self.memory.header()
    }

    /// Where readers sleep, and who waits to be open.
    #[inline]
    pub(crate) fn data(&self) -> Event<'_, AtomicWaker> {
        Event { word: &self.header().rx.events.data, tasks: &self.readers }
    }

    /// Where writers sleep.
    #[inline]
    pub(crate) fn room(&self) -> Event<'_, AtomicWaker> {
        Event { word: &self.header().tx.events.room, tasks: &self.writers }
    }

    /// The application's look at what the core says.
    #[inline]
    pub(crate) fn state(&self) -> State {
        // ORDERING: Acquire. Bytes pushed before the state are seen after it. Partner: `StateWriter::publish`.
        State(self.header().core.state.load(Ordering::Acquire))
    }
}

/// What the core said when it was looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State(u32);

/// Where the count of failures begins.
const COUNT_SHIFT: u32 = 16;

impl State {
    pub(crate) fn is_open(self) -> bool {
        self.0 & core_state::OPEN != 0
    }

    pub(crate) fn is_finished(self) -> bool {
        self.0 & core_state::FINISHED != 0
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & core_state::CLOSED != 0
    }

    #[inline]
    pub(crate) fn failure(self) -> Option<Failure> {
        #[allow(clippy::cast_possible_truncation)] // eight bits are meant
        let code = (self.0 >> core_state::FAILURE_SHIFT) as u8;
        Failure::from_code(code)
    }

    /// The failure if it was not told yet, or is one that lasts.
    pub(crate) fn untold(self, told: &AtomicU32) -> Option<Failure> {
        let failure = self.failure()?;
        // ORDERING: Relaxed. A count of the application's own; which of two threads gets the failure does not matter.
        let is_new = told.swap(self.0 >> COUNT_SHIFT, Ordering::Relaxed) != self.0 >> COUNT_SHIFT;
        (is_new || failure.is_lasting()).then_some(failure)
    }
}

/// The core's copy of its state word. It alone writes it.
#[derive(Debug, Default)]
pub(crate) struct StateWriter(u32);

impl StateWriter {
    pub(crate) fn is(&self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        State(self.0).failure()
    }

    pub(crate) fn set(&mut self, channel: &Channel, bits: u32) {
        self.0 |= bits;
        self.publish(channel);
    }

    /// Says that something failed; a failure that lasts stays.
    pub(crate) fn fail(&mut self, channel: &Channel, failure: Failure) {
        if self.failure().is_some_and(Failure::is_lasting) {
            return;
        }
        let count = (self.0 >> COUNT_SHIFT).wrapping_add(1) << COUNT_SHIFT;
        let bits = self.0 & ((1 << core_state::FAILURE_SHIFT) - 1);
        self.0 = count | u32::from(failure.code()) << core_state::FAILURE_SHIFT | bits;
        self.publish(channel);
    }

    fn publish(&self, channel: &Channel) {
        // ORDERING: Release. Bytes pushed before are seen by who sees the state. Partner: `Channel::state`.
        channel.header().core.state.store(self.0, Ordering::Release);
    }
}
