//! A stack as a program: one host's end of one port, on one core or on several.
//!
//! ```text
//!   receive ─► frames as slices ─► Stack::receive ──┐
//!   turn ────► Stack::turn ─────────────────────────┴─► Phy ─► Cx::send
//!        ├───► addresses learnt on the first core ─► rings ─► the stacks of the others
//!        └───► datagrams that the first core put together from fragments ─► rings ─► their core's Stack::receive_packet
//! ```

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use door::{Caller, CoreBell};
use pmd::Mbuf;
use pmd::port::{Burst, PortEvent, PortInfo};
use stack::{
    ConfigError, EthernetAddress, IpAddress, IpCidr, Learnt, Limits, Received, Service, Share, Stack,
    StackConfig, TcpOptions, Time,
};
use thiserror::Error;

use crate::phy::{Phy, Reach};
use crate::program::{Cx, Program, ProgramError};
use crate::queue::priority::DscpSet;
use crate::tsc::{Ticks, Tsc};

/// Changes of the learnt addresses that wait for a core; it takes them every turn, and a newer one replaces the oldest.
const LESSONS: usize = 8;

/// Datagrams put together from fragments that wait for a core. At 64 KiB each, 1 MiB at most.
const PARCELS: usize = 16;

/// From the first core to another: datagrams there, their memory back.
struct Parcels {
    full: ArrayQueue<Vec<u8>>,
    empty: ArrayQueue<Vec<u8>>,
}

impl Parcels {
    fn new() -> Parcels {
        Parcels { full: ArrayQueue::new(PARCELS), empty: ArrayQueue::new(PARCELS) }
    }
}

/// What a stack is told beside what its port knows (MAC, MTU) and the engine (which core it is). The fields of
/// [`StackConfig`] explain themselves there.
#[derive(Clone, Debug)]
pub struct StackSettings {
    /// Own addresses with their prefix lengths.
    pub addresses: Vec<IpCidr>,
    /// Default gateways, one of each IP version at most.
    pub gateways: Vec<IpAddress>,
    /// Further routes: prefix, next hop.
    pub routes: Vec<(IpCidr, IpAddress)>,
    /// Ask DHCP for an IPv4 address.
    pub dhcp: bool,
    /// Make IPv6 addresses from router advertisements.
    pub slaac: bool,
    /// Name servers.
    pub dns: Vec<IpAddress>,
    /// 802.1Q VLAN that all frames carry.
    pub vlan: Option<u16>,
    /// Largest IP packet in bytes, if it is to be smaller than the port's.
    pub mtu: Option<usize>,
    /// Secret of the stack; taken from the system's random source if not given, as it should be outside of tests.
    pub seed: Option<[u8; 32]>,
    /// Bounds of everything a core's stack keeps.
    pub limits: Limits,
    /// What connections start with.
    pub tcp: TcpOptions,
    /// How much faster than real time a connection's clock runs.
    pub clock_scale: u32,
    /// Ports for outgoing connections, first and last.
    pub ports: (u16, u16),
}

impl Default for StackSettings {
    /// No address, and the stack's defaults.
    fn default() -> StackSettings {
        let config = StackConfig::new(EthernetAddress([2, 0, 0, 0, 0, 0]), 1500);
        StackSettings {
            addresses: config.addresses,
            gateways: config.gateways,
            routes: config.routes,
            dhcp: config.dhcp,
            slaac: config.slaac,
            dns: config.dns,
            vlan: config.vlan,
            mtu: None,
            seed: None,
            limits: config.limits,
            tcp: config.tcp,
            clock_scale: config.clock_scale,
            ports: config.ports,
        }
    }
}

impl StackSettings {
    fn config(self, info: &PortInfo, share: Share, urgent: DscpSet) -> Result<StackConfig, StackNodeError> {
        let mtu = usize::from(info.mtu).min(self.mtu.unwrap_or(usize::MAX));
        Ok(StackConfig {
            vlan: self.vlan,
            addresses: self.addresses,
            gateways: self.gateways,
            routes: self.routes,
            dhcp: self.dhcp,
            slaac: self.slaac,
            dns: self.dns,
            seed: seed(self.seed, share)?,
            share,
            limits: self.limits,
            tcp: self.tcp,
            clock_scale: self.clock_scale,
            urgent: urgent.iter().collect(),
            ports: self.ports,
            ..StackConfig::new(EthernetAddress(info.mac), mtu)
        })
    }
}

/// Each core's secret is its own.
fn seed(given: Option<[u8; 32]>, share: Share) -> Result<[u8; 32], StackNodeError> {
    let Some(mut seed) = given else {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(StackNodeError::Random)?;
        return Ok(seed);
    };
    for (byte, own) in seed.iter_mut().zip(share.index.to_le_bytes()) {
        *byte ^= own;
    }
    Ok(seed)
}

/// Why a stack cannot run on its port.
#[derive(Debug, Error)]
pub enum StackNodeError {
    /// A stack is a host on one network.
    #[error("a stack runs on one port, not on {ports}; give each port a stack of its own")]
    Ports {
        /// How many it was given.
        ports: usize,
    },
    /// No stack can be made of the settings.
    #[error("the stack cannot be set up")]
    Config(#[from] ConfigError),
    /// The system has no randomness to give.
    #[error("no random seed for the stack's secrets")]
    Random(#[source] getrandom::Error),
}

/// A [`Stack`] with its service, as a program on one port.
pub struct StackNode<S: Service> {
    state: State<S>,
    share: Share,
    /// Code points whose flows are served first.
    urgent: DscpSet,
    /// For the stacks of the other cores: what this one learnt.
    teach: Vec<Arc<ArrayQueue<Learnt>>>,
    /// Of the other cores, in the same order; they may sleep.
    pupils: Vec<Arc<CoreBell>>,
    /// From the first core.
    lessons: Option<Arc<ArrayQueue<Learnt>>>,
    /// To the other cores, from the second on: their datagrams.
    parcels: Vec<Arc<Parcels>>,
    /// From the first core.
    inbox: Option<Arc<Parcels>>,
    /// Datagrams dropped as their core did not keep up.
    parcels_full: u64,
}

/// Before the port is known, and after.
enum State<S: Service> {
    New(Option<Box<(StackSettings, S)>>),
    Ready(Box<Ready<S>>),
}

struct Ready<S: Service> {
    stack: Stack<S>,
    /// The stack's time starts here.
    started: Ticks,
    tsc: Tsc,
    reach: Reach,
    /// What the settings say, whatever the port carries.
    most_mtu: usize,
    /// When the burst of this turn was received; 0 if there was none.
    stamp: Ticks,
}

impl<S: Service> StackNode<S> {
    /// A stack that has its port to itself.
    #[must_use]
    pub fn new(settings: StackSettings, service: S) -> StackNode<S> {
        Self::member(settings, service, Share::default(), DscpSet::URGENT)
    }

    fn member(settings: StackSettings, service: S, share: Share, urgent: DscpSet) -> StackNode<S> {
        StackNode {
            state: State::New(Some(Box::new((settings, service)))),
            share,
            urgent,
            teach: Vec::new(),
            pupils: Vec::new(),
            lessons: None,
            parcels: Vec::new(),
            inbox: None,
            parcels_full: 0,
        }
    }

    /// One stack for each of the cores with these bells, at most 65,535, which are one host: what the first learns, the
    /// others are told.
    pub(crate) fn team(
        settings: &StackSettings,
        bells: &[Arc<CoreBell>],
        urgent: DscpSet,
        service: &mut dyn FnMut(u16) -> S,
    ) -> Vec<StackNode<S>> {
        let count = u16::try_from(bells.len()).expect("at most 65,535 instances");
        let member = |index| Self::member(settings.clone(), service(index), Share { index, count }, urgent);
        let mut team: Vec<StackNode<S>> = (0..count).map(member).collect();
        if let Some((first, others)) = team.split_first_mut() {
            for (other, bell) in others.iter_mut().zip(&bells[1..]) {
                first.pupils.push(Arc::clone(bell));
                let lessons = Arc::new(ArrayQueue::new(LESSONS));
                other.lessons = Some(Arc::clone(&lessons));
                first.teach.push(lessons);
                let parcels = Arc::new(Parcels::new());
                other.inbox = Some(Arc::clone(&parcels));
                first.parcels.push(parcels);
            }
        }
        team
    }

    fn service(&self) -> Option<&S> {
        match &self.state {
            State::New(new) => new.as_ref().map(|new| &new.1),
            State::Ready(ready) => Some(ready.stack.service()),
        }
    }
}

impl<S: Service> Ready<S> {
    fn time(&self, cx: &Cx<'_>) -> Time {
        Time::from_ns(cx.tsc.ns_between(self.started, cx.now))
    }

    fn receive(&mut self, burst: &mut Burst, cx: &mut Cx<'_>) {
        let Some(first) = burst.first() else { return };
        let (now, stamp) = (self.time(cx), Ticks(first.rx_ticks()));
        if burst.iter().any(|frame| frame.next().is_some() || frame.offload().partial_checksum().is_some()) {
            return self.receive_unusual(burst, cx, now, stamp);
        }
        let mut phy = Phy::new(cx, 0, self.reach, stamp);
        self.stack.receive(now, burst.iter().map(as_received), &mut phy);
        // What this burst brings about and leaves only at the end of the turn has the same stamp.
        self.stamp = stamp;
    }

    /// A burst in which frames lie in several mbufs, or come without a checksum. A few at a time, as long mbufs are few,
    /// and as what has just been copied is still near when it is read.
    fn receive_unusual(&mut self, burst: &mut Burst, cx: &mut Cx<'_>, now: Time, stamp: Ticks) {
        let mut few: ArrayVec<Mbuf, FEW> = ArrayVec::new();
        while !burst.is_empty() {
            let count = burst.len().min(FEW);
            few.extend(burst.drain(..count));
            make_readable(&mut few, cx);
            let mut phy = Phy::new(cx, 0, self.reach, stamp);
            self.stack.receive(now, few.iter().map(as_received), &mut phy);
            few.clear();
        }
        self.stamp = stamp;
    }

    /// Hands datagrams over that were put together here and are another core's. Returns how many were dropped.
    fn hand_over(&mut self, parcels: &[Arc<Parcels>], bells: &[Arc<CoreBell>]) -> u64 {
        let mut dropped = 0;
        while let Some((core, packet)) = self.stack.reassembled() {
            let other = usize::from(core).wrapping_sub(1);
            let (Some(to), Some(bell)) = (parcels.get(other), bells.get(other)) else {
                dropped += 1;
                continue;
            };
            if let Err(packet) = to.full.push(packet) {
                dropped += 1;
                self.stack.recycle(packet);
            }
            bell.ring(Caller::Core);
            if let Some(memory) = to.empty.pop() {
                self.stack.recycle(memory);
            }
        }
        dropped
    }

    /// Takes in what the first core handed over.
    fn take_in(&mut self, inbox: &Parcels, cx: &mut Cx<'_>) -> bool {
        let now = self.time(cx);
        let mut any = false;
        for _ in 0..PARCELS {
            let Some(packet) = inbox.full.pop() else { break };
            self.stack.receive_packet(now, &packet, &mut Phy::new(cx, 0, self.reach, Ticks(0)));
            // Without room for it the memory is freed.
            let _ = inbox.empty.push(packet);
            any = true;
        }
        any
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        let (now, stamp) = (self.time(cx), std::mem::take(&mut self.stamp));
        if cx.winding_down {
            self.stack.wind_down();
        }
        let urgent = self.stack.turn_urgent(now, &mut Phy::new(cx, 0, self.reach, stamp).urgent());
        let busy = self.stack.turn(now, &mut Phy::new(cx, 0, self.reach, stamp)) | urgent;
        self.stack.samples(&mut |slot, ns| cx.record(slot, ns, 1));
        busy
    }
}

/// Frames that are made readable together.
const FEW: usize = 4;

/// Place of the checksum in a TCP header. RFC 9293 §3.1.
const TCP_CHECKSUM: u16 = 16;

#[inline]
fn as_received(frame: &Mbuf) -> Received<'_> {
    Received { bytes: frame.data(), checksum_good: frame.offload().is_checksum_good() }
}

/// Copies frames that lie in several mbufs into one each: the stack reads slices. What no mbuf holds is dropped. Frames
/// whose checksum is to be completed are what the other side has in memory, and good as they are if they are TCP's;
/// others get theirs, which the stack looks at.
fn make_readable(frames: &mut ArrayVec<Mbuf, FEW>, cx: &mut Cx<'_>) {
    for mut frame in std::mem::take(frames) {
        if frame.next().is_some() {
            match frame.copy_linear(cx.pool) {
                Ok(copy) => frame = copy,
                Err(_) => {
                    cx.drop("rx_not_linear", frame);
                    continue;
                }
            }
        }
        match frame.offload().partial_checksum() {
            Some(at) if at.offset != TCP_CHECKSUM && frame.complete_checksum().is_err() => {
                cx.drop("rx_bad_offload", frame);
            }
            _ => frames.push(frame),
        }
    }
}

impl<S: Service> Program for StackNode<S> {
    fn prepare(&mut self, ports: &[PortInfo], tsc: &Tsc) -> Result<(), ProgramError> {
        let [port] = ports else { return Err(StackNodeError::Ports { ports: ports.len() }.into()) };
        let State::New(new) = &mut self.state else { return Ok(()) };
        let Some((settings, service)) = new.take().map(|new| *new) else { return Ok(()) };
        let most_mtu = settings.mtu.unwrap_or(usize::MAX);
        let config = settings.config(port, self.share, self.urgent)?;
        let stack = Stack::new(config, service, Time::ZERO).map_err(StackNodeError::Config)?;
        let (started, reach) = (Tsc::now(), Reach::of(port));
        let tsc = *tsc;
        self.state = State::Ready(Box::new(Ready { stack, started, tsc, reach, most_mtu, stamp: Ticks(0) }));
        Ok(())
    }

    fn receive(&mut self, _port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        if let State::Ready(ready) = &mut self.state {
            ready.receive(burst, cx);
        }
    }

    /// A network that is there again is told where this host is, as is one to which a guest was moved. An MTU that changes
    /// is the connections' as well.
    fn port_event(&mut self, _port: usize, event: &PortEvent, cx: &mut Cx<'_>) {
        let State::Ready(ready) = &mut self.state else { return };
        match event {
            PortEvent::LinkUp | PortEvent::Back | PortEvent::Announce => {
                let now = ready.time(cx);
                ready.stack.announce(now);
            }
            PortEvent::Mtu(mtu) => {
                ready.reach.set_mtu(*mtu);
                ready.stack.set_mtu(usize::from(*mtu).min(ready.most_mtu));
            }
            PortEvent::LinkDown | PortEvent::Gone { .. } => {}
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        let State::Ready(ready) = &mut self.state else { return false };
        let mut busy = false;
        if let Some(lesson) = self.lessons.as_ref().and_then(|lessons| lessons.pop()) {
            let now = ready.time(cx);
            ready.stack.learn(&lesson, now);
            busy = true;
        }
        busy |= self.inbox.as_ref().is_some_and(|inbox| ready.take_in(inbox, cx));
        busy |= ready.turn(cx);
        if !self.parcels.is_empty() {
            self.parcels_full += ready.hand_over(&self.parcels, &self.pupils);
        }
        if !self.teach.is_empty()
            && let Some(learnt) = ready.stack.learnt()
        {
            for (lessons, bell) in self.teach.iter().zip(&self.pupils) {
                lessons.force_push(learnt.clone());
                bell.ring(Caller::Core);
            }
        }
        busy
    }

    fn wake_at(&self) -> Option<Ticks> {
        let State::Ready(ready) = &self.state else { return None };
        let lessons = self.lessons.as_ref().is_some_and(|lessons| !lessons.is_empty());
        let parcels = self.inbox.as_ref().is_some_and(|inbox| !inbox.full.is_empty());
        if lessons || parcels || !ready.stack.service().is_quiet() {
            return Some(Ticks(0));
        }
        let due = ready.stack.poll_at()?;
        Some(ready.started.after(ready.tsc.ticks(due.ns())))
    }

    fn offloads(&self) -> bool {
        true
    }

    fn latencies(&self) -> &'static [&'static str] {
        self.service().map_or(&[], Service::latencies)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        if let State::Ready(ready) = &self.state {
            ready.stack.counters(visit);
        }
        if !self.parcels.is_empty() {
            visit("reassembled_ring_full", self.parcels_full);
        }
    }

    fn is_done(&self) -> bool {
        self.service().is_none_or(Service::is_done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Lane;
    use crate::queue::test_pair::{TestPair, frame, home};
    use crate::stats::CoreReport;
    use pmd::port::Offloads;
    use stack::{Closed, Conn, ConnId, Net};

    struct Nothing;

    impl Service for Nothing {
        fn accept(&mut self, _conn: &mut Conn<'_>) {}
        fn ready(&mut self, _conn: &mut Conn<'_>) {}
        fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}
    }

    fn info(mac: [u8; 6], mtu: u16) -> PortInfo {
        let (rx_descriptors, tx_descriptors) = (64, 64);
        PortInfo {
            driver: "test",
            mac,
            mtu,
            rx_descriptors,
            tx_descriptors,
            queue_pairs: 1,
            features: 0,
            offloads: Offloads::default(),
        }
    }

    fn refusal(settings: StackSettings, ports: &[PortInfo]) -> String {
        let error =
            StackNode::new(settings, Nothing).prepare(ports, &Tsc::from_hz(1_000_000_000)).unwrap_err();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    #[test]
    fn what_cannot_be_a_host_is_refused_with_the_reason() {
        let port = info([2, 0, 0, 0, 0, 1], 1500);
        let two = refusal(StackSettings::default(), &[port.clone(), port.clone()]);
        assert!(two.contains("one port, not on 2"), "{two}");
        let group = refusal(StackSettings::default(), &[info([1, 0, 0, 0, 0, 1], 1500)]);
        assert!(group.contains("not a unicast Ethernet address"), "{group}");
        let tiny = StackSettings { mtu: Some(100), ..StackSettings::default() };
        let tiny = refusal(tiny, &[port]);
        assert!(tiny.contains("mtu is 100"), "{tiny}");
    }

    #[test]
    fn each_core_and_each_start_has_a_secret_of_its_own() {
        let share = |index| Share { index, count: 2 };
        let fixed = Some([7; 32]);
        assert_eq!(seed(fixed, share(1)).unwrap(), seed(fixed, share(1)).unwrap());
        assert_ne!(seed(fixed, share(0)).unwrap(), seed(fixed, share(1)).unwrap());
        assert_ne!(seed(None, share(0)).unwrap(), seed(None, share(0)).unwrap());
    }

    #[test]
    fn a_frame_in_pieces_is_made_one_and_one_that_no_mbuf_holds_is_counted() {
        let pool = home(16);
        let (pair, _) = TestPair::new(8);
        let (tsc, mut report) = (Tsc::from_hz(1_000_000_000), CoreReport::new(0, None, &[(0, 0)], &[]));
        let mut lanes = [Lane::new(pair, 0, false, false)];
        let mut cx = Cx {
            now: Ticks(0),
            tsc: &tsc,
            pool: &pool,
            winding_down: false,
            lanes: &mut lanes,
            report: &mut report,
            slots: None,
        };
        let in_pieces = |first: &[u8], second: &[u8]| {
            let mut head = frame(&pool, first);
            head.chain(frame(&pool, second));
            head.set_rx_ticks(5);
            head
        };
        let mut burst = ArrayVec::new();
        burst.push(frame(&pool, &[1; 60]));
        burst.push(in_pieces(&[2; 1500], &[2; 1500]));
        burst.push(in_pieces(&[3; 40], &[4; 20]));
        make_readable(&mut burst, &mut cx);
        assert_eq!(burst.len(), 2);
        assert_eq!(burst[0].data(), [1; 60]);
        assert_eq!((burst[1].data(), burst[1].rx_ticks()), (&[&[3; 40][..], &[4; 20]].concat()[..], 5));
        assert_eq!(report.drops.get("rx_not_linear"), 1);
        drop(burst);
        assert_eq!(pool.levels().free, 16);
    }
}
