use super::*;

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const PREFIX: Ipv6Cidr = Ipv6Cidr::new(Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 64);

fn at(seconds: u64) -> Time {
    Time::from_ns(seconds * 1_000_000_000)
}

fn autoconf() -> Autoconf {
    Autoconf::new(MAC, &[5; 32], false, true, at(0))
}

fn run(autoconf: &mut Autoconf, now: Time) -> Vec<Action> {
    core::iter::from_fn(|| autoconf.due(now)).collect()
}

fn hours(hours: u64) -> Option<Duration> {
    Some(Duration::from_secs(hours * 3600))
}

/// With an address in `PREFIX`, valid for that long.
fn assigned(valid: Option<Duration>) -> (Autoconf, Ipv6Address) {
    let mut autoconf = autoconf();
    autoconf.prefix(PREFIX, valid, at(0));
    assert!(matches!(run(&mut autoconf, at(0))[..], [Action::Probe(_)]));
    let [Action::Assign(cidr)] = run(&mut autoconf, at(1))[..] else { panic!("not assigned") };
    assert!(PREFIX.contains_addr(&cidr.address()));
    (autoconf, cidr.address())
}

#[test]
fn identifiers_are_stable_and_depend_on_prefix_mac_and_key() {
    let address =
        |mac, seed: [u8; 32], prefix| Autoconf::new(mac, &seed, false, true, at(0)).identifier(prefix, 0);
    let other_prefix = Ipv6Cidr::new(Ipv6Address::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0), 64);
    let tail = |a: Ipv6Address| a.octets()[8..].to_vec();
    let first = address(MAC, [5; 32], PREFIX);
    assert_eq!(first, address(MAC, [5; 32], PREFIX));
    assert_ne!(tail(first), tail(address(MAC, [5; 32], other_prefix)));
    assert_ne!(first, address(EthernetAddress([2, 0, 0, 0, 0, 2]), [5; 32], PREFIX));
    assert_ne!(first, address(MAC, [6; 32], PREFIX));
    assert_eq!(first.octets()[..8], PREFIX.address().octets()[..8]);
}

#[test]
fn an_address_is_ours_a_second_after_its_probe() {
    let (autoconf, _) = assigned(None);
    assert_eq!(autoconf.poll_at(), None);
    assert_eq!(autoconf.tentative().count(), 0);
}

#[test]
fn duplicates_get_three_more_tries() {
    let mut autoconf = autoconf();
    autoconf.prefix(PREFIX, None, at(0));
    let mut tried = Vec::new();
    for second in 0..10 {
        for action in run(&mut autoconf, at(second)) {
            let Action::Probe(address) = action else { panic!("{action:?}") };
            tried.push(address);
            autoconf.duplicate(address, at(second));
        }
    }
    assert_eq!(tried.len(), 4);
    tried.dedup();
    assert_eq!(tried.len(), 4, "all different");
    assert_eq!(autoconf.poll_at(), None, "given up");
    // Objections to what is ours already are conflicts, not duplicates.
    let (mut autoconf, address) = assigned(None);
    autoconf.duplicate(address, at(2));
    assert_eq!(run(&mut autoconf, at(100)), []);
}

#[test]
fn lifetimes_follow_the_two_hour_rule() {
    let cases = [
        // lifetime then, lifetime told at 1 h, end
        (hours(4), hours(5), Some(6)),
        (hours(4), hours(1), Some(3)),
        (hours(2), hours(1), Some(2)),
        (None, hours(1), Some(3)),
        (None, hours(10), Some(11)),
        (hours(4), None, None),
        (hours(2), Some(Duration::ZERO), Some(2)),
    ];
    for (then, told, end) in cases {
        let (mut autoconf, address) = assigned(then);
        assert!(autoconf.prefix(PREFIX, told, at(3600)));
        assert_eq!(autoconf.poll_at(), end.map(|h| at(h * 3600)), "{then:?} {told:?}");
        if let Some(end) = end {
            assert_eq!(run(&mut autoconf, at(end * 3600)), [Action::Remove(address)]);
        }
    }
}

#[test]
fn a_prefix_that_ends_before_its_address_is_ours_is_forgotten() {
    let mut autoconf = autoconf();
    assert!(autoconf.prefix(PREFIX, Some(Duration::from_millis(500)), at(0)));
    run(&mut autoconf, at(0));
    assert_eq!(run(&mut autoconf, at(1)), []);
    assert_eq!(autoconf.poll_at(), None);
    assert!(autoconf.prefix(PREFIX, Some(Duration::ZERO), at(2)), "nothing to end");
    assert_eq!(autoconf.poll_at(), None);
}

#[test]
fn routers_are_solicited_once_there_is_a_link_local_address() {
    let mut autoconf = Autoconf::new(MAC, &[5; 32], true, true, at(0));
    assert!(matches!(run(&mut autoconf, at(0))[..], [Action::Probe(_)]));
    assert!(matches!(run(&mut autoconf, at(1))[..], [Action::Assign(_), Action::SolicitRouters]));
    assert_eq!(run(&mut autoconf, at(4)), []);
    assert_eq!(run(&mut autoconf, at(5)), [Action::SolicitRouters]);
    autoconf.router_heard();
    assert_eq!(run(&mut autoconf, at(50)), []);
}
