//! `bywash l2fwd`: pairs of ports, forwarded to each other.

use std::process::ExitCode;

use engine::config::Config;
use engine::latency::RESIDENCE;

use super::dealt;
use crate::cli::{Failure, L2fwd};
use crate::programs::l2fwd;
use crate::session::Session;

pub(super) fn run(args: &L2fwd, file: Config) -> Result<ExitCode, Failure> {
    let settings = args.shared.settings("l2fwd", file)?;
    let (mut engine, cpus) = settings.engine();
    for (ports, cpu) in dealt(settings.ports.len(), 2, cpus.len()).into_iter().zip(cpus) {
        let lcore = engine.lcore(cpu);
        let program = l2fwd::L2fwd::new(args.args.forward_mode, ports.start).tx_first(args.tx_first);
        engine.program(lcore, program, ports);
    }
    let session =
        Session { result_ports: (0..settings.ports.len()).collect(), ..Session::of("l2fwd", RESIDENCE) };
    session.run(engine, &args.shared.output)
}
