//! `bywash gen`: traffic out of every port, and what comes back judged.

use std::process::ExitCode;

use engine::config::Config;
use engine::latency::ROUND_TRIP;

use crate::cli::{Failure, Gen};
use crate::programs::generator::Generator;
use crate::session::Session;

pub(super) fn run(args: &Gen, file: Config) -> Result<ExitCode, Failure> {
    let settings = args.shared.settings("gen", file)?;
    let (mut engine, cpus) = settings.engine();
    if cpus.len() > 1 {
        log::warn!("gen runs all ports on one core, the first of the {} given", cpus.len());
    }
    let mut config = args.args.config();
    config.burst = settings.engine.burst.unwrap_or(config.burst);
    let drain = config.drain;
    let lcore = engine.lcore(cpus[0]);
    let generator = Generator::new(config);
    let ports: Vec<usize> = (0..settings.ports.len()).collect();
    engine.program(lcore, generator, ports.clone());
    let session = Session { result_ports: ports, ends_itself: true, drain, ..Session::of("gen", ROUND_TRIP) };
    session.run(engine, &args.shared.output)
}
