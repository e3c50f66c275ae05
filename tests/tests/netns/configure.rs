//! Addresses and names from dnsmasq: DHCP, router advertisements, DNS.

use std::time::{Duration, Instant};

use peers::netns::{Dnsmasq, DnsmasqOptions};

use super::SOON;
use super::host::{Host, OUR_MAC, both_addresses, namespace_with_tap, start};

const HOSTS: [(&str, &str); 3] = [
    ("www.bywash.test", "192.0.2.80"),
    ("www.bywash.test", "2001:db8::80"),
    ("six.bywash.test", "2001:db8::66"),
];

const SERVED: DnsmasqOptions<'static> = DnsmasqOptions {
    interface: "bw0",
    dhcp_range: Some("192.0.2.100,192.0.2.110"),
    ra_prefix: Some("2001:db8::"),
    hosts: &HOSTS,
};

/// Waits until `seen` gives something.
fn wait_for<T>(what: &str, dnsmasq: &Dnsmasq, mut seen: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(seen) = seen() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}; dnsmasq says:\n{}", dnsmasq.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_address_comes_from_dhcp_and_answers() {
    let Some(netns) = namespace_with_tap(&["dnsmasq", "ping"]) else { return };
    let dnsmasq = Dnsmasq::start(&netns, &SERVED).unwrap();
    let ours = start(&netns, "echo", &format!("tap:bw0,mac={OUR_MAC}"), "--dhcp");
    let leased = wait_for("a lease for our MAC address", &dnsmasq, || {
        let leases = dnsmasq.leases().unwrap_or_default();
        let lease = leases.lines().find(|line| line.contains(OUR_MAC))?;
        lease.split_whitespace().nth(2).map(str::to_owned)
    });
    assert!(leased.starts_with("192.0.2.10") || leased == "192.0.2.110", "{leased}");
    let mut host = Host { netns, ours };
    host.wait_for_ping(&leased);
    let told = host.run("ping", &format!("-n -q -i 0.01 -c 100 {leased}"), SOON);
    assert!(told.contains("100 received"), "{told}");
    host.stop();
}

/// Which address it is depends on a secret (RFC 7217), so it is ours that asks, and dnsmasq that says who asked.
#[test]
fn an_address_is_formed_from_advertisements_and_used() {
    let Some(netns) = namespace_with_tap(&["dnsmasq"]) else { return };
    let dnsmasq = Dnsmasq::start(&netns, &SERVED).unwrap();
    let flags = "--slaac --dns 2001:db8::1";
    let told = resolve(&netns, flags, "six.bywash.test").unwrap_or_else(|error| {
        panic!("{error}; dnsmasq says:\n{}", dnsmasq.log());
    });
    assert!(told.contains("2001:db8::66"), "{told}");
    let log = dnsmasq.log();
    let asked = log.lines().find(|line| line.contains("query[AAAA] six.bywash.test from 2001:db8:"));
    assert!(asked.is_some_and(|line| !line.ends_with(" 2001:db8::1")), "{log}");
    let flags = "--slaac -c 100 -i 0.01 2001:db8::1";
    let report = start(&netns, "ping", "tap:bw0", flags).report(SOON).unwrap();
    assert_eq!(report.count("/lost").unwrap(), 0, "{}", report.value());
    assert_eq!(report.count("/latency_ns/round_trip/count").unwrap(), 100, "{}", report.value());
}

/// What `bywash resolve` prints for a name.
fn resolve(netns: &peers::netns::Netns, flags: &str, name: &str) -> Result<String, String> {
    let ours = start(netns, "resolve", "tap:bw0", &format!("{flags} {name}"));
    match ours.report(SOON) {
        Ok(report) => Ok(report.value().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn names_are_resolved_by_a_server_that_is_given_or_learnt() {
    let Some(netns) = namespace_with_tap(&["dnsmasq"]) else { return };
    let dnsmasq = Dnsmasq::start(&netns, &SERVED).unwrap();
    for flags in [format!("{} --dns 192.0.2.1", both_addresses()), "--dhcp".to_owned()] {
        let told = resolve(&netns, &flags, "www.bywash.test").unwrap_or_else(|error| {
            panic!("{flags}: {error}; dnsmasq says:\n{}", dnsmasq.log());
        });
        assert!(told.contains("192.0.2.80") && told.contains("2001:db8::80"), "{flags}: {told}");
    }
    let flags = format!("{} --dns 2001:db8::1", both_addresses());
    let told = resolve(&netns, &flags, "six.bywash.test").unwrap();
    assert!(told.contains("2001:db8::66"), "{told}");
    // dnsmasq has nobody to ask, and refuses; ours is an error and a failure.
    let told = resolve(&netns, &flags, "none.bywash.test").unwrap_err();
    assert!(told.contains("none.bywash.test"), "{told}");
}
