//! How much of the processors the control group of this process leaves it.
//!
//! A loop that never sleeps uses all of its core. A group with a quota then stops it for the rest of each period, as a
//! rule of 100 ms: that is seen as round trips of tens of milliseconds, with idle cores beside them.

use super::Check;
use super::machine::Machine;

/// A group's limit.
struct Quota {
    /// Where it stands.
    file: String,
    /// In cores.
    cores: f64,
}

pub(super) fn check(machine: &Machine) -> Check {
    let Some(Quota { file, cores }) = tightest(machine) else {
        return Check::pass("quota", "no control group limits the time of the processors");
    };
    let allowed = u32::try_from(super::host::cpu_list(&machine.allowed_cpus()).len()).unwrap_or(u32::MAX);
    let found = format!("{file} leaves {cores:.2} cores' time");
    if cores >= f64::from(allowed) {
        return Check::pass("quota", format!("{found}, for {allowed} cores"));
    }
    Check::warn(
        "quota",
        format!("{found}: a loop that polls is stopped for the rest of each period"),
        Some(format!(
            "remove the limit (CPUQuota= of a unit, --cpus of a container; in {file}), or use --idle adaptive"
        )),
    )
}

/// The smallest limit of the group of this process and of those around it; of both versions of control groups.
fn tightest(machine: &Machine) -> Option<Quota> {
    let groups = machine.text("/proc/self/cgroup");
    let mut found: Vec<Quota> = Vec::new();
    for line in groups.lines() {
        // hierarchy:controllers:path
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_cpu = controllers.split(',').any(|controller| controller == "cpu");
        if !controllers.is_empty() && !is_cpu {
            continue;
        }
        let mut group = path.trim_end_matches('/');
        loop {
            let quota =
                if controllers.is_empty() { unified(machine, group) } else { first_version(machine, group) };
            found.extend(quota);
            match group.rsplit_once('/') {
                Some((parent, _)) => group = parent,
                None => break,
            }
        }
    }
    found.into_iter().min_by(|a, b| a.cores.total_cmp(&b.cores))
}

/// `cpu.max` is `QUOTA PERIOD` in microseconds, or `max PERIOD`. Source: Documentation/admin-guide/cgroup-v2.rst.
fn unified(machine: &Machine, group: &str) -> Option<Quota> {
    let file = format!("/sys/fs/cgroup{group}/cpu.max");
    let text = machine.text(&file);
    let (quota, period) = text.split_once(' ')?;
    limit(file, quota, period)
}

/// A quota of -1 is none. Source: Documentation/scheduler/sched-bwc.rst.
fn first_version(machine: &Machine, group: &str) -> Option<Quota> {
    let folder = format!("/sys/fs/cgroup/cpu{group}");
    let period = machine.text(&format!("{folder}/cpu.cfs_period_us"));
    let file = format!("{folder}/cpu.cfs_quota_us");
    let quota = machine.text(&file);
    limit(file, &quota, &period)
}

fn limit(file: String, quota: &str, period: &str) -> Option<Quota> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.trim().parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| Quota { file, cores: quota / period })
}
