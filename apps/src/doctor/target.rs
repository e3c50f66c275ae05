//! The ports that were asked for, and what a port without a NIC needs.

use std::fmt;
use std::path::{Path, PathBuf};

use pmd::port::{PortSpec, SpecError};
use pmd::vfio::PciAddress;

use super::Check;
use super::machine::{Access, Machine};
use super::xdp;

/// A port that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: String,
    place: Place,
}

/// Where the port is, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Nic(PciAddress),
    Backend(PathBuf),
    Served(PathBuf),
    Interface(String),
    Taken(String),
    Process,
}

impl Target {
    /// Reads a port string, exactly as the programs that open it do.
    ///
    /// # Errors
    /// Says what is wrong with the string and which ones there are.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let spec: PortSpec = text.parse()?;
        // Valid from here on: a kind, where it is, options after commas.
        let innermost = spec.innermost().to_string();
        let (kind, rest) = innermost.split_once(':').unwrap_or_default();
        let place = rest.split(',').next().unwrap_or_default();
        let place = match (kind, place.parse()) {
            ("vfio", Ok(address)) => Place::Nic(address),
            ("vhost-user", _) => Place::Backend(place.into()),
            ("vhost-user-server", _) => Place::Served(place.into()),
            ("tap", _) => Place::Interface(place.to_owned()),
            ("xdp", _) => Place::Taken(place.to_owned()),
            _ => Place::Process,
        };
        Ok(Target { text: spec.to_string(), place })
    }

    /// The NIC behind a `vfio:` port.
    #[must_use]
    pub fn nic(&self) -> Option<PciAddress> {
        match self.place {
            Place::Nic(address) => Some(address),
            _ => None,
        }
    }

    /// What this port needs beside the host's checks; `None` where that is nothing, or a NIC's check says it.
    pub(super) fn check(&self, machine: &Machine) -> Option<Check> {
        let stops = vec![self.to_string()];
        match &self.place {
            Place::Nic(_) | Place::Process => None,
            Place::Backend(path) => Some(match machine.access(path) {
                Access::Missing => Check::stops(
                    "socket",
                    format!("{} does not exist", path.display()),
                    Some("start the backend first; it makes the socket".to_owned()),
                    stops,
                ),
                Access::Denied { owner, mode } => Check::stops(
                    "socket",
                    format!("{} belongs to user {owner}, mode {mode:03o}", path.display()),
                    Some(format!("{}chown $USER {}", machine.sudo(), path.display())),
                    stops,
                ),
                Access::Allowed if !machine.is_socket(path) => Check::stops(
                    "socket",
                    format!("{} is there but is no socket", path.display()),
                    Some("name the socket of the vhost-user backend".to_owned()),
                    stops,
                ),
                Access::Allowed => Check::pass("socket", format!("{} is there", path.display())),
            }),
            Place::Interface(name) => Some(match machine.access("/dev/net/tun") {
                Access::Missing => Check::stops(
                    "tap",
                    "there is no /dev/net/tun".to_owned(),
                    Some(format!("{}modprobe tun", machine.sudo())),
                    stops,
                ),
                Access::Denied { owner, mode } => Check::stops(
                    "tap",
                    format!("/dev/net/tun belongs to user {owner}, mode {mode:03o}"),
                    Some(format!("{}chmod 666 /dev/net/tun", machine.sudo())),
                    stops,
                ),
                Access::Allowed if machine.may_use_tap(name) => {
                    Check::pass("tap", format!("{name} can be opened"))
                }
                Access::Allowed => Check::stops(
                    "tap",
                    format!("{name} is not this user's, and this process lacks CAP_NET_ADMIN"),
                    Some(format!(
                        "{}sudo ip tuntap add dev {name} mode tap user $USER && sudo ip link set {name} up",
                        if machine.has_interface(name) {
                            format!("sudo ip link del {name} && ")
                        } else {
                            String::new()
                        }
                    )),
                    stops,
                ),
            }),
            Place::Taken(name) => Some(xdp::check(machine, name, stops)),
            Place::Served(path) => {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Some(match machine.access(folder) {
                    Access::Missing => Check::stops(
                        "socket",
                        format!("the folder {} does not exist", folder.display()),
                        Some(format!("{}mkdir -p {}", machine.sudo(), folder.display())),
                        stops,
                    ),
                    Access::Denied { owner, mode } => Check::stops(
                        "socket",
                        format!("the folder {} belongs to user {owner}, mode {mode:03o}", folder.display()),
                        Some(
                            "choose a folder in which you may make files, such as $XDG_RUNTIME_DIR"
                                .to_owned(),
                        ),
                        stops,
                    ),
                    Access::Allowed => Check::pass("socket", format!("{} can be made", path.display())),
                })
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
