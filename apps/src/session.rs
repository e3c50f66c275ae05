//! One run of a measuring program: start, show, stop on time or when interrupted, report.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use engine::control::{Control, telemetry_folder};
use engine::stats::Snapshot;
use engine::{Engine, Running, StopError};
use pmd::port::Input;
use signal_hook::consts::{SIGINT, SIGTERM};
use thiserror::Error;

use crate::cli::{Failure, OutputFlags};
use crate::output::hlog::IntervalLog;
use crate::output::percentiles::Span;
use crate::output::progress::Progress;
use crate::output::{Colour, Summary, hgrm, json, percentiles, plot, rates, totals};
use crate::report::machine::Facts;
use crate::report::recorder::Recorder;

/// How often the loop below looks at the clock and for signals.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the progress line moves.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Length of an interval of `--hlog` without `--stats-period`.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same of `--report` alone, of a run of at most [`SHORT`]: a picture of five points tells little.
const FINE_INTERVAL: Duration = Duration::from_millis(200);
/// The longest run that is looked at so often.
const SHORT: Duration = Duration::from_secs(100);
/// What programs may take to finish beyond their own drain time.
const GRACE: Duration = Duration::from_secs(1);

/// What is particular to a program.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name on the command line.
    pub program: &'static str,
    /// The latency that `--hgrm FILE` puts into that very file.
    pub first_latency: &'static str,
    /// Ports whose received frames are the result.
    pub result_ports: Vec<usize>,
    /// How long it runs without `--seconds`; `None`: until interrupted.
    pub length: Option<Duration>,
    /// Whether it may be done before its time: a generator that sent its `--count`.
    pub ends_itself: bool,
    /// How long it works before its time begins to count.
    pub warm_up: Duration,
    /// How long it waits for its last frames.
    pub drain: Duration,
    /// What makes a run that ended well one that failed all the same.
    pub verdict: Option<fn(&Summary) -> Option<String>>,
}

/// What a program shows of its own, beside or in place of what all programs show.
pub trait Live {
    /// Appends lines to show now. Called every few milliseconds, and once more at the end; not with `--json`, and what
    /// it appends is not shown with `--quiet`.
    fn lines(&mut self, _text: &mut String) {}

    /// The first part of the report for people, in place of frames and rates.
    fn report(&mut self, _summary: &Summary) -> Option<String> {
        None
    }
}

/// Nothing of its own.
impl Live for () {}

/// A file of `--hlog`, `--hgrm` or `--report` that cannot be written.
#[derive(Debug, Error)]
#[error("cannot write {}; is the folder there, writable and not full?", path.display())]
struct FileError {
    path: std::path::PathBuf,
    source: io::Error,
}

fn file_failure(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |source| Failure::run(FileError { path: path.to_path_buf(), source })
}

impl Session {
    /// A session that runs until interrupted, with no result ports yet.
    #[must_use]
    pub fn of(program: &'static str, first_latency: &'static str) -> Session {
        Session {
            program,
            first_latency,
            result_ports: Vec::new(),
            length: None,
            ends_itself: false,
            warm_up: Duration::ZERO,
            drain: Duration::ZERO,
            verdict: None,
        }
    }

    /// Starts the engine, runs it to its end, prints and writes what was asked for.
    ///
    /// # Errors
    /// [`Failure::Run`]. What was measured before a failure is printed all the same.
    pub fn run(self, engine: Engine, output: &OutputFlags) -> Result<ExitCode, Failure> {
        self.run_live(engine, output, &mut ())
    }

    /// The same, with what `live` has to show.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_live(
        mut self,
        mut engine: Engine,
        output: &OutputFlags,
        live: &mut dyn Live,
    ) -> Result<ExitCode, Failure> {
        self.length = output.seconds.or(self.length).map(|length| length + self.warm_up);
        let interrupted = watch_signals().map_err(Failure::run)?;
        // Files first: a misspelt folder should show now, not after an hour.
        for path in [&output.hgrm, &output.report].into_iter().flatten() {
            File::create(path).map_err(file_failure(path))?;
        }
        let facts = output.report.is_some().then(Facts::now);
        let log_file =
            output.hlog.as_ref().map(|path| File::create(path).map_err(file_failure(path))).transpose()?;

        engine.control(Control {
            name: output.name.clone().unwrap_or_else(|| format!("{}-{}", self.program, std::process::id())),
            program: self.program.to_owned(),
            folder: None,
            telemetry: output
                .telemetry
                .as_deref()
                .map(telemetry_folder)
                .transpose()
                .map_err(Failure::usage)?,
            metrics: output.metrics,
            required: output.name.is_some(),
        });
        let running = engine.start().map_err(Failure::run)?;
        if let Some(warning) = running.tsc().warning() {
            log::warn!("{warning}");
        }
        let mut show = Show::new(&self, output);
        show.banner(&running);
        if let Some(file) = log_file {
            let log = IntervalLog::begin(BufWriter::new(file), self.program, SystemTime::now());
            show.log = Some(log.map_err(Failure::run)?);
        }

        let (running, measured) = self.watch(running, &interrupted, &mut show, live)?;
        let (last, failure) = match running.finish(self.drain + GRACE) {
            Ok(snapshot) => (snapshot, None),
            Err(error) => (last_snapshot(&error), Some(Failure::run(error))),
        };
        show.interval(last.clone(), true)?;
        show.live(live);
        let summary = Summary { measured, ..Summary::new(self.program, last, &self.result_ports) };
        show.end(&summary, self.first_latency, live)?;
        if let Some(facts) = facts {
            show.write_report(&summary, &facts)?;
        }
        let failure = failure.or_else(|| Some(Failure::run(self.verdict?(&summary)?)));
        failure.map_or(Ok(ExitCode::SUCCESS), Err)
    }

    /// Watches the run until it is over, and returns how long that was.
    fn watch(
        &self,
        mut running: Running,
        interrupted: &AtomicBool,
        show: &mut Show<'_>,
        live: &mut dyn Live,
    ) -> Result<(Running, Duration), Failure> {
        let start = Instant::now();
        let (mut next_progress, mut next_interval) = (PROGRESS_EVERY, show.interval_length());
        loop {
            // Never late for the end: with --seconds 0.005 the run is 5 ms long.
            let left = self.length.map_or(LOOK_EVERY, |length| length.saturating_sub(start.elapsed()));
            thread::sleep(left.min(LOOK_EVERY));
            let elapsed = start.elapsed();
            show.live(live);
            // ORDERING: Relaxed. The handler hands nothing over but the flag.
            let is_over = interrupted.load(Ordering::Relaxed)
                || self.length.is_some_and(|length| elapsed >= length)
                || (self.ends_itself && running.is_done())
                || (!self.ends_itself && have_ended(&running))
                || running.stop_wanted()
                || running.has_died();
            if is_over {
                return Ok((running, elapsed));
            }
            if next_interval.is_some_and(|at| elapsed >= at) {
                show.interval(running.snapshot(), false)?;
                next_interval = next_interval.zip(show.interval_length()).map(|(at, length)| at + length);
            } else if show.has_progress() && elapsed >= next_progress {
                show.progress(running.snapshot());
                next_progress += PROGRESS_EVERY;
            }
        }
    }
}

/// Whether a capture is at its end and no port can receive any more.
fn have_ended(running: &Running) -> bool {
    let inputs = || running.ports().map(|port| port.input());
    inputs().any(|input| input == Input::Ended)
        && inputs().all(|input| matches!(input, Input::Ended | Input::None))
}

/// The snapshot that an engine which did not stop cleanly left behind.
fn last_snapshot(error: &StopError) -> Snapshot {
    match error {
        StopError::Panicked { snapshot, .. } | StopError::Port { snapshot, .. } => (**snapshot).clone(),
    }
}

/// Raised by the first SIGINT or SIGTERM; the second one ends the process at once, should stopping hang.
pub(crate) fn watch_signals() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the exit looks at the flag before the second handler raises it.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// What the user sees of a run, and the files it leaves.
struct Show<'a> {
    output: &'a OutputFlags,
    colour: Colour,
    progress: Progress,
    log: Option<IntervalLog<BufWriter<File>>>,
    /// The intervals for `--report`.
    recorder: Option<Recorder>,
    /// How long the run is to be.
    length: Option<Duration>,
    /// The snapshot before, for the rates since.
    before: Option<Snapshot>,
    /// Progress snapshots since the last interval ended, as one.
    pending: Option<Snapshot>,
}

impl<'a> Show<'a> {
    fn new(session: &Session, output: &'a OutputFlags) -> Show<'a> {
        Show {
            output,
            colour: Colour::of(&io::stdout()),
            progress: Progress::new(session.length, &session.result_ports, output.quiet),
            log: None,
            recorder: output.report.is_some().then(|| Recorder::new(&session.result_ports)),
            length: session.length,
            before: None,
            pending: None,
        }
    }

    /// Whether the progress line is there at all.
    fn has_progress(&self) -> bool {
        self.progress.is_shown()
    }

    /// How long an interval is, if anybody wants intervals.
    fn interval_length(&self) -> Option<Duration> {
        let is_short = self.length.is_some_and(|length| length <= SHORT);
        let reported = if is_short { FINE_INTERVAL } else { INTERVAL };
        let logged = self.log.is_some().then_some(INTERVAL);
        self.output.stats_period.or(logged).or(self.recorder.is_some().then_some(reported))
    }

    /// Says which ports opened.
    fn banner(&self, running: &Running) {
        if let Some(address) = running.metrics()
            && !self.output.quiet
        {
            eprintln!("metrics at http://{address}/metrics");
        }
        if self.output.json || self.output.quiet {
            return;
        }
        let mut text = String::new();
        for (index, port) in running.ports().enumerate() {
            let info = port.info();
            let mac: Vec<String> = info.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!(
                "{} {index}  {}  {}, {}, MTU {}, link {}\n",
                self.colour.heading("port"),
                port.name(),
                info.driver,
                mac.join(":"),
                info.mtu,
                format!("{:?}", port.link()).to_lowercase(),
            ));
        }
        print(&text);
    }

    /// Shows the lines of a program's own.
    fn live(&mut self, live: &mut dyn Live) {
        if self.output.json {
            return;
        }
        let mut text = String::new();
        live.lines(&mut text);
        if !text.is_empty() && !self.output.quiet {
            self.progress.clear();
            print(&text);
        }
    }

    /// Moves the progress line.
    fn progress(&mut self, mut snapshot: Snapshot) {
        self.progress.show(&snapshot);
        if let Some(pending) = &self.pending {
            snapshot.extend_interval(pending);
        }
        self.pending = Some(snapshot);
    }

    /// Ends an interval: statistics and a line in the log. The last interval is logged, and reported by [`Show::end`].
    fn interval(&mut self, mut snapshot: Snapshot, is_last: bool) -> Result<(), Failure> {
        if let Some(pending) = self.pending.take() {
            snapshot.extend_interval(&pending);
        }
        self.progress.note(&snapshot);
        if let (Some(log), Some(path)) = (&mut self.log, &self.output.hlog) {
            log.add(&snapshot).map_err(file_failure(path))?;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.add(&snapshot);
        }
        if !is_last && self.output.stats_period.is_some() && !self.output.json {
            self.progress.clear();
            let latencies = percentiles::table(&snapshot, Span::Interval, self.colour);
            print(&format!("{}{latencies}\n", totals::periodic(&snapshot, self.before.as_ref())));
        }
        self.before = Some(snapshot);
        Ok(())
    }

    /// Prints the result and writes the tables.
    fn end(&mut self, summary: &Summary, first_latency: &str, live: &mut dyn Live) -> Result<(), Failure> {
        self.progress.clear();
        if self.output.json {
            print(&json::text(summary));
        } else {
            print(&report(summary, live.report(summary), self.colour, self.output.quiet));
        }
        if let Some(path) = &self.output.hgrm {
            for (path, text) in hgrm::files(summary.latencies.iter(), first_latency, path) {
                std::fs::write(&path, text).map_err(file_failure(&path))?;
                if !self.output.quiet {
                    eprintln!("wrote {}", path.display());
                }
            }
        }
        Ok(())
    }
}

impl Show<'_> {
    /// Writes the page of `--report`.
    fn write_report(&self, summary: &Summary, facts: &Facts) -> Result<(), Failure> {
        let (Some(path), Some(recorder)) = (&self.output.report, &self.recorder) else { return Ok(()) };
        let page = crate::report::of_run(summary, recorder, facts).map_err(Failure::run)?;
        std::fs::write(path, page).map_err(file_failure(path))?;
        if !self.output.quiet {
            eprintln!("wrote {}", path.display());
        }
        Ok(())
    }
}

/// All there is to read at the end of a run; `own` instead of frames and rates, if the program has that.
fn report(summary: &Summary, own: Option<String>, colour: Colour, quiet: bool) -> String {
    let mut parts = match own {
        Some(own) => vec![own],
        None => vec![totals::forward(&summary.snapshot), rates::text(summary, colour)],
    };
    parts.push(percentiles::table(&summary.snapshot, Span::Total, colour));
    if !quiet {
        let columns = terminal_columns();
        let plot = plot::text(&summary.latencies, columns, colour);
        if !plot.is_empty() {
            parts.push(format!("{}\n{plot}", colour.heading("latency by percentile")));
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

/// Columns of the terminal on standard output; 80 if it is none.
pub(crate) fn terminal_columns() -> u16 {
    comfy_table::Table::new().width().unwrap_or(plot::COLUMNS)
}

/// Writes to standard output. Nobody may be reading any more (`bywash … | head`): that ends no run.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
