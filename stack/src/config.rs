//! What a stack is told at its birth, and the bounds of everything it keeps.

use std::time::Duration;

use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use thiserror::Error;

use crate::options::TcpOptions;

/// This stack's place among the cores that share an address: core `index` of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: u16,
    /// At least 1.
    pub count: u16,
}

/// The only core.
impl Default for Share {
    fn default() -> Self {
        Share { index: 0, count: 1 }
    }
}

/// Bounds of everything a stack keeps. Nothing grows beyond them, whatever peers send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, half-open ones included: 1 to 4,194,304. The [crate](crate#memory) says what each takes.
    pub flows: usize,
    /// Half-open connections in all; the oldest makes room for a new one.
    pub half_open: usize,
    /// How long a handshake may take.
    pub half_open_timeout: Duration,
    /// Connections remembered in TIME-WAIT; the oldest makes room. To a peer whose FIN was acknowledged that makes no
    /// difference; one that never got the acknowledgement gets a reset if its FIN, sent again, finds the connection
    /// gone (RFC 9293 §3.10.7.1: to acknowledge what is not remembered would be to claim bytes that may never have
    /// come). The default outlasts a retransmission timeout of 200 ms at 300,000 connections a second.
    pub time_wait: usize,
    /// How long TIME-WAIT lasts (RFC 9293 §3.4.2 asks for two maximum segment lifetimes).
    pub time_wait_timeout: Duration,
    /// How long bytes that nobody reads are kept after both sides have finished.
    pub unread_timeout: Duration,
    /// Listeners.
    pub listeners: usize,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Neighbours (ARP and IPv6 neighbour discovery).
    pub neighbours: usize,
    /// Packets that wait for one neighbour's address.
    pub pending_per_neighbour: usize,
    /// Bytes of incomplete fragments.
    pub reassembly_bytes: usize,
    /// Resets sent in a second to segments of no connection.
    pub resets_per_second: u32,
    /// ICMP errors sent in a second.
    pub icmp_errors_per_second: u32,
    /// Frames one flow may send in one turn before the others have theirs.
    pub frames_per_flow: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            flows: 131_072,
            half_open: 4096,
            half_open_timeout: Duration::from_secs(10),
            time_wait: 65_536,
            time_wait_timeout: Duration::from_secs(10),
            unread_timeout: Duration::from_secs(300),
            listeners: 1024,
            udp_sockets: 1024,
            neighbours: 1024,
            pending_per_neighbour: 16,
            reassembly_bytes: 1024 * 1024,
            resets_per_second: 1000,
            icmp_errors_per_second: 1000,
            frames_per_flow: 64,
        }
    }
}

/// Everything a stack is told.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// This host's Ethernet address.
    pub mac: EthernetAddress,
    /// Largest IP packet in bytes, 1280 to 65535 (576 where only IPv4 is used).
    pub mtu: usize,
    /// 802.1Q VLAN that all frames carry, 1 to 4094.
    pub vlan: Option<u16>,
    /// Own addresses with their prefix lengths.
    pub addresses: Vec<IpCidr>,
    /// Default gateways, at most one of each IP version is used.
    pub gateways: Vec<IpAddress>,
    /// Further routes: prefix, next hop.
    pub routes: Vec<(IpCidr, IpAddress)>,
    /// Ask DHCP for an IPv4 address.
    pub dhcp: bool,
    /// Make IPv6 addresses from router advertisements (RFC 4862).
    pub slaac: bool,
    /// Name servers.
    pub dns: Vec<IpAddress>,
    /// Secret of this stack: initial sequence numbers, ports and hash tables depend on it. Take it from the system's
    /// random source; a fixed one only in tests.
    pub seed: [u8; 32],
    /// Which of the cores this is.
    pub share: Share,
    /// Bounds.
    pub limits: Limits,
    /// What connections start with.
    pub tcp: TcpOptions,
    /// How much faster than real time a flow's clock runs, 1 to 100. smoltcp's retransmission timeout is at least one
    /// second on its clock: 5 makes it 200 ms.
    pub clock_scale: u32,
    /// Whether losses are looked for beyond what smoltcp does: among data of the other direction, behind partial
    /// acknowledgements, in silence (RFC 6675, 6582, 8985). On by default; off, each may cost a retransmission timeout.
    pub loss_recovery: bool,
    /// Code points whose flows are served first; CS6, CS7 and EF by default.
    pub urgent: Vec<u8>,
    /// Ports for outgoing connections (RFC 6056), first and last.
    pub ports: (u16, u16),
}

impl StackConfig {
    /// The defaults for a port of address `mac` that carries IP packets of `mtu` bytes: no addresses, no gateway, a
    /// seed of zeros.
    pub fn new(mac: EthernetAddress, mtu: usize) -> Self {
        StackConfig {
            mac,
            mtu,
            vlan: None,
            addresses: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            dhcp: false,
            slaac: false,
            dns: Vec::new(),
            seed: [0; 32],
            share: Share::default(),
            limits: Limits::default(),
            tcp: TcpOptions::default(),
            clock_scale: 5,
            loss_recovery: true,
            urgent: vec![46, 48, 56],
            ports: (16_384, 65_535),
        }
    }

    /// Whether packets of this code point go first.
    pub fn urgent(&self, dscp: u8) -> bool {
        self.urgent.contains(&dscp)
    }

    /// The least MTU for these addresses. RFC 791 §3.1, RFC 8200 §5.
    pub(crate) fn least_mtu(&self) -> usize {
        let v6 = self.slaac || self.addresses.iter().any(|cidr| matches!(cidr, IpCidr::Ipv6(_)));
        if v6 { 1280 } else { 576 }
    }

    /// Whether a stack can be made of it.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |name, value: usize, min: usize, max: usize| match value {
            v if v < min || v > max => Err(ConfigError::OutOfRange { name, value, min, max }),
            _ => Ok(()),
        };
        if !self.mac.is_unicast() {
            return Err(ConfigError::Mac(self.mac));
        }
        range("mtu", self.mtu, self.least_mtu(), 65_535)?;
        if let Some(vlan) = self.vlan {
            range("vlan", usize::from(vlan), 1, 4094)?;
        }
        range("addresses", self.addresses.len(), 0, MAX_ADDRESSES)?;
        for cidr in &self.addresses {
            let address = cidr.address();
            let broadcast = matches!(address, IpAddress::Ipv4(a) if a.is_broadcast());
            if !address.is_unicast() || broadcast {
                return Err(ConfigError::Address(address));
            }
            if self.dhcp && matches!(address, IpAddress::Ipv4(_)) {
                return Err(ConfigError::DhcpAndAddress(address));
            }
        }
        for gateway in self.gateways.iter().chain(&self.dns).chain(self.routes.iter().map(|(_, hop)| hop)) {
            if !gateway.is_unicast() {
                return Err(ConfigError::Address(*gateway));
            }
        }
        range("share.count", usize::from(self.share.count), 1, 1024)?;
        range("share.index", usize::from(self.share.index), 0, usize::from(self.share.count) - 1)?;
        range("clock_scale", self.clock_scale as usize, 1, 100)?;
        range("ports", usize::from(self.ports.0), 1, usize::from(self.ports.1))?;
        let tcp = &self.tcp;
        range("tcp.rx_bytes", tcp.rx_bytes, TcpOptions::MIN_BUFFER_BYTES, TcpOptions::MAX_BUFFER_BYTES)?;
        range("tcp.tx_bytes", tcp.tx_bytes, TcpOptions::MIN_BUFFER_BYTES, TcpOptions::MAX_BUFFER_BYTES)?;
        range("tcp.dscp", usize::from(tcp.dscp), 0, 63)?;
        range("tcp.hop_limit", usize::from(tcp.hop_limit), 1, 255)?;
        let limits = &self.limits;
        range("limits.flows", limits.flows, 1, 1 << 22)?;
        range("limits.half_open", limits.half_open, 1, 1 << 22)?;
        range("limits.time_wait", limits.time_wait, 0, 1 << 22)?;
        range("limits.listeners", limits.listeners, 0, 65_536)?;
        range("limits.udp_sockets", limits.udp_sockets, 0, 65_536)?;
        range("limits.neighbours", limits.neighbours, 1, 1 << 20)?;
        range("limits.pending_per_neighbour", limits.pending_per_neighbour, 0, 4096)?;
        range("limits.reassembly_bytes", limits.reassembly_bytes, 0, 1 << 30)?;
        range("limits.frames_per_flow", limits.frames_per_flow, 1, 4096)
    }
}

/// Most addresses of one stack, learnt ones included.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// A value of [`StackConfig`] that no stack can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Outside its range.
    #[error("{name} is {value}: must be from {min} to {max}")]
    OutOfRange {
        /// Which.
        name: &'static str,
        /// What it is.
        value: usize,
        /// Smallest allowed.
        min: usize,
        /// Largest allowed.
        max: usize,
    },
    /// Not a unicast Ethernet address.
    #[error("{0} is not a unicast Ethernet address")]
    Mac(EthernetAddress),
    /// Not a unicast IP address.
    #[error("{0} is not a unicast IP address")]
    Address(IpAddress),
    /// An IPv4 address, and DHCP is to give one as well.
    #[error("{0} is configured, and DHCP asked for: leave out one of the two")]
    DhcpAndAddress(IpAddress),
}
