//! What a service can ask of the stack.

use smoltcp::wire::{IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use crate::clock::Time;
use crate::config::Share;
use crate::conn::Conn;
use crate::core::Core;
use crate::error::{BindError, Closed, ConnectError, ListenError, SendError};
use crate::flow::Phase;
use crate::id::{ConnId, ListenerId, UdpId};
use crate::link::FrameOut;
use crate::options::{ConnectOptions, ListenOptions};
use crate::resolve::{QueryId, RecordKind, ResolveError};
use crate::steer::udp_core;

/// The stack as a service sees it while it is being called. Nothing here blocks.
pub struct Net<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) out: &'a mut dyn FrameOut,
}

impl Net<'_> {
    /// The time of this call.
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// Whether the engine is about to stop: finish what is under way, begin nothing.
    pub fn winding_down(&self) -> bool {
        self.core.winding_down
    }

    /// Own addresses.
    pub fn addresses(&self) -> &[IpCidr] {
        self.core.link.addresses()
    }

    /// Which of the cores this is.
    pub fn share(&self) -> Share {
        self.core.config.share
    }

    /// Connections in all, half-open ones included.
    pub fn connections(&self) -> usize {
        self.core.flows.len()
    }

    /// Accepts connections at `at` from now on; without an address, at all of ours, later ones included.
    ///
    /// # Errors
    /// [`ListenError`]: the endpoint is taken, not ours, has no port, or there are too many.
    pub fn listen(
        &mut self,
        at: IpListenEndpoint,
        options: ListenOptions,
    ) -> Result<ListenerId, ListenError> {
        if let Some(addr) = at.addr.filter(|addr| !self.core.link.is_ours(*addr)) {
            return Err(ListenError::NotLocal(addr));
        }
        let tcp = options.tcp.clamped();
        self.core.listeners.add(at, ListenOptions { tcp, ..options })
    }

    /// Accepts no more. Half-open connections are reset, established ones stay. Does nothing for a dead id.
    pub fn unlisten(&mut self, id: ListenerId) {
        if !self.core.listeners.remove(id) {
            return;
        }
        while let Some(index) = self.core.half_open.oldest(&self.core.flows, Some(id)) {
            // Out of the list, as nobody answers for its limit any more; the reset leaves with its egress.
            self.core.half_open.remove(&mut self.core.flows, index);
            let flow = self.core.flows.at(index);
            flow.listener = None;
            flow.phase = Phase::Orphan;
            flow.socket_mut().abort();
            self.core.touch(index);
        }
    }

    /// Begins a connection; [`connected`](crate::Service::connected) or [`closed`](crate::Service::closed) follows.
    ///
    /// # Errors
    /// [`ConnectError`]: a bad or used address, no route, no port, too many. Then nothing follows.
    pub fn connect(&mut self, to: IpEndpoint, options: ConnectOptions) -> Result<ConnId, ConnectError> {
        self.core.connect(to, &options)
    }

    /// A connection, unless it is gone.
    pub fn conn(&mut self, id: ConnId) -> Option<Conn<'_>> {
        let flow = self.core.flows.get(id)?;
        if matches!(flow.phase, Phase::HalfOpen | Phase::Orphan) {
            return None;
        }
        Some(Conn { core: self.core, out: self.out, index: id.index })
    }

    /// Receives datagrams at `at`; port 0: one is chosen.
    ///
    /// # Errors
    /// [`BindError`]: taken, not ours, or too many.
    pub fn bind_udp(&mut self, at: IpListenEndpoint) -> Result<UdpId, BindError> {
        if let Some(addr) = at.addr.filter(|addr| !self.core.link.is_ours(*addr)) {
            return Err(BindError::NotLocal(addr));
        }
        self.core.udp.bind(at, self.core.config.ports)
    }

    /// Whether what `peer` sends to a UDP socket reaches this core and not another one of those that share the address.
    /// A client that is to get its answers takes another port until it does; a server listens on all cores.
    pub fn is_steered_here(&self, id: UdpId, peer: IpEndpoint) -> bool {
        let share = self.core.config.share;
        let Some(at) = self.core.udp.local(id) else { return false };
        let Some(addr) = at.addr.or_else(|| self.core.link.source(peer.addr)) else { return false };
        udp_core(IpEndpoint::new(addr, at.port), peer, share.count) == share.index
    }

    /// The local endpoint of a UDP socket, unless it is gone.
    pub fn udp_local(&self, id: UdpId) -> Option<IpListenEndpoint> {
        self.core.udp.local(id)
    }

    /// Closes a UDP socket. Does nothing for a dead id.
    pub fn close_udp(&mut self, id: UdpId) {
        self.core.udp.close(id);
    }

    /// Sends a datagram at once: from the address that the socket is bound to, else from the one that the route to `to`
    /// gives. A server that is bound to all addresses answers by [`send_from`](Self::send_from).
    ///
    /// # Errors
    /// [`SendError`]; `NoBuffers` may be tried again after the next turn.
    pub fn send_to(&mut self, socket: UdpId, to: IpEndpoint, data: &[u8]) -> Result<(), SendError> {
        let core = &mut *self.core;
        core.udp.send(&mut core.link, core.now, socket, None, to, data, self.out)
    }

    /// As [`send_to`](Self::send_to), from the address `from`: an answer leaves from the address that was asked, so
    /// that who asked knows it (RFC 1122 §4.1.3.5). A broadcast has no such address.
    ///
    /// # Errors
    /// [`SendError`]; `NotLocal` if `from` is not ours, or the socket is bound to another address.
    pub fn send_from(
        &mut self,
        socket: UdpId,
        from: IpAddress,
        to: IpEndpoint,
        data: &[u8],
    ) -> Result<(), SendError> {
        let core = &mut *self.core;
        core.udp.send(&mut core.link, core.now, socket, Some(from), to, data, self.out)
    }

    /// Whether `address` is one of ours. A datagram's `to` is not if it was sent to a group.
    pub fn is_ours(&self, address: IpAddress) -> bool {
        self.core.link.is_ours(address)
    }

    /// Lets a UDP socket send to broadcast addresses, or forbids it again, as `SO_BROADCAST` does. Forbidden at first.
    pub fn set_broadcast(&mut self, socket: UdpId, allowed: bool) {
        self.core.udp.set_broadcast(socket, allowed);
    }

    /// Sends an echo request at once. [`pong`](crate::Service::pong) or
    /// [`ping_failed`](crate::Service::ping_failed) may follow, or nothing. On several cores replies come to core 0.
    ///
    /// # Errors
    /// [`SendError`]; `NoBuffers` may be tried again after the next turn.
    pub fn ping(&mut self, to: IpAddress, ident: u16, seq: u16, data: &[u8]) -> Result<(), SendError> {
        self.core.link.ping(self.core.now, to, (ident, seq), data, self.out)
    }

    /// Asks a name server; [`resolved`](crate::Service::resolved) follows. A literal address is answered too.
    ///
    /// # Errors
    /// [`ResolveError`]: not a name, no server, too many questions. Then nothing follows.
    pub fn resolve(&mut self, name: &str, kind: RecordKind) -> Result<QueryId, ResolveError> {
        self.core.resolver.query(self.core.now, name, kind)
    }

    /// Forgets a question: nothing follows.
    pub fn cancel_resolve(&mut self, query: QueryId) {
        self.core.resolver.cancel(query);
    }

    /// Adds a sample, in nanoseconds, to latency `slot` of [`Service::latencies`](crate::Service::latencies). At most
    /// a few thousand between two drains; more are counted as lost.
    pub fn record(&mut self, slot: usize, ns: u64) {
        self.core.record(slot, ns);
    }

    /// The service wants a turn at `at` at the latest, even if nothing happens. The earliest wish since the last turn
    /// counts, for one turn.
    pub fn wake_at(&mut self, at: Time) {
        self.core.wake_at = Some(self.core.wake_at.map_or(at, |other| other.min(at)));
    }

    /// Whether device buffers are free for a datagram now.
    pub fn has_room(&mut self) -> bool {
        self.out.room() > 0
    }
}

impl Net<'_> {
    /// Aborts every connection and half-open one, without waiting for anything but room to send the resets.
    pub fn abort_all(&mut self) {
        for index in 0..self.core.flows.slots() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let flow = self.core.flows.at(index);
            if flow.phase != Phase::Vacant {
                flow.socket_mut().abort();
                flow.why = Some(Closed::Aborted);
                self.core.touch(index);
            }
        }
    }
}
