//! Requests as UDP datagrams: numbered, so that loss, reordering and duplication show.

use std::collections::VecDeque;

use stack::{BindError, IpEndpoint, IpListenEndpoint, Net, SendError, Share, UdpId};

use super::args::LoadConfig;
use super::ledger::{Ledger, ns, part};
use super::pattern::{PERIOD, Pattern};
use crate::programs::generator::tracker::{Arrival, Tracker};

/// A datagram begins with its number.
const NUMBER_BYTES: usize = 4;

/// Ports tried for one socket: with 64 cores all of them are another core's in one case of ten million.
const PORTS_TRIED: usize = 1024;

/// What one socket has under way.
#[derive(Clone, Copy, Debug)]
struct Peer {
    socket: UdpId,
    /// Requests that were to be made, and that left.
    due: u64,
    sent: u64,
    /// Closed loop: how many are waited for, and the number of the first of them that still is.
    awaited: u64,
    floor: u64,
    /// When something left or came.
    moved_ns: u64,
    is_queued: bool,
}

/// All sockets of one core.
#[derive(Debug)]
pub struct Datagrams {
    to: Option<IpEndpoint>,
    count: usize,
    peers: Vec<Peer>,
    /// The peer of each socket, by the socket's index.
    by_socket: Vec<u32>,
    tracker: Tracker,
    pattern: Pattern,
    /// The datagram being made.
    scratch: Box<[u8]>,
    /// Closed loop: when the requests under way were made, `window` of each socket. Open loop: none.
    made_ns: Vec<u64>,
    pipeline: u64,
    window: usize,
    timeout_ns: u64,
    /// Peers that had something to send and no room.
    queue: VecDeque<u32>,
    next: usize,
    swept: usize,
    finished: bool,
    foreign: u64,
    damaged: u64,
    unreachable: u64,
}

impl Datagrams {
    /// This core's share of the sockets.
    pub fn new(config: &LoadConfig, share: Share) -> Datagrams {
        let count = usize::try_from(part(config.connections as u64, share)).unwrap_or(0);
        let pipeline = if config.rate.is_some() { 0 } else { config.pipeline };
        let window = if pipeline == 0 { 0 } else { pipeline.next_power_of_two() };
        Datagrams {
            to: None,
            count,
            peers: Vec::with_capacity(count),
            by_socket: Vec::new(),
            tracker: Tracker::new(count),
            pattern: Pattern::new(u64::from(config.port)),
            scratch: vec![0; config.size].into_boxed_slice(),
            made_ns: vec![0; count * window],
            pipeline: pipeline as u64,
            window,
            timeout_ns: ns(config.timeout),
            queue: VecDeque::with_capacity(count),
            next: 0,
            swept: 0,
            finished: count == 0,
            foreign: 0,
            damaged: 0,
            unreachable: 0,
        }
    }

    /// The server is known: opens the sockets, and makes the first requests.
    ///
    /// # Errors
    /// A socket cannot be had.
    pub fn begin(&mut self, to: IpEndpoint, net: &mut Net<'_>, ledger: &mut Ledger) -> Result<(), BindError> {
        let now_ns = net.now().ns();
        for index in 0..self.count {
            let socket = bind(to, net)?;
            if self.by_socket.len() <= socket.index() {
                self.by_socket.resize(socket.index() + 1, u32::MAX);
            }
            self.by_socket[socket.index()] = number(index);
            self.peers.push(Peer {
                socket,
                due: 0,
                sent: 0,
                awaited: 0,
                floor: 0,
                moved_ns: now_ns,
                is_queued: true,
            });
            self.queue.push_back(number(index));
        }
        self.to = Some(to);
        ledger.connected(now_ns);
        ledger.all_connected();
        Ok(())
    }

    /// Whether every request is answered or given up.
    pub fn is_done(&self) -> bool {
        self.finished
    }

    /// There is no server: nothing will be done.
    pub fn give_up(&mut self) {
        self.finished = true;
    }

    /// A datagram came.
    pub fn datagram(
        &mut self,
        socket: UdpId,
        from: IpEndpoint,
        data: &[u8],
        net: &mut Net<'_>,
        ledger: &mut Ledger,
    ) {
        let index = self.by_socket.get(socket.index()).map_or(usize::MAX, |index| *index as usize);
        let Some(sequence) = data.first_chunk().map(|number| u32::from_le_bytes(*number)) else {
            self.foreign += 1;
            return;
        };
        if Some(from) != self.to || index >= self.peers.len() {
            self.foreign += 1;
            return;
        }
        let is_whole = data.len() == self.scratch.len()
            && self.pattern.check(place(index, sequence), &data[NUMBER_BYTES..]).is_some();
        if !is_whole {
            self.damaged += 1;
            ledger.errors += 1;
            return;
        }
        // Of what comes twice, and of numbers never sent, the tracker takes note.
        if !matches!(self.tracker.arrived(index, sequence), Arrival::InOrder | Arrival::Reordered) {
            return;
        }
        let now_ns = net.now().ns();
        let peer = &mut self.peers[index];
        peer.moved_ns = now_ns;
        // Sent numbers have 64 bits, of which the datagram carries the low ones.
        let ago = u64::from(number_of(peer.sent).wrapping_sub(sequence));
        let sequence = peer.sent.saturating_sub(ago);
        if self.pipeline == 0 {
            let made_ns = ledger.due_ns(sequence * self.count as u64 + index as u64);
            ledger.answered(made_ns.unwrap_or(u64::MAX), net);
            return;
        }
        if sequence < peer.floor {
            // Given up before: its place was taken by another.
            return;
        }
        let made_ns = self.made_ns[slot(index, sequence, self.window)];
        ledger.answered(made_ns, net);
        peer.awaited = peer.awaited.saturating_sub(1);
        self.refill(index, net, ledger);
    }

    /// The network says that the server is not there.
    pub fn unreachable(&mut self, ledger: &mut Ledger) {
        self.unreachable += 1;
        ledger.errors += 1;
    }

    /// Once a turn: the schedule, what had no room, what was never answered. Returns whether it did something.
    pub fn turn(&mut self, net: &mut Net<'_>, ledger: &mut Ledger) -> bool {
        if self.finished || self.to.is_none() {
            self.finished |= ledger.is_stopped();
            return false;
        }
        let due = ledger.due();
        for _ in 0..due {
            let index = self.next;
            self.next = if index + 1 == self.count { 0 } else { index + 1 };
            self.peers[index].due += 1;
            if !self.peers[index].is_queued {
                self.send(index, net, ledger);
            }
        }
        let mut is_busy = due > 0;
        for _ in 0..self.queue.len() {
            let Some(index) = self.queue.pop_front() else { break };
            let index = index as usize;
            self.peers[index].is_queued = false;
            let before = self.peers[index].sent;
            self.refill(index, net, ledger);
            is_busy |= self.peers[index].sent > before;
            if self.peers[index].is_queued {
                // There is still no room, for the others neither.
                break;
            }
        }
        self.look_for_lost(net, ledger);
        self.finished = ledger.is_stopped() && (self.nothing_is_awaited(net.now().ns()) || ledger.gives_up());
        is_busy
    }

    /// Shows what datagrams count.
    pub fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let totals = self.tracker.totals();
        visit("sent", totals.sent);
        visit("lost", if self.finished { totals.missing() + self.unsent() } else { 0 });
        visit("reordered", totals.reordered);
        visit("duplicated", totals.duplicated);
        visit("late", totals.late);
        visit("corrupted", self.damaged);
        visit("foreign", self.foreign);
        visit("unreachable", self.unreachable);
    }

    /// Requests that were due and never left.
    fn unsent(&self) -> u64 {
        self.peers.iter().map(|peer| peer.due - peer.sent).sum()
    }

    /// Closed loop: makes requests until enough are under way. Either loop: sends what is due.
    fn refill(&mut self, index: usize, net: &mut Net<'_>, ledger: &mut Ledger) {
        let now_ns = net.now().ns();
        let peer = &mut self.peers[index];
        while peer.awaited + (peer.due - peer.sent) < self.pipeline && ledger.make(now_ns) {
            peer.due += 1;
        }
        self.send(index, net, ledger);
    }

    /// Sends what is due, as much as there is room for; queues the peer for the rest.
    fn send(&mut self, index: usize, net: &mut Net<'_>, ledger: &mut Ledger) {
        let Some(to) = self.to else { return };
        let now_ns = net.now().ns();
        while self.peers[index].due > self.peers[index].sent {
            let peer = &mut self.peers[index];
            let sequence = number_of(peer.sent);
            let (head, body) = self.scratch.split_at_mut(NUMBER_BYTES);
            head.copy_from_slice(&sequence.to_le_bytes());
            self.pattern.fill(place(index, sequence), body);
            match net.send_to(peer.socket, to, &self.scratch) {
                Ok(()) => {}
                Err(SendError::NoBuffers) => {
                    if !peer.is_queued {
                        peer.is_queued = true;
                        self.queue.push_back(number(index));
                    }
                    return;
                }
                Err(error) => {
                    if self.unreachable == 0 {
                        log::warn!("{error}");
                    }
                    self.unreachable += 1;
                    ledger.errors += 1;
                    ledger.stop();
                    return;
                }
            }
            if self.pipeline > 0 {
                self.made_ns[slot(index, peer.sent, self.window)] = now_ns;
                peer.awaited += 1;
            } else if let Some(due_ns) = ledger.due_ns(peer.sent * self.count as u64 + index as u64) {
                ledger.sent(due_ns, now_ns);
            }
            self.tracker.next_sequence(index);
            peer.sent += 1;
            peer.moved_ns = now_ns;
        }
    }

    /// Looks at one socket a turn: has it waited too long, its requests are given up and new ones made.
    fn look_for_lost(&mut self, net: &mut Net<'_>, ledger: &mut Ledger) {
        let now_ns = net.now().ns();
        let index = self.swept;
        self.swept = if index + 1 == self.count { 0 } else { index + 1 };
        let peer = &mut self.peers[index];
        if peer.awaited > 0 && now_ns.saturating_sub(peer.moved_ns) > self.timeout_ns {
            (peer.awaited, peer.floor, peer.moved_ns) = (0, peer.sent, now_ns);
            if !peer.is_queued {
                self.refill(index, net, ledger);
            }
        }
    }

    /// Whether all requests are answered, or the last sign of life is too long ago.
    fn nothing_is_awaited(&self, now_ns: u64) -> bool {
        if self.unsent() == 0 && self.tracker.totals().missing() == 0 {
            return true;
        }
        let last_ns = self.peers.iter().map(|peer| peer.moved_ns).max().unwrap_or(0);
        now_ns.saturating_sub(last_ns) > self.timeout_ns
    }
}

/// A socket whose answers from `to` come to this core.
fn bind(to: IpEndpoint, net: &mut Net<'_>) -> Result<UdpId, BindError> {
    // Every port has the same chance, one in as many as there are cores.
    for _ in 0..PORTS_TRIED {
        let socket = net.bind_udp(IpListenEndpoint { addr: None, port: 0 })?;
        if net.is_steered_here(socket, to) {
            return Ok(socket);
        }
        net.close_udp(socket);
    }
    Err(BindError::NoPort)
}

/// Where in the pattern a datagram begins: elsewhere for each.
#[inline]
fn place(index: usize, sequence: u32) -> usize {
    (Pattern::start(index) + sequence as usize * 61) % PERIOD
}

/// Where the time of a socket's request is kept in the closed loop; `window` is a power of two.
#[inline]
#[allow(clippy::cast_possible_truncation)] // masked
fn slot(index: usize, sequence: u64, window: usize) -> usize {
    index * window + (sequence as usize & (window - 1))
}

/// The part of a request's number that the datagram carries.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn number_of(sequence: u64) -> u32 {
    sequence as u32
}

/// There are at most 2²⁰ peers.
#[allow(clippy::cast_possible_truncation)]
fn number(index: usize) -> u32 {
    index as u32
}
