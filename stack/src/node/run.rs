//! The ready flows: what happened is told to the service, what is to be sent is sent, what is over is ended.

use smoltcp::phy::Device;
use smoltcp::socket::tcp::State;
use smoltcp::wire::TcpControl;

use super::egress::Egress;
use super::{BURST, Stack};
use crate::clock::Time;
use crate::conn::Conn;
use crate::core::{Core, Ready, TIMERS_PER_TURN};
use crate::emit::DeviceOut;
use crate::error::Closed;
use crate::flow::Phase;
use crate::flows::NIL;
use crate::link::FrameOut;
use crate::net::Net;
use crate::service::Service;

/// Flows that are run at once. With a request or two each they record fewer latencies than are kept.
const FLOWS_PER_TURN: usize = 1024;
/// A list of ready flows that is longer than a burst was not fetched by the burst that made them ready, or is cold
/// again: slots are fetched so many flows ahead, sockets when their slot has come.
const SLOTS_AHEAD: usize = 6;
const SOCKETS_AHEAD: usize = 3;

impl<S: Service> Stack<S> {
    /// Runs the flows that are ready now, each once; those with more to do stay ready. Returns whether there were any.
    pub(super) fn run_ready<D: Device>(&mut self, device: &mut D) -> bool {
        self.run_some(device, Ready::pop)
    }

    /// As [`run_ready`](Self::run_ready), of those flows that `next` takes off the list.
    fn run_some<D: Device>(&mut self, device: &mut D, next: fn(&mut Ready) -> Option<u32>) -> bool {
        if self.core.ready.is_empty() {
            return false;
        }
        // Flows that become ready meanwhile (a service writes to another connection, connects anew) have their run
        // too, but no endless one: at most as many again, and a few. The rest of a long list waits for the next turn:
        // frames are to be received, and latencies collected, in between.
        let mut budget = (self.core.ready.len() * 2 + 64).min(FLOWS_PER_TURN);
        let mut again = std::mem::take(&mut self.core.again);
        while budget > 0
            && let Some(index) = next(&mut self.core.ready)
        {
            budget -= 1;
            self.core.fetch_ahead();
            self.core.flows.at(index).queued = false;
            match self.run(index, device) {
                Some(Egress::NoRoom) => {
                    // The others would not fare better.
                    self.core.counters.egress_no_room += 1;
                    again.push(index);
                    break;
                }
                Some(Egress::More) => again.push(index),
                _ => {}
            }
        }
        again.drain(..).for_each(|index| self.core.touch(index));
        self.core.again = again;
        true
    }

    /// Runs the urgent flows that are ready, and no others: for a device that keeps room for them, as long as it tells
    /// them from the rest. Before [`turn`](Self::turn), which runs all. Returns whether there were any.
    pub fn turn_urgent<D: Device>(&mut self, now: Time, device: &mut D) -> bool {
        if !self.core.ready.has_urgent() {
            return false;
        }
        self.begin(now, device);
        self.run_some(device, Ready::pop_urgent)
    }

    /// Runs one flow.
    fn run<D: Device>(&mut self, index: u32, device: &mut D) -> Option<Egress> {
        if self.core.flows.peek(index).phase == Phase::Vacant {
            return None;
        }
        self.core.running = index;
        let end = self.run_live(index, device);
        self.core.running = NIL;
        end
    }

    fn run_live<D: Device>(&mut self, index: u32, device: &mut D) -> Option<Egress> {
        self.tell(index, device);
        let flow = self.core.flows.peek(index);
        if flow.phase == Phase::Unread {
            return self.run_unread(index, device);
        }
        if flow.socket().state() == State::TimeWait && flow.why.is_none_or(|why| why == Closed::Done) {
            if DeviceOut(device).room() == 0 {
                return Some(Egress::NoRoom);
            }
            self.core.enter_time_wait(index, device);
            self.finish(index, Closed::Done, device);
            return None;
        }
        let has_peer = flow.socket().remote_endpoint().is_some();
        let end = if has_peer { self.core.egress(index, device) } else { Egress::Idle };
        let flow = self.core.flows.peek(index);
        let over = match flow.socket().state() {
            // Its reset is sent, or cannot be.
            State::Closed => end != Egress::NoRoom,
            // Back from SYN-RECEIVED by a reset.
            State::Listen => true,
            // Aborted: nothing is owed to the peer.
            State::TimeWait => true,
            _ if end == Egress::NoRoute && flow.phase == Phase::Connecting => {
                self.finish(index, Closed::NoRoute, device);
                return None;
            }
            _ => false,
        };
        if !over {
            return Some(end);
        }
        let why = flow.why.unwrap_or(Closed::Done);
        self.finish(index, why, device);
        None
    }

    /// Tells the service what happened since it was last told.
    fn tell<D: Device>(&mut self, index: u32, device: &mut D) {
        let flow = self.core.flows.at(index);
        let state = flow.socket().state();
        let synchronized =
            !matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived);
        match flow.phase {
            Phase::HalfOpen if synchronized => {
                flow.phase = Phase::Open;
                self.core.leave_half_open(index);
                self.core.counters.accepted += 1;
                self.service.accept(&mut Conn { core: &mut self.core, out: &mut DeviceOut(device), index });
            }
            Phase::Connecting if synchronized => {
                flow.phase = Phase::Open;
                self.core.counters.connected += 1;
                self.service.connected(&mut Conn {
                    core: &mut self.core,
                    out: &mut DeviceOut(device),
                    index,
                });
            }
            Phase::HalfOpen if matches!(state, State::Closed | State::Listen) => {
                self.core.counters.half_open_reset += u64::from(flow.why != Some(Closed::TimedOut));
            }
            _ => {}
        }
        let flow = self.core.flows.at(index);
        if flow.phase != Phase::Open {
            return;
        }
        flow.note_edges();
        if std::mem::take(&mut flow.edge) && flow.socket().state() != State::Closed {
            self.service.ready(&mut Conn { core: &mut self.core, out: &mut DeviceOut(device), index });
        } else if flow.why == Some(Closed::Done) && flow.socket().recv_queue() > 0 {
            // Closed by the last acknowledgement; bytes that came before are still to be told of.
            self.service.ready(&mut Conn { core: &mut self.core, out: &mut DeviceOut(device), index });
        }
    }

    /// A finished connection whose bytes are being read.
    fn run_unread<D: Device>(&mut self, index: u32, device: &mut D) -> Option<Egress> {
        let flow = self.core.flows.peek(index);
        let left = flow.socket().recv_queue();
        let late = self.core.now >= flow.deadline(&self.core.config.limits);
        let aborted = flow.why == Some(Closed::Aborted);
        if left == 0 || late || aborted {
            self.core.counters.unread_discarded += left as u64;
            self.end(index, if aborted { Closed::Aborted } else { Closed::Done }, device);
        }
        None
    }

    /// The flow is over: at once, or when its bytes have been read.
    fn finish<D: Device>(&mut self, index: u32, why: Closed, device: &mut D) {
        let flow = self.core.flows.at(index);
        if why == Closed::Done && flow.phase == Phase::Open && flow.socket().recv_queue() > 0 {
            flow.phase = Phase::Unread;
            flow.heard = self.core.now;
            self.core.flows.forget_tuple(index);
            self.core.set_timer(index, Time::MAX);
            return;
        }
        self.end(index, why, device);
    }

    fn end<D: Device>(&mut self, index: u32, why: Closed, device: &mut D) {
        let flow = self.core.flows.peek(index);
        let (id, tag) = (self.core.flows.id(index), flow.tag);
        let known = matches!(flow.phase, Phase::Open | Phase::Connecting | Phase::Unread);
        self.core.drop_flow(index);
        self.core.running = NIL;
        if known {
            self.core.count_closed(why);
            let mut net = Net { core: &mut self.core, out: &mut DeviceOut(device) };
            self.service.closed(id, tag, why, &mut net);
        }
    }
}

impl Core {
    /// Fetches what the next flows of a long ready list are in.
    #[inline]
    fn fetch_ahead(&self) {
        if self.ready.len() > BURST {
            if let Some(index) = self.ready.ahead(SLOTS_AHEAD) {
                self.flows.prefetch_slot(index);
            }
            if let Some(index) = self.ready.ahead(SOCKETS_AHEAD) {
                self.flows.prefetch_socket(index);
            }
        }
    }

    /// Puts flows on the ready list whose time has come. Returns how many timers were looked at.
    pub(super) fn expire_timers(&mut self) -> usize {
        let now = self.now;
        if !self.timers.is_due(now) {
            return 0;
        }
        let mut due = std::mem::take(&mut self.due);
        let looked_at = self.timers.expire(now, TIMERS_PER_TURN, |index| due.push(index));
        for index in due.drain(..) {
            let flow = self.flows.peek(index);
            if flow.phase != Phase::Unread && now >= flow.deadline(&self.config.limits) {
                self.counters.half_open_timeout += u64::from(flow.phase == Phase::HalfOpen);
                self.fail(index, Closed::TimedOut);
            } else {
                self.touch(index);
            }
        }
        self.due = due;
        looked_at
    }

    /// Acknowledges the peer's FIN, and remembers a connection whose socket is about to go. The device has room: a peer
    /// whose FIN is not acknowledged sends it again after its retransmission timeout, and gets a reset if many others
    /// have pushed the connection out of TIME-WAIT by then.
    fn enter_time_wait<D: Device>(&mut self, index: u32, device: &mut D) {
        let flow = self.flows.peek(index);
        let (tuple, hash, sent) = (flow.tuple, flow.hash, flow.sent);
        self.flows.forget_tuple(index);
        let early = self.time_wait.insert(tuple, hash, sent.seq_end, sent.ack, self.now);
        self.counters.time_wait_full += u64::from(early);
        self.answer(&tuple, TcpControl::None, sent.seq_end, Some(sent.ack), device);
    }
}
