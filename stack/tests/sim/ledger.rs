//! What the ends of all connections report, and what is expected of it.

use std::collections::BTreeMap;

use stack::{Closed, IpAddress, IpEndpoint, Time};

use crate::world::Witness;

/// Both ends of a connection, in an order that does not depend on who looks.
pub type Pair = (IpEndpoint, IpEndpoint);

pub fn pair(a: IpEndpoint, b: IpEndpoint) -> Pair {
    if a < b { (a, b) } else { (b, a) }
}

/// How one end of a connection ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub is_client: bool,
    /// Key of the connection's streams; none if the server never read it.
    pub key: Option<u64>,
    pub sent: u64,
    pub received: u64,
    pub why: Closed,
    /// All that was to be sent was, and all that was to come came.
    pub complete: bool,
}

/// How long a connection may stand still, by what the network did to it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A retransmission timeout with nothing lost: its floor, or what the round trip asks for.
    pub rto_ns: u64,
    /// What takes its time anyway: round trips, pauses of the application, queues.
    pub slack_ns: u64,
    /// How often the timeout may double with nothing lost: once for the wait itself, and for a FIN that overtakes what
    /// comes before it, which smoltcp drops. Each drop may need another.
    pub doublings: usize,
}

/// The last moments of a connection.
#[derive(Default)]
struct Progress {
    at_ns: u64,
    /// When frames of it were lost or damaged, within [`MEMORY_NS`].
    damaged_ns: Vec<u64>,
}

/// A sender that lost much goes on waiting long after the network got better: its timeout has grown.
const MEMORY_NS: u64 = 60_000_000_000;
/// RFC 6298 §2.5 allows for a bound; smoltcp's is 60 s on the flow's clock.
const MAX_RTO_NS: u64 = 60_000_000_000 / 5;

pub struct Ledger {
    patience: Patience,
    progress: BTreeMap<Pair, Progress>,
    /// When frames that are not TCP were: neighbour resolution holds everything up.
    others_ns: Vec<u64>,
    pub outcomes: Vec<Outcome>,
    /// Longest stand-still seen, in nanoseconds, and what was allowed then.
    pub worst: (u64, u64),
    pub damaged: u64,
}

impl Ledger {
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            progress: BTreeMap::new(),
            others_ns: Vec::new(),
            outcomes: Vec::new(),
            worst: (0, 0),
            damaged: 0,
        }
    }

    /// A connection begins.
    pub fn begin(&mut self, now: Time, pair: Pair) {
        self.progress.insert(pair, Progress { at_ns: now.ns(), damaged_ns: Vec::new() });
    }

    /// Something came through.
    pub fn advance(&mut self, now: Time, pair: Pair) {
        let others = self.others_ns.iter().filter(|&&at| at + MEMORY_NS > now.ns()).count() as u64;
        let Some(progress) = self.progress.get_mut(&pair) else { return };
        let gap_ns = now.ns() - progress.at_ns;
        progress.damaged_ns.retain(|at| at + MEMORY_NS > now.ns());
        let damaged = progress.damaged_ns.len();
        let doublings = (self.patience.doublings + damaged).min(16);
        // Each loss may double the wait; the sum of all waits is less than twice the last one.
        let waits_ns = (self.patience.rto_ns << doublings).min(4 * MAX_RTO_NS);
        let allowed_ns = self.patience.slack_ns + waits_ns + others * 3_000_000_000;
        assert!(
            gap_ns <= allowed_ns,
            "{pair:?} stood still for {} ms until {now:?}, with {damaged} frames damaged lately; allowed are {} ms",
            gap_ns / 1_000_000,
            allowed_ns / 1_000_000,
        );
        if gap_ns > self.worst.0 {
            self.worst = (gap_ns, allowed_ns);
        }
        progress.at_ns = now.ns();
    }

    /// Frames lost or damaged that were not TCP's.
    pub fn others(&self) -> usize {
        self.others_ns.len()
    }

    /// An end is closed.
    pub fn end(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }
}

/// So that a stand-still is measured against what the network did.
impl Witness for std::sync::Arc<std::sync::Mutex<Ledger>> {
    fn damaged(&mut self, now: Time, frame: &[u8]) {
        let mut ledger = self.lock().unwrap();
        ledger.damaged += 1;
        match tcp_pair(frame) {
            Some(pair) => {
                if let Some(progress) = ledger.progress.get_mut(&pair) {
                    progress.damaged_ns.push(now.ns());
                }
            }
            None => ledger.others_ns.push(now.ns()),
        }
    }
}

/// The ends of the connection that a frame of ours belongs to: such frames have no VLAN tag, options or extensions.
fn tcp_pair(frame: &[u8]) -> Option<Pair> {
    let be16 = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let (protocol, source, destination, ports) = match be16(12)? {
        0x0800 => {
            let address = |at: usize| {
                let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
                Some(IpAddress::Ipv4(octets.into()))
            };
            (frame[23], address(26)?, address(30)?, 34)
        }
        0x86dd => {
            let address = |at: usize| {
                let octets: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddress::Ipv6(octets.into()))
            };
            (frame[20], address(22)?, address(38)?, 54)
        }
        _ => return None,
    };
    if protocol != 6 {
        return None;
    }
    Some(pair(IpEndpoint::new(source, be16(ports)?), IpEndpoint::new(destination, be16(ports + 2)?)))
}
