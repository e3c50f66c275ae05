//! `compare-stream`: one TCP stream, ours at an MTU of 1500 with and without offloads, against the kernel's iperf3 over
//! loopback.

use anyhow::Result;
use peers::precedence::Precedence;
use peers::testpmd::Host;

use crate::comparison::{Comparison, Contender, Counted, Round, Unit};
use crate::kernel_iperf::Iperf;
use crate::our_pair::{self, CLIENT_CORE, Device, SERVER_CORE};
use crate::outcome::About;
use crate::pace::Pace;
use crate::quiet::Watch;

/// What it measures.
pub const ABOUT: About = About { what: "compare-stream", how: HOW };

const HOW: &str = "One TCP stream in one direction; sender and receiver have a core each. Ours: `bywash http` sends a \
    file of 4 MiB again and again on one connection, two requests under way, to `bywash load`, over a vhost-user \
    socket with an MTU of 1500; with checksums in software and every segment on its own, and with the device's \
    checksum and segmentation offloads (CSUM, GUEST_CSUM, HOST_TSO4, GUEST_TSO4), once with the sender as the driver \
    and the receiver as the device, which copies what comes out of the driver's memory, and once the other way round: \
    the sender copies into the receiver's buffers of 2 KiB. The rate is that of files' bytes. The kernel's: iperf3 over \
    loopback, whose segments are of 64 KiB and whose checksums are never computed.";

/// Bytes of the file.
const FILE_BYTES: u32 = 4 << 20;
/// What stands for the file on the command line and on disk.
const FILE: &str = "stream";
/// The rate that is asked for.
const TARGET: f64 = 1.0;
/// With offloads.
const OFFLOAD_TARGET: f64 = 2.0;
/// Options of the driver's port that leave everything to software.
const NO_OFFLOADS: &str = ",csum=off,guest_csum=off";

/// Runs it.
pub fn run(pace: &Pace) -> Result<Comparison> {
    peers::bywash::binary()?;
    let _precedence = Precedence::take();
    let host = Host::new(256)?;
    let socket = host.socket("stream");
    let root = socket.with_extension("root");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join(FILE), vec![b'b'; FILE_BYTES as usize])?;
    let contenders = vec![
        Contender::new("kernel, iperf3", true),
        Contender::new("bywash, MTU 1500", false),
        Contender::new("bywash, checksum offload and TSO", false).with_target(OFFLOAD_TARGET),
        Contender::new("the same, the sender is the device", false),
    ];
    let to = format!("{}:80", our_pair::SERVER);
    let (path, folder) = (format!("/{FILE}"), root.display().to_string());
    let client = ["--protocol", "http", "--path", &path, "--to", &to, "--pipeline", "2", "--rx-buffer", "1M"];
    let server = ["http", "--root", &folder, "--tx-buffer", "1M"];
    let comparison = Comparison::run_in(Unit::Bits, contenders, Some(TARGET), pace, |index| match index {
        0 => theirs(pace),
        _ => {
            let options = if index == 1 { NO_OFFLOADS } else { "" };
            let device = if index == 2 { Device::Client } else { Device::Server };
            let reports = our_pair::run_with(pace, &socket, device, options, &server, &client)?;
            let round = reports.round()?;
            // Of a whole file nothing can be said about the bytes' own latency.
            Ok(Round { rate: round.rate * f64::from(FILE_BYTES) * 8.0, latency: None, ..round })
        }
    });
    std::fs::remove_dir_all(&root)?;
    comparison
}

fn theirs(pace: &Pace) -> Result<Round> {
    let iperf = Iperf::start(SERVER_CORE, CLIENT_CORE, pace.round())?;
    let watch = Watch::start(&iperf.pids())?;
    std::thread::sleep(pace.round().mul_f64(0.8));
    let others_share = watch.others_share()?;
    let stream = iperf.finish()?;
    // What is on its way when the sender stops is sent and not received.
    let counted = Counted { sent: stream.sent, received: stream.received, slack: 16 << 20 };
    Ok(Round { rate: stream.bits_per_second, cycles_per_packet: None, others_share, counted, latency: None })
}
