//! One of our servers on a TAP interface, and the kernel's programs as its clients.

use std::time::{Duration, Instant};

use peers::bywash::{Bywash, Report};
use peers::netns::Netns;

use super::{SOON, namespace_with};

/// The kernel's addresses, with the length of the prefix.
pub const KERNEL: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];
/// Ours.
pub const OURS: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// The MAC address of our end, where a test wants to know it beforehand.
pub const OUR_MAC: &str = "02:00:00:00:00:02";

/// A namespace with a TAP interface, and our command on its other end.
pub struct Host {
    pub netns: Netns,
    pub ours: Bywash,
}

/// Flags that give our end both of its addresses.
pub fn both_addresses() -> String {
    format!("--ip {}/24 --ip {}/64", OURS[0], OURS[1])
}

/// A namespace whose kernel has both addresses on `bw0`; `None` after having said why there is none.
pub fn namespace_with_tap(programs: &[&str]) -> Option<Netns> {
    let netns = namespace_with(programs)?;
    // The build must not count against a time limit.
    peers::bywash::binary().unwrap();
    netns.tap("bw0", &KERNEL).unwrap();
    Some(netns)
}

/// Starts `bywash COMMAND … --json` on `port`, words separated by spaces.
pub fn start(netns: &Netns, command: &str, port: &str, flags: &str) -> Bywash {
    let line = format!("{command} --port {port} {flags} --json");
    Bywash::start_in(netns, &line.split_whitespace().collect::<Vec<_>>()).unwrap()
}

impl Host {
    /// `bywash COMMAND` with both addresses on `port`, answering pings.
    pub fn start(programs: &[&str], command: &str, port: &str, flags: &str) -> Option<Host> {
        let programs: Vec<&str> = ["ping"].iter().chain(programs).copied().collect();
        let netns = namespace_with_tap(&programs)?;
        let ours = start(&netns, command, port, &format!("{} {flags}", both_addresses()));
        let mut host = Host { netns, ours };
        host.wait_for_ping(OURS[0]);
        Some(host)
    }

    /// Waits until our end answers at `address`.
    pub fn wait_for_ping(&mut self, address: &str) {
        let deadline = Instant::now() + SOON;
        while self.netns.run("ping", &["-c1", "-W1", "-n", address], SOON).is_err() {
            let ours = self.ours.process();
            assert!(Instant::now() < deadline, "no answer from {address}: {}", ours.stderr());
            assert!(ours.is_running(), "it ended: {}", ours.stderr());
        }
    }

    /// Runs a program of the kernel's side to its end; it must succeed. Returns what it printed.
    pub fn run(&self, program: &str, args: &str, limit: Duration) -> String {
        let args: Vec<&str> = args.split_whitespace().collect();
        self.netns.run(program, &args, limit).unwrap().stdout
    }

    /// Runs a shell script on the kernel's side; it must succeed. Returns what it printed.
    pub fn shell(&self, script: &str, limit: Duration) -> String {
        self.netns.run("sh", &["-c", script], limit).unwrap().stdout
    }

    /// Stops our end and returns its report, which must tell of no error.
    pub fn stop(mut self) -> Report {
        self.ours.interrupt();
        let report = self.ours.report(SOON).unwrap();
        assert_eq!(report.count("/errors").unwrap(), 0, "{}", report.value());
        assert_eq!(report.count("/ports/0/faults").unwrap(), 0, "{}", report.value());
        report
    }
}

/// `len` bytes that do not repeat soon.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
