//! What comes back: whose it is, whether it is whole, and how long it took.

use pmd::Mbuf;

use super::payload::{NotOurs, Payload, ticks_since};
use super::template;
use super::tracker::{Arrival, Tracker};

/// What a received frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first copy of a frame of this run, and how many ticks it was on its way.
    Returned {
        /// From its stamp to now.
        ticks: u64,
    },
    /// One more copy, or one too late to tell; the tracker counted it.
    Repeated,
    /// Of this run, but not as it was sent.
    Corrupted,
    /// Not of this run.
    Foreign,
}

/// Recognises frames of one run.
#[derive(Debug)]
pub struct Sink {
    run: u32,
    ports: usize,
    flows: usize,
    /// What frames carry behind their payload, as long as the longest.
    pattern: Vec<u8>,
    /// Frames that came back changed.
    corrupted: u64,
    /// Frames of others, or too short to tell.
    foreign: u64,
}

impl Sink {
    /// Recognises frames of `run`, sent on `ports` ports in `flows` flows each, of at most `longest_bytes`.
    pub fn new(run: u32, ports: usize, flows: usize, longest_bytes: usize) -> Self {
        Self { run, ports, flows, pattern: template::pattern(longest_bytes), corrupted: 0, foreign: 0 }
    }

    /// Frames of this run that came back changed. They are not counted as returned.
    pub fn corrupted(&self) -> u64 {
        self.corrupted
    }

    /// Frames that are not of this run.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Looks at one frame, received at `now`. Reads all of it once; any bytes are answered.
    #[inline]
    pub fn judge(&mut self, frame: &Mbuf, now: u64, tracker: &mut Tracker) -> Verdict {
        let Some(bytes) = template::payload_of(frame.data()) else {
            self.foreign += 1;
            return Verdict::Foreign;
        };
        let payload = match Payload::read(bytes, self.run) {
            Ok(payload) => payload,
            Err(NotOurs::Foreign) => {
                self.foreign += 1;
                return Verdict::Foreign;
            }
            Err(NotOurs::Corrupted) => return self.corrupt(),
        };
        let (port, flow) = (usize::from(payload.port), usize::from(payload.flow));
        let whole = template::is_intact(frame.segments().map(Mbuf::data), frame.pkt_len(), &self.pattern);
        if !whole || port >= self.ports || flow >= self.flows {
            return self.corrupt();
        }
        match tracker.arrived(port * self.flows + flow, payload.sequence) {
            Arrival::InOrder | Arrival::Reordered => {
                Verdict::Returned { ticks: ticks_since(payload.stamp, now) }
            }
            Arrival::Duplicate | Arrival::Late => Verdict::Repeated,
            // A right sum over a number that was never sent: made up, or altered with care.
            Arrival::Unsent => self.corrupt(),
        }
    }

    #[cold]
    fn corrupt(&mut self) -> Verdict {
        self.corrupted += 1;
        Verdict::Corrupted
    }
}
