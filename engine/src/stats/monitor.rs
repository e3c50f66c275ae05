//! One collector, read by its engine's owner and by whoever asks from outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Collector, CoreReport, Snapshot};

/// How long a snapshot waits for the loops: a turn is microseconds, a loop that was descheduled some milliseconds.
const TIMEOUT: Duration = Duration::from_millis(200);

/// How old what outsiders are shown may be. However many ask, the loops are asked a hundred times a second at most.
const FRESH: Duration = Duration::from_millis(10);

/// The readers wait for each other; the loops wait for none of them.
#[derive(Debug)]
pub(crate) struct Monitor(Mutex<State>);

#[derive(Debug)]
struct State {
    collector: Collector,
    looked: Option<(Instant, Arc<Snapshot>)>,
}

impl Monitor {
    pub(crate) fn new(collector: Collector) -> Self {
        Self(Mutex::new(State { collector, looked: None }))
    }

    /// For the owner, whose interval ends here. Waits at most 200 ms, and for another reader as long.
    pub(crate) fn collect(&self) -> Snapshot {
        self.lock().collector.collect(TIMEOUT)
    }

    /// For everybody else: without an interval, and up to 10 ms old. Waits as [`collect`](Self::collect) does.
    pub(crate) fn look(&self) -> Arc<Snapshot> {
        let mut state = self.lock();
        if let Some((at, snapshot)) = &state.looked
            && at.elapsed() < FRESH
        {
            return Arc::clone(snapshot);
        }
        let snapshot = Arc::new(state.collector.look(TIMEOUT));
        state.looked = Some((Instant::now(), Arc::clone(&snapshot)));
        snapshot
    }

    /// The last snapshot, of what the loops returned when they ended.
    pub(crate) fn finish(&self, last: Vec<Option<CoreReport>>) -> Snapshot {
        let mut state = self.lock();
        state.looked = None;
        state.collector.finish(last)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
