//! Opening ports that may outlive their device, for the first time and again.

use std::sync::Arc;

use super::open::{OpenConfig, OpenError, region_bytes};
use super::spec::{Kind, PortSpec};
use super::{Offloads, Port, PortInfo};
use crate::mem::{Region, RegionError};
use crate::ports::lasting::{LastingPort, Opener, Terms, is_refusal};
use crate::ports::xdp::XdpPort;
use crate::vfio::Host;
use crate::virtio::InitError;
use crate::virtio::net::{Identity, NetPort};
use crate::virtio::spec::feature;
use crate::virtio::transport::in_process::Hub;
use crate::virtio::transport::vfio::Vfio;
use crate::virtio::transport::vhost_user::{ANSWER_WITHIN, VhostUser, VhostUserConfig};

/// An [`OpenConfig`] that does not borrow, without its region.
#[derive(Clone)]
struct Kept {
    hub: Hub,
    rx_descriptors: u16,
    tx_descriptors: u16,
    queue_pairs: u16,
    data_room_bytes: usize,
    offloads: bool,
    interrupts: bool,
}

impl Kept {
    fn of(config: &OpenConfig<'_>) -> Self {
        Self {
            hub: config.hub.clone(),
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            queue_pairs: config.queue_pairs,
            data_room_bytes: config.data_room_bytes,
            offloads: config.offloads,
            interrupts: config.interrupts,
        }
    }

    fn with<'a>(&'a self, region: &'a Arc<Region>) -> OpenConfig<'a> {
        OpenConfig {
            region,
            hub: &self.hub,
            rx_descriptors: self.rx_descriptors,
            tx_descriptors: self.tx_descriptors,
            queue_pairs: self.queue_pairs,
            data_room_bytes: self.data_room_bytes,
            offloads: self.offloads,
            interrupts: self.interrupts,
        }
    }
}

impl PortSpec {
    /// A `vhost-user:`, `vfio:` or `xdp:` port, which waits for its device when that has gone, unless it is told not to,
    /// and with `wait=on` from the beginning.
    pub(super) fn open_lasting(&self, config: &OpenConfig<'_>) -> Result<Box<dyn Port>, OpenError> {
        let failed = |source| OpenError::Init { port: self.text.clone(), source };
        let memory = |error: RegionError| failed(InitError::Memory(error));
        let pairs = self.queue_pairs(config.queue_pairs);
        let part = match &self.kind {
            // Its rings are the kernel's.
            Kind::Xdp(_) => config.region.keep(),
            _ => {
                let bytes = region_bytes(config.rx_descriptors, config.tx_descriptors, pairs);
                config.region.part(bytes).map_err(memory)?
            }
        };
        let (spec, kept) = (self.clone(), Kept::of(config));
        let opener: Opener = Arc::new(move |part, terms| spec.open_device(&kept.with(part), Some(terms)));
        let port = match self.open_device(&OpenConfig { region: &part, ..*config }, None) {
            Ok(port) => LastingPort::around(port, part, (!self.options.no_reconnect).then_some(opener)),
            Err(error) if self.options.wait && !is_refusal(&error) => {
                log::info!("{self}: {error}; waiting for it");
                LastingPort::waiting(self.text.clone(), self.expected(config, pairs), part, opener)
            }
            Err(error) => return Err(error),
        };
        let system = |source| {
            let what = "make an eventfd";
            let source = crate::virtio::transport::TransportError::Io { what, source };
            failed(InitError::Transport { step: "preparing for the device's absence", source })
        };
        Ok(Box::new(port.map_err(system)?))
    }

    /// The device behind the port as it is now, in its state after a reset. `terms` are of a device that was there before.
    fn open_device(
        &self,
        config: &OpenConfig<'_>,
        terms: Option<&Terms>,
    ) -> Result<Box<dyn Port>, OpenError> {
        if let Kind::Xdp(xdp) = &self.kind {
            let mut xdp = xdp.clone();
            if let Some(terms) = terms {
                xdp.queues = Some(terms.queue_pairs);
            }
            let mac = terms.map(|terms| terms.mac).or(self.options.mac);
            return Ok(Box::new(XdpPort::open(self.text.clone(), &xdp, mac, config)?));
        }
        let failed = |source| OpenError::Init { port: self.text.clone(), source };
        let driver = match &self.kind {
            Kind::Vfio(_) => "virtio-net (vfio)",
            _ => "virtio-net (vhost-user)",
        };
        let mut identity = self.identity(driver, config);
        if let Some(terms) = terms {
            // Our address and what the programs count on are settled.
            identity.mac = terms.mac;
            identity.without |= (terms.without | feature::MAC) & !identity.with;
            identity.queues = Some(terms.queue_pairs);
        }
        let port = match &self.kind {
            Kind::Vfio(address) => {
                let pairs = identity.queues.unwrap_or(config.queue_pairs).max(1);
                let waiting = if config.interrupts { pairs } else { 0 };
                let transport = Arc::new(Vfio::open(*address, config.region, &Host::default(), waiting)?);
                NetPort::open(identity, transport, config)
            }
            Kind::VhostUser { path } => {
                let backend = VhostUserConfig {
                    path: path.clone(),
                    queue_pairs: identity.queues.unwrap_or(config.queue_pairs).max(1),
                    fewer: identity.queues.is_none(),
                    control_queue: self.options.with & feature::CTRL_VQ != 0,
                    answer_within: ANSWER_WITHIN,
                };
                let transport = Arc::new(VhostUser::open(&backend, Arc::clone(config.region))?);
                NetPort::open(identity, transport, config)
            }
            _ => unreachable!("called for these kinds alone"),
        };
        Ok(Box::new(port.map_err(failed)?))
    }

    /// What a backend that is still to come will be taken for: it has what was asked for, and every offload that the port
    /// may use, which is done in software where it has not.
    fn expected(&self, config: &OpenConfig<'_>, queue_pairs: u16) -> PortInfo {
        let Identity { mac, without, .. } = self.identity("", config);
        let features = Offloads::FEATURES & !without;
        PortInfo {
            driver: "virtio-net (vhost-user)",
            mac,
            mtu: 1500,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            queue_pairs,
            features,
            offloads: Offloads::of_driver(features),
        }
    }
}
