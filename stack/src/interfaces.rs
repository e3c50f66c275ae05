//! smoltcp's interfaces: one for each MTU in use, made anew for each connection so that its initial sequence number is
//! ours to choose.

use std::hash::Hasher;
use std::num::NonZeroUsize;

use arrayvec::ArrayVec;
use siphasher::sip::SipHasher13;
use smoltcp::iface::{Config, Interface};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress};

use crate::clock::Time;
use crate::tuple::Tuple;

/// Different MTUs at once; a path that needs yet another shares one with a smaller.
const MOST: usize = 8;

/// Which sums of a packet we compute; the device does the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    pub ipv4: bool,
    pub tcp: bool,
}

/// The longest IP packets of which the device makes segments, by IP version; 0 where it makes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Longest {
    v4: usize,
    v6: usize,
}

/// The interfaces.
pub(crate) struct Interfaces {
    list: ArrayVec<(usize, Interface), MOST>,
    longest: Longest,
    /// Of packets made here: what the device does not compute.
    checksum: ChecksumCapabilities,
    isn: IsnKey,
}

impl Interfaces {
    pub fn new(mtu: usize, isn: IsnKey) -> Self {
        let (list, checksum, longest) =
            (ArrayVec::new(), ChecksumCapabilities::default(), Longest::default());
        let mut new = Interfaces { list, longest, checksum, isn };
        new.list.push((mtu, make(mtu, longest, 0)));
        new
    }

    /// Leaves out the sums that the device computes, and leaves it the segmentation that it does: of packets behind
    /// `link_header` bytes. Before the first connection.
    pub fn offload(&mut self, device: &DeviceCapabilities, link_header: usize) {
        let tx = |checksum: Checksum| if checksum.tx() { Checksum::Tx } else { Checksum::None };
        (self.checksum.ipv4, self.checksum.tcp) = (tx(device.checksum.ipv4), tx(device.checksum.tcp));
        let longest = |frame: Option<NonZeroUsize>| {
            frame.map_or(0, |frame| frame.get().saturating_sub(link_header).min(MOST_PACKET_BYTES))
        };
        self.longest =
            Longest { v4: longest(device.segmentation.tcpv4), v6: longest(device.segmentation.tcpv6) };
    }

    /// What is written into packets that smoltcp leaves without.
    pub fn sums(&self) -> Sums {
        Sums { ipv4: self.checksum.ipv4.tx(), tcp: self.checksum.tcp.tx() }
    }

    /// The one for packets of at most `mtu` bytes.
    pub fn for_mtu(&mut self, mtu: usize) -> u8 {
        let place = match self.list.iter().position(|entry| entry.0 == mtu) {
            Some(place) => place,
            None if self.list.is_full() => {
                let last = MOST - 1;
                // Smaller than needed is always right, only slower.
                if self.list[last].0 > mtu {
                    self.list[last] = (mtu, make(mtu, self.longest, 0));
                }
                last
            }
            None => {
                self.list.push((mtu, make(mtu, self.longest, 0)));
                self.list.len() - 1
            }
        };
        u8::try_from(place).unwrap_or(0)
    }

    pub fn get(&mut self, place: u8) -> &mut Interface {
        &mut self.list[usize::from(place)].1
    }

    pub fn mtu(&self, place: u8) -> usize {
        self.list[usize::from(place)].0
    }

    /// Makes the next initial sequence number drawn from `place` the one of RFC 6528 for `tuple`.
    pub fn choose_isn(&mut self, place: u8, tuple: &Tuple, now: Time) -> u32 {
        let isn = self.isn.isn(tuple, now);
        let (mtu, interface) = &mut self.list[usize::from(place)];
        *interface = make(*mtu, self.longest, seed_for(isn));
        isn
    }
}

fn make(mtu: usize, longest: Longest, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut Description { mtu, longest }, Instant::ZERO);
    // The link layer has let through only what is addressed to us.
    interface.set_any_ip(true);
    interface
}

/// smoltcp's generator: a linear congruential step and an output permutation.
const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;

/// The seed from which smoltcp's generator gives `isn` to the first connection of a new interface. The permutation
/// yields bits 29 to 60 of a state with three zero bits on top. Two steps lead there, which are undone here: the
/// interface draws first for the identification of its IPv4 packets, and would draw again if that were 0.
///
/// With another generator the numbers would merely be others, still keyed by our secret; a test would tell.
fn seed_for(isn: u32) -> u64 {
    const INVERSE: u64 = inverse(MULTIPLIER);
    let back = |state: u64| state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE);
    let first = |low: u64| back(u64::from(isn) << 29 | low);
    // The lowest bits show nowhere. One try is enough but for one case in 65,536.
    let low = (0..8).find(|low| drawn(first(*low)) != 0).unwrap_or(0);
    back(first(low))
}

/// The 16 bits that a state of the generator yields.
fn drawn(state: u64) -> u16 {
    let wide = state >> (29 - (state >> 61)) & 0xffff_ffff;
    u16::try_from((wide ^ wide >> 16) & 0xffff).unwrap_or(0)
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut round = 0;
    while round < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}

/// Secret of the initial sequence numbers.
#[derive(Clone, Copy)]
pub(crate) struct IsnKey(pub u64, pub u64);

impl IsnKey {
    /// ISN = M + F(4-tuple, secret), M a clock of 4 µs (RFC 6528 §3): unpredictable from other connections, and later
    /// than that of an earlier connection with the same tuple.
    fn isn(&self, tuple: &Tuple, now: Time) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        for end in [tuple.local, tuple.remote] {
            match end.addr {
                IpAddress::Ipv4(a) => hasher.write_u32(a.to_bits()),
                IpAddress::Ipv6(a) => hasher.write_u128(a.to_bits()),
            }
            hasher.write_u16(end.port);
        }
        let clock = now.ns() / 4000;
        u32::try_from(hasher.finish().wrapping_add(clock) & 0xffff_ffff).unwrap_or(0)
    }
}

/// A device that only says what it is.
struct Description {
    mtu: usize,
    longest: Longest,
}

/// The longest IP packet: its length has 16 bits.
const MOST_PACKET_BYTES: usize = 65_535;
/// Bytes of IPv4, IPv6 and TCP headers without options.
pub(crate) const V4_HEADER: usize = 20;
pub(crate) const V6_HEADER: usize = 40;
pub(crate) const TCP_HEADER: usize = 20;

/// What smoltcp is to know of a device: no Ethernet (the link layer writes that), this MTU, no sums. Received ones are
/// checked before smoltcp sees a packet, where a wrong one can be counted; those of its packets are written when it is
/// done with them, faster than by itself.
#[inline]
pub(crate) fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    (capabilities.checksum.ipv4, capabilities.checksum.tcp) = (Checksum::None, Checksum::None);
    capabilities
}

/// The same of one that makes segments. smoltcp 0.14 would cut long packets of IPv4 by itself (into fragments), unless they
/// are segments for the device, and drops those of IPv6 in any case: so it is told of an MTU that nothing exceeds. What
/// follows from the real one is done where packets are emitted: their segments' size, and the MSS that a SYN announces.
fn segmenting(mtu: usize, longest: Longest) -> DeviceCapabilities {
    let mut capabilities = capabilities(MOST_PACKET_BYTES);
    // Whole segments only, but for the last.
    let whole = |longest: usize, header: usize| {
        let segment = mtu.saturating_sub(header).max(1);
        let payload = longest.saturating_sub(header) / segment * segment;
        // One that is not to be segmented is limited in the same way.
        NonZeroUsize::new((header + payload).max(mtu))
    };
    capabilities.segmentation.tcpv4 = whole(longest.v4, V4_HEADER + TCP_HEADER);
    capabilities.segmentation.tcpv6 = whole(longest.v6, V6_HEADER + TCP_HEADER);
    capabilities
}

/// Neither sends nor receives.
pub(crate) enum Never {}

impl RxToken for Never {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _f: F) -> R {
        match self {}
    }
}

impl TxToken for Never {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, _len: usize, _f: F) -> R {
        match self {}
    }
}

impl Device for Description {
    type RxToken<'t>
        = Never
    where
        Self: 't;
    type TxToken<'t>
        = Never
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Never, Never)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Never> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        match self.longest {
            Longest { v4: 0, v6: 0 } => capabilities(self.mtu),
            longest => segmenting(self.mtu, longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_packet::OnePacket;
    use smoltcp::wire::{IpCidr, IpEndpoint};

    #[test]
    fn the_inverse_is_one() {
        for odd in [1, 3, 0xbb2e_fcec_3c39_611d, u64::MAX] {
            assert_eq!(odd.wrapping_mul(inverse(odd)), 1);
        }
    }

    #[test]
    fn later_connections_of_a_tuple_start_later_and_others_elsewhere() {
        let key = IsnKey(1, 2);
        let at = |port| Tuple {
            local: IpEndpoint::new(IpAddress::v4(10, 0, 0, 1), port),
            remote: IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), 80),
        };
        let first = key.isn(&at(1000), Time::from_ms(0));
        let later = key.isn(&at(1000), Time::from_ms(1000));
        assert_eq!(later.wrapping_sub(first), 250_000);
        assert_ne!(first, key.isn(&at(1001), Time::from_ms(0)));
        assert_ne!(first, IsnKey(1, 3).isn(&at(1000), Time::from_ms(0)));
    }

    /// smoltcp's generator is not part of its interface: this is the test that tells.
    #[test]
    fn a_connection_starts_where_it_was_told_to() {
        use smoltcp::iface::SocketSet;
        use smoltcp::socket::tcp::{Socket, SocketBuffer};
        use smoltcp::wire::{Ipv4Packet, TcpPacket};

        let mut interfaces = Interfaces::new(1500, IsnKey(5, 6));
        for port in 1000..1200 {
            let at = |last, port| IpEndpoint::new(IpAddress::v4(10, 0, 0, last), port);
            let tuple = Tuple { local: at(1, port), remote: at(2, 80) };
            let isn = interfaces.choose_isn(0, &tuple, Time::from_ms(u64::from(port)));
            let interface = interfaces.get(0);
            interface.update_ip_addrs(|list| list.push(IpCidr::new(tuple.local.addr, 24)).unwrap());
            let mut socket = Socket::new(SocketBuffer::new(vec![0; 64]), SocketBuffer::new(vec![0; 64]));
            socket.connect(interface.context(), tuple.remote, tuple.local).unwrap();
            let mut set = SocketSet::new(vec![]);
            set.add(socket);
            let mut syn = Vec::new();
            interface.poll_egress(Instant::ZERO, &mut OnePacket::new(Medium::Ip, 1500, &mut syn), &mut set);
            let packet = Ipv4Packet::new_checked(&syn[..]).unwrap();
            let seq = TcpPacket::new_checked(packet.payload()).unwrap().seq_number();
            assert_eq!(seq.0.to_ne_bytes(), isn.to_ne_bytes(), "port {port}");
        }
        // Identifications of 0 are met, and avoided.
        assert!(
            (0..200_000)
                .all(|isn| drawn(seed_for(isn).wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT)) != 0)
        );
    }

    #[test]
    fn more_paths_than_interfaces_share_the_smallest() {
        let mut interfaces = Interfaces::new(1500, IsnKey(0, 0));
        assert_eq!(interfaces.for_mtu(1500), 0);
        for mtu in (600..1400).rev().step_by(50) {
            let place = interfaces.for_mtu(mtu);
            assert!(interfaces.mtu(place) <= mtu);
        }
    }
}
