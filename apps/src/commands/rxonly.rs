//! `bywash rxonly`: receives, counts, discards.

use std::process::ExitCode;

use engine::config::Config;
use engine::latency::TURN;

use super::dealt;
use crate::cli::{Failure, RxOnly};
use crate::programs::rxonly;
use crate::session::Session;

pub(super) fn run(args: &RxOnly, file: Config) -> Result<ExitCode, Failure> {
    let settings = args.shared.settings("rxonly", file)?;
    let (mut engine, cpus) = settings.engine();
    for (ports, cpu) in dealt(settings.ports.len(), 1, cpus.len()).into_iter().zip(cpus) {
        let lcore = engine.lcore(cpu);
        engine.program(lcore, rxonly::RxOnly::new(), ports);
    }
    let session =
        Session { result_ports: (0..settings.ports.len()).collect(), ..Session::of("rxonly", TURN) };
    session.run(engine, &args.shared.output)
}
