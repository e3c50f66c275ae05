//! The other end of a connection: a scripted one, which keeps no rules of its own.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    TcpTimestampRepr,
};

pub const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
pub const CLIENT: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
pub const SERVER_PORT: u16 = 7;
const FIRST_PORT: u16 = 20_000;
const MSS_BYTES: u16 = 1000;
const WINDOW_BYTES: u16 = 8000;
/// What is sent in order, less than a socket's buffer by more than a FIN.
const MOST_BYTES: u32 = 2000;

/// A segment to the server. Acknowledges all that came, unless it says something else.
#[derive(Clone, Debug)]
pub enum Segment {
    Syn,
    Ack,
    /// The next `len` bytes of the stream.
    Next {
        len: u32,
        fin: bool,
    },
    /// Bytes at an offset, whether or not they are due.
    At {
        offset: u32,
        len: u32,
    },
    Reset {
        in_window: bool,
    },
    /// Acknowledges bytes that were never sent.
    WildAck {
        ahead: u32,
    },
}

/// What the server has sent, without what depends on its first sequence number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub syn: bool,
    pub bytes: Vec<u8>,
    pub finished: bool,
    pub reset: bool,
}

pub struct Peer {
    conn: usize,
    /// Bytes of the stream sent by [`Segment::Next`].
    sent: u32,
    fin_sent: bool,
    server_start: Option<TcpSeqNumber>,
    seen: Seen,
}

/// The connection a client's port belongs to.
pub fn conn_of(port: u16) -> usize {
    usize::from(port - FIRST_PORT)
}

/// What the stream to the server carries at `offset`.
pub fn byte_up(conn: usize, offset: u32) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8)).to_le_bytes()[0] ^ u8::try_from(conn).unwrap()
}

/// And the one from it.
pub fn byte_down(conn: usize, offset: usize) -> u8 {
    !byte_up(conn, u32::try_from(offset).unwrap())
}

impl Peer {
    pub fn new(conn: usize) -> Self {
        Self { conn, sent: 0, fin_sent: false, server_start: None, seen: Seen::default() }
    }

    pub fn seen(&self) -> Seen {
        self.seen.clone()
    }

    fn port(&self) -> u16 {
        FIRST_PORT + u16::try_from(self.conn).unwrap()
    }

    fn start(&self) -> TcpSeqNumber {
        // Near the wrap of sequence numbers, each a little differently.
        TcpSeqNumber(-700 - 100 * i32::try_from(self.conn).unwrap())
    }

    /// The IPv4 packet of a segment; none before the server has said where it starts, except for a SYN.
    pub fn emit(&mut self, segment: &Segment) -> Option<Vec<u8>> {
        let next = self.start() + 1 + self.sent as usize + usize::from(self.fin_sent);
        let offset_of = |offset: u32| self.start() + 1 + offset as usize;
        let ack = self
            .server_start
            .map(|start| start + 1 + self.seen.bytes.len() + usize::from(self.seen.finished));
        let bytes = |offset: u32, len: u32| {
            (offset..offset + len).map(|at| byte_up(self.conn, at)).collect::<Vec<_>>()
        };
        let (control, seq, payload, ack) = match *segment {
            Segment::Syn => (TcpControl::Syn, self.start(), Vec::new(), None),
            Segment::Ack => (TcpControl::None, next, Vec::new(), Some(ack?)),
            Segment::Next { len, fin } => {
                let ack = ack?;
                // After its FIN a stream has no more bytes.
                // And within the window even if nothing is read: behind a closed one ours takes acknowledgements that
                // smoltcp ignores, on purpose (see `zero_window.rs`).
                let len = if self.fin_sent { 0 } else { len.min(MOST_BYTES - self.sent) };
                let fin = fin && !self.fin_sent;
                let payload = bytes(self.sent, len);
                let control = if fin {
                    TcpControl::Fin
                } else if len > 0 {
                    TcpControl::Psh
                } else {
                    TcpControl::None
                };
                self.sent += len;
                self.fin_sent |= fin;
                (control, next, payload, Some(ack))
            }
            Segment::At { offset, len } => {
                // Nothing beyond a FIN: what that means is nobody's business.
                let len = if self.fin_sent { len.min(self.sent.saturating_sub(offset)) } else { len };
                (TcpControl::None, offset_of(offset), bytes(offset, len), Some(ack?))
            }
            Segment::Reset { in_window } => {
                let seq = if in_window { next } else { next + 1_000_000 };
                (TcpControl::Rst, seq, Vec::new(), Some(ack?))
            }
            Segment::WildAck { ahead } => {
                (TcpControl::None, next, Vec::new(), Some(ack? + 5000 + ahead as usize))
            }
        };
        Some(self.packet(control, seq, ack, &payload))
    }

    fn packet(
        &self,
        control: TcpControl,
        seq: TcpSeqNumber,
        ack: Option<TcpSeqNumber>,
        payload: &[u8],
    ) -> Vec<u8> {
        let tcp = TcpRepr {
            src_port: self.port(),
            dst_port: SERVER_PORT,
            control,
            seq_number: seq,
            ack_number: ack,
            window_len: WINDOW_BYTES,
            window_scale: None,
            max_seg_size: (control == TcpControl::Syn).then_some(MSS_BYTES),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None::<TcpTimestampRepr>,
            payload,
        };
        let ip = Ipv4Repr {
            src_addr: CLIENT,
            dst_addr: SERVER,
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let checksums = ChecksumCapabilities::default();
        let mut packet = vec![0; ip.buffer_len() + tcp.buffer_len()];
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &checksums);
        tcp.emit(
            &mut TcpPacket::new_unchecked(&mut packet[ip.buffer_len()..]),
            &CLIENT.into(),
            &SERVER.into(),
            &checksums,
        );
        packet
    }

    /// Takes an IPv4 packet if it is for this connection; says whether it was.
    pub fn receive(&mut self, packet: &[u8]) -> bool {
        let ip = Ipv4Packet::new_checked(packet).unwrap();
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        if tcp.dst_port() != self.port() {
            return false;
        }
        assert!(ip.verify_checksum() && tcp.verify_checksum(&SERVER.into(), &CLIENT.into()));
        if tcp.rst() {
            self.seen.reset = true;
            return true;
        }
        if tcp.syn() {
            // A second SYN would belong to a second connection, which this peer does not follow.
            if self.server_start.is_none() {
                self.server_start = Some(tcp.seq_number());
                self.seen.syn = true;
            }
            return true;
        }
        let Some(start) = self.server_start else { return true };
        let have = self.seen.bytes.len();
        let Ok(offset) = usize::try_from(tcp.seq_number().0.wrapping_sub(start.0).wrapping_sub(1)) else {
            return true;
        };
        let payload = tcp.payload();
        for (at, &byte) in (offset..).zip(payload) {
            assert_eq!(byte, byte_down(self.conn, at), "byte {at} from the server");
            if at == self.seen.bytes.len() {
                self.seen.bytes.push(byte);
            }
        }
        if tcp.fin() && offset + payload.len() == self.seen.bytes.len().max(have) {
            self.seen.finished = true;
        }
        true
    }
}
