//! The kernel's end of a comparison, client side: TCP echo requests in a closed loop on one core, epoll and
//! non-blocking sockets; what `bywash load` does on our stack.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::epoll::{Epoll, IN, OUT, connect};
use crate::latency::Latency;

/// Events taken at a time.
const EVENTS: usize = 512;
/// A client without any answer for so long has lost its server.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// What the client does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Processor it runs on.
    pub core: usize,
    /// Connections at a time, each with one request under way.
    pub connections: usize,
    /// Bytes of a request, and of its answer.
    pub message_bytes: usize,
    /// A connection for each request: connect, ask, close.
    pub reconnect: bool,
    /// How long requests are made before they count.
    pub settle: Duration,
    /// How long they count.
    pub length: Duration,
}

/// What came of it; the names are those of `bywash load --json`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outcome {
    /// How long requests counted.
    pub seconds: f64,
    /// Requests answered in that time.
    pub requests: u64,
    /// The same per second.
    pub rps: f64,
    /// Request bytes sent and answer bytes received, before that time included.
    pub bytes_sent: u64,
    /// See [`Outcome::bytes_sent`].
    pub bytes_received: u64,
    /// From a request to its answer.
    pub round_trip: Latency,
    /// From the beginning of a connection to its being there.
    pub connect: Latency,
}

/// Runs the client to its end.
///
/// # Errors
/// If the system refuses something, the server is silent, or an answer is not the request.
pub fn run(plan: Plan, to: &[SocketAddrV4]) -> Result<Outcome> {
    ensure!(!to.is_empty() && plan.connections > 0 && plan.message_bytes >= 8, "nothing to do: {plan:?}");
    thread::scope(|scope| {
        let client = thread::Builder::new().name("kernel-load".to_owned()).spawn_scoped(scope, || {
            core_affinity::set_for_current(core_affinity::CoreId { id: plan.core });
            Client::new(plan, to).and_then(Client::run)
        });
        client?.join().map_err(|_| anyhow!("the client's thread panicked"))?.context("the kernel's client")
    })
}

enum State {
    /// Since when.
    Connecting(Instant),
    /// Since when the request is out, and how many bytes of the answer are there.
    Waiting(Instant, usize),
}

struct Connection {
    stream: TcpStream,
    state: State,
}

struct Client<'a> {
    plan: Plan,
    to: &'a [SocketAddrV4],
    epoll: Epoll,
    connections: Vec<Connection>,
    message: Vec<u8>,
    begun: u64,
    requests: u64,
    answered: u64,
    round_trip: Histogram<u64>,
    connect: Histogram<u64>,
}

impl<'a> Client<'a> {
    fn new(plan: Plan, to: &'a [SocketAddrV4]) -> Result<Client<'a>> {
        let message = (0..=250).cycle().take(plan.message_bytes).collect();
        let mut client = Client {
            plan,
            to,
            epoll: Epoll::new(EVENTS)?,
            connections: Vec::with_capacity(plan.connections),
            message,
            begun: 0,
            requests: 0,
            answered: 0,
            round_trip: engine::latency::histogram(),
            connect: engine::latency::histogram(),
        };
        for token in 0..plan.connections {
            let connection = client.begin(token)?;
            client.connections.push(connection);
        }
        Ok(client)
    }

    /// Begins to connect.
    fn begin(&mut self, token: usize) -> io::Result<Connection> {
        let since = Instant::now();
        // Spread over the server's addresses.
        let to = self.to[usize::try_from(self.begun).unwrap_or_default() % self.to.len()];
        self.begun += 1;
        let stream = connect(to)?;
        stream.set_nodelay(true)?;
        self.epoll.add(&stream, OUT, token)?;
        Ok(Connection { stream, state: State::Connecting(since) })
    }

    fn run(mut self) -> Result<Outcome> {
        let (mut ready, mut buffer) = (Vec::new(), vec![0; 4096.max(self.plan.message_bytes)]);
        let begin = Instant::now();
        let (mut counting_since, mut last, mut before) = (None, begin, 0);
        loop {
            self.epoll.wait(Duration::from_millis(20), &mut ready)?;
            let now = Instant::now();
            for &token in &ready {
                self.event(token, &mut buffer)?;
            }
            if !ready.is_empty() {
                last = now;
            }
            ensure!(now - last < SILENCE_LIMIT, "no answer for {SILENCE_LIMIT:?}");
            match counting_since {
                None if begin.elapsed() >= self.plan.settle => {
                    counting_since = Some(Instant::now());
                    before = self.answered;
                    self.round_trip.reset();
                    self.connect.reset();
                }
                Some(since) if since.elapsed() >= self.plan.length => {
                    return Ok(self.outcome(since.elapsed(), before));
                }
                _ => {}
            }
        }
    }

    fn event(&mut self, token: usize, buffer: &mut [u8]) -> Result<()> {
        let connection = &mut self.connections[token];
        match &mut connection.state {
            State::Connecting(since) => {
                if let Some(error) = connection.stream.take_error()? {
                    bail!("a connection failed: {error}");
                }
                let ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.connect.saturating_record(ns);
                self.epoll.modify(&connection.stream, IN, token)?;
                self.ask(token)
            }
            State::Waiting(since, have) => {
                let count = match connection.stream.read(buffer) {
                    Ok(0) => bail!("the server ended a connection"),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                let expected = self.message.get(*have..*have + count);
                ensure!(expected == Some(&buffer[..count]), "an answer is not the request");
                *have += count;
                if *have < self.message.len() {
                    return Ok(());
                }
                let ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.round_trip.saturating_record(ns);
                self.answered += 1;
                if self.plan.reconnect {
                    // Assigning drops the old stream, which closes it.
                    self.connections[token] = self.begin(token)?;
                    return Ok(());
                }
                self.ask(token)
            }
        }
    }

    /// Sends a request. Its few bytes always fit into a socket that has nothing else to send.
    fn ask(&mut self, token: usize) -> Result<()> {
        let connection = &mut self.connections[token];
        connection.state = State::Waiting(Instant::now(), 0);
        let sent = connection.stream.write(&self.message)?;
        ensure!(sent == self.message.len(), "only {sent} bytes of a request fit");
        self.requests += 1;
        Ok(())
    }

    #[allow(clippy::cast_precision_loss)] // requests of a run are far below 2^52
    fn outcome(&self, counted: Duration, before: u64) -> Outcome {
        let (requests, seconds) = (self.answered - before, counted.as_secs_f64());
        let message = self.message.len() as u64;
        let partly: usize = self.connections.iter().map(|connection| connection.state.have()).sum();
        Outcome {
            seconds,
            requests,
            rps: requests as f64 / seconds,
            bytes_sent: self.requests * message,
            bytes_received: self.answered * message + partly as u64,
            round_trip: Latency::of(&self.round_trip),
            connect: Latency::of(&self.connect),
        }
    }
}

impl State {
    fn have(&self) -> usize {
        match self {
            State::Connecting(_) => 0,
            State::Waiting(_, have) => *have,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_echo::KernelEcho;

    fn plan(connections: usize, reconnect: bool) -> Plan {
        let (settle, length) = (Duration::from_millis(20), Duration::from_millis(150));
        Plan { core: 0, connections, message_bytes: 64, reconnect, settle, length }
    }

    #[test]
    fn requests_are_answered_measured_and_counted_at_both_ends() {
        for (connections, reconnect) in [(1, false), (32, false), (4, true)] {
            let echo = KernelEcho::start(0).unwrap();
            let outcome = run(plan(connections, reconnect), echo.addresses()).unwrap();
            let echoed = echo.stop().unwrap();
            assert!(outcome.requests > 0 && outcome.rps > 0.0, "{outcome:?}");
            assert_eq!(outcome.round_trip.count, outcome.requests);
            let under_way = (connections * 64) as u64;
            assert!(outcome.bytes_received <= echoed && echoed <= outcome.bytes_sent, "{echoed} {outcome:?}");
            assert!(outcome.bytes_sent - outcome.bytes_received <= under_way, "{outcome:?}");
            assert_eq!(
                outcome.connect.count > 0,
                reconnect,
                "connections are made before the counting begins"
            );
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let std::net::SocketAddr::V4(gone) = gone else { panic!("no IPv4") };
        let error = run(plan(1, false), &[gone]).unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
    }
}
