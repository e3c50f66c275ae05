//! Two of our processes on a core each, joined by a vhost-user socket: a server (`echo`, `http`) and `load`. One is the
//! device, which copies the frames of both directions, the other the driver.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use peers::bywash::{Bywash, Report};

use crate::comparison::{Counted, Round};
use crate::forwarder::{DESCRIPTORS, STOP_LIMIT};
use crate::latency::Latency;
use crate::pace::Pace;
use crate::quiet::Watch;

/// The core of servers, ours and the kernel's.
pub const SERVER_CORE: usize = 0;
/// The core of clients.
pub const CLIENT_CORE: usize = 1;
/// The server's address.
pub const SERVER: &str = "10.99.0.2";
/// How long the client may take beyond its time: it opens its connections first.
const CLIENT_LIMIT: Duration = Duration::from_secs(120);

/// The fault of a driver whose device has ended.
const GONE: &str = "the device is gone";

/// What the two said.
pub struct Reports {
    /// The server.
    pub server: Report,
    /// `load`.
    pub client: Report,
    /// Share of all processor time that went to other programs meanwhile.
    pub others_share: f64,
}

/// Who is the device of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Server,
    Client,
}

/// Runs `bywash <server>`, the device, and `bywash load <client>` for the length of a round, stops both.
///
/// # Errors
/// If one of them fails, or counts an error or a lost request.
pub fn run(pace: &Pace, socket: &Path, server: &[&str], client: &[&str]) -> Result<Reports> {
    run_with(pace, socket, Device::Server, "", server, client)
}

/// The same, with a choice of the device, and options of the driver's port, such as `,csum=off`.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    pace: &Pace,
    socket: &Path,
    device: Device,
    options: &str,
    server: &[&str],
    client: &[&str],
) -> Result<Reports> {
    let warm_up = pace.settle();
    let port = |own: Device| match own == device {
        true => format!("vhost-user-server:{}", socket.display()),
        false => format!("vhost-user:{}{options}", socket.display()),
    };
    let both = |core: usize, address: &str| {
        let (core, descriptors) = (core.to_string(), DESCRIPTORS.to_string());
        let flags = [
            "--cores",
            &core,
            "--rxd",
            &descriptors,
            "--txd",
            &descriptors,
            "--json",
            "--quiet",
            "--ip",
            address,
        ];
        flags.map(str::to_owned)
    };
    let start_server = || {
        let mut args: Vec<String> = server.iter().map(|&word| word.to_owned()).collect();
        args.extend(["--port".to_owned(), port(Device::Server)]);
        args.extend(both(SERVER_CORE, &format!("{SERVER}/24")));
        Bywash::start(&args)
    };
    let start_client = || {
        let mut args = vec!["load".to_owned(), "--port".to_owned(), port(Device::Client)];
        args.extend(both(CLIENT_CORE, "10.99.0.1/24"));
        args.extend(["--seconds".to_owned(), pace.seconds.to_string()]);
        args.extend(["--warm-up".to_owned(), warm_up.as_secs_f64().to_string()]);
        args.extend(client.iter().map(|&word| word.to_owned()));
        Bywash::start(&args)
    };
    // The driver finds the device's socket.
    let (mut server, mut client) = match device {
        Device::Server => {
            let mut server = start_server()?;
            wait_for_socket(&mut server, socket)?;
            (server, start_client()?)
        }
        Device::Client => {
            let mut client = start_client()?;
            wait_for_socket(&mut client, socket)?;
            (start_server()?, client)
        }
    };
    std::thread::sleep(warm_up);
    let watch = Watch::start(&[server.process().pid(), client.process().pid()])?;
    std::thread::sleep(pace.round());
    // The client may be about to end, the server is not.
    let others_share = watch.others_share().unwrap_or(1.0);
    let client = client.report(warm_up + pace.round() + CLIENT_LIMIT).context("the client")?;
    server.interrupt();
    let server = server.report(STOP_LIMIT).context("the server")?;
    // A driver counts that its device has ended, which the client does first.
    let gone = u64::from(device == Device::Client && server.value()["ports"][0]["fault"] == GONE);
    for (who, report, expected) in [("server", &server, gone), ("client", &client, 0)] {
        let (errors, lost) = (report.count("/errors")?, report.count("/lost")?);
        ensure!(
            errors == expected && lost == 0,
            "the {who} counted {errors} errors, {lost} lost: {}",
            report.value()
        );
    }
    Ok(Reports { server, client, others_share })
}

impl Reports {
    /// A round whose rate is that of requests, and whose latency is that from request to answer.
    ///
    /// # Errors
    /// If a figure is missing.
    pub fn round(&self) -> Result<Round> {
        Ok(Round {
            rate: self.client.number("/rps")?,
            cycles_per_packet: None,
            others_share: self.others_share,
            counted: self.counted()?,
            latency: Some(Latency::read(&self.client, "round_trip")?),
        })
    }

    /// Frames of the client's at both ends; what lay in the ring when it reset its device is in neither's report.
    ///
    /// # Errors
    /// If a figure is missing.
    pub fn counted(&self) -> Result<Counted> {
        let sent = self.client.count("/ports/0/tx_packets")?;
        let received = self.server.count("/ports/0/rx_packets")?;
        Ok(Counted { sent, received, slack: u64::from(DESCRIPTORS) })
    }
}

/// Waits until `device` listens.
fn wait_for_socket(device: &mut Bywash, socket: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        let process = device.process();
        let is_alive = process.is_running() && Instant::now() < deadline;
        ensure!(is_alive, "the device does not listen: {}", process.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
