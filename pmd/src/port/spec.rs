//! Port strings: what can be typed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use crate::ports::netem::Impairments;
use crate::ports::null::NullSpec;
use crate::ports::pcap::PcapSpec;
use crate::ports::tap::TapSpec;
use crate::ports::xdp::XdpSpec;
use crate::vfio::{PciAddress, VfioError};
use crate::virtio::spec::feature;

/// A port string: what kind of port, and where.
///
/// ```
/// let spec: pmd::port::PortSpec = "loop:left.a".parse().unwrap();
/// assert_eq!(spec.to_string(), "loop:left.a");
/// assert!("loop:left.c".parse::<pmd::port::PortSpec>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    pub(super) text: String,
    pub(super) kind: Kind,
    pub(super) options: Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Loop { link: String, driver: bool },
    Vfio(PciAddress),
    VhostUser { path: PathBuf },
    VhostUserServer { path: PathBuf },
    Tap(TapSpec),
    Pcap(PcapSpec),
    Null(NullSpec),
    Xdp(XdpSpec),
    Netem { impairments: Impairments, port: Box<PortSpec> },
}

/// What may follow a port's address, separated by commas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `mac=02:00:00:00:00:01`: our address, where the device states none.
    pub mac: Option<[u8; 6]>,
    /// `queues=2`: how many queue pairs to ask for, or to offer; without it as many as cores share the port.
    pub queues: Option<u16>,
    /// `promisc=on`: receive every packet, whoever it is for; without the option as the device starts.
    pub promisc: Option<bool>,
    /// `allmulti=on`: receive every multicast packet.
    pub allmulti: Option<bool>,
    /// `reconnect=off` of a `vhost-user:` port: it does not come back when its backend does.
    pub no_reconnect: bool,
    /// `wait=on` of a `vhost-user:` port: it opens before its backend is there.
    pub wait: bool,
    /// `FEATURE=on` of a virtio port: a driver insists on them, a device offers them also where it would not otherwise.
    pub with: u64,
    /// `FEATURE=off`: not accepted, not offered.
    pub without: u64,
}

/// The most queue pairs that can be asked for.
const MAX_QUEUE_PAIRS: u16 = 256;

/// A port string that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("port {text:?}: {problem}")]
pub struct SpecError {
    pub(super) text: String,
    pub(super) problem: String,
}

const KINDS: &str = "loop:[NAME.]a, loop:[NAME.]b, vfio:PCI-ADDRESS, vhost-user:PATH, vhost-user-server:PATH, \
                     tap:INTERFACE, xdp:INTERFACE, pcap:in=FILE,out=FILE, null:, netem:OPTIONS/PORT";

impl FromStr for PortSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fail = |problem: String| SpecError { text: text.to_owned(), problem };
        let (kind, rest) =
            text.split_once(':').ok_or_else(|| fail(format!("no kind; a port is one of {KINDS}")))?;
        if kind == "netem" {
            let (impairments, port) = rest.split_once('/').ok_or_else(|| {
                fail("no port; it follows a slash, as in netem:loss=1%,delay=10ms/tap:bw0".to_owned())
            })?;
            let impairments = Impairments::parse(impairments).map_err(fail)?;
            let port = Box::new(port.parse()?);
            let kind = Kind::Netem { impairments, port };
            return Ok(Self { text: text.to_owned(), kind, options: Options::default() });
        }
        if matches!(kind, "pcap" | "null") {
            return Self::without_address(text, kind, rest).map_err(fail);
        }
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default();
        let mut kind = match kind {
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
            "tap" => Kind::Tap(TapSpec::new(address).map_err(&fail)?),
            "xdp" => Kind::Xdp(XdpSpec::new(address).map_err(&fail)?),
            other => return Err(fail(format!("no kind of port is called {other:?}; there are {KINDS}"))),
        };
        let mut options = Options::default();
        for option in parts {
            options.set(&mut kind, option).map_err(&fail)?;
        }
        Ok(Self { text: text.to_owned(), kind, options })
    }
}

impl PortSpec {
    /// A port of which there are only options.
    fn without_address(text: &str, kind: &str, rest: &str) -> Result<Self, String> {
        let mut kind = match kind {
            "pcap" => Kind::Pcap(PcapSpec::default()),
            _ => Kind::Null(NullSpec::default()),
        };
        let mut options = Options::default();
        for option in rest.split(',').filter(|option| !option.is_empty()) {
            options.set(&mut kind, option)?;
        }
        if let Kind::Pcap(pcap) = &kind {
            pcap.check()?;
        }
        Ok(Self { text: text.to_owned(), kind, options })
    }
}

impl Options {
    fn set(&mut self, kind: &mut Kind, option: &str) -> Result<(), String> {
        match (option.split_once('='), kind) {
            (Some(("mac", mac)), _) => {
                self.mac = Some(parse_mac(mac).ok_or_else(|| {
                    format!("{mac:?} is not a unicast MAC address such as 02:00:00:00:00:01")
                })?);
            }
            (_, Kind::Pcap(pcap)) => pcap.set(option)?,
            (_, Kind::Null(null)) if !option.starts_with("queues=") => null.set(option)?,
            (_, Kind::Xdp(xdp)) => xdp.set(option)?,
            (Some(("queues", queues)), Kind::Tap(tap)) => tap.set_queues(queues)?,
            (Some(("persist", "on")), Kind::Tap(tap)) => tap.persist = true,
            (Some(("persist", "off")), Kind::Tap(tap)) => tap.persist = false,
            (Some(("offload", "on")), Kind::Tap(tap)) => tap.offload = Some(true),
            (Some(("offload", "off")), Kind::Tap(tap)) => tap.offload = Some(false),
            (_, Kind::Tap(_)) => {
                return Err(format!(
                    "option {option:?} is none of mac=ADDRESS, queues=N, persist=on|off, offload=on|off"
                ));
            }
            (Some(("queues", queues)), _) => {
                let queues = queues.parse().ok().filter(|queues| (1..=MAX_QUEUE_PAIRS).contains(queues));
                self.queues = Some(
                    queues.ok_or_else(|| format!("option {option:?}; 1 to {MAX_QUEUE_PAIRS} queue pairs"))?,
                );
            }
            (Some(("promisc", value)), kind) => self.promisc = Some(kind.driver_switch(option, value)?),
            (Some(("allmulti", value)), kind) => self.allmulti = Some(kind.driver_switch(option, value)?),
            (Some(("reconnect", value @ ("on" | "off"))), Kind::VhostUser { .. }) => {
                self.no_reconnect = value == "off"
            }
            (Some(("wait", value @ ("on" | "off"))), Kind::VhostUser { .. }) => self.wait = value == "on",
            (Some((name, value)), _) => self.set_feature(name, value)?,
            _ => return Err(no_option(option)),
        }
        Ok(())
    }

    fn set_feature(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some(bit) = feature::by_option(name) else { return Err(no_option(&format!("{name}={value}"))) };
        (self.with, self.without) = match value {
            "on" | "1" => (self.with | bit, self.without & !bit),
            "off" | "0" => (self.with & !bit, self.without | bit),
            _ => return Err(format!("feature {name}={value} is neither on nor off")),
        };
        Ok(())
    }
}

impl Kind {
    /// A switch that a driver asks its device for.
    fn driver_switch(&self, option: &str, value: &str) -> Result<bool, String> {
        match (self, value) {
            (Kind::Loop { driver: true, .. } | Kind::Vfio(_) | Kind::VhostUser { .. }, "on") => Ok(true),
            (Kind::Loop { driver: true, .. } | Kind::Vfio(_) | Kind::VhostUser { .. }, "off") => Ok(false),
            (Kind::Loop { driver: false, .. } | Kind::VhostUserServer { .. }, _) => {
                Err(format!("option {option:?} is the driver's; this port is the device"))
            }
            _ => Err(format!("option {option:?} is neither on nor off")),
        }
    }
}

fn no_option(option: &str) -> String {
    format!(
        "option {option:?} is none of mac=ADDRESS, queues=N, promisc=on, allmulti=on, FEATURE=on, FEATURE=off, and of \
         vhost-user: reconnect=on|off, wait=on|off; a feature is a virtio feature bit in lower case, such as ring_packed, in_order, event_idx, mrg_rxbuf, csum, host_tso4, guest_tso4, mq, rss"
    )
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
    /// The port that frames come from in the end: what `netem:` wraps, or this one.
    #[must_use]
    pub fn innermost(&self) -> &PortSpec {
        let mut spec = self;
        while let Kind::Netem { port, .. } = &spec.kind {
            spec = port;
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(problem("loop:a,size=9").contains("option \"size=9\" is none of mac="));
        assert!(problem("loop:a,mac=01:00:00:00:00:00").contains("unicast"));
        assert!(problem("loop:a,mac=2:0:0:0:0:0").contains("02:00:00:00:00:01"));
        assert!(problem("loop:a,queues=0").contains("1 to 256 queue pairs"));
        assert!(problem("loop:a,promisc=maybe").contains("neither on nor off"));
        assert!(problem("loop:b,promisc=on").contains("the driver's"));
        assert!(problem("loop:a,packed_vq=maybe").contains("packed_vq=maybe is neither on nor off"));
        assert!(problem("loop:a,wait=on").contains("vhost-user: reconnect=on|off"));
        assert!(problem("vhost-user:/x,wait=maybe").contains("wait=on|off"));
        assert!(problem("loop:a,version_1=off").contains("option \"version_1=off\" is none of"));
        assert!(problem("tap:").contains("as in tap:bw0"));
        assert!(problem("tap:bw0,mrg_rxbuf=on").contains("none of mac=ADDRESS, queues=N, persist=on|off"));
        assert!(problem("pcap:").contains("as in pcap:in=a.pcap"));
        assert!(problem("pcap:in=a,queues=2").contains("none of in=FILE"));
        assert!(problem("null:rx=maybe").contains("none of rx=on, rx=off, size=BYTES"));
        assert!(problem("null:size=13").contains("14 to 1518"));
        assert!(problem("netem:loss=1%").contains("no port; it follows a slash"));
        assert!(problem("netem:loss=1%/loop:c").contains("port \"loop:c\": the end of a link"));
        assert!(problem("netem:lost=1%/loop:a").contains("none of loss=P%"));
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
        let mac = Some([2, 0, 0, 0, 0, 10]);
        assert_eq!(spec.options, Options { mac, with: feature::MRG_RXBUF, ..Options::default() });
        let spec: PortSpec =
            "vhost-user:/run/x,queues=2,packed_vq=1,in_order=on,csum=off,packed_vq=0".parse().unwrap();
        let Options { queues, with, without, .. } = spec.options;
        let spec_modes: PortSpec = "vfio:00:03.0,promisc=off,allmulti=on".parse().unwrap();
        assert_eq!((spec_modes.options.promisc, spec_modes.options.allmulti), (Some(false), Some(true)));
        assert_eq!(queues, Some(2));
        assert_eq!((with, without), (feature::IN_ORDER, feature::CSUM | feature::RING_PACKED));
        let spec: PortSpec = "tap:bw0,queues=2,persist=on,offload=off,mac=02:00:00:00:00:0a".parse().unwrap();
        let Kind::Tap(TapSpec { name, queues: 2, persist: true, offload: Some(false) }) = &spec.kind else {
            panic!("{spec:?}")
        };
        assert_eq!((name.as_str(), spec.options.mac), ("bw0", Some([2, 0, 0, 0, 0, 10])));
    }

    #[test]
    fn bad_links_wrap_any_port_paths_and_each_other() {
        let spec: PortSpec = "netem:delay=1ms/netem:loss=1%,seed=3/vhost-user:/run/x.sock".parse().unwrap();
        assert_eq!(spec.innermost().to_string(), "vhost-user:/run/x.sock");
        assert_eq!("netem:/loop:a".parse::<PortSpec>().unwrap().innermost().to_string(), "loop:a");
    }
}
