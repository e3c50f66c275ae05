//! `bywash stop`: ends a running engine.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use engine::control::ask_line;
use serde_json::json;

use crate::cli::Failure;
use crate::engines::Which;

/// How often is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What `bywash stop` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Which engine.
    #[command(flatten)]
    pub which: Which,

    /// How long to wait for its end, in seconds; it waits for frames and answers that are under way
    #[arg(long, value_name = "S", default_value = "10", value_parser = crate::cli::flags::seconds)]
    pub timeout: Duration,
}

const EXAMPLES: &str = "\
Examples:
  bywash stop                     the only engine of this user
  bywash stop --name l2fwd-4711   this one

Exit codes: 0 it has ended; 1 it has not, or could not be asked; 2 wrong usage.";

/// Asks, and waits for the end.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let folder = args.which.find()?;
    let engine = ask_line(&folder, "stop", &json!({})).map_err(Failure::run)?;
    let (pid, deadline) = (&engine["pid"], Instant::now() + args.timeout);
    // It takes its socket away when everything else has been given back.
    while folder.socket().exists() {
        if Instant::now() >= deadline {
            let (name, seconds) = (folder.name(), args.timeout.as_secs_f64());
            return Err(Failure::run(format!(
                "engine {name} was told to stop and has not within {seconds} s; wait, or end process {pid} with `kill {pid}`"
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
    eprintln!("engine {} (process {pid}) has stopped", folder.name());
    Ok(ExitCode::SUCCESS)
}
