//! What a listener's threads and its cores share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use crate::bell::Bell;
use crate::failure::Failure;
use crate::options::ListenOptions;
use crate::sync::{ArrayQueue, AtomicU32, FutexWord, Ordering};
use crate::tcp::Socket;
use crate::wake::Event;

/// How many sockets are kept ready, so that a core that accepts need not allocate.
const SPARES: usize = 64;

/// How many tasks may wait to accept from one listener without waking each other for nothing.
const TASKS: usize = 64;

#[derive(Debug)]
pub(crate) struct Acceptor {
    pub at: SocketAddr,
    pub options: ListenOptions,
    /// Connections nobody has accepted yet. Cores push, threads pop.
    pub queue: ArrayQueue<Box<Socket>>,
    /// Sockets nobody has connected yet. Threads push, cores pop.
    pub spares: ArrayQueue<Box<Socket>>,
    pub lanes: Box<[Lane]>,
    word: FutexWord,
    tasks: ArrayQueue<Waker>,
    /// 1 when the application has closed it.
    closed: AtomicU32,
}

/// The listener on one core.
#[derive(Debug)]
pub(crate) struct Lane {
    pub bell: Bell,
    /// The bell's word.
    pub word: AtomicU32,
    /// What the core said: 0 nothing yet, `LISTENS`, or a failure's code.
    answer: AtomicU32,
}

const LISTENS: u32 = 1 << 8;

impl Lane {
    pub(crate) fn new(bell: Bell) -> Self {
        Self { bell, word: AtomicU32::new(0), answer: AtomicU32::new(0) }
    }

    /// The core's.
    pub(crate) fn say(&self, answer: Result<(), Failure>) {
        let answer = answer.map_or_else(|failure| failure.code().into(), |()| LISTENS);
        // ORDERING: Release. Connections handed over before are found by who sees it. Partner: `answer`.
        self.answer.store(answer, Ordering::Release);
    }

    /// The application's.
    pub(crate) fn answer(&self) -> Option<Result<(), Failure>> {
        // ORDERING: Acquire. Partner: `say`.
        match self.answer.load(Ordering::Acquire) {
            0 => None,
            LISTENS => Some(Ok(())),
            code => Some(Err(u8::try_from(code).ok().and_then(Failure::from_code).unwrap_or(Failure::Lied))),
        }
    }
}

impl Acceptor {
    /// The sockets a new listener has ready, so that nothing is left to fail after its tokens were taken.
    pub(crate) fn spares(options: &ListenOptions) -> io::Result<Vec<Socket>> {
        (0..options.backlog.min(SPARES)).map(|_| Socket::new(&options.tcp)).collect()
    }

    pub(crate) fn new(at: SocketAddr, options: ListenOptions, ready: Vec<Socket>, bells: Vec<Bell>) -> Self {
        let spares = ArrayQueue::new(ready.len());
        ready.into_iter().for_each(|socket| drop(spares.push(Box::new(socket))));
        Self {
            at,
            options,
            queue: ArrayQueue::new(options.backlog),
            spares,
            lanes: bells.into_iter().map(Lane::new).collect(),
            word: FutexWord::new(),
            tasks: ArrayQueue::new(TASKS),
            closed: AtomicU32::new(0),
        }
    }

    pub(crate) fn add_spare(&self) -> io::Result<()> {
        drop(self.spares.push(Box::new(Socket::new(&self.options.tcp)?)));
        Ok(())
    }

    pub(crate) fn backlog(&self) -> usize {
        self.options.backlog
    }

    pub(crate) fn event(&self) -> Event<'_, ArrayQueue<Waker>> {
        Event { word: &self.word, tasks: &self.tasks }
    }

    pub(crate) fn is_closed(&self) -> bool {
        // ORDERING: Relaxed. A hint that saves work; what slips through is reset when the last side lets go.
        self.closed.load(Ordering::Relaxed) != 0
    }

    /// Whether all cores listen; `None` while some have not answered.
    pub(crate) fn opened(&self) -> Option<Result<(), Failure>> {
        let mut all = Some(Ok(()));
        for lane in &self.lanes {
            match lane.answer() {
                Some(Ok(())) => {}
                Some(Err(failure)) => return Some(Err(failure)),
                None => all = None,
            }
        }
        all
    }

    /// Connections that nobody accepts any more: reset them.
    fn reset_waiting(&self) {
        while let Some(socket) = self.queue.pop() {
            socket.abort();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.reset_waiting();
    }
}

/// The application's hold on a listener, shared by its handles: its drop closes the listener on all cores.
#[derive(Debug)]
pub(crate) struct Closer(pub Arc<Acceptor>);

impl Drop for Closer {
    fn drop(&mut self) {
        // ORDERING: Relaxed, see `is_closed`.
        self.0.closed.store(1, Ordering::Relaxed);
        for lane in &self.0.lanes {
            lane.bell.close(&lane.word);
        }
        self.0.reset_waiting();
    }
}
