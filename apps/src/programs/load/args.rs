//! Flags of `bywash load`, and what they mean once checked.

use std::time::Duration;

use stack::{IpAddress, TcpOptions};

use super::target::{Host, Target};
use crate::programs::units;

/// Most connections of a run: what the ports of one address can tell apart.
pub const MAX_CONNECTIONS: usize = 1 << 20;
/// Most requests of a connection that may be unanswered.
const MAX_PIPELINE: usize = 1 << 16;
/// Most bytes of a request.
const MAX_BYTES: usize = 1 << 30;
/// Bytes of a UDP request: its number takes four, and a datagram holds no more (RFC 768 over RFC 791).
const UDP_BYTES: std::ops::RangeInclusive<usize> = 4..=65_507;

/// What is spoken to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Bytes over TCP that come back (RFC 862)
    #[default]
    Tcp,
    /// Datagrams that come back (RFC 862)
    Udp,
    /// GET requests of HTTP/1.1
    Http,
}

/// Flags of `bywash load`.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// The server: ADDR:PORT (an IPv6 address in brackets) or NAME:PORT; without port 7, or 80 for http
    #[arg(long, value_name = "TARGET", value_parser = Target::parse, required_unless_present = "config")]
    pub to: Option<Target>,

    /// What is spoken
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    pub protocol: Protocol,

    /// Connections (of udp: sockets), dealt among the cores
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = connections)]
    pub connections: usize,

    /// Make requests on so many of the connections only; the others are open and silent
    #[arg(long, value_name = "N", value_parser = connections, conflicts_with_all = ["rate", "reconnect"])]
    pub active: Option<usize>,

    /// Make no request before all connections are open
    #[arg(long, conflicts_with_all = ["rate", "reconnect"])]
    pub together: bool,

    /// Bytes of each request and answer of tcp and udp [default: 64]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub size: Option<usize>,

    /// What is asked for over http
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path)]
    pub path: String,

    /// Requests that each connection has under way: the next is made when one is answered
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = pipeline, conflicts_with = "rate")]
    pub pipeline: usize,

    /// Requests a second in all, such as 500k, made on time whether or not earlier ones are answered; round trips
    /// count from when a request was due [default: as fast as answers come]
    #[arg(long, value_name = "RPS", value_parser = units::scaled)]
    pub rate: Option<u64>,

    /// A connection for each request: connect, ask, close
    #[arg(long, conflicts_with = "pipeline")]
    pub reconnect: bool,

    /// Open the connections one after another over so many seconds
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "0")]
    pub ramp_up: Duration,

    /// Do not count requests of so many seconds after the first connection; they come on top of --seconds
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "0")]
    pub warm_up: Duration,

    /// Requests to make in all, such as 10M; without it until --seconds or an interrupt
    #[arg(long, value_name = "N", value_parser = units::scaled)]
    pub requests: Option<u64>,

    /// How long a handshake, or an answer over udp, may take; and how long a connection may be silent while
    /// something is unacknowledged
    #[arg(long, value_name = "S", value_parser = crate::cli::flags::seconds, default_value = "5")]
    pub timeout: Duration,

    /// How long to wait for the last answers, in milliseconds; what is not there by then is lost
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub drain_ms: u64,
}

/// What follows the flags in `bywash load --help`.
pub const EXAMPLES: &str = "\
Over tcp and udp the bytes of each connection are a pattern of its own, and whatever comes back is checked against it;
over http status and length are. `errors` are wrong answers and failed connections, `lost` are requests without an
answer. With --rate a request that could not leave within 100 µs of its time is counted as sent_late, and its round
trip counts from its time all the same: a stalled server does not hide behind requests that were never made. From one
address 49,152 connections lead to one server; with several --ip they are dealt among the addresses.

Examples:
  64 connections as fast as answers come, a server on the other end of a vhost-user socket:
      bywash load --port vhost-user:/tmp/x.sock --ip 10.0.0.1/24 --to 10.0.0.2:7 --connections 64 --seconds 10
  500,000 requests a second on time, the latencies of every second in a log:
      bywash load --port vhost-user:/tmp/x.sock --ip 10.0.0.1/24 --to 10.0.0.2 --connections 64 --rate 500k \\
          --seconds 60 --hlog load.hlog
  Datagrams of 1 KiB over IPv6; a connection for each request:
      bywash load --port tap:bw0 --ip fd00::1/64 --to [fd00::2]:7 --protocol udp --size 1K --seconds 5
      bywash load --port tap:bw0 --ip 10.0.0.1/24 --to 10.0.0.2:7 --reconnect --connections 16 --seconds 5
  A web server by its name, after two seconds of warm-up:
      bywash load --port tap:bw0 --dhcp --to www.example:80 --protocol http --path /index.html --connections 100 \\
          --warm-up 2 --seconds 10 --json";

/// What to ask for, checked as far as it can be without a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadConfig {
    /// Which host.
    pub host: Host,
    /// Which port there.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// What is asked for over http.
    pub path: String,
    /// Connections of all cores.
    pub connections: usize,
    /// How many of them make requests, if not all; TCP in the closed loop only.
    pub active: Option<usize>,
    /// No request before all connections are open; TCP in the closed loop only.
    pub together: bool,
    /// Bytes of a request of tcp and udp.
    pub size: usize,
    /// Closed loop: requests under way on each connection.
    pub pipeline: usize,
    /// Open loop: requests a second of all cores.
    pub rate: Option<u64>,
    /// A connection for each request.
    pub reconnect: bool,
    /// From the first connection to the last.
    pub ramp_up: Duration,
    /// How long requests do not count.
    pub warm_up: Duration,
    /// Requests of all cores, if limited.
    pub requests: Option<u64>,
    /// Longest handshake; longest wait for a datagram.
    pub timeout: Duration,
    /// Longest wait for the last answers.
    pub drain: Duration,
    /// Options of the connections.
    pub tcp: TcpOptions,
}

impl Default for LoadConfig {
    /// 64 bytes on one connection to 10.0.0.2:7, again and again.
    fn default() -> Self {
        LoadConfig {
            host: Host::Address(IpAddress::v4(10, 0, 0, 2)),
            port: 7,
            protocol: Protocol::Tcp,
            path: "/".to_string(),
            connections: 1,
            active: None,
            together: false,
            size: DEFAULT_BYTES,
            pipeline: 1,
            rate: None,
            reconnect: false,
            ramp_up: Duration::ZERO,
            warm_up: Duration::ZERO,
            requests: None,
            timeout: Duration::from_secs(5),
            drain: Duration::from_millis(500),
            tcp: TcpOptions::default(),
        }
    }
}

/// Bytes of a request if nothing is said.
const DEFAULT_BYTES: usize = 64;

impl LoadArgs {
    /// The flags as one value; `tcp` are the options of connections.
    ///
    /// # Errors
    /// A sentence: no target, or flags that do not go together.
    pub fn config(&self, tcp: TcpOptions) -> Result<LoadConfig, String> {
        let Some(Target { host, port }) = self.to.clone() else {
            return Err("load has no target; give --to ADDR:PORT, such as --to 10.0.0.2:7".to_string());
        };
        let http = self.protocol == Protocol::Http;
        if http && self.size.is_some() {
            return Err("--size is for tcp and udp; over http the server decides, by --path".to_string());
        }
        if !http && self.path != "/" {
            return Err("--path is for --protocol http".to_string());
        }
        let size = self.size.unwrap_or(DEFAULT_BYTES);
        if self.protocol == Protocol::Udp {
            if !UDP_BYTES.contains(&size) {
                let (least, most) = (UDP_BYTES.start(), UDP_BYTES.end());
                return Err(format!("--size {size} does not fit a datagram; use {least} to {most}"));
            }
            if self.active.is_some() {
                return Err(
                    "--active is for tcp and http; udp has no connections to be silent on".to_string()
                );
            }
            if self.together {
                return Err("--together is for tcp and http; udp has no connections to open".to_string());
            }
            if self.reconnect {
                return Err("--reconnect is for tcp and http; udp has no connections".to_string());
            }
        }
        let timeout = self.timeout;
        Ok(LoadConfig {
            host,
            port: port.unwrap_or(if http { 80 } else { 7 }),
            protocol: self.protocol,
            path: self.path.clone(),
            connections: self.connections,
            active: self.active,
            together: self.together,
            size,
            pipeline: self.pipeline,
            rate: self.rate,
            reconnect: self.reconnect,
            ramp_up: self.ramp_up,
            warm_up: self.warm_up,
            requests: self.requests,
            timeout,
            drain: Duration::from_millis(self.drain_ms),
            tcp: TcpOptions { timeout: Some(timeout), ..tcp },
        })
    }
}

/// Seconds from none to an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("use a number of seconds such as 2 or 0.5, at most 3600".to_string()),
    }
}

/// Reads a number of connections.
///
/// # Errors
/// A sentence for clap.
pub fn connections(text: &str) -> Result<usize, String> {
    within(text, MAX_CONNECTIONS, "connections")
}

fn pipeline(text: &str) -> Result<usize, String> {
    within(text, MAX_PIPELINE, "requests")
}

fn within(text: &str, most: usize, what: &str) -> Result<usize, String> {
    match units::scaled(text).map(usize::try_from) {
        Ok(Ok(number)) if number <= most => Ok(number),
        _ => Err(format!("give 1 to {most} {what}")),
    }
}

fn size(text: &str) -> Result<usize, String> {
    match units::bytes(text) {
        Ok(0) => Err("a request has at least one byte".to_string()),
        Ok(bytes) if bytes <= MAX_BYTES => Ok(bytes),
        Ok(_) => Err(format!("a request has at most {} MiB", MAX_BYTES >> 20)),
        Err(advice) => Err(advice),
    }
}

/// RFC 9112 §3.2.1: the request line has no room for blanks and controls.
fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_string())
    } else {
        Err("a path begins with / and has no blanks; write %20 for one".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: LoadArgs,
        #[arg(long)]
        config: Option<String>,
    }

    fn parse(line: &str) -> Result<LoadConfig, String> {
        let line = ["load"].into_iter().chain(line.split_whitespace());
        let command = Command::try_parse_from(line).map_err(|error| error.to_string())?;
        command.args.config(TcpOptions::default())
    }

    #[test]
    fn with_a_target_alone_it_is_the_default() {
        let tcp = TcpOptions { timeout: Some(Duration::from_secs(5)), ..TcpOptions::default() };
        assert_eq!(parse("--to 10.0.0.2"), Ok(LoadConfig { tcp, ..LoadConfig::default() }));
        assert_eq!(parse("--to 10.0.0.2 --protocol http").unwrap().port, 80);
        assert_eq!(parse("--to 10.0.0.2:9 --protocol http").unwrap().port, 9);
        assert_eq!(parse("--to x.example --size 1K --rate 1.5M").unwrap().rate, Some(1_500_000));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, words) in [
            ("", "--to"),
            ("--config x", "load has no target"),
            ("--to 10.0.0.2:x", "no number from 1 to 65535"),
            ("--to 10.0.0.2 --rate 1k --pipeline 2", "cannot be used with"),
            ("--to 10.0.0.2 --reconnect --pipeline 2", "cannot be used with"),
            ("--to 10.0.0.2 --reconnect --protocol udp", "udp has no connections"),
            ("--to 10.0.0.2 --active 5 --protocol udp", "udp has no connections"),
            ("--to 10.0.0.2 --together --protocol udp", "udp has no connections"),
            ("--to 10.0.0.2 --together --rate 1k", "cannot be used with"),
            ("--to 10.0.0.2 --protocol http --size 9", "--size is for tcp and udp"),
            ("--to 10.0.0.2 --path /x", "--path is for --protocol http"),
            ("--to 10.0.0.2 --protocol http --path x", "begins with /"),
            ("--to 10.0.0.2 --protocol udp --size 3", "use 4 to 65507"),
            ("--to 10.0.0.2 --protocol udp --size 64K", "use 4 to 65507"),
            ("--to 10.0.0.2 --size 0", "at least one byte"),
            ("--to 10.0.0.2 --size 2000M", "at most 1024 MiB"),
            ("--to 10.0.0.2 --connections 0", "give 1 to 1048576 connections"),
            ("--to 10.0.0.2 --connections 2M", "give 1 to 1048576 connections"),
            ("--to 10.0.0.2 --pipeline 65537", "give 1 to 65536 requests"),
            ("--to 10.0.0.2 --ramp-up=-1", "at most 3600"),
            ("--to 10.0.0.2 --warm-up 3601", "at most 3600"),
            ("--to 10.0.0.2 --timeout 0", "at least 0.001"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
