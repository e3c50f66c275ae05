//! How an application calls its core: one queue a core, and at most one entry of each socket in it.
//!
//! | bell word | who sets it | meaning |
//! |---|---|---|
//! | `RUNG` | application, with the entry it pushes; core clears it when it answers | the socket has an entry in the queue |
//! | `CLOSED` | application, with its last ring | no ring comes after this one |
//!
//! As each socket holds one of the core's tokens, and brings at most its opening request and one ring, a queue of two
//! entries a token never overflows. The core frees a token when it answers a ring that says `CLOSED`: by then the socket's
//! last entry has left the queue, so that the next holder of the token starts with none.

use std::sync::Arc;

use crate::core_bell::{Caller, CoreBell};
use crate::request::Request;
use crate::sync::{ArrayQueue, AtomicU32, Ordering, fence};

#[cfg(loom)]
#[cfg(test)]
mod loom_tests;

const RUNG: u32 = 1;
const CLOSED: u32 = 2;

/// A socket's number at its core: below the core's limit of sockets.
pub type Token = u32;

/// What stands in the queue.
#[derive(Debug)]
pub enum Knock {
    /// The socket's bell.
    Rung(Token),
    /// The first of the socket.
    Opened(Request),
}

/// What a core and the applications share: the queue, and the tokens that are free.
#[derive(Debug)]
pub(crate) struct Desk {
    knocks: ArrayQueue<Knock>,
    tokens: ArrayQueue<Token>,
    /// 1 when the core has gone.
    stopped: AtomicU32,
    /// The core's, for when it sleeps.
    core: Arc<CoreBell>,
}

impl Desk {
    pub(crate) fn new(sockets: u32, core: Arc<CoreBell>) -> Self {
        let tokens = ArrayQueue::new(sockets as usize);
        for token in 0..sockets {
            let _ = tokens.push(token); // as many as there is room for
        }
        Self { knocks: ArrayQueue::new(2 * sockets as usize), tokens, stopped: AtomicU32::new(0), core }
    }

    /// A token that nobody else has.
    pub(crate) fn token(&self) -> Option<Token> {
        self.tokens.pop()
    }

    /// The core's: the token's last entry has left the queue.
    pub(crate) fn free(&self, token: Token) {
        let _ = self.tokens.push(token); // room for all there are
    }

    /// The core's.
    #[inline]
    pub(crate) fn next(&self) -> Option<Knock> {
        self.knocks.pop()
    }

    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.knocks.is_empty()
    }

    /// The core goes: whoever asked is answered, by the drop of what he asked for.
    pub(crate) fn stop(&self) {
        // ORDERING: Release, then SeqCst. Partner: `open`: either it sees the flag, or this pops what it pushed.
        self.stopped.store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        while self.knocks.pop().is_some() {}
    }

    pub(crate) fn is_stopped(&self) -> bool {
        // ORDERING: Acquire. Nothing is handed over with it but that the core writes no more. Partner: `stop`.
        self.stopped.load(Ordering::Acquire) != 0
    }

    /// Brings a request to the core; if that has gone, drops it, which answers it.
    pub(crate) fn open(&self, request: Request) {
        // The queue has room for all tokens; were it full all the same, dropping the request answers it.
        drop(self.knocks.push(Knock::Opened(request)));
        // ORDERING: SeqCst. Partners: `stop`, `CoreBell::arm`.
        fence(Ordering::SeqCst);
        self.core.ring_after_fence(Caller::Thread);
        if self.is_stopped() {
            while self.knocks.pop().is_some() {}
        }
    }
}

/// One socket's bell at its core's desk. The word it works on lies in the socket's memory.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    pub desk: Arc<Desk>,
    pub token: Token,
}

impl Bell {
    /// Calls the core, if it is not called already.
    #[inline]
    pub(crate) fn ring(&self, word: &AtomicU32) {
        self.set(word, RUNG);
    }

    /// Calls the core for the last time.
    pub(crate) fn close(&self, word: &AtomicU32) {
        self.set(word, RUNG | CLOSED);
    }

    #[inline]
    fn set(&self, word: &AtomicU32, bits: u32) {
        // ORDERING: AcqRel. What the application published is seen by the core that answers, also if the entry in the
        // queue is an older one: the core's clearing reads from this. Partner: `answer`.
        if word.fetch_or(bits, Ordering::AcqRel) & RUNG == 0 {
            // Cannot be full (see above), but for a word that a hostile application cleared: then its ring is lost.
            drop(self.desk.knocks.push(Knock::Rung(self.token)));
            self.desk.core.ring(Caller::Thread);
        }
    }
}

/// The core's side of a ring: from here on the socket may ring again. Returns whether it was the last time.
#[inline]
pub(crate) fn answer(word: &AtomicU32) -> bool {
    // ORDERING: AcqRel. Partner: `Bell::set`.
    word.fetch_and(!RUNG, Ordering::AcqRel) & CLOSED != 0
}
