//! `bywash resolve`: questions to DNS servers, and their answers.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use engine::config::Config;
use serde::Serialize;
use stack::{RecordKind, ResolveError};

use super::stack_lcores;
use crate::cli::{Failure, Resolve, Settings};
use crate::programs::resolve::{self, Answer};
use crate::session::{print, watch_signals};

/// How often it looks for answers.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(super) fn run(args: &Resolve, file: Config) -> Result<ExitCode, Failure> {
    let settings = Settings::new(&args.engine, &args.ports.ports, file).with_ports("resolve")?;
    let stack = args.stack.settings("resolve")?;
    if stack.dns.is_empty() && !stack.dhcp {
        return Err(Failure::usage("resolve has no name server; give --dns ADDR, or --dhcp to learn one"));
    }
    let (mut engine, mut cpus) = settings.host_engine();
    cpus.truncate(1);
    let lcores = stack_lcores("resolve", &mut engine, &settings, &args.stack, &cpus)?;
    let names = &args.args.names;
    let answers = resolve::answers(names.len());
    engine.stack(&lcores, 0, &stack, |_| resolve::Resolve::new(names.clone(), Arc::clone(&answers)));
    let interrupted = watch_signals().map_err(Failure::run)?;

    let begin = Instant::now();
    let running = engine.start().map_err(Failure::run)?;
    // ORDERING: Relaxed. The handler hands nothing over but the flag.
    while !running.is_done()
        && begin.elapsed() < args.args.wait
        && !interrupted.load(std::sync::atomic::Ordering::Relaxed)
    {
        thread::sleep(LOOK_EVERY);
    }
    let stopped = running.stop();
    let seconds = begin.elapsed().as_secs_f64();
    let mut found: Vec<Found<'_>> = names.iter().map(|name| Found::new(name)).collect();
    while let Some(answer) = answers.pop() {
        found[answer.name].add(answer);
    }
    found.iter_mut().for_each(Found::conclude);
    let errors = found.iter().filter(|found| found.error.is_some()).count();
    if args.args.json {
        let text = serde_json::to_string(&Run { program: "resolve", seconds, errors, names: &found });
        print(&(text.map_err(Failure::run)? + "\n"));
    } else {
        print(&text(&found));
        for found in &found {
            if let Some(error) = &found.error {
                eprintln!("{}: {error}", found.name);
            }
        }
    }
    stopped.map_err(Failure::run)?;
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Serialize)]
struct Run<'a> {
    program: &'a str,
    seconds: f64,
    errors: usize,
    names: &'a [Found<'a>],
}

/// What is known of a name.
#[derive(Debug, Serialize)]
struct Found<'a> {
    name: &'a str,
    a: Vec<String>,
    aaaa: Vec<String>,
    /// Why there is no address at all.
    error: Option<String>,
    #[serde(skip)]
    reasons: Vec<ResolveError>,
}

impl<'a> Found<'a> {
    fn new(name: &'a str) -> Found<'a> {
        Found { name, a: Vec::new(), aaaa: Vec::new(), error: None, reasons: Vec::new() }
    }

    fn add(&mut self, answer: Answer) {
        let texts = match answer.addresses {
            Ok(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Err(error) => return self.reasons.push(error),
        };
        match answer.kind {
            RecordKind::A => self.a = texts,
            RecordKind::Aaaa => self.aaaa = texts,
        }
    }

    /// A name with an address of either kind is resolved. Of two reasons why there is none, the one that says more.
    fn conclude(&mut self) {
        if self.a.is_empty() && self.aaaa.is_empty() {
            let telling = self.reasons.iter().find(|reason| **reason != ResolveError::NoAddress);
            let reason = telling.or(self.reasons.first());
            self.error = Some(reason.map_or_else(
                || "no answer in time; no address of our own came, or no DNS server answered".to_string(),
                ToString::to_string,
            ));
        }
    }
}

/// A line for each address.
fn text(found: &[Found<'_>]) -> String {
    let mut text = String::new();
    for found in found {
        for address in found.a.iter().chain(&found.aaaa) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{} {address}", found.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrayvec::ArrayVec;
    use stack::IpAddress;

    fn answer(kind: RecordKind, addresses: Result<&[IpAddress], ResolveError>) -> Answer {
        let addresses = addresses.map(|addresses| addresses.iter().copied().collect::<ArrayVec<_, 16>>());
        Answer { name: 0, kind, addresses }
    }

    #[test]
    fn one_kind_of_address_is_enough() {
        let mut found = Found::new("a.example");
        found.add(answer(RecordKind::Aaaa, Err(ResolveError::NoAddress)));
        found.add(answer(RecordKind::A, Ok(&[IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)])));
        found.conclude();
        assert_eq!(found.error, None);
        assert_eq!(text(&[found]), "a.example 10.0.0.1\na.example 10.0.0.2\n");
    }

    #[test]
    fn the_reason_that_says_most_is_given() {
        for (reasons, words) in [
            (vec![ResolveError::NoAddress, ResolveError::TimedOut], "no DNS server answered"),
            (vec![ResolveError::NoSuchName, ResolveError::NoSuchName], "no such name"),
            (vec![ResolveError::NoAddress, ResolveError::NoAddress], "no address of this kind"),
            (vec![], "no answer in time"),
        ] {
            let mut found = Found::new("a.example");
            reasons.iter().for_each(|reason| found.add(answer(RecordKind::A, Err(*reason))));
            found.conclude();
            assert!(found.error.as_ref().is_some_and(|error| error.contains(words)), "{found:?}");
        }
    }
}
