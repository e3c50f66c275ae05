//! Echo requests as a service on the loop; what happens is told to another thread, which has the time to print it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use stack::{
    Closed, Conn, ConnId, IpAddress, Net, QueryId, RecordKind, ResolveError, SendError, Service, Time,
    Unreachable,
};

use super::echoes::{Echoes, Reply};

/// The latency that is recorded.
const LATENCIES: [&str; 1] = [engine::latency::ROUND_TRIP];
/// How many times the wait for an answer the wait for an address of our own may be: DHCP takes seconds.
const CONFIGURATION_WAITS: u32 = 10;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This address.
    Address(IpAddress),
    /// The first address of this name; an IPv4 one if there is any.
    Name(Box<str>),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first request leaves for this address.
    Begins(IpAddress),
    /// An answer.
    Answer {
        /// Of whom.
        from: IpAddress,
        /// Its number.
        seq: u16,
        /// Its data bytes.
        bytes: usize,
        /// How long it took; `None` of an answer that came before.
        ns: Option<u64>,
        /// Its data are not those of the request.
        is_corrupted: bool,
    },
    /// The network says that a request did not arrive.
    Failed {
        /// Its number.
        seq: u16,
        /// Why.
        why: Unreachable,
    },
    /// A request could not leave.
    NotSent(SendError),
    /// The name has no address.
    NotResolved(ResolveError),
    /// No address of our own came in time.
    NotConfigured,
}

/// Events for the thread that prints. What does not fit is not printed, and counted all the same.
pub type Events = Arc<ArrayQueue<Event>>;

/// What to ask, and how.
#[derive(Clone, Debug)]
pub struct PingConfig {
    /// Whom.
    pub target: Target,
    /// How many times; `None`: until the engine stops.
    pub count: Option<u64>,
    /// From one request to the next.
    pub interval: Duration,
    /// Data bytes.
    pub size: usize,
    /// How long to wait for the last answers.
    pub wait: Duration,
    /// Of this run, so that two of them do not take each other's answers.
    pub ident: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No address of our own yet.
    Unconfigured { since: Option<Time> },
    /// The name's addresses are asked for.
    Resolving { query: QueryId, kind: RecordKind },
    /// Requests leave.
    Asking { to: IpAddress, next: Time },
    /// The last one has left.
    Waiting { until: Time },
    /// Over.
    Done,
}

/// The service.
#[derive(Debug)]
pub struct Ping {
    config: PingConfig,
    events: Events,
    state: State,
    echoes: Echoes,
    data: Vec<u8>,
    duplicates: u64,
    corrupted: u64,
    errors: u64,
}

impl Ping {
    /// A service that tells `events` what happens. Allocates all it needs.
    #[must_use]
    pub fn new(config: PingConfig, events: Events) -> Ping {
        // As ping(8): each byte its own position.
        let data = (0..=255).cycle().take(config.size).collect();
        let state = State::Unconfigured { since: None };
        let echoes = Echoes::default();
        Ping { config, events, state, echoes, data, duplicates: 0, corrupted: 0, errors: 0 }
    }

    fn tell(&self, event: Event) {
        // Full: the printing thread is behind. Counters and histogram are complete without it.
        let _ = self.events.push(event);
    }

    fn fail(&mut self, event: Event) {
        self.errors += 1;
        self.tell(event);
        self.state = State::Done;
    }

    fn begin(&mut self, to: IpAddress, now: Time) {
        self.tell(Event::Begins(to));
        self.state = State::Asking { to, next: now };
    }

    fn resolve(&mut self, kind: RecordKind, net: &mut Net<'_>) {
        let Target::Name(name) = &self.config.target else { return };
        match net.resolve(name, kind) {
            Ok(query) => self.state = State::Resolving { query, kind },
            Err(error) => self.fail(Event::NotResolved(error)),
        }
    }

    /// Sends one request.
    fn ask(&mut self, to: IpAddress, next: Time, net: &mut Net<'_>) {
        let now = net.now();
        // What could not leave on time leaves later, not all at once.
        let next = if next + self.config.interval < now { now } else { next } + self.config.interval;
        let seq = self.echoes.send(now.ns());
        if let Err(error) = net.ping(to, self.config.ident, seq, &self.data) {
            self.echoes.fail(seq);
            self.errors += 1;
            self.tell(Event::NotSent(error));
        }
        let is_last = self.config.count.is_some_and(|count| self.echoes.sent() >= count);
        self.state = if is_last {
            State::Waiting { until: now + self.config.wait }
        } else {
            State::Asking { to, next }
        };
    }
}

impl Service for Ping {
    // Pings have no connections.
    fn accept(&mut self, _conn: &mut Conn<'_>) {}
    fn ready(&mut self, _conn: &mut Conn<'_>) {}
    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}

    fn configured(&mut self, net: &mut Net<'_>) {
        if !matches!(self.state, State::Unconfigured { .. }) {
            return;
        }
        match self.config.target {
            // An address of the other family may come first.
            Target::Address(to)
                if net.addresses().iter().any(|own| own.address().version() == to.version()) =>
            {
                self.begin(to, net.now());
            }
            Target::Address(_) => {}
            Target::Name(_) => self.resolve(RecordKind::A, net),
        }
    }

    fn resolved(&mut self, query: QueryId, answer: Result<&[IpAddress], ResolveError>, net: &mut Net<'_>) {
        let State::Resolving { query: mine, kind } = self.state else { return };
        if query != mine {
            return;
        }
        match (answer.map(|found| found.first().copied()), kind) {
            (Ok(Some(to)), _) => self.begin(to, net.now()),
            (Ok(None) | Err(ResolveError::NoAddress), RecordKind::A) => self.resolve(RecordKind::Aaaa, net),
            (Ok(None), RecordKind::Aaaa) => self.fail(Event::NotResolved(ResolveError::NoAddress)),
            (Err(error), _) => self.fail(Event::NotResolved(error)),
        }
    }

    fn pong(&mut self, from: IpAddress, ident: u16, seq: u16, data: &[u8], net: &mut Net<'_>) {
        if ident != self.config.ident {
            return;
        }
        let ns = match self.echoes.reply(seq, net.now().ns()) {
            Reply::Unknown => return,
            Reply::Duplicate => {
                self.duplicates += 1;
                None
            }
            Reply::Fresh(ns) => {
                net.record(0, ns);
                Some(ns)
            }
        };
        let is_corrupted = data != self.data;
        self.corrupted += u64::from(is_corrupted);
        self.tell(Event::Answer { from, seq, bytes: data.len(), ns, is_corrupted });
    }

    fn ping_failed(&mut self, _to: IpAddress, ident: u16, seq: u16, why: Unreachable, _net: &mut Net<'_>) {
        if ident == self.config.ident && self.echoes.fail(seq) {
            self.tell(Event::Failed { seq, why });
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let now = net.now();
        match self.state {
            State::Unconfigured { since } => {
                let since = since.unwrap_or(now);
                self.state = State::Unconfigured { since: Some(since) };
                if net.winding_down() {
                    self.state = State::Done;
                } else if now.since(since) >= self.config.wait * CONFIGURATION_WAITS {
                    self.fail(Event::NotConfigured);
                }
            }
            State::Resolving { .. } if net.winding_down() => self.state = State::Done,
            State::Resolving { .. } | State::Done => {}
            State::Asking { .. } if net.winding_down() => {
                self.state = State::Waiting { until: now + self.config.wait };
            }
            State::Asking { to, next } if now >= next => {
                self.ask(to, next, net);
                return true;
            }
            State::Asking { next, .. } => net.wake_at(next),
            State::Waiting { until } => {
                if self.echoes.out() == 0 || now >= until {
                    self.state = State::Done;
                }
                net.wake_at(until);
            }
        }
        false
    }

    fn latencies(&self) -> &'static [&'static str] {
        &LATENCIES
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let echoes = &self.echoes;
        // Requests still under way are not lost yet.
        let lost =
            if self.state == State::Done { echoes.sent() - echoes.answered() } else { echoes.failed() };
        visit("sent", echoes.sent());
        visit("received", echoes.answered());
        visit("lost", lost);
        visit("duplicated", self.duplicates);
        visit("corrupted", self.corrupted);
        visit("unreachable", echoes.failed());
        visit("errors", self.errors);
    }

    fn is_done(&self) -> bool {
        self.state == State::Done
    }
}
