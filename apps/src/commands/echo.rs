//! `bywash echo`: a server on one port, on each core given.

use std::process::ExitCode;

use engine::config::Config;
use engine::latency::RESIDENCE;

use super::stack_lcores;
use crate::cli::{Echo, Failure};
use crate::programs::echo;
use crate::session::Session;

pub(super) fn run(args: &Echo, file: Config) -> Result<ExitCode, Failure> {
    let settings = args.shared.settings("echo", file)?;
    let stack = args.stack.settings("echo")?;
    let config = args.args.config(stack.tcp, stack.limits.half_open).map_err(Failure::usage)?;
    let (mut engine, cpus) = settings.host_engine();
    let lcores = stack_lcores("echo", &mut engine, &settings, &args.stack, &cpus)?;
    engine.stack(&lcores, 0, &stack, |_| echo::Echo::new(config));
    let session = Session { result_ports: vec![0], ..Session::of("echo", RESIDENCE) };
    session.run(engine, &args.shared.output)
}
