//! The program runs here, on a small machine of our own, against what the filter says in plain Rust. That the kernel
//! takes it is the namespace suite's to show.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// Addresses of the frame and of its end in the machine; anything between is the frame's.
const AT: u64 = 0x1000;

/// Runs a program on a frame; whether it redirects. Panics on what a verifier would refuse.
fn takes(program: &[Insn], frame: &[u8]) -> bool {
    let mut registers = [None; 11];
    registers[1] = Some(0); // the context
    let mut at = 0;
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 2000, "it loops");
        let Insn { code, registers: pair, offset, immediate } = program[at];
        let (dst, src) = (usize::from(pair & 15), usize::from(pair >> 4));
        let read = |register: usize| registers[register].expect("written before it is read");
        let load = |bytes: usize| -> u64 {
            let base: u64 = read(src);
            if base == 0 {
                return match offset {
                    xdp_md::DATA => AT,
                    xdp_md::DATA_END => AT + frame.len() as u64,
                    xdp_md::RX_QUEUE_INDEX => 3,
                    other => panic!("context field {other}"),
                };
            }
            let from = usize::try_from(base.wrapping_add_signed(offset.into()) - AT).unwrap();
            let mut word = [0; 8];
            word[..bytes].copy_from_slice(&frame[from..from + bytes]); // within the frame, or it panics
            u64::from_le_bytes(word)
        };
        let wide = i64::from(immediate).cast_unsigned();
        let narrow = |register: usize| read(register) as u32;
        let mut jump = false;
        match code {
            op::LOAD_U8 => registers[dst] = Some(load(1)),
            op::LOAD_U16 => registers[dst] = Some(load(2)),
            op::LOAD_U32 => registers[dst] = Some(load(4)),
            op::LOAD_IMM64 => {
                registers[dst] = Some(wide);
                at += 1;
            }
            op::MOV => registers[dst] = Some(read(src)),
            op::MOV_IMM => registers[dst] = Some(wide),
            op::ADD => registers[dst] = Some(read(dst) + read(src)),
            op::ADD_IMM => registers[dst] = Some(read(dst) + wide),
            op::AND32_IMM => registers[dst] = Some(u64::from(narrow(dst) & immediate.cast_unsigned())),
            op::SHL_IMM => registers[dst] = Some(read(dst) << immediate),
            op::TO_BE => {
                assert_eq!(immediate, 16);
                registers[dst] = Some((read(dst) as u16).to_be().into());
            }
            op::JUMP => jump = true,
            op::JGT => jump = read(dst) > read(src),
            op::JGT_IMM => jump = read(dst) > wide,
            op::JLT_IMM => jump = read(dst) < wide,
            op::JEQ32_IMM => jump = narrow(dst) == immediate.cast_unsigned(),
            op::JNE32_IMM => jump = narrow(dst) != immediate.cast_unsigned(),
            op::CALL => {
                assert_eq!((immediate, registers[2], registers[3]), (HELPER_REDIRECT_MAP, Some(3), Some(2)));
                return true;
            }
            op::EXIT => {
                assert_eq!(registers[0], Some(2), "XDP_PASS");
                return false;
            }
            other => panic!("instruction {other:#x}"),
        }
        at = (at + 1).checked_add_signed(if jump { offset.into() } else { 0 }).unwrap();
    }
}

fn filter(terms: &str) -> Filter {
    let mut filter = Filter::default();
    for term in terms.split(',').filter(|term| !term.is_empty()) {
        match term.split_once('=').unwrap() {
            ("addr", text) => filter.add_address(text).unwrap(),
            ("port", text) => filter.add_ports(text).unwrap(),
            (_, text) => filter.set_protocol(text).unwrap(),
        }
    }
    filter
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 12], &kind.to_be_bytes()[..], payload].concat()
}

/// An IPv4 packet with `options` words of options, up to the ports.
fn ipv4(to: [u8; 4], protocol: u8, options: u8, fragment: u16, port: u16) -> Vec<u8> {
    let mut packet = vec![0; 20 + 4 * usize::from(options)];
    packet[0] = 0x45 + options;
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = protocol;
    packet[16..20].copy_from_slice(&to);
    packet.extend([0x12, 0x34]);
    packet.extend(port.to_be_bytes());
    ethernet(0x0800, &packet)
}

fn ipv6(to: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V6(to) = to.parse().unwrap() else { panic!("{to}") };
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet.extend([0; 16]);
    packet.extend(to.octets());
    packet.extend(payload);
    ethernet(0x86dd, &packet)
}

fn arp(target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[24..28].copy_from_slice(&target);
    ethernet(0x0806, &packet)
}

const OURS: [u8; 4] = [192, 0, 2, 2];
const THEIRS: [u8; 4] = [192, 0, 2, 1];

fn asserts(terms: &str, expected: &[(&str, bool, Vec<u8>)]) {
    let program = assemble(&filter(terms), 5);
    for (what, taken, frame) in expected {
        assert_eq!(takes(&program, frame), *taken, "{terms}: {what}");
    }
}

#[test]
fn without_a_filter_everything_is_taken() {
    asserts("", &[("nothing at all", true, Vec::new()), ("a frame", true, arp(THEIRS))]);
}

#[test]
fn an_address_of_our_own_brings_its_arp_icmp_and_fragments_along() {
    asserts(
        "addr=192.0.2.2",
        &[
            ("UDP to us", true, ipv4(OURS, 17, 0, 0, 7)),
            ("a fragment to us", true, ipv4(OURS, 17, 0, 0x2001, 7)),
            ("ping to us", true, ipv4(OURS, 1, 0, 0, 0)),
            ("UDP to the host", false, ipv4(THEIRS, 17, 0, 0, 7)),
            ("ARP for us", true, arp(OURS)),
            ("ARP for the host", false, arp(THEIRS)),
            ("IPv6", false, ipv6("2001:db8::2", 17, &[0; 8])),
            ("VLAN", false, ethernet(0x8100, &[0; 40])),
        ],
    );
}

#[test]
fn an_ipv6_address_of_our_own_brings_its_solicitations_along() {
    let solicitation = |target: &str| {
        let IpAddr::V6(target) = target.parse().unwrap() else { panic!("{target}") };
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        message
    };
    let group = "ff02::1:ff00:2";
    asserts(
        "addr=2001:db8::2",
        &[
            ("UDP to us", true, ipv6("2001:db8::2", 17, &[0; 8])),
            ("UDP to the host", false, ipv6("2001:db8::1", 17, &[0; 8])),
            ("solicitation of us", true, ipv6(group, 58, &solicitation("2001:db8::2"))),
            ("of another in our group", false, ipv6(group, 58, &solicitation("2001:db8:1::2"))),
            ("advertisement to all", false, ipv6("ff02::1", 58, &[136; 24])),
            ("a short one", false, ipv6(group, 58, &[135; 20])),
            ("IPv4", false, ipv4(OURS, 17, 0, 0, 7)),
            ("ARP", false, arp(OURS)),
        ],
    );
}

#[test]
fn ports_share_an_address_and_leave_the_rest_to_the_kernel() {
    asserts(
        "addr=192.0.2.2,port=7,port=8000-8080",
        &[
            ("UDP", true, ipv4(OURS, 17, 0, 0, 7)),
            ("TCP behind options", true, ipv4(OURS, 6, 10, 0, 8000)),
            ("the range's end", true, ipv4(OURS, 6, 0, 0x4000, 8080)),
            ("beyond it", false, ipv4(OURS, 6, 0, 0, 8081)),
            ("ssh", false, ipv4(OURS, 6, 0, 0, 22)),
            ("a first fragment", false, ipv4(OURS, 17, 0, 0x2000, 7)),
            ("a later fragment", false, ipv4(OURS, 17, 0, 5, 7)),
            ("another address", false, ipv4(THEIRS, 17, 0, 0, 7)),
            ("ping", false, ipv4(OURS, 1, 0, 0, 7)),
            ("ARP", false, arp(OURS)),
        ],
    );
    asserts(
        "port=7,proto=tcp",
        &[
            ("TCP", true, ipv4(THEIRS, 6, 0, 0, 7)),
            ("UDP", false, ipv4(THEIRS, 17, 0, 0, 7)),
            ("TCP over IPv6", true, ipv6("2001:db8::1", 6, &[0, 0, 0, 7])),
            ("UDP over IPv6", false, ipv6("2001:db8::1", 17, &[0, 0, 0, 7])),
            ("cut off", false, ipv6("2001:db8::1", 6, &[0, 0, 0])),
        ],
    );
    asserts(
        "proto=icmp",
        &[
            ("ICMP", true, ipv4(THEIRS, 1, 0, 0, 0)),
            ("ICMPv6", true, ipv6("ff02::1", 58, &[])),
            ("TCP", false, ipv4(THEIRS, 6, 0, 0, 7)),
            ("ARP", false, arp(THEIRS)),
        ],
    );
}

#[test]
fn prefixes_match_their_bits() {
    asserts(
        "addr=192.0.2.0/30,addr=10.0.0.0/8,addr=2001:db8::/33",
        &[
            ("the last of a prefix", true, ipv4([192, 0, 2, 3], 17, 0, 0, 7)),
            ("the next one", false, ipv4([192, 0, 2, 4], 17, 0, 0, 7)),
            ("the second", true, ipv4([10, 9, 8, 7], 17, 0, 0, 7)),
            ("IPv6", true, ipv6("2001:db8:7fff::1", 17, &[])),
            ("IPv6 beyond", false, ipv6("2001:db8:8000::1", 17, &[])),
        ],
    );
}

proptest! {
    /// Whatever comes, the program ends and reads nothing beyond the frame (the machine would panic).
    #[test]
    fn no_frame_makes_it_read_beyond_the_end(
        kind in prop::sample::select(vec![0x0800_u16, 0x0806, 0x86dd, 0x8100]),
        mut bytes in prop::collection::vec(any::<u8>(), 0..100),
        terms in prop::sample::select(vec![
            "addr=192.0.2.2", "addr=::1", "port=7", "addr=::1,port=7,proto=udp", "proto=tcp",
            "addr=0.0.0.0/1,addr=::/1,port=1-65535", "proto=icmp,addr=128.0.0.0/1",
        ]),
    ) {
        if bytes.len() >= 14 {
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        }
        takes(&assemble(&filter(terms), 5), &bytes);
    }
}

#[test]
fn every_instruction_can_be_reached() {
    // The kernel refuses a program in which one cannot.
    for terms in [
        "",
        "addr=192.0.2.2",
        "addr=::1",
        "addr=192.0.2.2,addr=::1",
        "port=7",
        "addr=::1,port=7",
        "addr=192.0.2.2,port=7-9,port=80",
        "proto=tcp",
        "proto=icmp",
        "addr=192.0.2.2,proto=udp",
        "proto=tcp,port=1",
    ] {
        let program = assemble(&filter(terms), 5);
        let mut reached = vec![false; program.len()];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let Insn { code, offset, .. } = program[at];
            let target = (at + 1).checked_add_signed(offset.into()).unwrap();
            match code {
                op::EXIT => {}
                op::JUMP => open.push(target),
                op::LOAD_IMM64 => {
                    reached[at + 1] = true;
                    open.push(at + 2);
                }
                op::JGT | op::JGT_IMM | op::JLT_IMM | op::JEQ32_IMM | op::JNE32_IMM => {
                    open.extend([at + 1, target]);
                }
                _ => open.push(at + 1),
            }
        }
        assert_eq!(reached.iter().position(|reached| !reached), None, "{terms}");
    }
}
