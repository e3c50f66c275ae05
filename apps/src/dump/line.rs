//! One frame as one line, in the manner of tcpdump. Parsed by the crate `etherparse`, as far as the frame makes sense.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use etherparse::{LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpSlice, TransportSlice};
use pmd::pcap::{Direction, Frame};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Time of day, direction, and what it is.
pub(super) fn text(frame: &Frame<'_>) -> String {
    let seconds = frame.time_ns / NS_PER_SECOND % 86_400;
    let way = match frame.way {
        Some((Direction::Rx, _)) => "In ",
        Some((Direction::Tx, _)) => "Out",
        None => "   ",
    };
    format!(
        "{:02}:{:02}:{:02}.{:09} {way} {}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        frame.time_ns % NS_PER_SECOND,
        summary(frame)
    )
}

/// What it is.
pub(super) fn summary(frame: &Frame<'_>) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame.bytes) else {
        return format!("[{} bytes: no Ethernet header]", frame.bytes.len());
    };
    let mut text = String::new();
    for extension in &packet.link_exts {
        if let LaxLinkExtSlice::Vlan(vlan) = extension {
            let _ = write!(text, "vlan {}, ", vlan.vlan_identifier().value());
        }
    }
    match &packet.net {
        None => text.push_str(&ethernet(&packet, frame)),
        Some(LaxNetSlice::Arp(arp)) => text.push_str(&address_resolution(arp)),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let ends = (header.source_addr().to_string(), header.destination_addr().to_string());
            let fragment = ip.is_payload_fragmented().then(|| {
                format!("fragment {} at {}", header.identification(), header.fragments_offset().byte_offset())
            });
            text.push_str(&internet("IP", ends, fragment, header.protocol().0, &packet, frame));
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let ends = (header.source_addr().to_string(), header.destination_addr().to_string());
            let fragment = ip.is_payload_fragmented().then(|| "fragment".to_owned());
            let protocol = ip.payload().ip_number.0;
            text.push_str(&internet("IP6", ends, fragment, protocol, &packet, frame));
        }
    }
    if frame.bytes.len() < frame.original_len {
        let _ = write!(text, " [{} of {} bytes]", frame.bytes.len(), frame.original_len);
    }
    text
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn ethernet(packet: &LaxSlicedPacket<'_>, frame: &Frame<'_>) -> String {
    let Some(LinkSlice::Ethernet2(header)) = &packet.link else { return String::new() };
    format!(
        "{} > {}, ethertype 0x{:04x}, length {}",
        mac(header.source()),
        mac(header.destination()),
        header.ether_type().0,
        frame.original_len
    )
}

fn address_resolution(arp: &etherparse::ArpPacketSlice<'_>) -> String {
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => Ipv4Addr::from(bytes).to_string(),
        Err(_) => format!("{bytes:02x?}"),
    };
    let (from, to) = (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()));
    match arp.operation().0 {
        1 => format!("ARP, Request who-has {to} tell {from}"),
        2 => {
            let hardware = <[u8; 6]>::try_from(arp.sender_hw_addr()).map(mac).unwrap_or_default();
            format!("ARP, Reply {from} is-at {hardware}")
        }
        other => format!("ARP, operation {other}"),
    }
}

fn internet(
    family: &str,
    (from, to): (String, String),
    fragment: Option<String>,
    protocol: u8,
    packet: &LaxSlicedPacket<'_>,
    frame: &Frame<'_>,
) -> String {
    if let Some(fragment) = fragment {
        return format!("{family} {from} > {to}: {fragment}, length {}", frame.original_len);
    }
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => format!(
            "{family} {from}.{} > {to}.{}: {}",
            tcp.source_port(),
            tcp.destination_port(),
            segment(tcp)
        ),
        Some(TransportSlice::Udp(udp)) => format!(
            "{family} {from}.{} > {to}.{}: UDP, length {}",
            udp.source_port(),
            udp.destination_port(),
            usize::from(udp.length()).saturating_sub(8)
        ),
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("{family} {from} > {to}: ICMP {}", icmp_name(icmp.type_u8(), icmp.code_u8(), false))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!("{family} {from} > {to}: ICMP6 {}", icmp_name(icmp.type_u8(), icmp.code_u8(), true))
        }
        _ => format!("{family} {from} > {to}: protocol {protocol}, length {}", frame.original_len),
    }
}

fn segment(tcp: &TcpSlice<'_>) -> String {
    let mut flags = String::new();
    for (set, letter) in [
        (tcp.syn(), 'S'),
        (tcp.fin(), 'F'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
        (tcp.ack(), '.'),
    ] {
        if set {
            flags.push(letter);
        }
    }
    let (seq, len) = (tcp.sequence_number(), tcp.payload().len());
    let mut text = format!("Flags [{flags}], seq {seq}");
    if len > 0 {
        let _ = write!(text, ":{}", seq.wrapping_add(u32::try_from(len).unwrap_or(0)));
    }
    if tcp.ack() {
        let _ = write!(text, ", ack {}", tcp.acknowledgment_number());
    }
    let _ = write!(text, ", win {}, length {len}", tcp.window_size());
    text
}

/// The common ones by name. Source: RFC 792, RFC 4443, RFC 4861.
fn icmp_name(kind: u8, code: u8, v6: bool) -> String {
    let name = match (v6, kind) {
        (false, 8) | (true, 128) => "echo request",
        (false, 0) | (true, 129) => "echo reply",
        (false, 3) | (true, 1) => "unreachable",
        (false, 11) | (true, 3) => "time exceeded",
        (true, 2) => "packet too big",
        (true, 133) => "router solicitation",
        (true, 134) => "router advertisement",
        (true, 135) => "neighbor solicitation",
        (true, 136) => "neighbor advertisement",
        _ => return format!("type {kind}, code {code}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    use etherparse::PacketBuilder;

    fn line(bytes: &[u8], original_len: usize) -> String {
        let way = Some((Direction::Rx, 0));
        text(&Frame { bytes, original_len, link_type: 1, time_ns: 86_399_000_000_007, interface: 0, way })
    }

    #[test]
    fn lines_say_what_a_frame_is() {
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        let tcp = ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 1234, 7, 512).syn().ack(9);
        tcp.write(&mut frame, b"abc").unwrap();
        let says = "23:59:59.000000007 In  IP 10.0.0.1.80 > 10.0.0.2.1234: Flags [S.], seq 7:10, ack 9, win 512, length 3";
        assert_eq!(line(&frame, frame.len()), says);
        assert!(line(&frame[..30], frame.len()).ends_with("[30 of 57 bytes]"), "{}", line(&frame[..30], 57));

        let mut frame = Vec::new();
        let loopback = Ipv6Addr::LOCALHOST.octets();
        let udp = ethernet().single_vlan(5.try_into().unwrap()).ipv6(loopback, loopback, 64).udp(53, 54);
        udp.write(&mut frame, b"abcd").unwrap();
        assert!(line(&frame, frame.len()).ends_with("vlan 5, IP6 ::1.53 > ::1.54: UDP, length 4"));

        let mut frame = [0xff; 60];
        frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        let says = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ethertype 0x88b5, length 60";
        assert!(line(&frame, 60).ends_with(says), "{}", line(&frame, 60));
        let mut request = [0; 42];
        request[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request[28..32].copy_from_slice(&[10, 0, 0, 1]);
        request[38..].copy_from_slice(&[10, 0, 0, 2]);
        assert!(line(&request, 42).ends_with("ARP, Request who-has 10.0.0.2 tell 10.0.0.1"));
    }

    proptest::proptest! {
        #[test]
        fn no_frame_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), kind in 0..4usize) {
            let mut bytes = bytes;
            // A right beginning, so that the rest reaches the parsers behind it.
            let ethertype = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]][kind];
            if let Some(there) = bytes.get_mut(12..14) {
                there.copy_from_slice(&ethertype);
            }
            line(&bytes, 1500);
        }
    }
}
