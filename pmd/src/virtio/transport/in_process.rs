//! Both ends of a virtio device in one process: `loop:a` drives, `loop:b` serves. Real virtqueues, no NIC.
//!
//! ```text
//!   loop:a  NetPort ──► InProcess (Transport) ──┐
//!                                           Shared: status, features, one Publisher a queue, Steering
//!   loop:b  ServerPort ◄── Serving (control) ◄──┘        └──► Follower ──► the core that polls b
//! ```
//!
//! Either end may be opened first: what it says of queue pairs then holds. The control queue is served in the driver's own
//! call, by whatever is there of the device: also before end `b` is opened. Links live in a [`Hub`], by name; there is no global one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::{Called, Interrupt, Notifier, RingLayout, Transport, TransportError};
use crate::mem::Region;
use crate::port::Link;
use crate::virtio::attach::{Follower, GuestMemory, Publisher, Ring, Withdrawal, hand_over};
use crate::virtio::ctrl::Command;
use crate::virtio::ctrl::serve::ControlServer;
use crate::virtio::server::{self, DeviceControl, Steering};
use crate::virtio::spec::{feature, net, split, status};

/// How long the polling core of the other end may take to let a queue go.
const LET_GO: Duration = Duration::from_secs(1);

/// The in-process links that ports can find each other in. Engines that share one can be linked.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<HashMap<String, Arc<Shared>>>>);

/// An end of a link that is open already.
#[derive(Debug, thiserror::Error)]
#[error("end {end} of link {link:?} is open already; another link needs another name, such as loop:x.{end}")]
pub struct EndTaken {
    /// Name of the link; the default one has none.
    pub link: String,
    /// `a` or `b`.
    pub end: char,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(links.keys()).finish()
    }
}

impl Hub {
    fn link(&self, name: &str) -> Arc<Shared> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(name.to_owned()).or_default())
    }

    /// Has the device ask its driver to announce itself, as a hypervisor does that has moved a guest.
    #[cfg(test)]
    pub(crate) fn ask_to_announce(&self, name: &str) {
        self.link(name).lock().announce = true;
    }

    /// Whether the device still asks.
    #[cfg(test)]
    pub(crate) fn asks_to_announce(&self, name: &str) -> bool {
        self.link(name).lock().announce
    }

    /// End `a`: a driver's transport whose device may use `region`.
    /// Its queues can wait for the other end if `interrupts`; without, nobody has to look whether they do. It wants `pairs`
    /// queue pairs, and has them if it comes first.
    pub(crate) fn drive(
        &self,
        name: &str,
        region: &Arc<Region>,
        pairs: u16,
        interrupts: bool,
    ) -> Result<InProcess, EndTaken> {
        let shared = self.link(name);
        let mut state = shared.lock();
        if std::mem::replace(&mut state.driven, true) {
            return Err(EndTaken { link: name.to_owned(), end: 'a' });
        }
        if !state.served {
            (state.pairs, state.steering) = (pairs, Some(Steering::new(pairs)));
        }
        drop(state);
        let (memory, calls) = (Arc::new(GuestMemory::of_region(region)), Mutex::default());
        Ok(InProcess { shared, memory, interrupts, calls })
    }

    /// End `b`: the device, and its queues in order; of `pairs` queue pairs, or as many as its driver, which came first,
    /// has set up.
    pub(crate) fn serve(&self, name: &str, pairs: u16) -> Result<Served, EndTaken> {
        let shared = self.link(name);
        let mut state = shared.lock();
        if std::mem::replace(&mut state.served, true) {
            return Err(EndTaken { link: name.to_owned(), end: 'b' });
        }
        let steering = match &state.steering {
            Some(steering) if state.driven => Arc::clone(steering),
            _ => {
                let steering = Steering::new(pairs);
                (state.pairs, state.steering) = (pairs, Some(Arc::clone(&steering)));
                steering
            }
        };
        let pairs = pairs.max(state.pairs);
        let (publishers, followers): (Vec<_>, Vec<_>) = (0..2 * pairs).map(|_| hand_over()).unzip();
        state.publishers = publishers;
        state.publish();
        drop(state);
        Ok(Served { serving: Serving(shared), followers, steering })
    }
}

/// A device that was opened.
pub(crate) struct Served {
    pub serving: Serving,
    /// Two for each queue pair.
    pub followers: Vec<Follower>,
    pub steering: Arc<Steering>,
}

/// What the two ends share; its lock is never taken by a core that polls.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    driven: bool,
    served: bool,
    /// Queue pairs that the driver sees.
    pairs: u16,
    steering: Option<Arc<Steering>>,
    control: Option<ControlServer>,
    /// The driver is asked to announce itself.
    announce: bool,
    status: u8,
    features: u64,
    /// The queues the driver has set up.
    rings: Vec<Enabled>,
    /// One for each queue while the device end is open.
    publishers: Vec<Publisher>,
}

/// A queue that the driver has set up.
#[derive(Debug)]
struct Enabled {
    queue: u16,
    layout: RingLayout,
    memory: Arc<GuestMemory>,
    kick: Arc<EventFd>,
    call: Option<Arc<EventFd>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_up(&self) -> bool {
        self.served && self.status & status::DRIVER_OK != 0
    }

    /// Shows the device end the driver's queues, once both are there.
    fn publish(&mut self) {
        if !self.is_up() {
            return;
        }
        for Enabled { queue, layout, memory, kick, call } in self.rings.drain(..) {
            match Ring::new(queue, &layout, memory) {
                Ok(mut ring) => {
                    ring.features = self.features;
                    (ring.kick, ring.call) = (Some(kick), call);
                    let Some(publisher) = self.publishers.get(usize::from(queue)) else { continue };
                    publisher.publish(ring);
                    if let (Some(steering), 0) = (&self.steering, queue % 2) {
                        steering.enable(queue / 2, true);
                    }
                }
                Err(error) => log::warn!("loop: {error}"),
            }
        }
    }

    /// Serves the control queue, if there is one.
    fn obey(&mut self) {
        let Some((control, steering)) = self.control.as_mut().zip(self.steering.as_ref()) else { return };
        let (features, announce) = (self.features, &mut self.announce);
        let mut obey = |bytes: &[u8]| match Command::decode(bytes) {
            Ok(command) if command.needs() & !features == 0 => {
                *announce &= command != Command::Announced;
                steering.obey(command)
            }
            Ok(_) => false,
            Err(error) => {
                log::warn!("loop: {error}");
                false
            }
        };
        while control.serve(&mut obey) {}
    }

    fn withdraw(&mut self) -> Result<(), TransportError> {
        let held =
            self.publishers.iter().any(|publisher| publisher.withdraw(LET_GO) == Withdrawal::StillHeld);
        self.status = 0;
        self.features = 0;
        self.rings.clear();
        self.control = None;
        self.announce = false;
        if let Some(steering) = &self.steering {
            (0..self.pairs).for_each(|pair| steering.enable(pair, false));
        }
        #[allow(clippy::cast_possible_truncation)] // one second
        let limit_ms = LET_GO.as_millis() as u64;
        if held { Err(TransportError::Timeout { what: "let its queues go", limit_ms }) } else { Ok(()) }
    }
}

/// End `a` of a link: what its driver talks to.
pub(crate) struct InProcess {
    shared: Arc<Shared>,
    memory: Arc<GuestMemory>,
    /// Whether receive queues are to have one of the following.
    interrupts: bool,
    /// Of the queues that were enabled.
    calls: Mutex<HashMap<u16, Interrupt>>,
}

impl InProcess {
    fn call(&self, queue: u16) -> Result<Option<Interrupt>, TransportError> {
        // Nobody waits for what was sent to be used.
        if !self.interrupts || !queue.is_multiple_of(2) {
            return Ok(None);
        }
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(match calls.entry(queue) {
            Entry::Occupied(call) => call.get().clone(),
            Entry::Vacant(place) => place.insert(new_interrupt()?).clone(),
        }))
    }
}

fn new_interrupt() -> Result<Interrupt, TransportError> {
    Interrupt::new().map_err(|source| TransportError::Io { what: "make an eventfd", source })
}

impl Transport for InProcess {
    fn device_features(&self) -> Result<u64, TransportError> {
        let several = if self.shared.lock().pairs > 1 { server::SEVERAL } else { 0 };
        let states = feature::MTU | feature::STATUS | feature::SPEED_DUPLEX | feature::GUEST_ANNOUNCE;
        Ok(server::SUPPORTED | server::CONTROL | several | states)
    }

    fn set_driver_features(&self, features: u64) -> Result<(), TransportError> {
        let mut state = self.shared.lock();
        state.features = features;
        if let Some(steering) = &state.steering {
            steering.restart(features & server::SEVERAL != 0, features & feature::CTRL_VLAN != 0);
        }
        Ok(())
    }

    fn status(&self) -> Result<u8, TransportError> {
        Ok(self.shared.lock().status)
    }

    fn set_status(&self, status: u8) -> Result<(), TransportError> {
        let mut state = self.shared.lock();
        state.status |= status;
        state.publish();
        Ok(())
    }

    fn reset(&self) -> Result<(), TransportError> {
        self.shared.lock().withdraw()
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TransportError> {
        let state = self.shared.lock();
        let up = if state.served { net::STATUS_LINK_UP } else { 0 };
        let announce = if state.announce { net::STATUS_ANNOUNCE } else { 0 };
        let config = server::config_space(state.pairs, up | announce);
        let field = config.get(offset..).and_then(|rest| rest.get(..bytes.len()));
        let field =
            field.ok_or_else(|| TransportError::Protocol(format!("no configuration field at {offset}")))?;
        bytes.copy_from_slice(field);
        Ok(())
    }

    fn queue_count(&self) -> Result<u16, TransportError> {
        Ok(2 * self.shared.lock().pairs + 1)
    }

    fn max_queue_size(&self, queue: u16) -> Result<u16, TransportError> {
        Ok(if queue < self.queue_count()? { split::MAX_SIZE } else { 0 })
    }

    fn enable_queue(&self, queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError> {
        let mut state = self.shared.lock();
        if server::control_queue(state.features, state.pairs) == Some(queue) {
            let ring = Ring::new(queue, layout, Arc::clone(&self.memory))
                .map_err(|error| TransportError::Protocol(error.to_string()))?;
            state.control = Some(ControlServer::new(&ring));
            let shared = Arc::clone(&self.shared);
            return Ok(Notifier::Call(Called(Box::new(move || shared.lock().obey()))));
        }
        if queue >= 2 * state.pairs {
            return Err(TransportError::Queue { queue, size: layout.size, max: 0 });
        }
        let (kick, call) = (new_interrupt()?, self.call(queue)?);
        let notifier = Notifier::EventFd(Arc::clone(kick.event()));
        let (layout, memory) = (*layout, Arc::clone(&self.memory));
        let (kick, call) = (Arc::clone(kick.event()), call.map(|call| Arc::clone(call.event())));
        state.rings.push(Enabled { queue, layout, memory, kick, call });
        Ok(notifier)
    }

    fn interrupt(&self, queue: u16) -> Option<Interrupt> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(&queue).cloned()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Err(error) = state.withdraw() {
            log::warn!("loop: {error}");
        }
        state.driven = false;
        // Whoever drives next has as many queue pairs as there are.
        if !state.served {
            state.steering = None;
        }
    }
}

/// End `b` of a link: the device's control side.
pub(crate) struct Serving(Arc<Shared>);

impl DeviceControl for Serving {
    fn link(&self) -> Link {
        if self.0.lock().is_up() { Link::Up } else { Link::Down }
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        let mut state = self.0.lock();
        state.served = false;
        state.publishers.clear(); // takes the queues back; the memory stays mapped as long as a core holds one
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Cannot fail; a late core keeps the memory it uses alive.
        let _ = self.stop();
    }
}
