//! The keeper: the thread that looks after the ports while the cores poll them.
//!
//! ```text
//!   Port::events, Port::link ──► keeper ──► log, history (Running::port_events)
//!                                   └─────► each core's news board ──► Program::port_event
//! ```
//!
//! It asks every port ten times a second. Ports are asked one after the other, each under its own lock, so that the
//! control thread can look at one while another is slow.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pmd::port::{LinkWatch, Port, PortEvent};

use crate::news::Board;

/// How often the ports are asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How many events are kept; the oldest go first.
const KEPT: usize = 1024;

/// Something that happened to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortNews {
    /// Index of the port in its engine.
    pub port: usize,
    /// Its port string.
    pub name: String,
    /// When it was noticed, since the engine started; at most a tenth of a second late.
    pub at: Duration,
    /// What.
    pub event: PortEvent,
}

/// An engine's ports, shared between its owner and its keeper.
pub(crate) type Shared = Arc<[Mutex<Box<dyn Port>>]>;

/// A port, while the keeper waits.
pub struct PortRef<'a>(MutexGuard<'a, Box<dyn Port>>);

impl Deref for PortRef<'_> {
    type Target = dyn Port;

    fn deref(&self) -> &Self::Target {
        &**self.0
    }
}

pub(crate) fn lock(port: &Mutex<Box<dyn Port>>) -> MutexGuard<'_, Box<dyn Port>> {
    // A port whose driver panicked is in no worse state than one whose device lies.
    port.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> From<MutexGuard<'a, Box<dyn Port>>> for PortRef<'a> {
    fn from(guard: MutexGuard<'a, Box<dyn Port>>) -> Self {
        Self(guard)
    }
}

/// The keeper's thread, and what it has noted.
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<VecDeque<PortNews>>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins to look after `ports`; what happens from now on is news, also for each of `boards`, whose cores' mbufs hold
    /// packets of `longest` bytes.
    pub(super) fn start(ports: Shared, boards: Vec<Board>, longest: u16) -> std::io::Result<Self> {
        let (stop, history) = (Arc::<AtomicBool>::default(), Arc::<Mutex<VecDeque<PortNews>>>::default());
        let watches = ports.iter().map(|port| LinkWatch::new(lock(port).link())).collect();
        let mut round = Round {
            started: Instant::now(),
            warned: vec![false; ports.len()],
            ports,
            boards,
            longest,
            watches,
            history: Arc::clone(&history),
        };
        let stopped = Arc::clone(&stop);
        let body = move || {
            // ORDERING: Relaxed. A flag on its own; joining the thread orders the rest.
            while !stopped.load(Ordering::Relaxed) {
                round.ask();
                thread::park_timeout(ASK_EVERY);
            }
            // What happened while everything was being stopped is not told: the engine did it.
        };
        let thread = thread::Builder::new().name("keeper".into()).spawn(body)?;
        Ok(Self { stop, history, thread: Some(thread) })
    }

    /// What has happened so far, oldest first; the last 1,024 events.
    pub(super) fn history(&self) -> Vec<PortNews> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Ends the thread; waits for the call that it is in.
    pub(super) fn stop(&mut self) {
        // ORDERING: as in the thread.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("the keeper of the ports panicked: a bug in a port's driver");
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread works with.
struct Round {
    started: Instant,
    ports: Shared,
    boards: Vec<Board>,
    /// The largest MTU that the cores are told.
    longest: u16,
    watches: Vec<LinkWatch>,
    /// Ports of which something bad was told last.
    warned: Vec<bool>,
    history: Arc<Mutex<VecDeque<PortNews>>>,
}

impl Round {
    /// Asks every port once.
    fn ask(&mut self) {
        for index in 0..self.ports.len() {
            let mut events = Vec::new();
            let mut port = lock(&self.ports[index]);
            port.events(&mut |event| events.push(event));
            let watch = &mut self.watches[index];
            events.iter().for_each(|event| watch.heard(event));
            events.extend(watch.look(port.link()));
            if events.is_empty() {
                continue;
            }
            let name = port.name().to_owned();
            drop(port);
            for event in events {
                self.tell(PortNews { port: index, name: name.clone(), at: self.started.elapsed(), event });
            }
        }
    }

    fn tell(&mut self, news: PortNews) {
        let warned = &mut self.warned[news.port];
        let is_bad = matches!(news.event, PortEvent::Gone { .. } | PortEvent::LinkDown);
        let is_good = matches!(news.event, PortEvent::Back | PortEvent::LinkUp);
        // Whoever was warned of the end of something wants to hear that it is over; a first link is no such matter.
        let level = if is_bad || (is_good && *warned) { log::Level::Warn } else { log::Level::Info };
        *warned = is_bad || (*warned && !is_good);
        log::log!(level, "{}: {}", news.name, news.event);
        let event = match &news.event {
            PortEvent::Mtu(mtu) => PortEvent::Mtu(self.longest.min(*mtu)),
            event => event.clone(),
        };
        self.boards.iter().for_each(|board| board.post(news.port, &event));
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == KEPT {
            history.pop_front();
        }
        history.push_back(news);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use pmd::port::{Link, Offloads, PortInfo, QueuePair};
    use pmd::virtio::transport::TransportError;

    use super::*;
    use crate::news::board;

    /// What the test wants a port to say.
    type Script = Arc<Mutex<(Link, VecDeque<PortEvent>)>>;

    struct Scripted(PortInfo, Script);

    impl Port for Scripted {
        fn name(&self) -> &str {
            "scripted:"
        }
        fn info(&self) -> &PortInfo {
            &self.0
        }
        fn link(&self) -> Link {
            self.1.lock().unwrap().0
        }
        fn events(&mut self, visit: &mut dyn FnMut(PortEvent)) {
            self.1.lock().unwrap().1.drain(..).for_each(visit);
        }
        fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
            Vec::new()
        }
        fn stop(&mut self) -> Result<(), TransportError> {
            Ok(())
        }
    }

    fn port(link: Link) -> (Mutex<Box<dyn Port>>, Script) {
        let script: Script = Arc::new(Mutex::new((link, VecDeque::new())));
        let info = PortInfo {
            driver: "test",
            mac: [2; 6],
            mtu: 1500,
            rx_descriptors: 1,
            tx_descriptors: 1,
            queue_pairs: 0,
            features: 0,
            offloads: Offloads::default(),
        };
        (Mutex::new(Box::new(Scripted(info, Arc::clone(&script)))), script)
    }

    fn wait_for(keeper: &Keeper, count: usize) -> Vec<PortNews> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while keeper.history().len() < count && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        keeper.history()
    }

    #[test]
    fn events_are_kept_in_order_and_told_to_every_core() {
        let ((first, _quiet), (second, script)) = (port(Link::Up), port(Link::Down));
        let (boards, mut news): (Vec<_>, Vec<_>) =
            [board(Arc::default()), board(Arc::default())].into_iter().unzip();
        let mut keeper = Keeper::start([first, second].into(), boards, 1300).unwrap();
        script.lock().unwrap().0 = Link::Up;
        assert_eq!(wait_for(&keeper, 1)[0].event, PortEvent::LinkUp);
        let gone = PortEvent::Gone { why: "unplugged".into() };
        {
            let mut script = script.lock().unwrap();
            script.0 = Link::Down;
            script.1 = [PortEvent::Mtu(1400), gone.clone()].into();
        }
        let history = wait_for(&keeper, 3);
        let told: Vec<_> = history.iter().map(|news| (news.port, news.event.clone())).collect();
        let expected = [(1, PortEvent::LinkUp), (1, PortEvent::Mtu(1400)), (1, gone)];
        assert_eq!(told, expected, "the link of a port that went is not told of as well");
        assert!(history.windows(2).all(|pair| pair[0].at <= pair[1].at) && history[0].name == "scripted:");
        let expected = expected.map(|(port, event)| match event {
            PortEvent::Mtu(_) => (port, PortEvent::Mtu(1300)), // what their mbufs hold
            event => (port, event),
        });
        for news in &mut news {
            let seen: Vec<_> = std::iter::from_fn(|| news.take()).collect();
            assert_eq!(seen, expected);
        }
        keeper.stop();
        script.lock().unwrap().1.push_back(PortEvent::Back);
        thread::sleep(2 * ASK_EVERY);
        assert_eq!(keeper.history().len(), 3, "it has stopped");
    }

    #[test]
    fn the_history_is_bounded() {
        let (port, script) = port(Link::Up);
        let mut keeper = Keeper::start([port].into(), Vec::new(), u16::MAX).unwrap();
        let many = u16::try_from(KEPT).unwrap() + 10;
        script.lock().unwrap().1 = (0..many).map(PortEvent::Mtu).collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_last = |news: &PortNews| news.event == PortEvent::Mtu(many - 1);
        while !keeper.history().last().is_some_and(is_last) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        keeper.stop();
        let history = keeper.history();
        assert_eq!((history.len(), &history[0].event), (KEPT, &PortEvent::Mtu(10)));
    }
}
