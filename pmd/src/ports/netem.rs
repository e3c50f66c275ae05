//! A link that is worse than it needs to be: loses, reorders, duplicates, corrupts and delays frames of any port, both
//! ways, as `tc netem` does for a kernel's interface.
//!
//! ```text
//!   rx_burst: port ─► Pipe ─► burst         Pipe: loss ─► duplicate ─► corrupt ─► reorder (held back) ─► delay line
//!   tx_burst: burst ─► Pipe ─► port
//! ```
//!
//! What happens to the n-th frame of a direction follows from the seed and n alone, so a run whose traffic is the same
//! meets the same accidents; only *when* a delayed or held frame goes on depends on the clock. Ports without this
//! wrapper know nothing of it.

#[allow(unsafe_code)] // a timer's file descriptor
mod alarm;
mod pipe;
mod rng;
mod spec;

use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::mem::HomePool;
use crate::port::{
    Arm, Burst, Command, ControlError, Input, Link, MAX_BURST, Offloads, Port, PortEvent, PortInfo,
    QueueCounters, QueueFault, QueuePair,
};
use crate::virtio::transport::TransportError;
use alarm::Alarm;
use pipe::Pipe;
pub(crate) use spec::Impairments;

/// A port behind a bad link.
pub(crate) struct NetemPort {
    text: String,
    port: Box<dyn Port>,
    impairments: Impairments,
}

impl NetemPort {
    pub(crate) fn new(text: String, port: Box<dyn Port>, impairments: Impairments) -> Self {
        Self { text, port, impairments }
    }
}

impl Port for NetemPort {
    fn name(&self) -> &str {
        &self.text
    }

    fn info(&self) -> &PortInfo {
        self.port.info()
    }

    fn link(&self) -> Link {
        self.port.link()
    }

    fn events(&mut self, visit: &mut dyn FnMut(PortEvent)) {
        self.port.events(visit);
    }

    fn input(&self) -> Input {
        self.port.input()
    }

    fn configure(&mut self, command: &Command) -> Result<(), ControlError> {
        self.port.configure(command)
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        let wrap = |(index, pair)| -> Box<dyn QueuePair> {
            Box::new(NetemPair::new(pair, &self.impairments, index))
        };
        (0..).zip(self.port.take_queue_pairs()).map(wrap).collect()
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.port.stop()
    }
}

/// A queue pair behind a bad link: a pipe each way.
struct NetemPair {
    pair: Box<dyn QueuePair>,
    rx: Pipe,
    tx: Pipe,
    /// For sleeps until a frame has arrived; `None` where the system had none to give.
    alarm: Option<Alarm>,
    /// Frames on their way between pair and pipe.
    scratch: Box<Burst>,
    /// Fresh mbufs for copies, since `tx_burst` knows no pool.
    spares: Box<Burst>,
    wants_spares: bool,
    quiesced: bool,
}

impl NetemPair {
    fn new(pair: Box<dyn QueuePair>, impairments: &Impairments, index: u64) -> Self {
        Self {
            pair,
            rx: Pipe::new(impairments, 2 * index),
            tx: Pipe::new(impairments, 2 * index + 1),
            alarm: Alarm::new().ok(),
            scratch: Box::default(),
            spares: Box::default(),
            wants_spares: impairments.copies(),
            quiesced: false,
        }
    }

    /// Hands what is due to the port.
    fn send_due(&mut self, now: Instant) {
        while self.tx.has_due(now) {
            while !self.scratch.is_full()
                && let Some(frame) = self.tx.pop_due(now)
            {
                self.scratch.push(frame);
            }
            self.pair.tx_burst(&mut self.scratch);
            if !self.scratch.is_empty() {
                // The port is full: back to the front, in order.
                self.scratch.drain(..).rev().for_each(|frame| self.tx.put_back(now, frame));
                return;
            }
        }
    }
}

impl QueuePair for NetemPair {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let now = Instant::now();
        if self.wants_spares {
            let missing = self.spares.remaining_capacity();
            self.spares.extend(pool.alloc_bulk(missing));
        }
        // Called once a turn: also the time to send what waited.
        self.send_due(now);
        // No more than the pipe surely holds: the rest waits where it is, as at a slow receiver.
        let room = self.rx.room().min(budget).min(MAX_BURST);
        self.pair.rx_burst(pool, &mut self.scratch, room);
        for frame in self.scratch.drain(..) {
            self.rx.offer(now, frame, &mut self.spares);
        }
        let before = burst.len();
        while burst.len() - before < budget
            && !burst.is_full()
            && let Some(frame) = self.rx.pop_due(now)
        {
            burst.push(frame);
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if self.quiesced {
            return 0;
        }
        let now = Instant::now();
        let taken = self.tx.room().min(burst.len());
        for frame in burst.drain(..taken) {
            self.tx.offer(now, frame, &mut self.spares);
        }
        self.send_due(now);
        taken
    }

    fn tx_room(&mut self) -> usize {
        if self.quiesced { 0 } else { self.tx.room() }
    }

    fn tx_waiting(&mut self) -> usize {
        self.pair.tx_waiting()
    }

    fn quiesce(&mut self) {
        self.quiesced = true;
        self.pair.quiesce();
        self.rx.clear();
        self.tx.clear();
        self.spares.clear();
    }

    fn offloads(&self) -> Offloads {
        self.pair.offloads()
    }

    fn counters(&self) -> QueueCounters {
        let mut counters = self.pair.counters();
        counters.add(self.rx.counters());
        counters.add(self.tx.counters());
        counters
    }

    fn fault(&self) -> Option<QueueFault> {
        self.pair.fault()
    }

    fn arm(&mut self) -> Arm {
        let Some(alarm) = &mut self.alarm else { return Arm::CannotWait };
        let due = [self.rx.due_at(), self.tx.due_at()].into_iter().flatten().min();
        let now = Instant::now();
        if due.is_some_and(|due| due <= now) || !alarm.set(due.map(|due| due - now)) {
            return Arm::Ready.and(self.pair.arm());
        }
        self.pair.arm()
    }

    fn disarm(&mut self) {
        self.pair.disarm();
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.alarm.iter().filter_map(Alarm::fd).for_each(&mut *visit);
        self.pair.wait_fds(visit);
    }

    fn take_handed_on(&mut self) -> bool {
        self.pair.take_handed_on()
    }
}

#[cfg(test)]
mod tests;
