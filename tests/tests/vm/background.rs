//! A command in the guest that goes on while this process does something else.

use std::time::Duration;

use peers::bywash::Report;
use peers::guest::Guest;

/// Starts `command` as `user`; its process id is then in `/tmp/pid`, what it prints in `/tmp/out` and `/tmp/err`. One
/// at a time.
pub(super) fn start(guest: &mut Guest, user: &str, command: &str) {
    let script = format!(
        "ulimit -l unlimited; rm -f /tmp/out /tmp/err /tmp/pid\n\
         su {user} -c 'exec {command} >/tmp/out 2>/tmp/err' & echo $! > /tmp/pid"
    );
    guest.shell_ok(&script).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_runs(guest);
}

/// Asserts that it has not ended; what it has said if it has.
pub(super) fn assert_runs(guest: &mut Guest) {
    let state = guest.shell_ok("kill -0 $(cat /tmp/pid) && echo runs || cat /tmp/err").unwrap();
    assert!(state.contains("runs"), "{state}");
}

/// Stops it as Ctrl-C does, and reads its report.
pub(super) fn stop(guest: &mut Guest) -> Report {
    let script = "kill -INT $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.1; done; cat /tmp/out";
    let text = guest.shell_ok(script).unwrap();
    Report::parse(&text)
        .unwrap_or_else(|error| panic!("{error}: {}", guest.shell_ok("cat /tmp/err").unwrap()))
}
