//! Ports: the cold side (open, info, link, close) and the hot side (bursts in, bursts out).

mod counters;
mod event;
mod fault;
mod idle;
mod lasting;
mod offloads;
mod open;
mod spec;

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use crate::mem::{HomePool, Mbuf};
pub use crate::ports::pcap::PcapError;
pub use crate::ports::tap::TapError;
pub use crate::ports::xdp::XdpError;
pub use crate::virtio::ctrl::{Command, CommandError, ControlError, Mac, ReceiveMode};
pub use crate::virtio::rss::{HashConfig, RssConfig};
use crate::virtio::transport::TransportError;
pub use crate::virtio::transport::in_process::Hub;
pub use counters::QueueCounters;
pub use event::{LinkWatch, PortEvent};
pub use fault::QueueFault;
pub use idle::Arm;
pub use offloads::Offloads;
pub use open::{OpenConfig, OpenError, open, region_bytes};
pub use spec::{PortSpec, SpecError};

/// The most packets one call moves: NAPI's weight.
pub const MAX_BURST: usize = 64;

/// Packets on their way, in order. Lives on the loop's stack or in its state; never allocates.
pub type Burst = ArrayVec<Mbuf, MAX_BURST>;

/// A network device, as the control thread sees it. All calls may block, allocate and make syscalls.
pub trait Port: Send {
    /// The port string it was opened with.
    fn name(&self) -> &str;

    /// What it is; fixed while it is open, unless [`events`](Self::events) tells otherwise.
    fn info(&self) -> &PortInfo;

    /// Whether frames can pass, as of now.
    fn link(&self) -> Link;

    /// Shows what has happened since the last call: to be asked some ten times a second. A change of
    /// [`link`](Self::link) need not be among it; whoever asks for events asks for that as well ([`LinkWatch`]).
    ///
    /// Waits for nothing but the queue pairs' cores to let go of a device that is going away, at most a second.
    fn events(&mut self, _visit: &mut dyn FnMut(PortEvent)) {}

    /// Whether frames can still come: a capture has an end.
    fn input(&self) -> Input {
        Input::Endless
    }

    /// The queue pairs, each to be polled by one core. They can be taken once; later calls return none.
    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>>;

    /// Asks the device to change how it receives, or deals to its queue pairs, and waits for its answer: at most a
    /// second.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then, unless it is a timeout.
    fn configure(&mut self, command: &Command) -> Result<(), ControlError> {
        Err(ControlError::NoControlQueue(command.what()))
    }

    /// Stops the device. Afterwards it touches no memory of ours and the queue pairs move nothing.
    /// Idempotent; dropping the port does the same.
    ///
    /// # Errors
    /// [`TransportError`] when the device cannot be made to stop; its memory is then kept, not reused.
    fn stop(&mut self) -> Result<(), TransportError>;
}

/// A receive and a transmit queue, polled by one core. No call blocks, allocates, locks or logs.
pub trait QueuePair: Send {
    /// Receives at most `budget` frames and at most what `burst` has room for, appended in order of arrival;
    /// refills the receive queue from `pool`, also when nothing came. Returns how many it appended.
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize;

    /// Sends frames from the front of `burst` until the transmit queue is full; what is left in `burst` was
    /// not sent. One notification at most. Returns how many it took.
    fn tx_burst(&mut self, burst: &mut Burst) -> usize;

    /// How many single-segment frames `tx_burst` would take now; of more than four bursts it need not say how many.
    fn tx_room(&mut self) -> usize;

    /// As [`tx_room`](Self::tx_room), where all of them are urgent: a queue pair that sends these first may keep room
    /// for them.
    fn tx_room_urgent(&mut self) -> usize {
        self.tx_room()
    }

    /// How many descriptors of the transmit queue are taken: what one more frame would wait for. 0 where frames are
    /// handed over at once.
    fn tx_waiting(&mut self) -> usize {
        0
    }

    /// What the port does itself with frames that are sent by this queue pair now. A frame that needs more is completed
    /// in software (its checksum) or dropped and counted (`tx_errors`; segmentation is for who knows the protocol). A
    /// device side has what its driver of the moment takes.
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    /// The core stops polling: gives back whatever belongs to the other side, so that this can stop or reset without
    /// waiting for us. Afterwards bursts move nothing. Cold.
    fn quiesce(&mut self);

    /// Counts since the queue pair was made.
    fn counters(&self) -> QueueCounters;

    /// Shows what this kind of queue pair counts beyond [`counters`](Self::counters), as totals: DPDK's xstats.
    fn extra_counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}

    /// Why the queue pair stopped moving frames, if it did.
    fn fault(&self) -> Option<QueueFault>;

    /// The core would like to sleep: asks the other side to tell of the next frame, and looks once more. What comes
    /// after [`Arm::Armed`] makes one of [`wait_fds`](Self::wait_fds) readable, or rings the core's bell where it comes
    /// from another core. To be followed by [`disarm`](Self::disarm), whatever the answer. At most a few system calls.
    fn arm(&mut self) -> Arm {
        Arm::CannotWait
    }

    /// The core polls again: asks for no more notifications and drains the file descriptors that told of some. As often
    /// as [`arm`](Self::arm), after the sleep.
    fn disarm(&mut self) {}

    /// Shows the file descriptors to sleep on (for reading) after [`arm`](Self::arm), until [`disarm`](Self::disarm):
    /// none where only the core's bell tells. Others after the next `arm`, as a driver may have come or left.
    fn wait_fds(&self, _visit: &mut dyn FnMut(BorrowedFd<'_>)) {}

    /// Whether it moved frames since the last call that the loop has not seen: handed to another core, or sent for one.
    fn take_handed_on(&mut self) -> bool {
        false
    }
}

/// What a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Which driver: `virtio-net (vfio)` and the like.
    pub driver: &'static str,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Largest Ethernet payload in bytes, headers not included. virtio 1.2 §5.1.4 `mtu`.
    pub mtu: u16,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// How many queue pairs.
    pub queue_pairs: u16,
    /// Negotiated virtio feature bits; for a device side that no driver has joined yet, the offered ones.
    pub features: u64,
    /// What the port does itself; for a device side, at most: its driver may accept less, and
    /// [`QueuePair::offloads`] says what it did.
    pub offloads: Offloads,
}

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Frames pass.
    Up,
    /// The device says there is no link, or the other side is not there (yet, or any more).
    Down,
}

/// Whether a port can still receive frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// As long as it is open.
    Endless,
    /// There is an end to it, which has not come.
    Left,
    /// The last frame was received.
    Ended,
    /// It never receives any.
    None,
}
