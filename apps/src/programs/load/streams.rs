//! Requests over TCP connections: opened, kept busy, checked, closed, opened again.
//!
//! ```text
//!   idle ─► queued ─► opening ─► open ─► closing ─► idle     a failure leads to idle from anywhere; then there is a
//!                                │  ▲                        pause before the next attempt
//!                    due requests ▼  │ answers
//! ```

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use stack::{
    Closed, Conn, ConnId, ConnectOptions, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, Net, Share,
};

use super::args::{LoadConfig, Protocol};
use super::http::{Answer, Reader};
use super::ledger::{Ledger, ns, part};
use super::pattern::Pattern;
use super::status::Statuses;

/// Most handshakes under way at a time: fewer than any server's backlog.
const MOST_OPENING: usize = 256;
/// Most connections begun, or looked at for the end, in one turn.
const PER_TURN: usize = 64;
/// How long to wait after a failure before the next attempt, in nanoseconds.
const RETRY_NS: u64 = 100_000_000;
/// Own addresses that connections are dealt among, at most.
const MOST_LOCALS: usize = 8;
/// So many failures of each connection without a single success, and nobody is there.
const HOPELESS: u64 = 3;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is none.
    #[default]
    Idle,
    /// It waits to be opened.
    Queued,
    /// SYN sent.
    Opening,
    /// Requests may be sent.
    Open,
    /// FIN sent.
    Closing,
}

/// One connection, or the place where one was and the next will be.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    id: Option<ConnId>,
    state: State,
    /// Since when it is opening.
    since_ns: u64,
    /// Requests that were to be made, that left whole, and that are done with: `done <= sent <= due`.
    due: u64,
    sent: u64,
    done: u64,
    /// Bytes of request `sent` that left.
    out: usize,
    /// Bytes of answer `done` that came.
    got: usize,
    /// Where in the pattern the next byte to send and to receive stands.
    tx_at: usize,
    rx_at: usize,
}

impl Peer {
    /// Requests that left at least in part.
    #[inline]
    fn begun(&self) -> u64 {
        self.sent + u64::from(self.out > 0)
    }

    /// Whether all requests are done with.
    #[inline]
    fn is_even(&self) -> bool {
        self.due == self.done
    }
}

/// What a connection carries.
// There is one of it a core, so its size is of no matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Talk {
    /// A pattern that comes back.
    Echo(Pattern),
    /// One request over and over, and a reader for each connection's answers.
    Http { request: Vec<u8>, readers: Vec<Reader>, statuses: Statuses },
}

/// All TCP connections of one core.
#[derive(Debug)]
pub struct Streams {
    to: Option<IpEndpoint>,
    /// Own addresses to connect from in turn, if there are several: each has its own ports.
    locals: ArrayVec<IpAddress, MOST_LOCALS>,
    options: ConnectOptions,
    reconnect: bool,
    /// Bytes of a request.
    request_bytes: usize,
    talk: Talk,
    peers: Vec<Peer>,
    /// Closed loop: peers from here on make no requests.
    active: usize,
    /// Closed loop: peers from here on make none yet, as not all connections are open.
    released: usize,
    /// Closed loop: when the requests under way were made, `pipeline` of each connection. Open loop: none.
    made_ns: Vec<u64>,
    pipeline: usize,
    /// Peers that wait to be opened.
    queue: VecDeque<u32>,
    /// Peers that wait after a failure, and until when.
    resting: VecDeque<(u64, u32)>,
    /// How many were queued for the first time, from `begun_ns` on over `ramp_up_ns`.
    introduced: usize,
    begun_ns: u64,
    ramp_up_ns: u64,
    opening: usize,
    /// Connections of which `closed` is still to come.
    living: usize,
    /// Open loop: whose turn it is.
    next: usize,
    /// After the end: how many peers were looked at.
    swept: usize,
    finished: bool,
    connections: u64,
    failures: Failures,
}

/// Connections that failed, by reason.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    refused: u64,
    reset: u64,
    timed_out: u64,
    unreachable: u64,
    closed_early: u64,
    connect_failed: u64,
    wrong_answer: u64,
}

impl Failures {
    fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("refused", self.refused),
            ("reset", self.reset),
            ("timed_out", self.timed_out),
            ("unreachable", self.unreachable),
            ("closed_early", self.closed_early),
            ("connect_failed", self.connect_failed),
            ("wrong_answer", self.wrong_answer),
        ]
    }
}

impl Streams {
    /// This core's share of the connections.
    pub fn new(config: &LoadConfig, share: Share) -> Streams {
        let count = usize::try_from(part(config.connections as u64, share)).unwrap_or(0);
        let active = config
            .active
            .map_or(count, |active| usize::try_from(part(active as u64, share)).unwrap_or(count).min(count));
        let pipeline = if config.rate.is_some() { 0 } else { config.pipeline };
        let is_http = config.protocol == Protocol::Http;
        let request = http_request(config);
        Streams {
            to: None,
            locals: ArrayVec::new(),
            options: ConnectOptions { timeout: config.timeout, tcp: config.tcp, ..ConnectOptions::default() },
            reconnect: config.reconnect,
            request_bytes: if is_http { request.len() } else { config.size },
            talk: if is_http {
                let readers = (0..count).map(|_| Reader::default()).collect();
                Talk::Http { request: request.into_bytes(), readers, statuses: Statuses::default() }
            } else {
                Talk::Echo(Pattern::new(u64::from(config.port)))
            },
            peers: vec![Peer::default(); count],
            active,
            released: if config.together { 0 } else { active },
            made_ns: vec![0; count * pipeline],
            pipeline,
            queue: VecDeque::with_capacity(count),
            resting: VecDeque::with_capacity(count),
            introduced: 0,
            begun_ns: 0,
            ramp_up_ns: ns(config.ramp_up),
            opening: 0,
            living: 0,
            next: 0,
            swept: 0,
            finished: count == 0,
            connections: 0,
            failures: Failures::default(),
        }
    }

    /// The server is known: connections may be opened.
    pub fn begin(&mut self, to: IpEndpoint, net: &Net<'_>) {
        self.to = Some(to);
        self.begun_ns = net.now().ns();
        // Of one address the stack knows best, as it does of link-local ones.
        let addresses = net.addresses().iter().map(IpCidr::address);
        self.locals = addresses.filter(|own| is_alike(own, &to.addr)).take(MOST_LOCALS).collect();
        if self.locals.len() == 1 {
            self.locals.clear();
        }
    }

    /// Whether every connection is closed and every request answered or given up.
    pub fn is_done(&self) -> bool {
        self.finished
    }

    /// There is no server: nothing will be done.
    pub fn give_up(&mut self) {
        self.finished = true;
    }

    /// A handshake is complete.
    pub fn connected(&mut self, conn: &mut Conn<'_>, ledger: &mut Ledger) {
        let Some(index) = self.index(conn.tag()) else { return conn.abort() };
        self.opening = self.opening.saturating_sub(1);
        self.connections += 1;
        let peer = &mut self.peers[index];
        peer.state = State::Open;
        peer.tx_at = Pattern::start(index);
        peer.rx_at = peer.tx_at;
        if let Talk::Http { readers, .. } = &mut self.talk {
            readers[index].reset();
        }
        let mut net = conn.net();
        ledger.connection(peer.since_ns, &mut net);
        let now_ns = net.now().ns();
        let wanted = if index < self.released { self.pipeline as u64 } else { 0 };
        while peer.due - peer.done < wanted && ledger.make(now_ns) {
            peer.due += 1;
        }
        self.send(index, conn, ledger);
        self.close_if_over(index, conn, ledger);
    }

    /// Bytes or room came.
    #[inline]
    pub fn ready(&mut self, conn: &mut Conn<'_>, ledger: &mut Ledger) {
        let Some(index) = self.index(conn.tag()) else { return conn.abort() };
        if self.peers[index].state != State::Open {
            // What comes after our FIN is of no interest, but unread it would keep the window closed.
            while conn.recv(|bytes| (bytes.len(), bytes.len())) > 0 {}
            return;
        }
        if !self.receive(index, conn, ledger) {
            self.failures.wrong_answer += 1;
            ledger.errors += 1;
            return conn.abort();
        }
        self.send(index, conn, ledger);
        self.close_if_over(index, conn, ledger);
    }

    /// A connection is no more.
    pub fn closed(&mut self, tag: u64, why: Closed, ledger: &mut Ledger, now_ns: u64) {
        let Some(index) = self.index(tag) else { return };
        self.living = self.living.saturating_sub(1);
        let peer = &mut self.peers[index];
        peer.id = None;
        let before = std::mem::take(&mut peer.state);
        // What had begun gets no answer any more; what had not waits for the next connection.
        let begun = peer.begun();
        ledger.lost += begun - peer.done;
        (peer.done, peer.sent, peer.out, peer.got) = (begun, begun, 0, 0);
        if before == State::Opening {
            self.opening = self.opening.saturating_sub(1);
        }
        let has_failed = self.judge(before, why, ledger);
        self.again(index, has_failed, ledger, now_ns);
    }

    /// Once a turn: the schedule, the queue, the end. Returns whether it did something.
    pub fn turn(&mut self, net: &mut Net<'_>, ledger: &mut Ledger) -> bool {
        let Some(to) = self.to.filter(|_| !self.finished) else {
            self.finished |= ledger.is_stopped();
            return false;
        };
        let mut is_busy = self.introduce(ledger, net.now().ns());
        is_busy |= ledger.is_open_loop() && self.fall_due(net, ledger);
        is_busy |= self.open(to, net, ledger);
        is_busy |= self.released < self.active && self.release(net, ledger);
        if ledger.is_stopped() {
            self.wind_down(net, ledger);
        }
        is_busy
    }

    /// Shows what connections count.
    pub fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("connections", self.connections);
        self.failures.named().into_iter().for_each(|(name, count)| visit(name, count));
        if let Talk::Http { statuses, .. } = &self.talk {
            statuses.counters(visit);
        }
    }

    #[inline]
    fn index(&self, tag: u64) -> Option<usize> {
        usize::try_from(tag).ok().filter(|index| *index < self.peers.len())
    }

    /// Writes what is due, as much as there is room for.
    #[inline]
    fn send(&mut self, index: usize, conn: &mut Conn<'_>, ledger: &mut Ledger) {
        let (bytes, peers) = (self.request_bytes, self.peers.len());
        let peer = &mut self.peers[index];
        // One request a connection, if each has its own.
        let due = if self.reconnect { peer.due.min(peer.done + 1) } else { peer.due };
        while due > peer.sent && peer.state == State::Open {
            let requests = usize::try_from(due - peer.sent).unwrap_or(usize::MAX);
            let left = requests.saturating_mul(bytes) - peer.out;
            let (out, at, talk) = (peer.out, &mut peer.tx_at, &self.talk);
            let written = conn.send(|room| {
                let len = room.len().min(left);
                match talk {
                    Talk::Echo(pattern) => *at = pattern.fill(*at, &mut room[..len]),
                    Talk::Http { request, .. } => repeat(request, out, &mut room[..len]),
                }
                (len, len)
            });
            if written == 0 {
                return;
            }
            let first = peer.begun();
            peer.out += written;
            while peer.out >= bytes {
                peer.out -= bytes;
                peer.sent += 1;
            }
            let now_ns = conn.now().ns();
            for request in first..peer.begun() {
                if self.pipeline > 0 {
                    self.made_ns[slot(index, request, self.pipeline)] = now_ns;
                } else if let Some(due_ns) = ledger.due_ns(of_core(index, request, peers)) {
                    ledger.sent(due_ns, now_ns);
                }
            }
        }
    }

    /// Reads and checks what came. False if it is wrong.
    #[inline]
    fn receive(&mut self, index: usize, conn: &mut Conn<'_>, ledger: &mut Ledger) -> bool {
        loop {
            let (mut answers, mut closes) = (0, false);
            match &mut self.talk {
                Talk::Echo(pattern) => {
                    let peer = &mut self.peers[index];
                    let at = peer.rx_at;
                    let (len, at) = conn.recv(|bytes| (bytes.len(), (bytes.len(), pattern.check(at, bytes))));
                    let Some(at) = at else { return false };
                    peer.rx_at = at;
                    peer.got += len;
                    while peer.got >= self.request_bytes {
                        peer.got -= self.request_bytes;
                        answers += 1;
                    }
                }
                Talk::Http { readers, statuses, .. } => {
                    let reader = &mut readers[index];
                    let mut done = |answer: Answer| {
                        answers += 1;
                        closes |= answer.closes;
                        ledger.errors += u64::from(!statuses.count(&answer));
                    };
                    let read = conn.recv(|bytes| (bytes.len(), reader.read(bytes, &mut done)));
                    if let Err(error) = read {
                        log::debug!("connection {index}: {error}");
                        return false;
                    }
                    if conn.peer_finished() && !reader.finish(&mut done) {
                        return false;
                    }
                }
            }
            for _ in 0..answers {
                if !self.answered(index, conn, ledger) {
                    return false;
                }
            }
            if closes {
                self.peers[index].state = State::Closing;
            }
            if conn.recv_queue() == 0 {
                return true;
            }
        }
    }

    /// One answer is complete. False if nobody asked.
    #[inline]
    fn answered(&mut self, index: usize, conn: &mut Conn<'_>, ledger: &mut Ledger) -> bool {
        let peers = self.peers.len();
        let peer = &mut self.peers[index];
        if peer.done >= peer.sent {
            return false;
        }
        let made_ns = if self.pipeline > 0 {
            self.made_ns[slot(index, peer.done, self.pipeline)]
        } else {
            ledger.due_ns(of_core(index, peer.done, peers)).unwrap_or(u64::MAX)
        };
        let mut net = conn.net();
        ledger.answered(made_ns, &mut net);
        peer.done += 1;
        if self.reconnect {
            peer.state = State::Closing;
        } else if self.pipeline > 0 && ledger.make(net.now().ns()) {
            peer.due += 1;
        }
        true
    }

    /// Closes a connection that has nothing more to do, or whose peer has finished.
    #[inline]
    fn close_if_over(&mut self, index: usize, conn: &mut Conn<'_>, ledger: &Ledger) {
        let peer = &mut self.peers[index];
        if ledger.is_stopped() && peer.is_even() {
            peer.state = State::Closing;
        }
        // If the server has closed while a request was under way, `closed` tells by the state that nobody wanted it to.
        if peer.state == State::Closing || conn.peer_finished() {
            conn.close();
        }
    }

    /// Counts the end of a connection; true if it was none that was wanted.
    fn judge(&mut self, before: State, why: Closed, ledger: &mut Ledger) -> bool {
        let failures = &mut self.failures;
        let counter = match why {
            Closed::Done if before == State::Closing => return false,
            Closed::Done => &mut failures.closed_early,
            // Counted where it was decided.
            Closed::Aborted => return true,
            Closed::Reset => &mut failures.reset,
            Closed::TimedOut => &mut failures.timed_out,
            Closed::Refused => &mut failures.refused,
            Closed::Unreachable(_) | Closed::NoRoute => &mut failures.unreachable,
        };
        *counter += 1;
        ledger.errors += 1;
        true
    }

    /// Opens a peer again if it is still needed, after a pause if it has failed.
    fn again(&mut self, index: usize, has_failed: bool, ledger: &mut Ledger, now_ns: u64) {
        let of_each = self.peers.len() as u64 * HOPELESS;
        if has_failed && self.connections == 0 && ledger.errors >= of_each {
            ledger.stop();
        }
        let peer = &mut self.peers[index];
        if ledger.is_stopped() && (has_failed || peer.is_even()) {
            ledger.lost += peer.due - peer.done;
            (peer.done, peer.sent) = (peer.due, peer.due);
            return;
        }
        // In the open loop with a connection for each request there is none without a request.
        if peer.is_even() && ledger.is_open_loop() && self.reconnect {
            return;
        }
        peer.state = State::Queued;
        if has_failed {
            self.resting.push_back((now_ns.saturating_add(RETRY_NS), number(index)));
        } else {
            self.queue.push_back(number(index));
        }
    }

    /// Queues peers for the first time, as the ramp wants it.
    fn introduce(&mut self, ledger: &mut Ledger, now_ns: u64) -> bool {
        let all = self.peers.len();
        if self.introduced == all || ledger.is_stopped() {
            return false;
        }
        if ledger.is_open_loop() && self.reconnect {
            self.introduced = all;
            return false;
        }
        let passed = u128::from(now_ns.saturating_sub(self.begun_ns));
        let wanted = match u128::from(self.ramp_up_ns) {
            0 => all,
            ramp => usize::try_from(passed * all as u128 / ramp).unwrap_or(all).saturating_add(1).min(all),
        };
        let is_busy = self.introduced < wanted;
        while self.introduced < wanted {
            self.peers[self.introduced].state = State::Queued;
            self.queue.push_back(number(self.introduced));
            self.introduced += 1;
        }
        is_busy
    }

    /// Open loop: gives the requests that have fallen due to the peers in turn.
    fn fall_due(&mut self, net: &mut Net<'_>, ledger: &mut Ledger) -> bool {
        if self.introduced == self.peers.len() && self.opening == 0 && self.queue.is_empty() {
            ledger.all_connected();
        }
        let due = ledger.due();
        for _ in 0..due {
            let index = self.next;
            self.next = if index + 1 == self.peers.len() { 0 } else { index + 1 };
            let peer = &mut self.peers[index];
            peer.due += 1;
            match (peer.state, peer.id) {
                (State::Idle, _) => {
                    peer.state = State::Queued;
                    self.queue.push_back(number(index));
                }
                (State::Open, Some(id)) => {
                    if let Some(mut conn) = net.conn(id) {
                        self.send(index, &mut conn, ledger);
                    }
                }
                _ => {}
            }
        }
        due > 0
    }

    /// Closed loop: once all are open, makes the first requests of some peers.
    fn release(&mut self, net: &mut Net<'_>, ledger: &mut Ledger) -> bool {
        let is_waiting = self.introduced < self.peers.len() || self.opening > 0;
        if is_waiting || !self.queue.is_empty() || !self.resting.is_empty() || ledger.is_stopped() {
            return false;
        }
        let (first, now_ns) = (self.released, net.now().ns());
        self.released = self.active.min(first + PER_TURN);
        for index in first..self.released {
            let peer = &mut self.peers[index];
            // One that is not open just now makes its requests when it is again.
            let Some(id) = peer.id.filter(|_| peer.state == State::Open) else { continue };
            while peer.due - peer.done < self.pipeline as u64 && ledger.make(now_ns) {
                peer.due += 1;
            }
            if let Some(mut conn) = net.conn(id) {
                self.send(index, &mut conn, ledger);
            }
        }
        true
    }

    /// Opens some of those that wait.
    fn open(&mut self, to: IpEndpoint, net: &mut Net<'_>, ledger: &mut Ledger) -> bool {
        let now_ns = net.now().ns();
        while let Some((until_ns, index)) = self.resting.front().copied()
            && (now_ns >= until_ns || ledger.is_stopped())
        {
            self.resting.pop_front();
            self.queue.push_back(index);
        }
        let mut begun = 0;
        while begun < PER_TURN
            && self.opening < MOST_OPENING
            && let Some(index) = self.queue.pop_front()
        {
            let index = index as usize;
            let peer = &mut self.peers[index];
            if ledger.is_stopped() && peer.is_even() {
                peer.state = State::Idle;
                continue;
            }
            begun += 1;
            let addr = (!self.locals.is_empty()).then(|| self.locals[index % self.locals.len()]);
            let local = addr.map(|addr| IpListenEndpoint { addr: Some(addr), port: 0 });
            match net.connect(to, ConnectOptions { tag: index as u64, local, ..self.options }) {
                Ok(id) => {
                    (peer.id, peer.state, peer.since_ns) = (Some(id), State::Opening, now_ns);
                    self.opening += 1;
                    self.living += 1;
                }
                Err(error) => {
                    if self.failures.connect_failed == 0 {
                        log::warn!("{error}");
                    }
                    peer.state = State::Idle;
                    self.failures.connect_failed += 1;
                    ledger.errors += 1;
                    self.again(index, true, ledger, now_ns);
                }
            }
        }
        begun > 0
    }

    /// Closes what has nothing more to do, some each turn, and sees whether all is over.
    fn wind_down(&mut self, net: &mut Net<'_>, ledger: &mut Ledger) {
        if ledger.gives_up() {
            for peer in &mut self.peers {
                ledger.lost += peer.due - peer.done;
                (peer.done, peer.sent, peer.out) = (peer.due, peer.due, 0);
                if let Some(mut conn) = peer.id.and_then(|id| net.conn(id)) {
                    conn.abort();
                }
            }
            self.finished = true;
            return;
        }
        for _ in 0..PER_TURN {
            let Some(peer) = self.peers.get_mut(self.swept) else { break };
            if peer.state == State::Open
                && peer.is_even()
                && let Some(mut conn) = peer.id.and_then(|id| net.conn(id))
            {
                peer.state = State::Closing;
                conn.close();
            }
            self.swept += 1;
        }
        if self.swept < self.peers.len() || !self.queue.is_empty() || !self.resting.is_empty() {
            return;
        }
        self.finished = self.living == 0;
        if !self.finished && !ledger.is_last_call() && self.peers.iter().all(Peer::is_even) {
            // All is answered; a server that never closes its side is not waited for much longer.
            ledger.last_call();
        }
    }
}

/// Whether both are of one IP version, and neither or both of the link alone.
fn is_alike(own: &IpAddress, to: &IpAddress) -> bool {
    let is_of_link = |address: &IpAddress| match address {
        IpAddress::Ipv4(address) => address.is_link_local(),
        IpAddress::Ipv6(address) => address.is_unicast_link_local(),
    };
    own.version() == to.version() && is_of_link(own) == is_of_link(to)
}

/// Where the time of a peer's request is kept in the closed loop.
#[inline]
fn slot(index: usize, request: u64, pipeline: usize) -> usize {
    // One request under way is the rule, and a division the dearest instruction here.
    if pipeline == 1 {
        index
    } else {
        index * pipeline + usize::try_from(request % pipeline as u64).unwrap_or(0)
    }
}

/// A peer's request among all of its core: peers take turns.
#[inline]
fn of_core(index: usize, request: u64, peers: usize) -> u64 {
    request * peers as u64 + index as u64
}

/// There are at most 2²⁰ peers.
#[allow(clippy::cast_possible_truncation)]
fn number(index: usize) -> u32 {
    index as u32
}

/// Fills `room` with `text` over and over, from place `at` of it on.
fn repeat(text: &[u8], mut at: usize, mut room: &mut [u8]) {
    while !room.is_empty() {
        let len = room.len().min(text.len() - at);
        let (now, rest) = room.split_at_mut(len);
        now.copy_from_slice(&text[at..at + len]);
        (room, at) = (rest, 0);
    }
}

/// RFC 9112 §3.2: the port is part of the Host field unless it is the protocol's own.
fn http_request(config: &LoadConfig) -> String {
    let LoadConfig { host, path, port, .. } = config;
    let port = if *port == 80 { String::new() } else { format!(":{port}") };
    format!("GET {path} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: bywash\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_repeated_from_any_place() {
        let mut room = [0; 7];
        repeat(b"abc", 2, &mut room);
        assert_eq!(&room, b"cabcabc");
        repeat(b"abc", 0, &mut room[..3]);
        assert_eq!(&room[..3], b"abc");
    }

    #[test]
    fn the_host_field_has_a_port_where_it_is_not_80() {
        let config = LoadConfig { port: 8080, path: "/x".to_string(), ..LoadConfig::default() };
        assert!(http_request(&config).starts_with("GET /x HTTP/1.1\r\nHost: 10.0.0.2:8080\r\n"));
        assert!(http_request(&LoadConfig { port: 80, ..config }).contains("Host: 10.0.0.2\r\n"));
    }

    #[test]
    fn requests_under_way_have_slots_of_their_own() {
        let mut slots: Vec<usize> =
            (0..3).flat_map(|index| (5..9).map(move |request| slot(index, request, 4))).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..12).collect::<Vec<_>>());
        assert_eq!((slot(2, 7, 1), of_core(2, 3, 10)), (2, 32));
    }
}
