//! Flags that all programs with a TCP/IP stack share: addresses, routes, connections.

use std::time::Duration;

use engine::{DscpSet, Priority, StackSettings};
use stack::{IpAddress, IpCidr, TcpOptions};

use super::Failure;
use super::flags::seconds;
use crate::programs::units;

/// Smallest and largest buffer of a connection's direction in bytes.
const BUFFER: std::ops::RangeInclusive<usize> = TcpOptions::MIN_BUFFER_BYTES..=TcpOptions::MAX_BUFFER_BYTES;

/// Addresses, routes, connections.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "TCP/IP")]
pub struct StackFlags {
    /// Address of this end with the length of its network's prefix, such as 10.0.0.1/24 or fd00::1/64; repeatable
    #[arg(long = "ip", value_name = "ADDR/LEN", value_parser = own_address)]
    pub addresses: Vec<IpCidr>,

    /// Router to everything beyond those networks; once for IPv4, once for IPv6
    #[arg(long = "gateway", value_name = "ADDR", value_parser = address)]
    pub gateways: Vec<IpAddress>,

    /// Ask a DHCP server for an IPv4 address, router and name servers
    #[arg(long)]
    pub dhcp: bool,

    /// Form IPv6 addresses from a router's advertisements
    #[arg(long)]
    pub slaac: bool,

    /// Name server; repeatable
    #[arg(long = "dns", value_name = "ADDR", value_parser = address)]
    pub name_servers: Vec<IpAddress>,

    /// Send and take frames of this 802.1Q VLAN only, 1 to 4094
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,

    /// Receive buffer of a connection, which bounds its window: 1K to 16M bytes [default: 64K]
    #[arg(long, value_name = "BYTES", value_parser = buffer)]
    pub rx_buffer: Option<usize>,

    /// Send buffer of a connection, 1K to 16M bytes [default: 64K]
    #[arg(long, value_name = "BYTES", value_parser = buffer)]
    pub tx_buffer: Option<usize>,

    /// Hold small segments back while others are unacknowledged (Nagle's algorithm); off without it
    #[arg(long)]
    pub nagle: bool,

    /// Probe the peer of a silent connection every so many seconds; never without it
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub keep_alive: Option<Duration>,

    /// How the send rate follows loss
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    pub congestion: Congestion,

    /// Most connections of a core at a time; more are refused
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_connections: Option<usize>,

    /// Most connections of a core whose handshake is not complete; more are dropped
    #[arg(long, value_name = "N", value_parser = count)]
    pub half_open: Option<usize>,

    /// DSCP of what TCP connections send: 0 to 63, or a name such as EF, CS6, AF41 [default: 0]
    #[arg(long, value_name = "DSCP", value_parser = dscp)]
    pub dscp: Option<u8>,

    /// Send frames whose DSCP is urgent before all others
    #[arg(long)]
    pub priority: bool,

    /// Which are urgent, such as EF,CS6 or 46,48; implies --priority [default: EF,CS6,CS7]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = dscp)]
    pub urgent_dscp: Vec<u8>,

    /// Frames that may wait in a transmit ring for another normal one to join them: fewer let an urgent one pass sooner;
    /// implies --priority [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32_768))]
    pub normal_limit: Option<u16>,
}

/// Congestion control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Congestion {
    /// CUBIC, RFC 9438
    #[default]
    Cubic,
    /// Reno, RFC 5681
    Reno,
    /// The peer's window alone limits what is sent
    None,
}

impl From<Congestion> for stack::Congestion {
    fn from(flag: Congestion) -> stack::Congestion {
        match flag {
            Congestion::Cubic => stack::Congestion::Cubic,
            Congestion::Reno => stack::Congestion::Reno,
            Congestion::None => stack::Congestion::None,
        }
    }
}

impl StackFlags {
    /// The options of connections.
    #[must_use]
    pub fn tcp(&self) -> TcpOptions {
        let default = TcpOptions::default();
        TcpOptions {
            rx_bytes: self.rx_buffer.unwrap_or(default.rx_bytes),
            tx_bytes: self.tx_buffer.unwrap_or(default.tx_bytes),
            nodelay: !self.nagle,
            keep_alive: self.keep_alive,
            congestion: self.congestion.into(),
            dscp: self.dscp.unwrap_or(default.dscp),
            ..default
        }
    }

    /// What the port sends first; `None` if all frames are alike.
    #[must_use]
    pub fn priority(&self) -> Option<Priority> {
        if !self.priority && self.urgent_dscp.is_empty() && self.normal_limit.is_none() {
            return None;
        }
        let default = Priority::default();
        let urgent = DscpSet::of(self.urgent_dscp.iter().copied()).filter(|set| *set != DscpSet::NONE);
        Some(Priority {
            urgent: urgent.unwrap_or(default.urgent),
            normal_limit: self.normal_limit.unwrap_or(default.normal_limit),
        })
    }

    /// The settings of `program`'s stack, checked.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn settings(&self, program: &str) -> Result<StackSettings, Failure> {
        self.check(program)?;
        let mut settings = StackSettings {
            addresses: self.addresses.clone(),
            gateways: self.gateways.clone(),
            dhcp: self.dhcp,
            slaac: self.slaac,
            dns: self.name_servers.clone(),
            vlan: self.vlan,
            tcp: self.tcp(),
            ..StackSettings::default()
        };
        let limits = &mut settings.limits;
        limits.flows = self.max_connections.unwrap_or(limits.flows);
        limits.half_open = self.half_open.unwrap_or(limits.half_open).min(limits.flows);
        Ok(settings)
    }

    /// Checks what no flag alone can show, for `program`.
    ///
    /// # Errors
    /// [`Failure::Usage`]: no way to an address, a gateway out of reach, two of a kind.
    pub fn check(&self, program: &str) -> Result<(), Failure> {
        if self.addresses.is_empty() && !self.dhcp && !self.slaac {
            return Err(Failure::usage(format!(
                "{program} has no address; give --ip ADDR/LEN (such as --ip 10.0.0.1/24), --dhcp or --slaac"
            )));
        }
        for (at, address) in self.addresses.iter().enumerate() {
            let same = |other: &&IpCidr| other.address() == address.address();
            if self.addresses[..at].iter().any(|other| same(&other)) {
                return Err(Failure::usage(format!(
                    "--ip {} is given twice; once is enough",
                    address.address()
                )));
            }
        }
        for (at, gateway) in self.gateways.iter().enumerate() {
            if self.gateways[..at].iter().any(|other| other.version() == gateway.version()) {
                return Err(Failure::usage(format!(
                    "--gateway {gateway} is the second one for {}; only one can be the way out",
                    gateway.version()
                )));
            }
            self.check_gateway(*gateway)?;
        }
        Ok(())
    }

    /// A gateway must be a neighbour, and not this end itself.
    fn check_gateway(&self, gateway: IpAddress) -> Result<(), Failure> {
        if self.addresses.iter().any(|own| own.address() == gateway) {
            return Err(Failure::usage(format!(
                "--gateway {gateway} is this end's own address; give the router's"
            )));
        }
        let comes_later = match gateway {
            IpAddress::Ipv4(_) => self.dhcp,
            // A router's link-local address is on every link. RFC 4861 §6.1.2
            IpAddress::Ipv6(address) => self.slaac || address.is_unicast_link_local(),
        };
        if comes_later || self.addresses.iter().any(|own| own.contains_addr(&gateway)) {
            return Ok(());
        }
        let networks: Vec<String> = self.addresses.iter().map(IpCidr::to_string).collect();
        Err(Failure::usage(format!(
            "--gateway {gateway} is on none of this end's networks ({}), so no frame can reach it; give a router on \
             one of them, or the --ip with the right prefix length",
            networks.join(", ")
        )))
    }
}

/// An address that a host can have, with its prefix length.
fn own_address(text: &str) -> Result<IpCidr, String> {
    let advice = || "give an address and its prefix length, such as 10.0.0.1/24 or fd00::1/64".to_string();
    if let Ok(address) = text.parse::<IpAddress>() {
        let length = if matches!(address, IpAddress::Ipv4(_)) { 24 } else { 64 };
        return Err(format!("the length of the network's prefix is missing; {text}/{length} is usual"));
    }
    let cidr: IpCidr = text.parse().map_err(|()| advice())?;
    let IpCidr::Ipv4(v4) = cidr else {
        return if cidr.address().is_unicast() { Ok(cidr) } else { Err(not_a_host(text)) };
    };
    if !cidr.address().is_unicast() || v4.address().is_loopback() {
        return Err(not_a_host(text));
    }
    // RFC 3021: a prefix of 31 has two hosts and nothing else.
    let is_edge = v4.address() == v4.network().address() || Some(v4.address()) == v4.broadcast();
    if is_edge && v4.prefix_len() < 31 {
        return Err(format!("it is the address of the whole network {}; give one host's", v4.network()));
    }
    Ok(cidr)
}

fn address(text: &str) -> Result<IpAddress, String> {
    let address: IpAddress =
        text.parse().map_err(|()| "give an address such as 10.0.0.254 or fe80::1".to_string())?;
    if address.is_unicast() { Ok(address) } else { Err(not_a_host(text)) }
}

fn not_a_host(text: &str) -> String {
    format!("{text} is no address that one host can have")
}

fn buffer(text: &str) -> Result<usize, String> {
    match units::bytes(text) {
        Ok(bytes) if BUFFER.contains(&bytes) => Ok(bytes),
        Ok(bytes) => Err(format!("{bytes} bytes are not allowed; use 1K to 16M")),
        Err(advice) => Err(advice),
    }
}

/// A code point by number, or by its name in RFC 2474 (CSx), 2597 (AFxy), 3246 (EF), 5865 (VA), 8622 (LE).
fn dscp(text: &str) -> Result<u8, String> {
    let advice = || "use 0 to 63, or a name such as EF, CS6 or AF41".to_string();
    if let Ok(number) = text.parse::<u8>() {
        return if number < 64 { Ok(number) } else { Err(advice()) };
    }
    match text.to_ascii_uppercase().as_bytes() {
        [b'C', b'S', class @ b'0'..=b'7'] => Ok((class - b'0') << 3),
        [b'A', b'F', class @ b'1'..=b'4', drop @ b'1'..=b'3'] => Ok((class - b'0') << 3 | (drop - b'0') << 1),
        b"EF" => Ok(46),
        b"VA" => Ok(44),
        b"LE" => Ok(1),
        _ => Err(advice()),
    }
}

fn count(text: &str) -> Result<usize, String> {
    let number = units::scaled(text)?;
    usize::try_from(number).map_err(|_| "it is too large".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        stack: StackFlags,
    }

    fn check(line: &str) -> Result<StackFlags, String> {
        let command = Command::try_parse_from(["echo"].into_iter().chain(line.split_whitespace()))
            .map_err(|error| error.to_string())?;
        match command.stack.check("echo") {
            Ok(()) => Ok(command.stack),
            Err(Failure::Usage(error)) => Err(error.to_string()),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_of_both_families_and_their_routers_are_taken() {
        let flags = check("--ip 10.0.0.1/24 --ip fd00::1/64 --gateway 10.0.0.254 --gateway fe80::1").unwrap();
        assert_eq!(flags.addresses.len(), 2);
        assert!(check("--dhcp --gateway 192.0.2.1").is_ok());
        assert!(check("--slaac").is_ok());
        assert!(check("--ip 192.0.2.0/31 --gateway 192.0.2.1").is_ok());
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_next_step() {
        for (line, words) in [
            ("", "echo has no address; give --ip ADDR/LEN"),
            ("--ip 10.0.0.1", "10.0.0.1/24 is usual"),
            ("--ip fd00::1", "fd00::1/64 is usual"),
            ("--ip ten/24", "such as 10.0.0.1/24"),
            ("--ip 10.0.0.1/33", "such as 10.0.0.1/24"),
            ("--ip 10.0.0.0/24", "whole network 10.0.0.0/24"),
            ("--ip 10.0.0.255/24", "whole network 10.0.0.0/24"),
            ("--ip 224.0.0.1/24", "no address that one host can have"),
            ("--ip 127.0.0.1/8", "no address that one host can have"),
            ("--ip ff02::1/64", "no address that one host can have"),
            ("--ip 10.0.0.1/24 --ip 10.0.0.1/16", "given twice"),
            ("--ip 10.0.0.1/24 --gateway 10.0.1.1", "none of this end's networks (10.0.0.1/24)"),
            ("--ip 10.0.0.1/24 --gateway 10.0.0.1", "own address"),
            ("--ip 10.0.0.1/24 --gateway 10.0.0.2 --gateway 10.0.0.3", "second one for IPv4"),
            ("--ip 10.0.0.1/24 --gateway fd00::1", "none of this end's networks"),
            ("--dhcp --vlan 4095", "1..=4094"),
            ("--dhcp --rx-buffer 12", "use 1K to 16M"),
            ("--dhcp --rx-buffer 1G", "suffix K or M"),
            ("--dhcp --max-connections 0", "positive number"),
            ("--dhcp --congestion bbr", "possible values: cubic, reno, none"),
            ("--dhcp --dscp 64", "use 0 to 63"),
            ("--dhcp --dscp AF44", "a name such as EF"),
            ("--dhcp --urgent-dscp 46,prompt", "a name such as EF"),
            ("--dhcp --normal-limit 0", "1..=32768"),
        ] {
            let error = check(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn code_points_have_numbers_and_names() {
        for (text, point) in
            [("0", 0), ("63", 63), ("ef", 46), ("CS6", 48), ("AF41", 34), ("af13", 14), ("LE", 1)]
        {
            let flags = check(&format!("--dhcp --dscp {text}")).unwrap();
            assert_eq!((flags.tcp().dscp, flags.priority()), (point, None), "{text}");
        }
        assert_eq!(check("--dhcp").unwrap().tcp().dscp, 0);
    }

    #[test]
    fn each_flag_of_priorities_turns_them_on_and_keeps_the_others_defaults() {
        let priority = |line: &str| check(&format!("--dhcp {line}")).unwrap().priority();
        let default = Priority::default();
        assert_eq!(priority(""), None);
        assert_eq!(priority("--priority"), Some(default));
        assert_eq!(priority("--normal-limit 32"), Some(Priority { normal_limit: 32, ..default }));
        let urgent = DscpSet::of([10, 46]).unwrap();
        for list in ["--urgent-dscp AF11,EF", "--urgent-dscp 46 --urgent-dscp 10 --priority"] {
            assert_eq!(priority(list), Some(Priority { urgent, ..default }), "{list}");
        }
    }
}
