//! The XDP program: a [`Filter`] as BPF instructions that redirect what is ours to the socket of its queue and pass
//! the rest to the kernel.
//!
//! ```text
//!   r1 ctx ─► r6        r2 data, r3 data_end      one check of the length before each header
//!   what is ours  ─► take:  return bpf_redirect_map(sockets, ctx->rx_queue_index, XDP_PASS)
//!   what is not   ─► pass:  return XDP_PASS
//! ```
//!
//! It runs in the kernel, before any stack, and is the reason why this crate knows where the addresses of a packet are.
//! There are no loops: each address and each port is an instruction or a few. A queue that has no socket of ours passes.
//! Source: RFC 9669; RFC 791, 826, 4861 §4.3, 8200, 9293 §3.1, 768 for the places of the fields.

use super::abi::{HELPER_REDIRECT_MAP, Insn, XDP_PASS, op, xdp_md};
use super::filter::{Filter, Prefix, Protocol};

/// Ethernet header, in bytes.
const ETHERNET: i16 = 14;
/// Ethernet header and an IPv4 header without options.
const IPV4_END: i16 = ETHERNET + 20;
/// Ethernet and IPv6 header.
const IPV6_END: i16 = ETHERNET + 40;
/// Ethernet header and ARP for IPv4.
const ARP_END: i16 = ETHERNET + 28;
/// To the end of a neighbour solicitation's target.
const SOLICITATION_END: i16 = IPV6_END + 24;

const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;
/// Type of an ICMPv6 message.
const NEIGHBOUR_SOLICITATION: i32 = 135;

/// Registers and what they hold.
const R0: u8 = 0;
const R1: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
const CTX: u8 = 6;

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label(usize);

/// Instructions, with jumps to places that are not known yet.
#[derive(Default)]
struct Assembler {
    insns: Vec<Insn>,
    jumps: Vec<(usize, Label)>,
    places: Vec<usize>,
}

impl Assembler {
    fn emit(&mut self, code: u8, dst: u8, src: u8, offset: i16, immediate: i32) {
        self.insns.push(Insn { code, registers: dst | src << 4, offset, immediate });
    }

    fn label(&mut self) -> Label {
        self.places.push(usize::MAX);
        Label(self.places.len() - 1)
    }

    fn place(&mut self, label: Label) {
        self.places[label.0] = self.insns.len();
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, immediate: i32, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.emit(code, dst, src, 0, immediate);
    }

    fn goto(&mut self, to: Label) {
        self.jump(op::JUMP, 0, 0, 0, to);
    }

    fn load(&mut self, code: u8, dst: u8, src: u8, offset: i16) {
        self.emit(code, dst, src, offset, 0);
    }

    /// To `short` unless the frame has that many bytes.
    fn need(&mut self, bytes: i16, short: Label) {
        self.emit(op::MOV, R0, DATA, 0, 0);
        self.emit(op::ADD_IMM, R0, 0, 0, bytes.into());
        self.jump(op::JGT, R0, END, 0, short);
    }

    /// To `found` if the address at `offset` is of one of the prefixes.
    fn match_address<'a>(
        &mut self,
        prefixes: impl Iterator<Item = &'a Prefix>,
        offset: i16,
        words: i16,
        found: Label,
    ) {
        for prefix in prefixes {
            let next = self.label();
            let (address, mask) = prefix.masked();
            for (at, (address, mask)) in (0..words).zip(words_of(&address).zip(words_of(&mask))) {
                if mask != 0 {
                    self.load(op::LOAD_U32, R0, DATA, offset + 4 * at);
                    if mask != -1 {
                        self.emit(op::AND32_IMM, R0, 0, 0, mask);
                    }
                    self.jump(op::JNE32_IMM, R0, 0, address, next);
                }
            }
            self.goto(found);
            self.place(next);
        }
    }

    fn finish(mut self) -> Vec<Insn> {
        for (at, to) in self.jumps {
            let distance = self.places[to.0] - at - 1;
            self.insns[at].offset = i16::try_from(distance).expect("at most a few hundred instructions");
        }
        self.insns
    }
}

/// Bytes of the network as the kernel's loads see them, word by word.
fn words_of(bytes: &[u8]) -> impl Iterator<Item = i32> + '_ {
    bytes.chunks_exact(4).map(|word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

/// A 16-bit field's value as a load sees it.
fn field(value: u16) -> i32 {
    value.to_be().into()
}

/// The program for a filter; `map_fd` is the map of sockets by queue.
pub(super) fn assemble(filter: &Filter, map_fd: i32) -> Vec<Insn> {
    let mut asm = Assembler::default();
    let (take, pass) = (asm.label(), asm.label());
    asm.emit(op::MOV, CTX, R1, 0, 0);
    if !filter.takes_all() {
        asm.load(op::LOAD_U32, DATA, CTX, xdp_md::DATA);
        asm.load(op::LOAD_U32, END, CTX, xdp_md::DATA_END);
        select(&mut asm, filter, take, pass);
    }
    asm.place(take);
    asm.emit(op::LOAD_IMM64, R1, op::PSEUDO_MAP_FD, 0, map_fd);
    asm.emit(0, 0, 0, 0, 0);
    asm.load(op::LOAD_U32, 2, CTX, xdp_md::RX_QUEUE_INDEX);
    asm.emit(op::MOV_IMM, 3, 0, 0, XDP_PASS);
    asm.emit(op::CALL, 0, 0, 0, HELPER_REDIRECT_MAP);
    asm.emit(op::EXIT, 0, 0, 0, 0);
    if !filter.takes_all() {
        asm.place(pass);
        asm.emit(op::MOV_IMM, R0, 0, 0, XDP_PASS);
        asm.emit(op::EXIT, 0, 0, 0, 0);
    }
    asm.finish()
}

/// By EtherType. Ends in a jump.
fn select(asm: &mut Assembler, filter: &Filter, take: Label, pass: Label) {
    let any = filter.addresses.is_empty();
    let (v4, v6) = (any || of(filter, 4).count() > 0, any || of(filter, 16).count() > 0);
    let (ipv6, arp) = (asm.label(), asm.label());
    asm.need(ETHERNET, pass);
    asm.load(op::LOAD_U16, R4, DATA, 12);
    if v6 {
        asm.jump(op::JEQ32_IMM, R4, 0, field(0x86dd), ipv6);
    }
    let own_arp = v4 && !filter.is_shared();
    if own_arp {
        asm.jump(op::JEQ32_IMM, R4, 0, field(0x0806), arp);
    }
    if v4 {
        asm.jump(op::JNE32_IMM, R4, 0, field(0x0800), pass);
        select_ipv4(asm, filter, take, pass);
    } else {
        asm.goto(pass);
    }
    if own_arp {
        asm.place(arp);
        asm.need(ARP_END, pass);
        asm.match_address(of(filter, 4), ETHERNET + 24, 1, take);
        asm.goto(pass);
    }
    if v6 {
        asm.place(ipv6);
        select_ipv6(asm, filter, take, pass);
    }
}

/// The filter's prefixes of addresses of so many bytes.
fn of(filter: &Filter, bytes: usize) -> impl Iterator<Item = &Prefix> {
    filter.addresses.iter().filter(move |prefix| (bytes == 4) == prefix.address.is_ipv4())
}

fn select_ipv4(asm: &mut Assembler, filter: &Filter, take: Label, pass: Label) {
    asm.need(IPV4_END, pass);
    let addressed = asm.label();
    if filter.addresses.is_empty() {
        asm.goto(addressed);
    } else {
        asm.match_address(of(filter, 4), ETHERNET + 16, 1, addressed);
        asm.goto(pass);
    }
    asm.place(addressed);
    if !filter.is_shared() {
        return asm.goto(take);
    }
    asm.load(op::LOAD_U8, R4, DATA, ETHERNET + 9);
    let transport = asm.label();
    select_protocol(asm, filter, ICMP, take, transport, pass);
    if filter.ports.is_empty() {
        return; // the kernel refuses instructions that nothing reaches
    }
    asm.place(transport);
    // More fragments, or an offset: some of them have no ports.
    asm.load(op::LOAD_U16, R4, DATA, ETHERNET + 6);
    asm.emit(op::AND32_IMM, R4, 0, 0, field(0x3fff));
    asm.jump(op::JNE32_IMM, R4, 0, 0, pass);
    asm.load(op::LOAD_U8, R5, DATA, ETHERNET);
    asm.emit(op::AND32_IMM, R5, 0, 0, 0xf);
    asm.emit(op::SHL_IMM, R5, 0, 0, 2);
    asm.emit(op::MOV, R4, DATA, 0, 0);
    asm.emit(op::ADD, R4, R5, 0, 0);
    select_port(asm, filter, ETHERNET, take, pass);
}

fn select_ipv6(asm: &mut Assembler, filter: &Filter, take: Label, pass: Label) {
    asm.need(IPV6_END, pass);
    let (addressed, transport) = (asm.label(), asm.label());
    if filter.addresses.is_empty() {
        asm.goto(addressed);
    } else {
        asm.match_address(of(filter, 16), ETHERNET + 24, 4, addressed);
        if filter.is_shared() {
            asm.goto(pass);
        } else {
            // Sent to a multicast address that many may share; it asks for the one in its target.
            asm.load(op::LOAD_U8, R4, DATA, ETHERNET + 6);
            asm.jump(op::JNE32_IMM, R4, 0, ICMPV6, pass);
            asm.need(SOLICITATION_END, pass);
            asm.load(op::LOAD_U8, R4, DATA, IPV6_END);
            asm.jump(op::JNE32_IMM, R4, 0, NEIGHBOUR_SOLICITATION, pass);
            asm.match_address(of(filter, 16), IPV6_END + 8, 4, take);
            asm.goto(pass);
        }
    }
    asm.place(addressed);
    if !filter.is_shared() {
        return asm.goto(take);
    }
    asm.load(op::LOAD_U8, R4, DATA, ETHERNET + 6);
    select_protocol(asm, filter, ICMPV6, take, transport, pass);
    if filter.ports.is_empty() {
        return;
    }
    asm.place(transport);
    asm.emit(op::MOV, R4, DATA, 0, 0);
    select_port(asm, filter, IPV6_END, take, pass);
}

/// The protocol is in `R4`. Ends in a jump: to `transport` if ports are still to be looked at.
fn select_protocol(
    asm: &mut Assembler,
    filter: &Filter,
    icmp: i32,
    take: Label,
    transport: Label,
    pass: Label,
) {
    let found = if filter.ports.is_empty() { take } else { transport };
    match filter.protocol {
        Some(Protocol::Tcp) => asm.jump(op::JEQ32_IMM, R4, 0, TCP, found),
        Some(Protocol::Udp) => asm.jump(op::JEQ32_IMM, R4, 0, UDP, found),
        Some(Protocol::Icmp) => asm.jump(op::JEQ32_IMM, R4, 0, icmp, found),
        None => {
            asm.jump(op::JEQ32_IMM, R4, 0, TCP, found);
            asm.jump(op::JEQ32_IMM, R4, 0, UDP, found);
        }
    }
    asm.goto(pass);
}

/// The transport header is `offset` behind `R4`. Ends in a jump.
fn select_port(asm: &mut Assembler, filter: &Filter, offset: i16, take: Label, pass: Label) {
    asm.emit(op::MOV, R0, R4, 0, 0);
    asm.emit(op::ADD_IMM, R0, 0, 0, i32::from(offset) + 4);
    asm.jump(op::JGT, R0, END, 0, pass);
    asm.load(op::LOAD_U16, R4, R4, offset + 2);
    asm.emit(op::TO_BE, R4, 0, 0, 16);
    for range in &filter.ports {
        let next = asm.label();
        asm.jump(op::JLT_IMM, R4, 0, i32::from(*range.start()), next);
        asm.jump(op::JGT_IMM, R4, 0, i32::from(*range.end()), next);
        asm.goto(take);
        asm.place(next);
    }
    asm.goto(pass);
}

#[cfg(test)]
mod tests;
