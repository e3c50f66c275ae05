//! The network device as we are it (virtio 1.2 §5.1): the port and its queue pairs for drivers in other
//! processes, and for the other end of a `loop:`.
//!
//! ```text
//!   driver's transmit queue ─► DeviceRing ─► rx (copy in) ─► Burst
//!   driver's receive queue  ◄─ DeviceRing ◄─ tx (copy out) ◄─ Burst
//!            ▲                     ▲
//!            │                     └─ served: which layout of ring, chosen when it comes
//!   attach: Publisher (control) ─► Follower (here)
//! ```
//!
//! Frames are copied: the driver's memory is its own, hostile, and may go at any time.

#[allow(unsafe_code)]
mod rx;
mod served;
mod space;
#[allow(unsafe_code)]
mod spread;
mod steering;
#[allow(unsafe_code)]
mod tx;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::attach::Follower;
use super::spec::feature;
use super::transport::TransportError;
use crate::mem::HomePool;
use crate::port::{Arm, Burst, Link, Offloads, Port, PortInfo, QueueCounters, QueueFault, QueuePair};
use rx::Intake;
pub(crate) use space::{CONTROL, FIELDS, MTU, SEVERAL, config_space, control_queue};
use spread::{Meeting, Spread};
pub(crate) use steering::Steering;
use tx::Outlet;

/// The device features that the data path here can serve, and no choice of the user's goes beyond; a control plane may
/// offer its own beside.
pub(crate) const SUPPORTED: u64 = feature::VERSION_1
    | feature::MRG_RXBUF
    | feature::RING_PACKED
    | feature::IN_ORDER
    | feature::EVENT_IDX
    | feature::INDIRECT_DESC
    | Offloads::FEATURES;

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
    /// the first pair, and so on, as the driver sees them. With `steering` frames go to the receive queue that the driver
    /// wants them in; without it, with one queue pair and no control queue, there is nothing to choose.
    pub(crate) fn new(
        name: String,
        info: PortInfo,
        control: Box<dyn DeviceControl>,
        followers: impl IntoIterator<Item = Follower>,
        steering: Option<Arc<Steering>>,
    ) -> Self {
        let mut followers = followers.into_iter();
        let mut pairs: Vec<Box<dyn QueuePair>> = Vec::new();
        while let (Some(receive), Some(transmit)) = (followers.next(), followers.next()) {
            pairs.push(Box::new(ServerQueuePair { rx: Intake::new(transmit), tx: Outlet::new(receive) }));
        }
        if let Some(steering) = steering {
            let meeting = Meeting::new(steering, pairs.len());
            let spread = |(own, pair)| Box::new(Spread::new(pair, own, &meeting)) as Box<dyn QueuePair>;
            pairs = (0..).zip(pairs).map(spread).collect();
        }
        Self { name, info, control, pairs }
    }
}

/// A queue pair of the device, for a driver whose virtqueues come through these.
#[cfg(fuzzing)]
pub(crate) fn queue_pair(receive: Follower, transmit: Follower) -> impl QueuePair {
    ServerQueuePair { rx: Intake::new(transmit), tx: Outlet::new(receive) }
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

/// One queue pair of the device; receive and transmit are seen from us.
struct ServerQueuePair {
    rx: Intake,
    tx: Outlet,
}

impl QueuePair for ServerQueuePair {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        // A core that sends nothing must notice all the same when the driver takes its receive queue back.
        self.tx.served.attend();
        let received = self.rx.receive(pool, burst, budget);
        if received > 0 {
            self.tx.look_ahead();
        }
        received
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

    fn offloads(&self) -> Offloads {
        self.tx.served.offloads()
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

    /// Waits for frames of the driver, and for its comings and goings: room in its receive queue is not worth a wake-up.
    fn arm(&mut self) -> Arm {
        self.rx.served.arm(true).and(self.tx.served.arm(false))
    }

    fn disarm(&mut self) {
        self.rx.served.disarm();
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.rx.served.wait_fds(true, visit);
        self.tx.served.wait_fds(false, visit);
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod lying_driver;
