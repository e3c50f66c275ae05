//! The short answer: how much, how fast, what was lost, and how busy each core was.

use std::fmt::Write as _;

use engine::{PortEvent, PortNews};

use super::{Colour, Summary, units};

/// How many of the ports' events are shown.
const EVENTS: usize = 10;

/// Counters of connections that failed, by reason.
const CONNECTION_FAILURES: [&str; 6] =
    ["refused", "reset", "timed_out", "unreachable", "closed_early", "connect_failed"];

/// Rates, drops by reason, and the cores' load.
#[must_use]
pub fn text(summary: &Summary, colour: Colour) -> String {
    let mut text = String::new();
    if let Some(requests) = summary.requests() {
        write_requests(&mut text, requests, summary, colour);
    }
    let fast = format!(
        "{}, {}",
        units::rate(summary.packets_per_second(), "pps"),
        units::rate(summary.bits_per_second(), "bit/s")
    );
    let _ = writeln!(
        text,
        "{}  {} packets in {:.2} s  ({})",
        colour.heading(if summary.requests().is_some() { "packets" } else { "rate   " }),
        summary.packets,
        summary.seconds(),
        colour.paint("1;32", &fast),
    );

    if summary.requests().is_none() {
        let missing = judged(["lost", "reordered", "duplicated", "late", "corrupted"], summary, colour);
        if !missing.is_empty() {
            let _ = writeln!(text, "{}  {missing}", colour.heading("frames "));
        }
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

    write_events(&mut text, &summary.snapshot.port_events, colour);
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
            let _ = write!(text, ", {} ticks/packet", units::count(cycles));
        }
        if total.rest.sleeps() > 0 {
            let _ = write!(text, ", {} asleep", units::percent(total.rest.ticks, ran));
        }
        if core.silent {
            let stuck = "did not answer; these are its last figures";
            let _ = write!(text, "; {}", colour.paint("1;31", stuck));
        }
        text.push('\n');
    }
    text
}

/// What happened to the ports, the latest of it.
fn write_events(text: &mut String, events: &[PortNews], colour: Colour) {
    let untold = events.len().saturating_sub(EVENTS);
    if untold > 0 {
        let _ = writeln!(text, "{}  {untold} earlier ones (all of them: --json)", colour.heading("event  "));
    }
    for PortNews { port, name, at, event } in &events[untold..] {
        let what = match event {
            PortEvent::Gone { .. } | PortEvent::LinkDown => colour.paint("1;31", &event.to_string()),
            _ => event.to_string(),
        };
        let at = at.as_secs_f64();
        let _ = writeln!(text, "{}  {at:.1} s: port {port} ({name}) {what}", colour.heading("event  "));
    }
}

/// Requests, what was wrong with them, and the connections they went by.
fn write_requests(text: &mut String, requests: u64, summary: &Summary, colour: Colour) {
    let _ = writeln!(
        text,
        "{}  {requests} requests in {:.2} s  ({})",
        colour.heading("rate   "),
        summary.seconds(),
        colour.paint("1;32", &units::rate(summary.requests_per_second(), "req/s")),
    );
    let wrong = ["errors", "lost", "reordered", "duplicated", "corrupted", "sent_late"];
    let wrong = judged(wrong, summary, colour);
    if !wrong.is_empty() {
        let _ = writeln!(text, "{}  {wrong}", colour.heading("answers"));
    }
    let codes: Vec<String> = summary
        .counters
        .iter()
        .filter_map(|(name, count)| Some((name.strip_prefix("status_")?, count)))
        .filter(|(_, count)| *count > 0)
        .map(|(code, count)| {
            let shown = format!("{count} x {code}");
            if code.starts_with(['2', '3']) { shown } else { colour.paint("1;31", &shown) }
        })
        .collect();
    if !codes.is_empty() {
        let _ = writeln!(text, "{}  {}", colour.heading("status "), codes.join(", "));
    }
    let failed: Vec<String> = CONNECTION_FAILURES
        .into_iter()
        .filter(|name| summary.counted(name) > 0)
        .map(|name| {
            let shown = format!(", {} {}", summary.counted(name), name.replace('_', " "));
            colour.paint("1;31", &shown)
        })
        .collect();
    if summary.counters.iter().any(|(name, _)| name == "connections") {
        let connections = summary.counted("connections");
        let _ = writeln!(text, "{}  {connections} connections{}", colour.heading("opened "), failed.concat());
    }
}

/// Those of `names` that a program counts, with their counts, in red what is not 0.
fn judged<const N: usize>(names: [&str; N], summary: &Summary, colour: Colour) -> String {
    let counted: Vec<String> = names
        .into_iter()
        .filter(|name| summary.counters.iter().any(|(have, _)| have == *name))
        .map(|name| {
            let shown = format!("{} {}", summary.counted(name), name.replace('_', " "));
            alarming(summary.counted(name), &shown, colour)
        })
        .collect();
    counted.join(", ")
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
event    1.2 s: port 1 (loop:b) gone: its backend ended
core     lcore 0 on cpu 0: 75.0 % busy, 25.0 packets/burst, 3150 ticks/packet
core     lcore 1 on cpu 1: 75.0 % busy, 25.0 packets/burst, 3150 ticks/packet
";
        assert_eq!(text(&fixture::summary(), Colour::Plain), expected);
    }

    #[test]
    fn requests_come_first_where_there_are_some() {
        let expected = "\
rate     900000 requests in 2.00 s  (450 kreq/s)
answers  3 errors, 7 lost, 0 reordered, 0 duplicated, 12 sent late
opened   64 connections, 3 refused
packets  1000000 packets in 2.00 s  (500 kpps, 240 Mbit/s)
dropped  7  (tx_dropped 7)
";
        assert!(text(&fixture::requests(), Colour::Plain).starts_with(expected));
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
