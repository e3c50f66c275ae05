//! What a core is told from outside: of its ports by the keeper, of captures by whoever captures. A board that the core
//! looks at once a turn.
//!
//! The look is one load of a line that nobody writes as long as there is no news; the lock is taken only when there
//! is. What a core does not fetch in time is bounded: the oldest news goes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use door::{Caller, CoreBell};
use pmd::port::PortEvent;

use crate::capture::Order;

/// How much news of ports waits for a core at most.
const WAITING: usize = 64;

#[derive(Debug)]
struct Shared {
    /// Counts what was posted.
    posted: AtomicU64,
    waiting: Mutex<Waiting>,
    /// The core's.
    bell: Arc<CoreBell>,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<(usize, PortEvent)>,
    /// Bounded by the number of captures: a beginning and an end each.
    orders: VecDeque<Order>,
}

/// The end of those who tell.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Shared>);

/// The core's end.
#[derive(Debug)]
pub(crate) struct News {
    seen: u64,
    shared: Arc<Shared>,
}

/// A board without news, for the core with this bell.
pub(crate) fn board(bell: Arc<CoreBell>) -> (Board, News) {
    let shared = Arc::new(Shared { posted: AtomicU64::new(0), waiting: Mutex::default(), bell });
    (Board(Arc::clone(&shared)), News { seen: 0, shared })
}

impl Board {
    /// Leaves word of something that happened to a port. Cold.
    pub(crate) fn post(&self, port: usize, event: &PortEvent) {
        self.leave(|waiting| {
            if waiting.events.len() == WAITING {
                waiting.events.pop_front();
            }
            waiting.events.push_back((port, event.clone()));
        });
    }

    /// Tells of a capture. Cold.
    pub(crate) fn order(&self, order: Order) {
        self.leave(|waiting| waiting.orders.push_back(order));
    }

    fn leave(&self, word: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        word(&mut waiting);
        // ORDERING: Relaxed. Only the hint that there is something to fetch under the mutex, which is held here.
        //           Partner: `News::is_there`.
        self.0.posted.fetch_add(1, Ordering::Relaxed);
        drop(waiting);
        self.0.bell.ring(Caller::Control);
    }
}

impl News {
    /// Whether to [`take`](Self::take).
    #[inline]
    pub(crate) fn is_there(&self) -> bool {
        // ORDERING: Relaxed. Seen a turn late, the news is as good; a core that goes to sleep looks again after it
        //           armed its bell, which is rung after the count. Partner: `Board::post`.
        self.shared.posted.load(Ordering::Relaxed) != self.seen
    }

    /// The oldest news not yet taken.
    #[cold]
    pub(crate) fn take(&mut self) -> Option<(usize, PortEvent)> {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.events.pop_front();
        if next.is_none() && waiting.orders.is_empty() {
            // ORDERING: Relaxed: changes only under the mutex, which is held here.
            self.seen = self.shared.posted.load(Ordering::Relaxed);
        }
        next
    }

    /// The oldest order not yet taken; to be asked for before [`take`](Self::take).
    #[cold]
    pub(crate) fn take_order(&mut self) -> Option<Order> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).orders.pop_front()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn news_is_taken_once_in_order_and_bounded() {
        let (board, mut news) = board(Arc::new(CoreBell::new()));
        assert!(!news.is_there());
        for mtu in 0..u16::try_from(WAITING).unwrap() + 2 {
            board.post(3, &PortEvent::Mtu(mtu));
        }
        assert!(news.is_there());
        let mut taken = Vec::new();
        while let Some((port, event)) = news.take() {
            assert_eq!(port, 3);
            taken.push(event);
        }
        assert!(!news.is_there());
        assert_eq!((taken.len(), &taken[0]), (WAITING, &PortEvent::Mtu(2)));
        board.post(0, &PortEvent::Back);
        assert!(news.is_there());
        assert_eq!(news.take(), Some((0, PortEvent::Back)));
    }
}
