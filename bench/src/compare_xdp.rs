//! `compare-xdp` and `compare-xdp-receive`: AF_XDP ports on one end of a veth pair, a generator in the kernel on the
//! other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use peers::bywash::Bywash;
use peers::netns::Netns;
use peers::precedence::Precedence;
use peers::process::Process;
use peers::testpmd::{ForwardMode, Host, Options, Side, Testpmd};

use crate::comparison::{Comparison, Contender, Counted, Round};
use crate::forwarder::{DESCRIPTORS, FORWARD_CORE, GENERATE_CORE, STOP_LIMIT, common, our_cycles_per_packet};
use crate::live_frames;
use crate::outcome::About;
use crate::pace::Pace;
use crate::quiet::Watch;

/// What `compare-xdp` measures.
pub const FORWARD: About = About {
    what: "compare-xdp",
    how: "A forwarder (`macswap`) has one end of a veth pair through AF_XDP (copy mode, which is what veth has, native \
        XDP, need-wakeup, preferred busy polling with a budget of 64 frames: the defaults of both): our `xdp:` port or testpmd with DPDK's net_af_xdp. On the other core the kernel itself makes \
        frames of 64 bytes (60 without CRC) and sends them into the other end, several times as many as are forwarded \
        (`BPF_PROG_TEST_RUN`, live frames). Bursts of 32, 1,024 descriptors. The rate is that of frames that came out \
        of the other end, by the kernel's own counter. Cycles per packet are those of turns that moved packets, system \
        calls included.",
};

/// What `compare-xdp-receive` measures.
pub const RECEIVE: About = About {
    what: "compare-xdp-receive",
    how: "As `compare-xdp`, for a program that drops what it receives. The rate is that of frames that the kernel put \
        into the receive ring, by its own counters (received less dropped); what the program says it received must \
        agree. With busy polling the kernel's work for a frame is done on the contender's core, in system calls of turns \
        that received nothing yet: it shows in the rate, and not in the cycles per packet.",
};

/// What a contender does with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Sends them back.
    Forward,
    /// Drops them.
    Receive,
}

/// The interface that contenders take, and the generator's end.
const TAKEN: &str = "bw1";
const FED: &str = "bw0";
/// How long a contender may take from its start to its first frames.
const START_LIMIT: Duration = Duration::from_secs(20);
/// What else crosses the wire in a round: neighbour discovery and the like.
const STRAY: u64 = 64;

/// Runs one of them.
pub fn run(task: Task, pace: &Pace) -> Result<Comparison> {
    peers::bywash::binary()?;
    if let Some(why) = peers::netns::unavailable_with(&[]) {
        anyhow::bail!("{why}");
    }
    let _precedence = Precedence::take();
    let host = Host::new(256)?;
    let contenders = vec![Contender::new("DPDK net_af_xdp", true), Contender::new("bywash xdp:", false)];
    Comparison::run(contenders, Some(1.0), pace, |index| measure(task, pace, &host, index == 0))
}

/// A contender at work.
enum Running {
    Testpmd(Testpmd),
    Bywash(Bywash),
}

impl Running {
    fn start(task: Task, wire: &Wire, host: &Arc<Host>, is_peer: bool) -> Result<Self> {
        if is_peer {
            let mode = if task == Task::Forward { ForwardMode::MacSwap } else { ForwardMode::RxOnly };
            let options = Options::new(Side::NetAfXdp(TAKEN.to_owned()), mode, FORWARD_CORE);
            return Ok(Self::Testpmd(Testpmd::start_in(&wire.ours, host, options)?));
        }
        let port = format!("xdp:{TAKEN},mode=copy,xdp_mode=native");
        let mut args: Vec<String> = match task {
            Task::Forward => {
                ["l2fwd", "--port", &port, "--forward-mode", "macswap"].map(str::to_owned).into()
            }
            Task::Receive => ["rxonly", "--port", &port].map(str::to_owned).into(),
        };
        args.extend(common(FORWARD_CORE));
        Ok(Self::Bywash(Bywash::start_in(&wire.ours, &args)?))
    }

    fn process(&mut self) -> &mut Process {
        match self {
            Self::Testpmd(testpmd) => testpmd.process(),
            Self::Bywash(bywash) => bywash.process(),
        }
    }

    /// Whether its program is on the interface: testpmd has said so, our process holds a link.
    fn has_attached(&mut self) -> bool {
        let Self::Bywash(bywash) = self else { return true };
        let files = std::fs::read_dir(format!("/proc/{}/fdinfo", bywash.process().pid()));
        let told = files
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|file| std::fs::read_to_string(file.path()).ok());
        told.into_iter().any(|told| told.contains("link_type:\txdp"))
    }

    /// Stops it: how many frames it received and sent, and the cycles of each.
    fn stop(self) -> Result<(u64, u64, Option<f64>)> {
        match self {
            Self::Testpmd(mut testpmd) => {
                let stats = testpmd.stop()?;
                testpmd.quit()?;
                Ok((stats.rx_packets, stats.tx_packets, stats.cycles_per_packet))
            }
            Self::Bywash(mut bywash) => {
                bywash.interrupt();
                let report = bywash.report(STOP_LIMIT)?;
                let count = |name: &str| report.count(&format!("/ports/0/{name}"));
                Ok((count("rx_packets")?, count("tx_packets")?, Some(our_cycles_per_packet(&report)?)))
            }
        }
    }
}

/// The pair, an end in each of two namespaces.
struct Wire {
    feeding: Netns,
    ours: Netns,
}

impl Wire {
    fn new() -> Result<Self> {
        let (feeding, ours) = (Netns::new()?, Netns::new()?);
        for netns in [&feeding, &ours] {
            netns.set("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        feeding.ip(&format!("link add {FED} type veth peer name {TAKEN} netns {}", ours.name()))?;
        feeding.ip(&format!("link set {FED} up"))?;
        ours.ip(&format!("link set {TAKEN} up"))?;
        Ok(Self { feeding, ours })
    }

    /// Frames that the contender has dealt with, as the kernel counts them. Read from a file: a process started for it
    /// would have to wait for the kernel's own threads, which have a hard time beside two busy loops.
    fn done(&self, task: Task) -> Result<u64> {
        let (netns, name) = match task {
            Task::Forward => (&self.feeding, FED),
            Task::Receive => (&self.ours, TAKEN),
        };
        let told = netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = told.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        let line = line.context("the interface is not in /proc/net/dev")?;
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        // bytes, packets, errs, drop
        let (packets, dropped) =
            (numbers.nth(1).context("no packets")??, numbers.nth(1).context("no drop")??);
        Ok(if task == Task::Receive { packets.saturating_sub(dropped) } else { packets })
    }
}

/// The kernel's frames, until dropped.
struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Feeder {
    fn start(wire: &Arc<Wire>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (wire, stopped) = (Arc::clone(wire), Arc::clone(&stop));
        let feed = move || {
            wire.feeding.inside(|| {
                core_affinity::set_for_current(core_affinity::CoreId { id: GENERATE_CORE });
                live_frames::send_until(&stopped, c"bw0", &frame())
            })??;
            Ok(())
        };
        Self { stop, thread: Some(std::thread::spawn(feed)) }
    }

    fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn stop(mut self) -> Result<()> {
        self.end().unwrap_or(Ok(()))
    }

    fn end(&mut self) -> Option<Result<()>> {
        // ORDERING: Relaxed. A flag on its own; joining the thread orders everything.
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take()?.join();
        Some(ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the generator's thread panicked"))))
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.end();
    }
}

/// A UDP datagram to nobody: 64 bytes with the CRC, which no frame here has.
fn frame() -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    frame[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    frame
}

fn measure(task: Task, pace: &Pace, host: &Arc<Host>, is_peer: bool) -> Result<Round> {
    let wire = Arc::new(Wire::new()?);
    let mut running = Running::start(task, &wire, host, is_peer)?;
    let started = Instant::now();
    while !running.has_attached() {
        let process = running.process();
        ensure!(
            started.elapsed() < START_LIMIT && process.is_running(),
            "no XDP program on the interface; the contender says\n{}\n{}",
            process.stdout(),
            process.stderr()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let feeder = Feeder::start(&wire);
    while wire.done(task)? == 0 {
        ensure!(started.elapsed() < START_LIMIT && feeder.is_running(), "no frame came through");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(pace.settle());
    let watch = Watch::start(&[std::process::id(), running.process().pid()])?;
    let (from, before) = (Instant::now(), wire.done(task)?);
    std::thread::sleep(pace.round());
    let (elapsed, after) = (from.elapsed(), wire.done(task)?);
    let others_share = watch.others_share()?;
    feeder.stop().context("the generator")?;
    let kernels = settled(&wire, task)?;
    let (received, sent, cycles_per_packet) = running.stop().context("the contender")?;
    let theirs = if task == Task::Forward { sent } else { received };
    let counted = Counted { sent: theirs, received: kernels, slack: u64::from(DESCRIPTORS) + STRAY };
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let rate = (after - before) as f64 / elapsed.as_secs_f64();
    Ok(Round { rate, cycles_per_packet, others_share, counted, latency: None })
}

/// The kernel's count once it no longer grows.
fn settled(wire: &Wire, task: Task) -> Result<u64> {
    let mut last = wire.done(task)?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(50));
        match wire.done(task)? {
            now if now == last => return Ok(now),
            now => last = now,
        }
    }
    anyhow::bail!("frames still come out of the wire two seconds after the generator has stopped")
}
