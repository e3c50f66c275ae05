//! `bywash resolve`: names to addresses, asked of DNS servers by the stack itself.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use stack::{Closed, Conn, ConnId, IpAddress, Net, QueryId, RecordKind, ResolveError, Service};

use crate::cli::flags::seconds;

/// Most names of one call.
pub const MAX_NAMES: usize = 256;
/// Most addresses shown of one answer.
pub const MAX_ADDRESSES: usize = 16;
/// Questions under way at a time: one after the other would add up their waits, all at once exceed the stack's limit.
const AT_ONCE: usize = 4;

/// Flags of `bywash resolve`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Resolve")]
pub struct ResolveArgs {
    /// Names to ask for, 256 at most
    #[arg(value_name = "NAME", required = true, num_args = 1..=MAX_NAMES)]
    pub names: Vec<String>,

    /// Give up after so many seconds, the wait for DHCP included
    #[arg(short = 'W', long, value_name = "S", default_value = "15", value_parser = seconds)]
    pub wait: Duration,

    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// What follows the flags in `bywash resolve --help`.
pub const EXAMPLES: &str = "\
Asks for the IPv4 (A) and the IPv6 addresses (AAAA) of each name. A line for each address, `NAME ADDRESS`, on standard \
output; what went wrong on standard error.

Examples:
  bywash resolve example.org --port tap:bw0 --ip 10.0.0.2/24 --gateway 10.0.0.1 --dns 10.0.0.1
  bywash resolve a.example b.example --port vfio:0000:00:03.0 --dhcp --json

Exit code 1 also when a name has no address at all.";

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which name.
    pub name: usize,
    /// What was asked for.
    pub kind: RecordKind,
    /// What was found, or why nothing was.
    pub addresses: Result<ArrayVec<IpAddress, MAX_ADDRESSES>, ResolveError>,
}

/// Answers for the thread that prints: room for all there can be.
pub type Answers = Arc<ArrayQueue<Answer>>;

/// Room for the answers to all questions about `names` names.
#[must_use]
pub fn answers(names: usize) -> Answers {
    Arc::new(ArrayQueue::new(2 * names.max(1)))
}

/// The service.
#[derive(Debug)]
pub struct Resolve {
    names: Vec<String>,
    /// The next question: twice the name's index, and one more for AAAA.
    next: usize,
    asked: ArrayVec<(QueryId, usize, RecordKind), AT_ONCE>,
    is_configured: bool,
    answers: Answers,
    told: usize,
}

impl Resolve {
    /// A service that puts its answers into `answers` (see [`answers`]).
    #[must_use]
    pub fn new(names: Vec<String>, answers: Answers) -> Resolve {
        Resolve { names, next: 0, asked: ArrayVec::new(), is_configured: false, answers, told: 0 }
    }

    fn tell(&mut self, name: usize, kind: RecordKind, found: Result<&[IpAddress], ResolveError>) {
        let addresses = match found {
            Ok([]) => Err(ResolveError::NoAddress),
            Ok(found) => Ok(found.iter().copied().take(MAX_ADDRESSES).collect()),
            Err(error) => Err(error),
        };
        // There is room for every question's answer.
        let _ = self.answers.push(Answer { name, kind, addresses });
        self.told += 1;
    }
}

impl Service for Resolve {
    // Questions are asked by the stack's own sockets.
    fn accept(&mut self, _conn: &mut Conn<'_>) {}
    fn ready(&mut self, _conn: &mut Conn<'_>) {}
    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}

    fn configured(&mut self, _net: &mut Net<'_>) {
        self.is_configured = true;
    }

    fn resolved(&mut self, query: QueryId, answer: Result<&[IpAddress], ResolveError>, _net: &mut Net<'_>) {
        let Some(at) = self.asked.iter().position(|(id, ..)| *id == query) else { return };
        let (_, name, kind) = self.asked.swap_remove(at);
        self.tell(name, kind, answer);
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let mut has_asked = false;
        while self.is_configured && !self.asked.is_full() && self.next < 2 * self.names.len() {
            let (name, kind) =
                (self.next / 2, if self.next.is_multiple_of(2) { RecordKind::A } else { RecordKind::Aaaa });
            match net.resolve(&self.names[name], kind) {
                Ok(query) => self.asked.push((query, name, kind)),
                Err(ResolveError::TooMany(_)) if !self.asked.is_empty() => break,
                Err(error) => self.tell(name, kind, Err(error)),
            }
            self.next += 1;
            has_asked = true;
        }
        has_asked
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("asked", self.next as u64);
        visit("answered", self.told as u64);
    }

    fn is_done(&self) -> bool {
        self.told == 2 * self.names.len()
    }
}
