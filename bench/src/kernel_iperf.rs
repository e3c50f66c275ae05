//! The kernel's end of a comparison, one stream: iperf3 over loopback, a core for each side.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use peers::process::Process;
use serde_json::Value;

/// What one stream came to.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Bits that the receiver got, by its own time.
    pub bits_per_second: f64,
    /// Bytes that left the sender.
    pub sent: u64,
    /// Bytes that the receiver got.
    pub received: u64,
}

/// A server and its client, both at work; [`Iperf::finish`] waits for the result.
pub struct Iperf {
    server: Process,
    client: Process,
    limit: Duration,
}

impl Iperf {
    /// Starts a stream of `length` (whole seconds, rounded up) from a client on `client_core` to a server on
    /// `server_core`.
    ///
    /// # Errors
    /// If iperf3 is not installed (`apt-get install iperf3`) or its server does not listen.
    pub fn start(server_core: usize, client_core: usize, length: Duration) -> Result<Iperf> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let core = |core: usize| ["-A".to_owned(), core.to_string()];
        let mut command = Command::new("iperf3");
        command.args(["-s", "-1", "-B", "127.0.0.1", "-p", &port, "--forceflush"]).args(core(server_core));
        let mut server = Process::start("iperf3 -s (apt-get install iperf3)", &mut command)?;
        server.wait_for(0, "listening on", Duration::from_secs(10))?;
        let seconds = length.as_secs_f64().ceil().max(1.0).to_string();
        let mut command = Command::new("iperf3");
        command.args(["-c", "127.0.0.1", "-p", &port, "-t", &seconds, "--json"]).args(core(client_core));
        let client = Process::start("iperf3 -c", &mut command)?;
        Ok(Iperf { server, client, limit: length + Duration::from_secs(20) })
    }

    /// Process ids of both.
    pub fn pids(&self) -> [u32; 2] {
        [self.server.pid(), self.client.pid()]
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If the client fails or does not say what it measured.
    pub fn finish(self) -> Result<Stream> {
        let told = self.client.finish(self.limit)?;
        ensure!(told.status.success(), "iperf3: {} {}", told.stdout, told.stderr);
        drop(self.server);
        read(&told.stdout)
    }
}

fn read(text: &str) -> Result<Stream> {
    let report: Value = serde_json::from_str(text).context("iperf3's report")?;
    let end = |what: &str| report.pointer(&format!("/end/{what}"));
    let (Some(rate), Some(sent), Some(received)) = (
        end("sum_received/bits_per_second").and_then(Value::as_f64),
        end("sum_sent/bytes").and_then(Value::as_u64),
        end("sum_received/bytes").and_then(Value::as_u64),
    ) else {
        bail!("iperf3's report lacks its sums: {text}");
    };
    Ok(Stream { bits_per_second: rate, sent, received })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_report_is_read_or_refused() {
        let text =
            r#"{"end": {"sum_sent": {"bytes": 12}, "sum_received": {"bytes": 10, "bits_per_second": 8.5}}}"#;
        let stream = read(text).unwrap();
        assert_eq!((stream.sent, stream.received), (12, 10));
        assert!((stream.bits_per_second - 8.5).abs() < 1e-9);
        assert!(read(r#"{"error": "unable to connect"}"#).is_err());
    }
}
