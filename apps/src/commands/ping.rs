//! `bywash ping`: echo requests on one port, each answer printed when it comes.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use engine::config::Config;
use engine::latency::ROUND_TRIP;
use stack::Unreachable;

use super::stack_lcores;
use crate::cli::{Failure, Ping};
use crate::output::{Summary, units};
use crate::programs::ping::{self, Event, Events, PingConfig, Target};
use crate::session::{Live, Session};

/// Events that may wait to be printed: those of 20 ms at the highest rate.
const EVENTS: usize = 4096;

pub(super) fn run(args: &Ping, file: Config) -> Result<ExitCode, Failure> {
    let settings = args.shared.settings("ping", file)?;
    let stack = args.stack.settings("ping")?;
    let (mut engine, mut cpus) = settings.host_engine();
    if cpus.len() > 1 {
        log::warn!("ping runs on one core, the first of the {} given", cpus.len());
        cpus.truncate(1);
    }
    let lcores = stack_lcores("ping", &mut engine, &settings, &args.stack, &cpus)?;
    let flags = &args.args;
    let config = PingConfig {
        target: flags.target.clone(),
        count: flags.count,
        interval: flags.interval,
        size: flags.size,
        wait: flags.wait,
        // The low half of the process id, as ping(8) does.
        ident: (std::process::id() & 0xffff) as u16,
    };
    let events: Events = Arc::new(ArrayQueue::new(EVENTS));
    engine.stack(&lcores, 0, &stack, |_| ping::Ping::new(config.clone(), Arc::clone(&events)));
    let session = Session {
        result_ports: vec![0],
        ends_itself: true,
        drain: flags.wait,
        verdict: Some(verdict),
        ..Session::of("ping", ROUND_TRIP)
    };
    let mut lines = Lines { events, target: flags.target.clone(), size: flags.size };
    session.run_live(engine, &args.shared.output, &mut lines)
}

/// Nothing came back: that is what exit code 1 is for.
fn verdict(summary: &Summary) -> Option<String> {
    if summary.counted("received") > 0 {
        return None;
    }
    let reason = match summary.counted("sent") {
        0 => "no request could be sent",
        _ => "no answer came; is the other end up, and are --ip and --gateway right?",
    };
    Some(reason.to_string())
}

/// What is printed while requests leave.
struct Lines {
    events: Events,
    target: Target,
    size: usize,
}

impl Live for Lines {
    fn lines(&mut self, text: &mut String) {
        while let Some(event) = self.events.pop() {
            self.line(event, text);
        }
    }

    fn report(&mut self, summary: &Summary) -> Option<String> {
        let counted = |name: &str| summary.counted(name);
        let (sent, received) = (counted("sent"), counted("received"));
        let mut text = format!("--- {} ping statistics ---\n", self.name());
        let _ = write!(text, "{sent} packets transmitted, {received} received");
        for (name, what) in [
            ("duplicated", "duplicates"),
            ("corrupted", "corrupted"),
            ("unreachable", "unreachable"),
            ("errors", "errors"),
        ] {
            let count = counted(name);
            if count > 0 {
                let _ = write!(text, ", +{count} {what}");
            }
        }
        let lost = units::percent(sent.saturating_sub(received), sent);
        let _ = writeln!(text, ", {lost} packet loss, time {:.0} ms", summary.seconds() * 1e3);
        Some(text)
    }
}

impl Lines {
    fn name(&self) -> String {
        match &self.target {
            Target::Address(address) => address.to_string(),
            Target::Name(name) => name.to_string(),
        }
    }

    fn line(&self, event: Event, text: &mut String) {
        // Writing to a String does not fail.
        let _ = match event {
            Event::Begins(to) => writeln!(text, "PING {} ({to}): {} data bytes", self.name(), self.size),
            Event::Answer { from, seq, bytes, ns, is_corrupted } => {
                let wrong = if is_corrupted { " (not the bytes that were sent)" } else { "" };
                let time = ns.map_or_else(|| "DUP!".to_string(), |ns| format!("time={}", units::time_ns(ns)));
                // With the 8 bytes of the ICMP header, as ping(8) counts them.
                writeln!(text, "{} bytes from {from}: icmp_seq={seq} {time}{wrong}", bytes + 8)
            }
            Event::Failed { seq, why } => writeln!(text, "icmp_seq={seq} {}", words(why)),
            Event::NotSent(error) => writeln!(text, "not sent: {error}"),
            Event::NotResolved(error) => writeln!(text, "{}: {error}", self.name()),
            Event::NotConfigured => {
                writeln!(text, "no address of our own came; is there a DHCP server or a router?")
            }
        };
    }
}

/// What ping(8) says of an ICMP error.
fn words(why: Unreachable) -> &'static str {
    match why {
        Unreachable::Network => "Destination Net Unreachable",
        Unreachable::Host => "Destination Host Unreachable",
        Unreachable::Protocol => "Destination Protocol Unreachable",
        Unreachable::Port => "Destination Port Unreachable",
        Unreachable::Prohibited => "Communication administratively prohibited",
        Unreachable::TimeExceeded => "Time to live exceeded",
        Unreachable::Other => "Destination unreachable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stack::IpAddress;

    #[test]
    fn answers_read_as_those_of_ping_do() {
        let events: Events = Arc::new(ArrayQueue::new(8));
        let to = IpAddress::v4(10, 0, 0, 2);
        let mut lines =
            Lines { events: Arc::clone(&events), target: Target::Name("a.example".into()), size: 56 };
        for event in [
            Event::Begins(to),
            Event::Answer { from: to, seq: 1, bytes: 56, ns: Some(1_844), is_corrupted: false },
            Event::Answer { from: to, seq: 1, bytes: 55, ns: None, is_corrupted: true },
        ] {
            events.push(event).unwrap();
        }
        let mut text = String::new();
        lines.lines(&mut text);
        let expected = "PING a.example (10.0.0.2): 56 data bytes\n\
                        64 bytes from 10.0.0.2: icmp_seq=1 time=1.84 µs\n\
                        63 bytes from 10.0.0.2: icmp_seq=1 DUP! (not the bytes that were sent)\n";
        assert_eq!(text, expected);
    }
}
