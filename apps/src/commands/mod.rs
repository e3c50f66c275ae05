//! The subcommands that run an engine: which programs on which loops with which ports.

mod demo;
mod echo;
mod generate;
mod generator;
mod http;
mod l2fwd;
mod load;
mod ping;
mod resolve;
mod rxonly;

use std::ops::Range;
use std::process::ExitCode;

use engine::Engine;
use engine::config::Config;

use crate::cli::{Command, Failure, Settings, StackFlags};

/// Runs a subcommand; `file` is the configuration file's contents, or empty.
///
/// # Errors
/// [`Failure`], with the exit code.
pub fn run(command: Command, file: Config) -> Result<ExitCode, Failure> {
    match command {
        Command::Demo(args) => demo::run(&args, file),
        Command::L2fwd(args) => l2fwd::run(&args, file),
        Command::Gen(args) => generator::run(&args, file),
        Command::Rxonly(args) => rxonly::run(&args, file),
        Command::Echo(args) => echo::run(&args, file),
        Command::Load(args) => load::run(&args, file),
        Command::Http(args) => http::run(&args, file),
        Command::Ping(args) => ping::run(&args, file),
        Command::Resolve(args) => resolve::run(&args, file),
        Command::Dump(args) => crate::dump::run(&args),
        Command::Hist(args) => crate::hist::run(&args),
        Command::Show(args) => crate::show::run(&args),
        Command::Stop(args) => crate::stop::run(&args),
        Command::Doctor(args) => crate::doctor::run(&args).map_err(Failure::run),
        Command::Devices(args) => crate::devices::run(&args),
        Command::Completions { shell } => Ok(generate::completions(shell)),
        Command::Man { folder } => generate::man(&folder),
    }
}

/// Divides ports among loops in groups of `together`, neighbours staying together: of three pairs and two loops, the
/// first has ports 0 and 1, the second 2 to 5. No more loops than groups.
fn dealt(ports: usize, together: usize, loops: usize) -> Vec<Range<usize>> {
    let groups = ports.div_ceil(together);
    if loops > groups {
        log::warn!("{loops} cores are given and {groups} have something to do; the others are left alone");
    }
    let hands = loops.min(groups);
    let begin = |hand: usize| (hand * groups / hands * together).min(ports);
    (0..hands).map(|hand| begin(hand)..begin(hand + 1)).collect()
}

/// Loops for a stack: one on each processor given, on the only port, which sends the urgent first if `flags` say so.
///
/// # Errors
/// [`Failure::Usage`] if there is more than one port.
pub(crate) fn stack_lcores(
    program: &str,
    engine: &mut Engine,
    settings: &Settings,
    flags: &StackFlags,
    cpus: &[Option<usize>],
) -> Result<Vec<usize>, Failure> {
    if settings.ports.len() != 1 {
        return Err(Failure::usage(format!(
            "{program} runs on one port, {} are given; start one {program} for each",
            settings.ports.len()
        )));
    }
    if let Some(priority) = flags.priority() {
        engine.priority(0, priority);
    }
    Ok(cpus.iter().map(|cpu| engine.lcore(*cpu)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_dealt_in_groups_and_no_loop_is_idle() {
        assert_eq!(dealt(6, 2, 2), [0..2, 2..6]);
        assert_eq!(dealt(3, 2, 8), [0..2, 2..3]);
        assert_eq!(dealt(3, 1, 2), [0..1, 1..3]);
        assert_eq!(dealt(4, 2, 2), [0..2, 2..4]);
    }
}
