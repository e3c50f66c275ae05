//! One frontend's session: what it has said so far, and what follows from it for the virtqueues.
//!
//! Every message (`messages.rs`) is checked against what came before it. Whatever is wrong ends the session with an
//! error that names it; nothing here trusts a length, an index, an address or a file descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use vhost::vhost_user::{Error as WireError, Result};
use vmm_sys_util::eventfd::EventFd;

use super::Status;
use super::received::{MappedTable, MemoryTableError};
use crate::virtio::attach::{Position, Publisher, Ring, RingError, Withdrawal};
use crate::virtio::ctrl::Command;
use crate::virtio::ctrl::serve::ControlServer;
use crate::virtio::server::{self, Steering};
use crate::virtio::spec::{feature, split};
use crate::virtio::transport::RingLayout;

/// How long a polling core may take to let a virtqueue go. A core that runs takes microseconds; a frontend waits for
/// our answer perhaps a second.
const RELEASE_WITHIN: Duration = Duration::from_millis(500);

/// What a frontend did wrong.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error("it spoke of virtqueue {queue}, there are {count}; it may want more queues than the port has")]
    NoSuchQueue { queue: u32, count: usize },
    #[error("it set virtqueue {queue} to {size} descriptors (up to {max} are possible)", max = split::MAX_SIZE)]
    RingSize { queue: usize, size: u32 },
    #[error("it set the base of virtqueue {queue} to {base:#x}, which is no place in a ring of its size")]
    RingBase { queue: usize, base: u32 },
    #[error("it accepted {}, which was not offered", feature::names(*bits))]
    NotOffered { bits: u64 },
    #[error("it accepted protocol features {bits:#x}, which were not offered")]
    ProtocolNotOffered { bits: u64 },
    #[error("it started virtqueue {queue} without {what}")]
    Incomplete { queue: usize, what: &'static str },
    #[error("it placed virtqueue {queue} at its address {user:#x}, which is not in the memory it shares")]
    AddressNotShared { queue: usize, user: u64 },
    #[error("it asked for {len} bytes of configuration at {offset}; there are {have}")]
    Config { offset: u32, len: u32, have: usize },
    #[error("the core that polls virtqueue {queue} has not let it go within {} ms", RELEASE_WITHIN.as_millis())]
    StillHeld { queue: usize },
    #[error("it sent part of a message, and not the rest within {} s", super::whole::REST_WITHIN.as_secs())]
    Unfinished,
    #[error(transparent)]
    Memory(#[from] MemoryTableError),
    #[error(transparent)]
    Ring(#[from] RingError),
}

impl From<SessionError> for WireError {
    fn from(error: SessionError) -> Self {
        WireError::ReqHandlerError(io::Error::other(error))
    }
}

/// One virtqueue as the frontend has described it so far.
#[derive(Debug, Default)]
pub(super) struct Vring {
    pub size: u16,
    pub addresses: Option<Addresses>,
    pub start: Start,
    pub kick: Option<Arc<EventFd>>,
    pub call: Option<Arc<EventFd>>,
    pub err: Option<Arc<EventFd>>,
    /// SET_VRING_KICK has come, and no GET_VRING_BASE since.
    pub started: bool,
    pub enabled: bool,
    /// The polling core has it, or will.
    published: bool,
}

/// As the frontend addresses its own memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

/// Where a virtqueue is to be taken up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Start {
    /// Where virtqueues begin.
    #[default]
    First,
    /// As the frontend says; how far the used ring of a split one has come stands in the ring.
    Base(u32),
    /// Where we have stopped ourselves.
    Left(Position),
}

/// A session with one frontend.
pub(super) struct Session {
    pub device: Arc<Device>,
    pub features: u64,
    /// Protocol features were negotiated.
    pub negotiates: bool,
    pub table: Option<MappedTable>,
    pub vrings: Vec<Vring>,
    control: Option<Control>,
}

/// The control queue, while the frontend wants it served.
struct Control {
    ring: Ring,
    server: ControlServer,
}

/// What outlives the sessions.
pub(super) struct Device {
    /// Feature bits offered.
    pub features: u64,
    /// Its configuration space.
    pub config: Vec<u8>,
    /// One for each virtqueue.
    pub publishers: Vec<Publisher>,
    pub steering: Arc<Steering>,
    pub status: Mutex<Status>,
    /// The port is being stopped: wait for nobody any more than once.
    pub stopping: AtomicBool,
}

impl Device {
    pub fn set_status(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

impl Session {
    pub fn new(device: Arc<Device>) -> Self {
        let control = usize::from(device.features & feature::CTRL_VQ != 0);
        let vrings = (0..device.publishers.len() + control).map(|_| Vring::default()).collect();
        device.steering.restart(false, false);
        let session = Self { device, features: 0, negotiates: false, table: None, vrings, control: None };
        session.show_status();
        session
    }

    pub(super) fn show_status(&self) {
        let rings = self.vrings.iter().filter(|vring| vring.published).count();
        self.device.set_status(Status { connected: true, rings, features: self.features });
    }

    pub(super) fn index(&self, queue: u32) -> std::result::Result<usize, SessionError> {
        let count = self.vrings.len();
        match usize::try_from(queue) {
            Ok(index) if index < count => Ok(index),
            _ => Err(SessionError::NoSuchQueue { queue, count }),
        }
    }

    /// Takes a virtqueue away from its core, for good or for a change.
    pub(super) fn pause(&mut self, index: usize) -> std::result::Result<(), SessionError> {
        let is_control = self.is_control(index);
        let vring = &mut self.vrings[index];
        if vring.published && is_control {
            // Served on this very thread.
            let control = self.control.take();
            vring.start = control.map_or(Start::First, |control| Start::Left(control.server.position()));
            vring.published = false;
        }
        if vring.published {
            if let (Ok(pair), 0) = (u16::try_from(index / 2), index % 2) {
                self.device.steering.enable(pair, false);
            }
            match self.device.publishers[index].withdraw(RELEASE_WITHIN) {
                Withdrawal::Released(left) | Withdrawal::Untouched(left) => vring.start = Start::Left(left),
                Withdrawal::Empty => {}
                Withdrawal::StillHeld => return Err(SessionError::StillHeld { queue: index }),
            }
            vring.published = false;
        }
        Ok(())
    }

    /// Gives a virtqueue to its core if the frontend wants it served.
    fn resume(&mut self, index: usize) -> std::result::Result<(), SessionError> {
        let enabled = self.vrings[index].enabled || self.features & feature::VHOST_USER_PROTOCOL == 0;
        if self.vrings[index].started && enabled {
            let ring = self.ring(index)?;
            if self.is_control(index) {
                self.control = Some(Control { server: ControlServer::new(&ring), ring });
            } else if let Some(publisher) = self.device.publishers.get(index) {
                publisher.publish(ring);
                if let (Ok(pair), 0) = (u16::try_from(index / 2), index % 2) {
                    self.device.steering.enable(pair, true);
                }
            } else {
                return Err(SessionError::NoSuchQueue {
                    queue: u32::try_from(index).unwrap_or(u32::MAX),
                    count: self.device.publishers.len(),
                });
            }
            self.vrings[index].published = true;
        }
        self.show_status();
        Ok(())
    }

    /// Whether this virtqueue is the control queue of what was negotiated.
    fn is_control(&self, index: usize) -> bool {
        let pairs = u16::try_from(self.device.publishers.len() / 2).unwrap_or(u16::MAX);
        server::control_queue(self.features, pairs).is_some_and(|queue| usize::from(queue) == index)
    }

    /// What becomes readable when there is something in the control queue.
    pub(super) fn control_kick(&self) -> Option<OwnedFd> {
        self.control.as_ref()?.ring.kick_fd()?.try_clone_to_owned().ok()
    }

    /// Serves the control queue.
    pub(super) fn obey(&mut self) {
        let Some(control) = &mut self.control else { return };
        control.ring.drain_kick();
        let (features, steering) = (self.features, &self.device.steering);
        let mut obey = |bytes: &[u8]| match Command::decode(bytes) {
            Ok(command) if command.needs() & !features == 0 => steering.obey(command),
            Ok(_) => false,
            Err(error) => {
                log::warn!("vhost-user frontend: {error}");
                false
            }
        };
        // A frontend that never stops asking is held up by its own messages only, which are looked at in between.
        control.server.serve(&mut obey);
    }

    fn ring(&self, index: usize) -> std::result::Result<Ring, SessionError> {
        let incomplete = |what| SessionError::Incomplete { queue: index, what };
        let vring = &self.vrings[index];
        if self.features & feature::VERSION_1 == 0 {
            return Err(incomplete("accepting VERSION_1: drivers older than virtio 1.0 are not supported"));
        }
        let table = self.table.as_ref().ok_or(incomplete("a memory table"))?;
        let addresses = vring.addresses.ok_or(incomplete("addresses"))?;
        if vring.size == 0 {
            return Err(incomplete("a size"));
        }
        let iova = |user| table.iova_of(user).ok_or(SessionError::AddressNotShared { queue: index, user });
        let layout = RingLayout {
            size: vring.size,
            packed: self.packed(),
            descriptors: iova(addresses.descriptors)?,
            available: iova(addresses.available)?,
            used: iova(addresses.used)?,
        };
        let queue = u16::try_from(index).map_err(|_| incomplete("a number that virtio has"))?;
        let mut ring = Ring::new(queue, &layout, Arc::clone(&table.memory))?;
        ring.features = self.features & !feature::VHOST_USER_PROTOCOL;
        ring.start = match vring.start {
            Start::Left(position) => position,
            // As if the frontend had said 0.
            Start::First if !ring.packed => Position { next_available: 0, next_used: ring.used_index() },
            Start::First => Position::first(true),
            Start::Base(base) => self.base_position(index, base, &ring)?,
        };
        ring.kick.clone_from(&vring.kick);
        ring.call.clone_from(&vring.call);
        ring.err.clone_from(&vring.err);
        Ok(ring)
    }

    fn base_position(
        &self,
        queue: usize,
        base: u32,
        ring: &Ring,
    ) -> std::result::Result<Position, SessionError> {
        let position = if ring.packed {
            Position::of_packed_base(base, ring.size)
        } else {
            let next_used = ring.used_index();
            u16::try_from(base).ok().map(|next_available| Position { next_available, next_used })
        };
        position.ok_or(SessionError::RingBase { queue, base })
    }

    pub(super) fn packed(&self) -> bool {
        self.features & feature::RING_PACKED != 0
    }

    /// Changes a virtqueue's description while nobody serves it.
    pub(super) fn change(
        &mut self,
        queue: u32,
        change: impl FnOnce(&mut Vring, usize) -> std::result::Result<(), SessionError>,
    ) -> Result<()> {
        let index = self.index(queue)?;
        self.pause(index)?;
        change(&mut self.vrings[index], index)?;
        Ok(self.resume(index)?)
    }

    /// Changes what all virtqueues rest on while nobody serves any.
    pub(super) fn change_all(
        &mut self,
        change: impl FnOnce(&mut Self) -> std::result::Result<(), SessionError>,
    ) -> Result<()> {
        for index in 0..self.vrings.len() {
            self.pause(index)?;
        }
        change(self)?;
        for index in 0..self.vrings.len() {
            self.resume(index)?;
        }
        Ok(())
    }

    pub(super) fn forget_vrings(&mut self) {
        self.vrings.iter_mut().for_each(|vring| *vring = Vring::default());
    }
}

impl Drop for Session {
    /// The frontend has left, or has to: its virtqueues stop. Only then may the connection be closed, which tells the
    /// frontend that its memory is its own again; so this waits for a core that is late, unless the port itself stops.
    fn drop(&mut self) {
        for index in 0..self.vrings.len() {
            let mut warned = false;
            while let Err(error) = self.pause(index) {
                if !std::mem::replace(&mut warned, true) {
                    log::warn!("vhost-user frontend is to leave, but {error}");
                }
                // ORDERING: Relaxed; a flag that carries nothing with it. Partner: `VhostUserServer::stop`.
                if self.device.stopping.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        self.device.set_status(Status::default());
    }
}
