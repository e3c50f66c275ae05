//! The network device as we are it (virtio 1.2 §5.1): the port and its queue pairs for drivers in other
//! processes, and for the other end of a `loop:`.
//!
//! ```text
//!   driver's transmit queue ─► split::device ─► rx (copy in) ─► Burst
//!   driver's receive queue  ◄─ split::device ◄─ tx (copy out) ◄─ Burst
//!            ▲
//!   attach: Publisher (control) ─► Follower (here)
//! ```
//!
//! Frames are copied: the driver's memory is its own, hostile, and may go at any time.

#[allow(unsafe_code)]
mod rx;
#[allow(unsafe_code)]
mod tx;

use super::attach::{Follower, Position};
use super::spec::feature;
use super::split::device::DeviceQueue;
use super::transport::TransportError;
use crate::mem::HomePool;
use crate::port::{Burst, Link, Port, PortInfo, QueueCounters, QueueFault, QueuePair};
use rx::Intake;
use tx::Outlet;

/// The device features that the data path here can serve, and no choice of the user's goes beyond; a control plane may
/// offer its own beside.
pub(crate) const SUPPORTED: u64 = feature::VERSION_1 | feature::MRG_RXBUF;

/// Those that are offered unless the user says otherwise.
pub(crate) const FEATURES: u64 = SUPPORTED;

/// The longest frame taken from a driver in one piece or many: 64 KiB of payload and its headers.
pub(crate) const MAX_FRAME_BYTES: usize = 65_536 + 64;

/// How the queues of a device come and go; the cold half of a device side port.
pub(crate) trait DeviceControl: Send {
    /// Up while a driver is there and has set itself up.
    fn link(&self) -> Link;

    /// Lets the driver go; no queue is published afterwards. Idempotent.
    fn stop(&mut self) -> Result<(), TransportError>;
}

/// A virtio network device, served.
pub(crate) struct ServerPort {
    name: String,
    info: PortInfo,
    control: Box<dyn DeviceControl>,
    pairs: Vec<Box<dyn QueuePair>>,
}

impl ServerPort {
    /// A port whose virtqueues come through `followers`, in the order of virtio 1.2 §5.1.2: receive and transmit of
    /// the first pair, and so on, as the driver sees them.
    pub(crate) fn new(
        name: String,
        info: PortInfo,
        control: Box<dyn DeviceControl>,
        followers: impl IntoIterator<Item = Follower>,
    ) -> Self {
        let mut followers = followers.into_iter();
        let mut pairs: Vec<Box<dyn QueuePair>> = Vec::new();
        while let (Some(receive), Some(transmit)) = (followers.next(), followers.next()) {
            pairs.push(Box::new(ServerQueuePair { rx: Intake::new(transmit), tx: Outlet::new(receive) }));
        }
        Self { name, info, control, pairs }
    }
}

impl Port for ServerPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link(&self) -> Link {
        self.control.link()
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        std::mem::take(&mut self.pairs)
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.control.stop()
    }
}

/// The virtqueue served at the moment, if any.
struct Served {
    follower: Follower,
    queue: Option<DeviceQueue>,
    /// Whether a frame for the driver may span several of its buffers.
    mergeable: bool,
    /// Faults of queues that were since set up anew.
    faults: u64,
}

impl Served {
    fn new(follower: Follower) -> Self {
        Self { follower, queue: None, mergeable: false, faults: 0 }
    }

    /// The queue to work on in this burst. One load unless the driver changed something.
    #[inline]
    fn attend(&mut self) -> Option<&mut DeviceQueue> {
        if self.follower.changed() {
            self.switch();
        }
        self.queue.as_mut()
    }

    #[cold]
    fn switch(&mut self) {
        let left_at = self.let_go();
        let ring = self.follower.switch(left_at);
        self.mergeable = ring.is_some_and(|ring| ring.features & feature::MRG_RXBUF != 0);
        self.queue = ring.map(DeviceQueue::new);
    }

    fn let_go(&mut self) -> Position {
        let queue = self.queue.take();
        self.faults += u64::from(queue.as_ref().is_some_and(|queue| queue.fault().is_some()));
        queue.map_or(Position::default(), |queue| queue.position())
    }

    #[cold]
    fn quiesce(&mut self) {
        let left_at = self.let_go();
        self.follower.leave(left_at);
    }

    fn fault(&self) -> Option<QueueFault> {
        self.queue.as_ref()?.fault()
    }

    fn faults(&self) -> u64 {
        self.faults + u64::from(self.fault().is_some())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.quiesce();
    }
}

/// One queue pair of the device; receive and transmit are seen from us.
struct ServerQueuePair {
    rx: Intake,
    tx: Outlet,
}

impl QueuePair for ServerQueuePair {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        // A core that sends nothing must notice all the same when the driver takes its receive queue back.
        self.tx.served.attend();
        self.rx.receive(pool, burst, budget)
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        self.tx.transmit(burst)
    }

    fn tx_room(&mut self) -> usize {
        self.tx.room()
    }

    fn tx_waiting(&mut self) -> usize {
        self.tx.waiting()
    }

    fn quiesce(&mut self) {
        self.rx.served.quiesce();
        self.tx.served.quiesce();
    }

    fn counters(&self) -> QueueCounters {
        let mut counters = self.rx.counters;
        counters.add(&self.tx.counters);
        counters.faults = self.rx.served.faults() + self.tx.served.faults();
        counters
    }

    fn fault(&self) -> Option<QueueFault> {
        self.rx.served.fault().or(self.tx.served.fault())
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod lying_driver;
