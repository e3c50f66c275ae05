//! Applications at both ends: pseudo-random streams each way, in random pieces, with half-closes, pauses and aborts.
//!
//! A client's stream begins with a header that tells the server everything it has to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use stack::{
    Closed, Conn, ConnId, ConnectOptions, IpEndpoint, IpListenEndpoint, ListenOptions, Net, Service,
    TcpOptions, Time,
};

use crate::ledger::{Ledger, Outcome, Pair, pair};
use crate::rng::{Rng, byte_of};

/// Where every server listens.
pub const PORT: u16 = 7;
const HEADER_BYTES: usize = 40;
/// Pieces moved in one go before others have their turn.
const PIECES: usize = 8;

/// A connection that is to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub at_ns: u64,
    pub to: IpEndpoint,
    pub key: u64,
    /// Bytes from client to server behind the header, and back.
    pub up: u64,
    pub down: u64,
    /// Bytes that the client, and the server, send before they abort.
    pub client_aborts: Option<u64>,
    pub server_aborts: Option<u64>,
    /// The client finishes its stream at once, not only when it has read everything.
    pub half_close: bool,
    /// The server says nothing before the client has finished.
    pub server_waits: bool,
    /// The server reads on only when it has sent everything: the client's window closes, and its acknowledgements have
    /// to be heard all the same.
    pub server_first: bool,
}

impl Plan {
    pub fn has_abort(&self) -> bool {
        self.client_aborts.is_some() || self.server_aborts.is_some()
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let flags = u64::from(self.server_waits) | u64::from(self.server_first) << 1;
        let words = [self.key, self.up, self.down, self.server_aborts.unwrap_or(u64::MAX), flags];
        let mut header = [0; HEADER_BYTES];
        for (place, word) in header.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        header
    }
}

/// One end of one connection.
struct End {
    is_client: bool,
    pair: Pair,
    /// What is known of the connection; the server learns it from the header.
    plan: Option<Plan>,
    header: Vec<u8>,
    sent: u64,
    received: u64,
    finished: bool,
    peer_finished: bool,
    aborted: bool,
}

impl End {
    fn to_send(&self) -> u64 {
        match &self.plan {
            Some(plan) if self.is_client => HEADER_BYTES as u64 + plan.up,
            Some(plan) if plan.server_waits && !self.peer_finished => 0,
            Some(plan) => plan.down,
            None => 0,
        }
    }

    fn to_receive(&self) -> Option<u64> {
        let plan = self.plan.as_ref()?;
        Some(if self.is_client { plan.down } else { HEADER_BYTES as u64 + plan.up })
    }

    fn aborts_at(&self) -> Option<u64> {
        let plan = self.plan.as_ref()?;
        if self.is_client { plan.client_aborts } else { plan.server_aborts }
    }

    /// Whether its own stream is to be finished now.
    fn may_finish(&self) -> bool {
        let Some(plan) = &self.plan else { return self.peer_finished };
        if self.is_client {
            self.sent == self.to_send() && (plan.half_close || self.received == plan.down)
        } else {
            // A server that waits has not finished before the client has.
            self.sent == plan.down && (!plan.server_waits || self.peer_finished)
        }
    }

    /// What belongs at `offset` of the stream that this end sends.
    fn byte_to_send(&self, offset: u64) -> u8 {
        let plan = self.plan.as_ref().expect("nothing is sent before the header");
        match offset.checked_sub(HEADER_BYTES as u64) {
            _ if !self.is_client => byte_of(!plan.key, offset),
            Some(behind) => byte_of(plan.key, behind),
            None => plan.header()[usize::try_from(offset).unwrap()],
        }
    }

    /// Takes what came next, and checks each byte of it.
    fn check(&mut self, mut bytes: &[u8]) {
        if !self.is_client && self.header.len() < HEADER_BYTES {
            let (header, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.header.len()));
            self.header.extend(header);
            self.received += header.len() as u64;
            bytes = rest;
            if self.header.len() == HEADER_BYTES {
                self.read_header();
            }
        }
        let Some(plan) = &self.plan else { return };
        for &byte in bytes {
            let expected = if self.is_client {
                byte_of(!plan.key, self.received)
            } else {
                byte_of(plan.key, self.received - HEADER_BYTES as u64)
            };
            assert_eq!(byte, expected, "byte {} of {:?} to the {}", self.received, self.pair, self.name());
            self.received += 1;
        }
        let most = self.to_receive().unwrap_or(u64::MAX);
        assert!(self.received <= most, "{} bytes of {most} came", self.received);
    }

    fn read_header(&mut self) {
        let mut words = self.header.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let mut word = || words.next().unwrap();
        let (key, up, down, aborts, flags) = (word(), word(), word(), word(), word());
        self.plan = Some(Plan {
            at_ns: 0,
            to: self.pair.0,
            key,
            up,
            down,
            client_aborts: None,
            server_aborts: (aborts != u64::MAX).then_some(aborts),
            half_close: false,
            server_waits: flags & 1 != 0,
            server_first: flags & 2 != 0,
        });
    }

    /// Whether it reads at present.
    fn reads(&self) -> bool {
        !self.plan.as_ref().is_some_and(|plan| !self.is_client && plan.server_first && self.sent < plan.down)
    }

    fn name(&self) -> &'static str {
        if self.is_client { "client" } else { "server" }
    }
}

/// The application of one stack: a server, and a client of whatever is planned.
pub struct Streams {
    plans: Vec<Plan>,
    tcp: TcpOptions,
    /// Longest pause between two pieces, in nanoseconds.
    pause_ns: u64,
    rng: Rng,
    ends: BTreeMap<ConnId, End>,
    later: BTreeSet<(u64, ConnId)>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Streams {
    /// `plans` in any order.
    pub fn new(
        mut plans: Vec<Plan>,
        tcp: TcpOptions,
        pause_ns: u64,
        seed: u64,
        ledger: Arc<Mutex<Ledger>>,
    ) -> Self {
        plans.sort_by_key(|plan| std::cmp::Reverse(plan.at_ns));
        Self {
            plans,
            tcp,
            pause_ns,
            rng: Rng::new(seed),
            ends: BTreeMap::new(),
            later: BTreeSet::new(),
            ledger,
        }
    }

    /// Connections that are open or were not made yet.
    pub fn pending(&self) -> usize {
        self.plans.len() + self.ends.len()
    }

    fn begin(&mut self, now: Time, id: ConnId, local: IpEndpoint, remote: IpEndpoint, plan: Option<Plan>) {
        let pair = pair(local, remote);
        self.ledger.lock().unwrap().begin(now, pair);
        let end = End {
            is_client: plan.is_some(),
            pair,
            plan,
            header: Vec::new(),
            sent: 0,
            received: 0,
            finished: false,
            peer_finished: false,
            aborted: false,
        };
        let before = self.ends.insert(id, end);
        assert!(before.is_none(), "{id:?} was given to two connections");
    }

    /// Moves some pieces each way. What is left is moved later: nobody announces it again.
    fn pump(&mut self, conn: &mut Conn<'_>) {
        let now = conn.now();
        let id = conn.id();
        let end = self.ends.get_mut(&id).expect("only open connections are announced");
        if end.aborted {
            return;
        }
        let mut moved = false;
        for _ in 0..PIECES {
            let rng = &mut self.rng;
            let received = conn.recv(|bytes| {
                let len = if bytes.is_empty() || !end.reads() { 0 } else { 1 + rng.below_usize(bytes.len()) };
                end.check(&bytes[..len]);
                (len, len)
            });
            end.peer_finished |= conn.peer_finished();
            let left = end.to_send() - end.sent.min(end.to_send());
            let aborts_at = end.aborts_at().unwrap_or(u64::MAX);
            let left = left.min(aborts_at.saturating_sub(end.sent));
            let sent = if left == 0 {
                0
            } else {
                conn.send(|room| {
                    let most = room.len().min(usize::try_from(left).unwrap());
                    let len = if most == 0 { 0 } else { 1 + rng.below_usize(most) };
                    for (offset, place) in (end.sent..).zip(&mut room[..len]) {
                        *place = end.byte_to_send(offset);
                    }
                    (len, len)
                })
            };
            end.sent += sent as u64;
            moved |= received + sent > 0;
            if end.sent >= aborts_at {
                end.aborted = true;
                conn.abort();
                return;
            }
            if received + sent == 0 {
                break;
            }
        }
        if end.may_finish() && !end.finished {
            end.finished = true;
            conn.close();
        }
        let more =
            (end.reads() && conn.recv_queue() > 0) || (end.sent < end.to_send() && conn.send_room() > 0);
        if more {
            let at_ns = now.ns() + 1 + self.rng.below(self.pause_ns + 1);
            self.later.insert((at_ns, id));
        }
        if moved || end.peer_finished {
            self.ledger.lock().unwrap().advance(now, end.pair);
        }
    }
}

impl Service for Streams {
    fn start(&mut self, net: &mut Net<'_>) {
        let options = ListenOptions { backlog: 1024, tcp: self.tcp };
        net.listen(IpListenEndpoint::from(PORT), options).expect("a free port");
    }

    fn accept(&mut self, conn: &mut Conn<'_>) {
        self.begin(conn.now(), conn.id(), conn.local(), conn.remote(), None);
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        let end = &self.ends[&conn.id()];
        self.ledger.lock().unwrap().advance(conn.now(), end.pair);
        self.pump(conn);
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        self.pump(conn);
    }

    fn closed(&mut self, id: ConnId, _tag: u64, why: Closed, net: &mut Net<'_>) {
        let end = self.ends.remove(&id).expect("a connection is closed once");
        let complete = Some(end.received) == end.to_receive() && end.finished;
        let mut ledger = self.ledger.lock().unwrap();
        if why == Closed::Done {
            ledger.advance(net.now(), end.pair);
        }
        ledger.end(Outcome {
            is_client: end.is_client,
            key: end.plan.as_ref().map(|plan| plan.key),
            sent: end.sent,
            received: end.received,
            why,
            complete,
        });
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let now = net.now();
        let mut worked = false;
        while self.plans.last().is_some_and(|plan| plan.at_ns <= now.ns()) {
            let plan = self.plans.pop().expect("there is one");
            let options = ConnectOptions { tcp: self.tcp, tag: plan.key, ..ConnectOptions::default() };
            let to = plan.to;
            let id = net.connect(to, options).expect("ports and flows enough");
            let local = net.conn(id).expect("it is open").local();
            self.begin(now, id, local, to, Some(plan));
            worked = true;
        }
        while let Some(&(at_ns, id)) = self.later.first() {
            if at_ns > now.ns() {
                break;
            }
            self.later.pop_first();
            worked = true;
            // It may have been closed meanwhile.
            if let Some(mut conn) = net.conn(id) {
                self.pump(&mut conn);
            }
        }
        let next = self
            .plans
            .last()
            .map(|plan| plan.at_ns)
            .into_iter()
            .chain(self.later.first().map(|later| later.0))
            .min();
        if let Some(at_ns) = next {
            net.wake_at(Time::from_ns(at_ns));
        }
        worked
    }

    fn is_done(&self) -> bool {
        self.pending() == 0
    }
}
