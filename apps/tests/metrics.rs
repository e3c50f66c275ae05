//! The page of metrics of a running engine: what the dashboard and the alerts name is there, and Prometheus's own parser
//! reads it.

mod beside;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use beside::{Traffic, bywash};
use peers::require::{Suite, skip};

/// An engine whose programs count all there is to count, and its page.
fn scrape() -> (Traffic, String) {
    let folder = tempfile::tempdir().unwrap();
    let line = "demo --tcp --rate 1k --idle adaptive --connections 4 --name scraped --seconds 120 --metrics 127.0.0.1:0";
    let mut child = bywash(folder.path(), line).stdout(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let traffic = Traffic(child);
    let address = loop {
        said.clear();
        assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended before it said where its metrics are");
        if let Some((_, rest)) = said.split_once("http://") {
            break rest.trim_end().trim_end_matches("/metrics").to_owned();
        }
    };
    // Nobody reads what else it says; it must not wait for that.
    std::thread::spawn(move || drop(std::io::copy(&mut stderr, &mut std::io::sink())));
    let mut page = String::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        page.clear();
        stream.read_to_string(&mut page).unwrap();
        let busy = |line: &str| line.starts_with("bywash_port_rx_packets_total") && !line.ends_with(" 0");
        if page.lines().any(busy) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    (traffic, body.to_owned())
}

/// All words that could be our metrics' names.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("bywash_")).collect()
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_there_are() {
    let (_traffic, page) = scrape();
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<&str> = samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    for (file, least) in [("grafana-dashboard.json", 12), ("alerts.yml", 8)] {
        let text = std::fs::read_to_string(configs.join(file)).unwrap();
        let named = names(&text);
        assert!(named.len() >= least, "{file}: {named:?}");
        let missing: Vec<_> = named.difference(&there).collect();
        assert!(missing.is_empty(), "{file} names {missing:?}, and there are {there:?}");
    }
    let dashboard = std::fs::read(configs.join("grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.iter().all(|panel| !panel["targets"].as_array().unwrap().is_empty()));
}

#[test]
fn prometheus_reads_the_page_and_finds_it_consistent() {
    let python = std::env::var("BYWASH_PYTHON").unwrap_or_else(|_| "python3".to_string());
    match Command::new(&python).args(["-c", "import prometheus_client"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(_) => {
            return skip(Suite::Hist, format!("{python} has no package prometheus_client; run ./ci.sh hist"));
        }
        Err(error) => return skip(Suite::Hist, format!("{python} cannot be started: {error}")),
    }
    let (_traffic, page) = scrape();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/parse.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["bywash_port_rx_packets"], "counter");
    assert_eq!(read["bywash_latency_seconds"], "histogram");
    assert_eq!(read["bywash_connections"], "gauge");
}
