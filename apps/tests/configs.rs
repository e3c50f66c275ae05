//! Every TOML file in `configs/` starts with the command that its first line names.
//!
//! Ports that this machine may not have are replaced on the command line, and hugepages by ordinary pages; everything
//! else is read, checked and run as it stands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A run is asked for a fifth of a second; a debug build on a busy machine needs some to start.
const PATIENCE: Duration = Duration::from_secs(30);

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// Ports of the same number that every machine has.
fn ports(text: &str) -> Vec<String> {
    let count = text.lines().filter(|line| line.trim() == "[[port]]").count();
    let ends = ["loop:a", "loop:b"].into_iter().take(count);
    ends.flat_map(|end| ["--port".to_owned(), end.to_owned()]).collect()
}

/// A client needs somebody to answer.
struct Server(Child);

impl Server {
    const SOCKET: &str = "server.sock";

    fn start(folder: &Path) -> Server {
        let child = Command::new(env!("CARGO_BIN_EXE_bywash"))
            .current_dir(folder)
            .args(["echo", "--port", &format!("vhost-user-server:{}", Self::SOCKET), "--ip", "10.0.0.2/24"])
            .args(["--quiet", "--seconds", "60"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !folder.join(Self::SOCKET).exists() {
            assert!(started.elapsed() < PATIENCE, "no server after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Server(child)
    }

    /// The client's end.
    fn port() -> Vec<String> {
        vec!["--port".to_owned(), format!("vhost-user:{}", Self::SOCKET)]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_configuration_starts_with_the_command_in_its_first_line() {
    let files = files();
    assert!(!files.is_empty());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let words: Vec<&str> = first.split_whitespace().collect();
        let ["#", "bywash", program, "--config", shown] = words[..] else {
            panic!("{name} begins with {first:?}, not with its command");
        };
        assert_eq!(shown, format!("configs/{name}"));

        // A folder of its own: some configurations write files.
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), text.replace("\"2M\"", "\"ordinary\"")).unwrap();
        let server = (program == "load").then(|| Server::start(folder.path()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_bywash"))
            .current_dir(folder.path())
            .args([program, "--config", name, "--seconds", "0.2", "--json", "--quiet"])
            .args(if server.is_some() { Server::port() } else { ports(&text) })
            .args(if text.contains("cores") { &["--cores", "0"][..] } else { &[] })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("{name}: still running after {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {} {told}", output.status);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["program"], program, "{name}");
    }
}
