//! The short answer: how much, how fast, what was lost, and how busy each core was.

use std::fmt::Write as _;

use super::{Colour, Summary, units};

/// Rates, drops by reason, and the cores' load.
#[must_use]
pub fn text(summary: &Summary, colour: Colour) -> String {
    let mut text = String::new();
    let fast = format!(
        "{}, {}",
        units::rate(summary.packets_per_second(), "pps"),
        units::rate(summary.bits_per_second(), "bit/s")
    );
    let _ = writeln!(
        text,
        "{}  {} packets in {:.2} s  ({})",
        colour.heading("rate   "),
        summary.packets,
        summary.seconds(),
        colour.paint("1;32", &fast),
    );

    let missing: Vec<String> = ["lost", "reordered", "duplicated", "late", "corrupted"]
        .into_iter()
        .filter(|name| summary.counters.iter().any(|(have, _)| have == *name))
        .map(|name| alarming(summary.counted(name), &format!("{} {name}", summary.counted(name)), colour))
        .collect();
    if !missing.is_empty() {
        let _ = writeln!(text, "{}  {}", colour.heading("frames "), missing.join(", "));
    }

    let dropped = summary.drops.sum();
    let reasons: Vec<String> = summary
        .drops
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!("  ({})", reasons.join(", ")) };
    let _ = writeln!(
        text,
        "{}  {}{reasons}",
        colour.heading("dropped"),
        alarming(dropped, &dropped.to_string(), colour)
    );

    for port in &summary.snapshot.ports {
        if let Some(fault) = port.total.fault {
            let stopped = format!("port {} stopped: {fault}", port.total.port);
            let _ = writeln!(text, "{}  {}", colour.heading("fault  "), colour.paint("1;31", &stopped));
        }
    }

    for core in &summary.snapshot.cores {
        let total = &core.total;
        let place = total.cpu.map_or_else(|| ", not pinned".to_string(), |cpu| format!(" on cpu {cpu}"));
        let ran = total.taken.since(total.started);
        let _ = write!(
            text,
            "{}  lcore {}{place}: {} busy, {} packets/burst",
            colour.heading("core   "),
            total.lcore,
            units::percent(total.busy_ticks, ran),
            mean(total.packets, total.bursts),
        );
        if let Some(cycles) = total.busy_ticks.checked_div(total.packets) {
            let _ = write!(text, ", {cycles} ticks/packet");
        }
        if core.silent {
            let stuck = "did not answer; these are its last figures";
            let _ = write!(text, "; {}", colour.paint("1;31", stuck));
        }
        text.push('\n');
    }
    text
}

/// `shown` in red unless `count` is 0.
fn alarming(count: u64, shown: &str, colour: Colour) -> String {
    colour.paint(if count == 0 { "32" } else { "1;31" }, shown)
}

#[allow(clippy::cast_precision_loss)] // shown with one decimal
fn mean(sum: u64, count: u64) -> String {
    if count == 0 { "0.0".to_string() } else { format!("{:.1}", sum as f64 / count as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn the_short_answer_has_rate_losses_reasons_and_load() {
        let expected = "\
rate     1000000 packets in 2.00 s  (500 kpps, 240 Mbit/s)
frames   7 lost, 0 reordered, 0 duplicated
dropped  7  (tx_dropped 7)
core     lcore 0 on cpu 0: 75.0 % busy, 25.0 packets/burst, 3150 ticks/packet
core     lcore 1 on cpu 1: 75.0 % busy, 25.0 packets/burst, 3150 ticks/packet
";
        assert_eq!(text(&fixture::summary(), Colour::Plain), expected);
    }

    #[test]
    fn faults_silent_cores_and_losses_stand_out() {
        let mut summary = fixture::summary();
        summary.snapshot.ports[1].total.fault = Some(pmd::port::QueueFault::UsedIdNotOutstanding { id: 9 });
        summary.snapshot.cores[1].silent = true;
        let text = text(&summary, Colour::Ansi);
        assert!(text.contains("\x1b[1;31mdid not answer"), "{text}");
        assert!(text.contains("port 1 stopped: device returned descriptor 9"), "{text}");
        assert!(text.contains("\x1b[1;31m7 lost"), "{text}");
        assert!(text.contains("\x1b[32m0 reordered"), "{text}");
    }
}
