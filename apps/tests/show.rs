//! `bywash show` and `bywash stop` beside a running engine, as a user meets them.

mod beside;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use beside::{LIMIT, Traffic, run};
use serde_json::Value;

/// An engine that leaves room for whoever asks it, on a machine that has little.
fn gentle(folder: &Path, name: &str) -> Traffic {
    Traffic::start_with(folder, name, "--rate 2k --idle adaptive")
}

fn json(folder: &Path, line: &str) -> Value {
    let (code, stdout, stderr) = run(folder, line);
    assert_eq!(code, Some(0), "{line}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{line}: {error}: {stdout}"))
}

#[test]
fn each_subject_has_figures_of_an_engine_under_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (code, _, stderr) = run(folder, "show ports");
    assert!(code == Some(1) && stderr.contains("no engine runs here"), "{stderr}");
    let _traffic = gentle(folder, "one");
    let before = json(folder, "show all --json");
    let pointers = [
        "/ports/0/rx_packets",
        "/ports/1/tx_packets",
        "/queues/1/rx_bytes",
        "/runtime/0/packets",
        "/runtime/0/busy_ns",
        "/latency/latency_ns/residence/count",
        "/counters/sent",
    ];
    // A loop that is not scheduled for long is silent; what it did comes later.
    let deadline = Instant::now() + LIMIT;
    let after = loop {
        let after = json(folder, "show all --json");
        let count = |answer: &Value, pointer| answer.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        match pointers.iter().find(|pointer| count(&after, pointer) <= count(&before, pointer)) {
            None => break after,
            Some(pointer) => assert!(Instant::now() < deadline, "{pointer} stays the same: {after}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(after["uptime_seconds"].as_f64() > before["uptime_seconds"].as_f64());
    assert_eq!((&after["name"], &after["program"]), (&"one".into(), &"demo".into()));
    assert_eq!(after["config"]["ports"][0]["name"], "loop:a");
    let pool = &after["memory"]["pools"][0];
    let level = |name: &str| pool[name].as_u64().unwrap();
    assert!(level("free") < level("mbufs") && level("free") + level("in_use") == level("mbufs"), "{pool}");

    for (subject, says) in [
        ("runtime", "cycles/f"),
        ("ports", "loop:b up"),
        ("queues", "tx ring"),
        ("memory", "mbuf_0"),
        ("drops", "since the start"),
        ("latency", "residence"),
        ("config", "idle: adaptive"),
        ("counters", "received"),
        ("all", "round_trip"),
    ] {
        let (code, stdout, stderr) = run(folder, &format!("show {subject}"));
        assert!(code == Some(0) && stdout.contains(says), "{subject}: {stdout}{stderr}");
        let is_wide = |line: &&str| line.chars().count() > 80 && !line.starts_with("command:");
        assert_eq!(stdout.lines().find(is_wide), None, "{subject} fits a terminal of 80 columns");
        assert!(json(folder, &format!("show {subject} --json"))["pid"].is_number());
    }
    let (code, stdout, _) = run(folder, "show ports --watch 0.2 -c 2");
    assert!(
        code == Some(0) && stdout.matches("rx bit/s").count() == 2 && stdout.contains("the last 0."),
        "{stdout}"
    );
    let (code, stdout, _) = run(folder, "show latency --watch 0.2 --json -c 2");
    assert!(code == Some(0) && stdout.lines().count() == 3, "{stdout}");
}

#[test]
fn the_engine_is_the_only_one_or_named_and_ends_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let first = gentle(folder, "first");
    let mut second = gentle(folder, "second");
    let (code, _, stderr) = run(folder, "show ports");
    assert!(
        code == Some(2) && stderr.contains("2 engines run (first, second); say which with --name"),
        "{stderr}"
    );
    assert_eq!(json(folder, "show config --json --name second")["name"], "second");
    let (code, _, stderr) = run(folder, "show ports --name third");
    assert!(code == Some(1) && stderr.contains("engine third does not run"), "{stderr}");
    let (code, _, stderr) = run(folder, "show ports --name ../third");
    assert!(code == Some(2) && stderr.contains("cannot be called"), "{stderr}");
    let (code, _, stderr) = run(folder, "show weather");
    assert!(code == Some(2) && stderr.contains("possible values"), "{stderr}");

    let socket = folder.join("second/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let (code, _, stderr) = run(folder, "stop --name second --timeout 60");
    assert!(code == Some(0) && stderr.contains("has stopped"), "{stderr}");
    assert!(second.0.wait().unwrap().success(), "it ends as if interrupted");
    assert!(!socket.exists());

    first.signal("-KILL");
    drop(first);
    let (code, _, stderr) = run(folder, "stop --name first");
    assert!(code == Some(1) && stderr.contains("was killed, or died"), "{stderr}");
    let (code, _, stderr) = run(folder, "stop");
    assert!(code == Some(1) && stderr.contains("no engine runs here"), "{stderr}");
}

/// What an engine answers to `bytes`.
fn said(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    // It may hang up before it has read all.
    let _ = stream.write_all(bytes);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn clients_that_ask_nonsense_or_nothing_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let traffic = gentle(folder, "calm");
    let socket = folder.join("calm/control.sock");
    for (request, says) in [
        (
            &b"{\"bywash\":1,\"request\":\"weather\"}\n"[..],
            "no request is called \\\"weather\\\"; there are engine, show, stop, dump",
        ),
        (b"{\"bywash\":1,\"request\":\"show\",\"what\":\"weather\"}\n", "unknown variant `weather`"),
        (b"{\"bywash\":1,\"request\":\"show\"}\n", "missing field `what`"),
        (b"{\"bywash\":2,\"request\":\"show\"}\n", "speaks version 1"),
        (b"\xff\xfe\n", "one line of JSON"),
        (&[b'x'; 8192], "one line of at most 4096 bytes"),
    ] {
        let answer = said(&socket, request);
        assert!(answer.contains("\"ok\":false") && answer.contains(says), "{answer}");
    }
    // Those that say nothing, or ask and do not listen, wait beside each other and not in front of anybody.
    let silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let deaf: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream
                .write_all(b"{\"bywash\":1,\"request\":\"show\",\"what\":\"all\",\"histograms\":true}\n")
                .unwrap();
            stream
        })
        .collect();
    assert_eq!(json(folder, "show ports --json")["name"], "calm");
    // Nor is the end waited for on their account.
    let (code, _, stderr) = run(folder, "stop --timeout 60");
    assert_eq!(code, Some(0), "{stderr}");
    drop((silent, deaf));
    let mut traffic = traffic;
    assert!(traffic.0.wait().unwrap().success());
}
