//! From a port string to a port.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use thiserror::Error;

use super::spec::{Kind, Options, PortSpec, SpecError};
use super::{Offloads, Port, PortInfo};
use crate::mem::Region;
use crate::ports::netem::NetemPort;
use crate::ports::null::NullPort;
use crate::ports::pcap::{PcapError, PcapPort};
use crate::ports::tap::{TapError, TapPort};
use crate::ports::xdp::XdpError;
use crate::vfio::VfioError;
use crate::virtio::InitError;
use crate::virtio::ctrl::{Command, ReceiveMode};
use crate::virtio::net::{self, Identity, NetPort};
use crate::virtio::server::{self, ServerPort};
use crate::virtio::spec::{feature, net::STATUS_LINK_UP};
use crate::virtio::transport::in_process::{EndTaken, Hub, Served};
use crate::virtio::transport::vhost_user::VhostUserError;
use crate::virtio::transport::vhost_user_server::{ServerConfig, ServerError, VhostUserServer};

/// What ports need of the engine that opens them.
#[derive(Clone, Copy, Debug)]
pub struct OpenConfig<'a> {
    /// The engine's one region: queues are carved from it, devices get access to it.
    pub region: &'a Arc<Region>,
    /// Where ends of `loop:` links meet.
    pub hub: &'a Hub,
    /// Descriptors of each receive queue: at most those; a power of two unless the queue is packed.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue, the same.
    pub tx_descriptors: u16,
    /// How many queue pairs are wished for: as many as cores poll the port. It may have fewer.
    pub queue_pairs: u16,
    /// Whether the queue pairs will be [armed](super::QueuePair::arm): without, they may have nothing to wait on.
    pub interrupts: bool,
    /// Bytes behind the headroom of the mbufs that will be posted.
    pub data_room_bytes: usize,
    /// Whether who uses the port knows what to do with [offloads](super::Offloads): without, a port has none of which its
    /// string does not speak, as they cost a forwarder the look at a header and gain it nothing.
    pub offloads: bool,
}

/// Bytes of a [`Region`] that a port with so many queue pairs of these descriptors carves at most.
#[must_use]
pub fn region_bytes(rx_descriptors: u16, tx_descriptors: u16, queue_pairs: u16) -> usize {
    NetPort::region_bytes(rx_descriptors, tx_descriptors, queue_pairs)
}

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The string is not a port.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The end of the link is open already.
    #[error(transparent)]
    EndTaken(#[from] EndTaken),
    /// The PCI device could not be opened.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// There is no backend that can be driven.
    #[error(transparent)]
    VhostUser(#[from] VhostUserError),
    /// The socket for drivers cannot be listened on.
    #[error(transparent)]
    VhostUserServer(#[from] ServerError),
    /// There is no TAP interface that can be used.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A capture cannot be read or written.
    #[error(transparent)]
    Pcap(#[from] PcapError),
    /// There is no interface that can be used by AF_XDP.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The device could not be brought up.
    #[error("port {port:?} could not be started")]
    Init {
        /// The port string.
        port: String,
        /// Why.
        source: InitError,
    },
}

impl PortSpec {
    pub(super) fn identity(&self, driver: &'static str, config: &OpenConfig<'_>) -> Identity {
        let Options { mac, with, mut without, .. } = self.options;
        let with = Offloads::implied(with);
        if !config.offloads {
            without |= Offloads::FEATURES & !with;
        }
        // What one buffer must hold: header, Ethernet header with one VLAN tag, the customary MTU. Where it does, one
        // buffer a frame is faster.
        let roomy = config.data_room_bytes >= 12 + 18 + 1500;
        if roomy && !config.offloads && with & feature::MRG_RXBUF == 0 {
            without |= feature::MRG_RXBUF;
        }
        Identity {
            name: self.text.clone(),
            driver,
            mac: mac.unwrap_or_else(random_mac),
            with,
            without,
            queues: self.options.queues,
            commands: self.commands(),
        }
    }

    /// What the device is asked for once it runs.
    fn commands(&self) -> Vec<Command> {
        let Options { promisc, allmulti, .. } = self.options;
        let modes = [(ReceiveMode::Promiscuous, promisc), (ReceiveMode::AllMulticast, allmulti)];
        modes.into_iter().filter_map(|(mode, on)| Some(Command::Receive(mode, on?))).collect()
    }

    /// How many queue pairs the port asks for, or offers, where `wanted` cores share it.
    #[must_use]
    pub fn queue_pairs(&self, wanted: u16) -> u16 {
        self.innermost().options.queues.unwrap_or(wanted).max(1)
    }

    /// What we offer as a device.
    ///
    /// # Errors
    /// [`SpecError`] for features that we cannot serve.
    fn offered(&self, config: &OpenConfig<'_>) -> Result<u64, SpecError> {
        let Options { mut with, mut without, .. } = self.options;
        with = Offloads::implied(with);
        if !config.offloads {
            without |= Offloads::FEATURES & !with;
        }
        let several = if self.queue_pairs(config.queue_pairs) > 1 { server::SEVERAL } else { 0 };
        // Fields of the configuration space, and a control queue, for frontends that have no use for their own: QEMU
        // and DPDK have, so they are for those who ask.
        let asked = feature::STATUS | feature::MTU | feature::SPEED_DUPLEX | server::CONTROL | several;
        if let unable @ 1.. = with & !(server::SUPPORTED | asked) {
            return Err(self.unable(unable));
        }
        let mut offered = server::FEATURES | several & feature::MQ;
        if with & (server::CONTROL | feature::RSS) != 0 {
            offered |= server::CONTROL | several;
        }
        Ok(offered & !without | with)
    }

    /// Features asked for that no side of ours knows.
    fn unable(&self, features: u64) -> SpecError {
        let problem = format!("{} cannot be had here; leave the option out", feature::names(features));
        SpecError { text: self.text.clone(), problem }
    }

    fn served_info(&self, driver: &'static str, features: u64, config: &OpenConfig<'_>) -> PortInfo {
        PortInfo {
            driver,
            mac: self.options.mac.unwrap_or_else(random_mac),
            mtu: server::MTU,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            queue_pairs: self.queue_pairs(config.queue_pairs),
            features,
            offloads: Offloads::of_device(features),
        }
    }

    /// Opens the port. Blocks for as long as the other side takes to answer.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, config: &OpenConfig<'_>) -> Result<Box<dyn Port>, OpenError> {
        let failed = |source| OpenError::Init { port: self.text.clone(), source };
        let drives =
            matches!(self.kind, Kind::Loop { driver: true, .. } | Kind::Vfio(_) | Kind::VhostUser { .. });
        if let unable @ 1.. = self.options.with & !net::SUPPORTED
            && drives
        {
            return Err(self.unable(unable).into());
        }
        match &self.kind {
            Kind::Loop { link, driver: true } => {
                let pairs = self.queue_pairs(config.queue_pairs);
                let transport = Arc::new(config.hub.drive(link, config.region, pairs, config.interrupts)?);
                let identity = self.identity("virtio-net (loop)", config);
                Ok(Box::new(NetPort::open(identity, transport, config).map_err(failed)?))
            }
            Kind::Loop { link, driver: false } => {
                let served = config.hub.serve(link, self.queue_pairs(config.queue_pairs))?;
                let Served { serving, followers, steering } = served;
                let mut info = self.served_info("virtio-net device (loop)", server::FEATURES, config);
                #[allow(clippy::cast_possible_truncation)] // two for each of a u16
                let pairs = (followers.len() / 2) as u16;
                info.queue_pairs = pairs;
                let control = Box::new(serving);
                Ok(Box::new(ServerPort::new(self.text.clone(), info, control, followers, Some(steering))))
            }
            Kind::Vfio(_) | Kind::VhostUser { .. } | Kind::Xdp(_) => self.open_lasting(config),
            Kind::VhostUserServer { path } => {
                let features = self.offered(config)?;
                let pairs = self.queue_pairs(config.queue_pairs);
                let space = if features & server::FIELDS == 0 {
                    Vec::new() // without need it is not offered: QEMU warns of it
                } else {
                    server::config_space(pairs, STATUS_LINK_UP).to_vec()
                };
                let device = ServerConfig { path: path.clone(), features, queues: 2 * pairs, config: space };
                let (control, followers) = VhostUserServer::start(device)?;
                let info = self.served_info("virtio-net device (vhost-user)", features, config);
                let chooses = pairs > 1 || features & feature::CTRL_VQ != 0;
                let steering = chooses.then(|| control.steering());
                Ok(Box::new(ServerPort::new(self.text.clone(), info, Box::new(control), followers, steering)))
            }
            Kind::Tap(tap) => Ok(Box::new(TapPort::open(self.text.clone(), tap, self.options.mac, config)?)),
            Kind::Pcap(pcap) => {
                let mac = self.options.mac.unwrap_or_else(random_mac);
                Ok(Box::new(PcapPort::open(self.text.clone(), pcap, mac, config)?))
            }
            Kind::Null(null) => {
                let mac = self.options.mac.unwrap_or_else(random_mac);
                let queue_pairs = self.options.queues.unwrap_or(config.queue_pairs);
                Ok(Box::new(NullPort::new(self.text.clone(), null, mac, queue_pairs, config)))
            }
            Kind::Netem { impairments, port } => {
                // A bit that is changed in a frame whose checksum is still to be made would be changed for good, and who
                // loses one of 64 KiB loses 45.
                let port = port.open(&OpenConfig { offloads: false, ..*config })?;
                Ok(Box::new(NetemPort::new(self.text.clone(), port, impairments.clone())))
            }
        }
    }
}

/// Opens the port that `text` names: [`PortSpec`] and [`PortSpec::open`] in one.
///
/// # Errors
/// [`OpenError`].
pub fn open(text: &str, config: &OpenConfig<'_>) -> Result<Box<dyn Port>, OpenError> {
    text.parse::<PortSpec>()?.open(config)
}

/// A locally administered unicast address, `02:62:77` and three random bytes.
fn random_mac() -> [u8; 6] {
    let [a, b, c, ..] = RandomState::new().hash_one(()).to_ne_bytes();
    [0x02, b'b', b'w', a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Link;

    #[test]
    fn links_do_not_care_which_end_comes_first() {
        let hub = Hub::default();
        let region =
            Region::new(crate::mem::RegionConfig { len_bytes: 1 << 20, ..Default::default() }).unwrap();
        let config = OpenConfig {
            region: &region,
            hub: &hub,
            rx_descriptors: 64,
            tx_descriptors: 64,
            queue_pairs: 1,
            interrupts: false,
            data_room_bytes: 2048,
            offloads: false,
        };
        for (first, second) in [("loop:a", "loop:b"), ("loop:b", "loop:a")] {
            let one = open(first, &config).unwrap();
            assert_eq!(one.link(), Link::Down);
            let two = open(second, &config).unwrap();
            assert_eq!((one.link(), two.link()), (Link::Up, Link::Up));
            let again = open(first, &config).err().unwrap().to_string();
            assert!(again.contains("is open already"), "{again}");
        }
    }
}
