//! Totals in the wording of DPDK's testpmd, so that eyes and scripts trained on it find their way.
//!
//! Source of the format: the output of `dpdk-testpmd` 22.11, columns included (`--stats-period`, and the statistics at
//! the end). What differs: a port's string stands after its number, and where testpmd counts `RX-missed` (frames that
//! the card had no descriptor for) this engine counts nothing, as a virtio device does not tell.

use std::fmt::Write as _;

use engine::stats::{PortSnapshot, QueueReport, Snapshot};

use super::{per_second, units};

/// Statistics of each port, as testpmd prints them every `--stats-period`; rates since the snapshot `before`.
#[must_use]
pub fn periodic(now: &Snapshot, before: Option<&Snapshot>) -> String {
    let mut text = "Port statistics ====================================\n".to_string();
    for port in &now.ports {
        let earlier = before.and_then(|before| before.ports.get(port.total.port));
        write_nic(&mut text, port, earlier, now.interval.as_secs_f64());
    }
    if let Some(requests) = super::requests(now) {
        let new = requests.saturating_sub(before.and_then(super::requests).unwrap_or(0));
        let rate = units::rate(per_second(new, now.interval.as_secs_f64()), "req/s");
        let _ = writeln!(text, "  Requests:   {requests:<10} {rate} (since last show)\n");
    }
    text
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // rates are positive and far below 2⁶⁴
fn write_nic(text: &mut String, port: &PortSnapshot, earlier: Option<&PortSnapshot>, seconds: f64) {
    let now = &port.total.counters;
    let then = earlier.map(|earlier| earlier.total.counters).unwrap_or_default();
    let rate = |now: u64, then: u64| per_second(now.saturating_sub(then), seconds) as u64;
    let PortSnapshot { label, total } = port;
    let _ = write!(
        text,
        "  ######################## NIC statistics for port {:<2} ########################\n  \
         ({}, {})\n  \
         RX-packets: {:<10} RX-missed: {:<10} RX-bytes:  {}\n  \
         RX-errors: {}\n  \
         RX-nombuf:  {:<10}\n  \
         TX-packets: {:<10} TX-errors: {:<10} TX-bytes:  {}\n\n  \
         Throughput (since last show)\n  \
         Rx-pps: {:>12}          Rx-bps: {:>12}\n  \
         Tx-pps: {:>12}          Tx-bps: {:>12}\n  \
         ############################################################################\n\n",
        total.port,
        label.name,
        label.driver,
        now.rx_packets,
        0,
        now.rx_bytes,
        now.rx_errors,
        now.rx_nombuf,
        now.tx_packets,
        now.tx_errors + total.tx_dropped,
        now.tx_bytes,
        rate(now.rx_packets, then.rx_packets),
        rate(now.rx_bytes, then.rx_bytes) * 8,
        rate(now.tx_packets, then.tx_packets),
        rate(now.tx_bytes, then.tx_bytes) * 8,
    );
}

/// Forward statistics of each port and of all, as testpmd prints them at the end.
#[must_use]
pub fn forward(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let mut all = QueueReport::default();
    for PortSnapshot { total, .. } in &snapshot.ports {
        let _ = writeln!(
            text,
            "  ---------------------- Forward statistics for port {:<2} ----------------------",
            total.port
        );
        write_forward(&mut text, total);
        text.push_str("  ----------------------------------------------------------------------------\n\n");
        all.counters.add(&total.counters);
        all.tx_dropped += total.tx_dropped;
    }
    text.push_str("  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++\n");
    write_forward(&mut text, &all);
    text.push_str("  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++\n");
    text
}

fn write_forward(text: &mut String, total: &QueueReport) {
    let counters = &total.counters;
    let (rx_dropped, tx_dropped) = (counters.rx_errors, counters.tx_errors + total.tx_dropped);
    let line = |direction: &str, packets: u64, dropped: u64| {
        format!(
            "  {direction}-packets: {packets:<14} {direction}-dropped: {dropped:<14}{direction}-total: {}\n",
            packets + dropped
        )
    };
    text.push_str(&line("RX", counters.rx_packets, rx_dropped));
    if counters.rx_nombuf > 0 {
        let _ = writeln!(text, "  RX-nombufs: {:<14}", counters.rx_nombuf);
    }
    text.push_str(&line("TX", counters.tx_packets, tx_dropped));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn forward_statistics_read_as_testpmd_prints_them() {
        let rule = "-".repeat(76);
        let pluses = "+".repeat(76);
        let expected = [
            "  ---------------------- Forward statistics for port 0  ----------------------",
            "  RX-packets: 1000000        RX-dropped: 0             RX-total: 1000000",
            "  TX-packets: 1000007        TX-dropped: 0             TX-total: 1000007",
            &format!("  {rule}"),
            "",
            "  ---------------------- Forward statistics for port 1  ----------------------",
            "  RX-packets: 1000007        RX-dropped: 0             RX-total: 1000007",
            "  TX-packets: 1000000        TX-dropped: 7             TX-total: 1000007",
            &format!("  {rule}"),
            "",
            "  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++",
            "  RX-packets: 2000007        RX-dropped: 0             RX-total: 2000007",
            "  TX-packets: 2000007        TX-dropped: 7             TX-total: 2000014",
            &format!("  {pluses}"),
            "",
        ];
        assert_eq!(forward(&fixture::snapshot()), expected.join("\n"));
    }

    #[test]
    fn periodic_statistics_have_a_line_of_requests_where_there_are_some() {
        let now = fixture::requests().snapshot;
        assert!(periodic(&now, None).contains("  Requests:   900000     900 kreq/s"));
        assert!(periodic(&now, Some(&now)).contains("  Requests:   900000     0 req/s"));
        assert!(!periodic(&fixture::snapshot(), None).contains("Requests"));
    }

    #[test]
    fn missing_buffers_get_a_line_of_their_own() {
        let mut snapshot = fixture::snapshot();
        snapshot.ports[0].total.counters.rx_nombuf = 42;
        assert_eq!(forward(&snapshot).matches("  RX-nombufs: 42").count(), 2);
    }

    #[test]
    fn periodic_statistics_give_rates_since_the_last_show() {
        let now = fixture::snapshot();
        let mut before = now.clone();
        before.ports[1].total.counters.rx_packets -= 400_000;
        before.ports[1].total.counters.rx_bytes -= 400_000 * 60;
        let text = periodic(&now, Some(&before));
        let port_1 = text.split_once("NIC statistics for port 1  #").unwrap().1;
        assert!(port_1.contains("(loop:b, virtio-net (in process))"), "{text}");
        assert!(port_1.contains("Rx-pps:       400000          Rx-bps:    192000000"), "{text}");
        assert!(port_1.contains("Tx-pps:            0          Tx-bps:            0"), "{text}");
        assert!(
            port_1.contains("TX-packets: 1000000    TX-errors: 7          TX-bytes:  60000000"),
            "{text}"
        );
    }
}
