//! `bywash dump` beside a running engine, as a user meets it.

mod beside;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use beside::{Traffic, bywash, finish, run, signal_process};
use pmd::pcap::Reader;

/// Starts a dump and waits until it captures, and some more.
fn capturing(folder: &Path, line: &str) -> (Child, String) {
    let mut child = bywash(folder, line).spawn().unwrap();
    let mut said = String::new();
    let mut byte = [0];
    let stderr = child.stderr.as_mut().unwrap();
    while !said.ends_with('\n') && stderr.read(&mut byte).unwrap() == 1 {
        said.push(char::from(byte[0]));
    }
    std::thread::sleep(Duration::from_millis(300));
    (child, said)
}

fn frames(path: &Path) -> u64 {
    let mut reader = Reader::new(File::open(path).unwrap()).unwrap();
    while reader.next(|frame| assert!(frame.way.is_some() && frame.time_ns > 1 << 60)).unwrap().is_some() {}
    reader.frames()
}

#[test]
fn engines_are_listed_and_captured_by_count_by_filter_as_lines_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (code, stdout, stderr) = run(folder, "dump");
    assert_eq!((code, stdout.as_str()), (Some(0), "no engine of this user runs here\n"), "{stderr}");
    let (code, _, stderr) = run(folder, "dump loop:a");
    assert!(code == Some(1) && stderr.contains("no engine runs here"), "{stderr}");

    let _traffic = Traffic::start(folder, "one");
    let (_, stdout, _) = run(folder, "dump");
    assert!(stdout.contains("one  demo, process") && stdout.contains("  1  loop:b  virtio-net"), "{stdout}");
    let (_, stdout, _) = run(folder, "dump --json");
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(list["engines"][0]["ports"][0]["name"], "loop:a", "{stdout}");

    let file = folder.join("a.pcapng");
    let (code, _, stderr) = run(folder, &format!("dump loop:a -c 100 -w {}", file.display()));
    assert_eq!((code, frames(&file)), (Some(0), 100), "{stderr}");
    assert!(stderr.contains("100 frames captured, 0 missed"), "{stderr}");

    let (code, stdout, stderr) = run(folder, "dump 0 --count 20 -Q in -s 60");
    assert_eq!((code, stdout.lines().count()), (Some(0), 20), "{stdout}{stderr}");
    assert!(
        stdout.lines().all(|line| line.contains(" In  IP ") && line.contains(": UDP, length")),
        "{stdout}"
    );

    let (code, stdout, _) = run(folder, "dump 0 --seconds 0.2 --json");
    assert_eq!(code, Some(0));
    let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let lines = stdout.lines().count() as u64 - 1;
    assert_eq!((&last["program"], &last["captured"]), (&"dump".into(), &lines.into()), "{last}");
    assert!(lines > 100 && last["passed"].as_u64() >= Some(lines), "{last}");

    let (code, _, stderr) = run(folder, "dump loop:x");
    assert!(code == Some(1) && stderr.contains("`bywash dump` lists them"), "{stderr}");
    let (code, _, stderr) = run(folder, "dump 0 -w - --json");
    assert!(code == Some(2) && stderr.contains("both want standard output"), "{stderr}");
    let (code, stdout, stderr) = run(folder, "dump 0 -c 5 udp and greater 60");
    if stderr.contains("cannot be loaded") {
        println!("SKIPPED: filters: {stderr}");
        return;
    }
    assert_eq!((code, stdout.lines().count()), (Some(0), 5), "{stderr}");
    assert!(stderr.contains("5 matched the filter"), "{stderr}");
    let (code, stdout, stderr) = run(folder, "dump 0 --seconds 0.3 tcp");
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("0 matched the filter") && !stderr.starts_with("0 frames"), "{stderr}");
    let (code, _, stderr) = run(folder, "dump 0 udp prot 7");
    assert!(code == Some(2) && stderr.contains("man pcap-filter"), "{stderr}");
}

#[test]
fn a_pipe_is_live_and_may_break_and_interrupts_end_it_well() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _traffic = Traffic::start(folder, "pipes");
    // A reader that leaves early.
    let mut dump = bywash(folder, "dump 0 -w -").spawn().unwrap();
    let mut out = dump.stdout.take().unwrap();
    out.read_exact(&mut [0; 10_000]).unwrap();
    drop(out);
    let output = finish(dump);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("frames captured"), "{stderr}");
    // Two at once, interrupted.
    let files = ["a", "b"].map(|name| folder.join(format!("{name}.pcapng")));
    let dumps: Vec<Child> =
        files.iter().map(|file| capturing(folder, &format!("dump loop:b -w {}", file.display())).0).collect();
    for (dump, file) in dumps.into_iter().zip(&files) {
        signal_process(&dump, "-INT");
        let output = finish(dump);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        let count = frames(file);
        assert!(count > 100 && stderr.contains(&format!("{count} frames captured, 0 missed")), "{stderr}");
    }
    // tcpdump, which knows nothing of us.
    let mut dump = bywash(folder, "dump 0 -c 50 -w -").spawn().unwrap();
    let reading =
        Command::new("tcpdump").args(["-nn", "-r", "-"]).stdin(dump.stdout.take().unwrap()).output();
    match reading {
        Err(error) => println!("SKIPPED: no tcpdump: {error}; `apt install tcpdump`"),
        Ok(read) => {
            let text = String::from_utf8_lossy(&read.stdout);
            assert_eq!(
                text.lines().filter(|line| line.contains("IP 198.18.0.1.49152 > ")).count(),
                50,
                "{text}"
            );
        }
    }
    assert!(finish(dump).status.success());
}

/// As `mkfifo` makes it: what is written waits for a reader, and the wait can be ended.
#[test]
fn a_pipe_with_a_name_is_waited_for_until_it_is_read_or_time() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _traffic = Traffic::start(folder, "named");
    let pipe = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let line = format!("dump 0 -c 100 -w {}", pipe.display());
    let waits = format!("waiting for somebody who reads {}\n", pipe.display());
    let (dump, said) = capturing(folder, &line);
    assert_eq!(said, waits);
    assert_eq!(frames(&pipe), 100);
    assert!(finish(dump).status.success());
    // Nobody comes.
    for (line, signal) in [(line.clone(), Some("-INT")), (format!("{line} --seconds 0.1"), None)] {
        let (dump, said) = capturing(folder, &line);
        assert_eq!(said, waits);
        if let Some(signal) = signal {
            signal_process(&dump, signal);
        }
        let output = finish(dump);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("nobody has read the pipe"), "{stderr}");
    }
    // Somebody comes and takes nothing: the capture ends all the same.
    let line = format!("dump 0 -w {}", pipe.display());
    let (dump, _) = capturing(folder, &line);
    let reader = File::open(&pipe).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    signal_process(&dump, "-INT");
    let output = finish(dump);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("what is left is not written"), "{stderr}");
    drop(reader);
}

#[test]
fn the_end_of_the_engine_is_the_end_of_the_capture() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (signal, says) in [("-INT", " 0 missed"), ("-KILL", "ended before it could say")] {
        let file = folder.join("end.pcapng");
        let traffic = Traffic::start(folder, "mortal");
        let (dump, said) = capturing(folder, &format!("dump 0 -w {}", file.display()));
        assert_eq!(said, "capturing on loop:a of mortal, until interrupted or its end\n");
        traffic.signal(signal);
        let output = finish(dump);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.contains(says), "{signal}: {stderr}");
        assert!(frames(&file) > 100);
    }
    // What the killed one left behind is in nobody's way.
    assert!(folder.join("mortal/control.sock").exists());
    let _again = Traffic::start(folder, "mortal");
    std::thread::sleep(Duration::from_millis(200));
    let (code, _, stderr) = run(folder, "demo --name mortal --seconds 0.1");
    assert!(code == Some(1) && stderr.contains("an engine called mortal is running"), "{stderr}");
}
