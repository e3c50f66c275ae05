//! HTTP as a service on the loop: a slot of a table for each connection, and a hand that goes round it for timeouts.

use std::sync::Arc;
use std::time::Duration;

use stack::{Closed, Conn, ConnId, IpListenEndpoint, ListenError, ListenOptions, Net, Service, Time};

use super::answer::Answers;
use super::connection::{Connection, Shared, Stream};
use super::librarian::Shelf;
use super::site::Site;

/// How often some of the connections are looked at, and in how many such steps all of them: every one once a second,
/// and never many in one turn.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const STEPS: usize = 100;

/// What a core's server is to do.
#[derive(Debug)]
pub struct HttpConfig {
    /// Where it listens.
    pub at: IpListenEndpoint,
    /// Of the listener and its connections; their send buffers need
    /// [`MAX_ANSWER_BYTES`](super::head::MAX_ANSWER_BYTES).
    pub listen: ListenOptions,
    /// What it serves until the shelf has something newer.
    pub site: Arc<Site>,
    /// Where newer sites come from.
    pub shelf: Option<Shelf>,
    /// Longest silence of a peer that something is expected from.
    pub idle: Duration,
    /// Connections for which memory is set aside at once; more of them allocate when they come.
    pub connections: usize,
}

/// The server of one core.
#[derive(Debug)]
pub struct Http {
    at: IpListenEndpoint,
    listen: ListenOptions,
    shelf: Option<Shelf>,
    shared: Shared,
    /// By the connections' index.
    slots: Vec<Slot>,
    open: usize,
    /// Where the hand stands.
    hand: usize,
    next_look_ns: u64,
    refused: Option<ListenError>,
}

#[derive(Debug, Default)]
struct Slot {
    id: Option<ConnId>,
    connection: Connection,
}

impl Http {
    /// A server of one core. Allocates all that it will need for `config.connections`.
    #[must_use]
    pub fn new(config: HttpConfig) -> Http {
        let idle_ns = u64::try_from(config.idle.as_nanos()).unwrap_or(u64::MAX);
        Http {
            at: config.at,
            listen: config.listen,
            shelf: config.shelf,
            shared: Shared::new(Answers::new(config.site), idle_ns),
            slots: Vec::with_capacity(config.connections),
            open: 0,
            hand: 0,
            next_look_ns: 0,
            refused: None,
        }
    }

    fn slot(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index()).filter(|slot| slot.id == Some(id))
    }

    /// A turn at the next look, or, while nobody is connected, soon enough for new files. A wish holds for one turn.
    fn come_back(&self, net: &mut Net<'_>) {
        let next = if self.open > 0 { self.next_look_ns } else { (net.now() + Duration::from_secs(1)).ns() };
        net.wake_at(Time::from_ns(next));
    }

    /// Ends what is overdue among the next connections of the round.
    fn look(&mut self, net: &mut Net<'_>, now_ns: u64) {
        let step = self.slots.len().div_ceil(STEPS);
        for _ in 0..step {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if let Some(id) = slot.id
                && slot.connection.deadline_ns() <= now_ns
                && let Some(mut conn) = net.conn(id)
            {
                slot.connection.time_out(&mut Socket(&mut conn), &mut self.shared, now_ns);
            }
        }
    }
}

impl Service for Http {
    fn start(&mut self, net: &mut Net<'_>) {
        self.refused = net.listen(self.at, self.listen).err();
    }

    fn accept(&mut self, conn: &mut Conn<'_>) {
        let (id, now_ns) = (conn.id(), conn.now().ns());
        if self.slots.len() <= id.index() {
            self.slots.resize_with(id.index() + 1, Slot::default);
        }
        self.slots[id.index()] = Slot { id: Some(id), connection: Connection::new(now_ns, &self.shared) };
        self.open += 1;
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        let now_ns = conn.now().ns();
        // Not `self.slot`: the shared half is borrowed beside it.
        let Some(slot) = self.slots.get_mut(conn.id().index()).filter(|slot| slot.id == Some(conn.id()))
        else {
            return;
        };
        slot.connection.advance(&mut Socket(conn), &mut self.shared, now_ns);
    }

    fn closed(&mut self, id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {
        let Some(slot) = self.slot(id) else { return };
        let mut connection = std::mem::take(slot).connection;
        connection.end(&mut self.shared);
        self.open -= 1;
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let now = net.now();
        if now.ns() < self.next_look_ns {
            self.come_back(net);
            return false;
        }
        self.next_look_ns = (now + LOOK_EVERY).ns();
        if let Some(site) = self.shelf.as_ref().and_then(|shelf| shelf.pop()) {
            // The librarian holds the old one, so nothing is freed here.
            self.shared.answers.set_site(site);
        }
        if self.open > 0 {
            self.look(net, now.ns());
        }
        self.come_back(net);
        false
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let counts = &self.shared.answers.counts;
        visit("requests", counts.requests);
        visit("status_2xx", counts.status_2xx);
        visit("status_3xx", counts.status_3xx);
        visit("status_4xx", counts.status_4xx);
        visit("status_5xx", counts.status_5xx);
        visit("body_bytes", counts.body_bytes);
        visit("open", self.open as u64);
        visit("timeouts", self.shared.timeouts);
        visit("errors", u64::from(self.refused.is_some()));
    }
}

/// A connection of the stack as what [`Connection`] reads and writes.
struct Socket<'a, 'b>(&'a mut Conn<'b>);

impl Stream for Socket<'_, '_> {
    #[inline]
    fn recv<R>(&mut self, f: impl FnOnce(&mut [u8]) -> (usize, R)) -> R {
        self.0.recv(f)
    }

    fn recv_slice(&mut self, to: &mut [u8]) -> usize {
        self.0.recv_slice(to)
    }

    fn recv_queue(&self) -> usize {
        self.0.recv_queue()
    }

    #[inline]
    fn send_slice(&mut self, from: &[u8]) -> usize {
        self.0.send_slice(from)
    }

    #[inline]
    fn send_room(&self) -> usize {
        self.0.send_room()
    }

    fn peer_finished(&self) -> bool {
        self.0.peer_finished()
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn abort(&mut self) {
        self.0.abort();
    }
}
