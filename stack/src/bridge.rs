//! The service behind threads and tasks: joins the sockets of this core's stack with the rings of a door.
//!
//! ```text
//!   socket's buffer ──recv──► rx ring ──► thread          a ring is full: bytes stay in the socket, the window closes
//!   socket's buffer ◄──send── tx ring ◄── thread          the socket is full: bytes stay in the ring, the writer sleeps
//! ```
//!
//! | what happened | what is done |
//! |---|---|
//! | bytes, room, FIN | [`Service::ready`]: move what fits both ways |
//! | a ring of a bell | [`Service::turn`]: the same, after the application's state and options |
//! | the application let go | FIN after its last byte; reset if it left bytes unread; its token is free when the socket needs the ring no more |
//! | an index that cannot be | reset, counted as `door_lies` |
//!
//! Each byte is copied once here, from buffer to buffer. No call blocks; threads are woken at the end of a turn, after one
//! fence for all of them, and only those that sleep.

mod convert;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::time::Duration;

use door::{CoreDoor, Knock, ListenerEnd, LookupEnd, Request, Token, full_fence};

use self::convert::{endpoint, listen_endpoint};
use self::tcp::{Counters, Tcp};
use self::udp::Udp;
use crate::{
    Closed, Conn, ConnId, ConnectOptions, IpAddress, IpEndpoint, ListenOptions, ListenerId, Net, QueryId,
    RecordKind, ResolveError, Service, Time, UdpId, Unreachable,
};

/// Requests and rings that are answered in one turn; the rest follows in the next.
const KNOCKS_PER_TURN: usize = 256;

/// How long a connection that nobody holds any more, and that has nothing more to send, may wait for its peer's FIN.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(60);

/// The latency of [`Service::latencies`]: from the core's wake-up to the thread running.
const HANDOFF: usize = 0;

/// One core's bridge. Give it the core's side of a door, and give it to the core's stack.
#[derive(Debug)]
pub struct Bridge {
    door: CoreDoor,
    /// By token.
    slots: Box<[Slot]>,
    listeners: Tokens<ListenerId>,
    sockets: Tokens<UdpId>,
    queries: HashMap<QueryId, (Token, LookupEnd)>,
    /// What has to be woken at the end of the turn; each at most once.
    touched: Vec<Token>,
    /// What had more to move than one call's share.
    again: VecDeque<Token>,
    orphans: Orphans,
    /// One datagram.
    scratch: Box<[u8]>,
    counters: Counters,
}

/// What a token stands for.
#[derive(Debug, Default)]
struct Slot {
    what: What,
    /// It is in `touched`.
    touched: bool,
    /// It is in `again`.
    again: bool,
}

#[derive(Debug, Default)]
enum What {
    #[default]
    Nothing,
    Tcp(Tcp),
    Listener(ListenerEnd, Option<ListenerId>),
    Udp(Box<Udp>),
}

/// A connection's tag for its token: 0 is for connections that have none.
fn tag(token: Token) -> u64 {
    u64::from(token) + 1
}

/// The tag of a connection that nobody holds any more and that finishes by itself.
const ORPHAN: u64 = u64::MAX;

/// Tokens by the dense index of an id.
#[derive(Debug)]
struct Tokens<I>(Vec<Option<Token>>, PhantomData<I>);

impl<I> Default for Tokens<I> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<I> Tokens<I> {
    fn set(&mut self, index: usize, token: Token) {
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(token);
    }

    fn get(&self, index: usize) -> Option<Token> {
        *self.0.get(index)?
    }

    fn remove(&mut self, index: usize) {
        if let Some(place) = self.0.get_mut(index) {
            *place = None;
        }
    }
}

/// Connections that wait for their peer's FIN alone, oldest first, and dead ones that nobody has taken out yet.
#[derive(Debug, Default)]
struct Orphans {
    queue: VecDeque<(Time, ConnId)>,
    alive: usize,
}

impl Orphans {
    /// Amortised constant time: the dead are taken out when they are more than the living.
    fn add(&mut self, conn: &mut Conn<'_>) {
        conn.set_tag(ORPHAN);
        if self.queue.len() > 2 * self.alive + 64 {
            let mut net = conn.net();
            self.queue.retain(|(_, id)| net.conn(*id).is_some());
        }
        self.queue.push_back((conn.now() + ORPHAN_TIMEOUT, conn.id()));
        self.alive += 1;
    }
}

impl Bridge {
    /// The bridge of one core. Allocates some 200 bytes for each socket that the door allows.
    pub fn new(door: CoreDoor) -> Self {
        let slots = (0..door.sockets()).map(|_| Slot::default()).collect();
        Self {
            slots,
            listeners: Tokens::default(),
            sockets: Tokens::default(),
            queries: HashMap::new(),
            touched: Vec::with_capacity(door.sockets()),
            again: VecDeque::with_capacity(door.sockets()),
            orphans: Orphans::default(),
            scratch: vec![0; door::MAX_DATAGRAM].into(),
            counters: Counters::default(),
            door,
        }
    }

    /// The slot of a token that came from the application, or of a connection's tag.
    fn slot(&mut self, token: Token) -> Option<&mut Slot> {
        self.slots.get_mut(token as usize)
    }

    fn put(&mut self, token: Token, what: What) {
        if let Some(slot) = self.slot(token) {
            slot.what = what;
        }
    }

    /// Wakes its threads at the end of the turn.
    fn touch(&mut self, token: Token) {
        if let Some(slot) = self.slots.get_mut(token as usize)
            && !std::mem::replace(&mut slot.touched, true)
        {
            self.touched.push(token);
        }
    }

    /// Has it looked at again in the next turn.
    fn look_again(&mut self, token: Token) {
        if let Some(slot) = self.slots.get_mut(token as usize)
            && !std::mem::replace(&mut slot.again, true)
        {
            self.again.push_back(token);
        }
    }

    /// The application has let go, and so does the core.
    fn free(&mut self, token: Token) {
        self.put(token, What::Nothing);
        self.door.free(token);
    }

    fn open(&mut self, request: Request, net: &mut Net<'_>) {
        match request {
            Request::Listen(token, mut end) => {
                let options = ListenOptions { backlog: end.backlog(), tcp: convert::options(end.options()) };
                let id = match net.listen(listen_endpoint(end.at()), options) {
                    Ok(id) => {
                        end.opened();
                        self.listeners.set(id.index(), token);
                        Some(id)
                    }
                    Err(error) => {
                        end.fail(convert::listen_failure(error));
                        None
                    }
                };
                self.put(token, What::Listener(end, id));
                self.touch(token);
            }
            Request::Connect(token, mut connect) => {
                let tcp = convert::options(connect.end.options());
                let options = ConnectOptions { local: None, tag: tag(token), timeout: connect.timeout, tcp };
                let conn = net.connect(endpoint(connect.to), options);
                if let Err(error) = conn {
                    connect.end.fail(convert::connect_failure(error));
                }
                self.put(token, What::Tcp(Tcp::new(connect.end, conn.ok())));
                self.touch(token);
            }
            Request::Bind(token, mut end) => {
                let id = match net.bind_udp(listen_endpoint(end.at())) {
                    Ok(id) => {
                        end.opened();
                        self.sockets.set(id.index(), token);
                        Some(id)
                    }
                    Err(error) => {
                        end.fail(convert::bind_failure(error));
                        None
                    }
                };
                self.put(token, What::Udp(Box::new(Udp { end: *end, id, gone: false })));
                self.touch(token);
            }
            Request::Resolve(token, end) => {
                let kind = match end.family() {
                    door::Family::V4 => RecordKind::A,
                    door::Family::V6 => RecordKind::Aaaa,
                };
                match net.resolve(end.name(), kind) {
                    Ok(query) => drop(self.queries.insert(query, (token, end))),
                    Err(error) => self.answer(token, &end, Err(error)),
                }
            }
        }
    }

    fn answer(&mut self, token: Token, end: &LookupEnd, answer: Result<&[IpAddress], ResolveError>) {
        let addresses = answer.map(|addresses| addresses.iter().map(|address| (*address).into()));
        end.answer(addresses.map_err(convert::resolve_failure));
        self.door.free(token);
    }

    /// The application has rung, or (`rung` is false) the last call left something over.
    fn serve(&mut self, token: Token, rung: bool, net: &mut Net<'_>) {
        match self.slots.get_mut(token as usize).map(|slot| &mut slot.what) {
            Some(What::Tcp(_)) => self.serve_tcp(token, rung, net),
            Some(What::Udp(_)) => self.serve_udp(token, rung, net),
            Some(What::Listener(end, id)) if rung && end.answer() => {
                if let Some(id) = id.take() {
                    self.listeners.remove(id.index());
                    net.unlisten(id);
                }
                self.free(token);
            }
            // Rung for something that is gone: only who writes into the queue from outside can do that.
            _ => {}
        }
    }

    /// Ends connections whose peers never finish.
    fn expire_orphans(&mut self, net: &mut Net<'_>) -> bool {
        let mut done = false;
        while let Some((at, id)) = self.orphans.queue.front().copied() {
            if at > net.now() {
                net.wake_at(at);
                break;
            }
            self.orphans.queue.pop_front();
            if let Some(mut conn) = net.conn(id) {
                if conn.send_queue() > 0 {
                    // Still sending what the application wrote, to a peer that answers: if it did not, the connection's
                    // own timeout would end it.
                    let at = conn.now() + ORPHAN_TIMEOUT;
                    self.orphans.queue.push_back((at, id));
                    continue;
                }
                self.counters.orphans_timed_out += 1;
                conn.abort();
                done = true;
            }
        }
        done
    }

    /// One fence, then a look at each that changed: only sleepers cost a system call.
    fn wake(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        full_fence();
        for token in self.touched.drain(..) {
            let Some(slot) = self.slots.get_mut(token as usize) else { continue };
            slot.touched = false;
            match &slot.what {
                What::Nothing => {}
                What::Tcp(tcp) => tcp.end.wake(),
                What::Listener(end, _) => end.wake(),
                What::Udp(udp) => udp.end.wake(),
            }
        }
    }
}

impl Service for Bridge {
    fn accept(&mut self, conn: &mut Conn<'_>) {
        self.admit(conn);
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.opened(conn);
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        self.transfer(conn);
    }

    fn closed(&mut self, id: ConnId, tag: u64, why: Closed, _net: &mut Net<'_>) {
        self.over(id, tag, why);
    }

    fn datagram(&mut self, socket: UdpId, from: IpEndpoint, _to: IpAddress, data: &[u8], net: &mut Net<'_>) {
        self.deliver_datagram(socket, from, data, net);
    }

    fn unreachable(&mut self, socket: UdpId, _to: IpEndpoint, why: Unreachable, _net: &mut Net<'_>) {
        let Some(token) = self.sockets.get(socket.index()) else { return };
        if let Some(Slot { what: What::Udp(udp), .. }) = self.slot(token) {
            udp.end.fail(convert::unreachable(why));
            self.touch(token);
        }
    }

    fn resolved(&mut self, query: QueryId, answer: Result<&[IpAddress], ResolveError>, _net: &mut Net<'_>) {
        if let Some((token, end)) = self.queries.remove(&query) {
            self.answer(token, &end, answer);
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let mut done = false;
        for _ in 0..self.again.len() {
            let Some(token) = self.again.pop_front() else { break };
            if let Some(slot) = self.slot(token) {
                slot.again = false;
            }
            self.serve(token, false, net);
            done = true;
        }
        for _ in 0..KNOCKS_PER_TURN {
            match self.door.next_knock() {
                None => break,
                Some(Knock::Rung(token)) => self.serve(token, true, net),
                Some(Knock::Opened(request)) => self.open(request, net),
            }
            done = true;
        }
        done |= self.expire_orphans(net);
        self.wake();
        done
    }

    fn is_quiet(&self) -> bool {
        self.door.is_quiet() && self.again.is_empty()
    }

    fn latencies(&self) -> &'static [&'static str] {
        &["handoff"]
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
        visit("door_orphans", self.orphans.alive as u64);
    }
}
