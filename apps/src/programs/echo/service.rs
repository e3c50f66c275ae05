//! The server on the loop.

use stack::{
    Closed, Conn, ConnId, IpAddress, IpEndpoint, IpListenEndpoint, ListenOptions, Net, SendError, Service,
    UdpId,
};

use super::{EchoConfig, PORT};
use crate::output::REQUESTS;

/// Bytes on their way from a receive buffer to a send buffer at a time: some segments, a third of the first cache.
const SCRATCH_BYTES: usize = 16 << 10;

/// Sends back whatever comes. Keeps nothing for a connection: what cannot be sent yet stays in its receive buffer.
#[derive(Debug)]
pub struct Echo {
    config: EchoConfig,
    scratch: Box<[u8; SCRATCH_BYTES]>,
    connections: u64,
    open: u64,
    failed: u64,
    requests: u64,
    bytes: u64,
    datagrams: u64,
    datagram_bytes: u64,
    /// Datagrams not answered: from an echo port, or without room to send.
    loops_refused: u64,
    unanswered: u64,
    errors: u64,
}

impl Echo {
    /// A server that listens when the stack starts it.
    pub fn new(config: EchoConfig) -> Echo {
        Echo {
            config,
            scratch: Box::new([0; SCRATCH_BYTES]),
            connections: 0,
            open: 0,
            failed: 0,
            requests: 0,
            bytes: 0,
            datagrams: 0,
            datagram_bytes: 0,
            loops_refused: 0,
            unanswered: 0,
            errors: 0,
        }
    }

    /// Moves what came to what leaves, as far as there is room; returns how much.
    #[inline]
    fn send_back(&mut self, conn: &mut Conn<'_>) -> usize {
        let mut moved = 0;
        loop {
            let len = conn.recv_queue().min(conn.send_room()).min(SCRATCH_BYTES);
            if len == 0 {
                return moved;
            }
            let read = conn.recv_slice(&mut self.scratch[..len]);
            let written = conn.send_slice(&self.scratch[..read]);
            if written < read {
                // There was room a moment ago; without it the stream would have a hole.
                self.errors += 1;
                conn.abort();
                return moved;
            }
            if read == 0 {
                return moved;
            }
            moved += read;
        }
    }
}

impl Service for Echo {
    fn start(&mut self, net: &mut Net<'_>) {
        let at = |port| IpListenEndpoint { addr: None, port };
        if let Some(port) = self.config.tcp_port {
            let options = ListenOptions { backlog: self.config.backlog, tcp: self.config.tcp };
            if let Err(error) = net.listen(at(port), options) {
                log::error!("no TCP: {error}");
                self.errors += 1;
            }
        }
        if let Some(port) = self.config.udp_port
            && let Err(error) = net.bind_udp(at(port))
        {
            log::error!("no UDP: {error}");
            self.errors += 1;
        }
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {
        self.connections += 1;
        self.open += 1;
    }

    #[inline]
    fn ready(&mut self, conn: &mut Conn<'_>) {
        let moved = self.send_back(conn);
        if moved > 0 {
            self.requests += 1;
            self.bytes += moved as u64;
        }
        // Half-close: the peer has finished, and all it sent is on its way back.
        if conn.peer_finished() {
            conn.close();
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, why: Closed, _net: &mut Net<'_>) {
        self.open = self.open.saturating_sub(1);
        self.failed += u64::from(why != Closed::Done);
    }

    fn datagram(&mut self, socket: UdpId, from: IpEndpoint, to: IpAddress, data: &[u8], net: &mut Net<'_>) {
        if from.port == PORT || Some(from.port) == self.config.udp_port {
            self.loops_refused += 1;
            return;
        }
        // From the address that was asked; a broadcast has none.
        let sent = match net.is_ours(to) {
            true => net.send_from(socket, to, from, data),
            false => net.send_to(socket, from, data),
        };
        match sent {
            Ok(()) => {
                self.requests += 1;
                self.datagrams += 1;
                self.datagram_bytes += data.len() as u64;
            }
            Err(SendError::NoBuffers) => self.unanswered += 1,
            Err(_) => {
                self.unanswered += 1;
                self.errors += 1;
            }
        }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        if self.config.counts_requests {
            visit(REQUESTS, self.requests);
            visit("connections", self.connections);
        }
        visit("open", self.open);
        visit("failed", self.failed);
        visit("bytes", self.bytes);
        visit("datagrams", self.datagrams);
        visit("datagram_bytes", self.datagram_bytes);
        visit("loops_refused", self.loops_refused);
        visit("unanswered", self.unanswered);
        visit("errors", self.errors);
    }
}
