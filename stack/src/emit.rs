//! The two adapters of a device: frames of the link layer, and smoltcp's packets of one flow.

use std::num::NonZeroU16;

use smoltcp::phy::{Device, DeviceCapabilities, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, EthernetProtocol};

use crate::checksum::{fill_ipv4, fill_tcp, fill_tcp_pseudo_header};
use crate::flow::Sent;
use crate::interfaces::{Sums, TCP_HEADER, V4_HEADER, V6_HEADER, capabilities};
use crate::link::{FrameOut, Link};

/// Any device of smoltcp's.
pub(crate) struct DeviceOut<'d, D>(pub &'d mut D);

impl<D: Device> FrameOut for DeviceOut<'_, D> {
    fn room(&mut self) -> usize {
        usize::from(self.0.transmit(Instant::ZERO).is_some())
    }

    fn frame(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        match self.0.transmit(Instant::ZERO) {
            Some(token) => {
                token.consume(len, |frame| fill(frame));
                true
            }
            None => false,
        }
    }
}

/// What all packets of a flow get in this turn.
pub(crate) struct Envelope<'a> {
    pub link: &'a Link,
    pub next_hop: Option<EthernetAddress>,
    pub traffic_class: u8,
    pub mtu: usize,
    pub v6: bool,
    /// The largest segment that the peer takes, in bytes of data.
    pub peer_mss: u16,
    pub sums: Sums,
    pub sent: &'a mut Sent,
    /// Set when the device had no room for a packet.
    pub no_room: &'a mut bool,
}

/// smoltcp's device for one flow: holds at most one received packet, sends through `device`.
pub(crate) struct FlowDevice<'a, D> {
    pub device: &'a mut D,
    pub received: Option<&'a [u8]>,
    pub envelope: Envelope<'a>,
}

impl<'a, D: Device> Device for FlowDevice<'a, D> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = FlowTx<'t, 'a, D>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, FlowTx<'_, 'a, D>)> {
        let packet = self.received.take()?;
        // Most packets need no answer at once: a buffer is asked for only when one does.
        Some((Received(packet), FlowTx { place: Place::Later(self.device), envelope: &mut self.envelope }))
    }

    fn transmit(&mut self, now: Instant) -> Option<FlowTx<'_, 'a, D>> {
        match self.device.transmit(now) {
            Some(token) => Some(FlowTx { place: Place::Reserved(token), envelope: &mut self.envelope }),
            None => {
                *self.envelope.no_room = true;
                None
            }
        }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.envelope.mtu)
    }
}

pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

enum Place<'t, D: Device + 't> {
    Reserved(D::TxToken<'t>),
    Later(&'t mut D),
}

pub(crate) struct FlowTx<'t, 'a, D: Device + 't> {
    place: Place<'t, D>,
    envelope: &'t mut Envelope<'a>,
}

impl<'t, D: Device + 't> TxToken for FlowTx<'t, '_, D> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let envelope = self.envelope;
        let header = envelope.link.header_len();
        let token = match (self.place, envelope.next_hop) {
            (Place::Reserved(token), Some(_)) => Some(token),
            (Place::Later(device), Some(_)) => device.transmit(Instant::ZERO),
            (_, None) => None,
        };
        match token {
            Some(mut token) => {
                if !envelope.sums.tcp {
                    token.set_meta(envelope.meta());
                }
                token.consume(header + len, |frame| {
                    let result = f(&mut frame[header..]);
                    envelope.finish(frame);
                    result
                })
            }
            None => {
                // An immediate answer (duplicate or challenge acknowledgement, reset) without a buffer: lost, as it
                // might be on the wire. These have no payload: headers of 40 and 60 bytes at most.
                *envelope.no_room = true;
                let mut nowhere = [0; 128];
                f(&mut nowhere[..len.min(128)])
            }
        }
    }

    /// What smoltcp says of segments follows from an MTU that is not the real one; the envelope knows better.
    fn set_meta(&mut self, _meta: PacketMeta) {}
}

impl Envelope<'_> {
    /// The largest segment, in bytes of data: what the path and the peer take.
    fn mss(&self) -> u16 {
        let headers = if self.v6 { V6_HEADER } else { V4_HEADER } + TCP_HEADER;
        u16::try_from(self.mtu.saturating_sub(headers)).unwrap_or(u16::MAX).min(self.peer_mss)
    }

    /// Tells a device that sums and segments how large the segments may be. It tells it, too, that the sum is left to it:
    /// packets that do not come from a flow have neither.
    fn meta(&self) -> PacketMeta {
        let mut meta = PacketMeta::default();
        meta.segmentation_offload_size = NonZeroU16::new(self.mss());
        meta
    }

    /// Ethernet header, code point and sums of a frame whose IP packet is written; takes note of what it says.
    fn finish(&mut self, frame: &mut [u8]) {
        let packet = &mut frame[self.link.header_len()..];
        let class = self.traffic_class;
        let (ethertype, transport) = match packet[0] >> 4 {
            4 => {
                packet[1] = class;
                if let Some(header) = packet.first_chunk_mut()
                    && self.sums.ipv4
                {
                    fill_ipv4(header);
                }
                (EthernetProtocol::Ipv4, 20)
            }
            _ => {
                packet[0] = packet[0] & 0xf0 | class >> 4;
                packet[1] = packet[1] & 0x0f | class << 4;
                (EthernetProtocol::Ipv6, 40)
            }
        };
        if let Some((ip, tcp)) = packet.split_at_mut_checked(transport) {
            self.tcp(tcp);
            if self.sums.tcp {
                fill_tcp(ip, tcp);
            } else {
                self.announce_mss(tcp, ip.len());
                fill_tcp_pseudo_header(ip, tcp);
            }
        }
        if let Some(next_hop) = self.next_hop {
            self.link.write_header(frame, next_hop, ethertype);
        }
    }
}

impl Envelope<'_> {
    /// Corrects the MSS of a SYN, which smoltcp makes of an MTU that is not the real one when the device segments. It is the
    /// first option (RFC 9293 §3.7.1).
    fn announce_mss(&self, segment: &mut [u8], ip_header: usize) {
        const SYN: u8 = 2;
        const MSS: [u8; 2] = [2, 4];
        if let Some([flags, .., kind, len, high, low]) = segment.get_mut(13..24)
            && *flags & SYN != 0
            && [*kind, *len] == MSS
        {
            let real = self.mtu.saturating_sub(ip_header + TCP_HEADER);
            [*high, *low] = u16::try_from(real).unwrap_or(u16::MAX).to_be_bytes();
        }
    }

    /// Notes the sequence numbers of a segment. A pure acknowledgement gets the one after all that was ever sent, as
    /// RFC 9293 §3.10.7.4 has it (`SEQ=SND.NXT`): smoltcp goes back to the oldest unacknowledged one when it
    /// retransmits, and from there an acknowledgement is out of the peer's window. When both ends retransmit at once,
    /// neither would ever hear the other's acknowledgements.
    fn tcp(&mut self, segment: &mut [u8]) {
        const FIN_SYN_RST: u8 = 0b111;
        let len = segment.len();
        let Some(tcp) = segment.first_chunk_mut::<20>() else { return };
        let word =
            |tcp: &[u8; 20], at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        let payload = len.saturating_sub(usize::from(tcp[12] >> 4) * 4);
        let flags = tcp[13];
        let seq = word(tcp, 4);
        // SYN and FIN count as a byte each.
        let controls = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        let end = seq.wrapping_add(u32::try_from(payload).unwrap_or(0)).wrapping_add(controls);
        self.sent.ack = word(tcp, 8);
        self.sent.window = u16::from_be_bytes([tcp[14], tcp[15]]);
        let behind = self.sent.seq_end.wrapping_sub(end);
        // A byte that probes a closed window is not taken: an acknowledgement numbered behind it would not be either,
        // and what the peer has sent would wait until it opens its window.
        let probe = self.sent.window_closed && payload == 1;
        self.sent.resent += u32::from(payload > 0 && behind < 1 << 31 && self.sent.any);
        if !self.sent.any || behind == 0 || (behind >= 1 << 31 && !probe) {
            (self.sent.any, self.sent.seq_end) = (true, end);
        } else if payload == 0 && flags & FIN_SYN_RST == 0 {
            tcp[4..8].copy_from_slice(&self.sent.seq_end.to_be_bytes());
        }
    }
}
