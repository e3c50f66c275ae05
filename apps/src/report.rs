//! A page about a run, or about several: complete in one file, without a script, as readable in ten years as today.
//!
//! | part | of a run that ends (`--report`) | of files (`bywash hist --report`) |
//! |---|---|---|
//! | what came out | rate, losses, drops by reason | |
//! | percentiles | table and picture | the same, side by side with ratios |
//! | over time | frames a second; of each latency percentiles and heat map | of each run and latency |
//! | configuration | command line, file, machine, ports, cores | what the files say of themselves |

pub mod machine;
mod page;
pub mod recorder;

use maud::{Markup, PreEscaped, html};

use crate::hist::compare;
use crate::hist::distribution::Distribution;
use crate::hist::run::{Run, Series};
use crate::output::{Summary, units};
use crate::picture::scene::{DrawError, Scene};
use crate::picture::{heat_map, over_time};
use machine::Facts;
use recorder::Recorder;

/// The page of files.
///
/// # Errors
/// [`DrawError`].
pub fn of_files(runs: &[Run]) -> Result<String, DrawError> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let facts: Vec<(String, String)> = runs
        .iter()
        .flat_map(|run| {
            let source = (run.name.clone(), run.source.clone());
            std::iter::once(source).chain(
                run.notes.iter().map(|(name, value)| (format!("{} · {name}", run.name), value.clone())),
            )
        })
        .collect();
    let body = html! {
        (percentiles(runs)?)
        (timelines(runs)?)
        section { h2 { "Where it comes from" } (page::facts(&facts)) }
    };
    Ok(page::whole(&names.join(" · "), "latencies read from files", &body))
}

/// The page of a run that has ended.
///
/// # Errors
/// [`DrawError`].
pub fn of_run(summary: &Summary, recorder: &Recorder, facts: &Facts) -> Result<String, DrawError> {
    let series =
        summary.latencies.iter().filter(|(_, histogram)| !histogram.is_empty()).map(|(name, histogram)| {
            Series {
                name: name.to_owned(),
                distribution: Distribution::Exact(histogram.clone()),
                timeline: recorder.timeline(name),
            }
        });
    let run = Run {
        name: summary.program.to_owned(),
        source: facts.command.clone(),
        series: series.collect(),
        ..Run::default()
    };
    let runs = [run];
    let body = html! {
        (page::tiles(&tiles(summary)))
        @if !runs[0].series.is_empty() { (percentiles(&runs)?) }
        section {
            h2 { "Over time" }
            (rates(summary, recorder)?)
            (all_timelines(&runs)?)
        }
        section { h2 { "Drops, counters" } (page::counts(summary)) }
        section { h2 { "Ports" } (page::ports(summary)) }
        section { h2 { "Cores" } (page::cores(summary)) }
        section {
            h2 { "Configuration" }
            (page::facts(&facts.rows()))
            @if let Some((path, text)) = &facts.file { h3 { (path) } pre { (text) } }
        }
    };
    let subtitle = format!("{:.1} s, started {}", summary.seconds(), facts.started);
    Ok(page::whole(&format!("bywash {}", summary.program), &subtitle, &body))
}

/// What stands in large letters.
fn tiles(summary: &Summary) -> Vec<(&'static str, String, bool)> {
    let mut tiles = Vec::new();
    if let Some(requests) = summary.requests() {
        tiles.push(("requests a second", units::rate(summary.requests_per_second(), ""), false));
        tiles.push(("requests", units::count(requests), false));
    }
    tiles.push(("frames a second", units::rate(summary.packets_per_second(), "pps"), false));
    tiles.push(("throughput", units::rate(summary.bits_per_second(), "bit/s"), false));
    tiles.push(("frames", units::count(summary.packets), false));
    for (name, count) in
        [("lost", summary.counted("lost")), ("dropped", summary.drops.sum()), ("errors", summary.errors())]
    {
        tiles.push((name, units::count(count), count > 0));
    }
    tiles
}

fn percentiles(runs: &[Run]) -> Result<Markup, DrawError> {
    Ok(html! {
        section {
            h2 { "Latency by percentile" }
            (figure(&crate::hist::picture(runs))?)
            @for name in if runs.len() > 1 { compare::names(runs) } else { vec!["latency"] } {
                (page::percentiles(name, runs))
            }
        }
    })
}

fn timelines(runs: &[Run]) -> Result<Markup, DrawError> {
    let has_any = runs.iter().flat_map(|run| &run.series).any(|series| series.timeline.intervals().len() > 1);
    Ok(html! { @if has_any { section { h2 { "Over time" } (all_timelines(runs)?) } } })
}

fn all_timelines(runs: &[Run]) -> Result<Markup, DrawError> {
    let mut parts = Vec::new();
    for run in runs {
        // One scale of time for all latencies of a run.
        let end = run.series.iter().map(|series| series.timeline.end().as_secs_f64()).fold(0.0, f64::max);
        for series in run.series.iter().filter(|series| series.timeline.intervals().len() > 1) {
            let title =
                if runs.len() > 1 { format!("{}: {}", run.name, series.name) } else { series.name.clone() };
            let explained = format!("percentiles of {} intervals", series.timeline.intervals().len());
            let lines = over_time::percentiles(&title, &explained, &series.timeline, end);
            let map = heat_map::scene(&title, "part of each interval's values", &series.timeline, end);
            parts.push(figure(&lines.above(map))?);
        }
    }
    Ok(html! { @for part in parts { (part) } })
}

fn rates(summary: &Summary, recorder: &Recorder) -> Result<Markup, DrawError> {
    let scene = if summary.requests().is_some() && recorder.has_requests() {
        over_time::rate("Requests", "answered a second", "/s", &recorder.request_rates())
    } else {
        over_time::rate("Frames", "of the result, a second", "pps", &recorder.packet_rates())
    };
    figure(&scene)
}

fn figure(scene: &Scene) -> Result<Markup, DrawError> {
    let svg = scene.svg()?;
    Ok(html! { figure { (PreEscaped(svg)) } })
}

#[cfg(test)]
mod tests;
