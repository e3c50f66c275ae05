//! The virtqueue that is served at the moment: which layout it has is decided when the driver's comes, and asked once a
//! burst.

use std::os::fd::{AsFd, BorrowedFd};

use crate::port::{Arm, Offloads, QueueFault};
use crate::virtio::attach::{Follower, Position, Ring};
use crate::virtio::packed::device::PackedDevice;
use crate::virtio::ring::DeviceRing;
use crate::virtio::spec::feature;
use crate::virtio::split::device::SplitDevice;

/// A virtqueue of any layout.
pub(super) enum Queue {
    Split(SplitDevice<false>),
    SplitInOrder(SplitDevice<true>),
    Packed(PackedDevice<false>),
    PackedInOrder(PackedDevice<true>),
}

/// Runs the same code, compiled for each layout, on the queue at hand.
macro_rules! with_ring {
    ($queue:expr, $ring:ident => $run:expr) => {
        match $queue {
            $crate::virtio::server::served::Queue::Split($ring) => $run,
            $crate::virtio::server::served::Queue::SplitInOrder($ring) => $run,
            $crate::virtio::server::served::Queue::Packed($ring) => $run,
            $crate::virtio::server::served::Queue::PackedInOrder($ring) => $run,
        }
    };
}
pub(super) use with_ring;

impl Queue {
    fn new(ring: &Ring) -> Self {
        let has = |bit| ring.features & bit != 0;
        match (ring.packed, has(feature::IN_ORDER)) {
            (false, false) => Self::Split(SplitDevice::new(ring)),
            (false, true) => Self::SplitInOrder(SplitDevice::new(ring)),
            (true, false) => Self::Packed(PackedDevice::new(ring)),
            (true, true) => Self::PackedInOrder(PackedDevice::new(ring)),
        }
    }

    fn fault(&self) -> Option<QueueFault> {
        with_ring!(self, ring => ring.fault())
    }

    fn position(&self) -> Position {
        with_ring!(self, ring => ring.position())
    }
}

/// A follower, and the virtqueue it brought last.
pub(super) struct Served {
    follower: Follower,
    queue: Option<Queue>,
    mergeable: bool,
    /// What the driver takes beyond complete frames, and gives.
    offloads: Offloads,
    /// Faults of queues that were since set up anew.
    faults: u64,
}

impl Served {
    pub(super) fn new(follower: Follower) -> Self {
        Self { follower, queue: None, mergeable: false, offloads: Offloads::default(), faults: 0 }
    }

    /// The queue to work on in this burst. One load unless the driver changed something.
    #[inline]
    pub(super) fn attend(&mut self) -> Option<&mut Queue> {
        if self.follower.changed() {
            self.switch();
        }
        self.queue.as_mut()
    }

    /// The same, and what was negotiated: whether a frame for the driver may span several of its buffers, and offloads.
    #[inline]
    pub(super) fn attend_knowing(&mut self) -> Option<(&mut Queue, bool, Offloads)> {
        self.attend();
        let (mergeable, offloads) = (self.mergeable, self.offloads);
        self.queue.as_mut().map(|queue| (queue, mergeable, offloads))
    }

    /// What the driver of the moment takes and gives.
    pub(super) fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Prepares for a sleep that ends when the driver sets the queue up anew or, if `chains` are waited for, makes one
    /// available: for this it is asked for a notification. Nobody will tell where it has none to give.
    pub(super) fn arm(&mut self, chains: bool) -> Arm {
        if self.follower.changed() {
            return Arm::Ready;
        }
        if self.follower.wakes_on().is_none() {
            return Arm::CannotWait;
        }
        let notifies = self.follower.ring().is_some_and(|ring| ring.kick_fd().is_some());
        match &mut self.queue {
            Some(queue) if chains && queue.fault().is_none() => match with_ring!(queue, ring => ring.arm()) {
                false => Arm::Ready,
                true if notifies => Arm::Armed,
                true => Arm::CannotWait,
            },
            _ => Arm::Armed,
        }
    }

    /// Asks for none any more, and forgets those that came.
    pub(super) fn disarm(&mut self) {
        if let Some(queue) = self.attend() {
            with_ring!(queue, ring => ring.disarm());
        }
        if let Some(ring) = self.follower.ring() {
            ring.drain_kick();
        }
    }

    /// What becomes readable when the driver changes something and, if `chains` are waited for, when it notifies us: what
    /// [`arm`](Self::arm) did not ask for is not drained either, and would end each sleep.
    pub(super) fn wait_fds(&self, chains: bool, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        let change = self.follower.wakes_on().map(AsFd::as_fd);
        let kick = self.follower.ring().filter(|_| chains).and_then(Ring::kick_fd);
        change.into_iter().chain(kick).for_each(visit);
    }

    #[cold]
    fn switch(&mut self) {
        let left_at = self.let_go();
        let ring = self.follower.switch(left_at);
        self.offloads = Offloads::of_device(ring.map_or(0, |ring| ring.features));
        self.mergeable = ring.is_some_and(|ring| ring.features & feature::MRG_RXBUF != 0);
        self.queue = ring.map(Queue::new);
    }

    fn let_go(&mut self) -> Position {
        let queue = self.queue.take();
        self.faults += u64::from(queue.as_ref().is_some_and(|queue| queue.fault().is_some()));
        queue.map_or(Position::default(), |queue| queue.position())
    }

    #[cold]
    pub(super) fn quiesce(&mut self) {
        let left_at = self.let_go();
        self.follower.leave(left_at);
    }

    pub(super) fn fault(&self) -> Option<QueueFault> {
        self.queue.as_ref()?.fault()
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults + u64::from(self.fault().is_some())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.quiesce();
    }
}
