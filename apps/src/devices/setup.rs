//! `hugepage-setup.sh`, started from the copy in this program.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use pmd::vfio::PciAddress;
use thiserror::Error;

/// The script.
const SCRIPT: &str = include_str!("../../../hugepage-setup.sh");
/// What it puts before /sys, /proc, /dev, /run and /etc, for tests.
const ROOT_VARIABLE: &str = "BYWASH_SYSROOT";

/// Bash is not there, or cannot be started.
#[derive(Debug, Error)]
#[error("cannot start bash, which binds and unbinds NICs (apt-get install bash)")]
pub(super) struct NoShell(#[source] io::Error);

/// The script on this machine, or on one made of files.
pub(super) struct Setup {
    root: PathBuf,
}

impl Setup {
    /// On the machine that the script itself would look at.
    pub fn of_environment() -> Setup {
        let root = std::env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty());
        Setup { root: root.map_or_else(|| PathBuf::from("/"), PathBuf::from) }
    }

    /// Where /sys and the others are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn command(arguments: &[String]) -> Command {
        let mut command = Command::new("bash");
        // What it calls itself in its messages, which is also what runs there.
        command.args(["-c", SCRIPT, "hugepage-setup.sh"]).args(arguments);
        command.env("BYWASH_UNDO", "sudo bywash devices undo");
        command
    }

    /// Runs it with the terminal of this process; its exit code is ours.
    pub fn run(&self, arguments: &[String]) -> Result<ExitCode, NoShell> {
        let status = Self::command(arguments).status().map_err(NoShell)?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }

    /// Why the script would not bind `address`, in a few words; `None` if it would. Changes nothing.
    pub fn refusal(&self, address: PciAddress) -> Result<Option<String>, NoShell> {
        let arguments = ["--dry-run".to_owned(), "--bind".to_owned(), address.to_string()];
        let mut command = Self::command(&arguments);
        let output = command.stdin(Stdio::null()).env("NO_COLOR", "1").output().map_err(NoShell)?;
        Ok((!output.status.success()).then(|| reason(&output, address)))
    }

    /// The addresses of `interface` other than link-local ones, as `ip` tells them: none if it is down or `ip` is missing.
    pub fn addresses(&self, interface: &str) -> Vec<String> {
        let output = Command::new("ip").args(["-o", "addr", "show", "dev", interface, "up"]).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let of_line = |line: &str| {
            let mut words = line.split_whitespace().skip(2);
            let is_address = words.next().is_some_and(|family| family.starts_with("inet"));
            words.next().filter(|address| is_address && !address.starts_with("fe80:")).map(str::to_owned)
        };
        text.lines().filter_map(of_line).collect()
    }
}

/// The part of the script's message that says what is the matter: `hugepage-setup.sh: ADDR: REASON; ADVICE`.
fn reason(output: &Output, address: PciAddress) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().next().unwrap_or("hugepage-setup.sh failed without a word");
    let line = line.trim_start_matches("hugepage-setup.sh: ");
    let line = line.strip_prefix(&format!("{address}: ")).unwrap_or(line);
    line.split("; ").next().unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn a_refusal_is_the_first_clause_of_the_scripts_message() {
        let output = Output {
            status: std::process::ExitStatus::from_raw(3 << 8),
            stdout: Vec::new(),
            stderr: b"hugepage-setup.sh: 0000:01:00.0: in use, eth0 is up; taking it would\n".to_vec(),
        };
        assert_eq!(reason(&output, "0000:01:00.0".parse().unwrap()), "in use, eth0 is up");
    }

    #[test]
    fn the_script_is_short_enough_for_one_argument() {
        // MAX_ARG_STRLEN of linux/binfmts.h: 32 pages.
        assert!(SCRIPT.len() < 32 * 4096, "{}", SCRIPT.len());
    }
}
