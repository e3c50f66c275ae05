//! One core's stack: the only caller of the rest.

use arrayvec::ArrayVec;
use smoltcp::phy::Device;

use crate::clock::Time;
use crate::config::{ConfigError, StackConfig};
use crate::core::Core;
use crate::emit::DeviceOut;
use crate::icmp::ECHO_HEADER_LEN;
use crate::link::{Ingress, IpPacket};
use crate::net::Net;
use crate::prefetch::prefetch_frame;
use crate::service::Service;
use crate::tuple::{Peek, Tuple};

mod configure;
mod early_fin;
mod egress;
mod foreign;
mod icmp;
mod ingress;
mod malformed;
mod mtu;
mod resend;
mod run;
mod zero_window;

pub use configure::Learnt;

/// Frames that are looked up ahead of being processed.
const BURST: usize = 64;

/// TCP/IP of one core, with the service that runs on it.
pub struct Stack<S> {
    core: Core,
    service: S,
    begun: bool,
}

/// A frame as it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Received<'f> {
    /// The frame.
    pub bytes: &'f [u8],
    /// If it is of TCP, its checksum need not be verified: the port has done it, or the frame never was on a wire and has
    /// none. What is not TCP is verified in any case.
    pub checksum_good: bool,
}

/// A frame for which nobody answers.
impl<'f> From<&'f [u8]> for Received<'f> {
    fn from(bytes: &'f [u8]) -> Received<'f> {
        Received { bytes, checksum_good: false }
    }
}

/// What a frame probably is, as seen before it is checked: for the prefetch, and to find the flow once.
struct Hint {
    tuple: Tuple,
    hash: u64,
    index: Option<u32>,
}

impl<S: Service> Stack<S> {
    /// A stack at rest. The service is started by the first call that has a device.
    ///
    /// # Errors
    /// [`ConfigError`]: a value out of range.
    pub fn new(config: StackConfig, service: S, now: Time) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Stack { core: Core::new(config, now), service, begun: false })
    }

    fn begin<D: Device>(&mut self, now: Time, device: &mut D) {
        self.core.now = now;
        if !self.begun {
            self.begun = true;
            self.core.adopt(&device.capabilities());
            let mut net = Net { core: &mut self.core, out: &mut DeviceOut(device) };
            self.service.start(&mut net);
        }
        self.events(device);
    }

    /// Takes in one burst of Ethernet frames: all flows are looked up and prefetched first. Services hear of datagrams
    /// at once, of connections in [`turn`](Self::turn). Does not allocate in steady state; answers that need no flow
    /// (ARP, echo, resets) leave through `device` at once, as far as it has room.
    pub fn receive<'f, D: Device>(
        &mut self,
        now: Time,
        frames: impl Iterator<Item: Into<Received<'f>>>,
        device: &mut D,
    ) {
        self.begin(now, device);
        let mut frames = frames.map(Into::into).fuse();
        let mut burst: ArrayVec<Received<'f>, BURST> = ArrayVec::new();
        loop {
            burst.clear();
            for frame in frames.by_ref().take(BURST) {
                prefetch_frame(frame.bytes);
                burst.push(frame);
            }
            self.burst(&burst, device);
            if !burst.is_full() {
                return;
            }
        }
    }

    /// Looks all frames up, and fetches what they will need, before it takes them in.
    fn burst<D: Device>(&mut self, frames: &[Received<'_>], device: &mut D) {
        let flows = &self.core.flows;
        let mut hints: ArrayVec<Option<Hint>, BURST> = ArrayVec::new();
        for frame in frames {
            let frame = frame.bytes;
            let tuple = Peek::frame(frame).and_then(|peek| peek.tcp(frame));
            hints.push(tuple.map(|tuple| {
                let hash = flows.hash(&tuple);
                let index = flows.guess(hash);
                if let Some(index) = index {
                    flows.prefetch_slot(index);
                }
                Hint { tuple, hash, index }
            }));
        }
        // One frame alone has its flow needed at once.
        if hints.len() > 1 {
            for index in hints.iter().flatten().filter_map(|hint| hint.index) {
                flows.prefetch_socket(index);
            }
        }
        for (frame, hint) in frames.iter().zip(&hints) {
            self.core.vouched = frame.checksum_good;
            self.frame(frame.bytes, hint.as_ref(), device);
        }
        self.core.vouched = false;
    }

    fn frame<D: Device>(&mut self, frame: &[u8], hint: Option<&Hint>, device: &mut D) {
        if let Some(hint) = hint
            && self.core.plain_segment(frame, hint, device)
        {
            return;
        }
        if hint.is_none()
            && let Some(dhcp) = &mut self.core.dhcp
            && dhcp.receive(self.core.now, frame)
        {
            return self.core.leases();
        }
        let ingress = self.core.link.receive(self.core.now, frame, &mut DeviceOut(device));
        self.packet(ingress, hint, device);
    }

    /// Takes in a whole IP packet that the first core put together from fragments and that is this core's
    /// ([`reassembled`](Self::reassembled)).
    pub fn receive_packet<D: Device>(&mut self, now: Time, packet: &[u8], device: &mut D) {
        self.begin(now, device);
        let ingress = self.core.link.receive_packet(now, packet, &mut DeviceOut(device));
        self.packet(ingress, None, device);
    }

    /// The next packet that was put together here and belongs to another core, and which core: for its
    /// [`receive_packet`](Self::receive_packet). At most 32 wait; more are dropped (`reassembled_full`). Only the first of
    /// several cores has any: it gets all fragments, which do not tell their ports.
    pub fn reassembled(&mut self) -> Option<(u16, Vec<u8>)> {
        self.core.foreign.pop_front()
    }

    /// Takes back the memory of a packet that [`reassembled`](Self::reassembled) gave.
    pub fn recycle(&mut self, packet: Vec<u8>) {
        self.core.link.recycle_memory(packet);
    }

    fn packet<D: Device>(&mut self, ingress: Ingress<'_>, hint: Option<&Hint>, device: &mut D) {
        match ingress {
            Ingress::Tcp(packet) | Ingress::Udp(packet) if self.core.is_foreign(&packet) => {
                self.core.hand_over(packet);
            }
            Ingress::Tcp(packet) => {
                // Nobody answers for what came in pieces.
                self.core.vouched &= !packet.is_assembled();
                self.core.segment(&packet, hint, device);
                self.core.link.recycle(packet);
            }
            Ingress::Udp(packet) => {
                self.datagram(&packet, device);
                self.core.link.recycle(packet);
            }
            Ingress::EchoReply { packet, ident, seq } => {
                let data = packet.payload().get(ECHO_HEADER_LEN..).unwrap_or(&[]);
                let mut net = Net { core: &mut self.core, out: &mut DeviceOut(device) };
                self.service.pong(packet.src, ident, seq, data, &mut net);
                self.core.link.recycle(packet);
            }
            Ingress::IcmpError(error) => self.icmp_error(&error, device),
            // DHCP's are taken out before the link layer, on the core that asks.
            Ingress::Dhcp(packet) => self.core.link.recycle(packet),
            Ingress::Consumed => {}
        }
    }

    fn datagram<D: Device>(&mut self, packet: &IpPacket<'_>, device: &mut D) {
        let core = &mut self.core;
        if core.resolver.receive(core.now, packet.src, packet.dst, packet.payload()) {
            return self.answers(device);
        }
        if let Some(got) = core.udp.receive(&mut core.link, core.now, packet, &mut DeviceOut(device)) {
            let mut net = Net { core, out: &mut DeviceOut(device) };
            self.service.datagram(got.socket, got.from, got.to, got.data, &mut net);
        }
    }

    /// Runs the flows that were touched, the timers that are due, and the service's own turn; sends what they have to
    /// send, urgent flows first, a limited number of frames each. What the device has no room for stays ready for the
    /// next turn. Does not allocate in steady state. Returns whether anything was done.
    pub fn turn<D: Device>(&mut self, now: Time, device: &mut D) -> bool {
        self.begin(now, device);
        let mut done = self.core.chores(&mut DeviceOut(device));
        done |= self.core.expire_timers() > 0;
        self.events(device);
        self.answers(device);
        done |= self.run_ready(device);
        self.core.wake_at = None;
        let mut net = Net { core: &mut self.core, out: &mut DeviceOut(device) };
        done |= self.service.turn(&mut net);
        // What the service has just written leaves in this turn.
        done | self.run_ready(device)
    }

    /// When the next turn is due if no frame comes before: at once if a flow is ready. `None`: never.
    pub fn poll_at(&self) -> Option<Time> {
        let core = &self.core;
        if !core.ready.is_empty() || !self.begun {
            return Some(core.now);
        }
        let dhcp = core.dhcp.as_ref().and_then(|dhcp| dhcp.poll_at());
        let chores = [core.link.poll_at(), core.resolver.poll_at(), dhcp].into_iter().flatten().min();
        let chores = chores.map(|at| at.max(core.chores_at));
        [core.timers.next(), chores, core.wake_at].into_iter().flatten().min()
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// The service.
    pub fn service_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// Calls `f` with the stack as the service sees it, from outside of the service: to begin something, or to look.
    /// What `f` writes leaves with the next turn.
    pub fn with_net<D: Device, R>(
        &mut self,
        now: Time,
        device: &mut D,
        f: impl FnOnce(&mut Net<'_>) -> R,
    ) -> R {
        self.begin(now, device);
        f(&mut Net { core: &mut self.core, out: &mut DeviceOut(device) })
    }

    /// Tells the network where this host's addresses are, twice, beginning with the next turn: the link was away, or
    /// leads elsewhere now.
    pub fn announce(&mut self, now: Time) {
        self.core.link.announce_again(now);
    }

    /// Tells the service, through [`Net::winding_down`], that the engine is about to stop.
    pub fn wind_down(&mut self) {
        self.core.winding_down = true;
    }

    /// Visits all counters and gauges: the stack's, the link layer's, the service's. Drops are under their reason.
    pub fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let core = &self.core;
        core.counters.visit(visit);
        visit("flows", core.flows.len() as u64);
        visit("half_open", core.half_open.len as u64);
        visit("time_wait", core.time_wait.remembered() as u64);
        visit("buffers_lent", core.flows.buffers_lent() as u64);
        visit("queries", core.resolver.in_use() as u64);
        core.udp.counters(visit);
        core.link.counters(visit);
        self.service.counters(visit);
    }

    /// Drains the latencies that the service recorded: slot and nanoseconds.
    pub fn samples(&mut self, record: &mut dyn FnMut(usize, u64)) {
        self.core.samples.drain(..).for_each(|(slot, ns)| record(slot, ns));
    }

    /// Whether there is no flow and nothing pending. TIME-WAIT does not count.
    pub fn is_idle(&self) -> bool {
        self.core.flows.len() == 0 && self.core.link.is_idle()
    }
}

#[cfg(test)]
mod tests;
