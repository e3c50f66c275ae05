use super::*;
use crate::output::fixture;
use std::time::Duration;

fn recorder() -> Recorder {
    let mut recorder = Recorder::new(&[0]);
    for second in 1..=4 {
        let mut snapshot = fixture::snapshot();
        snapshot.elapsed = Duration::from_secs(second);
        snapshot.ports[0].total.counters.rx_packets = 250_000 * second;
        recorder.add(&snapshot);
    }
    recorder
}

fn facts() -> Facts {
    Facts {
        command: "bywash demo --flag '<b>'".to_owned(),
        file: Some(("x.toml".to_owned(), "a < b".to_owned())),
        ..Facts::now()
    }
}

/// The tags of a page are closed in the order in which they were opened.
fn check_tags(page: &str) {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag that ends");
        let tag = &rest[at + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "near {}", &rest[at.saturating_sub(40)..end]);
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_run_has_its_figures_pictures_drops_and_configuration() {
    let page = of_run(&fixture::summary(), &recorder(), &facts()).unwrap();
    check_tags(&page);
    // Percentiles, frames a second, and for each of three latencies a picture over time.
    assert_eq!(page.matches("<svg ").count(), 5);
    for part in [
        "500 kpps",
        "240 Mbit/s",
        "tx_dropped",
        "loop:b",
        "gone: its backend ended",
        "75.0 %",
        "a &lt; b",
        "1.40 ms",
    ] {
        assert!(page.contains(part), "`{part}` is missing");
    }
    assert!(page.contains("&lt;b&gt;") && !page.contains("<b>'"), "what was typed is escaped");
}

#[test]
fn a_page_needs_nothing_from_anywhere() {
    let page = of_run(&fixture::requests(), &recorder(), &facts()).unwrap();
    for word in ["<script", "<link", "src=", "@import", "url("] {
        assert!(!page.contains(word), "`{word}` on the page");
    }
    let addresses = page.matches("http").count();
    assert_eq!(
        addresses,
        page.matches("http://www.w3.org/2000/svg").count(),
        "the only address is SVG's name"
    );
}

#[test]
fn a_run_that_saw_nothing_still_has_a_page() {
    let mut snapshot = fixture::snapshot();
    for core in &mut snapshot.cores {
        core.total.latencies.clear();
        core.interval.clear();
    }
    let page = of_run(&Summary::new("rxonly", snapshot, &[]), &Recorder::new(&[]), &facts()).unwrap();
    check_tags(&page);
    assert!(!page.contains("Latency by percentile"));
}

#[test]
fn files_stand_side_by_side() {
    let run = |name: &str, ns: u64| {
        let mut histogram = engine::latency::histogram();
        histogram.record_n(ns, 1_000).unwrap();
        let distribution = Distribution::Exact(histogram);
        let series = vec![Series { name: "turn".to_owned(), distribution, timeline: Default::default() }];
        Run { name: name.to_owned(), source: format!("/x/{name}.hlog"), series, ..Run::default() }
    };
    let page = of_files(&[run("before & then", 1_000), run("after", 3_000)]).unwrap();
    check_tags(&page);
    assert!(page.contains("<td class=\"bad\">3.00</td>") && page.contains("before &amp; then"), "{page}");
    assert!(!page.contains("Over time"), "one interval is no time series");
}
