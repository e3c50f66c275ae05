//! A running engine asked as `dpdk-telemetry.py` asks it. The script itself asks in the `dpdk` suite.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::control::Control;
use crate::{Burst, Cx, Engine, Program, Running, StartError};

struct Reflect;

impl Program for Reflect {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        cx.send_burst(port, burst);
    }
}

fn engine(folder: &Path, name: &str) -> Result<Running, StartError> {
    let mut engine = Engine::builder();
    engine.memory(pmd::mem::PageSize::Ordinary, None).descriptors(64, 64).mbufs(512);
    let ports = [engine.port("loop:a"), engine.port("loop:b")];
    let lcore = engine.lcore(None);
    for port in ports {
        engine.program(lcore, Reflect, [port]);
    }
    engine.control(Control {
        name: name.to_owned(),
        program: "test".to_owned(),
        folder: Some(folder.join("control")),
        telemetry: Some(folder.join("dpdk/test")),
        metrics: None,
        required: true,
    });
    engine.start()
}

fn client(folder: &Path) -> UnixStream {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(folder.join("dpdk/test").join(SOCKET)).unwrap()).unwrap();
    let stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn receive(stream: &mut UnixStream) -> Value {
    let mut answer = vec![0; MAX_OUTPUT_BYTES];
    let bytes = stream.read(&mut answer).unwrap();
    serde_json::from_slice(&answer[..bytes]).unwrap()
}

/// The value under the command.
fn ask(stream: &mut UnixStream, request: &str) -> Value {
    stream.write_all(request.as_bytes()).unwrap();
    let answer = receive(stream);
    let command = request.split(',').next().unwrap();
    answer.get(command).unwrap_or_else(|| panic!("{request}: {answer}")).clone()
}

#[test]
fn commands_answer_in_dpdks_names_and_unknown_ones_null() {
    let folder = tempfile::tempdir().unwrap();
    let running = engine(folder.path(), "one").unwrap();
    let mut stream = client(folder.path());
    let hello = receive(&mut stream);
    assert_eq!(
        (&hello["pid"], &hello["max_output_len"]),
        (&std::process::id().into(), &MAX_OUTPUT_BYTES.into())
    );
    let commands = ask(&mut stream, "/");
    for command in commands.as_array().unwrap() {
        let command = command.as_str().unwrap();
        let help = ask(&mut stream, &format!("/help,{command}"));
        assert!(help[command].as_str().is_some_and(|text| text.len() > 10), "{command}: {help}");
        let parameter = match command {
            "/mempool/info" => ",mbuf_0",
            "/ring/info" => ",port1_tx0",
            "/bywash/latency" => ",turn",
            command if command.ends_with("/info") || command.contains("stat") => ",0",
            _ => "",
        };
        assert!(!ask(&mut stream, &format!("{command}{parameter}")).is_null(), "{command}{parameter}");
    }
    assert_eq!(ask(&mut stream, "/ethdev/list"), serde_json::json!([0, 1]));
    assert_eq!(ask(&mut stream, "/ethdev/link_status,1")["status"], "UP");
    let info = ask(&mut stream, "/ethdev/info,0");
    assert_eq!(
        (&info["name"], &info["nb_rx_queues"], &info["nb_tx_desc"]),
        (&"loop:a".into(), &1.into(), &64.into())
    );
    assert_eq!(ask(&mut stream, "/ethdev/stats,0")["q_ipackets"].as_array().unwrap().len(), 16);
    assert!(ask(&mut stream, "/ethdev/xstats,0")["rx_q0_packets"].is_u64());
    let usage = ask(&mut stream, "/eal/lcore/usage");
    assert!(usage["busy_cycles"][0].as_u64() <= usage["total_cycles"][0].as_u64(), "{usage}");
    let pool = ask(&mut stream, "/mempool/info,mbuf_0");
    assert_eq!(pool["size"], 512);
    assert!(pool["common_pool_count"].as_u64().unwrap() < 512, "some are posted: {pool}");

    for nothing in [
        "/weather",
        "/ethdev/stats,2",
        "/ethdev/stats,-1",
        "/ethdev/stats,x",
        "/ethdev/stats",
        "/mempool/info,x",
        "x",
        ",",
    ] {
        assert!(ask(&mut stream, nothing).is_null(), "{nothing}");
    }
    let long = format!("/{}", "x".repeat(2 * MAX_REQUEST_BYTES));
    stream.write_all(long.as_bytes()).unwrap();
    assert!(receive(&mut stream).as_object().unwrap().values().all(Value::is_null), "cut off, and unknown");
    assert_eq!(ask(&mut stream, "/ethdev/list"), serde_json::json!([0, 1]), "nothing of it is left");

    // A client that is connected holds nobody up.
    running.stop().unwrap();
    assert!(!folder.path().join("dpdk/test").exists(), "nothing is left behind");
}

#[test]
fn a_prefix_belongs_to_a_living_process() {
    let folder = tempfile::tempdir().unwrap();
    let first = engine(folder.path(), "first").unwrap();
    let refused = engine(folder.path(), "second").err().unwrap().to_string();
    assert!(refused.contains("another process of that prefix"), "{refused}");
    assert_eq!(receive(&mut client(folder.path()))["pid"], std::process::id(), "the first is still there");
    first.stop().unwrap();
    // What a killed process leaves: a socket that nobody listens on.
    let path = folder.path().join("dpdk/test").join(SOCKET);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(open(&path).unwrap());
    assert!(path.exists());
    let again = engine(folder.path(), "again").unwrap();
    assert_eq!(receive(&mut client(folder.path()))["pid"], std::process::id());
    again.stop().unwrap();
}

#[test]
fn prefixes_that_lead_elsewhere_are_refused() {
    assert!(telemetry_folder("rte").unwrap().ends_with("dpdk/rte"));
    for prefix in ["", "..", "a/b", "/tmp"] {
        assert!(matches!(telemetry_folder(prefix), Err(ControlError::BadName { .. })), "{prefix:?}");
    }
}
