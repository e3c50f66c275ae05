//! One TCP connection, as a service holds it while it is being called.

use std::time::Duration;

use smoltcp::wire::IpEndpoint;

use crate::clock::Time;
use crate::core::Core;
use crate::error::Closed;
use crate::flow::{Flow, Phase};
use crate::id::{ConnId, ListenerId};
use crate::link::FrameOut;
use crate::net::Net;

/// A connection. Bytes are read and written in the socket's own buffers; what is written leaves when the call returns.
pub struct Conn<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) out: &'a mut dyn FrameOut,
    pub(crate) index: u32,
}

impl Conn<'_> {
    fn flow(&self) -> &Flow {
        self.core.flows.peek(self.index)
    }

    fn flow_mut(&mut self) -> &mut Flow {
        self.core.flows.at(self.index)
    }

    /// Its name, until [`closed`](crate::Service::closed).
    pub fn id(&self) -> ConnId {
        self.core.flows.id(self.index)
    }

    /// The service's own number for it, 0 at first for accepted ones.
    pub fn tag(&self) -> u64 {
        self.flow().tag
    }

    /// Sets the service's own number.
    pub fn set_tag(&mut self, tag: u64) {
        self.flow_mut().tag = tag;
    }

    /// This side.
    pub fn local(&self) -> IpEndpoint {
        self.flow().tuple.local
    }

    /// The peer.
    pub fn remote(&self) -> IpEndpoint {
        self.flow().tuple.remote
    }

    /// The listener that it came through; it may be gone.
    pub fn listener(&self) -> Option<ListenerId> {
        self.flow().listener
    }

    /// The time of this call.
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// Shows `f` the largest contiguous run of received bytes, in place; it may be empty. `f` returns how many it has
    /// used up, from the front, and a result. The rest of the buffer, where it wraps around, is shown by another call.
    pub fn recv<R>(&mut self, f: impl FnOnce(&mut [u8]) -> (usize, R)) -> R {
        let flow = self.core.flows.at(self.index);
        let (mut used, mut next) = (0, flow.recv_at);
        let socket = flow.set.get_mut::<smoltcp::socket::tcp::Socket<'_>>(flow.handle);
        if !socket.can_recv() {
            return f(&mut []).1;
        }
        let result = socket.recv(|bytes| {
            let (len, at) = (bytes.len(), bytes.as_ptr() as usize);
            let (n, result) = f(bytes);
            used = n.min(len);
            next = at + used;
            (used, result)
        });
        if used > 0 {
            flow.recv_at = next;
            flow.seen_recv_queue -= used.min(flow.seen_recv_queue);
            self.core.touch(self.index);
        }
        result.unwrap_or_else(|_| unreachable!("there is something to receive"))
    }

    /// Copies received bytes into `to`. Returns how many.
    pub fn recv_slice(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let copied = self.recv(|bytes| {
                let n = bytes.len().min(to.len() - done);
                to[done..done + n].copy_from_slice(&bytes[..n]);
                (n, n)
            });
            if copied == 0 {
                break;
            }
            done += copied;
        }
        done
    }

    /// Bytes received and not read.
    pub fn recv_queue(&self) -> usize {
        self.flow().socket().recv_queue()
    }

    /// Gives `f` the largest contiguous free run of the send buffer, in place; it may be empty. `f` returns how many
    /// bytes it has written, from the front, and a result.
    pub fn send<R>(&mut self, f: impl FnOnce(&mut [u8]) -> (usize, R)) -> R {
        let now = self.core.now;
        let flow = self.core.flows.at(self.index);
        let socket = flow.set.get_mut::<smoltcp::socket::tcp::Socket<'_>>(flow.handle);
        if !socket.can_send() {
            return f(&mut []).1;
        }
        let mut written = 0;
        let quiet = socket.send_queue() == 0;
        let result = socket.send(|room| {
            let len = room.len();
            let (n, result) = f(room);
            written = n.min(len);
            (written, result)
        });
        if written > 0 {
            flow.seen_send_queue += written;
            if quiet {
                flow.heard = now;
            }
            self.core.touch(self.index);
        }
        result.unwrap_or_else(|_| unreachable!("there is room to send"))
    }

    /// Copies bytes into the send buffer. Returns how many fitted.
    pub fn send_slice(&mut self, from: &[u8]) -> usize {
        let mut done = 0;
        while done < from.len() {
            let copied = self.send(|room| {
                let n = room.len().min(from.len() - done);
                room[..n].copy_from_slice(&from[done..done + n]);
                (n, n)
            });
            if copied == 0 {
                break;
            }
            done += copied;
        }
        done
    }

    /// Bytes sent or to be sent, and not acknowledged.
    pub fn send_queue(&self) -> usize {
        self.flow().socket().send_queue()
    }

    /// Bytes that fit the send buffer now; 0 when nothing may be sent any more.
    pub fn send_room(&self) -> usize {
        let socket = self.flow().socket();
        if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 }
    }

    /// Whether the peer has finished and all its bytes are read.
    pub fn peer_finished(&self) -> bool {
        self.flow().fin_received() && self.recv_queue() == 0
    }

    /// Whether bytes may still be sent: the connection is established and [`close`](Self::close) was not called.
    pub fn may_send(&self) -> bool {
        self.flow().socket().may_send()
    }

    /// Finishes this side: FIN after what is queued. Receiving goes on until the peer finishes too. On a connection
    /// that is not established yet it is an [`abort`](Self::abort).
    pub fn close(&mut self) {
        let now = self.core.now;
        let flow = self.flow_mut();
        match flow.phase {
            Phase::Connecting => return self.abort(),
            Phase::Unread => return,
            _ => {}
        }
        if !flow.socket().may_send() {
            return;
        }
        if flow.socket().send_queue() == 0 {
            flow.heard = now;
        }
        flow.socket_mut().close();
        self.core.touch(self.index);
    }

    /// Ends the connection now: RST to the peer, [`closed`](crate::Service::closed) with [`Closed::Aborted`] once it
    /// is sent.
    pub fn abort(&mut self) {
        let flow = self.flow_mut();
        flow.why = Some(Closed::Aborted);
        flow.socket_mut().abort();
        self.core.touch(self.index);
    }

    /// Sends small segments at once, or gathers them (Nagle's algorithm).
    pub fn set_nodelay(&mut self, nodelay: bool) {
        self.flow_mut().socket_mut().set_nagle_enabled(!nodelay);
    }

    /// After how much silence to probe the peer.
    pub fn set_keep_alive(&mut self, interval: Option<Duration>) {
        let flow = self.flow_mut();
        flow.keep_alive = interval;
        let scaled = interval.map(|interval| flow.clock.duration(interval));
        flow.socket_mut().set_keep_alive(scaled);
        self.core.touch(self.index);
    }

    /// How long the peer may leave data, FIN or probes unanswered.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.flow_mut().timeout = timeout;
        self.core.touch(self.index);
    }

    /// How long an acknowledgement may wait for data to travel with.
    pub fn set_ack_delay(&mut self, delay: Option<Duration>) {
        let flow = self.flow_mut();
        let scaled = delay.map(|delay| flow.clock.duration(delay));
        flow.socket_mut().set_ack_delay(scaled);
    }

    /// IPv4 TTL or IPv6 hop limit, at least 1.
    pub fn set_hop_limit(&mut self, hop_limit: u8) {
        self.flow_mut().socket_mut().set_hop_limit(Some(hop_limit.max(1)));
    }

    /// Code point of its packets from now on, at most 63; urgent ones are served first.
    pub fn set_dscp(&mut self, dscp: u8) {
        let dscp = dscp.min(63);
        let urgent = self.core.config.urgent(dscp);
        let flow = self.flow_mut();
        flow.traffic_class = dscp << 2;
        flow.urgent = urgent;
    }

    /// Adds a latency sample, see [`Net::record`].
    pub fn record(&mut self, slot: usize, ns: u64) {
        self.core.record(slot, ns);
    }

    /// The stack around it.
    pub fn net(&mut self) -> Net<'_> {
        Net { core: self.core, out: self.out }
    }
}
