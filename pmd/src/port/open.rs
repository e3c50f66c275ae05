//! From a port string to a port.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::{Port, PortInfo};
use crate::mem::Region;
use crate::vfio::{Host, PciAddress, VfioError};
use crate::virtio::InitError;
use crate::virtio::net::{Identity, NetPort};
use crate::virtio::server::{self, ServerPort};
use crate::virtio::spec::feature;
use crate::virtio::transport::in_process::{EndTaken, Hub};
use crate::virtio::transport::vfio::Vfio;
use crate::virtio::transport::vhost_user::{ANSWER_WITHIN, VhostUser, VhostUserConfig, VhostUserError};
use crate::virtio::transport::vhost_user_server::{ServerConfig, ServerError, VhostUserServer};

/// What ports need of the engine that opens them.
#[derive(Clone, Copy, Debug)]
pub struct OpenConfig<'a> {
    /// The engine's one region: queues are carved from it, devices get access to it.
    pub region: &'a Arc<Region>,
    /// Where ends of `loop:` links meet.
    pub hub: &'a Hub,
    /// Descriptors of each receive queue; made a power of two the device allows.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue; made a power of two the device allows.
    pub tx_descriptors: u16,
    /// Bytes behind the headroom of the mbufs that will be posted.
    pub data_room_bytes: usize,
}

/// Bytes of a [`Region`] that a port with these descriptors carves at most.
#[must_use]
pub fn region_bytes(rx_descriptors: u16, tx_descriptors: u16) -> usize {
    NetPort::region_bytes(rx_descriptors, tx_descriptors)
}

/// A port string: what kind of port, and where.
///
/// ```
/// let spec: pmd::port::PortSpec = "loop:left.a".parse().unwrap();
/// assert_eq!(spec.to_string(), "loop:left.a");
/// assert!("loop:left.c".parse::<pmd::port::PortSpec>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    text: String,
    kind: Kind,
    options: Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Loop { link: String, driver: bool },
    Vfio(PciAddress),
    VhostUser { path: PathBuf },
    VhostUserServer { path: PathBuf },
}

/// What may follow a port's address, separated by commas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Options {
    /// `mac=02:00:00:00:00:01`: our address, where the device states none.
    mac: Option<[u8; 6]>,
    /// `mrg_rxbuf=on|off`: whether a received frame may span several buffers. Without the option only where one
    /// buffer might not hold a frame of the port's MTU, since one buffer a frame is faster.
    mrg_rxbuf: Option<bool>,
}

/// A port string that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("port {text:?}: {problem}")]
pub struct SpecError {
    text: String,
    problem: String,
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
    /// The device could not be brought up.
    #[error("port {port:?} could not be started")]
    Init {
        /// The port string.
        port: String,
        /// Why.
        source: InitError,
    },
}

const KINDS: &str = "loop:[NAME.]a, loop:[NAME.]b, vfio:PCI-ADDRESS, vhost-user:PATH, vhost-user-server:PATH";

impl FromStr for PortSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fail = |problem: String| SpecError { text: text.to_owned(), problem };
        let (kind, rest) =
            text.split_once(':').ok_or_else(|| fail(format!("no kind; a port is one of {KINDS}")))?;
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default();
        let kind = match kind {
            "loop" => {
                let (link, end) = address.rsplit_once('.').unwrap_or(("", address));
                match end {
                    "a" | "b" => Kind::Loop { link: link.to_owned(), driver: end == "a" },
                    _ => {
                        return Err(fail(
                            "the end of a link is `a` or `b`, as in loop:a or loop:left.b".into(),
                        ));
                    }
                }
            }
            "vfio" => Kind::Vfio(address.parse().map_err(|error: VfioError| fail(error.to_string()))?),
            "vhost-user" | "vhost-user-server" if address.is_empty() => {
                return Err(fail(format!("no path; the socket follows, as in {kind}:/run/x.sock")));
            }
            "vhost-user" => Kind::VhostUser { path: address.into() },
            "vhost-user-server" => Kind::VhostUserServer { path: address.into() },
            other => return Err(fail(format!("no kind of port is called {other:?}; there are {KINDS}"))),
        };
        let mut options = Options::default();
        for option in parts {
            options.set(option).map_err(&fail)?;
        }
        Ok(Self { text: text.to_owned(), kind, options })
    }
}

impl Options {
    fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("mac", mac)) => {
                self.mac = Some(parse_mac(mac).ok_or_else(|| {
                    format!("{mac:?} is not a unicast MAC address such as 02:00:00:00:00:01")
                })?);
            }
            Some(("mrg_rxbuf", "on")) => self.mrg_rxbuf = Some(true),
            Some(("mrg_rxbuf", "off")) => self.mrg_rxbuf = Some(false),
            _ => {
                return Err(format!("option {option:?} is none of mac=ADDRESS, mrg_rxbuf=on, mrg_rxbuf=off"));
            }
        }
        Ok(())
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut bytes = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(bytes.next().filter(|byte| byte.len() == 2)?, 16).ok()?;
    }
    (bytes.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PortSpec {
    fn identity(&self, driver: &'static str, config: &OpenConfig<'_>) -> Identity {
        // What one buffer must hold: header, Ethernet header with one VLAN tag, the customary MTU.
        let roomy = config.data_room_bytes >= 12 + 18 + 1500;
        let mergeable = self.options.mrg_rxbuf.unwrap_or(!roomy);
        Identity {
            name: self.text.clone(),
            driver,
            mac: self.options.mac.unwrap_or_else(random_mac),
            without: if mergeable { 0 } else { feature::MRG_RXBUF },
        }
    }

    fn served_info(&self, driver: &'static str, features: u64, config: &OpenConfig<'_>) -> PortInfo {
        PortInfo {
            driver,
            mac: self.options.mac.unwrap_or_else(random_mac),
            mtu: 1500,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            queue_pairs: 1,
            features,
        }
    }

    /// Opens the port. Blocks for as long as the other side takes to answer.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, config: &OpenConfig<'_>) -> Result<Box<dyn Port>, OpenError> {
        let failed = |source| OpenError::Init { port: self.text.clone(), source };
        match &self.kind {
            Kind::Loop { link, driver: true } => {
                let transport = Arc::new(config.hub.drive(link, config.region)?);
                let identity = self.identity("virtio-net (loop)", config);
                Ok(Box::new(NetPort::open(identity, transport, config).map_err(failed)?))
            }
            Kind::Loop { link, driver: false } => {
                let (control, followers) = config.hub.serve(link)?;
                let info = self.served_info("virtio-net device (loop)", server::FEATURES, config);
                Ok(Box::new(ServerPort::new(self.text.clone(), info, Box::new(control), followers)))
            }
            Kind::Vfio(address) => {
                let transport = Arc::new(Vfio::open(*address, config.region, &Host::default())?);
                let identity = self.identity("virtio-net (vfio)", config);
                Ok(Box::new(NetPort::open(identity, transport, config).map_err(failed)?))
            }
            Kind::VhostUser { path } => {
                let backend =
                    VhostUserConfig { path: path.clone(), queue_pairs: 1, answer_within: ANSWER_WITHIN };
                let transport = Arc::new(VhostUser::open(&backend, Arc::clone(config.region))?);
                let identity = self.identity("virtio-net (vhost-user)", config);
                Ok(Box::new(NetPort::open(identity, transport, config).map_err(failed)?))
            }
            Kind::VhostUserServer { path } => {
                let device = ServerConfig {
                    path: path.clone(),
                    features: server::FEATURES,
                    queues: 2,
                    config: Vec::new(),
                };
                let (control, followers) = VhostUserServer::start(device)?;
                let info = self.served_info("virtio-net device (vhost-user)", server::FEATURES, config);
                Ok(Box::new(ServerPort::new(self.text.clone(), info, Box::new(control), followers)))
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

    fn problem(text: &str) -> String {
        text.parse::<PortSpec>().unwrap_err().to_string()
    }

    #[test]
    fn port_strings_that_are_none_say_what_there_is() {
        assert!(problem("eth0").contains("no kind; a port is one of loop:"));
        assert!(problem("pci:0").contains("no kind of port is called \"pci\""));
        assert!(problem("loop:c").contains("`a` or `b`"));
        assert!(problem("vfio:eth0").contains("\"eth0\" is no PCI address; write it as lspci -D does"));
        assert!(problem("vhost-user:,mac=02:00:00:00:00:01").contains("as in vhost-user:/run/x.sock"));
        assert!(problem("loop:a,mtu=9").contains("option \"mtu=9\" is none of mac="));
        assert!(problem("loop:a,mac=01:00:00:00:00:00").contains("unicast"));
        assert!(problem("loop:a,mac=2:0:0:0:0:0").contains("02:00:00:00:00:01"));
    }

    #[test]
    fn pci_addresses_are_read_in_short_and_in_full() {
        for text in ["vfio:0000:00:03.0", "vfio:00:03.0,mac=02:00:00:00:00:0a"] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec.kind, Kind::Vfio("0000:00:03.0".parse().unwrap()));
        }
    }

    #[test]
    fn options_are_read() {
        let spec: PortSpec = "loop:x.b,mac=02:00:00:00:00:0a,mrg_rxbuf=on".parse().unwrap();
        assert_eq!(spec.kind, Kind::Loop { link: "x".into(), driver: false });
        assert_eq!(spec.options, Options { mac: Some([2, 0, 0, 0, 0, 10]), mrg_rxbuf: Some(true) });
    }

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
            data_room_bytes: 2048,
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
