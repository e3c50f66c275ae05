//! `bywash dump`: what passes a port of a running engine, into a file, a pipe, or as a line a frame.
//!
//! ```text
//!   engine's capture ─► control socket (pcapng) ─► filter ─► pcapng to a file or standard output, or lines
//! ```
//!
//! The filter runs here and not in the engine: no byte of a client's program has a part in the engine, at the price that
//! frames which the filter drops travel through the socket as well.

mod engines;
#[allow(unsafe_code)] // libpcap's functions
mod filter;
mod line;
mod output;

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use engine::control::ask;
use pmd::pcap::{ReadError, Reader};
use serde_json::json;

use crate::cli::Failure;
use crate::session::watch_signals;
use filter::Filter;
use output::Output;

/// How often signals and the clock are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long an engine that was asked to end the capture may take.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What `bywash dump` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Port to capture: its port string as the engine was given it, or its number; without it, engines and ports are
    /// listed
    pub port: Option<String>,

    /// Only frames that this expression matches, in tcpdump's language (needs libpcap0.8): tcp port 80 and host 10.0.0.1
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Which engine, by --name; needed where several have the port
    #[arg(short, long, value_name = "NAME")]
    pub engine: Option<String>,

    /// Write pcapng to a file, or to standard output with `-`; without it, a line a frame is printed
    #[arg(short = 'w', long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// Stop after so many frames (that match)
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop after so many seconds
    #[arg(long, value_name = "S", value_parser = crate::cli::flags::seconds)]
    pub seconds: Option<Duration>,

    /// Bytes kept of each frame [default: all]
    #[arg(short = 's', long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(14..))]
    pub snaplen: Option<u32>,

    /// Which way frames go, seen from the engine
    #[arg(short = 'Q', long, default_value = "both", value_parser = ["in", "out", "both"])]
    pub direction: String,

    /// Print one JSON object a frame (unless -w), and the counts as the last one
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
The engine's loops go on while they are looked at; frames that it has no room for are counted as missed. Times of printed
lines are UTC.

Examples:
  bywash dump                                     which engines run, and their ports
  bywash dump tap:bw0                             a line a frame, until interrupted
  bywash dump tap:bw0 -c 10 tcp port 80           ten frames of one service
  bywash dump tap:bw0 -w a.pcapng --seconds 60    into a file
  bywash dump 0 --engine l2fwd-4711 -w - | wireshark -k -i -
  bywash dump 0 -w - | tcpdump -nn -r -

Exit codes: 0 all went well; 1 something failed at run time; 2 wrong usage.";

/// What was captured.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Frames that came from the engine.
    captured: u64,
    /// Those that the filter let pass, and --count.
    matched: u64,
}

/// Lists, or captures.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Some(port) = &args.port else { return engines::list(args.json) };
    if args.json && args.write.as_deref().is_some_and(|path| path.as_os_str() == "-") {
        return Err(Failure::usage("--json and -w - both want standard output; leave one of them out"));
    }
    let filter = match args.filter.is_empty() {
        true => None,
        false => Some(Filter::compile(&args.filter.join(" ")).map_err(Failure::usage)?),
    };
    let folder = engines::find(args.engine.as_deref(), port)?;
    let interrupted = watch_signals().map_err(Failure::run)?;
    let limit = Limit { interrupted, began: Instant::now(), seconds: args.seconds };
    // The reader of a pipe is waited for no longer either.
    let is_over = {
        let limit = limit.clone();
        move || limit.is_reached()
    };
    let output = Output::open(args.write.as_deref(), args.json, port, args.snaplen, is_over)?;
    let Some(output) = output else {
        return Err(Failure::run("nobody has read the pipe, nothing is captured"));
    };
    let fields = json!({ "port": port, "snaplen": args.snaplen, "direction": args.direction });
    let (answer, stream) = ask(&folder, "dump", &fields).map_err(Failure::run)?;
    let port = answer["port"].as_str().unwrap_or(port).to_owned();
    eprintln!("capturing on {port} of {}, until interrupted or its end", folder.name());

    let output = Arc::new(Mutex::new(output));
    let ended = Arc::new(AtomicBool::new(false));
    let watch = Watch { stream: stream.try_clone().map_err(Failure::run)?, limit, ended: Arc::clone(&ended) };
    let watcher = thread::spawn(move || watch.run());
    let outcome = receive(stream, args.count, filter.as_ref(), &output);
    // ORDERING: Relaxed. A flag on its own; the thread is joined.
    ended.store(true, Ordering::Relaxed);
    let _ = watcher.join();
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    let written = output.close(outcome.as_ref().ok().and_then(|(_, totals)| *totals));
    let (counts, totals) = outcome.map_err(Failure::run)?;
    written?;
    show(args, folder.name(), &port, counts, totals);
    Ok(ExitCode::SUCCESS)
}

/// When to end, at the latest.
#[derive(Clone)]
struct Limit {
    interrupted: Arc<AtomicBool>,
    began: Instant,
    seconds: Option<Duration>,
}

impl Limit {
    fn is_reached(&self) -> bool {
        // ORDERING: Relaxed. A flag on its own.
        self.interrupted.load(Ordering::Relaxed)
            || self.seconds.is_some_and(|seconds| self.began.elapsed() >= seconds)
    }
}

/// Says what there was: on standard error, as the frames may be on standard output.
fn show(args: &Args, engine: &str, port: &str, counts: Counts, totals: Option<(u64, u64)>) {
    let Counts { captured, matched } = counts;
    if args.json {
        let (passed, missed) = totals.unzip();
        let line = json!({
            "program": "dump", "engine": engine, "port": port, "captured": captured, "matched": matched,
            "passed": passed, "missed": missed,
        });
        crate::session::print(&format!("{line}\n"));
    }
    let filtered =
        if args.filter.is_empty() { String::new() } else { format!("{matched} matched the filter, ") };
    let missed = totals.map_or_else(
        || "and the engine ended before it could say how many were missed".to_owned(),
        |(_, missed)| format!("{missed} missed"),
    );
    eprintln!("{captured} frames captured, {filtered}{missed}");
}

/// Frames from the engine into `output`, until it hangs up or nobody reads any more. Returns what came and, if the engine
/// said so, how many frames passed and how many of them it missed.
fn receive(
    stream: UnixStream,
    count: Option<u64>,
    filter: Option<&Filter>,
    output: &Arc<Mutex<Output>>,
) -> Result<(Counts, Option<(u64, u64)>), ReadError> {
    let stop = stream.try_clone();
    // Ends the capture; what comes until the engine has heard is let go.
    let hang_up = || stop.as_ref().is_ok_and(|stream| stream.shutdown(Shutdown::Write).is_ok());
    let mut reader = match Reader::new(Source { stream, output: Arc::clone(output) }) {
        Ok(reader) => reader,
        // It ended before it began.
        Err(_) => return Ok((Counts::default(), None)),
    };
    let mut counts = Counts::default();
    let mut over = false;
    loop {
        let next = reader.next(|frame| {
            if over {
                return;
            }
            counts.captured += 1;
            if filter.is_some_and(|filter| !filter.matches(&frame)) {
                return;
            }
            counts.matched += 1;
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.frame(&frame);
            over = output.is_closed() || count == Some(counts.matched);
            if over {
                hang_up();
            }
        });
        match next {
            Ok(Some(())) => {}
            // The engine may have been killed in the middle of a frame.
            Ok(None) | Err(ReadError::Truncated { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    let totals = reader.statistics().first().map(|last| (last.received, last.dropped));
    Ok((counts, totals))
}

/// The stream; before each wait for more of it, what was written is flushed, so that a live reader sees all there is.
struct Source {
    stream: UnixStream,
    output: Arc<Mutex<Output>>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.flush();
        if output.is_closed() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        drop(output);
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// Ends the capture when it is time, or told to; and the connection, if the engine does not.
struct Watch {
    stream: UnixStream,
    limit: Limit,
    ended: Arc<AtomicBool>,
}

impl Watch {
    fn run(self) {
        let mut asked = None;
        // ORDERING: Relaxed. A flag on its own.
        while !self.ended.load(Ordering::Relaxed) {
            if self.limit.is_reached() && asked.is_none() {
                asked = Some(Instant::now());
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            if asked.is_some_and(|asked| asked.elapsed() > END_WITHIN) {
                let _ = self.stream.shutdown(Shutdown::Both);
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}
