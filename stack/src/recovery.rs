//! When data of ours is taken for lost before smoltcp's timer says so.
//!
//! smoltcp resends upon the third duplicate acknowledgement in a row, and counts from 0 again whenever a segment has
//! data, or another window, in between. With data both ways that is nearly always, and so nearly every loss costs a
//! retransmission timeout. It also resends one segment only: of two that are lost in one flight the second waits for
//! the timer. This is the bookkeeping of a sender that does better:
//!
//! - duplicates are those of RFC 6675 §2 where the peer reports what it has (SACK), those of RFC 5681 §2 where it
//!   does not; segments with data in between change nothing;
//! - an acknowledgement that ends before what was sent when the loss was noticed shows the next loss (RFC 6582 §3.2,
//!   step 3);
//! - if several segments are out and nothing is heard for two round trips, the first of them goes out again
//!   (a probe, RFC 8985 §7): a loss at the end of a flight has no duplicates to show for it.
//!
//! How the resending is brought about, see `node/resend.rs`.

use std::time::Duration;

use smoltcp::wire::TcpPacket;

use crate::clock::{Time, ns};
use crate::flow::Sent;
use crate::segment::number;

/// Duplicates that mean loss, not reordering. RFC 5681 §3.2.
const DUPLICATES: u8 = 3;
/// No probe earlier: a peer's core may be busy elsewhere.
const MIN_PROBE: Duration = Duration::from_millis(10);
/// Probes without an answer; then the retransmission timer has its way.
const MAX_PROBES: u8 = 2;
/// Less than two full segments: a peer may take its time to acknowledge one (RFC 9293 §3.8.6.3).
const SEVERAL_BYTES: u32 = 1460 + 1;

/// What a segment of the peer's asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    /// The first unacknowledged segment is lost.
    Loss,
}

/// A flow's loss recovery. Sequence numbers are ours.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    /// Whether `una` is known.
    any: bool,
    /// Acknowledged up to here.
    una: u32,
    /// The window of the peer's last segment, as in the header.
    window: u16,
    duplicates: u8,
    probes: u8,
    /// Losses before `recover` are being repaired, one a round trip.
    repairing: bool,
    /// smoltcp's timer has fired, and it sends all again from `una`: duplicates before `recover` are answers to that.
    rewound: bool,
    /// What had been sent when the loss was noticed.
    recover: u32,
    /// Sent by us, not by the timer, since the last egress.
    nudged: bool,
    /// The sequence number that is being timed, and when it was sent.
    timed: Option<(u32, Time)>,
    srtt_ns: u64,
    /// When smoltcp last wanted to be called next: its timer, if it then resends.
    due: Option<Time>,
    /// When to probe.
    probe_at: Option<Time>,
}

impl Recovery {
    /// Takes note of a segment before smoltcp gets it. `sent` is what we sent last, `room` the size of our receive
    /// buffer: what lies beyond it is not the peer's (RFC 9293 §3.10.7.4, RFC 5961 §5), and is not heard.
    #[inline]
    pub fn hear(&mut self, tcp: &TcpPacket<&[u8]>, sent: Sent, room: usize, now: Time) -> Heard {
        if !tcp.ack() || tcp.rst() {
            return Heard::Nothing;
        }
        let ack = number(tcp.ack_number());
        if !self.any {
            // The handshake's end.
            if ack == sent.seq_end {
                (self.any, self.una, self.window) = (true, ack, tcp.window_len());
                self.sample(ack, now);
            }
            return Heard::Nothing;
        }
        let out = sent.seq_end.wrapping_sub(self.una);
        let news = ack.wrapping_sub(self.una);
        let ahead = number(tcp.seq_number()).wrapping_sub(sent.ack);
        if news > out || ahead as usize >= room || tcp.syn() {
            // Old, or of what was never sent.
            return Heard::Nothing;
        }
        let window = std::mem::replace(&mut self.window, tcp.window_len());
        match news {
            0 if out == 0 => Heard::Nothing,
            0 => self.hear_again(tcp, window, sent.seq_end),
            _ => self.advance(ack, now),
        }
    }

    fn sample(&mut self, ack: u32, now: Time) {
        if let Some((end, at)) = self.timed
            && !is_after(end, ack)
        {
            self.timed = None;
            let sample = ns(now.since(at)).max(1);
            // RFC 6298 §2.3, alpha = 1/8.
            self.srtt_ns = if self.srtt_ns == 0 { sample } else { self.srtt_ns / 8 * 7 + sample / 8 };
        }
    }

    fn advance(&mut self, ack: u32, now: Time) -> Heard {
        self.una = ack;
        (self.duplicates, self.probes, self.probe_at) = (0, 0, None);
        self.sample(ack, now);
        if !self.repairing && !self.rewound {
            return Heard::Nothing;
        }
        if is_after(self.recover, ack) {
            return if self.repairing { Heard::Loss } else { Heard::Nothing };
        }
        (self.repairing, self.rewound) = (false, false);
        Heard::Nothing
    }

    #[cold]
    fn hear_again(&mut self, tcp: &TcpPacket<&[u8]>, window: u16, sent_end: u32) -> Heard {
        let duplicate = match first_sacked(tcp) {
            // Behind what is acknowledged: the peer got something twice (RFC 2883 §4), no loss.
            Some(left) => is_after(left, self.una),
            None => tcp.segment_len() == 0 && tcp.window_len() == window && window != 0,
        };
        if !duplicate || self.repairing || self.rewound {
            return Heard::Nothing;
        }
        self.duplicates += 1;
        if self.duplicates < DUPLICATES {
            return Heard::Nothing;
        }
        self.repair(sent_end);
        Heard::Loss
    }

    fn repair(&mut self, sent_end: u32) {
        self.duplicates = 0;
        (self.repairing, self.recover) = (true, sent_end);
    }

    /// The first unacknowledged segment will be sent again, by us.
    pub fn nudged(&mut self) {
        self.nudged = true;
    }

    /// Whether it is time for a probe; says what to put in the answer that brings it about: acknowledgement, window.
    #[inline]
    pub fn probe(&mut self, now: Time, sent_end: u32) -> Option<(u32, u16)> {
        self.probe_at.take_if(|at| *at <= now)?;
        if self.window == 0 || !self.several(sent_end) {
            return None;
        }
        self.probes += 1;
        self.rewound = false;
        self.repair(sent_end);
        Some((self.una, self.window))
    }

    fn several(&self, sent_end: u32) -> bool {
        // A peer with a gap to fill acknowledges even a single segment at once (RFC 5681 §4.2).
        let least = if self.repairing { 1 } else { SEVERAL_BYTES };
        self.any && (least..1 << 31).contains(&sent_end.wrapping_sub(self.una))
    }

    /// After an egress from `before` to `sent_end`; `resent` says whether it sent anything again, `due` when smoltcp
    /// wants to be called next. Returns when to look again, for the probe.
    pub fn sent(
        &mut self,
        now: Time,
        before: u32,
        sent_end: u32,
        resent: bool,
        due: Option<Time>,
    ) -> Option<Time> {
        let was_due = std::mem::replace(&mut self.due, due);
        if resent {
            // It could not be told which of the two an acknowledgement is for (RFC 6298 §3, Karn).
            self.timed = None;
            if !std::mem::take(&mut self.nudged) {
                self.repair(sent_end);
                let by_timer = was_due.is_some_and(|at| at <= now);
                (self.repairing, self.rewound) = (!by_timer, by_timer);
            }
        } else if before != sent_end && self.timed.is_none() {
            self.timed = Some((sent_end, now));
        }
        if self.srtt_ns == 0 || self.probes >= MAX_PROBES || !self.several(sent_end) {
            self.probe_at = None;
        } else if self.probe_at.is_none() || resent || before != sent_end {
            let wait = Duration::from_nanos(self.srtt_ns.saturating_mul(2)).max(MIN_PROBE);
            self.probe_at = Some(now + wait * (1 << self.probes));
        }
        self.probe_at
    }
}

/// Where the first block of data begins that the peer reports to have. RFC 2018 §3.
fn first_sacked(tcp: &TcpPacket<&[u8]>) -> Option<u32> {
    tcp.options_summary().ok()?.sack_ranges[0].map(|(left, _)| left)
}

/// Whether `a` comes after `b`, in sequence numbers.
fn is_after(a: u32, b: u32) -> bool {
    (1..1 << 31).contains(&a.wrapping_sub(b))
}

#[cfg(test)]
mod tests;
