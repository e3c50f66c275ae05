//! Echo requests, both ways, none lost.

use super::SOON;
use super::host::{Host, OURS, both_addresses, namespace_with_tap, start};

#[test]
fn three_thousand_pings_at_a_thousand_a_second_are_answered() {
    let Some(host) = Host::start(&[], "echo", "tap:bw0", "") else { return };
    for ours in OURS {
        let told = host.run("ping", &format!("-n -q -i 0.001 -c 3000 {ours}"), SOON);
        assert!(told.contains("3000 received, 0% packet loss"), "{told}");
    }
    // Fragments: both ways more than one frame.
    for ours in OURS {
        let told = host.run("ping", &format!("-n -q -i 0.01 -c 100 -s 20000 {ours}"), SOON);
        assert!(told.contains("100 received, 0% packet loss"), "{told}");
    }
    host.stop();
}

#[test]
fn the_kernel_answers_our_pings() {
    let Some(netns) = namespace_with_tap(&[]) else { return };
    for kernel in ["192.0.2.1", "2001:db8::1"] {
        // The kernel limits its ICMPv6 errors, but not its echo replies.
        let flags = format!("{} -c 3000 -i 0.001 {kernel}", both_addresses());
        let report = start(&netns, "ping", "tap:bw0", &flags).report(SOON).unwrap();
        assert_eq!(report.count("/lost").unwrap(), 0, "{}", report.value());
        assert_eq!(report.count("/errors").unwrap(), 0, "{}", report.value());
        assert_eq!(report.count("/latency_ns/round_trip/count").unwrap(), 3000, "{}", report.value());
    }
}
