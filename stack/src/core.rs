//! Everything of a stack but its service: what [`Net`](crate::Net) and [`Conn`](crate::Conn) reach.

use std::collections::VecDeque;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use smoltcp::phy::DeviceCapabilities;
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};

use crate::clock::Time;
use crate::config::StackConfig;
use crate::configure::{Configure, Lease};
use crate::counters::Counters;
use crate::error::{Closed, ConnectError};
use crate::flow::Phase;
use crate::flows::{Flows, NIL};
use crate::id::ConnId;
use crate::interfaces::{Interfaces, IsnKey};
use crate::link::Link;
use crate::listen::{HalfOpen, Listeners};
use crate::options::ConnectOptions;
use crate::resolve::Resolver;
use crate::steer::tcp_core;
use crate::time_wait::TimeWait;
use crate::timers::Timers;
use crate::tuple::{HashKey, Tuple};
use crate::udp::Udp;

/// Timers that are looked at in one turn; the rest follows in the next.
pub(crate) const TIMERS_PER_TURN: usize = 4096;
/// Samples kept between two drains.
const SAMPLES: usize = 4096;

pub(crate) struct Core {
    pub config: StackConfig,
    pub now: Time,
    pub link: Link,
    pub udp: Udp,
    pub resolver: Resolver,
    pub dhcp: Option<Configure>,
    pub lease: Option<Lease>,
    /// Name servers: configured ones first, then those of DHCP and routers.
    pub learnt_dns: Vec<IpAddress>,
    pub dns_changed: bool,
    pub flows: Flows,
    pub interfaces: Interfaces,
    pub timers: Timers,
    pub listeners: Listeners,
    pub half_open: HalfOpen,
    pub time_wait: TimeWait,
    pub ready: Ready,
    /// Flows whose next hop is being resolved.
    pub waiting: Vec<u32>,
    /// Kept for their memory: flows that stay ready, flows whose timer is due.
    pub again: Vec<u32>,
    pub due: Vec<u32>,
    /// Room for a packet that is handed on changed. Grows to the longest there was.
    pub scratch: Vec<u8>,
    /// The flow that is being run: its egress follows anyway.
    pub running: u32,
    /// Somebody answers for the TCP checksum of the frame that is being taken in.
    pub vouched: bool,
    /// Packets of other cores, and which.
    pub foreign: VecDeque<(u16, Vec<u8>)>,
    pub counters: Counters,
    pub samples: Vec<(usize, u64)>,
    pub wake_at: Option<Time>,
    /// When neighbours, DHCP and name servers are next looked after.
    pub chores_at: Time,
    pub winding_down: bool,
    pub resets: Bucket,
    random: Random,
}

/// Flows with something to do, urgent ones apart.
#[derive(Default)]
pub(crate) struct Ready {
    urgent: VecDeque<u32>,
    normal: VecDeque<u32>,
}

impl Ready {
    pub fn push(&mut self, index: u32, urgent: bool) {
        if urgent { self.urgent.push_back(index) } else { self.normal.push_back(index) }
    }

    pub fn pop(&mut self) -> Option<u32> {
        self.urgent.pop_front().or_else(|| self.normal.pop_front())
    }

    pub fn pop_urgent(&mut self) -> Option<u32> {
        self.urgent.pop_front()
    }

    pub fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Makes room for as many.
    fn reserve(&mut self, flows: usize) {
        for queue in [&mut self.urgent, &mut self.normal] {
            queue.reserve(flows.saturating_sub(queue.len()));
        }
    }

    /// The normal flow whose turn comes after `others` more.
    pub fn ahead(&self, others: usize) -> Option<u32> {
        self.normal.get(others).copied()
    }

    pub fn len(&self) -> usize {
        self.urgent.len() + self.normal.len()
    }

    pub fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.normal.is_empty()
    }
}

/// Tokens at a rate, at most a second's worth saved up.
pub(crate) struct Bucket {
    per_second: u64,
    /// In billionths of a token.
    level: u64,
    last: Time,
}

impl Bucket {
    fn new(per_second: u32, now: Time) -> Self {
        Bucket { per_second: per_second.into(), level: u64::from(per_second) * 1_000_000_000, last: now }
    }

    pub fn take(&mut self, now: Time) -> bool {
        let passed = (now.ns().saturating_sub(self.last.ns())).min(1_000_000_000);
        self.last = now;
        self.level = (self.level + passed * self.per_second).min(self.per_second * 1_000_000_000);
        match self.level.checked_sub(1_000_000_000) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }
}

/// A keyed counter: unpredictable without the seed, and repeatable with it.
struct Random {
    key: (u64, u64),
    count: u64,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.count += 1;
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(self.count);
        hasher.finish()
    }
}

/// Ports that are tried at random before the rest is gone through in order.
const RANDOM_TRIES: usize = 32;
/// Of these, before one in TIME-WAIT will do: where connections are short, nearly all of them are.
const TRIES_FOR_FRESH: usize = 4;

impl Core {
    pub fn new(config: StackConfig, now: Time) -> Self {
        // Every use of the seed gets keys of its own, so that what one shows tells nothing of another. Cores that
        // share a seed differ by their index.
        let word = |label: u64| {
            let key = |at: usize| u64::from_le_bytes(config.seed[at..at + 8].try_into().expect("8 bytes"));
            let mut hasher = SipHasher13::new_with_keys(key(0) ^ key(16), key(8) ^ key(24).rotate_left(17));
            hasher.write(&config.seed);
            hasher.write_u64(label);
            hasher.write_u16(config.share.index);
            hasher.finish()
        };
        let limits = &config.limits;
        let flows = Flows::new(limits.flows, HashKey::new([word(1), word(2), word(3), word(4)]));
        let mut secret = [0; 16];
        secret[..8].copy_from_slice(&word(9).to_le_bytes());
        secret[8..].copy_from_slice(&word(10).to_le_bytes());
        let mut resolver = Resolver::new(secret);
        resolver.set_servers(&config.dns);
        // One core asks; the others learn what it was given.
        let first = config.share.index == 0 && config.dhcp;
        let dhcp = first.then(|| Configure::new(config.mac, config.mtu, config.vlan, word(11), now));
        Core {
            now,
            link: Link::new(&config, now),
            udp: Udp::new(limits.udp_sockets, &config.seed),
            resolver,
            dhcp,
            lease: None,
            learnt_dns: Vec::new(),
            dns_changed: false,
            flows,
            interfaces: Interfaces::new(config.mtu, IsnKey(word(5), word(6))),
            timers: Timers::new(limits.flows, now),
            listeners: Listeners::new(limits.listeners),
            half_open: HalfOpen::default(),
            time_wait: TimeWait::new(limits.time_wait, limits.time_wait_timeout),
            ready: Ready::default(),
            waiting: Vec::new(),
            again: Vec::new(),
            due: Vec::with_capacity(TIMERS_PER_TURN),
            scratch: Vec::new(),
            running: NIL,
            vouched: false,
            foreign: VecDeque::new(),
            counters: Counters::default(),
            samples: Vec::with_capacity(SAMPLES),
            wake_at: None,
            chores_at: now,
            winding_down: false,
            resets: Bucket::new(limits.resets_per_second, now),
            random: Random { key: (word(7), word(8)), count: 0 },
            config,
        }
    }

    /// Leaves to the device what it does by itself. Once, before the first connection.
    pub fn adopt(&mut self, capabilities: &DeviceCapabilities) {
        self.interfaces.offload(capabilities, self.link.header_len());
    }

    /// Makes room for flow `index` in all that is kept by flow: only a flow in a slot that was never used allocates.
    pub fn cover(&mut self, index: u32) {
        self.timers.cover(index);
        let flows = self.flows.slots();
        self.ready.reserve(flows);
        for list in [&mut self.waiting, &mut self.again] {
            list.reserve(flows.saturating_sub(list.len()));
        }
    }

    /// The flow has something to do in this turn.
    #[inline]
    pub fn touch(&mut self, index: u32) {
        if index == self.running {
            return;
        }
        let flow = self.flows.at(index);
        if !flow.queued {
            flow.queued = true;
            self.ready.push(index, flow.urgent);
        }
    }

    pub fn record(&mut self, slot: usize, ns: u64) {
        if self.samples.len() < SAMPLES {
            self.samples.push((slot, ns));
        } else {
            self.counters.samples_lost += 1;
        }
    }

    /// Begins a connection. Its SYN leaves with the next egress.
    pub fn connect(&mut self, to: IpEndpoint, options: &ConnectOptions) -> Result<ConnId, ConnectError> {
        let broadcast = matches!(to.addr, IpAddress::Ipv4(a) if a.is_broadcast());
        if to.port == 0 || !to.addr.is_unicast() || broadcast {
            return Err(ConnectError::BadAddress(to));
        }
        if self.flows.is_full() {
            return Err(ConnectError::TooMany(self.flows.limit()));
        }
        let wanted = options.local.unwrap_or(IpListenEndpoint { addr: None, port: 0 });
        let addr = match wanted.addr {
            Some(addr) if !self.link.is_ours(addr) => return Err(ConnectError::NotLocal(addr)),
            Some(addr) if addr.version() != to.addr.version() => return Err(ConnectError::BadAddress(to)),
            Some(addr) => addr,
            None => self.link.source(to.addr).ok_or(ConnectError::NoRoute(to.addr))?,
        };
        if self.link.via(to.addr).is_none() {
            return Err(ConnectError::NoRoute(to.addr));
        }
        let local = match wanted.port {
            0 => self.choose_port(addr, to)?,
            port => {
                let local = IpEndpoint::new(addr, port);
                if self.flows.is_used(local, to) {
                    return Err(ConnectError::InUse(local));
                }
                local
            }
        };
        let tuple = Tuple { local, remote: to };
        let hash = self.flows.hash(&tuple);
        // Our sequence numbers are later than the old connection's (RFC 6528), so that its TIME-WAIT may end.
        self.time_wait.remove(hash, &tuple);
        let tcp = options.tcp.clamped();
        let inserted = self.flows.insert(tuple, hash, &tcp, self.config.clock_scale, self.now);
        let index = inserted.ok_or(ConnectError::TooMany(self.flows.limit()))?;
        self.cover(index);
        let interface = self.interfaces.for_mtu(self.link.path_mtu(to.addr));
        self.interfaces.choose_isn(interface, &tuple, self.now);
        let urgent = self.config.urgent(tcp.dscp);
        let flow = self.flows.at(index);
        flow.phase = Phase::Connecting;
        flow.interface = interface;
        flow.urgent = urgent;
        flow.tag = options.tag;
        // The user timeout takes over when the handshake is complete.
        flow.timeout = tcp.timeout;
        flow.handshake = options.timeout;
        let context = self.interfaces.get(interface).context();
        let begun = flow.socket_mut().connect(context, to, local);
        debug_assert!(begun.is_ok(), "addresses and ports were checked");
        self.touch(index);
        Ok(self.flows.id(index))
    }

    /// A port at random (RFC 6056 §3.3.1) that is free towards `to` and whose replies come to this core. Ports in
    /// TIME-WAIT are taken only when others are hard to find. At most 32 random tries and one pass over all ports.
    fn choose_port(&mut self, addr: IpAddress, to: IpEndpoint) -> Result<IpEndpoint, ConnectError> {
        let (first, last) = self.config.ports;
        let span = u64::from(last - first) + 1;
        let share = self.config.share;
        let pick = |offset: u64| first + u16::try_from(offset % span).unwrap_or(0);
        // The address with that port, if it is free, and whether it is in TIME-WAIT.
        let free = |core: &Core, port: u16| {
            let local = IpEndpoint::new(addr, port);
            let tuple = Tuple { local, remote: to };
            if tcp_core(&tuple, share.count) != share.index || core.listeners.has_port(port) {
                return None;
            }
            let hash = core.flows.hash(&tuple);
            let waits = || core.time_wait.find(hash, &tuple, core.now).is_some();
            core.flows.find(hash, &tuple).is_none().then(|| (local, waits()))
        };
        let mut in_time_wait = None;
        for tries in 1..=RANDOM_TRIES {
            let port = pick(self.random.next());
            match free(self, port) {
                Some((local, false)) => return Ok(local),
                Some((local, true)) => in_time_wait = in_time_wait.or(Some(local)),
                None => {}
            }
            if let (Some(local), TRIES_FOR_FRESH..) = (in_time_wait, tries) {
                return Ok(local);
            }
        }
        let start = self.random.next() % span;
        let mut ports = (0..span).map(|step| pick(start + step));
        ports.find_map(|port| Some(free(self, port)?.0)).ok_or(ConnectError::NoPort(to))
    }

    /// Ends a flow without a word to the peer or the service.
    pub fn drop_flow(&mut self, index: u32) {
        self.timers.cancel(index);
        if self.flows.peek(index).phase == Phase::HalfOpen {
            self.leave_half_open(index);
        }
        self.flows.remove(index);
    }

    /// The handshake is over, one way or the other.
    pub fn leave_half_open(&mut self, index: u32) {
        self.half_open.remove(&mut self.flows, index);
        if let Some(listener) = self.flows.peek(index).listener.and_then(|id| self.listeners.get(id)) {
            listener.half_open -= 1;
        }
    }

    pub fn count_closed(&mut self, why: Closed) {
        let counters = &mut self.counters;
        counters.closed += 1;
        match why {
            Closed::Done => {}
            Closed::Reset => counters.closed_reset += 1,
            Closed::TimedOut => counters.closed_timed_out += 1,
            Closed::Refused => counters.closed_refused += 1,
            Closed::Unreachable(_) | Closed::NoRoute => counters.closed_unreachable += 1,
            Closed::Aborted => counters.closed_aborted += 1,
        }
    }
}
