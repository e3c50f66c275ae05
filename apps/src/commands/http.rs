//! `bywash http`: a web server on one port, on each core given.

use std::process::ExitCode;
use std::sync::Arc;

use engine::config::Config;
use engine::latency::RESIDENCE;
use stack::{IpListenEndpoint, ListenOptions};

use super::stack_lcores;
use crate::cli::{Failure, Http};
use crate::programs::http::librarian::{Librarian, Shelf};
use crate::programs::http::request::MAX_HEAD_BYTES;
use crate::programs::http::site::Site;
use crate::programs::http::{HttpConfig, service};
use crate::session::Session;

pub(super) fn run(args: &Http, file: Config) -> Result<ExitCode, Failure> {
    let settings = args.shared.settings("http", file)?;
    let stack = args.stack.settings("http")?;
    if stack.tcp.rx_bytes < MAX_HEAD_BYTES {
        return Err(Failure::usage(format!(
            "--rx-buffer {} is less than the longest head of a request, {MAX_HEAD_BYTES} bytes; give at least 8K",
            stack.tcp.rx_bytes
        )));
    }
    let (mut engine, cpus) = settings.host_engine();
    let lcores = stack_lcores("http", &mut engine, &settings, &args.stack, &cpus)?;
    // Its thread ends when it is dropped, after the loops.
    let (_librarian, shelves) = files(args, lcores.len())?;
    let fixed = Arc::new(Site::fixed(&args.args.body));
    let at = IpListenEndpoint { addr: None, port: args.args.tcp_port };
    engine.stack(&lcores, 0, &stack, |core| {
        let shelf = shelves.get(usize::from(core)).cloned();
        let site = shelf.as_ref().and_then(|shelf| shelf.pop()).unwrap_or_else(|| Arc::clone(&fixed));
        service::Http::new(HttpConfig {
            at,
            listen: ListenOptions { backlog: stack.limits.half_open, tcp: stack.tcp },
            site,
            shelf,
            idle: args.args.idle_timeout,
            connections: stack.limits.flows,
        })
    });
    let session = Session { result_ports: vec![0], ..Session::of("http", RESIDENCE) };
    session.run(engine, &args.shared.output)
}

/// The thread that reads files, and where each of `loops` finds them; neither without `--root`.
fn files(args: &Http, loops: usize) -> Result<(Option<Librarian>, Vec<Shelf>), Failure> {
    let Some(root) = &args.args.root else { return Ok((None, Vec::new())) };
    let started = Librarian::start(root, args.args.root_limit, args.args.rescan, loops);
    let (librarian, shelves) = started.map_err(|error| {
        Failure::usage(format!(
            "cannot read --root {}: {error}; give a folder that this user may read",
            root.display()
        ))
    })?;
    Ok((Some(librarian), shelves))
}
