//! How smoltcp is made to send the first unacknowledged segment again, before its timer would.
//!
//! It does so upon three duplicate acknowledgements in a row, and upon nothing else. So it is given three, with what
//! the peer has acknowledged already and the window it has already announced: they tell it nothing but to resend. When
//! that is due, `recovery.rs` says.

use smoltcp::phy::{ChecksumCapabilities, Device};
use smoltcp::socket::tcp::State;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpPacket};

use super::zero_window;
use crate::core::Core;
use crate::flow::Flow;
use crate::segment::{self, number};

impl Core {
    /// A segment of the peer's, not yet given to smoltcp, shows a loss.
    #[cold]
    pub(super) fn hear_loss<D: Device>(&mut self, index: u32, tcp: &TcpPacket<&[u8]>, device: &mut D) {
        let sent = self.flows.peek(index).sent;
        let seq = if zero_window::concerns(tcp, sent) { sent.ack } else { number(tcp.seq_number()) };
        if self.resend(index, seq, number(tcp.ack_number()), tcp.window_len(), device) {
            self.counters.losses_heard += 1;
        }
    }

    /// Breaks a silence, if it has lasted long enough.
    #[inline]
    pub(super) fn probe<D: Device>(&mut self, index: u32, device: &mut D) {
        let now = self.now;
        let flow = self.flows.at(index);
        let Some((ack, window)) = flow.recovery.probe(now, flow.sent.seq_end) else { return };
        let (sent, heard) = (flow.sent, flow.heard);
        let mtu = self.interfaces.mtu(flow.interface);
        if !can_resend(self.flows.peek(index), ack, window, mtu) {
            return;
        }
        if self.resend(index, sent.ack, ack, window, device) {
            self.counters.loss_probes += 1;
        }
        // It was not the peer.
        self.flows.at(index).heard = heard;
    }

    /// Has the flow send the segment at `ack` again with its next egress; false if that cannot be. `seq` must be within
    /// our window, or nothing happens.
    fn resend<D: Device>(&mut self, index: u32, seq: u32, ack: u32, window: u16, device: &mut D) -> bool {
        if !self.config.loss_recovery {
            return false;
        }
        let mtu = self.interfaces.mtu(self.flows.peek(index).interface);
        // Another window first, so that smoltcp counts from 0; none is closed on the way.
        let other = if window > 1 { window - 1 } else { window + 1 };
        for (n, window_len) in [other, window, window, window, window].into_iter().enumerate() {
            let flow = self.flows.peek(index);
            // What is acknowledged leaves the queue with the first.
            let possible =
                if n == 0 { window > 0 && sends(flow) } else { can_resend(flow, ack, window, mtu) };
            if !possible {
                return false;
            }
            let tuple = flow.tuple;
            let ports = (tuple.remote.port, tuple.local.port);
            let repr = segment::bare(ports, TcpControl::None, seq, Some(ack), window_len);
            let (src, dst) = (tuple.remote.addr, tuple.local.addr);
            let ip = IpRepr::new(src, dst, IpProtocol::Tcp, repr.buffer_len(), 64);
            let (sums, mut packet) = (ChecksumCapabilities::default(), [0; zero_window::HEADERS]);
            let len = ip.buffer_len();
            ip.emit(&mut packet[..], &sums);
            let segment = &mut packet[ip.header_len()..len];
            repr.emit(&mut TcpPacket::new_unchecked(segment), &src, &dst, &sums);
            self.feed(index, &packet[..len], false, device);
        }
        self.flows.at(index).recovery.nudged();
        true
    }
}

fn sends(flow: &Flow) -> bool {
    matches!(
        flow.socket().state(),
        State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck
    )
}

/// Whether there is something to resend, and it is within the peer's window: smoltcp does not look at that.
fn can_resend(flow: &Flow, ack: u32, window: u16, mtu: usize) -> bool {
    let socket = flow.socket();
    let closing = !matches!(socket.state(), State::Established | State::CloseWait);
    // Without data smoltcp would forget its timer, and a lost FIN with it.
    let queued = socket.send_queue();
    if queued == 0 || !sends(flow) {
        return false;
    }
    // A whole segment, to the FIN or to bytes that were not sent before. What was, was within the window.
    let len = queued.min(mtu - 40);
    let end = len + usize::from(closing && len == queued);
    let out = flow.sent.seq_end.wrapping_sub(ack);
    end <= (out as usize).max(usize::from(window))
}
