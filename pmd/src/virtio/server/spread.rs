//! A queue pair of a device that has several, or a control queue: frames go to the receive queue that the
//! [`Policy`] names, which may be another core's.
//!
//! ```text
//!   tx_burst ─► Policy::place ─┬─ own queue ─────────────────► inner.tx_burst
//!                              ├─ another ── ring (from, to) ─► that core's inner.tx_burst, at its next poll
//!                              └─ nobody wants it: tx_filtered
//!   rx_burst ─► inner.rx_burst ─► FlowTable::learn
//! ```
//!
//! A ring that is full means that its core does not keep up, or its queue has no buffers: what does not fit is dropped and
//! counted (`tx_deal_full`), as a NIC drops what a receive queue has no room for. Our own queue holds the sender back
//! instead.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::steering::{Policy, Steering};
use crate::mem::{HomePool, Mbuf};
use crate::port::{Arm, Burst, Offloads, QueueCounters, QueueFault, QueuePair};

/// Frames that may wait from one core for another's queue.
const RING_FRAMES: usize = 256;

/// What other cores leave for one.
struct Inbox {
    /// From each of the others.
    rings: Vec<ArrayQueue<Mbuf>>,
    /// The core sleeps, or is about to: whoever leaves something wakes it.
    sleeps: AtomicBool,
    bell: Option<EventFd>,
}

impl Inbox {
    fn new(pairs: usize) -> Self {
        Self {
            rings: (0..pairs).map(|_| ArrayQueue::new(RING_FRAMES)).collect(),
            sleeps: AtomicBool::new(false),
            // Without one (no descriptors left) the core has to poll.
            bell: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).ok(),
        }
    }

    fn is_empty(&self) -> bool {
        self.rings.iter().all(ArrayQueue::is_empty)
    }

    /// After something was left: rings the bell of a core that sleeps.
    fn wake(&self) {
        // ORDERING: SeqCst. What was left is visible before the word is read. Partner: the fence in `arm`, between the
        //           word and the look at the rings.
        fence(Ordering::SeqCst);
        // ORDERING: Relaxed; see the fence. The swap keeps a second bell from being rung.
        if self.sleeps.load(Ordering::Relaxed)
            && self.sleeps.swap(false, Ordering::Relaxed)
            && let Some(bell) = &self.bell
        {
            // A counter that is full has been rung already.
            let _ = bell.write(1);
        }
    }
}

/// What the queue pairs of one device share.
pub(super) struct Meeting {
    steering: Arc<Steering>,
    inboxes: Vec<Inbox>,
}

impl Meeting {
    pub(super) fn new(steering: Arc<Steering>, pairs: usize) -> Arc<Self> {
        Arc::new(Self { steering, inboxes: (0..pairs).map(|_| Inbox::new(pairs)).collect() })
    }
}

/// One queue pair, and its place among the others.
pub(super) struct Spread {
    inner: Box<dyn QueuePair>,
    own: u16,
    meeting: Arc<Meeting>,
    policy: Arc<Policy>,
    seen: u64,
    /// On the way into our own queue: of our core's, and of the others'.
    staged: Box<Burst>,
    pending: Box<Burst>,
    /// Cores that were left something in this burst.
    left: Vec<bool>,
    filtered: u64,
    dealt: u64,
    full: u64,
    learnt: u64,
}

impl Spread {
    pub(super) fn new(inner: Box<dyn QueuePair>, own: u16, meeting: &Arc<Meeting>) -> Self {
        let (seen, policy) = meeting.steering.policy();
        let left = vec![false; meeting.inboxes.len()];
        let (staged, pending) = (Box::default(), Box::default());
        let meeting = Arc::clone(meeting);
        let (filtered, dealt, full, learnt) = (0, 0, 0, 0);
        Self { inner, own, meeting, policy, seen, staged, pending, left, filtered, dealt, full, learnt }
    }

    #[inline]
    fn look(&mut self) {
        if self.meeting.steering.changed(self.seen) {
            self.switch();
        }
    }

    #[cold]
    fn switch(&mut self) {
        (self.seen, self.policy) = self.meeting.steering.policy();
    }

    fn is_active(&self) -> bool {
        self.policy.active.contains(&self.own)
    }

    /// Whether every frame goes to our own queue, and there is nothing to look for in it.
    #[inline]
    fn is_alone(&self) -> bool {
        self.policy.filter.passes_all() && *self.policy.active == [self.own]
    }

    /// Puts what the others have left for our queue into it, as far as there is room.
    fn collect(&mut self) {
        let inbox = &self.meeting.inboxes[usize::from(self.own)];
        for ring in &inbox.rings {
            while !self.pending.is_full() {
                let Some(frame) = ring.pop() else { break };
                self.pending.push(frame);
            }
        }
        if self.pending.is_empty() {
            return;
        }
        if self.is_active() {
            self.inner.tx_burst(&mut self.pending);
        } else {
            // The driver has taken the queue back meanwhile.
            self.full += self.pending.len() as u64;
            self.pending.clear();
        }
    }

    /// Leaves a frame for another core.
    fn leave(&mut self, frame: Mbuf, queue: u16) {
        let at = usize::from(queue);
        let ring = self.meeting.inboxes.get(at).and_then(|inbox| inbox.rings.get(usize::from(self.own)));
        match ring.map(|ring| ring.push(frame)) {
            Some(Ok(())) => {
                self.dealt += 1;
                self.left[at] = true;
            }
            _ => self.full += 1,
        }
    }

    fn deal(&mut self, burst: &mut Burst) -> usize {
        if self.policy.active.is_empty() {
            return 0; // no driver, or not yet: the frames stay their sender's
        }
        let before = burst.len();
        let steering = Arc::clone(&self.meeting.steering);
        for frame in burst.drain(..) {
            match self.policy.place(frame.data(), self.own, &steering.flows, &steering.hasher) {
                Some(queue) if queue == self.own => self.staged.push(frame),
                Some(queue) => self.leave(frame, queue),
                None => self.filtered += 1,
            }
        }
        for (at, left) in self.left.iter_mut().enumerate() {
            if std::mem::take(left) {
                self.meeting.inboxes[at].wake();
            }
        }
        self.inner.tx_burst(&mut self.staged);
        // What our queue has no room for is its sender's again, in order.
        burst.extend(self.staged.drain(..));
        before - burst.len()
    }
}

impl QueuePair for Spread {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        self.look();
        self.collect();
        let before = burst.len();
        let received = self.inner.rx_burst(pool, burst, budget);
        if received > 0 && self.policy.active.len() > 1 && self.policy.rss.is_none() {
            let steering = &self.meeting.steering;
            for frame in &burst[before..] {
                if let Some((hash, _)) = steering.hasher.hash(frame.data()) {
                    self.learnt += u64::from(steering.flows.learn(hash, self.own));
                }
            }
        }
        received
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        self.look();
        if self.is_alone() { self.inner.tx_burst(burst) } else { self.deal(burst) }
    }

    /// Room in our own queue; where that is not in use, in the rings to one that is.
    fn tx_room(&mut self) -> usize {
        self.look();
        if self.is_active() {
            return self.inner.tx_room();
        }
        let Some(to) = self.policy.active.first() else { return 0 };
        let ring = &self.meeting.inboxes[usize::from(*to)].rings[usize::from(self.own)];
        ring.capacity() - ring.len()
    }

    fn tx_waiting(&mut self) -> usize {
        self.inner.tx_waiting()
    }

    /// One driver takes the frames of all queues.
    fn offloads(&self) -> Offloads {
        self.inner.offloads()
    }

    fn arm(&mut self) -> Arm {
        self.look();
        self.collect();
        let inbox = &self.meeting.inboxes[usize::from(self.own)];
        if inbox.bell.is_none() {
            return Arm::CannotWait;
        }
        if !self.pending.is_empty() {
            // Its queue has no room: nobody tells when there is some.
            return Arm::Ready;
        }
        // ORDERING: Relaxed; the fence orders it.
        inbox.sleeps.store(true, Ordering::Relaxed);
        // ORDERING: SeqCst. The word is visible before the rings are looked at. Partner: the fence in `wake`.
        fence(Ordering::SeqCst);
        let answer = if inbox.is_empty() { Arm::Armed } else { Arm::Ready };
        answer.and(self.inner.arm())
    }

    fn disarm(&mut self) {
        let inbox = &self.meeting.inboxes[usize::from(self.own)];
        // ORDERING: Relaxed. A bell that is rung all the same is heard for nothing.
        inbox.sleeps.store(false, Ordering::Relaxed);
        if let Some(bell) = &inbox.bell {
            // Nothing to read is no error.
            let _ = bell.read();
        }
        self.inner.disarm();
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        if let Some(bell) = &self.meeting.inboxes[usize::from(self.own)].bell {
            // SAFETY: the descriptor is open as long as `bell`, which outlives the call.
            visit(unsafe { BorrowedFd::borrow_raw(bell.as_raw_fd()) });
        }
        self.inner.wait_fds(visit);
    }

    fn quiesce(&mut self) {
        self.pending.clear();
        self.inner.quiesce();
    }

    fn counters(&self) -> QueueCounters {
        self.inner.counters()
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("tx_dealt", self.dealt);
        visit("tx_deal_full", self.full);
        visit("tx_filtered", self.filtered);
        visit("flows_learnt", self.learnt);
        self.inner.extra_counters(visit);
    }

    fn fault(&self) -> Option<QueueFault> {
        self.inner.fault()
    }
}
