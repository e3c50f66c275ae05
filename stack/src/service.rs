//! What runs on the loop: the answers to what happens on the network.

use smoltcp::wire::{IpAddress, IpEndpoint};

use crate::conn::Conn;
use crate::error::Closed;
use crate::icmp::Unreachable;
use crate::id::{ConnId, UdpId};
use crate::net::Net;
use crate::resolve::{QueryId, ResolveError};

/// An application on the loop: called by the stack, on the core that owns the connection, between receiving and
/// sending. It must never block. Everything but [`accept`](Service::accept), [`ready`](Service::ready) and
/// [`closed`](Service::closed) has a default that does nothing.
pub trait Service: Send {
    /// Called once, before the first frame; addresses may still be missing (DHCP, SLAAC).
    fn start(&mut self, _net: &mut Net<'_>) {}

    /// An address came: right after [`start`](Service::start) for configured ones, later for learnt ones.
    fn configured(&mut self, _net: &mut Net<'_>) {}

    /// A connection to one of our listeners is established. Bytes that came with the handshake are announced by
    /// [`ready`](Service::ready) right after.
    fn accept(&mut self, conn: &mut Conn<'_>);

    /// A connection of ours is established.
    fn connected(&mut self, _conn: &mut Conn<'_>) {}

    /// Bytes came, room to send came, or the peer finished. Edge-triggered: called when something changed, at most
    /// once a turn for a connection; what is left unread or unsent then is not announced again.
    fn ready(&mut self, conn: &mut Conn<'_>);

    /// The connection is no more; its id is dead. Called exactly once for each that was accepted, connected, or
    /// whose [`Net::connect`] returned an id.
    fn closed(&mut self, id: ConnId, tag: u64, why: Closed, net: &mut Net<'_>);

    /// A datagram came for `socket`, addressed to `to`.
    fn datagram(
        &mut self,
        _socket: UdpId,
        _from: IpEndpoint,
        _to: IpAddress,
        _data: &[u8],
        _net: &mut Net<'_>,
    ) {
    }

    /// The network reports that a datagram of `socket` did not reach `to`.
    fn unreachable(&mut self, _socket: UdpId, _to: IpEndpoint, _why: Unreachable, _net: &mut Net<'_>) {}

    /// An echo reply came.
    fn pong(&mut self, _from: IpAddress, _ident: u16, _seq: u16, _data: &[u8], _net: &mut Net<'_>) {}

    /// The network reports that an echo request did not reach `to`.
    fn ping_failed(&mut self, _to: IpAddress, _ident: u16, _seq: u16, _why: Unreachable, _net: &mut Net<'_>) {
    }

    /// The answer to a [`Net::resolve`].
    fn resolved(&mut self, _query: QueryId, _answer: Result<&[IpAddress], ResolveError>, _net: &mut Net<'_>) {
    }

    /// Once a turn, after frames and timers. Returns whether it did anything. If it did nothing, the loop may sleep until
    /// something happens: what is to be done at a certain time needs [`Net::wake_at`], in each turn.
    fn turn(&mut self, _net: &mut Net<'_>) -> bool {
        false
    }

    /// Whether nobody outside of the loop has left it something to do. Asked before the loop sleeps, after its bell was
    /// armed: whoever leaves something later has to ring it.
    fn is_quiet(&self) -> bool {
        true
    }

    /// Names of the latencies that it records, by slot (see [`Net::record`]).
    fn latencies(&self) -> &'static [&'static str] {
        &[]
    }

    /// Its own counters.
    fn counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}

    /// Whether it has nothing left to do of its own accord.
    fn is_done(&self) -> bool {
        true
    }
}
