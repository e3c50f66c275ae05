//! What a device is told beside its virtqueues: how many queue pairs are in use, how packets are dealt to them, which
//! packets are received. virtio 1.2 §5.1.5, §5.1.6.5.

use std::sync::Arc;

use super::{Device, InitError, read_field};
use crate::mem::Region;
use crate::virtio::ctrl::queue::{self, ControlQueue};
use crate::virtio::ctrl::{Command, ControlError, Mac};
use crate::virtio::rss::{MAX_TABLE, RssConfig, SYMMETRIC_KEY, hash_type};
use crate::virtio::spec::{feature, net};
use crate::virtio::transport::TransportError;

/// What we know to ask for.
pub(super) const SUPPORTED: u64 = feature::CTRL_VQ
    | feature::CTRL_RX
    | feature::CTRL_RX_EXTRA
    | feature::CTRL_VLAN
    | feature::CTRL_MAC_ADDR
    | feature::GUEST_ANNOUNCE
    | feature::MQ
    | feature::RSS;

/// Of `features`, those to be had with `pairs` queue pairs: several take bits of their own. A device that filters by
/// VLAN lets no tagged packet in before it is told to, so that is for those who ask for it.
pub(super) fn wanted(features: u64, pairs: u16) -> u64 {
    let features = features & !feature::CTRL_VLAN;
    if pairs > 1 { features } else { features & !(feature::MQ | feature::RSS) }
}

/// Queue pairs of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueuePairs {
    /// How many it has; the control queue comes after them all. virtio 1.2 §5.1.2.
    pub device: u16,
    /// How many we set up.
    pub used: u16,
}

/// How many queue pairs there are, and how many of the `wanted` are to be had: fewer are an error if the user insists.
pub(super) fn queue_pairs(device: &Device, wanted: u16, insists: bool) -> Result<QueuePairs, InitError> {
    let field = read_field(device, feature::MQ | feature::RSS, net::config::MAX_VIRTQUEUE_PAIRS)?;
    let has = field.map_or(1, u16::from_le_bytes);
    // virtio 1.2 §5.1.4.1. Each pair is two virtqueues of the 65,535 that there can be.
    if has == 0 || has > net::MAX_PAIRS {
        let problem = format!("it has {has} queue pairs (virtio 1.2 §5.1.4.1)");
        let source = TransportError::Protocol(problem);
        return Err(InitError::Transport { step: "reading the number of queue pairs", source });
    }
    if insists && has < wanted {
        return Err(InitError::TooFewQueues { has: has.saturating_mul(2), needs: wanted.saturating_mul(2) });
    }
    Ok(QueuePairs { device: has, used: wanted.min(has) })
}

/// Sets the control queue up, if there is one: before DRIVER_OK, as all queues.
pub(super) fn enable_control_queue(
    device: &Device,
    region: &Arc<Region>,
    pairs: QueuePairs,
) -> Result<Option<ControlQueue>, InitError> {
    if device.features() & feature::CTRL_VQ == 0 {
        return Ok(None);
    }
    let failed = |source| InitError::Transport { step: "enabling the control queue", source };
    let number = net::receive_queue(pairs.device);
    let max = device.transport().max_queue_size(number).map_err(failed)?;
    let size = queue::SIZE.min(max);
    if size < 2 {
        return Err(failed(TransportError::Queue { queue: number, size: queue::SIZE, max }));
    }
    let is_packed = device.features() & feature::RING_PACKED != 0;
    let size = if is_packed { size } else { 1 << size.ilog2() };
    let mut control = ControlQueue::new(region, size, is_packed)?;
    let notifier = device.transport().enable_queue(number, &control.layout()).map_err(failed)?;
    control.set_notifier(notifier);
    Ok(Some(control))
}

/// What a device runs with, and the queue to change it.
pub(super) struct Settings {
    device: Arc<Device>,
    control: Option<ControlQueue>,
    pairs: u16,
    /// The device is not asked whether it wants an announcement any more: it did not take note of one.
    deaf: bool,
}

impl Settings {
    pub(super) fn new(device: &Arc<Device>, control: Option<ControlQueue>, pairs: u16) -> Self {
        Self { device: Arc::clone(device), control, pairs, deaf: false }
    }

    /// Tells the device that runs by now how many queue pairs are in use, has it deal flows to them by RSS if it can,
    /// and asks for what the user wants.
    pub(super) fn start(&mut self, mac: Mac, commands: &[Command]) -> Result<(), InitError> {
        // A transport that has no control queue to show enables queue pairs by itself.
        if self.pairs > 1 && self.control.is_some() {
            self.deal()?;
        }
        if self.device.features() & (feature::MAC | feature::CTRL_MAC_ADDR) == feature::CTRL_MAC_ADDR {
            // It states none, so it cannot know which packets are for us.
            self.configure(&Command::MacAddress(mac))?;
        }
        for command in commands {
            self.configure(command)?;
        }
        Ok(())
    }

    fn deal(&mut self) -> Result<(), InitError> {
        if self.device.features() & feature::RSS != 0 {
            match self.configure(&Command::Rss(self.even()?)) {
                // A hypervisor may offer it and have nothing that does it.
                Err(ControlError::Refused(what)) => log::warn!("the device refuses to {what}"),
                result => return Ok(result?),
            }
        }
        Ok(self.configure(&Command::QueuePairs(self.pairs))?)
    }

    /// All flows of TCP and UDP over all pairs, everything else to the first.
    fn even(&self) -> Result<RssConfig, InitError> {
        let types = read_field(&self.device, feature::RSS, net::config::SUPPORTED_HASH_TYPES)?;
        let types = types.map_or(0, u32::from_le_bytes);
        #[allow(clippy::cast_possible_truncation)] // 128
        let table = (0..MAX_TABLE as u16).map(|entry| entry % self.pairs).collect();
        Ok(RssConfig {
            hash_types: hash_type::TRANSPORT & types,
            table,
            unclassified_queue: 0,
            transmit_queues: self.pairs,
            key: SYMMETRIC_KEY.to_vec(),
        })
    }

    /// Whether the device asks us to tell the network where we are, as after a guest was moved: `announce` sees to it,
    /// then the device is told so. virtio 1.2 §5.1.6.5.4. Reads its status, and waits for its answer if it asks.
    pub(super) fn announce(&mut self, announce: impl FnOnce()) {
        let needs = feature::GUEST_ANNOUNCE | feature::STATUS;
        if self.deaf || self.control.is_none() || self.device.features() & needs != needs {
            return;
        }
        let status = read_field(&self.device, feature::STATUS, net::config::STATUS);
        let Ok(Some(status)) = status.map(|field| field.map(u16::from_le_bytes)) else { return };
        if status & net::STATUS_ANNOUNCE == 0 {
            return;
        }
        announce();
        if let Err(error) = self.configure(&Command::Announced) {
            // It would ask for ever.
            log::warn!("{error}; it is not asked for announcements any more");
            self.deaf = true;
        }
    }

    /// One command and its answer.
    pub(super) fn configure(&mut self, command: &Command) -> Result<(), ControlError> {
        let (what, needs) = (command.what(), command.needs());
        let control = self.control.as_mut().ok_or(ControlError::NoControlQueue(what))?;
        if needs & !self.device.features() != 0 {
            return Err(ControlError::NotOffered { what, needs });
        }
        match command {
            // A device would refuse it, or send where nobody looks.
            Command::QueuePairs(pairs) if !(1..=self.pairs).contains(pairs) => {
                Err(ControlError::QueuePairs { pairs: *pairs, have: self.pairs })
            }
            _ => control.send(command),
        }
    }
}
