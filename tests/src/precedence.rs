//! Busy loops before everything else on the machine.
//!
//! Two polling loops that hand frames to each other wait for whichever is not running: sharing their cores with a
//! compiler does not halve their rate but divides it by ten and more.

use std::fs;
use std::process::Command;

/// The scheduler's group of our session; its niceness is what counts between sessions
/// (sched(7), "The autogroup feature").
const AUTOGROUP: &str = "/proc/self/autogroup";

/// While it lives, this session goes before all others of normal priority.
///
/// Two busy loops on two cores leave no room for anybody else; at the highest niceness the rest of the
/// machine takes about one percent from them instead of a fair share. Not being root costs precision
/// and nothing else, so a refusal is only told.
#[derive(Debug)]
pub struct Precedence(());

impl Precedence {
    /// Takes precedence for this thread and the programs it starts from now on.
    pub fn take() -> Self {
        set_niceness(-20);
        Self(())
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        set_niceness(0);
    }
}

fn set_niceness(nice: i8) {
    // Without autogroups there is no such file, and the niceness of the thread decides.
    if fs::exists(AUTOGROUP).unwrap_or(false)
        && let Err(e) = fs::write(AUTOGROUP, nice.to_string())
    {
        eprintln!("others may disturb the measurement: {AUTOGROUP}: {e}");
    }
    let pid = std::process::id().to_string();
    let told = match Command::new("renice").args(["-n", &nice.to_string(), "-p", &pid]).output() {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(e) => e.to_string(),
    };
    eprintln!("others may disturb the measurement: {told}");
}
