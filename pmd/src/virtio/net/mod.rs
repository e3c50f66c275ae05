//! The network device as its driver sees it (virtio 1.2 §5.1): the port and its queue pairs.
//!
//! ```text
//!   init::Device ──► NetPort (cold)       info, link, stop
//!        ▲               │ queue pairs
//!        └── stop ── NetQueuePair<R> (hot):  rx (Receiver<R>) ─► R: DriverRing     one descriptor per packet,
//!                                            tx (Transmitter<R>) ─► R: DriverRing  header in the mbuf's headroom
//! ```
//!
//! `R` is the virtqueue format that was negotiated, chosen in [`NetPort::open`] and nowhere else.

mod rx;
mod settings;
mod tx;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::ctrl::queue::ControlQueue;
use super::ctrl::{Command, ControlError};
use super::init::{Device, InitError, Queues};
use super::packed::driver::PackedDriver;
use super::ring::{DriverRing, QueueMemory};
use super::spec::{feature, net};
use super::split::driver::SplitDriver;
use super::transport::{Interrupt, Transport, TransportError};
use crate::mem::HomePool;
use crate::port::{
    Arm, Burst, Link, Offloads, OpenConfig, Port, PortEvent, PortInfo, QueueCounters, QueueFault, QueuePair,
};
use rx::Receiver;
use settings::{QueuePairs, Settings};
use tx::Transmitter;

/// What we know to use.
pub(crate) const SUPPORTED: u64 = feature::MAC
    | feature::MTU
    | feature::STATUS
    | feature::SPEED_DUPLEX
    | feature::MRG_RXBUF
    | feature::ORDER_PLATFORM
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::RING_PACKED
    | feature::IN_ORDER
    | Offloads::FEATURES
    | settings::SUPPORTED;

/// What we use where the device offers it, unless the user says otherwise.
const WANTED: u64 = SUPPORTED & !(feature::EVENT_IDX | feature::RING_PACKED | feature::IN_ORDER);

/// Ethernet's customary MTU, where the device states none.
const DEFAULT_MTU: u16 = 1500;

/// A virtio network device, driven.
pub(crate) struct NetPort {
    name: String,
    info: PortInfo,
    device: Arc<Device>,
    pairs: Vec<Box<dyn QueuePair>>,
    settings: Settings,
    /// That the device is gone has been told.
    gone: bool,
    stopped: bool,
}

/// What tells one virtio port from another, beside the transport.
#[derive(Default)]
pub(crate) struct Identity {
    /// The port string.
    pub name: String,
    /// What [`PortInfo::driver`] says.
    pub driver: &'static str,
    /// The MAC address where the device states none.
    pub mac: [u8; 6],
    /// Feature bits that the user insists on, of [`SUPPORTED`].
    pub with: u64,
    /// Feature bits that are not to be accepted although we could.
    pub without: u64,
    /// Queue pairs that the user insists on; without it as many as the engine asks for and the device has.
    pub queues: Option<u16>,
    /// What the device is asked for once it runs.
    pub commands: Vec<Command>,
}

impl NetPort {
    /// Bytes of a [`Region`](crate::Region) that one port carves at most.
    pub(crate) fn region_bytes(rx_descriptors: u16, tx_descriptors: u16, queue_pairs: u16) -> usize {
        let queue = |size: u16| QueueMemory::region_bytes(size);
        let pair = queue(rx_descriptors) + queue(tx_descriptors) + tx::REGION_BYTES;
        pair * usize::from(queue_pairs) + ControlQueue::REGION_BYTES
    }

    /// Brings the device up: virtio 1.2 §3.1.1, §5.1.5. With as many queue pairs as were asked for, or as it has; they
    /// are in use when this returns.
    pub(crate) fn open(
        identity: Identity,
        transport: Arc<dyn Transport>,
        config: &OpenConfig<'_>,
    ) -> Result<Self, InitError> {
        let pairs = identity.queues.unwrap_or(config.queue_pairs).max(1);
        let wanted = settings::wanted(WANTED, pairs) & !identity.without;
        let device = Arc::new(Device::negotiate(transport, wanted, identity.with)?);
        let queues = settings::queue_pairs(&device, pairs, identity.queues.is_some())?;
        let has = |bit| device.features() & bit != 0;
        let bring_up = match (has(feature::RING_PACKED), has(feature::IN_ORDER)) {
            (false, false) => Self::pairs::<SplitDriver<false>>,
            (false, true) => Self::pairs::<SplitDriver<true>>,
            (true, false) => Self::pairs::<PackedDriver<false>>,
            (true, true) => Self::pairs::<PackedDriver<true>>,
        };
        let (info, pairs, control) = bring_up(&device, &identity, config, queues)?;
        let mut settings = Settings::new(&device, control, queues.used);
        settings.start(info.mac, &identity.commands)?;
        Ok(Self { name: identity.name, info, device, pairs, settings, gone: false, stopped: false })
    }

    /// Sets the virtqueues up in the format `R`, and the device going.
    fn pairs<R: DriverRing>(
        device: &Arc<Device>,
        identity: &Identity,
        config: &OpenConfig<'_>,
        pairs: QueuePairs,
    ) -> Result<Started, InitError> {
        let wanted_sizes = [config.rx_descriptors, config.tx_descriptors].repeat(pairs.used.into());
        let queues = Queues { region: config.region, wanted_sizes: &wanted_sizes };
        let mut queues = device.enable_queues::<R>(net::receive_queue(0), &queues)?.into_iter();
        let control = settings::enable_control_queue(device, config.region, pairs)?;
        device.go()?;
        let mut info = PortInfo {
            driver: identity.driver,
            mac: read_mac(device)?.unwrap_or(identity.mac),
            mtu: read_mtu(device)?.unwrap_or(DEFAULT_MTU),
            rx_descriptors: 0,
            tx_descriptors: 0,
            queue_pairs: pairs.used,
            features: device.features(),
            offloads: Offloads::of_driver(device.features()),
        };
        let mergeable = device.features() & feature::MRG_RXBUF != 0;
        let mut made: Vec<Box<dyn QueuePair>> = Vec::new();
        while let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) {
            (info.rx_descriptors, info.tx_descriptors) = (receive.size(), transmit.size());
            let pair = u16::try_from(made.len()).unwrap_or(u16::MAX);
            let mut tx = Transmitter::new(transmit, config.region, info.offloads)?;
            if device.features() & feature::INDIRECT_DESC != 0 {
                tx = tx.with_tables(config.region, device.features() & feature::RING_PACKED != 0)?;
            }
            made.push(Box::new(NetQueuePair {
                interrupt: device.transport().interrupt(net::receive_queue(pair)),
                rx: Receiver::new(receive, mergeable, info.offloads),
                tx,
                quiesced: false,
                device: Arc::clone(device),
            }));
        }
        Ok((info, made, control))
    }
}

/// A device that runs: what it is, its queue pairs, and its control queue.
type Started = (PortInfo, Vec<Box<dyn QueuePair>>, Option<ControlQueue>);

/// A configuration field, if its feature was negotiated.
fn read_field<const N: usize>(
    device: &Device,
    bit: u64,
    offset: usize,
) -> Result<Option<[u8; N]>, InitError> {
    if device.features() & bit == 0 {
        return Ok(None);
    }
    let mut bytes = [0; N];
    let read = device.transport().read_config(offset, &mut bytes);
    read.map_err(|source| InitError::Transport { step: "reading the configuration", source })?;
    Ok(Some(bytes))
}

fn read_mac(device: &Device) -> Result<Option<[u8; 6]>, InitError> {
    read_field(device, feature::MAC, net::config::MAC)
}

/// The MTU; a value below the least that the specification allows counts as none.
fn read_mtu(device: &Device) -> Result<Option<u16>, InitError> {
    let mtu = read_field(device, feature::MTU, net::config::MTU)?.map(u16::from_le_bytes);
    Ok(mtu.filter(|mtu| *mtu >= net::MIN_MTU))
}

impl Port for NetPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link(&self) -> Link {
        if self.stopped || !self.device.transport().is_present() {
            return Link::Down;
        }
        match read_field(&self.device, feature::STATUS, net::config::STATUS)
            .map(|s| s.map(u16::from_le_bytes))
        {
            Ok(Some(status)) if status & net::STATUS_LINK_UP == 0 => Link::Down,
            Ok(_) => Link::Up, // without the feature the link is assumed to be up, virtio 1.2 §5.1.4.2
            Err(_) => Link::Down,
        }
    }

    fn events(&mut self, visit: &mut dyn FnMut(PortEvent)) {
        if let Some(why) = self.device.transport().gone()
            && !std::mem::replace(&mut self.gone, true)
        {
            visit(PortEvent::Gone { why });
        }
        if !self.gone && !self.stopped {
            self.settings.announce(|| visit(PortEvent::Announce));
        }
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        std::mem::take(&mut self.pairs)
    }

    fn configure(&mut self, command: &Command) -> Result<(), ControlError> {
        self.settings.configure(command)
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.stopped = true;
        self.device.stop()
    }
}

/// One receive and one transmit queue.
struct NetQueuePair<R: DriverRing> {
    rx: Receiver<R>,
    tx: Transmitter<R>,
    /// What tells of the next frame; `None` where nothing does.
    interrupt: Option<Interrupt>,
    /// The core has stopped polling.
    quiesced: bool,
    device: Arc<Device>,
}

impl<R: DriverRing> QueuePair for NetQueuePair<R> {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        if self.quiesced {
            return 0;
        }
        // First what the last burst took: while a frame waits, it waits for nothing else.
        self.rx.refill(pool, &mut self.tx);
        let received = self.rx.receive(burst, budget);
        if received == 0 {
            // Nothing else to do: bring sent mbufs home, so that a quiet port holds none back.
            self.tx.reclaim();
        }
        received
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if self.quiesced {
            return 0;
        }
        self.tx.transmit(burst)
    }

    fn tx_room(&mut self) -> usize {
        if self.quiesced {
            return 0;
        }
        self.tx.room()
    }

    fn tx_waiting(&mut self) -> usize {
        self.tx.waiting()
    }

    fn offloads(&self) -> Offloads {
        self.tx.offloads()
    }

    fn quiesce(&mut self) {
        self.quiesced = true;
    }

    fn counters(&self) -> QueueCounters {
        let mut counters = self.rx.counters;
        counters.add(&self.tx.counters);
        counters.faults = u64::from(self.rx.fault().is_some()) + u64::from(self.tx.fault().is_some());
        counters
    }

    fn fault(&self) -> Option<QueueFault> {
        self.rx.fault().or(self.tx.fault())
    }

    /// Of the transmit queue nothing is asked: who waits for room in it does not sleep.
    fn arm(&mut self) -> Arm {
        match &self.interrupt {
            None => Arm::CannotWait,
            Some(_) => self.rx.arm(),
        }
    }

    fn disarm(&mut self) {
        self.rx.disarm();
        self.interrupt.iter().for_each(Interrupt::drain);
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.interrupt.iter().for_each(|interrupt| visit(interrupt.as_fd()));
    }
}

impl<R: DriverRing> Drop for NetQueuePair<R> {
    /// The device first: what is posted is its until the reset has read back as done. If it will not stop, the
    /// memory is given up for good rather than given to somebody else.
    fn drop(&mut self) {
        if let Err(error) = self.device.stop() {
            log::warn!("packet memory of a device that does not stop is kept: {error}");
            self.rx.abandon();
            self.tx.abandon();
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod lying_device;
#[cfg(test)]
mod tests;
