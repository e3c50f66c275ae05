//! The resolver: names to addresses, on smoltcp's DNS socket (RFC 1035, RFC 3596).
//!
//! Each query has a socket, a one-socket set and an interface of its own. The socket knows one server, the one that is
//! being asked, so that no other can answer; moving on to the next server is done here, since the socket would wait its
//! whole 10 s even after `SERVFAIL`. The interface is seeded anew for each attempt, because smoltcp's generator is
//! predictable once some of its output was seen, and the transaction id comes from it. The source port is random and
//! chosen here: the reply has to reach this core and no socket that is in use.
//!
//! Cold path: a query allocates. Memory is bounded by [`MAX_QUERIES`].

mod name;
mod query;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::Hasher;

use arrayvec::ArrayVec;
use siphasher::sip::SipHasher13;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, UdpPacket, UdpRepr};

use self::query::{Query, Reply};
use crate::Time;

/// Queries that may be under way or waiting to be collected, on each core.
pub const MAX_QUERIES: usize = 64;
/// Servers that are asked, in order; further ones are ignored.
pub const MAX_SERVERS: usize = 4;
/// Addresses of one answer; further ones are ignored.
pub const MAX_ANSWERS: usize = 16;

const DNS_PORT: u16 = 53;
/// Without EDNS, which is not sent, a message has at most 512 bytes (RFC 1035 §4.2.1). Servers that ignore this are
/// heard up to the usual EDNS size, so that a forged message of 64 KiB costs no parsing.
const MAX_MESSAGE_BYTES: usize = 4096;
/// Random ports that are tried before a query is put off: with 64 cores and no port in use, all are wrong with a
/// probability of 2⁻⁶⁴ or so.
const PORT_TRIES: usize = 4096;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

/// Names a query until its answer was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId {
    index: u16,
    generation: u32,
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// More than 253 bytes, the dots between labels included (RFC 1035 §2.3.4).
    #[error("name of {len} bytes; at most 253 can be asked for")]
    NameTooLong {
        /// Length of the name in bytes.
        len: usize,
    },
    /// A label is empty, longer than 63 bytes, or has a byte that is no letter, digit, hyphen or underscore.
    #[error(
        "malformed name: label {label} is empty, longer than 63 bytes, or has more than letters, digits, - and _"
    )]
    Malformed {
        /// Which label, counted from 1.
        label: usize,
    },
    /// Neither the configuration nor DHCP has named a server.
    #[error("no DNS server is known; configure one, or use DHCP")]
    NoServer,
    /// As many queries as are allowed are under way.
    #[error("{0} queries are under way, the most at once; wait for an answer")]
    TooMany(usize),
    /// The server says that the name does not exist (NXDOMAIN).
    #[error("no such name")]
    NoSuchName,
    /// The name exists, but has no address of this kind.
    #[error("the name has no address of this kind")]
    NoAddress,
    /// Each server refused or failed; the last one's response code (RFC 1035 §4.1.1).
    #[error("every DNS server failed, the last one with response code {rcode}")]
    ServerFailed {
        /// Response code: 2 is a failure of the server, 5 a refusal.
        rcode: u8,
    },
    /// The last server to answer the question did so with nonsense.
    #[error("the DNS server's answer is malformed")]
    BadAnswer,
    /// The answer did not fit into one datagram and no address was in what came.
    #[error("the answer does not fit into a datagram")]
    Truncated,
    /// No server answered.
    #[error("no DNS server answered; check the servers' addresses and the route to them")]
    TimedOut,
    /// There is no address of our own from which a server could be asked.
    #[error("no address or route from which to ask a DNS server")]
    NoRoute,
}

/// The addresses of an answer, in the server's order: at most [`MAX_ANSWERS`].
pub(crate) type Addresses = Vec<IpAddress>;

/// What the resolver needs of the layers below.
pub(crate) trait Below {
    /// Our address for datagrams to `to`; none without a route.
    fn source(&mut self, to: IpAddress) -> Option<IpAddress>;
    /// Whether a datagram from `server` port 53 to this local port would reach this core, and no socket that is bound.
    fn port_fits(&mut self, local: IpAddress, port: u16, server: IpAddress) -> bool;
    /// Sends one UDP datagram, header included. What cannot be sent is lost, and sent again later.
    fn send(&mut self, repr: IpRepr, datagram: &[u8]);
}

/// The names that a core is asking for.
pub(crate) struct Resolver {
    servers: ArrayVec<IpAddress, MAX_SERVERS>,
    slots: Vec<Slot>,
    /// Slots whose answer waits to be collected, oldest first.
    finished: VecDeque<u16>,
    /// When a query is to be looked at again.
    next_at: Option<Time>,
    random: Random,
    scratch: Vec<u8>,
}

struct Slot {
    generation: u32,
    state: State,
}

enum State {
    Free,
    Asking(Box<Query>),
    Finished(Result<Addresses, ResolveError>),
}

impl Resolver {
    /// A resolver without servers. `seed` is secret and differs from core to core: ports and ids come from it.
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        Self {
            servers: ArrayVec::new(),
            slots: Vec::new(),
            finished: VecDeque::new(),
            next_at: None,
            random: Random::new(seed),
            scratch: Vec::new(),
        }
    }

    /// Sets the servers for queries to come, best first; those beyond [`MAX_SERVERS`], unspecified and multicast ones
    /// are ignored. Queries that are under way keep theirs.
    pub(crate) fn set_servers(&mut self, servers: &[IpAddress]) {
        self.servers =
            servers.iter().copied().filter(|server| server.is_unicast()).take(MAX_SERVERS).collect();
    }

    /// Starts a query, or answers a literal address at once. The answer, or why there is none, comes from
    /// [`Resolver::answer`], never before this returns; the first datagram leaves with the next [`Resolver::turn`].
    ///
    /// # Errors
    /// What is known to be wrong before anything is sent: the name, no server, too many queries.
    pub(crate) fn query(&mut self, now: Time, name: &str, kind: RecordKind) -> Result<QueryId, ResolveError> {
        let state = match name.parse::<IpAddress>() {
            Ok(literal) if kind.matches(literal) => State::Finished(Ok(vec![literal])),
            Ok(_) => State::Finished(Err(ResolveError::NoAddress)),
            Err(_) => {
                let name = name::checked(name)?;
                if self.servers.is_empty() {
                    return Err(ResolveError::NoServer);
                }
                State::Asking(Box::new(Query::new(name, kind, self.servers.clone())))
            }
        };
        let index = self.free_slot()?;
        if matches!(state, State::Finished(_)) {
            self.finished.push_back(index);
        }
        self.next_at = Some(now);
        let slot = &mut self.slots[usize::from(index)];
        slot.state = state;
        Ok(QueryId { index, generation: slot.generation })
    }

    /// Forgets a query; its answer will not be reported.
    pub(crate) fn cancel(&mut self, id: QueryId) {
        let Some(slot) = self.slots.get_mut(usize::from(id.index)) else { return };
        if slot.generation == id.generation && !matches!(slot.state, State::Free) {
            slot.state = State::Free;
            slot.generation = slot.generation.wrapping_add(1);
            self.finished.retain(|&index| index != id.index);
        }
    }

    /// Takes a UDP datagram, header included, if it is from a server that was asked to the port that it was asked from;
    /// says whether it was taken. What is forged, damaged or late is then dropped here.
    ///
    /// Looks at each query under way, so at most at [`MAX_QUERIES`], and that only for datagrams from port 53.
    pub(crate) fn receive(&mut self, now: Time, from: IpAddress, to: IpAddress, datagram: &[u8]) -> bool {
        let Ok(packet) = UdpPacket::new_checked(datagram) else { return false };
        if packet.src_port() != DNS_PORT {
            return false;
        }
        let Some(index) = self.asking(from, to, packet.dst_port()) else { return false };
        if UdpRepr::parse(&packet, &from, &to, &ChecksumCapabilities::default()).is_err()
            || packet.payload().len() > MAX_MESSAGE_BYTES
        {
            return true;
        }
        let State::Asking(query) = &mut self.slots[index].state else { return true };
        match query.receive(now, packet.payload(), &mut self.scratch) {
            Reply::Ignored => {}
            Reply::Answer(answer) => self.finish(index, answer),
            Reply::TryNext => self.next_at = Some(now),
        }
        true
    }

    /// Takes a report that a server cannot be reached: the next one is asked in the next turn, without waiting.
    pub(crate) fn unreachable(&mut self, now: Time, local: IpAddress, port: u16, server: IpAddress) -> bool {
        let Some(index) = self.asking(server, local, port) else { return false };
        if let State::Asking(query) = &mut self.slots[index].state {
            query.give_up_server(ResolveError::TimedOut);
            self.next_at = Some(now);
        }
        true
    }

    /// Sends what is due and moves on from servers that did not answer in time; says whether anything was done.
    ///
    /// At most one datagram for each query that is due.
    pub(crate) fn turn(&mut self, now: Time, below: &mut dyn Below) -> bool {
        if self.next_at.is_none_or(|at| at > now) {
            return false;
        }
        self.next_at = None;
        for index in 0..self.slots.len() {
            let State::Asking(query) = &mut self.slots[index].state else { continue };
            match query.turn(now, &mut self.random, below, &mut self.scratch) {
                Ok(next_at) => self.next_at = Some(self.next_at.map_or(next_at, |at| at.min(next_at))),
                Err(why) => self.finish(index, Err(why)),
            }
        }
        true
    }

    /// When [`Resolver::turn`] or [`Resolver::answer`] has something to do; none without queries.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        if self.finished.is_empty() { self.next_at } else { Some(Time::from_ns(0)) }
    }

    /// The oldest answer that was not collected; its query is over.
    pub(crate) fn answer(&mut self) -> Option<(QueryId, Result<Addresses, ResolveError>)> {
        let index = self.finished.pop_front()?;
        let slot = &mut self.slots[usize::from(index)];
        let id = QueryId { index, generation: slot.generation };
        slot.generation = slot.generation.wrapping_add(1);
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Finished(answer) => Some((id, answer)),
            State::Free | State::Asking(_) => None,
        }
    }

    /// Queries under way or waiting to be collected.
    pub(crate) fn in_use(&self) -> usize {
        self.slots.iter().filter(|slot| !matches!(slot.state, State::Free)).count()
    }

    fn asking(&self, server: IpAddress, local: IpAddress, port: u16) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| matches!(&slot.state, State::Asking(query) if query.asked(server, local, port)))
    }

    fn finish(&mut self, index: usize, answer: Result<Addresses, ResolveError>) {
        self.slots[index].state = State::Finished(answer);
        // Lossless: there are at most MAX_QUERIES slots.
        self.finished.extend(u16::try_from(index));
    }

    fn free_slot(&mut self) -> Result<u16, ResolveError> {
        let free = self.slots.iter().position(|slot| matches!(slot.state, State::Free));
        let index = match free {
            Some(index) => index,
            None if self.slots.len() < MAX_QUERIES => {
                self.slots.push(Slot { generation: 0, state: State::Free });
                self.slots.len() - 1
            }
            None => return Err(ResolveError::TooMany(MAX_QUERIES)),
        };
        u16::try_from(index).map_err(|_| ResolveError::TooMany(MAX_QUERIES))
    }
}

impl RecordKind {
    fn matches(self, address: IpAddress) -> bool {
        match self {
            Self::A => matches!(address, IpAddress::Ipv4(_)),
            Self::Aaaa => matches!(address, IpAddress::Ipv6(_)),
        }
    }
}

/// Unpredictable numbers: a keyed hash of a counter.
struct Random {
    key: [u8; 16],
    counter: u64,
}

impl Random {
    fn new(key: [u8; 16]) -> Self {
        Self { key, counter: 0 }
    }

    fn next(&mut self) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(self.counter);
        self.counter += 1;
        hasher.finish()
    }

    /// A port that a reply can be sent to, or none when [`PORT_TRIES`] random ones were all taken.
    fn port(&mut self, mut fits: impl FnMut(u16) -> bool) -> Option<u16> {
        (0..PORT_TRIES).find_map(|_| {
            let [low, high, ..] = self.next().to_le_bytes();
            let port = u16::from_le_bytes([low, high]);
            (port >= 1024 && fits(port)).then_some(port)
        })
    }
}

/// Writes a UDP datagram, header and checksum included, behind what `IpRepr` this returns.
fn datagram(source: IpAddress, port: u16, server: IpAddress, message: &[u8], into: &mut Vec<u8>) -> IpRepr {
    let repr = UdpRepr { src_port: port, dst_port: DNS_PORT };
    into.clear();
    into.resize(repr.header_len() + message.len(), 0);
    repr.emit(
        &mut UdpPacket::new_unchecked(into.as_mut_slice()),
        &source,
        &server,
        message.len(),
        |payload| payload.copy_from_slice(message),
        &ChecksumCapabilities::default(),
    );
    IpRepr::new(source, server, IpProtocol::Udp, into.len(), 64)
}
