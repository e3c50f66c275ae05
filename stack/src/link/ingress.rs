//! What a frame turned out to be.

use smoltcp::wire::{IpAddress, IpEndpoint, IpProtocol};

use crate::icmp::Unreachable;

/// Bytes of a packet: in the frame that brought it, or put together from several.
#[derive(Debug)]
enum Bytes<'f> {
    Frame(&'f [u8]),
    Assembled(Vec<u8>),
}

/// One whole IP packet for a local address: header checked, padding cut off, not a fragment, and no IPv6
/// extension headers left (IPv4 options may be).
///
/// A packet put together from fragments owns its bytes; `Link::recycle` takes the memory back.
#[derive(Debug)]
pub(crate) struct IpPacket<'f> {
    pub(crate) src: IpAddress,
    pub(crate) dst: IpAddress,
    pub(crate) protocol: IpProtocol,
    header_len: usize,
    bytes: Bytes<'f>,
}

impl<'f> IpPacket<'f> {
    /// A packet that lies in its frame. `header_len` bytes of `bytes` are the IP header.
    pub(super) fn in_frame(bytes: &'f [u8], header_len: usize, to: Addressed) -> Self {
        Self { src: to.src, dst: to.dst, protocol: to.protocol, header_len, bytes: Bytes::Frame(bytes) }
    }

    /// A packet with its own memory.
    pub(super) fn assembled(bytes: Vec<u8>, header_len: usize, to: Addressed) -> Self {
        Self { src: to.src, dst: to.dst, protocol: to.protocol, header_len, bytes: Bytes::Assembled(bytes) }
    }

    /// The whole packet, from the first byte of the IP header.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Frame(bytes) => bytes,
            Bytes::Assembled(bytes) => bytes,
        }
    }

    /// Whether it was put together from fragments.
    pub(crate) fn is_assembled(&self) -> bool {
        matches!(self.bytes, Bytes::Assembled(_))
    }

    /// What follows the IP header.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes()[self.header_len..]
    }

    /// The memory of an assembled packet.
    pub(crate) fn into_memory(self) -> Option<Vec<u8>> {
        match self.bytes {
            Bytes::Frame(_) => None,
            Bytes::Assembled(bytes) => Some(bytes),
        }
    }
}

/// Addresses and upper protocol of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addressed {
    pub(super) src: IpAddress,
    pub(super) dst: IpAddress,
    pub(super) protocol: IpProtocol,
}

/// What an ICMP error says went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IcmpProblem {
    /// The packet did not arrive.
    Unreachable(Unreachable),
    /// The packet is larger than a link of the path takes; `mtu` is what fits (bytes of IP packet).
    TooBig { mtu: usize },
}

/// An ICMP error about a packet that claims to be one of ours.
///
/// The link layer has checked that the embedded packet came from one of our addresses. Whether there is such
/// a flow, socket or ping only its owner knows: anybody can forge the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IcmpError {
    pub(crate) problem: IcmpProblem,
    /// Upper protocol of the embedded packet.
    pub(crate) protocol: IpProtocol,
    /// Our end. For an echo request the port is its identifier.
    pub(crate) local: IpEndpoint,
    /// The other end. For an echo request the port is its sequence number.
    pub(crate) remote: IpEndpoint,
    /// TCP sequence number of the embedded segment.
    pub(crate) tcp_seq: Option<u32>,
}

/// What the link layer leaves of a frame for the layers above.
#[derive(Debug)]
pub(crate) enum Ingress<'f> {
    /// A TCP segment, checksum unchecked (smoltcp does).
    Tcp(IpPacket<'f>),
    /// A UDP datagram, unchecked.
    Udp(IpPacket<'f>),
    /// A datagram for the DHCP client's port, perhaps for an address we do not have yet.
    Dhcp(IpPacket<'f>),
    /// An echo reply: `packet.payload()[ECHO_HEADER_LEN..]` is the data.
    EchoReply { packet: IpPacket<'f>, ident: u16, seq: u16 },
    /// An ICMP error for a flow, a UDP socket or a ping.
    IcmpError(IcmpError),
    /// Nothing is left to do.
    Consumed,
}
