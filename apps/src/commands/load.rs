//! `bywash load`: a client on one port, its connections dealt among the cores given.

use std::process::ExitCode;

use engine::config::Config;
use engine::latency::ROUND_TRIP;
use stack::Share;

use super::stack_lcores;
use crate::cli::{Failure, Load};
use crate::output::Summary;
use crate::programs::load::target::Host;
use crate::programs::load::{self, LoadConfig};
use crate::session::Session;

pub(super) fn run(args: &Load, file: Config) -> Result<ExitCode, Failure> {
    let settings = args.shared.settings("load", file)?;
    let mut stack = args.stack.settings("load")?;
    let config = args.args.config(stack.tcp).map_err(Failure::usage)?;
    if let Host::Name(name) = &config.host
        && stack.dns.is_empty()
        && !stack.dhcp
        && !stack.slaac
    {
        return Err(Failure::usage(format!(
            "no name server to ask for {name}; give --dns ADDR, or the server's address in --to"
        )));
    }
    make_room(&mut stack.limits, &config);
    let (mut engine, mut cpus) = settings.host_engine();
    if cpus.len() > config.connections {
        log::warn!(
            "{} cores are given for {} connections; the others are left alone",
            cpus.len(),
            config.connections
        );
        cpus.truncate(config.connections);
    }
    let lcores = stack_lcores("load", &mut engine, &settings, &args.stack, &cpus)?;
    let count = u16::try_from(lcores.len()).map_err(Failure::usage)?;
    engine.stack(&lcores, 0, &stack, |index| load::Load::new(&config, Share { index, count }));
    session("load", &config).run(engine, &args.shared.output)
}

/// The client's own number of connections bounds it well enough: more than the default is allowed if asked for.
pub(super) fn make_room(limits: &mut stack::Limits, config: &LoadConfig) {
    // Beside those that are open some may still be closing.
    limits.flows = limits.flows.max(config.connections * 2);
    limits.udp_sockets = limits.udp_sockets.max(config.connections);
}

/// How a run of the client goes.
pub(super) fn session(program: &'static str, config: &LoadConfig) -> Session {
    Session {
        result_ports: vec![0],
        warm_up: config.warm_up,
        ends_itself: true,
        drain: config.drain,
        verdict: Some(verdict),
        ..Session::of(program, ROUND_TRIP)
    }
}

/// A client that got not a single answer has failed, and says why.
fn verdict(summary: &Summary) -> Option<String> {
    if summary.requests() != Some(0) {
        return None;
    }
    let counted = |name: &str| summary.counted(name);
    let reason = if counted("unresolved") > 0 {
        "the server's name has no address; see --dns"
    } else if counted("refused") > 0 {
        "the server refused to connect; does it listen on that port?"
    } else if counted("unreachable") + counted("connect_failed") > 0 {
        "the server cannot be reached; are its address, --ip and --gateway right, and is it up?"
    } else if counted("wrong_answer") + counted("corrupted") > 0 {
        "the answers were not what was sent; is it an echo server?"
    } else if counted("connections") > 0 {
        "connected, and no request was answered; is --protocol the server's?"
    } else {
        "nobody answered; is the server up, and on the other end of the port?"
    };
    Some(format!("no request was answered: {reason}"))
}
