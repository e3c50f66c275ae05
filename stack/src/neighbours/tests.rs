use super::*;

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const OTHER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const ANSWER: News = News { solicited: true, replace: true, create: false };
const HEARSAY: News = News { solicited: false, replace: true, create: true };

fn host(n: u32) -> IpAddress {
    IpAddress::Ipv4(core::net::Ipv4Addr::from_bits(0x0a00_0000 + n))
}

fn table(limit: usize) -> Neighbours {
    Neighbours::new(limit, &[3; 16])
}

fn at(seconds: u64) -> Time {
    Time::from_ns(seconds * 1_000_000_000)
}

fn lookup(table: &mut Neighbours, now: Time, n: u32) -> Lookup {
    table.lookup(now, host(n), &mut None)
}

fn learn(table: &mut Neighbours, now: Time, n: u32, mac: EthernetAddress, news: News) -> Learnt {
    table.learn(now, host(n), mac, news, &mut None)
}

fn due(table: &mut Neighbours, now: Time) -> Vec<Due> {
    core::iter::from_fn(|| table.due(now)).collect()
}

#[test]
fn states_follow_rfc_4861() {
    let mut table = table(8);
    assert_eq!(lookup(&mut table, at(0), 1), Lookup::Ask);
    assert_eq!(lookup(&mut table, at(0), 1), Lookup::Pending);
    assert!(matches!(learn(&mut table, at(0), 1, MAC, ANSWER), Learnt::Resolved(_)));
    assert_eq!(lookup(&mut table, at(29), 1), Lookup::Known(MAC));
    assert_eq!(due(&mut table, at(29)), []);
    assert_eq!(lookup(&mut table, at(31), 1), Lookup::Known(MAC), "stale, used, delayed");
    assert_eq!(table.poll_at(), Some(at(36)));
    assert_eq!(due(&mut table, at(36)), [Due::Probe(host(1), MAC)]);
    assert!(table.is_asked(host(1)));
    assert_eq!(lookup(&mut table, at(36), 1), Lookup::Known(MAC), "used while probed");
    assert_eq!(learn(&mut table, at(36), 1, MAC, ANSWER), Learnt::Noted);
    assert!(!table.is_asked(host(1)));
    assert_eq!(due(&mut table, at(60)), []);
}

#[test]
fn three_tries_and_then_it_is_gone() {
    let mut table = table(8);
    lookup(&mut table, at(0), 1);
    assert_eq!(due(&mut table, at(1)), [Due::Ask(host(1))]);
    assert_eq!(due(&mut table, at(2)), [Due::Ask(host(1))]);
    let failed = due(&mut table, at(3));
    assert!(matches!(failed[..], [Due::Failed { waited: true, .. }]));
    assert_eq!(table.len(), 0);
    assert_eq!(table.poll_at(), None);
    // One that was known and does not answer any more: nobody waits.
    learn(&mut table, at(10), 2, MAC, HEARSAY);
    lookup(&mut table, at(10), 2);
    let mut all = Vec::new();
    for second in 11..30 {
        all.extend(due(&mut table, at(second)));
    }
    assert_eq!(all.len(), 4);
    assert!(matches!(all[3], Due::Failed { waited: false, .. }));
}

#[test]
fn requests_to_one_destination_are_a_second_apart_whoever_asks() {
    let mut table = table(8);
    let mut requests = 0;
    for tick in 0..10_000u64 {
        let now = Time::from_ns(tick * 1_000_000);
        requests += u64::from(lookup(&mut table, now, 1) == Lookup::Ask);
        requests += due(&mut table, now).iter().filter(|d| matches!(d, Due::Ask(_))).count() as u64;
    }
    assert!((9..=10).contains(&requests), "{requests} in ten seconds");
}

#[test]
fn hearsay_makes_stale_entries_and_no_reachable_ones() {
    let mut table = table(8);
    assert_eq!(learn(&mut table, at(0), 1, MAC, News { create: false, ..HEARSAY }), Learnt::Ignored);
    assert_eq!(table.len(), 0);
    learn(&mut table, at(0), 1, MAC, HEARSAY);
    assert_eq!(lookup(&mut table, at(0), 1), Lookup::Known(MAC));
    assert_eq!(table.poll_at(), Some(at(5)), "asked, as it is in use");
    let generation = table.generation();
    learn(&mut table, at(1), 1, OTHER, HEARSAY);
    assert_ne!(table.generation(), generation, "answers from before are worthless");
    assert_eq!(lookup(&mut table, at(1), 1), Lookup::Known(OTHER));
    learn(&mut table, at(1), 1, MAC, News { replace: false, ..HEARSAY });
    assert_eq!(lookup(&mut table, at(1), 1), Lookup::Known(OTHER));
}

#[test]
fn the_table_is_bounded_and_used_entries_stay() {
    let mut table = table(64);
    lookup(&mut table, at(0), 0);
    learn(&mut table, at(0), 0, MAC, ANSWER);
    for n in 1..10_000 {
        learn(&mut table, at(0), n, OTHER, HEARSAY);
        assert!(table.len() <= 64);
        assert_eq!(lookup(&mut table, at(1), 0), Lookup::Known(MAC));
    }
    // Even when we ask for strangers ourselves, as a scan of the network does.
    for n in 10_000..20_000 {
        lookup(&mut table, at(2), n);
        assert!(table.len() <= 64);
    }
    let mut asked = 0;
    for second in 3..10 {
        asked += due(&mut table, at(second)).len();
    }
    assert!(asked <= 64 * 3);
}

#[test]
fn the_walk_is_not_repeated_for_each_entry() {
    let mut table = table(1024);
    for n in 0..1000 {
        // A thousand entries due a microsecond apart.
        lookup(&mut table, Time::from_ns(u64::from(n) * 1000), n);
    }
    let start = at(1).ns();
    let mut walks = 0;
    for tick in 0..2000u64 {
        let now = Time::from_ns(start + tick * 1000);
        if table.poll_at().is_some_and(|due| due <= now) {
            walks += 1;
            while table.due(now).is_some() {}
        }
    }
    assert!(walks <= 2, "{walks} walks in two milliseconds");
}
