//! The link layer against crafted frames. Frames are built with etherparse or by hand, so that their lengths
//! and checksums do not come from the code under test.

// Tests make bytes out of counters all the time.
#![allow(clippy::cast_possible_truncation)]

use core::time::Duration;

use etherparse::PacketBuilder;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpAddress, IpCidr, IpProtocol, Ipv4Address,
    Ipv4Packet, Ipv6Address, Ipv6Packet,
};

use super::*;

mod addressing;
mod arp;
mod errors;
mod fragments;
mod hostile;
mod input;
mod ndp;
mod plain;
mod router;

const OUR_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const PEER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const OUR: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const PEER: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
const GATEWAY: Ipv4Address = Ipv4Address::new(10, 0, 0, 254);
const FAR: Ipv4Address = Ipv4Address::new(192, 0, 2, 7);
const OUR6: Ipv6Address = Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER6: Ipv6Address = Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Frames that left.
#[derive(Default)]
struct Wire {
    frames: Vec<Vec<u8>>,
    full: bool,
}

impl FrameOut for Wire {
    fn room(&mut self) -> usize {
        usize::from(!self.full)
    }

    fn frame(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if !self.full {
            // Dirty memory, as in a device's buffer.
            let mut frame = vec![0xa5; len];
            fill(&mut frame);
            self.frames.push(frame);
        }
        !self.full
    }
}

impl Wire {
    /// Takes out the frames so far.
    fn take(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.frames)
    }
}

fn config() -> StackConfig {
    let mut config = StackConfig::new(OUR_MAC, 1500);
    config.addresses = vec![IpCidr::new(OUR.into(), 24)];
    config.gateways = vec![GATEWAY.into()];
    config.seed = [7; 32];
    config
}

/// With an IPv6 address as well.
fn config6() -> StackConfig {
    let mut config = config();
    config.addresses.push(IpCidr::new(OUR6.into(), 64));
    config
}

/// A link whose start is over: probes and announcements have left.
struct Bench {
    link: Link,
    wire: Wire,
    now: Time,
}

impl Bench {
    fn new(config: StackConfig) -> Self {
        config.check().unwrap();
        let now = Time::from_ns(1_000_000);
        let mut bench = Self { link: Link::new(&config, now), wire: Wire::default(), now };
        bench.wait(Duration::from_secs(20));
        bench.wire.take();
        while bench.link.events().is_some() {}
        bench
    }

    /// With `PEER` and `PEER6` in the neighbour table.
    fn acquainted(config: StackConfig) -> Self {
        let mut bench = Self::new(config);
        bench.receive(&arp(ArpOperation::Request, PEER_MAC, PEER, OUR));
        bench.receive(&ndp::solicit(PEER6, OUR6, Some(PEER_MAC)));
        bench.wire.take();
        bench
    }

    /// Lets time pass, with a turn whenever one is due.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            self.link.turn(self.now, &mut self.wire);
            match self.link.poll_at() {
                Some(due) if due <= end => self.now = self.now.max(due),
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("turn always finds something due");
    }

    fn receive<'f>(&mut self, frame: &'f [u8]) -> Ingress<'f> {
        self.link.receive(self.now, frame, &mut self.wire)
    }

    fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.link.counters(&mut |n, value| {
            if n == name {
                found = Some(value);
            }
        });
        found.unwrap_or_else(|| panic!("no counter {name}"))
    }

    fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.link.events()).collect()
    }

    /// The frame is dropped, and just this counter grows.
    #[track_caller]
    fn drops(&mut self, frame: &[u8], name: &str) {
        let before = self.counter(name);
        assert!(matches!(self.receive(frame), Ingress::Consumed), "{name}");
        assert_eq!(self.counter(name), before + 1, "{name}");
        assert!(self.wire.take().is_empty(), "{name}: no answer");
    }

    /// Sends a UDP-like packet of `payload` bytes to `dst`.
    fn send(&mut self, dst: IpAddress, payload: usize) -> Result<(), crate::error::SendError> {
        let src = self.link.source(dst).unwrap();
        let repr = smoltcp::wire::IpRepr::new(src, dst, IpProtocol::Udp, payload, 64);
        self.link.send_ip(self.now, repr, &mut |bytes| pattern(bytes), &mut self.wire)
    }
}

/// Bytes that tell their place.
fn pattern(bytes: &mut [u8]) {
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = ((n * 7 + n / 256) & 0xff) as u8;
    }
}

fn patterned(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pattern(&mut bytes);
    bytes
}

/// A UDP datagram from `PEER` to us.
fn udp(data: &[u8]) -> Vec<u8> {
    udp_between(PEER, OUR, data)
}

fn udp_between(src: Ipv4Address, dst: Ipv4Address, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv4(src.octets(), dst.octets(), 64)
        .udp(5000, 7)
        .write(&mut frame, data)
        .unwrap();
    frame
}

fn udp6(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv6(PEER6.octets(), OUR6.octets(), 64)
        .udp(5000, 7)
        .write(&mut frame, data)
        .unwrap();
    frame
}

fn ping(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv4(PEER.octets(), OUR.octets(), 64)
        .icmpv4_echo_request(0x1234, 9)
        .write(&mut frame, data)
        .unwrap();
    frame
}

fn ping6(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv6(PEER6.octets(), OUR6.octets(), 64)
        .icmpv6_echo_request(0x1234, 9)
        .write(&mut frame, data)
        .unwrap();
    frame
}

/// An Ethernet frame from `PEER_MAC`.
fn ethernet(dst: EthernetAddress, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = dst.as_bytes().to_vec();
    frame.extend(PEER_MAC.as_bytes());
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn arp(operation: ArpOperation, mac: EthernetAddress, sender: Ipv4Address, target: Ipv4Address) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: mac,
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut payload = [0; 28];
    repr.emit(&mut ArpPacket::new_unchecked(&mut payload[..]));
    let to = if operation == ArpOperation::Request { EthernetAddress::BROADCAST } else { OUR_MAC };
    let mut frame = ethernet(to, 0x0806, &payload);
    frame[6..12].copy_from_slice(mac.as_bytes());
    frame.resize(60, 0);
    frame
}

/// What an ARP frame says: operation, sender, target.
fn parse_arp(frame: &[u8]) -> (ArpOperation, Ipv4Address, Ipv4Address) {
    assert_eq!(frame[12..14], [0x08, 0x06]);
    let packet = ArpPacket::new_checked(&frame[14..]).unwrap();
    let ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).unwrap()
    else {
        panic!("not ARP for IPv4")
    };
    (operation, source_protocol_addr, target_protocol_addr)
}

/// Writes the IPv4 header checksum of a frame anew, after a test has changed its header.
fn fix_v4(frame: &mut [u8]) {
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
}

/// A patched copy of a frame with its IPv4 header checksum made right.
fn patched(frame: &[u8], patch: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = frame.to_vec();
    patch(&mut frame);
    fix_v4(&mut frame);
    frame
}
