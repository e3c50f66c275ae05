//! The findings as lines for people.

use std::io::{self, Write};

use super::{Level, Report};
use crate::output::Colour;

/// Writes one line per check, its fix below it, and what can be run now.
pub(super) fn write(out: &mut impl Write, report: &Report, colour: Colour) -> io::Result<()> {
    let paint = |code, text| colour.paint(code, text);
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        let level = match check.level {
            Level::Pass => paint("32", "pass"),
            Level::Warn => paint("33", "warn"),
            Level::Fail => paint("1;31", "FAIL"),
        };
        writeln!(out, "{level}  {:width$}  {}", check.name, check.found)?;
        if let (Some(fix), true) = (&check.fix, check.level != Level::Pass) {
            writeln!(out, "      {:width$}  {} {fix}", "", paint("36", "fix:"))?;
        }
    }
    writeln!(out)?;
    for verdict in &report.ports {
        if verdict.ready {
            writeln!(out, "{} is ready", paint("32", &verdict.port))?;
        } else {
            let stopped = report.checks.iter().filter(|check| check.stops.contains(&verdict.port));
            let by: Vec<&str> = stopped.map(|check| check.name.as_str()).collect();
            writeln!(out, "{} does not open; stopped by: {}", paint("1;31", &verdict.port), by.join(", "))?;
        }
    }
    writeln!(out, "{}", colour.heading("What runs now:"))?;
    writeln!(out, "  bywash demo                 no NIC, no hugepages, no root needed")?;
    writeln!(out, "  loop: and vhost-user: ports between programs and virtual machines on this host")?;
    writeln!(
        out,
        "  tap: ports to this machine's kernel; bywash doctor --port tap:bw0 says whether you may"
    )?;
    writeln!(out, "  xdp: ports on its interfaces; bywash doctor --port xdp:eth1 says what is missing")?;
    if report.ready_nics.is_empty() {
        writeln!(out, "  no vfio: port; bywash doctor --port vfio:ADDR says what a NIC lacks")?;
    }
    for nic in &report.ready_nics {
        writeln!(out, "  bywash l2fwd --port vfio:{nic}")?;
    }
    Ok(())
}
