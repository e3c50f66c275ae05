//! The DHCP client, on smoltcp's socket for it (RFC 2131), in real time.
//!
//! That socket insists on an interface with an Ethernet below it, so it has one of its own here, which sees nothing but
//! frames for UDP port 68 and whose packets leave through the link as everything else does. Its questions for
//! hardware addresses are answered on the spot with a made-up one: finding the server is the link's business.
//!
//! Runs on the first core only; the others learn what it was given.

#[cfg(test)]
mod tests;

use std::time::Duration;

use arrayvec::ArrayVec;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Medium};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DHCP_CLIENT_PORT, DHCP_MAX_DNS_SERVER_COUNT, DHCP_SERVER_PORT,
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, HardwareAddress, IpCidr, IpProtocol,
    IpRepr, Ipv4Address, Ipv4Cidr, Ipv4Packet, UdpPacket, UdpRepr,
};

use crate::Time;
use crate::one_packet::{OnePacket, from_real};

/// Bytes of an Ethernet header without a VLAN tag, which the client's own frames never have.
const ETHERNET_BYTES: usize = EthernetFrame::<&[u8]>::header_len();
/// RFC 2131 §2: a client must take messages of 576 bytes.
const MIN_MTU_BYTES: usize = 576;
const MAX_MTU_BYTES: usize = 1500;
/// Who has whatever the client asks for.
const NEXT_HOP: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 1]);
/// At most this many messages at once and one more for each [`REFILL`]: the socket starts anew at once when an address
/// is refused, so a server that offers and refuses without end would have us send as fast as it answers.
const BURST: u32 = 4;
const REFILL: Duration = Duration::from_secs(1);
/// smoltcp calls a turn at most: an ARP request, the message behind it, and the end of a lease.
const POLLS: usize = 4;

/// What a server has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Our address and the length of its network's prefix.
    pub address: Ipv4Cidr,
    /// The default gateway.
    pub router: Option<Ipv4Address>,
    /// DNS servers, best first.
    pub dns: ArrayVec<Ipv4Address, DHCP_MAX_DNS_SERVER_COUNT>,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An address came, or what came with it is different now; what an earlier lease said no longer holds.
    Configured(Lease),
    /// The lease has run out or was refused: nothing of it may be used any more.
    Deconfigured,
}

/// The client of one interface.
pub(crate) struct Configure {
    mtu_bytes: usize,
    vlan: Option<u16>,
    mac: EthernetAddress,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    lease: Option<Lease>,
    next_at: Option<Time>,
    credit: u32,
    credit_since: Time,
    scratch: Vec<u8>,
}

impl Configure {
    /// A client that asks for an address with its first [`Configure::turn`].
    ///
    /// `mtu_bytes` is IP's. `seed` makes transaction ids differ from machine to machine and run to run.
    pub(crate) fn new(
        mac: EthernetAddress,
        mtu_bytes: usize,
        vlan: Option<u16>,
        seed: u64,
        now: Time,
    ) -> Self {
        let mtu_bytes = ETHERNET_BYTES + mtu_bytes.clamp(MIN_MTU_BYTES, MAX_MTU_BYTES);
        let mut scratch = Vec::new();
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let mut device = OnePacket::new(Medium::Ethernet, mtu_bytes, &mut scratch);
        let interface = Interface::new(config, &mut device, now.instant());
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(dhcpv4::Socket::new());
        Self {
            mtu_bytes,
            vlan,
            mac,
            interface,
            sockets,
            socket,
            lease: None,
            next_at: Some(now),
            credit: BURST,
            credit_since: now,
            scratch,
        }
    }

    /// Takes a frame if it is from a DHCP server to a client; says whether it was. The link must not see those: their
    /// destination is an address that is not ours yet.
    ///
    /// What is malformed, fragmented or meant for another is dropped. Never allocates for other frames.
    pub(crate) fn receive(&mut self, now: Time, frame: &[u8]) -> bool {
        let Some(packet) = self.dhcp(frame) else { return false };
        self.next_at = Some(now);
        // Without its VLAN tag: the client's interface knows none.
        let mut untagged = Vec::with_capacity(ETHERNET_BYTES + packet.len());
        untagged.extend_from_slice(&frame[..12]);
        untagged.extend_from_slice(&u16::from(EthernetProtocol::Ipv4).to_be_bytes());
        untagged.extend_from_slice(packet);
        self.ingress(now, &untagged);
        true
    }

    /// Sends what is due, through `send`, which gets UDP datagrams, header included; says whether anything was done.
    ///
    /// At most [`POLLS`] datagrams.
    pub(crate) fn turn(&mut self, now: Time, send: &mut dyn FnMut(IpRepr, &[u8])) -> bool {
        if self.next_at.is_none_or(|at| at > now) {
            return false;
        }
        self.refill(now);
        if self.credit == 0 {
            self.next_at = Some(self.credit_since + REFILL);
            return false;
        }
        for _ in 0..POLLS {
            let mut device = OnePacket::new(Medium::Ethernet, self.mtu_bytes, &mut self.scratch);
            self.interface.poll_egress(now.instant(), &mut device, &mut self.sockets);
            if self.scratch.is_empty() {
                break;
            }
            let frame = std::mem::take(&mut self.scratch);
            if let Some(reply) = self.arp_reply(&frame) {
                self.ingress(now, &reply);
            } else if let Some((repr, datagram)) = message(&frame) {
                self.credit = self.credit.saturating_sub(1);
                send(repr, &datagram);
            }
            self.scratch = frame;
        }
        self.next_at = self.interface.poll_at(now.instant(), &self.sockets).map(from_real);
        true
    }

    /// When [`Configure::turn`] is to be called again.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        self.next_at
    }

    /// What has changed since this was called last; call it until there is nothing, after each turn and frame.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let lease = match self.sockets.get_mut::<dhcpv4::Socket>(self.socket).poll()? {
            dhcpv4::Event::Configured(config) => Some(Lease {
                address: config.address,
                router: config.router.filter(|router| is_unicast(*router)),
                dns: config.dns_servers.iter().copied().collect(),
            }),
            dhcpv4::Event::Deconfigured => None,
        };
        // The socket says that it has nothing before it ever had something.
        if lease == self.lease {
            return None;
        }
        self.lease.clone_from(&lease);
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // Every server is on the client's network as far as it knows, also one behind a relay: where the way to it
            // leads is the link's business. Lossless: the list is empty and holds eight.
            addresses.extend(lease.iter().map(|lease| IpCidr::new(lease.address.address().into(), 0)));
        });
        Some(lease.map_or(Event::Deconfigured, Event::Configured))
    }

    /// The IPv4 packet in `frame`, without padding, if a DHCP server sent it to a client.
    fn dhcp<'f>(&self, frame: &'f [u8]) -> Option<&'f [u8]> {
        let tag = match self.vlan {
            Some(vlan) => {
                let tag = frame.get(12..16)?;
                if tag[..2] != [0x81, 0x00] || u16::from_be_bytes([tag[2] & 0x0f, tag[3]]) != vlan {
                    return None;
                }
                4
            }
            None => 0,
        };
        if *frame.get(12 + tag..14 + tag)? != u16::from(EthernetProtocol::Ipv4).to_be_bytes() {
            return None;
        }
        let ip = frame.get(ETHERNET_BYTES + tag..)?;
        let packet = Ipv4Packet::new_checked(ip).ok()?;
        if packet.version() != 4
            || packet.next_header() != IpProtocol::Udp
            || packet.more_frags()
            || packet.frag_offset() != 0
        {
            return None;
        }
        let udp = UdpPacket::new_checked(packet.payload()).ok()?;
        if (udp.src_port(), udp.dst_port()) != (DHCP_SERVER_PORT, DHCP_CLIENT_PORT) {
            return None;
        }
        ip.get(..usize::from(packet.total_len()))
    }

    fn ingress(&mut self, now: Time, frame: &[u8]) {
        if !checksum_fits(frame) {
            return;
        }
        // What the interface would answer, a port unreachable for example, is not to be sent: only ARP and DHCP come here.
        let mut answer = Vec::new();
        let mut device = OnePacket::new(Medium::Ethernet, self.mtu_bytes, &mut answer).with_packet(frame);
        self.interface.poll_ingress_single(now.instant(), &mut device, &mut self.sockets);
    }

    /// The answer to an ARP request of the client's, if `frame` is one.
    fn arp_reply(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        if frame.ethertype() != EthernetProtocol::Arp {
            return None;
        }
        let ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()?
        else {
            return None;
        };
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: NEXT_HOP,
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: self.mac,
            target_protocol_addr: source_protocol_addr,
        };
        let mut reply = vec![0; ETHERNET_BYTES + arp.buffer_len()];
        let ethernet =
            EthernetRepr { src_addr: NEXT_HOP, dst_addr: self.mac, ethertype: EthernetProtocol::Arp };
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut reply));
        arp.emit(&mut ArpPacket::new_unchecked(&mut reply[ETHERNET_BYTES..]));
        Some(reply)
    }

    fn refill(&mut self, now: Time) {
        while self.credit < BURST && self.credit_since + REFILL <= now {
            self.credit_since += REFILL;
            self.credit += 1;
        }
        if self.credit == BURST {
            self.credit_since = now;
        }
    }
}

/// The datagram in a frame that smoltcp emitted, with the checksum that smoltcp was told to leave out.
fn message(frame: &[u8]) -> Option<(IpRepr, Vec<u8>)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let udp = UdpPacket::new_checked(packet.payload()).ok()?;
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let repr = UdpRepr { src_port: udp.src_port(), dst_port: udp.dst_port() };
    let mut datagram = vec![0; repr.header_len() + udp.payload().len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(datagram.as_mut_slice()),
        &source,
        &destination,
        udp.payload().len(),
        |payload| payload.copy_from_slice(udp.payload()),
        &ChecksumCapabilities::default(),
    );
    Some((IpRepr::new(source, destination, IpProtocol::Udp, datagram.len(), packet.hop_limit()), datagram))
}

/// Whether a datagram's checksum is right or was left out; anything but UDP over IPv4 has none.
fn checksum_fits(frame: &[u8]) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return true;
    }
    let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { return false };
    UdpPacket::new_checked(packet.payload())
        .is_ok_and(|udp| udp.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()))
}

fn is_unicast(address: Ipv4Address) -> bool {
    !address.is_broadcast() && !address.is_multicast() && !address.is_unspecified()
}
