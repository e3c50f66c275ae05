//! The client on the loop: finds the server, then hands what happens to the protocol's own part.

use std::time::Duration;

use stack::{
    Closed, Conn, ConnId, IpAddress, IpEndpoint, Net, QueryId, RecordKind, ResolveError, Service, Share,
    Time, UdpId, Unreachable,
};

use super::args::{LoadConfig, Protocol};
use super::datagrams::Datagrams;
use super::ledger::{LATENCIES, Ledger};
use super::streams::Streams;
use super::target::Host;

/// How often it looks after what has a time of its own beside the schedule: ramp-up, lost datagrams, the end.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The client of one core.
#[derive(Debug)]
pub struct Load {
    host: Host,
    port: u16,
    ledger: Ledger,
    kind: Kind,
    search: Search,
    unresolved: u64,
}

// There is one of it a core, so its size is of no matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Kind {
    Streams(Streams),
    Datagrams(Datagrams),
}

/// How far the server's address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// There is no address of our own yet.
    Waiting,
    /// Its addresses of one kind are asked for.
    Asked(QueryId, RecordKind),
    /// Found, or given up.
    Over,
}

impl Load {
    /// The client of core `share` for `config`. Allocates all it will need but for HTTP heads that come in parts.
    pub fn new(config: &LoadConfig, share: Share) -> Load {
        Load {
            host: config.host.clone(),
            port: config.port,
            ledger: Ledger::new(config, share),
            kind: match config.protocol {
                Protocol::Udp => Kind::Datagrams(Datagrams::new(config, share)),
                Protocol::Tcp | Protocol::Http => Kind::Streams(Streams::new(config, share)),
            },
            search: Search::Waiting,
            unresolved: 0,
        }
    }

    fn begin(&mut self, address: IpAddress, net: &mut Net<'_>) {
        self.search = Search::Over;
        let to = IpEndpoint { addr: address, port: self.port };
        match &mut self.kind {
            Kind::Streams(streams) => streams.begin(to, net),
            Kind::Datagrams(datagrams) => {
                if let Err(error) = datagrams.begin(to, net, &mut self.ledger) {
                    log::error!("{error}");
                    self.ledger.errors += 1;
                    datagrams.give_up();
                }
            }
        }
    }

    /// Asks for addresses of `kind`.
    fn ask(&mut self, name: &str, kind: RecordKind, net: &mut Net<'_>) {
        match net.resolve(name, kind) {
            Ok(query) => self.search = Search::Asked(query, kind),
            Err(error) => self.unresolved(error),
        }
    }

    fn unresolved(&mut self, error: ResolveError) {
        log::error!("{} has no address: {error}", self.host);
        self.search = Search::Over;
        self.unresolved += 1;
        self.ledger.errors += 1;
        match &mut self.kind {
            Kind::Streams(streams) => streams.give_up(),
            Kind::Datagrams(datagrams) => datagrams.give_up(),
        }
    }
}

impl Service for Load {
    fn configured(&mut self, net: &mut Net<'_>) {
        if self.search != Search::Waiting {
            return;
        }
        match self.host.clone() {
            Host::Address(address) => self.begin(address, net),
            Host::Name(name) => self.ask(&name, RecordKind::A, net),
        }
    }

    fn resolved(&mut self, query: QueryId, answer: Result<&[IpAddress], ResolveError>, net: &mut Net<'_>) {
        let Search::Asked(asked, kind) = self.search else { return };
        if asked != query {
            return;
        }
        match (answer, kind, self.host.clone()) {
            (Ok([address, ..]), ..) => self.begin(*address, net),
            // Nothing under IPv4; there may be something under IPv6.
            (Ok([]) | Err(ResolveError::NoAddress), RecordKind::A, Host::Name(name)) => {
                self.ask(&name, RecordKind::Aaaa, net);
            }
            (Ok([]), ..) => self.unresolved(ResolveError::NoAddress),
            (Err(error), ..) => self.unresolved(error),
        }
    }

    fn accept(&mut self, conn: &mut Conn<'_>) {
        // Nothing listens here.
        conn.abort();
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        if let Kind::Streams(streams) = &mut self.kind {
            streams.connected(conn, &mut self.ledger);
        }
    }

    #[inline]
    fn ready(&mut self, conn: &mut Conn<'_>) {
        if let Kind::Streams(streams) = &mut self.kind {
            streams.ready(conn, &mut self.ledger);
        }
    }

    fn closed(&mut self, _id: ConnId, tag: u64, why: Closed, net: &mut Net<'_>) {
        if let Kind::Streams(streams) = &mut self.kind {
            streams.closed(tag, why, &mut self.ledger, net.now().ns());
        }
    }

    fn datagram(&mut self, socket: UdpId, from: IpEndpoint, _to: IpAddress, data: &[u8], net: &mut Net<'_>) {
        if let Kind::Datagrams(datagrams) = &mut self.kind {
            datagrams.datagram(socket, from, data, net, &mut self.ledger);
        }
    }

    fn unreachable(&mut self, _socket: UdpId, _to: IpEndpoint, _why: Unreachable, _net: &mut Net<'_>) {
        if let Kind::Datagrams(datagrams) = &mut self.kind {
            datagrams.unreachable(&mut self.ledger);
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        self.ledger.turn(net);
        let is_busy = match &mut self.kind {
            Kind::Streams(streams) => streams.turn(net, &mut self.ledger),
            Kind::Datagrams(datagrams) => datagrams.turn(net, &mut self.ledger),
        };
        if !self.is_done() {
            let look = net.now() + LOOK_EVERY;
            net.wake_at(self.ledger.next_due_ns().map_or(look, |due| look.min(Time::from_ns(due))));
        }
        is_busy
    }

    fn latencies(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Streams(_) => &LATENCIES,
            Kind::Datagrams(_) => &LATENCIES[..1],
        }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.ledger.counters(visit);
        match &self.kind {
            Kind::Streams(streams) => streams.counters(visit),
            Kind::Datagrams(datagrams) => datagrams.counters(visit),
        }
        if self.unresolved > 0 {
            visit("unresolved", self.unresolved);
        }
    }

    fn is_done(&self) -> bool {
        match &self.kind {
            Kind::Streams(streams) => streams.is_done(),
            Kind::Datagrams(datagrams) => datagrams.is_done(),
        }
    }
}
