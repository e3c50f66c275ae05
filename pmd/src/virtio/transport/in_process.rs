//! Both ends of a virtio device in one process: `loop:a` drives, `loop:b` serves. Real virtqueues, no NIC.
//!
//! ```text
//!   loop:a  NetPort ──► InProcess (Transport) ──┐
//!                                           Shared: status, features, one Publisher a queue
//!   loop:b  ServerPort ◄── Serving (control) ◄──┘        └──► Follower ──► the core that polls b
//! ```
//!
//! Either end may be opened first. Links live in a [`Hub`], by name; there is no global one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::{Interrupt, Notifier, RingLayout, Transport, TransportError};
use crate::mem::Region;
use crate::port::Link;
use crate::virtio::attach::{Follower, GuestMemory, Publisher, Ring, Withdrawal, hand_over};
use crate::virtio::server::{self, DeviceControl};
use crate::virtio::spec::{feature, net, split, status};

/// How long the polling core of the other end may take to let a queue go.
const LET_GO: Duration = Duration::from_secs(1);

/// The MTU the device states.
const MTU: u16 = 1500;

/// A receive and a transmit queue.
const QUEUES: u16 = 2;

/// The in-process links that ports can find each other in. Engines that share one can be linked.
#[derive(Clone, Debug, Default)]
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

impl Hub {
    fn link(&self, name: &str) -> Arc<Shared> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(name.to_owned()).or_default())
    }

    /// End `a`: a driver's transport whose device may use `region`.
    /// Its queues can wait for the other end if `interrupts`; without, nobody has to look whether they do.
    pub(crate) fn drive(
        &self,
        name: &str,
        region: &Arc<Region>,
        interrupts: bool,
    ) -> Result<InProcess, EndTaken> {
        let shared = self.link(name);
        let mut state = shared.lock();
        if std::mem::replace(&mut state.driven, true) {
            return Err(EndTaken { link: name.to_owned(), end: 'a' });
        }
        drop(state);
        let (memory, calls) = (Arc::new(GuestMemory::of_region(region)), Mutex::default());
        Ok(InProcess { shared, memory, interrupts, calls })
    }

    /// End `b`: the device, and its queues in order.
    pub(crate) fn serve(&self, name: &str) -> Result<(Serving, Vec<Follower>), EndTaken> {
        let shared = self.link(name);
        let mut state = shared.lock();
        if std::mem::replace(&mut state.served, true) {
            return Err(EndTaken { link: name.to_owned(), end: 'b' });
        }
        let (publishers, followers): (Vec<_>, Vec<_>) = (0..QUEUES).map(|_| hand_over()).unzip();
        state.publishers = publishers;
        state.publish();
        drop(state);
        Ok((Serving(shared), followers))
    }
}

/// What the two ends share; its lock is never taken by a core that polls.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    driven: bool,
    served: bool,
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
                    self.publishers[usize::from(queue)].publish(ring);
                }
                Err(error) => log::warn!("loop: {error}"),
            }
        }
    }

    fn withdraw(&mut self) -> Result<(), TransportError> {
        let held =
            self.publishers.iter().any(|publisher| publisher.withdraw(LET_GO) == Withdrawal::StillHeld);
        self.status = 0;
        self.features = 0;
        self.rings.clear();
        #[allow(clippy::cast_possible_truncation)] // one second
        let limit_ms = LET_GO.as_millis() as u64;
        if held { Err(TransportError::Timeout { what: "let its queues go", limit_ms }) } else { Ok(()) }
    }
}

/// End `a` of a link: what its driver talks to.
#[derive(Debug)]
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
        Ok(server::SUPPORTED | feature::MTU | feature::STATUS)
    }

    fn set_driver_features(&self, features: u64) -> Result<(), TransportError> {
        self.shared.lock().features = features;
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
        let mut config = [0; net::config::MTU + 2];
        let up = if self.shared.lock().served { net::STATUS_LINK_UP } else { 0 };
        config[net::config::STATUS..][..2].copy_from_slice(&up.to_le_bytes());
        config[net::config::MTU..][..2].copy_from_slice(&MTU.to_le_bytes());
        let field = config.get(offset..).and_then(|rest| rest.get(..bytes.len()));
        let field =
            field.ok_or_else(|| TransportError::Protocol(format!("no configuration field at {offset}")))?;
        bytes.copy_from_slice(field);
        Ok(())
    }

    fn queue_count(&self) -> Result<u16, TransportError> {
        Ok(QUEUES)
    }

    fn max_queue_size(&self, queue: u16) -> Result<u16, TransportError> {
        Ok(if queue < QUEUES { split::MAX_SIZE } else { 0 })
    }

    fn enable_queue(&self, queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError> {
        if queue >= QUEUES {
            return Err(TransportError::Queue { queue, size: layout.size, max: 0 });
        }
        let (kick, call) = (new_interrupt()?, self.call(queue)?);
        let notifier = Notifier::EventFd(Arc::clone(kick.event()));
        let (layout, memory) = (*layout, Arc::clone(&self.memory));
        let (kick, call) = (Arc::clone(kick.event()), call.map(|call| Arc::clone(call.event())));
        self.shared.lock().rings.push(Enabled { queue, layout, memory, kick, call });
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
    }
}

/// End `b` of a link: the device's control side.
#[derive(Debug)]
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
