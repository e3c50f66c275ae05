//! A TCP segment's way to its flow, or to the answer that it gets without one.

use smoltcp::phy::{ChecksumCapabilities, Device};
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;
use smoltcp::wire::{IpAddress, IpEndpoint, IpProtocol, IpRepr, TcpControl, TcpPacket};

use super::{Hint, early_fin, malformed, zero_window};
use crate::checksum::is_tcp_right;
use crate::core::Core;
use crate::emit::{DeviceOut, Envelope, FlowDevice};
use crate::error::Closed;
use crate::flow::{Flow, Phase, Sent};
use crate::id::ListenerId;
use crate::link::IpPacket;
use crate::recovery::Heard;
use crate::segment::{self, Offer, number};
use crate::time_wait::Verdict;
use crate::tuple::Tuple;

impl Core {
    /// Takes in the frame that nearly every frame is: a plain one of a connection that exists. `false`: it is another.
    #[inline]
    pub(super) fn plain_segment<D: Device>(&mut self, frame: &[u8], hint: &Hint, device: &mut D) -> bool {
        let Some(index) = hint.index.filter(|index| self.flows.has(*index, &hint.tuple)) else {
            return false;
        };
        let Some((packet, header_len)) = self.link.plain_tcp(frame) else { return false };
        if let Some(tcp) = self.checked(packet, &packet[header_len..]) {
            self.segment_of(index, packet, &tcp, device);
        }
        true
    }

    /// A TCP header and options that make sense, and a sum that is right.
    #[inline]
    fn checked<'p>(&mut self, packet: &[u8], payload: &'p [u8]) -> Option<TcpPacket<&'p [u8]>> {
        let Ok(tcp) = TcpPacket::new_checked(payload) else {
            self.counters.bad_tcp_header += 1;
            return None;
        };
        if !self.vouched && !is_tcp_right(packet, payload) {
            self.counters.bad_tcp_checksum += 1;
            return None;
        }
        if !malformed::options_are_well_formed(&tcp) {
            self.counters.bad_tcp_options += 1;
            return None;
        }
        Some(tcp)
    }

    /// Takes in a segment. `hint` is what the frame was taken for before it was checked.
    pub(super) fn segment<D: Device>(&mut self, packet: &IpPacket<'_>, hint: Option<&Hint>, device: &mut D) {
        let Some(tcp) = self.checked(packet.bytes(), packet.payload()) else { return };
        let tuple = Tuple {
            local: IpEndpoint::new(packet.dst, tcp.dst_port()),
            remote: IpEndpoint::new(packet.src, tcp.src_port()),
        };
        // The hint may be from before another frame of the burst made the flow.
        let hash = match hint {
            Some(hint) if hint.tuple == tuple => hint.hash,
            _ => self.flows.hash(&tuple),
        };
        match self.flows.find(hash, &tuple) {
            Some(index) => self.segment_of(index, packet.bytes(), &tcp, device),
            None => self.stray(packet, &tcp, tuple, hash, device),
        }
    }

    /// Takes in a segment of flow `index`.
    fn segment_of<D: Device>(&mut self, index: u32, packet: &[u8], tcp: &TcpPacket<&[u8]>, device: &mut D) {
        self.counters.tcp_segments += 1;
        let flow = self.flows.at(index);
        let began = matches!(flow.socket().state(), State::SynSent | State::SynReceived);
        if tcp.syn() && !tcp.ack() && !tcp.rst() && !began {
            // A peer that has forgotten the connection resets it upon this, and its next SYN is let in
            // (RFC 5961 §4.2). smoltcp would drop the SYN, and the two would wait for each other.
            let (tuple, sent) = (flow.tuple, flow.sent);
            if self.resets.take(self.now) {
                self.answer(&tuple, TcpControl::None, sent.seq_end, Some(sent.ack), device);
            }
            return;
        }
        if !malformed::flags_agree(tcp) {
            self.counters.bad_tcp_flags += 1;
            return;
        }
        if tcp.syn() {
            flow.note_offer(Offer::of(tcp));
        }
        flow.sent.window_closed = tcp.window_len() == 0;
        let sent = flow.sent;
        let room = flow.socket().recv_capacity();
        if flow.recovery.hear(tcp, sent, room, self.now) == Heard::Loss {
            self.hear_loss(index, tcp, device);
        }
        let entered_time_wait = if zero_window::concerns(tcp, sent) {
            let mut scratch = [0; zero_window::HEADERS];
            let admitted = zero_window::admit(packet, tcp, sent, &mut scratch);
            self.feed(index, admitted, false, device)
        } else if early_fin::concerns(tcp, self.flows.peek(index)) {
            self.counters.early_fin += 1;
            let mut scratch = std::mem::take(&mut self.scratch);
            let fed = self.feed(index, early_fin::strip(packet, tcp, &mut scratch), false, device);
            self.scratch = scratch;
            fed
        } else {
            self.feed(index, packet, tcp.rst(), device)
        };
        if entered_time_wait {
            // Nothing is unacknowledged in either direction once this segment is, so it says where both
            // streams end. What was last sent does not: smoltcp may delay the acknowledgement of the FIN.
            let (seq, ack) = (tcp.seq_number() + tcp.segment_len(), tcp.ack_number());
            self.flows.at(index).sent = Sent {
                any: true,
                seq_end: number(ack),
                ack: number(seq),
                window: sent.window,
                resent: 0,
                window_closed: false,
            };
        }
    }

    /// Gives a flow its segment and puts it on the ready list. Returns whether that brought it into TIME-WAIT.
    pub(super) fn feed<D: Device>(&mut self, index: u32, packet: &[u8], rst: bool, device: &mut D) -> bool {
        let flow = self.flows.at(index);
        let instant = flow.clock.instant(self.now);
        let before = flow.socket().state();
        let mut no_room = false;
        let mtu = self.interfaces.mtu(flow.interface);
        // One packet that stands for several segments is acknowledged at once, as several would be (RFC 9293 §3.8.6.3);
        // smoltcp counts packets, and the sender would wait for each of its windows.
        let ack_delay = flow.socket().ack_delay().filter(|_| packet.len() > mtu);
        if ack_delay.is_some() {
            flow.socket_mut().set_ack_delay(Some(Duration::ZERO));
        }
        let sums = self.interfaces.sums();
        let interface = self.interfaces.get(flow.interface);
        let Flow { set, sent, next_hop, traffic_class, tuple, peer_mss, .. } = flow;
        let envelope = Envelope {
            link: &self.link,
            next_hop: *next_hop,
            traffic_class: *traffic_class,
            mtu,
            v6: matches!(tuple.remote.addr, IpAddress::Ipv6(_)),
            peer_mss: *peer_mss,
            sums,
            sent,
            no_room: &mut no_room,
        };
        let mut one = FlowDevice { device, received: Some(packet), envelope };
        interface.poll_ingress_single(instant, &mut one, set);
        self.counters.answer_no_room += u64::from(no_room);
        flow.heard = self.now;
        if ack_delay.is_some() {
            flow.socket_mut().set_ack_delay(ack_delay);
        }
        let after = flow.socket().state();
        if after != before && after == State::Closed && flow.why.is_none() {
            flow.why = Some(match (rst, flow.phase) {
                (true, Phase::Connecting) => Closed::Refused,
                (true, _) => Closed::Reset,
                (false, _) => Closed::Done,
            });
        }
        self.touch(index);
        after != before && after == State::TimeWait
    }

    /// A segment of no connection.
    fn stray<D: Device>(
        &mut self,
        packet: &IpPacket<'_>,
        tcp: &TcpPacket<&[u8]>,
        tuple: Tuple,
        hash: u64,
        device: &mut D,
    ) {
        let (syn, ack, rst) = (tcp.syn(), tcp.ack(), tcp.rst());
        let seq = number(tcp.seq_number());
        let len = u32::try_from(tcp.segment_len()).unwrap_or(u32::MAX);
        if let Some(old) = self.time_wait.find(hash, &tuple, self.now) {
            match old.judge(syn, ack, rst, seq, len) {
                Verdict::Ignore => return,
                Verdict::End => {
                    self.time_wait.remove(hash, &tuple);
                    self.counters.time_wait_reset += 1;
                    return;
                }
                Verdict::Acknowledge => {
                    self.counters.time_wait_answered += 1;
                    self.answer(&tuple, TcpControl::None, old.snd_nxt, Some(old.rcv_nxt), device);
                    return;
                }
                Verdict::Reopen if self.listeners.find(tuple.local).is_some() => {
                    self.time_wait.remove(hash, &tuple);
                    self.counters.time_wait_reopened += 1;
                }
                Verdict::Reopen => {}
            }
        }
        if rst {
            self.counters.no_flow += 1;
            return;
        }
        if syn && !ack && !tcp.fin() {
            match self.listeners.find(tuple.local) {
                Some(listener) => {
                    let offer = Offer::of(tcp);
                    return self.open(listener, packet, tuple, hash, offer, device);
                }
                None => self.counters.no_listener += 1,
            }
        } else {
            self.counters.no_flow += 1;
        }
        if !self.resets.take(self.now) {
            self.counters.resets_limited += 1;
            return;
        }
        self.counters.resets_sent += 1;
        // RFC 9293 §3.10.7.1: at the place the peer acknowledges, or at 0 with an acknowledgement of all it sent.
        match ack {
            true => {
                self.answer(&tuple, TcpControl::Rst, number(tcp.ack_number()), None, device);
            }
            false => self.answer(&tuple, TcpControl::Rst, 0, Some(seq.wrapping_add(len)), device),
        }
    }

    /// A SYN to a listener: a new flow with a socket in LISTEN, which is given the SYN.
    fn open<D: Device>(
        &mut self,
        id: ListenerId,
        packet: &IpPacket<'_>,
        tuple: Tuple,
        hash: u64,
        offer: Offer,
        device: &mut D,
    ) {
        let Some(listener) = self.listeners.get(id) else { return };
        let options = listener.options;
        // The oldest makes room: a flood then displaces itself, and a handshake that takes one round trip survives as
        // long as the flood does not fill the list within that time.
        let victim = if listener.half_open >= options.backlog.max(1) {
            self.half_open.oldest(&self.flows, Some(id))
        } else if self.half_open.len >= self.config.limits.half_open || self.flows.is_full() {
            self.half_open.oldest(&self.flows, None)
        } else {
            None
        };
        if let Some(victim) = victim {
            self.counters.half_open_full += 1;
            self.drop_flow(victim);
        }
        let scale = self.config.clock_scale;
        let Some(index) = self.flows.insert(tuple, hash, &options.tcp, scale, self.now) else {
            self.counters.flows_full += 1;
            return;
        };
        self.cover(index);
        let interface = self.interfaces.for_mtu(self.link.path_mtu(tuple.remote.addr));
        self.interfaces.choose_isn(interface, &tuple, self.now);
        let urgent = self.config.urgent(options.tcp.dscp);
        let flow = self.flows.at(index);
        flow.phase = Phase::HalfOpen;
        flow.interface = interface;
        flow.urgent = urgent;
        flow.listener = Some(id);
        flow.note_offer(offer);
        let listening = flow.socket_mut().listen(tuple.local);
        debug_assert!(listening.is_ok(), "a fresh socket, and a port that is not 0");
        self.half_open.push(&mut self.flows, index);
        if let Some(listener) = self.listeners.get(id) {
            listener.half_open += 1;
        }
        self.feed(index, packet.bytes(), false, device);
        if self.flows.peek(index).socket().state() != State::SynReceived {
            // smoltcp did not like it (port 0, an unspecified address).
            self.counters.bad_tcp_header += 1;
            self.drop_flow(index);
        }
    }

    /// A segment without a flow and without data.
    pub(super) fn answer<D: Device>(
        &mut self,
        tuple: &Tuple,
        control: TcpControl,
        seq: u32,
        ack: Option<u32>,
        device: &mut D,
    ) {
        let repr = segment::bare((tuple.local.port, tuple.remote.port), control, seq, ack, 0);
        let (src, dst): (IpAddress, IpAddress) = (tuple.local.addr, tuple.remote.addr);
        let ip = IpRepr::new(src, dst, IpProtocol::Tcp, repr.buffer_len(), 64);
        // Whole, also for a device that would add the rest: it does so for packets of flows alone.
        let checksum = ChecksumCapabilities::default();
        let mut fill = |payload: &mut [u8]| {
            repr.emit(&mut TcpPacket::new_unchecked(payload), &src, &dst, &checksum);
        };
        let sent = self.link.send_ip(self.now, ip, &mut fill, &mut DeviceOut(device));
        self.counters.answer_no_room += u64::from(sent.is_err());
    }
}
