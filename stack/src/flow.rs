//! One TCP flow: its socket, and what smoltcp does not keep of it.

use std::time::Duration;

use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp;
use smoltcp::wire::EthernetAddress;

use crate::buffers::Loan;
use crate::clock::{FlowClock, Time};
use crate::config::Limits;
use crate::error::Closed;
use crate::id::ListenerId;
use crate::recovery::Recovery;
use crate::segment::Offer;
use crate::tuple::Tuple;

/// Where a flow is in its life, as the service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Free.
    Vacant,
    /// SYN seen, handshake not complete: the service does not know of it.
    HalfOpen,
    /// SYN sent, or about to be.
    Connecting,
    /// The service has it.
    Open,
    /// Its listener is gone: only a reset is left to send, and nobody to tell.
    Orphan,
    /// Finished on both sides, out of the table; bytes wait to be read.
    Unread,
}

/// What was emitted last, for TIME-WAIT and for the check of ICMP errors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// Whether anything was.
    pub any: bool,
    /// After the latest sequence number ever sent.
    pub seq_end: u32,
    /// Last acknowledgement number sent.
    pub ack: u32,
    /// Last window announced, as in the header: not yet scaled.
    pub window: u16,
    /// Segments with data sent again, until counted.
    pub resent: u32,
    /// The peer's window was 0 when it was last heard.
    pub window_closed: bool,
}

/// The segment size of a peer that announces none. RFC 9293 §3.7.1, and for IPv6 no less.
pub(crate) const DEFAULT_MSS: u16 = 536;

/// A slot of the slab.
pub(crate) struct Flow {
    pub tuple: Tuple,
    pub hash: u64,
    pub generation: u32,
    pub phase: Phase,
    /// In a ready list.
    pub queued: bool,
    /// The service is to be told that something changed.
    pub edge: bool,
    /// In the list of those that wait for their next hop's address.
    pub waiting: bool,
    /// The peer scales windows, so ours are scaled too.
    pub scales: bool,
    /// The largest segment that it takes, in bytes of data.
    pub peer_mss: u16,
    /// Served before others.
    pub urgent: bool,
    /// Which of the interfaces (by MTU) it uses.
    pub interface: u8,
    /// DSCP and no ECN, as in the header's byte.
    pub traffic_class: u8,
    /// Bytes in the send and receive queue, and whether the peer's FIN had come, when the service was last told.
    pub seen_send_queue: usize,
    pub seen_recv_queue: usize,
    pub seen_fin: bool,
    /// The next hop as of the last egress.
    pub next_hop: Option<EthernetAddress>,
    pub clock: FlowClock,
    pub sent: Sent,
    pub recovery: Recovery,
    pub set: SocketSet<'static>,
    pub handle: SocketHandle,
    /// The socket's and the next received byte's address, for prefetching.
    pub socket_at: usize,
    pub recv_at: usize,
    pub tag: u64,
    pub listener: Option<ListenerId>,
    /// When the flow began.
    pub began: Time,
    /// When the peer was last heard, or something was first left unanswered.
    pub heard: Time,
    pub unanswered: bool,
    pub keep_alive: Option<Duration>,
    /// User timeout.
    pub timeout: Option<Duration>,
    /// How long our own handshake may take.
    pub handshake: Duration,
    /// Why it is closing, once known.
    pub why: Option<Closed>,
    /// Links of the half-open list.
    pub older: u32,
    pub newer: u32,
    pub rx: Option<Loan>,
    pub tx: Option<Loan>,
}

impl Flow {
    /// Takes note of the peer's SYN.
    pub fn note_offer(&mut self, offer: Offer) {
        (self.scales, self.peer_mss) = (offer.scales, offer.mss);
    }

    /// A free slot; the one allocation of its set's storage happens here, once.
    pub fn vacant() -> Self {
        let nowhere = smoltcp::wire::IpEndpoint::new(smoltcp::wire::IpAddress::v4(0, 0, 0, 0), 0);
        Flow {
            tuple: Tuple { local: nowhere, remote: nowhere },
            hash: 0,
            generation: 0,
            phase: Phase::Vacant,
            queued: false,
            edge: false,
            scales: false,
            peer_mss: DEFAULT_MSS,
            waiting: false,
            urgent: false,
            interface: 0,
            traffic_class: 0,
            seen_send_queue: 0,
            seen_recv_queue: 0,
            seen_fin: false,
            next_hop: None,
            clock: FlowClock::new(1),
            sent: Sent::default(),
            recovery: Recovery::default(),
            set: SocketSet::new(vec![SocketStorage::EMPTY]),
            handle: SocketHandle::default(),
            socket_at: 0,
            recv_at: 0,
            tag: 0,
            listener: None,
            began: Time::ZERO,
            heard: Time::ZERO,
            unanswered: false,
            keep_alive: None,
            timeout: None,
            handshake: Duration::MAX,
            why: None,
            older: u32::MAX,
            newer: u32::MAX,
            rx: None,
            tx: None,
        }
    }

    #[inline]
    pub fn socket(&self) -> &tcp::Socket<'static> {
        self.set.get(self.handle)
    }

    pub fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// Whether the peer's FIN has come, all bytes before it included.
    pub fn fin_received(&self) -> bool {
        self.is_finished(self.socket().state())
    }

    #[inline]
    fn is_finished(&self, state: tcp::State) -> bool {
        use tcp::State;
        matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
            || self.phase == Phase::Unread
    }

    /// Notices what changed since the service was last told.
    #[inline]
    pub fn note_edges(&mut self) {
        let socket = self.socket();
        let (send, recv) = (socket.send_queue(), socket.recv_queue());
        let fin = self.is_finished(socket.state());
        if recv > self.seen_recv_queue || send < self.seen_send_queue || fin != self.seen_fin {
            self.edge = true;
        }
        (self.seen_send_queue, self.seen_recv_queue, self.seen_fin) = (send, recv, fin);
    }

    /// When the peer's silence, or the handshake, has lasted too long.
    #[inline]
    pub fn deadline(&self, limits: &Limits) -> Time {
        use tcp::State;
        match (self.phase, self.timeout) {
            (Phase::HalfOpen, _) => self.began + limits.half_open_timeout,
            (Phase::Connecting, _) => self.began + self.handshake,
            (Phase::Unread, _) => self.heard + limits.unread_timeout,
            (Phase::Open, Some(timeout)) => {
                let socket = self.socket();
                let fin = matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck);
                match self.keep_alive {
                    _ if fin || socket.send_queue() > 0 => self.heard + timeout,
                    Some(interval) => self.heard + interval + timeout,
                    None => Time::MAX,
                }
            }
            _ => Time::MAX,
        }
    }
}
