//! `--to`: an address or a name, and a port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use stack::IpAddress;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which host.
    pub host: Host,
    /// Port; `None`: the protocol's own.
    pub port: Option<u16>,
}

/// A host as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By its address.
    Address(IpAddress),
    /// By its name, to be resolved.
    Name(String),
}

impl Target {
    /// Reads `10.0.0.2:7`, `[fd00::2]:7`, `fd00::2`, `server.example:80`, each also without port.
    ///
    /// # Errors
    /// A sentence for clap.
    pub fn parse(text: &str) -> Result<Target, String> {
        let advice = || {
            format!("`{text}` is no target; give ADDR:PORT, [ADDR6]:PORT or NAME:PORT, such as 10.0.0.2:7")
        };
        // Two colons and no brackets are an IPv6 address without port.
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Self::of(Host::Address(IpAddr::V6(address).into()), None);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, behind) = rest.split_once(']').ok_or_else(advice)?;
                let address: Ipv6Addr = inside.parse().map_err(|_| advice())?;
                let port = behind.strip_prefix(':');
                if port.is_none() && !behind.is_empty() {
                    return Err(advice());
                }
                (Host::Address(IpAddr::V6(address).into()), port)
            }
            None => {
                let (host, port) =
                    text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
                match host.parse::<IpAddr>() {
                    Ok(address) => (Host::Address(address.into()), port),
                    Err(_) if is_name(host) => (Host::Name(host.to_ascii_lowercase()), port),
                    Err(_) => return Err(advice()),
                }
            }
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(format!("the port of `{text}` is no number from 1 to 65535")),
        };
        Self::of(host, port)
    }

    fn of(host: Host, port: Option<u16>) -> Result<Target, String> {
        match &host {
            Host::Address(address) if !address.is_unicast() => {
                Err(format!("{address} is no address that one host can have"))
            }
            _ => Ok(Target { host, port }),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(IpAddress::Ipv4(address)) => address.fmt(f),
            Host::Address(IpAddress::Ipv6(address)) => write!(f, "[{address}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// RFC 1123 §2.1: letters, digits and hyphens in labels of 1 to 63; 253 in all. A last label of digits only would be a
/// mistyped address.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = text.rsplit('.').next().unwrap_or(text);
    text.len() <= 253 && text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_have_a_port_or_none() {
        for (text, host, port) in [
            ("10.0.0.2:7", "10.0.0.2", Some(7)),
            ("10.0.0.2", "10.0.0.2", None),
            ("[fd00::2]:80", "[fd00::2]", Some(80)),
            ("[fd00::2]", "[fd00::2]", None),
            ("fd00::2", "[fd00::2]", None),
            ("Server.Example:8080", "server.example", Some(8080)),
            ("localhost", "localhost", None),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.host.to_string().as_str(), target.port), (host, port), "{text}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            ":7",
            "10.0.0.2:",
            "10.0.0.2:0",
            "10.0.0.2:65536",
            "10.0.0.2:http",
            "10.0.0.300:7",
            "1.2.3:4",
            "[fd00::2",
            "[fd00::2]7",
            "[10.0.0.1]:7",
            "a..b:1",
            "-a:1",
            "a_b:1",
            "0.0.0.0:7",
            "224.0.0.1:7",
            "[::]:7",
            "http://x/",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
        assert!(Target::parse("10.0.0.2:0").unwrap_err().contains("1 to 65535"));
    }
}
