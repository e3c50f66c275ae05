//! A network namespace of our own: the running kernel as a peer, apart from the machine's network.
//!
//! ```text
//!   Netns::new ─► ip netns add bywash-PID-N          nothing in it but a loopback interface
//!     ip, tap       interfaces, addresses, routes in there
//!     start, run    programs in there; Bywash::start_in
//!     inside        a closure of ours in there
//!   drop          kills what runs in it, by process id, then deletes it; also while a test panics
//! ```
//!
//! A namespace whose test process was killed is deleted by the next test that makes one.

mod dnsmasq;

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::process::{Finished, Process, ProcessError};
pub use dnsmasq::{Dnsmasq, DnsmasqOptions};

/// What all our namespaces' names begin with; the process id of the test follows.
const PREFIX: &str = "bywash-";

/// For `ip`, which answers at once.
const IP_LIMIT: Duration = Duration::from_secs(20);

/// Why something cannot be done in a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A program did not start or end as it should.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A program ended with an exit code other than 0.
    #[error("`{command}` ended with {status}: {stderr}{stdout}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
        /// What it wrote to standard output.
        stdout: String,
    },
    /// The namespace cannot be entered, or a file in it not be used.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// A network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// What of `programs` and of the machine is missing for tests in a namespace, in words; `None` if nothing is.
#[must_use]
pub fn unavailable_with(programs: &[&str]) -> Option<String> {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        return Some("network namespaces need root".to_owned());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun (modprobe tun)".to_owned());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing: Vec<&str> = ["ip"].iter().chain(programs).copied().filter(|program| !has(program)).collect();
    if missing.is_empty() {
        return None;
    }
    Some(format!("not installed: {} (./ci.sh setup)", missing.join(", ")))
}

impl Netns {
    /// A namespace with a name of its own and its loopback interface up. Addresses of interfaces made in it
    /// are usable at once: no duplicate address detection.
    ///
    /// # Errors
    /// [`NetnsError`], as without root.
    pub fn new() -> Result<Self, NetnsError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        // ORDERING: Relaxed. A number that is given out once; nothing is published by it.
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        checked("ip", Command::new("ip").args(["netns", "add", &name]), IP_LIMIT)?;
        let this = Self { name };
        this.ip("link set lo up")?;
        for scope in ["default", "all"] {
            this.set(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        Ok(this)
    }

    /// Its name, for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip ARGS` on it and returns what that prints.
    ///
    /// # Errors
    /// [`NetnsError::Failed`] with what `ip` says.
    pub fn ip(&self, args: &str) -> Result<String, NetnsError> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(args.split_whitespace());
        Ok(checked("ip", &mut command, IP_LIMIT)?.stdout)
    }

    /// Makes a TAP interface that stays until the namespace goes, and gives the kernel's end addresses.
    ///
    /// # Errors
    /// [`NetnsError::Failed`].
    pub fn tap(&self, name: &str, addresses: &[&str]) -> Result<(), NetnsError> {
        self.ip(&format!("tuntap add dev {name} mode tap"))?;
        for address in addresses {
            self.ip(&format!("addr add {address} dev {name}"))?;
        }
        self.ip(&format!("link set {name} up"))?;
        Ok(())
    }

    /// Waits until interface `name` is there and up, at most `limit`.
    ///
    /// # Errors
    /// [`NetnsError::System`] if it does not come.
    pub fn wait_for_link(&self, name: &str, limit: Duration) -> Result<(), NetnsError> {
        let deadline = Instant::now() + limit;
        while !self.ip(&format!("link show dev {name}")).is_ok_and(|told| told.contains("LOWER_UP")) {
            if Instant::now() > deadline {
                let what = format!("find interface {name} up within {limit:?}");
                return Err(NetnsError::System { what, source: io::ErrorKind::TimedOut.into() });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Writes a kernel parameter, named by its path below `/proc/sys`.
    ///
    /// # Errors
    /// [`NetnsError::System`].
    pub fn set(&self, parameter: &str, value: &str) -> Result<(), NetnsError> {
        let path = format!("/proc/sys/{parameter}");
        self.inside(|| std::fs::write(&path, value))?
            .map_err(|source| NetnsError::System { what: format!("write {value} to {path}"), source })
    }

    /// A command that will run `program` in the namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        command_in(&self.name, program)
    }

    /// Starts a program in the namespace.
    ///
    /// # Errors
    /// [`NetnsError::Process`] if it cannot be started.
    pub fn start<S: AsRef<str>>(&self, program: &str, args: &[S]) -> Result<Process, NetnsError> {
        let mut command = self.command(program);
        command.args(args.iter().map(AsRef::as_ref));
        Ok(Process::start(program, &mut command)?)
    }

    /// Runs a program in the namespace to its end; it must succeed.
    ///
    /// # Errors
    /// [`NetnsError`]; after `limit` it is killed.
    pub fn run<S: AsRef<str>>(
        &self,
        program: &str,
        args: &[S],
        limit: Duration,
    ) -> Result<Finished, NetnsError> {
        let mut command = self.command(program);
        command.args(args.iter().map(AsRef::as_ref));
        checked(program, &mut command, limit)
    }

    /// Runs a closure in the namespace, on a thread of its own. Files and sockets that it opens belong to
    /// the namespace for good.
    ///
    /// # Errors
    /// [`NetnsError::System`] if the namespace cannot be entered.
    ///
    /// # Panics
    /// If the closure does.
    pub fn inside<R: Send>(&self, body: impl FnOnce() -> R + Send) -> Result<R, NetnsError> {
        let path = format!("/run/netns/{}", self.name);
        let failed = |source| NetnsError::System { what: format!("enter {path}"), source };
        let file = std::fs::File::open(&path).map_err(failed)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| enter(&file).map(|()| body()));
            match thread.join() {
                Ok(result) => result.map_err(failed),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// A command that will run `program` in the namespace called `name`.
pub(crate) fn command_in(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    // `ip` becomes the program: it is the child that gets our signals.
    command.args(["netns", "exec", name]).arg(program);
    command
}

/// Moves the calling thread into the namespace that `file` names.
fn enter(file: &std::fs::File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: no memory is involved.
    let answer = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs a program to its end; it must succeed.
fn checked(name: &str, command: &mut Command, limit: Duration) -> Result<Finished, NetnsError> {
    let finished = Process::start(name, command)?.finish(limit)?;
    if finished.status.success() {
        return Ok(finished);
    }
    let words = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    let command = std::iter::once(name.to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    let Finished { status, stdout, stderr } = finished;
    Err(NetnsError::Failed { command, status, stderr, stdout })
}

impl Drop for Netns {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Kills what runs in the namespace and deletes it.
fn delete(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse::<libc::pid_t>().ok()) {
        // A thread of this process that is still `inside` has our own id.
        if pid > 1 && pid.cast_unsigned() != std::process::id() {
            // SAFETY: no memory is involved. Whoever is in our namespace was started by us, or by such a process.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    if let Err(error) = Command::new("ip").args(["netns", "del", name]).output() {
        eprintln!("cannot delete network namespace {name}: {error}");
    }
}

/// Deletes the namespaces of test processes that are no more.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            delete(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require::{Suite, skip};

    fn namespace() -> Option<Netns> {
        match unavailable_with(&[]) {
            None => Some(Netns::new().unwrap()),
            Some(why) => {
                skip(Suite::Netns, why);
                None
            }
        }
    }

    #[test]
    fn commands_and_closures_see_the_namespace_and_nothing_else() {
        let Some(netns) = namespace() else { return };
        netns.tap("bw-test", &["192.0.2.1/24", "2001:db8::1/64"]).unwrap();
        let listed = netns.run("ip", &["-o", "addr"], IP_LIMIT).unwrap().stdout;
        assert!(listed.contains("192.0.2.1/24") && listed.contains("2001:db8::1/64"), "{listed}");
        let devices = netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
        assert!(devices.contains("bw-test:") && devices.lines().count() == 4, "{devices}");
        assert!(!std::fs::read_to_string("/proc/net/dev").unwrap().contains("bw-test:"));
        let error = netns.ip("link set nothing up").unwrap_err().to_string();
        assert!(error.contains("nothing"), "{error}");
    }

    #[test]
    fn a_panic_leaves_neither_namespace_nor_processes() {
        let Some(netns) = namespace() else { return };
        let path = format!("/run/netns/{}", netns.name());
        assert!(std::path::Path::new(&path).exists());
        // A grandchild that nobody holds.
        let told = netns.run("sh", &["-c", "sleep 600 >/dev/null 2>&1 & echo $!"], IP_LIMIT).unwrap().stdout;
        let process = format!("/proc/{}/stat", told.trim());
        assert!(std::path::Path::new(&process).exists());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = netns;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(!std::path::Path::new(&path).exists());
        let deadline = Instant::now() + Duration::from_secs(5);
        // Dead: gone, or a zombie that nobody reaps.
        while std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z")) {
            assert!(Instant::now() < deadline, "still running");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
