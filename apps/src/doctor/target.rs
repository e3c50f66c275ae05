//! The ports that were asked for, and what a port without a NIC needs.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Check;
use super::machine::{Access, Machine};

/// A port string, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `vfio:0000:00:03.0`
    Vfio(String),
    /// `vhost-user:/run/x.sock`
    VhostUser(PathBuf),
    /// `vhost-user-server:/run/x.sock`
    VhostUserServer(PathBuf),
    /// `loop:a`
    Loop(String),
}

impl Target {
    /// Reads a port string. A PCI address may lack its domain and be in either case.
    ///
    /// # Errors
    /// Says what is wrong with the string and which ones there are.
    pub fn parse(spec: &str) -> Result<Self, String> {
        let kinds = "vfio:ADDR, vhost-user:PATH, vhost-user-server:PATH, loop:NAME";
        let (kind, rest) =
            spec.split_once(':').ok_or_else(|| format!("no port string; there are {kinds}"))?;
        if rest.is_empty() {
            return Err(format!("nothing after `{kind}:`; there are {kinds}"));
        }
        match kind {
            "vfio" => Ok(Target::Vfio(pci_address(rest).ok_or_else(|| {
                format!("`{rest}` is not a PCI address such as 0000:03:00.0; ./hugepage-setup.sh --status lists the NICs")
            })?)),
            "vhost-user" => Ok(Target::VhostUser(rest.into())),
            "vhost-user-server" => Ok(Target::VhostUserServer(rest.into())),
            "loop" => Ok(Target::Loop(rest.to_owned())),
            _ => Err(format!("no kind of port is called `{kind}`; there are {kinds}")),
        }
    }

    /// What this port needs beside the host's checks; `None` where that is nothing, or a NIC's check says it.
    pub(super) fn check(&self, machine: &Machine) -> Option<Check> {
        let stops = vec![self.to_string()];
        match self {
            Target::Vfio(_) | Target::Loop(_) => None,
            Target::VhostUser(path) => Some(match machine.access(path) {
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
            Target::VhostUserServer(path) => {
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
        match self {
            Target::Vfio(address) => write!(f, "vfio:{address}"),
            Target::VhostUser(path) => write!(f, "vhost-user:{}", path.display()),
            Target::VhostUserServer(path) => write!(f, "vhost-user-server:{}", path.display()),
            Target::Loop(name) => write!(f, "loop:{name}"),
        }
    }
}

/// The address in full and in lower case, if it is one: `dddd:bb:dd.f`.
fn pci_address(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let full = if text.matches(':').count() == 1 { format!("0000:{text}") } else { text };
    let fields: Vec<&str> = full.split([':', '.']).collect();
    let hex = |field: &str, len: usize| field.len() == len && field.bytes().all(|b| b.is_ascii_hexdigit());
    let right = match fields[..] {
        [domain, bus, device, function] => {
            hex(domain, 4)
                && hex(bus, 2)
                && hex(device, 2)
                && u8::from_str_radix(device, 16).is_ok_and(|d| d < 32)
                && matches!(function.as_bytes(), [b'0'..=b'7'])
                && full.as_bytes()[10] == b'.'
        }
        _ => false,
    };
    right.then_some(full)
}
