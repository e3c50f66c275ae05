//! Under which conditions a run was measured: without them its figures say nothing.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// What the reader of an archived run needs to judge or repeat it.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    /// When, UTC.
    pub date: String,
    /// Processor model.
    pub processor: String,
    /// Cores online.
    pub cores: usize,
    /// Whether the machine is itself a guest, and of what.
    pub virtualization: String,
    /// Kernel release.
    pub kernel: String,
    /// DPDK's version.
    pub dpdk: String,
    /// Compiler.
    pub rustc: String,
    /// The commit measured; `+` when the tree has changes.
    pub commit: String,
    /// Load average over one minute before the run: what else the machine was busy with.
    pub load_before: String,
    /// The command line.
    pub command: String,
}

impl Conditions {
    /// Looks around; what cannot be found out is `unknown`.
    pub fn now() -> Self {
        let model = first_line("/proc/cpuinfo", "model name");
        let hypervisor = first_line("/proc/cpuinfo", "flags")
            .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
        let args: Vec<String> = std::env::args().skip(1).collect();
        Self {
            date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            processor: model.unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            virtualization: if hypervisor { "virtual machine" } else { "none" }.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease"),
            dpdk: output("dpkg-query", &["-W", "-f=${Version}", "dpdk"]),
            rustc: output("rustc", &["--version"]),
            commit: commit(),
            load_before: read("/proc/loadavg").split(' ').next().map_or_else(unknown, str::to_owned),
            command: format!("bywash-bench {}", args.join(" ")),
        }
    }
}

/// What differs from the commit; earlier archived runs do not count.
const CHANGES: [&str; 5] = ["status", "--porcelain", "--", ":/", ":(top,exclude)bench/runs"];

fn commit() -> String {
    let hash = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = !matches!(output("git", &CHANGES).as_str(), "" | "unknown");
    if changed { hash + "+" } else { hash }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

/// The value of the first line of `path` that starts with `key`, after the colon.
fn first_line(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn output(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => unknown(),
    }
}
