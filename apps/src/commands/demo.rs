//! `bywash demo`: generator ─► `loop:a` ═ `loop:b` ─► forwarder, and back the same way; or, with `--tcp`, a client and
//! an echo server there.

use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use engine::config::{Config, DEFAULT_DESCRIPTORS, PortTable};
use engine::latency::ROUND_TRIP;
use engine::{Engine, StackSettings};

use stack::{IpAddress, IpCidr, Share, TcpOptions};

use super::load;
use crate::cli::{Demo, Failure, Settings};
use crate::programs::echo::{Echo, EchoConfig};
use crate::programs::generator::Generator;
use crate::programs::generator::pacer::Rate;
use crate::programs::l2fwd::L2fwd;
use crate::programs::load::target::Host;
use crate::programs::load::{Load, LoadConfig};
use crate::session::Session;

/// How long it runs if nothing is said.
const LENGTH: Duration = Duration::from_secs(5);
/// Descriptors from the generator to the forwarder, if nothing is said: half of those on the way back. The generator
/// has about as many frames under way as fit into the former, so the latter never overflows, whichever of the two
/// loops the kernel takes the processor from.
const FORTH: u16 = DEFAULT_DESCRIPTORS / 2;

/// The two hosts of `--tcp`.
const CLIENT: IpAddress = IpAddress::v4(10, 0, 0, 1);
const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);
/// Connections of `--tcp`, if nothing is said.
const CONNECTIONS: usize = 16;

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
    let (mut engine, mut cpus) = if args.tcp { settings.host_engine() } else { settings.engine() };
    // Two loops that never sleep on two processors would leave none for everybody else, and stumble over them.
    if settings.engine.cores.is_none() && available_parallelism().is_ok_and(|cores| cores.get() > 2) {
        cpus.push(None);
    }

    if cpus.len() > 2 {
        log::warn!("demo uses two cores; the others of the {} given are left alone", cpus.len());
    }
    let first = engine.lcore(cpus[0]);
    let second = cpus.get(1).map_or(first, |cpu| engine.lcore(*cpu));
    if args.tcp {
        let session = tcp(args, &mut engine, first, second)?;
        return session.run(engine, &args.output);
    }
    let config = args.traffic.config();
    let drain = config.drain;
    let generator = Generator::new(config);
    engine.program(first, generator, [0]);
    engine.program(second, L2fwd::new(args.l2fwd.forward_mode, 1), [1]);
    let session = Session {
        result_ports: vec![0],
        length: Some(LENGTH),
        ends_itself: true,
        drain,
        ..Session::of("demo", ROUND_TRIP)
    };
    session.run(engine, &args.output)
}

/// A client on `loop:a` and an echo server on `loop:b`, a stack each.
fn tcp(args: &Demo, engine: &mut Engine, first: usize, second: usize) -> Result<Session, Failure> {
    let rate = match args.traffic.rate {
        Rate::Unlimited => None,
        Rate::Frames(rate) | Rate::WireBits(rate) => Some(rate),
    };
    let config = LoadConfig {
        host: Host::Address(SERVER),
        connections: args.connections.unwrap_or(CONNECTIONS),
        size: args.traffic.size.unwrap_or(LoadConfig::default().size),
        rate,
        requests: args.traffic.count,
        drain: Duration::from_millis(args.traffic.drain_ms),
        ..LoadConfig::default()
    };
    if config.size == 0 {
        return Err(Failure::usage("--size 0 leaves nothing to ask; give at least 1"));
    }
    let settings = |address| {
        let mut settings =
            StackSettings { addresses: vec![IpCidr::new(address, 24)], ..StackSettings::default() };
        load::make_room(&mut settings.limits, &config);
        settings
    };
    let server = EchoConfig {
        tcp_port: Some(config.port),
        udp_port: None,
        counts_requests: false,
        backlog: 1024,
        tcp: TcpOptions::default(),
    };
    engine.stack(&[first], 0, &settings(CLIENT), |_| Load::new(&config, Share::default()));
    engine.stack(&[second], 1, &settings(SERVER), |_| Echo::new(server));
    Ok(Session { length: Some(LENGTH), ..load::session("demo", &config) })
}
