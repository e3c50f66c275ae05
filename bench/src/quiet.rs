//! Whether the machine was quiet while something was measured.
//!
//! A forwarding loop that shares its core with a compiler loses far more than the compiler takes: each
//! preemption leaves the other end idle for a scheduler slice. So measured programs take precedence
//! ([`peers::precedence`]), every round says how much of the processor went to others all the same, and a
//! disturbed round is measured again.

use std::fs;

use anyhow::{Context as _, Result};

/// Processor time at one moment, in clock ticks of the kernel.
#[derive(Clone, Debug)]
pub struct Watch {
    pids: Vec<u32>,
    /// Ticks of all processors, idle ones included.
    total: u64,
    /// Ticks not idle, with those that the hypervisor took.
    busy: u64,
    /// Ticks of `pids`.
    ours: u64,
}

impl Watch {
    /// Starts to watch; the processes `pids` are those measured.
    ///
    /// # Errors
    /// If a process has ended or `/proc` cannot be read.
    pub fn start(pids: &[u32]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let (total, busy) = machine_ticks(&stat).context("/proc/stat has no line `cpu`")?;
        let mut ours = 0;
        for pid in pids {
            let path = format!("/proc/{pid}/stat");
            let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            ours += process_ticks(&stat).with_context(|| format!("{path} has no times"))?;
        }
        Ok(Self { pids: pids.to_vec(), total, busy, ours })
    }

    /// The share of all processor time since the start that went to others than the processes
    /// watched: 0.0 to 1.0.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub fn others_share(&self) -> Result<f64> {
        let now = Self::start(&self.pids)?;
        let total = now.total.saturating_sub(self.total).max(1);
        let busy = now.busy.saturating_sub(self.busy);
        let ours = now.ours.saturating_sub(self.ours);
        #[allow(clippy::cast_precision_loss)] // ticks of a benchmark are far below 2^52
        let share = busy.saturating_sub(ours) as f64 / total as f64;
        Ok(share)
    }
}

/// All ticks, and those that were not idle, of the line `cpu` in `/proc/stat`
/// (user nice system idle iowait irq softirq steal; proc_stat(5)).
fn machine_ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).map_while(|t| t.parse().ok()).collect();
    let total = ticks.iter().sum::<u64>();
    Some((total, total - ticks.get(3)? - ticks.get(4)?))
}

/// User and system ticks of a process: fields 14 and 15 of `/proc/<pid>/stat`, counted after the
/// name in parentheses, which may hold spaces (proc_pid_stat(5)).
fn process_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_ticks_are_not_busy() {
        let stat = "cpu  10 1 5 100 20 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(machine_ticks(stat), Some((145, 25)));
    }

    #[test]
    fn a_process_name_with_spaces_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20";
        assert_eq!(process_ticks(stat), Some(42));
    }
}
