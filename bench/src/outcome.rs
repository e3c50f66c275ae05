//! What every benchmark ends with.

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use crate::archive::Run;
use crate::conditions::Conditions;

/// The result of a benchmark.
pub trait Outcome: Serialize {
    /// For people.
    fn table(&self) -> Table;

    /// What was to be reached, in words; `None` if nothing was.
    fn target(&self) -> Option<String>;

    /// Why the figures should not be believed, if they should not.
    fn caveat(&self) -> Option<String>;

    /// Whether it was reached; `None` without a target or without anything of ours to reach it.
    fn reaches_target(&self) -> Option<bool>;
}

/// A benchmark's name, and what it measures and how.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The subcommand, and the end of an archived run's folder.
    pub what: &'static str,
    /// A paragraph for the archive.
    pub how: &'static str,
}

/// Prints `outcome`, archives it if asked to, and says whether the target was reached, or there was none.
///
/// # Errors
/// If the archive cannot be written.
pub fn show(about: About, conditions: &Conditions, outcome: &impl Outcome, archive: bool) -> Result<bool> {
    let mut table = outcome.table();
    println!("{table}");
    let reached = outcome.reaches_target();
    let verdict = match (outcome.target(), reached) {
        (Some(target), Some(true)) => Some(format!("target: {target}: reached")),
        (Some(target), Some(false)) => Some(format!("target: {target}: NOT reached")),
        _ => None,
    };
    let remarks: Vec<String> = verdict.into_iter().chain(outcome.caveat()).collect();
    for remark in &remarks {
        println!("{remark}");
    }
    if archive {
        table.force_no_tty();
        let run = Run { about, conditions, result: outcome };
        println!("archived in {}", run.write(&format!("{table}\n{}", remarks.join("\n")))?.display());
    }
    Ok(reached.unwrap_or(true))
}
