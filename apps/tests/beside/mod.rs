//! A running engine, and commands beside it.

#![allow(dead_code)] // each suite uses its part

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for a machine that does other things too.
pub const LIMIT: Duration = Duration::from_secs(60);

pub fn bywash(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bywash"));
    command.args(line.split_whitespace()).env("BYWASH_RUNTIME_DIR", folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end, reading all that is said, and kills the process if that does not come.
pub fn finish(child: Child) -> Output {
    let pid = child.id().to_string();
    let (done, output) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match output.recv_timeout(LIMIT) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            Command::new("kill").args(["-KILL", &pid]).status().unwrap();
            panic!("still running after {LIMIT:?}: {:?}", output.recv().unwrap().unwrap().stderr);
        }
    }
}

/// An engine with traffic, 20,000 frames a second through `loop:a` and `loop:b`; killed in the end.
pub struct Traffic(pub Child);

impl Traffic {
    pub fn start(folder: &Path, name: &str) -> Self {
        Self::start_with(folder, name, "--rate 20k")
    }

    pub fn start_with(folder: &Path, name: &str, flags: &str) -> Self {
        let line = format!("demo --name {name} {flags} --seconds 120 --quiet");
        let this =
            Traffic(bywash(folder, &line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let socket = folder.join(name).join("control.sock");
        let deadline = Instant::now() + LIMIT;
        while !socket.exists() {
            assert!(Instant::now() < deadline, "no {}", socket.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        this
    }

    pub fn signal(&self, signal: &str) {
        signal_process(&self.0, signal);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn signal_process(process: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap().success());
}

pub fn run(folder: &Path, line: &str) -> (Option<i32>, String, String) {
    let output = finish(bywash(folder, line).spawn().unwrap());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
