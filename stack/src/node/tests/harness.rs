//! The wire, the clock, and a service that does what a test tells it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};

use crate::outbox::Outbox;
use crate::{Closed, Conn, ConnId, ConnectOptions, ListenOptions, Net, Service, Stack, StackConfig, Time};

/// What a [`Script`] service does with a connection's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Sends back what comes, finishes when the peer has.
    #[default]
    Echo,
    /// Keeps what comes; finishes when told.
    Keep,
    /// Reads nothing.
    Deaf,
}

/// A service under a test's control.
#[derive(Default)]
pub struct Script {
    pub mode: Mode,
    pub accepted: Vec<ConnId>,
    pub connected: Vec<ConnId>,
    pub closed: Vec<(ConnId, u64, Closed)>,
    pub finished: Vec<ConnId>,
    pub received: HashMap<ConnId, Vec<u8>>,
    pub to_send: HashMap<ConnId, VecDeque<u8>>,
    pub readies: usize,
    /// Run once in the next turn.
    pub ask: Vec<Ask>,
}

/// Something to do with the stack from inside.
pub type Ask = Box<dyn FnOnce(&mut Net<'_>) + Send>;

impl Script {
    fn push(&mut self, conn: &mut Conn<'_>) {
        if let Some(bytes) = self.to_send.get_mut(&conn.id()) {
            while !bytes.is_empty() {
                let n = conn.send_slice(bytes.make_contiguous());
                if n == 0 {
                    break;
                }
                bytes.drain(..n);
            }
        }
    }
}

impl Service for Script {
    fn accept(&mut self, conn: &mut Conn<'_>) {
        self.accepted.push(conn.id());
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.connected.push(conn.id());
        self.push(conn);
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        self.readies += 1;
        let id = conn.id();
        match self.mode {
            Mode::Echo => loop {
                let room = conn.send_room();
                let bytes = conn.recv(|bytes| {
                    let n = bytes.len().min(room);
                    (n, bytes[..n].to_vec())
                });
                if bytes.is_empty() {
                    break;
                }
                assert_eq!(conn.send_slice(&bytes), bytes.len());
            },
            Mode::Keep => {
                let kept = self.received.entry(id).or_default();
                while conn.recv_queue() > 0 {
                    conn.recv(|bytes| {
                        kept.extend_from_slice(bytes);
                        (bytes.len(), ())
                    });
                }
            }
            Mode::Deaf => {}
        }
        self.push(conn);
        if conn.peer_finished() && !self.finished.contains(&id) {
            self.finished.push(id);
            if self.mode == Mode::Echo {
                conn.close();
            }
        }
    }

    fn closed(&mut self, id: ConnId, tag: u64, why: Closed, net: &mut Net<'_>) {
        assert!(net.conn(id).is_none(), "a closed id is dead");
        self.closed.push((id, tag, why));
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let asks = std::mem::take(&mut self.ask);
        let any = !asks.is_empty();
        asks.into_iter().for_each(|ask| ask(net));
        any
    }
}

/// A stack and what it has sent.
pub(crate) struct Host {
    pub stack: Stack<Script>,
    pub wire: Outbox,
}

/// Whether a frame from a host arrives.
pub type Passes = Box<dyn FnMut(usize, &[u8]) -> bool>;

pub(crate) struct World {
    pub now: Time,
    pub hosts: [Host; 2],
    /// Whether a frame from host `.0` arrives.
    pub passes: Passes,
    pub delay: Duration,
    on_the_way: VecDeque<(Time, usize, Vec<u8>)>,
}

pub fn address(host: usize) -> IpAddress {
    IpAddress::v4(10, 0, 0, u8::try_from(host + 1).unwrap())
}

pub fn config(host: usize) -> StackConfig {
    let last = u8::try_from(host + 1).unwrap();
    let mut config = StackConfig::new(EthernetAddress([2, 0, 0, 0, 0, last]), 1500);
    config.addresses = vec![IpCidr::new(address(host), 24)];
    config.seed = [last; 32];
    config.limits.flows = 1024;
    config
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl Fn(&mut StackConfig)) -> Self {
        let hosts = [0, 1].map(|host| {
            let mut config = config(host);
            change(&mut config);
            let stack = Stack::new(config, Script::default(), Time::from_ms(1)).unwrap();
            Host { stack, wire: Outbox::new(4096, 1500) }
        });
        let passes = Box::new(|_: usize, _: &[u8]| true);
        World {
            now: Time::from_ms(1),
            hosts,
            passes,
            delay: Duration::from_micros(50),
            on_the_way: VecDeque::new(),
        }
    }

    pub fn script(&mut self, host: usize) -> &mut Script {
        self.hosts[host].stack.service_mut()
    }

    pub fn counter(&self, host: usize, name: &str) -> u64 {
        let mut found = None;
        self.hosts[host].stack.counters(&mut |n, value| {
            if n == name {
                found = Some(value);
            }
        });
        found.unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Has `f` called inside of host's next turn, and gives its result.
    pub fn ask<R: Send + 'static>(
        &mut self,
        host: usize,
        f: impl FnOnce(&mut Net<'_>) -> R + Send + 'static,
    ) -> R {
        let (send, receive) = std::sync::mpsc::channel();
        self.script(host).ask.push(Box::new(move |net| send.send(f(net)).unwrap()));
        self.step_host(host);
        receive.try_recv().expect("asked in this turn")
    }

    /// Host 1 listens on `port`; host 0 connects to it.
    pub fn listen(&mut self, port: u16) {
        self.ask(1, move |net| net.listen(port.into(), ListenOptions::default())).unwrap();
    }

    pub fn connect(&mut self, port: u16) -> ConnId {
        self.connect_with(port, ConnectOptions::default())
    }

    pub fn connect_with(&mut self, port: u16, options: ConnectOptions) -> ConnId {
        let to = IpEndpoint::new(address(1), port);
        self.ask(0, move |net| net.connect(to, options)).unwrap()
    }

    /// Sends on host 0's or 1's connection.
    pub fn send(&mut self, host: usize, id: ConnId, bytes: &[u8]) {
        self.script(host).to_send.entry(id).or_default().extend(bytes);
        let bytes: Vec<u8> = self.script(host).to_send.remove(&id).unwrap().into();
        let rest = self.ask(host, move |net| {
            let n = net.conn(id).expect("still open").send_slice(&bytes);
            bytes[n..].to_vec()
        });
        self.script(host).to_send.insert(id, rest.into());
    }

    pub fn with_conn<R: Send + 'static>(
        &mut self,
        host: usize,
        id: ConnId,
        f: impl FnOnce(&mut Conn<'_>) -> R + Send + 'static,
    ) -> R {
        self.ask(host, move |net| f(&mut net.conn(id).expect("still open")))
    }

    fn step_host(&mut self, host: usize) -> bool {
        let mut due = Vec::new();
        while let Some(at) = self.on_the_way.iter().position(|(at, to, _)| *at <= self.now && *to == host) {
            due.push(self.on_the_way.remove(at).unwrap().2);
        }
        let Host { stack, wire } = &mut self.hosts[host];
        stack.receive(self.now, due.iter().map(Vec::as_slice), wire);
        let done = stack.turn(self.now, wire);
        let any = done || !due.is_empty();
        while let Some(frame) = self.hosts[host].wire.frames.pop_front() {
            if (self.passes)(host, &frame) {
                self.on_the_way.push_back((self.now + self.delay, 1 - host, frame));
            }
        }
        any
    }

    /// Gives one frame to a host, in a turn of its own, and shows what the host sends in answer. The answer goes
    /// nowhere.
    pub fn inject(&mut self, host: usize, frame: &[u8]) -> Vec<Vec<u8>> {
        let Host { stack, wire } = &mut self.hosts[host];
        stack.receive(self.now, std::iter::once(frame), wire);
        stack.turn(self.now, wire);
        wire.take()
    }

    /// As [`ask`](Self::ask), but shows what the host sends; it goes nowhere.
    pub fn ask_frames(&mut self, host: usize, f: impl FnOnce(&mut Net<'_>) + Send + 'static) -> Vec<Vec<u8>> {
        self.script(host).ask.push(Box::new(f));
        let Host { stack, wire } = &mut self.hosts[host];
        stack.turn(self.now, wire);
        wire.take()
    }

    /// Lets time pass until `end`, from event to event.
    pub fn run_until(&mut self, end: Time) {
        while self.now < end {
            while self.step_host(0) | self.step_host(1) {}
            let frames = self.on_the_way.iter().map(|(at, ..)| *at);
            let timers = self.hosts.iter().filter_map(|host| host.stack.poll_at());
            let next = frames.chain(timers).min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(1)).min(end);
        }
    }

    pub fn run(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    /// Nothing is left: no flow, no buffer on loan.
    pub fn assert_clean(&self) {
        for host in [0, 1] {
            for name in ["flows", "half_open", "buffers_lent"] {
                assert_eq!(self.counter(host, name), 0, "{name} of host {host}");
            }
        }
    }
}

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
