//! `bywash doctor`: what on this machine keeps a port from opening or makes it slow, and the command that fixes it.
//!
//! Every check reads files and changes nothing; none needs root. Without `--port` nothing is asked for, so a
//! missing IOMMU is a warning: the demo and every port without a NIC run all the same. With `--port` whatever stops
//! that port is a failure.
//!
//! # JSON
//!
//! `--json` prints one object; names of checks and levels are stable:
//!
//! ```json
//! {"program":"doctor",
//!  "checks":[{"name":"iommu","level":"warn","found":"absent","fix":"boot with intel_iommu=on","stops":[]}],
//!  "ports":[{"port":"vfio:0000:00:03.0","ready":false}],
//!  "ready_nics":["0000:00:04.0"]}
//! ```
//!
//! `fix` is null where nothing is to be done or no command helps; `stops` names the asked-for ports that the
//! finding keeps from opening, and `level` is `fail` exactly when it names one.

mod host;
pub(crate) mod machine;
pub(crate) mod nic;
mod quota;
mod show;
mod target;
#[cfg(test)]
mod tests;
mod xdp;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

pub use target::Target;

use machine::Machine;

use crate::output::Colour;

/// What `bywash doctor` was asked.
#[derive(Debug, clap::Args)]
#[command(
    about = "Say what keeps a port from opening on this machine, and the command that fixes it",
    after_help = "Examples:\n  \
        bywash doctor                             what can run here, now\n  \
        bywash doctor --port vfio:0000:03:00.0    is this NIC ready, and if not, why\n  \
        bywash doctor --json | jq '.checks[] | select(.level != \"pass\")'\n\n\
        Exit codes: 0 nothing stops the ports asked for; 1 something does; 2 wrong usage"
)]
pub struct Args {
    /// Check what this port needs (repeatable): vfio:ADDR, vhost-user:PATH, vhost-user-server:PATH, tap:NAME, xdp:NAME, loop:a
    #[arg(long = "port", value_name = "SPEC", value_parser = Target::parse)]
    pub ports: Vec<Target>,

    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Pass,
    /// Slower, less steady, or a port nobody asked for would not open.
    Warn,
    /// An asked-for port does not open.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; stable, one word or `nic ADDRESS`.
    pub name: String,
    /// How grave it is.
    pub level: Level,
    /// What is there, with its numbers.
    pub found: String,
    /// The command, or kernel parameter, that mends it.
    pub fix: Option<String>,
    /// Asked-for ports that do not open because of it.
    pub stops: Vec<String>,
}

impl Check {
    fn pass(name: impl Into<String>, found: impl Into<String>) -> Self {
        Check { name: name.into(), level: Level::Pass, found: found.into(), fix: None, stops: Vec::new() }
    }

    fn warn(name: impl Into<String>, found: impl Into<String>, fix: Option<String>) -> Self {
        Check { name: name.into(), level: Level::Warn, found: found.into(), fix, stops: Vec::new() }
    }

    /// A failure if it stops any of `stopped`, a warning if nobody asked for those.
    fn stops(
        name: impl Into<String>,
        found: impl Into<String>,
        fix: Option<String>,
        stopped: Vec<String>,
    ) -> Self {
        let level = if stopped.is_empty() { Level::Warn } else { Level::Fail };
        Check { name: name.into(), level, found: found.into(), fix, stops: stopped }
    }
}

/// All findings.
#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    checks: Vec<Check>,
    ports: Vec<PortVerdict>,
    /// Addresses that `vfio:` would open now.
    ready_nics: Vec<String>,
}

/// What the findings mean for one asked-for port.
#[derive(Debug, Serialize)]
struct PortVerdict {
    port: String,
    ready: bool,
}

/// Examines the machine and prints what it found.
///
/// # Errors
/// Only when standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = examine(Path::new("/"), &args.ports);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        show::write(&mut out, &report, Colour::of(&io::stdout()))?;
    }
    Ok(if report.ports.iter().all(|port| port.ready) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Examines the machine whose `/sys`, `/proc` and `/dev` lie under `root`.
fn examine(root: &Path, asked: &[Target]) -> Report {
    let machine = Machine::at(root);
    let mut checks = host::checks(&machine, asked);
    let nics = nic::checks(&machine, asked);
    // A NIC may be bound and viable, and yet the host as a whole keep every vfio: port from opening.
    let host_lets = host::lets_vfio_open(&machine);
    let ready_nics =
        nics.iter().filter(|nic| nic.ready && host_lets).map(|nic| nic.address.to_string()).collect();
    checks.extend(nics.into_iter().map(|nic| nic.check));
    checks.extend(asked.iter().filter_map(|target| target.check(&machine)));
    let ports = asked
        .iter()
        .map(|target| {
            let port = target.to_string();
            PortVerdict { ready: !checks.iter().any(|check| check.stops.contains(&port)), port }
        })
        .collect();
    Report { program: "doctor", checks, ports, ready_nics }
}
