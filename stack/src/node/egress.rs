//! What a flow has to send, and when it next wants to be looked at.

use std::time::Duration;

use smoltcp::iface::PollResult;
use smoltcp::phy::Device;
use smoltcp::wire::IpAddress;

use crate::clock::Time;
use crate::core::Core;
use crate::emit::{DeviceOut, Envelope, FlowDevice};
use crate::error::Closed;
use crate::flow::{Flow, Phase};
use crate::icmp::Unreachable;
use crate::link::NextHop;

/// How egress ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Egress {
    /// Nothing left for now.
    Idle,
    /// Its share of this turn is used up.
    More,
    /// The device has no room.
    NoRoom,
    /// The next hop is being resolved.
    Waiting,
    /// There is no next hop.
    NoRoute,
}

/// When a flow without a next hop tries again.
const NO_HOP_RETRY: Duration = Duration::from_secs(1);
/// When to look again at a socket that claims to be due and sends nothing.
const STUCK_RETRY: Duration = Duration::from_millis(1);

impl Core {
    /// Sends what the flow has to send, and sets its timer.
    pub(super) fn egress<D: Device>(&mut self, index: u32, device: &mut D) -> Egress {
        let now = self.now;
        let remote = self.flows.peek(index).tuple.remote.addr;
        let hop = match self.link.next_hop(now, remote, &mut DeviceOut(device)) {
            NextHop::Mac(mac) => mac,
            NextHop::Pending => return self.wait_for_hop(index),
            NextHop::NoRoute => {
                self.set_timer(index, now + NO_HOP_RETRY);
                return Egress::NoRoute;
            }
        };
        self.probe(index, device);
        let budget = self.config.limits.frames_per_flow;
        let flow = self.flows.at(index);
        flow.next_hop = Some(hop);
        let instant = flow.clock.instant(now);
        let mtu = self.interfaces.mtu(flow.interface);
        let sums = self.interfaces.sums();
        let interface = self.interfaces.get(flow.interface);
        let Flow { set, sent, recovery, traffic_class, clock, peer_mss, .. } = flow;
        let (before, mut frames) = (sent.seq_end, 0);
        let (end, due) = loop {
            let mut no_room = false;
            let envelope = Envelope {
                link: &self.link,
                next_hop: Some(hop),
                traffic_class: *traffic_class,
                mtu,
                v6: matches!(remote, IpAddress::Ipv6(_)),
                peer_mss: *peer_mss,
                sums,
                sent,
                no_room: &mut no_room,
            };
            let mut one = FlowDevice { device: &mut *device, received: None, envelope };
            let result = interface.poll_egress(instant, &mut one, set);
            if no_room {
                break (Egress::NoRoom, None);
            }
            let due = interface.poll_at(instant, set);
            if due.is_none_or(|due| due > instant) {
                break (Egress::Idle, due.map(|due| clock.time(due)));
            }
            if result == PollResult::None {
                break (Egress::Idle, Some(now + STUCK_RETRY));
            }
            frames += 1;
            if frames == budget {
                break (Egress::More, None);
            }
        };
        let resent = std::mem::take(&mut sent.resent);
        self.counters.retransmitted += u64::from(resent);
        let probe = recovery.sent(now, before, sent.seq_end, resent > 0, due);
        let next = due.unwrap_or(Time::MAX).min(probe.unwrap_or(Time::MAX));
        self.set_timer(index, next);
        end
    }

    /// Sets the flow's timer to `due` or its own deadline, whichever is first.
    pub(super) fn set_timer(&mut self, index: u32, due: Time) {
        let deadline = self.flows.peek(index).deadline(&self.config.limits);
        self.timers.set(index, due.min(deadline));
    }

    fn wait_for_hop(&mut self, index: u32) -> Egress {
        let flow = self.flows.at(index);
        if !flow.waiting {
            flow.waiting = true;
            self.waiting.push(index);
        }
        // In case the news is lost.
        self.set_timer(index, self.now + NO_HOP_RETRY);
        Egress::Waiting
    }

    /// A next hop is known: all that wait try again.
    pub(super) fn wake_waiting(&mut self) {
        while let Some(index) = self.waiting.pop() {
            if std::mem::take(&mut self.flows.at(index).waiting) {
                self.touch(index);
            }
        }
    }

    /// Nobody answers for `hop`: connections that are being made fail, others go on trying.
    pub(super) fn unresolvable(&mut self, hop: IpAddress) {
        for at in (0..self.waiting.len()).rev() {
            let index = self.waiting[at];
            let flow = self.flows.at(index);
            if !flow.waiting || flow.phase == Phase::Vacant {
                flow.waiting = false;
                self.waiting.swap_remove(at);
                continue;
            }
            if self.link.via(flow.tuple.remote.addr) != Some(hop) {
                continue;
            }
            flow.waiting = false;
            self.waiting.swap_remove(at);
            if self.flows.peek(index).phase == Phase::Connecting {
                self.fail(index, Closed::Unreachable(Unreachable::Host));
            }
        }
    }

    /// Ends a connection for a reason of the network's or ours; its reset, if it has a peer, leaves with the egress.
    pub(super) fn fail(&mut self, index: u32, why: Closed) {
        let flow = self.flows.at(index);
        flow.why.get_or_insert(why);
        flow.socket_mut().abort();
        self.touch(index);
    }
}
