//! The `bywash` command as a user meets it: exit codes, what is on which stream, files, signals.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Long enough for a machine that does other things too; nothing here should take a tenth of it.
const LIMIT: Duration = Duration::from_secs(60);

fn bywash(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bywash"));
    command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end, and kills the process if that does not come.
fn finish(mut child: Child) -> Output {
    // Read while it runs: more than a pipe holds would keep it from its end.
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let deadline = Instant::now() + LIMIT;
    let (status, ended) = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break (status, true);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            break (child.wait().unwrap(), false);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    assert!(ended, "still running after {LIMIT:?}: {output:?}");
    output
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).unwrap();
        }
        bytes
    })
}

fn run(line: &str) -> (Option<i32>, String, String) {
    let output = finish(bywash(line).spawn().unwrap());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

#[test]
fn demo_prints_one_json_object_in_which_every_frame_came_back() {
    let (code, stdout, stderr) = run("demo --count 20000 --rate 200k --json");
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let run: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&run["program"], &run["packets"]), (&"demo".into(), &20_000.into()), "{stdout}");
    for nothing in ["errors", "lost", "reordered", "duplicated"] {
        assert_eq!(run[nothing], 0, "{nothing}: {stdout}");
    }
    assert_eq!(run["latency_ns"]["round_trip"]["count"], 20_000);
    assert!(run["latency_ns"]["round_trip"]["p50"].as_u64() >= Some(1));
}

#[test]
fn demo_for_people_has_totals_table_and_plot_and_no_escape_sequence_in_a_pipe() {
    let (code, stdout, stderr) = run("demo --seconds 0.3 --rate 100k --stats-period 0.1");
    assert_eq!(code, Some(0), "{stderr}");
    for part in [
        "NIC statistics for port 1  ####",
        "Forward statistics for port 0  ----",
        "Accumulated forward statistics for all ports",
        "round_trip",
        "99.99 %",
    ] {
        assert!(stdout.contains(part), "no {part}:\n{stdout}");
    }
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "{stdout}{stderr}");
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
}

#[test]
fn latency_files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (hgrm, hlog) = (folder.path().join("run.hgrm"), folder.path().join("run.hlog"));
    let report = folder.path().join("run.html");
    let line = format!(
        "demo --seconds 0.5 --rate 100k --stats-period 0.1 --quiet --hgrm {} --hlog {} --report {}",
        hgrm.display(),
        hlog.display(),
        report.display()
    );
    let (code, _, stderr) = run(&line);
    assert_eq!(code, Some(0), "{stderr}");
    let table = std::fs::read_to_string(&hgrm).unwrap();
    assert!(table.contains("1/(1-Percentile)") && table.contains("#[Max"), "{table}");
    assert!(folder.path().join("run.turn.hgrm").exists());
    let log = std::fs::read_to_string(&hlog).unwrap();
    assert!(log.matches("Tag=round_trip,").count() >= 2, "{log}");
    let page = std::fs::read_to_string(&report).unwrap();
    // Its command, and a picture of percentiles, of the rate, and of at least one latency over time.
    assert!(page.contains("demo --seconds 0.5 --rate 100k") && page.matches("<svg ").count() >= 3, "{page}");
}

#[test]
fn every_command_has_a_manual_page_and_completions() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(&format!("man {}/man", folder.path().display()));
    assert_eq!(code, Some(0), "{stderr}");
    let (_, help, _) = run("--help");
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 10, "{help}");
    let scripts = ["bash", "zsh", "fish"].map(|shell| {
        let (code, script, _) = run(&format!("completions {shell}"));
        assert_eq!(code, Some(0));
        script
    });
    for name in names.into_iter().filter(|name| *name != "help") {
        let page = std::fs::read_to_string(folder.path().join(format!("man/bywash-{name}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains(&format!("bywash\\-{name}")), "{name}: {page}");
        assert!(scripts.iter().all(|script| script.contains(name)), "{name}");
    }
    // A flag of the definition is in both.
    let page = std::fs::read_to_string(folder.path().join("man/bywash-l2fwd.1")).unwrap();
    assert!(page.contains("forward\\-mode"), "{page}");
    assert!(scripts.iter().all(|script| script.contains("forward-mode")));
    let (code, _, stderr) = run("man /proc/nowhere");
    assert_eq!(
        (code, stderr.contains("cannot write manual pages into /proc/nowhere")),
        (Some(1), true),
        "{stderr}"
    );
}

#[test]
fn an_interrupt_ends_a_run_with_its_report() {
    // The progress of a pipe cannot be watched; a statistics period that has passed says that it runs.
    let mut child = bywash("demo --seconds 600 --rate 100k --stats-period 0.1").spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    while !first.contains("Port statistics") {
        assert_ne!(std::io::BufRead::read_line(&mut stdout, &mut first).unwrap(), 0, "ended early: {first}");
    }
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(rest.contains("Accumulated forward statistics"), "{rest}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_run_time_failures_1() {
    for (line, code, words) in [
        ("", 2, "Usage:"),
        ("l2fwd --burst 65 --port loop:a", 2, "use 1 to 64"),
        ("l2fwd", 2, "l2fwd needs a port; give --port SPEC"),
        ("l2fwd --config /nonexistent.toml", 2, "cannot read configuration file /nonexistent.toml"),
        ("l2fwd --port eth0", 2, "a port is one of"),
        ("l2fwd --port vhost-user:/nonexistent.sock", 1, "/nonexistent.sock"),
        ("demo --seconds 1 --hgrm /nonexistent/x.hgrm", 1, "cannot write /nonexistent/x.hgrm"),
        ("demo --seconds 1 --size 9000", 1, "9000"),
    ] {
        let (status, stdout, stderr) = run(line);
        assert_eq!(status, Some(code), "bywash {line}: {stderr}");
        assert!(stderr.contains(words) && stdout.is_empty(), "bywash {line}: {stdout}{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn example_configurations_that_need_no_hardware_run() {
    for (program, file) in [("demo", "demo.toml"), ("l2fwd", "l2fwd-loop.toml")] {
        let path = configs().join(file);
        let (code, stdout, stderr) =
            run(&format!("{program} --config {} --seconds 0.2 --json", path.display()));
        assert_eq!(code, Some(0), "{file}: {stderr}");
        let run: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((&run["errors"], &run["lost"]), (&0.into(), &0.into()), "{file}: {stdout}");
    }
}

/// A capture of `count` frames of 60 bytes, in classic pcap with microseconds.
fn write_capture(path: &Path, count: u32) {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for index in 0..count {
        let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5].to_vec();
        frame.extend(index.to_be_bytes());
        frame.resize(60, 0);
        file.extend([index / 1_000_000, index % 1_000_000, 60, 60].map(u32::to_le_bytes).as_flattened());
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_capture_is_forwarded_into_another_and_the_run_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("a.pcap"), folder.path().join("b.pcapng"));
    write_capture(&input, 5000);
    let ports = format!("--port pcap:in={} --port pcap:out={}", input.display(), output.display());
    let (code, stdout, stderr) = run(&format!("l2fwd {ports} --forward-mode io --json"));
    assert_eq!(code, Some(0), "{stderr}");
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["packets"], 5000, "{stdout}");
    let mut reader = pmd::pcap::Reader::new(std::fs::File::open(&output).unwrap()).unwrap();
    let mut index = 0u32;
    while let Some(number) = reader.next(|frame| frame.bytes[14..18].to_vec()).unwrap() {
        assert_eq!(number, index.to_be_bytes());
        index += 1;
    }
    assert_eq!(index, 5000);
}

#[test]
fn a_capture_that_is_none_is_said_with_the_file_and_the_way_out() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let (code, _, stderr) = run(&format!("l2fwd --port pcap:in={text} --port null:"));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("Cargo.toml") && stderr.contains("no pcap or pcapng file"), "{stderr}");
}
