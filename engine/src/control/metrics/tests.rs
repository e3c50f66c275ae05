//! The page of a running engine, over HTTP.

use crate::control::Control;
use crate::{Burst, Cx, Engine, Program};

use super::*;

struct Reflect;

impl Program for Reflect {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        cx.send_burst(port, burst);
    }
}

fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    // It may hang up before it has read all.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn the_page_is_served_and_everything_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = Engine::builder();
    engine.memory(pmd::mem::PageSize::Ordinary, None).descriptors(64, 64).mbufs(512);
    let port = engine.port("loop:a");
    let lcore = engine.lcore(None);
    engine.program(lcore, Reflect, [port]);
    engine.control(Control {
        name: "a".to_owned(),
        program: "test".to_owned(),
        folder: Some(folder.path().to_owned()),
        telemetry: None,
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        required: true,
    });
    let running = engine.start().unwrap();
    let address = running.metrics().unwrap();
    assert_ne!(address.port(), 0);
    let page = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(
        body.ends_with("# EOF\n") && body.contains("bywash_port_rx_packets_total{port=\"loop:a\"} 0\n"),
        "{body}"
    );
    assert!(body.contains("bywash_pool_mbufs{pool=\"mbuf_0\"} 512.0\n"), "{body}");
    assert!(body.contains("bywash_latency_seconds_bucket{le=\"+Inf\",latency=\"turn\"}"), "{body}");
    for (request, says) in [
        (&b"HEAD /metrics HTTP/1.1\r\n\r\n"[..], "200 OK"),
        (b"GET / HTTP/1.0\r\n\r\n", "href=\"/metrics\""),
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", "bywash_uptime_seconds"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method"),
        (b"weather\r\n\r\n", "400 Bad"),
        (&[b'x'; MAX_HEAD_BYTES], "400 Bad"),
    ] {
        let answer = ask(address, request);
        assert!(answer.contains(says), "{says}: {answer}");
    }
    let second = TcpListener::bind(address);
    assert!(second.is_err(), "it is ours");
    // A client that says nothing holds nobody up for long.
    let silent = TcpStream::connect(address).unwrap();
    running.stop().unwrap();
    drop(silent);
    assert!(TcpStream::connect(address).is_err(), "and it is gone");
}

#[test]
fn every_value_of_a_histogram_is_in_one_bucket() {
    let mut histogram = crate::latency::histogram();
    for ns in [1, 100, 101, 1_000, 999_999, 6_200_000_000, 6_400_000_000, 60_000_000_000] {
        histogram.record(ns).unwrap();
    }
    let (sum, buckets) = page::buckets(&histogram);
    assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), histogram.len());
    assert_eq!((buckets.len(), buckets[0], buckets[1].1), (41, (1e-7, 2), 1));
    assert_eq!(buckets[40].1, 2, "beyond the last bound: {buckets:?}");
    assert!((sum - 72.6).abs() < 0.1, "{sum}");
    assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0));
}
