//! `bywash ping`: ICMP echo requests and how long their answers take.

mod echoes;
mod service;

pub use service::{Event, Events, Ping, PingConfig, Target};

use std::net::IpAddr;
use std::time::Duration;

use crate::cli::flags::seconds;

/// Data bytes of a request at most: with the headers of ICMP and IPv4, the largest IP packet.
const MAX_SIZE: usize = 65_507;

/// Flags of `bywash ping`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Ping")]
pub struct PingArgs {
    /// Whom to ask: an IPv4 or IPv6 address, or a name if there is a name server (--dns, --dhcp)
    #[arg(value_name = "ADDR|NAME", value_parser = target)]
    pub target: Target,

    /// Stop after so many requests; without it when interrupted
    #[arg(short = 'c', long, value_name = "N", value_parser = crate::programs::units::scaled)]
    pub count: Option<u64>,

    /// Seconds from one request to the next, fractions allowed, at least 0.00001
    #[arg(short = 'i', long, value_name = "S", default_value = "1", value_parser = interval)]
    pub interval: Duration,

    /// Data bytes of a request, 0 to 65507; what is larger than the MTU leaves in fragments
    #[arg(short = 's', long, value_name = "BYTES", default_value = "56", value_parser = size)]
    pub size: usize,

    /// How long to wait for the last answers, and for an address of our own at the start tenfold
    #[arg(short = 'W', long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub wait: Duration,
}

/// What follows the flags in `bywash ping --help`.
pub const EXAMPLES: &str = "\
A line for each answer, then losses and the distribution of round trips. The time is that of the loop: from the turn \
in which the request left to the turn in which the answer came.

Examples:
  Is the other side of a port there:
      bywash ping 10.0.0.2 --port vhost-user:/tmp/x.sock --ip 10.0.0.1/24 -c 3
  1000 requests a second for ten seconds, only the figures:
      bywash ping 10.0.0.2 --port tap:bw0 --ip 10.0.0.1/24 -i 0.001 -c 10k --quiet
  By name, with everything from DHCP, as one JSON object:
      bywash ping example.org --port vfio:0000:00:03.0 --dhcp -c 5 --json | jq .latency_ns.round_trip

Exit code 1 also when no answer came.";

fn target(text: &str) -> Result<Target, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => {
            let address = stack::IpAddress::from(address);
            if address.is_unicast() {
                Ok(Target::Address(address))
            } else {
                Err(format!("{text} is no address that one host can have"))
            }
        }
        Err(_) if text.is_empty() => Err("give an address or a name".to_string()),
        Err(_) => Ok(Target::Name(text.into())),
    }
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ ..=MAX_SIZE) => Ok(size),
        _ => Err(format!("use 0 to {MAX_SIZE}")),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.000_01..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("use a number of seconds such as 1 or 0.001, at least 0.00001".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: PingArgs,
    }

    fn parse(line: &str) -> Result<PingArgs, String> {
        let words = ["ping"].into_iter().chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flags_are_those_of_ping() {
        let args = parse("10.0.0.2 -c 10k -i 0.001 -s 1400 -W 0.5").unwrap();
        assert_eq!(args.target, Target::Address(stack::IpAddress::v4(10, 0, 0, 2)));
        assert_eq!((args.count, args.size), (Some(10_000), 1_400));
        assert_eq!((args.interval, args.wait), (Duration::from_millis(1), Duration::from_millis(500)));
        assert_eq!(parse("www.example").unwrap().target, Target::Name("www.example".into()));
        assert!(matches!(parse("fe80::1").unwrap().target, Target::Address(_)));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (line, words) in [
            ("", "<ADDR|NAME>"),
            ("224.0.0.1", "no address that one host can have"),
            ("10.0.0.2 -s 65508", "use 0 to 65507"),
            ("10.0.0.2 -i 0", "at least 0.00001"),
            ("10.0.0.2 -c 0", "positive"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
