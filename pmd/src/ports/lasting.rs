//! A port that outlives its device: when that goes, the port waits for it, opens it anew and goes on, while the cores
//! poll the same queue pairs all the time.
//!
//! ```text
//!            gone: stopped, taken from the cores        none of them holds it
//!   There ─────────────────────────────────────► Leaving ────────────────► Away ◄──┐ opened in vain: wait longer
//!     ▲                                                                      │     │
//!     └───────────────────────── handed to the cores ◄───────────────────────┴─────┘ a try: a thread of its own
//! ```
//!
//! All of this happens in [`Port::events`], which never waits: a try, which may take seconds where the other side does
//! not answer, has its thread. Tries are 0.1 s apart at first, then twice as far each time up to a second, each a little
//! more or less by chance, so that many ports do not come all at once; they never end.
//!
//! What the programs on the cores were told of the port holds on: a device that comes back with a smaller promise
//! (fewer queue pairs, less offload) is refused, which is an event with the reason. A port that waits for its first
//! device promises every offload that it may use, and its queue pairs say that they do none: what the device, when it is
//! there, does not do, is done in software. The virtqueues' format and size may
//! change. Their memory is always the same: a [part](Region::part) of the region, so that a thousand returns cost no
//! more than one.

#[allow(unsafe_code)] // a borrowed file descriptor
mod seat;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use crate::mem::{HomePool, Region};
use crate::port::{
    Arm, Burst, Link, Offloads, OpenError, Port, PortEvent, PortInfo, QueueCounters, QueueFault, QueuePair,
};
use crate::virtio::ctrl::{Command, ControlError};
use crate::virtio::transport::TransportError;
use seat::{Seat, Sitting, seat};

/// How long after the device went, and after the first try, the next one comes.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Counters of one kind of queue pair's own, at most.
const EXTRA: usize = 8;

/// How many different reasons for a refusal are told before the device is back.
const REASONS: usize = 8;

/// Opens the device, with its memory from the region it is given.
pub(crate) type Opener = Arc<dyn Fn(&Arc<Region>, &Terms) -> Result<Box<dyn Port>, OpenError> + Send + Sync>;

/// What a device that comes back must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The port's address, whatever the device says.
    pub mac: [u8; 6],
    /// How many queue pairs it must have.
    pub queue_pairs: u16,
    /// Virtio feature bits that it must not have: offloads that the programs were not told of.
    pub without: u64,
}

/// A port whose device may go and come.
pub(crate) struct LastingPort {
    text: String,
    info: PortInfo,
    state: State,
    seats: Vec<Seat>,
    pairs: Vec<Box<dyn QueuePair>>,
    /// `None` if it is not to come back.
    opener: Option<Opener>,
    /// The memory of the device's queues, whichever is there.
    part: Arc<Region>,
    /// What was asked of the device beyond its port string.
    configured: Vec<Command>,
    /// What every device must do; the others promised may be done in software.
    needed: Offloads,
    /// [`Terms::without`] of every device.
    without: u64,
}

enum State {
    There(Box<dyn Port>),
    /// The device has been stopped; the cores have been told.
    Leaving(Box<dyn Port>),
    Away(Away),
    /// It does not come back.
    Over,
}

/// While there is no device.
struct Away {
    wait: Duration,
    next: Instant,
    attempt: Option<JoinHandle<Result<Box<dyn Port>, OpenError>>>,
    /// Refusals that were told.
    told: VecDeque<String>,
}

impl Away {
    fn new() -> Self {
        Self { wait: FIRST_WAIT, next: Instant::now(), attempt: None, told: VecDeque::new() }
    }

    /// The next try is due after a wait, and the one after that later still.
    fn wait_more(&mut self) {
        self.next = Instant::now() + jittered(self.wait);
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
    }
}

/// Between three and five quarters of it, by chance.
fn jittered(wait: Duration) -> Duration {
    let chance = RandomState::new().hash_one(()) % 1024;
    wait * 3 / 4 + wait.mul_f64(f64::from(u16::try_from(chance).unwrap_or(0)) / 2048.0)
}

impl LastingPort {
    /// A port around a device that has been opened with its memory from `part`. Without `opener` it does not come back.
    ///
    /// # Errors
    /// Those of an eventfd.
    pub(crate) fn around(
        mut port: Box<dyn Port>,
        part: Arc<Region>,
        opener: Option<Opener>,
    ) -> std::io::Result<Self> {
        let pairs = port.take_queue_pairs().into_iter().map(Some).collect();
        let (info, needed) = (port.info().clone(), port.info().offloads);
        Self::with(port.name().to_owned(), info, State::There(port), pairs, (part, opener), needed)
    }

    /// A port whose device is still to come; until then it is taken to be like `info`.
    ///
    /// # Errors
    /// Those of an eventfd.
    pub(crate) fn waiting(
        text: String,
        info: PortInfo,
        part: Arc<Region>,
        opener: Opener,
    ) -> std::io::Result<Self> {
        let (pairs, needed) = ((0..info.queue_pairs).map(|_| None).collect(), Offloads::default());
        Self::with(text, info, State::Away(Away::new()), pairs, (part, Some(opener)), needed)
    }

    fn with(
        text: String,
        info: PortInfo,
        state: State,
        pairs: Vec<Option<Box<dyn QueuePair>>>,
        (part, opener): (Arc<Region>, Option<Opener>),
        needed: Offloads,
    ) -> std::io::Result<Self> {
        let mut seats = Vec::new();
        let mut lasting: Vec<Box<dyn QueuePair>> = Vec::new();
        for pair in pairs {
            let was_there = pair.is_some();
            let (seat, sitting) = seat(pair)?;
            seats.push(seat);
            lasting.push(Box::new(LastingPair::new(sitting, needed, was_there)));
        }
        let (pairs, configured, without) = (lasting, Vec::new(), Offloads::FEATURES & !info.features);
        Ok(Self { text, info, state, seats, pairs, opener, part, configured, needed, without })
    }

    /// The device has gone: stops what is left of it and takes the queue pairs back.
    fn leave(&mut self, mut port: Box<dyn Port>, why: String, visit: &mut dyn FnMut(PortEvent)) {
        let stopped = port.stop();
        self.seats.iter().for_each(|seat| seat.replace(None));
        match (stopped, &self.opener) {
            (Ok(()), Some(_)) => visit(PortEvent::Gone { why: format!("{why}; waiting for it") }),
            (Ok(()), None) => {
                visit(PortEvent::Gone { why });
                self.opener = None;
            }
            (Err(error), _) => {
                // It may still write to the memory that it was given: another must not use that.
                self.opener = None;
                visit(PortEvent::Gone { why: format!("{why}, and {error}; start again to use it") });
            }
        }
        self.state = State::Leaving(port);
    }

    /// Goes on trying.
    fn seek(&mut self, mut away: Away, visit: &mut dyn FnMut(PortEvent)) -> State {
        let Some(opener) = &self.opener else { return State::Over };
        match away.attempt.take() {
            Some(attempt) if attempt.is_finished() => match attempt.join() {
                Ok(Ok(port)) => match self.take_over(port) {
                    Ok(port) => {
                        visit(PortEvent::Back);
                        let mtu = port.info().mtu;
                        if mtu != std::mem::replace(&mut self.info.mtu, mtu) {
                            visit(PortEvent::Mtu(mtu));
                        }
                        return State::There(port);
                    }
                    Err(why) => {
                        tell(&mut away, why, visit);
                        away.wait_more();
                    }
                },
                Ok(Err(error)) => {
                    if is_refusal(&error) {
                        tell(&mut away, full_text(&error), visit);
                    } else {
                        log::debug!("{}: {}", self.text, full_text(&error));
                    }
                    away.wait_more();
                }
                Err(_) => {
                    log::error!("{}: opening it again panicked: a bug in its driver", self.text);
                    return State::Over;
                }
            },
            Some(attempt) => away.attempt = Some(attempt),
            None if Instant::now() >= away.next => {
                if !Region::reuse(&mut self.part) {
                    // A try that failed half way is about to let go of it.
                    away.wait_more();
                    return State::Away(away);
                }
                let (opener, part) = (Arc::clone(opener), Arc::clone(&self.part));
                let PortInfo { mac, queue_pairs, .. } = self.info;
                let terms = Terms { mac, queue_pairs, without: self.without };
                let body = move || opener(&part, &terms);
                match thread::Builder::new().name("reopen".into()).spawn(body) {
                    Ok(attempt) => away.attempt = Some(attempt),
                    Err(_) => away.wait_more(), // no thread to be had now
                }
            }
            None => {}
        }
        State::Away(away)
    }

    /// Hands a device that has come back to the cores, if it does what was promised of it.
    fn take_over(&mut self, mut port: Box<dyn Port>) -> Result<Box<dyn Port>, String> {
        let (was, is) = (&self.info, port.info().clone());
        if is.queue_pairs < was.queue_pairs {
            return Err(format!(
                "it is there again with {} queue pairs of the {} in use; give it as many as before, or start again",
                is.queue_pairs, was.queue_pairs
            ));
        }
        if !is.offloads.cover(self.needed) {
            return Err(
                "it is there again without offloads that are in use; let it offer them, or start again"
                    .to_owned(),
            );
        }
        for command in &self.configured {
            if let Err(error) = port.configure(command) {
                log::warn!("{}: after it came back, {error}", self.text);
            }
        }
        for (seat, pair) in self.seats.iter().zip(port.take_queue_pairs()) {
            seat.replace(Some(pair));
        }
        // A changed MTU is an event, so that comes after.
        let (offloads, mtu) = (was.offloads, was.mtu);
        self.info = PortInfo { mac: was.mac, queue_pairs: was.queue_pairs, offloads, mtu, ..is };
        Ok(port)
    }
}

/// Keeps what a device has to be asked again, in place of what that replaces.
fn remember(configured: &mut Vec<Command>, command: &Command) {
    use Command::{Announced, Receive, VlanAdd, VlanRemove};
    let replaces = |earlier: &Command| match (earlier, command) {
        (Receive(earlier, _), Receive(mode, _)) => earlier == mode,
        (VlanAdd(earlier) | VlanRemove(earlier), VlanAdd(vlan) | VlanRemove(vlan)) => earlier == vlan,
        _ => std::mem::discriminant(earlier) == std::mem::discriminant(command),
    };
    configured.retain(|earlier| !replaces(earlier));
    // A device starts without VLANs, and has not asked for an announcement.
    if !matches!(command, Announced | VlanRemove(_)) {
        configured.push(command.clone());
    }
}

/// Tells why a device that is there again is not used: each reason once.
fn tell(away: &mut Away, why: String, visit: &mut dyn FnMut(PortEvent)) {
    if away.told.len() < REASONS && !away.told.contains(&why) {
        away.told.push_back(why.clone());
        visit(PortEvent::Gone { why });
    }
}

/// Whether there is something that somebody has to change, other than to start the other side.
pub(crate) fn is_refusal(error: &OpenError) -> bool {
    use crate::virtio::InitError;
    use crate::virtio::transport::vhost_user::VhostUserError;
    match error {
        OpenError::VhostUser(error) => matches!(
            error,
            VhostUserError::NotASocket { .. }
                | VhostUserError::Permission { .. }
                | VhostUserError::Legacy { .. }
                | VhostUserError::QueuePairs { .. }
        ),
        OpenError::Xdp(error) => !error.may_pass(),
        OpenError::Init { source, .. } => !matches!(source, InitError::Transport { .. }),
        _ => false,
    }
}

/// An error with its causes.
fn full_text(error: &OpenError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Port for LastingPort {
    fn name(&self) -> &str {
        &self.text
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link(&self) -> Link {
        match &self.state {
            State::There(port) => port.link(),
            _ => Link::Down,
        }
    }

    fn events(&mut self, visit: &mut dyn FnMut(PortEvent)) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::There(mut port) => {
                let mut gone = None;
                port.events(&mut |event| match event {
                    PortEvent::Gone { why } => gone = Some(why),
                    other => visit(other),
                });
                match gone {
                    Some(why) => return self.leave(port, why, visit),
                    None => {
                        self.info.mtu = port.info().mtu;
                        State::There(port)
                    }
                }
            }
            State::Leaving(port) if self.seats.iter().any(Seat::is_held) => State::Leaving(port),
            State::Leaving(port) => {
                drop(port);
                State::Away(Away::new())
            }
            State::Away(away) => self.seek(away, visit),
            State::Over => State::Over,
        };
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        std::mem::take(&mut self.pairs)
    }

    /// As the trait says. What was asked for is asked for again of a device that comes back.
    fn configure(&mut self, command: &Command) -> Result<(), ControlError> {
        let State::There(port) = &mut self.state else {
            return Err(ControlError::NoControlQueue(command.what()));
        };
        port.configure(command)?;
        remember(&mut self.configured, command);
        Ok(())
    }

    /// As the trait says; waits for a try that is under way, whose other side may keep it for some seconds.
    fn stop(&mut self) -> Result<(), TransportError> {
        self.opener = None;
        match &mut self.state {
            State::There(port) | State::Leaving(port) => port.stop(),
            State::Away(away) => {
                if let Some(attempt) = away.attempt.take() {
                    // What it may have opened is stopped as it is dropped.
                    drop(attempt.join());
                }
                self.state = State::Over;
                Ok(())
            }
            State::Over => Ok(()),
        }
    }
}

impl Drop for LastingPort {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!("{}: {error}", self.text);
        }
    }
}

/// A queue pair of whichever device is there.
struct LastingPair {
    sitting: Sitting,
    /// What those before it counted.
    past: QueueCounters,
    past_extra: ArrayVec<(&'static str, u64), EXTRA>,
    offloads: Offloads,
    /// There was one before, if there is none now.
    was_there: bool,
}

impl LastingPair {
    fn new(sitting: Sitting, offloads: Offloads, was_there: bool) -> Self {
        Self { sitting, past: QueueCounters::default(), past_extra: ArrayVec::new(), offloads, was_there }
    }

    /// The queue pair to use in this burst.
    #[inline]
    fn attend(&mut self) -> Option<&mut Box<dyn QueuePair>> {
        if self.sitting.changed() {
            self.switch();
        }
        self.sitting.pair.as_mut()
    }

    #[cold]
    fn switch(&mut self) {
        let (past, extra) = (&mut self.past, &mut self.past_extra);
        self.sitting.switch(|old| {
            // Whatever it may have sent without saying so.
            let lost = old.tx_waiting() as u64;
            past.add(&old.counters());
            past.tx_lost += lost;
            // One that noticed by itself has counted it.
            let noticed = old.fault() == Some(QueueFault::InterfaceGone);
            past.faults += u64::from(!noticed);
            old.quiesce();
            old.extra_counters(&mut |name, count| match extra.iter_mut().find(|known| known.0 == name) {
                Some(known) => known.1 += count,
                None => {
                    let _ = extra.try_push((name, count)); // more names than there are
                }
            });
        });
        if let Some(pair) = &self.sitting.pair {
            (self.offloads, self.was_there) = (pair.offloads(), true);
        }
    }
}

impl QueuePair for LastingPair {
    #[inline]
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        self.attend().map_or(0, |pair| pair.rx_burst(pool, burst, budget))
    }

    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        self.attend().map_or(0, |pair| pair.tx_burst(burst))
    }

    fn tx_room(&mut self) -> usize {
        self.attend().map_or(0, |pair| pair.tx_room())
    }

    fn tx_room_urgent(&mut self) -> usize {
        self.attend().map_or(0, |pair| pair.tx_room_urgent())
    }

    fn tx_waiting(&mut self) -> usize {
        self.attend().map_or(0, |pair| pair.tx_waiting())
    }

    fn offloads(&self) -> Offloads {
        self.sitting.pair.as_ref().map_or(self.offloads, |pair| pair.offloads())
    }

    fn arm(&mut self) -> Arm {
        let arm = self.attend().map_or(Arm::Armed, |pair| pair.arm());
        // The second look: what is put here from now on rings the bell.
        if self.sitting.changed() { arm.and(Arm::Ready) } else { arm }
    }

    fn disarm(&mut self) {
        self.sitting.heard();
        if let Some(pair) = &mut self.sitting.pair {
            pair.disarm();
        }
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit(self.sitting.bell());
        if let Some(pair) = &self.sitting.pair {
            pair.wait_fds(visit);
        }
    }

    fn take_handed_on(&mut self) -> bool {
        self.sitting.pair.as_mut().is_some_and(|pair| pair.take_handed_on())
    }

    fn quiesce(&mut self) {
        if let Some(pair) = &mut self.sitting.pair {
            pair.quiesce();
        }
    }

    fn counters(&self) -> QueueCounters {
        let mut counters = self.past;
        if let Some(pair) = &self.sitting.pair {
            counters.add(&pair.counters());
        }
        counters
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let before = |name| self.past_extra.iter().find(|(known, _)| *known == name).map_or(0, |past| past.1);
        match &self.sitting.pair {
            Some(pair) => pair.extra_counters(&mut |name, count| visit(name, before(name) + count)),
            None => self.past_extra.iter().for_each(|(name, count)| visit(name, *count)),
        }
    }

    fn fault(&self) -> Option<QueueFault> {
        match &self.sitting.pair {
            Some(pair) => pair.fault(),
            None => self.was_there.then_some(QueueFault::DeviceGone),
        }
    }
}
