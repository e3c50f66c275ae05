//! VFIO where it is real: a Linux guest under QEMU with a virtual IOMMU.
//!
//! `BYWASH_REQUIRE=vm` makes a skip a failure. A boot costs some 8 s, so each guest serves several scenarios; what
//! went before is then part of what is tested, as on a machine that is in use.

mod background;
mod clients;
mod forwarding;
mod life;
mod linux_client;
mod no_iommu;
mod refusals;
mod servers;
mod sleeping;
mod testpmd;
mod wire;

use std::time::Duration;

use peers::guest::{self, Builder, Guest};
use peers::require::{self, Suite};

/// For commands that end by themselves.
const SOON: Duration = Duration::from_secs(40);

/// What guests take from this machine beyond busybox: `hugepage-setup.sh` needs it.
const PROGRAMS: [&str; 3] = ["bash", "flock", "ip"];

/// Whether guests with these programs can run here; says why if not.
fn guest_runs(programs: &[&str]) -> bool {
    match guest::unavailable_with(programs) {
        None => true,
        Some(why) => {
            require::skip(Suite::Vm, why);
            false
        }
    }
}

/// A guest with our command and `hugepage-setup.sh`.
fn guest_with_bywash() -> Builder {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let builder = Guest::builder()
        .program(peers::bywash::binary().unwrap(), "/bin/bywash")
        .file(format!("{root}/hugepage-setup.sh"), "/bin/hugepage-setup.sh")
        .link("/bin/bash", "/usr/bin/bash")
        .link("/bin/busybox", "/usr/bin/env");
    PROGRAMS.into_iter().fold(builder, Builder::system_program)
}

/// Runs `bywash l2fwd` on two ports, which must fail at once, and returns what it says.
fn l2fwd_error(guest: &mut Guest, ports: [&str; 2], memory: &str) -> String {
    let [a, b] = ports;
    let output =
        guest.shell(&format!("bywash l2fwd --port vfio:{a} --port vfio:{b} --seconds 1 {memory}"), SOON);
    let output = output.unwrap();
    assert_eq!(output.status, 1, "{}", output.text);
    output.text
}

/// Asserts that a text has all these parts.
fn assert_says(text: &str, parts: &[&str]) {
    // Messages are wrapped to the terminal's width where there is one; here there is none, but be sure.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(words.contains(part), "{part:?} is not in: {text}");
    }
}
