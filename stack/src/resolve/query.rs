//! One query: a socket of its own for the server that is being asked, and the rule for who is asked next.

use std::time::Duration;

use arrayvec::ArrayVec;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Medium};
use smoltcp::socket::dns;
use smoltcp::wire::{
    DnsFlags, DnsPacket, DnsQueryType, DnsRcode, HardwareAddress, IpAddress, IpCidr, IpProtocol, IpRepr,
    Ipv4Packet, Ipv6Packet, UdpPacket, UdpRepr,
};

use super::{Addresses, Below, DNS_PORT, MAX_SERVERS, Random, RecordKind, ResolveError, datagram};
use crate::Time;
use crate::one_packet::{OnePacket, from_real};

/// How long a server is waited for; the socket asks it at 0, 1 and 3 s.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the list of servers is gone through, as in resolv.conf(5).
const ROUNDS: usize = 2;
/// Any IP MTU that holds a message: what smoltcp is told, as it never splits these.
const MTU_BYTES: usize = 8192;

pub(super) struct Query {
    name: String,
    kind: RecordKind,
    servers: ArrayVec<IpAddress, MAX_SERVERS>,
    /// Attempts so far: attempt `n` asks server `n % servers`.
    attempts: usize,
    attempt: Option<Attempt>,
    /// What the query ends with when no attempt is left.
    why: ResolveError,
}

/// What has become of a message from the server that is asked.
pub(super) enum Reply {
    /// It is not the answer; go on waiting.
    Ignored,
    Answer(Result<Addresses, ResolveError>),
    /// The server failed: [`Query::turn`] asks the next one.
    TryNext,
}

/// One server being asked.
struct Attempt {
    server: IpAddress,
    source: IpAddress,
    /// Where the server's answers go: ours, since smoltcp's choice knows neither cores nor bound sockets.
    port: u16,
    give_up_at: Time,
    /// What smoltcp put into its message; none until it was emitted.
    asked: Option<Asked>,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    query: dns::QueryHandle,
}

struct Asked {
    transaction_id: u16,
    /// The port that smoltcp thinks it asked from.
    port: u16,
    /// The question on the wire: name, type and class.
    question: Vec<u8>,
}

impl Query {
    pub(super) fn new(name: String, kind: RecordKind, servers: ArrayVec<IpAddress, MAX_SERVERS>) -> Self {
        Self { name, kind, servers, attempts: 0, attempt: None, why: ResolveError::NoRoute }
    }

    /// Whether `server` is being asked from this address and port.
    pub(super) fn asked(&self, server: IpAddress, local: IpAddress, port: u16) -> bool {
        self.attempt
            .as_ref()
            .is_some_and(|a| a.asked.is_some() && (a.server, a.source, a.port) == (server, local, port))
    }

    /// Ends the attempt under way; `why` is the query's end if it was the last.
    pub(super) fn give_up_server(&mut self, why: ResolveError) {
        self.attempt = None;
        self.why = why;
    }

    /// Sends at most one datagram. Returns when it wants to be called again.
    ///
    /// # Errors
    /// No server is left to ask.
    pub(super) fn turn(
        &mut self,
        now: Time,
        random: &mut Random,
        below: &mut dyn Below,
        scratch: &mut Vec<u8>,
    ) -> Result<Time, ResolveError> {
        if self.attempt.as_ref().is_some_and(|attempt| attempt.give_up_at <= now) {
            self.give_up_server(ResolveError::TimedOut);
        }
        while self.attempt.is_none() {
            if self.attempts >= self.servers.len() * ROUNDS {
                return Err(self.why);
            }
            let server = self.servers[self.attempts % self.servers.len()];
            self.attempts += 1;
            self.attempt = Attempt::new(now, server, &self.name, self.kind, random, below, scratch);
        }
        match &mut self.attempt {
            Some(attempt) => Ok(attempt.turn(now, below, scratch)),
            None => Err(self.why),
        }
    }

    /// Judges a message of the server that is asked, whose UDP checksum was right.
    pub(super) fn receive(&mut self, now: Time, message: &[u8], scratch: &mut Vec<u8>) -> Reply {
        let Some(attempt) = &mut self.attempt else { return Reply::Ignored };
        let Some(asked) = &attempt.asked else { return Reply::Ignored };
        let Ok(packet) = DnsPacket::new_checked(message) else { return Reply::Ignored };
        if packet.transaction_id() != asked.transaction_id || !packet.flags().contains(DnsFlags::RESPONSE) {
            return Reply::Ignored;
        }
        let rcode = packet.rcode();
        if !matches!(rcode, DnsRcode::NoError | DnsRcode::NXDomain) {
            // A server that failed may not repeat the question, so port and id have to do.
            self.give_up_server(ResolveError::ServerFailed { rcode: u8::from(rcode) });
            return Reply::TryNext;
        }
        if !packet.payload().starts_with(&asked.question) {
            return Reply::Ignored;
        }
        let truncated = packet.flags().contains(DnsFlags::TRUNCATED);
        let port = asked.port;
        let found = match attempt.receive(now, message, port, scratch) {
            // It answers our question with nonsense. smoltcp may have taken an alias from it, which it would ask for
            // instead, so this socket is of no use any more.
            Err(dns::GetQueryResultError::Pending) => {
                self.give_up_server(ResolveError::BadAnswer);
                return Reply::TryNext;
            }
            Err(dns::GetQueryResultError::Failed) => Addresses::new(),
            Ok(found) => found.into_iter().filter(|&address| self.kind.matches(address)).collect(),
        };
        Reply::Answer(match (found.is_empty(), rcode) {
            (false, _) => Ok(found),
            (true, DnsRcode::NXDomain) => Err(ResolveError::NoSuchName),
            (true, _) if truncated => Err(ResolveError::Truncated),
            (true, _) => Err(ResolveError::NoAddress),
        })
    }
}

impl Attempt {
    /// None if there is no way to ask this server.
    fn new(
        now: Time,
        server: IpAddress,
        name: &str,
        kind: RecordKind,
        random: &mut Random,
        below: &mut dyn Below,
        scratch: &mut Vec<u8>,
    ) -> Option<Self> {
        let source = below.source(server)?;
        let port = random.port(|port| below.port_fits(source, port, server))?;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random.next();
        let mut device = OnePacket::new(Medium::Ip, MTU_BYTES, scratch);
        let mut interface = Interface::new(config, &mut device, now.instant());
        // All routes lead to this core's link, which knows the real ones.
        let host = IpCidr::new(source, if matches!(source, IpAddress::Ipv4(_)) { 32 } else { 128 });
        interface.update_ip_addrs(|addresses| {
            // Lossless: the list is empty and holds eight.
            let _ = addresses.push(host);
        });
        let mut socket = dns::Socket::new(&[server], vec![]);
        let kind = match kind {
            RecordKind::A => DnsQueryType::A,
            RecordKind::Aaaa => DnsQueryType::Aaaa,
        };
        // `name::checked` has made sure that smoltcp takes the name.
        let query = socket.start_query(interface.context(), name, kind).ok()?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Some(Self {
            server,
            source,
            port,
            give_up_at: now + SERVER_TIMEOUT,
            asked: None,
            interface,
            sockets,
            socket,
            query,
        })
    }

    fn turn(&mut self, now: Time, below: &mut dyn Below, scratch: &mut Vec<u8>) -> Time {
        let mut device = OnePacket::new(Medium::Ip, MTU_BYTES, scratch);
        self.interface.poll_egress(now.instant(), &mut device, &mut self.sockets);
        if let Some((asked, message)) = emitted(scratch) {
            self.asked = Some(asked);
            let mut out = Vec::new();
            let repr = datagram(self.source, self.port, self.server, message, &mut out);
            below.send(repr, &out);
        }
        let next = self.interface.poll_at(now.instant(), &self.sockets).map_or(self.give_up_at, from_real);
        next.min(self.give_up_at)
    }

    /// Has the socket read the message, as if it had come to the port that the socket chose.
    fn receive(
        &mut self,
        now: Time,
        message: &[u8],
        port: u16,
        scratch: &mut Vec<u8>,
    ) -> Result<Addresses, dns::GetQueryResultError> {
        let udp = UdpRepr { src_port: DNS_PORT, dst_port: port };
        let ip = IpRepr::new(self.server, self.source, IpProtocol::Udp, udp.header_len() + message.len(), 64);
        let checksums = ChecksumCapabilities::default();
        let mut packet = vec![0; ip.buffer_len()];
        ip.emit(packet.as_mut_slice(), &checksums);
        udp.emit(
            &mut UdpPacket::new_unchecked(&mut packet[ip.header_len()..]),
            &self.server,
            &self.source,
            message.len(),
            |payload| payload.copy_from_slice(message),
            &checksums,
        );
        let mut device = OnePacket::new(Medium::Ip, MTU_BYTES, scratch).with_packet(&packet);
        self.interface.poll_ingress_single(now.instant(), &mut device, &mut self.sockets);
        let found = self.sockets.get_mut::<dns::Socket>(self.socket).get_query_result(self.query)?;
        Ok(found.into_iter().take(super::MAX_ANSWERS).collect())
    }
}

/// The message in the packet that smoltcp emitted, if it emitted one.
fn emitted(packet: &[u8]) -> Option<(Asked, &[u8])> {
    let datagram = match packet.first()? >> 4 {
        4 => Ipv4Packet::new_checked(packet).ok()?.payload(),
        _ => Ipv6Packet::new_checked(packet).ok()?.payload(),
    };
    let udp = UdpPacket::new_checked(datagram).ok()?;
    let (port, message) = (udp.src_port(), udp.payload());
    let packet = DnsPacket::new_checked(message).ok()?;
    let asked = Asked { transaction_id: packet.transaction_id(), port, question: packet.payload().to_vec() };
    Some((asked, message))
}
