//! Router solicitation and advertisements.

use super::ndp::{ALL_NODES, fix, parse};
use super::*;
use smoltcp::wire::NdiscRepr;

const ROUTER: Ipv6Address = Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
const DAY_S: u32 = 86_400;

fn slaac() -> StackConfig {
    let mut config = config();
    config.slaac = true;
    config
}

/// A router advertisement with these options, written by hand from RFC 4861 §4.2.
fn advert(lifetime_s: u16, options: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 61, 0];
    message.extend(lifetime_s.to_be_bytes());
    message.extend([0; 8]);
    message.extend(options.concat());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    packet.extend([58, 255]);
    packet.extend(ROUTER.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(message);
    let mut frame = ethernet(EthernetAddress([0x33, 0x33, 0, 0, 0, 1]), 0x86dd, &packet);
    fix(&mut frame);
    frame
}

/// Prefix information for `2001:db8:N::/64`: on the link, for autoconfiguration.
fn prefix(n: u16, valid_s: u32) -> Vec<u8> {
    let mut option = vec![3, 4, 64, 0xc0];
    option.extend(valid_s.to_be_bytes());
    option.extend(valid_s.to_be_bytes());
    option.extend([0; 4]);
    option.extend(Ipv6Address::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0).octets());
    option
}

fn mtu(mtu: u32) -> Vec<u8> {
    let mut option = vec![5, 1, 0, 0];
    option.extend(mtu.to_be_bytes());
    option
}

fn source_mac() -> Vec<u8> {
    let mut option = vec![1, 1];
    option.extend(PEER_MAC.as_bytes());
    option
}

fn name_servers(servers: &[Ipv6Address]) -> Vec<u8> {
    let mut option = vec![25, u8::try_from(1 + 2 * servers.len()).unwrap(), 0, 0, 0, 0, 1, 0];
    for server in servers {
        option.extend(server.octets());
    }
    option
}

/// Our addresses in `2001:db8:N::/64`.
fn in_prefix(bench: &Bench, n: u16) -> Vec<IpAddress> {
    let cidr = IpCidr::new(Ipv6Address::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0).into(), 64);
    bench.link.addresses().iter().map(IpCidr::address).filter(|a| cidr.contains_addr(a)).collect()
}

#[test]
fn routers_are_solicited_three_times_from_the_link_local_address() {
    let now = Time::from_ns(0);
    let mut bench = Bench { link: Link::new(&slaac(), now), wire: Wire::default(), now };
    bench.wait(Duration::from_secs(60));
    let frames = bench.wire.take();
    let solicitations: Vec<_> = frames.iter().filter(|f| f[12] == 0x86 && f[54] == 133).collect();
    assert_eq!(solicitations.len(), 3);
    let (src, dst, repr) = parse(solicitations[0]);
    assert!(src.is_unicast_link_local());
    assert_eq!(dst, Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 2));
    assert_eq!(repr, NdiscRepr::RouterSolicit { lladdr: Some(OUR_MAC.into()) });
}

#[test]
fn an_advertisement_configures_everything() {
    let mut bench = Bench::new(slaac());
    let server = Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
    let options = [source_mac(), mtu(1400), prefix(1, DAY_S), name_servers(&[server])];
    bench.receive(&advert(1800, &options));
    bench.link.turn(bench.now, &mut bench.wire);
    assert_eq!(in_prefix(&bench, 1), [], "tentative");
    bench.wait(Duration::from_secs(2));
    let [address] = in_prefix(&bench, 1)[..] else { panic!("no address") };
    let events = bench.events();
    assert!(events.contains(&Event::NameServer(server.into())));
    assert!(events.contains(&Event::AddressAdded(IpCidr::new(address, 64))));
    let probed = bench.wire.take();
    assert!(
        probed.iter().any(|f| f[12] == 0x86 && parse(f).0.is_unspecified()),
        "duplicate address detection"
    );
    let far = IpAddress::v6(0x2a00, 0, 0, 0, 0, 0, 0, 1);
    assert_eq!(bench.link.source(far), Some(address));
    assert_eq!(bench.link.via(far), Some(ROUTER.into()));
    let near = IpAddress::v6(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5);
    assert_eq!(bench.link.via(near), Some(near));
    assert_eq!((bench.link.path_mtu(far), bench.link.path_mtu(FAR.into())), (1400, 1500));
    let hop = bench.link.next_hop(bench.now, far, &mut bench.wire);
    assert_eq!(hop, NextHop::Mac(PEER_MAC), "learnt from the advertisement");
    bench.send(far, 8).unwrap();
    assert_eq!(bench.counter("router_advertisements"), 1);
}

#[test]
fn what_advertisements_gave_runs_out() {
    let mut bench = Bench::new(slaac());
    bench.receive(&advert(100, &[source_mac(), prefix(1, 200)]));
    bench.wait(Duration::from_secs(90));
    let far = IpAddress::v6(0x2a00, 0, 0, 0, 0, 0, 0, 1);
    assert!(bench.link.via(far).is_some());
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.link.via(far), None, "router");
    assert_eq!(in_prefix(&bench, 1).len(), 1);
    let address = in_prefix(&bench, 1)[0];
    bench.events();
    bench.wait(Duration::from_secs(100));
    assert_eq!(in_prefix(&bench, 1), []);
    assert_eq!(bench.events(), [Event::AddressRemoved(IpCidr::new(address, 64))]);
    assert_eq!(bench.link.via(IpAddress::v6(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5)), None, "prefix");
}

#[test]
fn a_router_can_resign_and_a_forger_cannot_end_addresses_at_once() {
    let mut bench = Bench::new(slaac());
    bench.receive(&advert(1800, &[prefix(1, DAY_S)]));
    bench.wait(Duration::from_secs(2));
    bench.receive(&advert(0, &[prefix(1, 0)]));
    assert_eq!(bench.link.via(IpAddress::v6(0x2a00, 0, 0, 0, 0, 0, 0, 1)), None);
    bench.wait(Duration::from_secs(3600));
    assert_eq!(in_prefix(&bench, 1).len(), 1, "two hours, RFC 4862 §5.5.3 (e)");
    bench.wait(Duration::from_secs(3700));
    assert_eq!(in_prefix(&bench, 1), []);
}

#[test]
fn a_flood_of_prefixes_is_bounded() {
    let mut bench = Bench::new(slaac());
    for n in 0..500 {
        bench.receive(&advert(1800, &[prefix(n, DAY_S)]));
        bench.wait(Duration::from_millis(10));
    }
    bench.wait(Duration::from_secs(5));
    assert!(bench.link.addresses().len() <= crate::config::MAX_ADDRESSES);
    assert!(bench.link.routes.count(Origin::Advertised) <= 32);
    assert!(bench.counter("ra_ignored") > 400);
    assert_eq!(in_prefix(&bench, 0).len(), 1, "the first keeps its place");
}

#[test]
fn absurd_advertisements_change_nothing() {
    let mut bench = Bench::new(slaac());
    let before = bench.link.addresses().to_vec();
    bench.receive(&advert(0, &[mtu(100), mtu(9000)]));
    assert_eq!(bench.link.path_mtu(IpAddress::v6(0x2a00, 0, 0, 0, 0, 0, 0, 1)), 1500);
    let mut link_local = prefix(1, DAY_S);
    link_local[16..32].copy_from_slice(&Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).octets());
    let mut long = prefix(1, DAY_S);
    long[2] = 200;
    let mut short = prefix(2, DAY_S);
    short[2] = 48;
    // Preferred for longer than valid.
    let mut preferred = prefix(3, DAY_S);
    preferred[8..12].fill(0xff);
    let on_link_only = |mut option: Vec<u8>| {
        option[3] = 0x40;
        option
    };
    for option in [link_local, long, on_link_only(short), on_link_only(preferred)] {
        bench.receive(&advert(0, &[option]));
    }
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.link.addresses(), before);
    let mut foreign = advert(1800, &[]);
    foreign[22..38].copy_from_slice(&PEER6.octets());
    fix(&mut foreign);
    bench.drops(&foreign, "bad_nd");
    let mut far = advert(1800, &[]);
    far[21] = 64;
    bench.drops(&far, "bad_nd");
    let mut without = Bench::new(config6());
    without.drops(&advert(1800, &[prefix(1, DAY_S)]), "ra_ignored");
}
