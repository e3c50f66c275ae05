//! DPDK's own `dpdk-telemetry.py`, unchanged, against a running engine.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use peers::process::Process;
use peers::require::{Suite, skip};
use serde_json::Value;

/// The script, as Debian's package `dpdk` installs it.
const SCRIPT: &str = "dpdk-telemetry.py";
/// Longer than any of its answers takes on a machine that does other things.
const LIMIT: Duration = Duration::from_secs(60);

/// An engine with traffic; killed in the end.
struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts one that is to be found below `folder`, and waits until it is.
fn engine(folder: &Path, telemetry: &str, prefix: &str) -> Engine {
    let line = format!("demo --rate 5k --seconds 300 --quiet {telemetry}");
    let mut command = Command::new(peers::bywash::binary().unwrap());
    command.args(line.split_whitespace()).env("BYWASH_RUNTIME_DIR", folder.join("control"));
    command.env("RUNTIME_DIRECTORY", folder).stdout(Stdio::null()).stderr(Stdio::null());
    let engine = Engine(command.spawn().unwrap());
    let socket = folder.join("dpdk").join(prefix).join("dpdk_telemetry.v2");
    let deadline = Instant::now() + LIMIT;
    while !socket.exists() {
        assert!(Instant::now() < deadline, "no {}", socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    engine
}

/// What the script prints for `requests`, one JSON object for each.
fn ask(folder: &Path, arguments: &[&str], requests: &[&str]) -> Vec<Value> {
    let mut command = Command::new(SCRIPT);
    command.args(arguments).env("RUNTIME_DIRECTORY", folder);
    let mut script = Process::start(SCRIPT, &mut command).unwrap();
    requests.iter().for_each(|request| script.write_line(request).unwrap());
    script.write_line("quit").unwrap();
    let finished = script.finish(LIMIT).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
    let answers = finished.stdout.lines().filter(|line| line.starts_with('{'));
    let answers: Vec<Value> = answers.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), requests.len(), "{}{}", finished.stdout, finished.stderr);
    answers
}

#[test]
fn dpdks_own_script_reads_a_running_engine() {
    if let Err(error) = Command::new(SCRIPT).arg("--help").output() {
        return skip(Suite::Dpdk, format!("{SCRIPT} cannot be started: {error}; `apt install dpdk`"));
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let engine = engine(folder, "--telemetry", "rte");
    let answers = ask(
        folder,
        &[],
        &[
            "/",
            "/info",
            "/ethdev/list",
            "/ethdev/stats,0",
            "/ethdev/stats,0",
            "/eal/lcore/list",
            "/mempool/list",
            "/weather",
        ],
    );
    assert_eq!(answers[1]["/info"]["pid"], engine.0.id());
    assert_eq!(answers[2]["/ethdev/list"], serde_json::json!([0, 1]));
    assert_eq!(answers[7]["/weather"], Value::Null);
    assert_eq!(
        (&answers[5]["/eal/lcore/list"][0], &answers[6]["/mempool/list"][0]),
        (&0.into(), &"mbuf_0".into())
    );
    // Everything in its list has an answer, with a parameter where it needs one.
    let commands: Vec<String> = serde_json::from_value(answers[0]["/"].clone()).unwrap();
    let requests: Vec<String> = commands
        .iter()
        .map(|command| match command.as_str() {
            "/mempool/info" => format!("{command},mbuf_0"),
            "/ring/info" => format!("{command},port0_tx0"),
            "/bywash/latency" => format!("{command},round_trip"),
            "/ethdev/list" | "/mempool/list" | "/ring/list" => command.clone(),
            _ if command.starts_with("/ethdev/") || command == "/eal/lcore/info" => format!("{command},0"),
            _ => command.clone(),
        })
        .collect();
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    for (command, answer) in commands.iter().zip(ask(folder, &[], &requests)) {
        assert!(answer.get(command).is_some_and(|value| !value.is_null()), "{command}: {answer}");
    }
    // The engine goes on: it has sent more by now.
    let sent = |answer: &Value| answer["/ethdev/stats"]["opackets"].as_u64().unwrap();
    let deadline = Instant::now() + LIMIT;
    while sent(&ask(folder, &[], &["/ethdev/stats,0"])[0]) <= sent(&answers[3]) {
        assert!(Instant::now() < deadline, "{} sent, and no more", sent(&answers[3]));
    }
}

#[test]
fn the_script_finds_an_engine_by_its_file_prefix() {
    if let Err(error) = Command::new(SCRIPT).arg("--help").output() {
        return skip(Suite::Dpdk, format!("{SCRIPT} cannot be started: {error}; `apt install dpdk`"));
    }
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path(), "--telemetry=edge1", "edge1");
    let answers = ask(folder.path(), &["-f", "edge1"], &["/info"]);
    assert_eq!(answers[0]["/info"]["pid"], engine.0.id());
}
