//! `bywash demo`: generator ─► `loop:a` ═ `loop:b` ─► forwarder, and back the same way.

use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use engine::config::{Config, DEFAULT_DESCRIPTORS, PortTable};
use engine::latency::ROUND_TRIP;

use crate::cli::{Demo, Failure, Settings};
use crate::programs::generator::Generator;
use crate::programs::l2fwd::L2fwd;
use crate::session::Session;

/// How long it runs if nothing is said.
const LENGTH: Duration = Duration::from_secs(5);
/// Descriptors from the generator to the forwarder, if nothing is said: half of those on the way back. The generator
/// has about as many frames under way as fit into the former, so the latter never overflows, whichever of the two
/// loops the kernel takes the processor from.
const FORTH: u16 = DEFAULT_DESCRIPTORS / 2;

pub(super) fn run(args: &Demo, file: Config) -> Result<ExitCode, Failure> {
    let mut settings = Settings::new(&args.engine, &[], file);
    if !settings.ports.is_empty() {
        return Err(Failure::usage(
            "demo has its own two ports; take [[port]] out of the file, or run `bywash gen`",
        ));
    }
    let generator_port = PortTable { txd: settings.engine.txd.or(Some(FORTH)), ..PortTable::new("loop:a") };
    let forwarder_port = PortTable { rxd: settings.engine.rxd.or(Some(FORTH)), ..PortTable::new("loop:b") };
    settings.ports = vec![generator_port, forwarder_port];
    let (mut engine, mut cpus) = settings.engine();
    // Two loops that never sleep on two processors would leave none for everybody else, and stumble over them.
    if settings.engine.cores.is_none() && available_parallelism().is_ok_and(|cores| cores.get() > 2) {
        cpus.push(None);
    }

    let config = args.traffic.config();
    let drain = config.drain;
    let generator = Generator::new(config);
    let first = engine.lcore(cpus[0]);
    let second = cpus.get(1).map_or(first, |cpu| engine.lcore(*cpu));
    engine.program(first, generator, [0]);
    engine.program(second, L2fwd::new(args.l2fwd.forward_mode, 1), [1]);
    if cpus.len() > 2 {
        log::warn!("demo uses two cores; the others of the {} given are left alone", cpus.len());
    }

    let session = Session {
        result_ports: vec![0],
        length: Some(LENGTH),
        ends_itself: true,
        drain,
        ..Session::of("demo", ROUND_TRIP)
    };
    session.run(engine, &args.output)
}
