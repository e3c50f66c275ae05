use super::*;

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddress {
    IpAddress::v4(a, b, c, d)
}

fn gateway(prefix: IpCidr, via: IpAddress, until: Option<Time>) -> Route {
    Route { prefix, via: Some(via), origin: Origin::Static, until }
}

fn routes() -> Routes {
    let mut routes = Routes::default();
    assert!(routes.add_address(IpCidr::new(v4(10, 0, 0, 2), 24), true));
    assert!(routes.add(gateway(IpCidr::new(v4(0, 0, 0, 0), 0), v4(10, 0, 0, 1), None)));
    assert!(routes.add(gateway(IpCidr::new(v4(172, 16, 0, 0), 12), v4(10, 0, 0, 3), None)));
    assert!(routes.add(gateway(IpCidr::new(v4(172, 16, 5, 0), 24), v4(10, 0, 0, 4), None)));
    routes
}

#[test]
fn the_longest_prefix_wins() {
    let routes = routes();
    assert_eq!(routes.via(v4(10, 0, 0, 77)), Some(v4(10, 0, 0, 77)));
    assert_eq!(routes.via(v4(8, 8, 8, 8)), Some(v4(10, 0, 0, 1)));
    assert_eq!(routes.via(v4(172, 16, 9, 1)), Some(v4(10, 0, 0, 3)));
    assert_eq!(routes.via(v4(172, 16, 5, 1)), Some(v4(10, 0, 0, 4)));
    assert_eq!(routes.via(IpAddress::v6(0x2001, 0, 0, 0, 0, 0, 0, 1)), None);
    assert_eq!(routes.via(v4(0, 0, 0, 0)), None);
}

#[test]
fn groups_and_link_local_need_no_route() {
    let routes = Routes::default();
    assert_eq!(routes.via(v4(255, 255, 255, 255)), Some(v4(255, 255, 255, 255)));
    let fe80 = IpAddress::v6(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    assert_eq!(routes.via(fe80), Some(fe80));
    assert!(routes.on_link(fe80));
    assert!(!routes.on_link(v4(10, 0, 0, 1)));
}

#[test]
fn the_source_has_the_scope_and_network_of_the_destination() {
    let mut routes = routes();
    routes.add_address(IpCidr::new(v4(192, 168, 7, 2), 24), true);
    let local = IpAddress::v6(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    let global = IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    routes.add_address(IpCidr::new(local, 64), true);
    assert_eq!(routes.source(global), None, "link-local is no source for a global destination");
    routes.add_address(IpCidr::new(global, 64), true);
    assert_eq!(routes.source(v4(192, 168, 7, 9)), Some(v4(192, 168, 7, 2)));
    assert_eq!(routes.source(v4(8, 8, 8, 8)), Some(v4(10, 0, 0, 2)), "the network of the gateway");
    assert_eq!(routes.source(v4(255, 255, 255, 255)).map(|a| a.version()), Some(v4(0, 0, 0, 0).version()));
    assert_eq!(routes.source(IpAddress::v6(0xfe80, 0, 0, 0, 0, 0, 0, 9)), Some(local));
    assert_eq!(routes.source(IpAddress::v6(0xff02, 0, 0, 0, 0, 0, 0, 1)), Some(local));
    assert_eq!(routes.source(IpAddress::v6(0x2a00, 0, 0, 0, 0, 0, 0, 1)), Some(global));
    assert_eq!(Routes::default().source(v4(1, 1, 1, 1)), None);
}

#[test]
fn an_address_takes_its_prefix_along_when_it_goes() {
    let mut routes = routes();
    routes.add_address(IpCidr::new(v4(10, 0, 0, 5), 24), true);
    assert!(!routes.add_address(IpCidr::new(v4(10, 0, 0, 5), 24), true), "twice");
    assert!(routes.remove_address(v4(10, 0, 0, 2)).is_some());
    assert!(routes.on_link(v4(10, 0, 0, 9)), "the other address still has it");
    assert!(routes.remove_address(v4(10, 0, 0, 5)).is_some());
    assert!(!routes.on_link(v4(10, 0, 0, 9)));
    assert!(routes.remove_address(v4(10, 0, 0, 5)).is_none());
}

#[test]
fn broadcast_is_per_network() {
    let routes = routes();
    assert!(routes.is_broadcast(Ipv4Address::new(10, 0, 0, 255)));
    assert!(routes.is_broadcast(Ipv4Address::BROADCAST));
    assert!(!routes.is_broadcast(Ipv4Address::new(10, 0, 1, 255)));
}

#[test]
fn routes_expire_are_renewed_and_are_bounded() {
    let mut routes = Routes::default();
    let default = IpCidr::new(v4(0, 0, 0, 0), 0);
    let via = v4(10, 0, 0, 1);
    routes.add(gateway(default, via, Some(Time::from_ns(100))));
    routes.add(gateway(default, via, Some(Time::from_ns(200))));
    assert_eq!(routes.poll_at(), Some(Time::from_ns(200)), "renewed, not doubled");
    routes.expire(Time::from_ns(200));
    assert_eq!(routes.via(v4(8, 8, 8, 8)), None);
    let mut added = 0;
    for n in 0..1000u32 {
        let prefix = IpCidr::new(IpAddress::Ipv4(Ipv4Address::from_bits(n << 8)), 24);
        added += usize::from(routes.add(gateway(prefix, via, None)));
    }
    assert_eq!(added, MAX_ROUTES);
}
