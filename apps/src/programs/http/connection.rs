//! One connection: requests in, answers out, as fast as the peer reads and no faster.
//!
//! ```text
//!            ┌──────────────── next request ◄───────────────┐
//!            ▼                                              │
//!   Reading (a head) ─► Sending (a body) ─► Discarding (the request's own body)
//!            │  error, `close`, end of stream ─► Closing (FIN sent; what still comes is thrown away)
//! ```
//!
//! Backpressure: a request is only taken when an answer's head fits into the send buffer, and of a body only what fits
//! is copied; the rest stays in the file. So requests that are pipelined wait in the receive buffer, and the window
//! holds the peer back.

use std::ops::Range;
use std::sync::Arc;

use super::answer::Answers;
use super::head::{MAX_ANSWER_BYTES, Status};
use super::request::{MAX_HEAD_BYTES, Parsed, parse};
use super::site::File;

/// How long a connection is kept after our side has ended: for the peer to read the answer and end its own. A reset,
/// which a close with unread bytes would cause, could destroy the answer on its way (RFC 9112 §9.6).
const LINGER_NS: u64 = 2_000_000_000;
/// Bytes thrown away in that time, at most.
const LINGER_BYTES: u64 = 1 << 20;
/// Heads that lie across the end of a receive buffer and are not complete, at most per core; 8 KiB each.
const MAX_CARRIED: usize = 256;

/// What a connection reads from and writes to: a connection of the stack, or a test's buffers.
pub trait Stream {
    /// Shows the longest run of received bytes that lies in one piece, and takes as many as `f` says.
    fn recv<R>(&mut self, f: impl FnOnce(&mut [u8]) -> (usize, R)) -> R;
    /// Copies received bytes out.
    fn recv_slice(&mut self, to: &mut [u8]) -> usize;
    /// Received bytes in all.
    fn recv_queue(&self) -> usize;
    /// Queues what fits.
    fn send_slice(&mut self, from: &[u8]) -> usize;
    /// How much fits.
    fn send_room(&self) -> usize;
    /// Whether the peer has ended its side, and all it sent was read.
    fn peer_finished(&self) -> bool;
    /// Ends our side, after what is queued.
    fn close(&mut self);
    /// Ends the connection at once.
    fn abort(&mut self);
}

/// A head, or several, copied out of a receive buffer because they lie across its end.
#[derive(Debug)]
struct Carried {
    bytes: Box<[u8; MAX_HEAD_BYTES]>,
    filled: Range<usize>,
}

/// What all connections of a core share.
#[derive(Debug)]
pub struct Shared {
    /// Where answers come from.
    pub answers: Answers,
    /// Connections ended because their peer was too slow.
    pub timeouts: u64,
    /// Longest time for a whole head, between requests, and without progress while sending.
    idle_ns: u64,
    carriers: Vec<Box<[u8; MAX_HEAD_BYTES]>>,
}

impl Shared {
    /// For connections that may be silent for `idle_ns`. Allocates all that they will need.
    #[must_use]
    pub fn new(answers: Answers, idle_ns: u64) -> Shared {
        let carriers = (0..MAX_CARRIED).map(|_| Box::new([0; MAX_HEAD_BYTES])).collect();
        Shared { answers, timeouts: 0, idle_ns, carriers }
    }
}

#[derive(Debug, Default)]
enum State {
    /// Waits for a whole head; `has_begun`: some bytes of it are there.
    Reading { has_begun: bool },
    /// Sends the rest of a body.
    Sending { file: Arc<File>, left: Range<usize>, discard: u64, closes: bool },
    /// Throws the body of a request away.
    Discarding { left: u64 },
    /// Ended our side.
    Closing { left: u64 },
    /// Nothing more to do.
    #[default]
    Ended,
}

/// A connection's state between two calls. 100 bytes; holds no buffer of its own but while a head lies across the end
/// of the receive buffer.
#[derive(Debug, Default)]
pub struct Connection {
    state: State,
    carried: Option<Carried>,
    deadline_ns: u64,
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(now_ns: u64, shared: &Shared) -> Connection {
        let state = State::Reading { has_begun: false };
        Connection { state, carried: None, deadline_ns: now_ns.saturating_add(shared.idle_ns) }
    }

    /// When the peer must have done something.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Goes on as far as bytes and room allow: at most one receive buffer of requests, one send buffer of answers.
    pub fn advance(&mut self, stream: &mut impl Stream, shared: &mut Shared, now_ns: u64) {
        loop {
            let goes_on = match &mut self.state {
                State::Reading { .. } => self.read(stream, shared, now_ns),
                State::Sending { file, left, discard, closes } => {
                    let sent = stream.send_slice(&file.body[left.clone()]);
                    left.start += sent;
                    if sent > 0 {
                        self.deadline_ns = now_ns.saturating_add(shared.idle_ns);
                    }
                    if left.start == left.end {
                        let (discard, closes) = (*discard, *closes);
                        self.finish(stream, shared, now_ns, discard, closes);
                    }
                    matches!(&self.state, State::Reading { .. } | State::Discarding { .. })
                }
                State::Discarding { left } => {
                    *left -= discard(&mut self.carried, stream, *left);
                    let is_over = *left == 0;
                    if is_over {
                        self.state = State::Reading { has_begun: false };
                    } else if stream.peer_finished() {
                        self.close(stream, shared, now_ns);
                    }
                    is_over
                }
                State::Closing { left } => {
                    *left -= discard(&mut self.carried, stream, *left);
                    if *left == 0 {
                        stream.abort();
                        self.state = State::Ended;
                    }
                    false
                }
                State::Ended => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// The deadline has passed: says so where that can be understood, and ends the connection.
    pub fn time_out(&mut self, stream: &mut impl Stream, shared: &mut Shared, now_ns: u64) {
        match self.state {
            State::Ended => return,
            State::Reading { has_begun: true } if stream.send_room() >= MAX_ANSWER_BYTES => {
                shared.answers.refuse(Status::RequestTimeout);
                stream.send_slice(shared.answers.head());
                self.close(stream, shared, now_ns);
            }
            // Between two requests: the usual end of a connection that was kept.
            State::Reading { has_begun: false } => return self.close(stream, shared, now_ns),
            _ => {
                stream.abort();
                self.state = State::Ended;
                self.put_back(shared);
            }
        }
        shared.timeouts += 1;
    }

    /// The connection is gone: gives back what it held.
    pub fn end(&mut self, shared: &mut Shared) {
        self.state = State::Ended;
        self.put_back(shared);
    }

    /// Takes one request, if there is a whole one, and begins its answer. Returns whether to go on.
    fn read(&mut self, stream: &mut impl Stream, shared: &mut Shared, now_ns: u64) -> bool {
        if stream.send_room() < MAX_ANSWER_BYTES {
            return false;
        }
        shared.answers.refresh(now_ns);
        let answers = &mut shared.answers;
        let mut take = |bytes: &[u8]| match parse(bytes) {
            Parsed::Whole(request) => (request.head_bytes, Some(answers.answer(&request))),
            Parsed::Refused(status) => (bytes.len(), Some(answers.refuse(status))),
            Parsed::Partial => (0, None),
        };
        let (shown, rest) = match &mut self.carried {
            Some(carried) => {
                carried.fill(stream);
                let (taken, rest) = take(&carried.bytes[carried.filled.clone()]);
                carried.filled.start += taken;
                (carried.filled.len(), rest)
            }
            None => stream.recv(|bytes| {
                let (taken, rest) = take(bytes);
                (taken, (bytes.len(), rest))
            }),
        };
        if self.carried.as_ref().is_some_and(|carried| carried.filled.is_empty()) {
            self.put_back(shared);
        }
        let Some(rest) = rest else { return self.wait(stream, shared, now_ns, shown) };
        stream.send_slice(shared.answers.head());
        match rest.body {
            Some((file, left)) => {
                let (discard, closes) = (rest.discard, rest.closes);
                self.deadline_ns = now_ns.saturating_add(shared.idle_ns);
                self.state = State::Sending { file, left, discard, closes };
                true
            }
            None => {
                self.finish(stream, shared, now_ns, rest.discard, rest.closes);
                matches!(&self.state, State::Reading { .. } | State::Discarding { .. })
            }
        }
    }

    /// No whole head among the `shown` bytes. Returns whether another look is worth it.
    fn wait(&mut self, stream: &mut impl Stream, shared: &mut Shared, now_ns: u64, shown: usize) -> bool {
        if self.carried.is_none() && stream.recv_queue() > shown {
            // The head goes on at the other end of the receive buffer.
            let Some(bytes) = shared.carriers.pop() else {
                shared.answers.refuse(Status::Unavailable);
                stream.send_slice(shared.answers.head());
                self.close(stream, shared, now_ns);
                return false;
            };
            self.carried = Some(Carried { bytes, filled: 0..0 });
            return true;
        }
        if stream.peer_finished() {
            self.close(stream, shared, now_ns);
            return false;
        }
        // The clock of a head starts with its first byte and is not put back by those that follow.
        if let State::Reading { has_begun } = &mut self.state
            && shown > 0
            && !std::mem::replace(has_begun, true)
        {
            self.deadline_ns = now_ns.saturating_add(shared.idle_ns);
        }
        false
    }

    /// An answer is queued to its end.
    fn finish(
        &mut self,
        stream: &mut impl Stream,
        shared: &mut Shared,
        now_ns: u64,
        discard: u64,
        closes: bool,
    ) {
        if closes {
            return self.close(stream, shared, now_ns);
        }
        self.deadline_ns = now_ns.saturating_add(shared.idle_ns);
        self.state = match discard {
            0 => State::Reading { has_begun: false },
            left => State::Discarding { left },
        };
    }

    /// Ends our side.
    fn close(&mut self, stream: &mut impl Stream, shared: &mut Shared, now_ns: u64) {
        self.put_back(shared);
        stream.close();
        self.deadline_ns = now_ns.saturating_add(LINGER_NS);
        let left = LINGER_BYTES - discard(&mut self.carried, stream, LINGER_BYTES);
        self.state = State::Closing { left };
    }

    fn put_back(&mut self, shared: &mut Shared) {
        shared.carriers.extend(self.carried.take().map(|carried| carried.bytes));
    }
}

impl Carried {
    /// Moves what is there to the front, and appends what fits.
    fn fill(&mut self, stream: &mut impl Stream) {
        if self.filled.start > 0 {
            let count = self.filled.len();
            self.bytes.copy_within(self.filled.clone(), 0);
            self.filled = 0..count;
        }
        loop {
            let count = stream.recv_slice(&mut self.bytes[self.filled.end..]);
            self.filled.end += count;
            if count == 0 {
                break;
            }
        }
    }
}

/// Throws away up to `most` received bytes, carried ones first; returns how many.
fn discard(carried: &mut Option<Carried>, stream: &mut impl Stream, most: u64) -> u64 {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut gone = 0;
    if let Some(carried) = carried {
        gone = carried.filled.len().min(most);
        carried.filled.start += gone;
    }
    while gone < most {
        let count = stream.recv(|bytes| {
            let count = bytes.len().min(most - gone);
            (count, count)
        });
        if count == 0 {
            break;
        }
        gone += count;
    }
    gone as u64
}

#[cfg(test)]
mod tests;
