//! Connections: bytes and states both ways.

use door::{AppState, Failure, Lie, Refusal, TcpEnd, Token};

use super::convert::{self, socket_addr};
use super::{Bridge, HANDOFF, ORPHAN, Slot, What, tag};
use crate::{Closed, Conn, ConnId, Net};

/// How often one call moves bytes in each direction: a buffer that wraps around has two runs, and the other side may be as
/// fast as we are.
const ROUNDS: usize = 4;

/// A connection and its end.
#[derive(Debug)]
pub(super) struct Tcp {
    pub end: TcpEnd,
    /// `None` once it is over.
    conn: Option<ConnId>,
    /// It was established.
    open: bool,
    /// Our FIN was asked for.
    finished: bool,
    /// The application has let go.
    gone: bool,
}

/// What a transfer left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Nothing, or something that will be announced.
    Rest,
    /// Something that nobody will announce: look again.
    Again,
    /// Nobody needs the rings any more: the connection finishes by itself.
    Orphan,
    /// The same, and it was reset.
    Reset,
}

impl Tcp {
    pub(super) fn new(end: TcpEnd, conn: Option<ConnId>) -> Self {
        Self { end, conn, open: false, finished: false, gone: false }
    }

    /// Moves what fits both ways, and carries the application's wishes out.
    fn transfer(&mut self, conn: &mut Conn<'_>) -> Result<After, Lie> {
        // Before the bytes: a shutdown seen here has all its bytes in the ring.
        let wants = self.end.app_state();
        if wants.abort {
            conn.abort();
            return Ok(if self.gone { After::Reset } else { After::Rest });
        }
        if !self.open {
            if self.gone {
                conn.abort();
                return Ok(After::Reset);
            }
            return Ok(After::Rest);
        }
        if self.gone && (conn.recv_queue() > 0 || !self.end.is_drained()?) {
            // Bytes that nobody will read: RFC 1122 §4.2.2.13.
            conn.abort();
            return Ok(if wants.linger { After::Rest } else { After::Reset });
        }
        let mut after = self.inward(conn, wants)?;
        if self.outward(conn)? == After::Again {
            after = After::Again;
        }
        if (wants.shut_write || self.gone) && !self.finished && self.end.outgoing_len()? == 0 {
            self.finished = true;
            conn.close();
        }
        let needed = !self.gone || !self.finished || wants.linger;
        Ok(if needed { after } else { After::Orphan })
    }

    /// From the socket to the ring.
    fn inward(&mut self, conn: &mut Conn<'_>, wants: AppState) -> Result<After, Lie> {
        let mut after = After::Rest;
        for _ in 0..ROUNDS {
            if conn.recv_queue() == 0 {
                after = After::Rest;
                break;
            }
            let end = &mut self.end;
            let moved = conn.recv(|bytes| {
                let moved = if wants.shut_read { Ok(bytes.len()) } else { end.deliver(bytes) };
                (*moved.as_ref().unwrap_or(&0), moved)
            })?;
            after = After::Again;
            // A full ring: it is the reader who announces room, unless there is some already.
            if moved == 0 && !self.end.wish_for_room()? {
                after = After::Rest;
                break;
            }
        }
        if conn.peer_finished() {
            self.end.finish();
        }
        Ok(after)
    }

    /// From the ring to the socket.
    fn outward(&mut self, conn: &mut Conn<'_>) -> Result<After, Lie> {
        for _ in 0..ROUNDS {
            if self.end.outgoing_len()? == 0 {
                return Ok(After::Rest);
            }
            let end = &mut self.end;
            let moved = conn.send(|room| {
                let moved = end.outgoing(room);
                (*moved.as_ref().unwrap_or(&0), moved)
            })?;
            if moved == 0 {
                // Full: the stack announces room. Or nothing may be sent any more: then the connection will be over.
                return Ok(After::Rest);
            }
        }
        Ok(After::Again)
    }
}

impl Bridge {
    /// A connection came in: to the threads that accept, unless there is no place for it.
    pub(super) fn admit(&mut self, conn: &mut Conn<'_>) {
        let listener = conn.listener().and_then(|id| self.listeners.get(id.index()));
        let Some(listening) = listener else { return conn.abort() };
        let Some(token) = self.door.token() else {
            self.counters.no_socket += 1;
            return conn.abort();
        };
        let Some(Slot { what: What::Listener(listener, _), .. }) = self.slots.get(listening as usize) else {
            self.door.free(token);
            return conn.abort();
        };
        match self.door.admit(listener, token, socket_addr(conn.local()), socket_addr(conn.remote())) {
            Ok(end) => {
                conn.set_tag(tag(token));
                self.put(token, What::Tcp(Tcp { open: true, ..Tcp::new(end, Some(conn.id())) }));
                self.touch(listening);
            }
            Err(refusal) => {
                match refusal {
                    Refusal::Full => self.counters.accept_full += 1,
                    Refusal::Closed => self.counters.accept_closed += 1,
                    Refusal::NoMemory => self.counters.no_memory += 1,
                }
                self.door.free(token);
                conn.abort();
            }
        }
    }

    /// A connection that the application asked for is established.
    pub(super) fn opened(&mut self, conn: &mut Conn<'_>) {
        let local = socket_addr(conn.local());
        if let Some((_, tcp)) = self.tcp(conn.tag()) {
            tcp.end.opened(local);
            tcp.open = true;
        }
        self.transfer(conn);
    }

    /// The connection's end, by its tag.
    fn tcp(&mut self, tag: u64) -> Option<(Token, &mut Tcp)> {
        let token = Token::try_from(tag.checked_sub(1)?).ok()?;
        match &mut self.slot(token)?.what {
            What::Tcp(tcp) => Some((token, tcp)),
            _ => None,
        }
    }

    /// Moves bytes of one connection, whoever asked for it.
    pub(super) fn transfer(&mut self, conn: &mut Conn<'_>) {
        let Some((token, tcp)) = self.tcp(conn.tag()) else {
            // Nobody holds it any more, and nobody will read what still comes.
            if conn.recv_queue() > 0 {
                conn.abort();
            }
            return;
        };
        match tcp.transfer(conn) {
            Ok(After::Rest) => self.touch(token),
            Ok(After::Again) => {
                self.touch(token);
                self.look_again(token);
            }
            Ok(After::Orphan) => {
                self.orphans.add(conn);
                self.free(token);
            }
            Ok(After::Reset) => {
                conn.set_tag(0);
                self.free(token);
            }
            Err(lie) => {
                log::warn!("door: {lie}: connection {} reset", conn.remote());
                tcp.end.fail(Failure::Lied);
                tcp.conn = None;
                let gone = tcp.gone;
                self.counters.lies += 1;
                conn.set_tag(0);
                conn.abort();
                if gone { self.free(token) } else { self.touch(token) }
            }
        }
    }

    /// The application has rung.
    pub(super) fn serve_tcp(&mut self, token: Token, rung: bool, net: &mut Net<'_>) {
        let Some((_, tcp)) = self.tcp(tag(token)) else { return };
        // Only the ring that was taken from the queue may be answered: see `door`'s bell.
        tcp.gone |= rung && tcp.end.answer();
        if let Some(ns) = tcp.end.take_handoff_ns() {
            net.record(HANDOFF, ns.into());
        }
        let options = tcp.end.changed_options();
        let (id, gone) = (tcp.conn, tcp.gone);
        match id.and_then(|id| net.conn(id)) {
            Some(mut conn) => {
                if let Some(options) = options {
                    convert::apply(&options, &mut conn);
                }
                self.transfer(&mut conn);
            }
            // Over already: the end was only kept for the application to hear of it.
            None if gone => self.free(token),
            None => {}
        }
    }

    /// The connection is over.
    pub(super) fn over(&mut self, id: ConnId, tag: u64, why: Closed) {
        if tag == ORPHAN {
            self.orphans.alive -= 1;
            return;
        }
        let Some((token, tcp)) = self.tcp(tag) else { return };
        if tcp.conn != Some(id) {
            return;
        }
        tcp.conn = None;
        match convert::closed_failure(why) {
            None => tcp.end.finish(),
            Some(failure) => tcp.end.fail(failure),
        }
        tcp.end.closed();
        if tcp.gone { self.free(token) } else { self.touch(token) }
    }
}

/// What the bridge counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Connections reset because the accept queue was full.
    accept_full: u64,
    /// Connections reset because their listener was being closed.
    accept_closed: u64,
    /// Connections reset because the door has no socket left.
    no_socket: u64,
    /// Connections reset because no memory could be mapped.
    no_memory: u64,
    /// Ends whose application wrote what cannot be.
    pub lies: u64,
    /// Datagrams for which the application's ring had no room.
    pub datagrams_full: u64,
    /// Connections reset that nobody held and whose peer did not finish.
    pub orphans_timed_out: u64,
}

impl Counters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("accept_full", self.accept_full);
        visit("accept_closed", self.accept_closed);
        visit("door_no_socket", self.no_socket);
        visit("door_no_memory", self.no_memory);
        visit("door_lies", self.lies);
        visit("udp_ring_full", self.datagrams_full);
        visit("orphan_timeout", self.orphans_timed_out);
    }
}
