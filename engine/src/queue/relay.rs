//! Sending by another core's queue: a core that has no queue pair of a port pushes its frames into a ring, and a core
//! that has one carries them out.
//!
//! | side | does | when |
//! |---|---|---|
//! | [`Relay`] | pushes | `tx_burst` of the core without |
//! | [`Carrier`] | pops, sends | every poll of the core with a queue pair |
//!
//! Frames wait in the ring while the queue is full: [`Relay::tx_room`] tells, and nothing is dropped in between.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use door::{Caller, CoreBell};
use pmd::port::{Arm, Burst, MAX_BURST, QueueCounters, QueueFault, QueuePair};
use pmd::{HomePool, Mbuf};

use super::priority::DscpSet;

/// Frames of each class that may wait between the two cores.
pub(crate) const UPLINK_FRAMES: usize = 256;

/// The way from one core without a queue pair to one that has some. The urgent have a ring of their own, or they would
/// wait behind the others.
pub(crate) struct Uplink {
    normal: ArrayQueue<Mbuf>,
    urgent: ArrayQueue<Mbuf>,
    /// What counts as urgent; empty on a port without priorities.
    classes: DscpSet,
    /// Of the core that carries, if it may sleep.
    bell: Option<Arc<CoreBell>>,
}

impl Uplink {
    pub(crate) fn new(classes: DscpSet, bell: Option<Arc<CoreBell>>) -> Uplink {
        let (normal, urgent) = (ArrayQueue::new(UPLINK_FRAMES), ArrayQueue::new(UPLINK_FRAMES));
        Uplink { normal, urgent, classes, bell }
    }

    fn is_empty(&self) -> bool {
        self.normal.is_empty() && self.urgent.is_empty()
    }
}

/// The queue pair of a core that has none: receives nothing, sends by another core.
pub(crate) struct Relay {
    uplink: Arc<Uplink>,
    relayed: u64,
}

impl Relay {
    pub(crate) fn new(uplink: Arc<Uplink>) -> Relay {
        Relay { uplink, relayed: 0 }
    }
}

impl QueuePair for Relay {
    fn rx_burst(&mut self, _pool: &HomePool, _burst: &mut Burst, _budget: usize) -> usize {
        0
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        let Uplink { normal, urgent, classes, bell } = &*self.uplink;
        let mut unsent = Burst::new();
        // A ring that was full once stays so for this burst, or frames would change their order.
        let (mut normal_full, mut urgent_full) = (false, false);
        let count = burst.len();
        for frame in burst.drain(..) {
            let (ring, full) =
                if classes.has(&frame) { (urgent, &mut urgent_full) } else { (normal, &mut normal_full) };
            if *full {
                unsent.push(frame);
            } else if let Err(frame) = ring.push(frame) {
                *full = true;
                unsent.push(frame);
            }
        }
        let sent = count - unsent.len();
        burst.extend(unsent);
        self.relayed += sent as u64;
        if sent > 0
            && let Some(bell) = bell
        {
            bell.ring(Caller::Core);
        }
        sent
    }

    fn tx_room(&mut self) -> usize {
        room(&self.uplink.normal).min(room(&self.uplink.urgent))
    }

    fn tx_room_urgent(&mut self) -> usize {
        if self.uplink.classes == DscpSet::NONE { self.tx_room() } else { room(&self.uplink.urgent) }
    }

    fn tx_waiting(&mut self) -> usize {
        self.uplink.normal.len() + self.uplink.urgent.len()
    }

    fn quiesce(&mut self) {}

    /// None: what is relayed counts where it leaves.
    fn counters(&self) -> QueueCounters {
        QueueCounters::default()
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("tx_relayed", self.relayed);
    }

    fn fault(&self) -> Option<QueueFault> {
        None
    }

    /// Nothing comes by this way.
    fn arm(&mut self) -> Arm {
        Arm::Armed
    }
}

/// We alone push, so there is never less room than seen here.
fn room(ring: &ArrayQueue<Mbuf>) -> usize {
    ring.capacity() - ring.len()
}

/// A queue pair that also sends for cores that have none.
pub(crate) struct Carrier {
    inner: Box<dyn QueuePair>,
    guests: Vec<Guest>,
    /// Frames were sent for a guest since it was last asked.
    carried: bool,
}

/// A core we send for, and what came out of its rings and did not fit yet.
struct Guest {
    uplink: Arc<Uplink>,
    normal: Box<Burst>,
    urgent: Box<Burst>,
}

impl Carrier {
    /// Without guests the queue pair stays as it is.
    pub(crate) fn of(inner: Box<dyn QueuePair>, uplinks: Vec<Arc<Uplink>>) -> Box<dyn QueuePair> {
        if uplinks.is_empty() {
            return inner;
        }
        let guest = |uplink| Guest { uplink, normal: Box::default(), urgent: Box::default() };
        Box::new(Carrier { inner, guests: uplinks.into_iter().map(guest).collect(), carried: false })
    }

    /// Sends what waits: of each guest at most a burst of either class, and of the normal frames no more than the
    /// guest's share of the room, or the core whose queue it is would send nothing.
    fn carry(&mut self) {
        for guest in &mut self.guests {
            fill(&mut guest.urgent, &guest.uplink.urgent, MAX_BURST);
            if !guest.urgent.is_empty() {
                self.carried |= self.inner.tx_burst(&mut guest.urgent) > 0;
            }
        }
        let shares = self.guests.len() + 1;
        for guest in &mut self.guests {
            if guest.normal.is_empty() && guest.uplink.normal.is_empty() {
                continue;
            }
            let share = self.inner.tx_room().div_ceil(shares);
            fill(&mut guest.normal, &guest.uplink.normal, share);
            if !guest.normal.is_empty() {
                self.carried |= self.inner.tx_burst(&mut guest.normal) > 0;
            }
        }
    }
}

/// Moves frames from `ring` until `burst` holds `most`.
fn fill(burst: &mut Burst, ring: &ArrayQueue<Mbuf>, most: usize) {
    while burst.len() < most.min(MAX_BURST) {
        let Some(frame) = ring.pop() else { return };
        burst.push(frame);
    }
}

impl QueuePair for Carrier {
    forward!(inner: tx_burst, tx_room, tx_room_urgent, tx_waiting, quiesce, counters, extra_counters, fault, disarm, wait_fds);

    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        self.carry();
        self.inner.rx_burst(pool, burst, budget)
    }

    /// As long as a guest's frame waits, the queue is polled for room.
    fn arm(&mut self) -> Arm {
        let waits =
            |guest: &Guest| !(guest.uplink.is_empty() && guest.normal.is_empty() && guest.urgent.is_empty());
        let ours = if self.guests.iter().any(waits) { Arm::Ready } else { Arm::Armed };
        ours.and(self.inner.arm())
    }

    fn take_handed_on(&mut self) -> bool {
        std::mem::take(&mut self.carried) | self.inner.take_handed_on()
    }
}
