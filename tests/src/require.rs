//! The skip rule: a suite that cannot run here says so aloud, and where it is required it fails.
//!
//! Some suites need root, DPDK, QEMU or hugepages. On a machine without them they print
//! `SKIPPED: <suite>: <why>` and pass. With `BYWASH_REQUIRE=vm,dpdk,netns` in the environment (any
//! subset, separated by commas) a skip of a listed suite is a failure: CI requires them all, so a
//! missing package cannot pass for a passing test.

use std::fmt;
use std::io::Write as _;

/// The environment variable that lists the suites which must not skip.
pub const REQUIRE: &str = "BYWASH_REQUIRE";

/// Words of [`REQUIRE`] that concern jobs of `ci.sh` and no suite of ours.
const OF_CI: [&str; 1] = ["advisories"];

/// A suite of tests that needs more than a compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// A Linux guest under QEMU.
    Vm,
    /// DPDK's testpmd at the other end of a virtqueue.
    Dpdk,
    /// Network namespaces, TAP and veth of the running kernel.
    Netns,
    /// HdrHistogram's Python package, which reads our latency files back.
    Hist,
}

impl Suite {
    /// Every suite, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Vm, Self::Dpdk, Self::Netns, Self::Hist];

    /// The word used in [`REQUIRE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Dpdk => "dpdk",
            Self::Netns => "netns",
            Self::Hist => "hist",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Says that a test of `suite` cannot run here; the caller returns afterwards.
///
/// The line goes straight to standard error, because the test harness swallows `println!` of
/// tests that pass.
///
/// # Panics
/// If [`REQUIRE`] lists `suite`, or names a suite that does not exist (a misspelt word would
/// otherwise require nothing).
pub fn skip(suite: Suite, why: impl fmt::Display) {
    let list = std::env::var(REQUIRE).unwrap_or_default();
    match is_required(&list, suite) {
        Ok(false) => {
            let line = format!("SKIPPED: {suite}: {why}\n");
            // A closed standard error leaves nobody to tell; the test goes on without it.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        Ok(true) => panic!("{suite} cannot run here ({why}), but {REQUIRE}={list} requires it"),
        Err(word) => {
            panic!("{REQUIRE}={list}: unknown suite {word:?}; allowed: vm, dpdk, netns, hist, advisories")
        }
    }
}

/// Whether `list` names `suite`.
///
/// # Errors
/// The first word of `list` that is no suite.
fn is_required(list: &str, suite: Suite) -> Result<bool, &str> {
    let mut required = false;
    for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match Suite::ALL.iter().find(|s| s.name() == word) {
            Some(named) => required |= *named == suite,
            None if OF_CI.contains(&word) => {}
            None => return Err(word),
        }
    }
    Ok(required)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_suites_are_required() {
        assert_eq!(is_required("", Suite::Dpdk), Ok(false));
        assert_eq!(is_required("vm, dpdk", Suite::Dpdk), Ok(true));
        assert_eq!(is_required("vm,dpdk", Suite::Netns), Ok(false));
        assert_eq!(is_required("advisories,vm", Suite::Vm), Ok(true));
    }

    #[test]
    fn a_misspelt_suite_is_an_error() {
        assert_eq!(is_required("dpkd", Suite::Dpdk), Err("dpkd"));
        assert_eq!(is_required("vm,dpkd", Suite::Vm), Err("dpkd"));
    }
}
