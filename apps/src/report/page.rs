//! The HTML of a report: its frame, its tables.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::hist::compare;
use crate::hist::run::Run;
use crate::output::percentiles::QUANTILES;
use crate::output::{Summary, units};

/// Style of the page; also for paper.
const STYLE: &str = "\
:root{color-scheme:light}\
body{margin:0;background:#f3f4f6;color:#1f2937;font:15px/1.5 'DejaVu Sans',Verdana,system-ui,sans-serif}\
header,main{max-width:1010px;margin:0 auto;padding:0 24px}\
header{padding-top:36px}h1{margin:0;font-size:26px}header p{margin:4px 0 0;color:#6b7280}\
section,.tiles{background:#fff;border:1px solid #e5e7eb;border-radius:10px;margin:20px 0;padding:8px 24px 20px;overflow-x:auto}\
h2{font-size:18px;margin:14px 0 10px}h3{font-size:14px;margin:14px 0 4px;color:#6b7280}\
.tiles{display:flex;flex-wrap:wrap;gap:14px 44px;padding:18px 24px}\
.tiles div{min-width:90px}.tiles b{display:block;font-size:22px}.tiles span{color:#6b7280;font-size:13px}\
.bad{color:#b91c1c}.good{color:#047857}\
figure{margin:6px -24px 14px}figure svg{display:block;max-width:100%;height:auto;margin:0 auto}\
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;margin-bottom:8px}\
th,td{padding:5px 14px 5px 0;text-align:right;border-bottom:1px solid #eef0f3;white-space:nowrap}\
th{color:#6b7280;font-weight:600}th:first-child,td:first-child{text-align:left}\
.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere;vertical-align:top}.facts td:first-child{color:#6b7280}\
.ratio td{color:#6b7280;font-size:12.5px}.ratio .bad{color:#b91c1c}.ratio .good{color:#047857}\
pre{background:#f9fafb;border:1px solid #e5e7eb;border-radius:6px;padding:12px;overflow-x:auto;font-size:13px}\
footer{max-width:1010px;margin:0 auto 36px;padding:0 24px;color:#6b7280;font-size:13px}\
@media print{body{background:#fff}section,.tiles{break-inside:avoid;border:0}}";

/// The whole document.
pub(super) fn whole(title: &str, subtitle: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { (title) } p { (subtitle) } }
                main { (body) }
                footer { "Written by bywash " (env!("CARGO_PKG_VERSION")) "." }
            }
        }
    };
    page.into_string()
}

/// Numbers in large letters: name, number, whether it is a bad one.
pub(super) fn tiles(tiles: &[(&str, String, bool)]) -> Markup {
    html! {
        div class="tiles" {
            @for (name, value, is_bad) in tiles {
                div { b class=[is_bad.then_some("bad")] { (value) } span { (name) } }
            }
        }
    }
}

/// Names and values.
pub(super) fn facts(rows: &[(String, String)]) -> Markup {
    html! { table class="facts" { @for (name, value) in rows { tr { td { (name) } td { (value) } } } } }
}

/// The table of one latency of several runs, or of all of one run.
pub(super) fn percentiles(name: &str, runs: &[Run]) -> Markup {
    let columns: Vec<(&str, f64)> =
        QUANTILES.iter().map(|(title, _, quantile)| (*title, *quantile)).chain([("max", 1.0)]).collect();
    let rows: Vec<_> = match runs {
        [run] => run.series.iter().map(|series| (series.name.as_str(), &series.distribution)).collect(),
        _ => runs.iter().filter_map(|run| Some((run.name.as_str(), &run.get(name)?.distribution))).collect(),
    };
    html! {
        table {
            tr { th { (name) } th { "count" } th { "min" } @for (title, _) in &columns { th { (title) } } }
            @for (at, (name, distribution)) in rows.iter().enumerate() {
                tr {
                    td { (name) }
                    td { (units::count(distribution.count())) }
                    td { (units::time_ns(distribution.min_ns())) }
                    @for (_, quantile) in &columns { td { (units::time_ns(distribution.value_at(*quantile))) } }
                }
                @if runs.len() > 1 && at > 0 {
                    tr class="ratio" {
                        td { "× the first" } td {} td {}
                        @for (_, quantile) in &columns {
                            @let ratio = compare::ratio(distribution.value_at(*quantile), rows[0].1.value_at(*quantile));
                            td class=[judged(ratio)] { (compare::shown(ratio)) }
                        }
                    }
                }
            }
        }
    }
}

fn judged(ratio: f64) -> Option<&'static str> {
    match ratio {
        _ if ratio > 1.0 + compare::NOTABLE => Some("bad"),
        _ if ratio < 1.0 - compare::NOTABLE => Some("good"),
        _ => None,
    }
}

/// Drops by reason, and what the program counted.
pub(super) fn counts(summary: &Summary) -> Markup {
    let drops: Vec<(&str, u64)> = summary.drops.iter().filter(|(_, count)| *count > 0).collect();
    html! {
        @if drops.is_empty() { p { "Nothing was dropped." } }
        table {
            @for (reason, count) in drops { tr { td { (reason) } td class="bad" { (count) } } }
            @for (name, count) in summary.counters.iter() { tr { td { (name) } td { (count) } } }
        }
    }
}

/// The ports and their counters.
pub(super) fn ports(summary: &Summary) -> Markup {
    let ports = &summary.snapshot.ports;
    let names: Vec<&str> =
        ports.first().map_or(Vec::new(), |port| port.total.counters.iter().map(|(name, _)| name).collect());
    // As rows, for there are more counters than ports.
    let value = |port: &engine::stats::PortSnapshot, wanted: &str| {
        port.total.counters.iter().find(|(name, _)| *name == wanted).map_or(0, |(_, count)| count)
    };
    let used = names.iter().filter(|name| ports.iter().any(|port| value(port, name) > 0));
    html! {
        table {
            tr { th { "port" } @for port in ports { th { (port.total.port) " · " (port.label.name) } } }
            tr { td { "driver" } @for port in ports { td { (port.label.driver) } } }
            @for name in used { tr { td { (name) } @for port in ports { td { (value(port, name)) } } } }
            tr { td { "tx_dropped" } @for port in ports { td { (port.total.tx_dropped) } } }
            tr { td { "fault" } @for port in ports { td {
                @if let Some(fault) = port.total.fault { span class="bad" { (fault.to_string()) } } @else { "none" }
            } } }
        }
        @if !summary.snapshot.port_events.is_empty() {
            h3 { "What happened to them" }
            table class="facts" {
                @for news in &summary.snapshot.port_events {
                    tr { td { (format!("{:.2} s", news.at.as_secs_f64())) } td { (news.port) " · " (news.name) ": " (news.event.to_string()) } }
                }
            }
        }
    }
}

/// The loops, and what each did with its time.
pub(super) fn cores(summary: &Summary) -> Markup {
    html! {
        table {
            tr { th { "lcore" } th { "cpu" } th { "busy" } th { "asleep" } th { "turns" } th { "packets" } th { "bursts" } th { "full bursts" } }
            @for core in &summary.snapshot.cores {
                @let total = &core.total;
                @let ran = total.taken.since(total.started);
                tr {
                    td { (total.lcore) @if core.silent { " (did not answer at the end)" } }
                    td { @if let Some(cpu) = total.cpu { (cpu) } @else { "not pinned" } }
                    td { (units::percent(total.busy_ticks, ran)) }
                    td { (units::percent(total.rest.ticks, ran)) }
                    td { (units::count(total.turns)) }
                    td { (units::count(total.packets)) }
                    td { (units::count(total.bursts)) }
                    td { (units::count(total.full_bursts)) }
                }
            }
        }
    }
}
