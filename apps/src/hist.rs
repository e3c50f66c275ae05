//! `bywash hist`: latencies out of files, as tables, pictures and reports; several runs side by side, or as one.
//!
//! ```text
//!   .hlog, .hgrm, JSON ─► read ─► runs ─► merge? ─► table, terminal plot, JSON
//!                                             ├────► picture (SVG, PNG), report (HTML)
//!                                             └────► .hlog, .hgrm
//! ```

pub mod compare;
pub mod distribution;
pub mod read;
pub mod run;
pub mod timeline;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use thiserror::Error;

use crate::cli::Failure;
use crate::output::hlog::IntervalLog;
use crate::output::{Colour, hgrm, plot};
use crate::picture::scene::{DrawError, Scene};
use crate::picture::{axis, percentiles};
use crate::session::{print, terminal_columns};
use distribution::Distribution;
use read::Unit;
use run::{Run, Series};

/// What `bywash hist` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What a run left: .hlog, .hgrm, or the output of --json; the first one is what the others are compared to. NAME is
    /// what it is called in tables and pictures [default: the file's]
    #[arg(required = true, value_name = "[NAME=]FILE")]
    pub files: Vec<String>,

    /// Only this latency, such as round_trip; repeatable
    #[arg(long = "latency", value_name = "NAME")]
    pub latencies: Vec<String>,

    /// All files as one run: counts are added up, intervals come one file after the other
    #[arg(long)]
    pub merge: bool,

    /// Unit of files that do not say theirs (tables and logs of other programs)
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<Unit>,

    /// Draw latency by percentile; the name's end tells the kind: .svg or .png. Repeatable
    #[arg(long = "plot", value_name = "FILE")]
    pub plots: Vec<PathBuf>,

    /// Write a page with tables, percentiles, latencies over time and heat maps, complete in one file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Write an interval log, each latency as one interval; of one run, or with --merge
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,

    /// Write percentile tables in µs, further latencies beside the first; of one run, or with --merge
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,

    /// Print one JSON object, and nothing else on standard output
    #[arg(long)]
    pub json: bool,

    /// No plot on the terminal
    #[arg(short, long)]
    pub quiet: bool,
}

const EXAMPLES: &str = "\
An interval log has every value, a table or JSON some percentiles only: the latter cannot be merged.

Examples:
  bywash hist run.hlog                                 percentiles of each latency, and their plot
  bywash hist before=a.hlog after=b.hlog               side by side, with ratios
  bywash hist a.hlog b.hlog --latency round_trip --plot ab.png --plot ab.svg
  bywash hist --merge run-*.hlog --hlog all.hlog --report all.html
  bywash hist --unit ms wrk2.hgrm                      of another program

Exit codes: 0 all went well; 1 a file cannot be read or written; 2 wrong usage.";

/// A file that cannot be written.
#[derive(Debug, Error)]
#[error("cannot write {}; is the folder there, writable and not full?", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// A request that does not fit the files.
#[derive(Debug, Error)]
enum AskError {
    #[error("{source_name} has percentiles only, which cannot be added up; give the .hlog of that run")]
    NotExact { source_name: String },
    #[error("--{flag} writes one run, {runs} are given; add --merge, or give one file")]
    Several { flag: &'static str, runs: usize },
    #[error("no file has a latency `{name}`; there are: {there}")]
    NoSuchLatency { name: String, there: String },
    #[error("{}: pictures are .svg or .png", path.display())]
    Picture { path: PathBuf },
}

/// Reads, shows and writes.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    for path in &args.plots {
        picture_kind(path).ok_or_else(|| Failure::usage(AskError::Picture { path: path.clone() }))?;
    }
    let mut runs = read_all(args)?;
    if args.merge {
        runs = vec![
            run::merge(&runs).map_err(|source_name| Failure::usage(AskError::NotExact { source_name }))?,
        ];
    }
    only(&mut runs, &args.latencies)?;
    for (flag, path) in [("hlog", &args.hlog), ("hgrm", &args.hgrm)] {
        if path.is_some() && runs.len() > 1 {
            return Err(Failure::usage(AskError::Several { flag, runs: runs.len() }));
        }
    }

    if args.json {
        print(&compare::json(&runs));
    } else {
        let colour = Colour::of(&io::stdout());
        print(&compare::table(&runs, colour));
        if !args.quiet {
            print(&terminal_plots(&runs, colour));
        }
    }
    for path in &args.plots {
        write(path, &drawn(&picture(&runs), path).map_err(Failure::run)?)?;
    }
    if let Some(path) = &args.report {
        write(path, crate::report::of_files(&runs).map_err(Failure::run)?.as_bytes())?;
    }
    if let Some(path) = &args.hgrm {
        let exact = exact(&runs[0])?;
        let first = exact.first().map_or("", |(name, _)| *name);
        for (path, text) in hgrm::files(exact.iter().copied(), first, path) {
            write(&path, text.as_bytes())?;
        }
    }
    if let Some(path) = &args.hlog {
        write_log(path, &runs[0])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read_all(args: &Args) -> Result<Vec<Run>, Failure> {
    let mut runs: Vec<Run> = Vec::new();
    for file in &args.files {
        let (name, path) = named(file);
        runs.push(read::read(&path, &name, args.unit).map_err(Failure::run)?);
    }
    // Files of one name in several folders.
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in &mut runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name.clone_from(&run.source);
        }
    }
    Ok(runs)
}

/// What is typed, as name and file: `NAME=FILE`, or a file, which may have an equals sign in its own name.
fn named(typed: &str) -> (String, PathBuf) {
    if let Some((name, file)) = typed.split_once('=')
        && !name.is_empty()
        && !name.contains('/')
        && !Path::new(typed).exists()
    {
        return (name.to_owned(), PathBuf::from(file));
    }
    let path = PathBuf::from(typed);
    let name = path.file_stem().map_or_else(|| typed.to_owned(), |stem| stem.to_string_lossy().into_owned());
    (name, path)
}

/// Leaves out all latencies but the wanted ones, and runs without any of them.
fn only(runs: &mut Vec<Run>, wanted: &[String]) -> Result<(), Failure> {
    if wanted.is_empty() {
        return Ok(());
    }
    for name in wanted {
        if runs.iter().all(|run| run.get(name).is_none()) {
            let there = compare::names(runs).join(", ");
            return Err(Failure::usage(AskError::NoSuchLatency { name: name.clone(), there }));
        }
    }
    runs.iter_mut().for_each(|run| run.series.retain(|series| wanted.contains(&series.name)));
    runs.retain(|run| !run.series.is_empty());
    Ok(())
}

/// The picture of one run: all latencies in one; of several: one below the other, a line a run.
#[must_use]
pub fn picture(runs: &[Run]) -> Scene {
    if let [run] = runs {
        let lines: Vec<(&str, &Distribution)> =
            run.series.iter().map(|series| (series.name.as_str(), &series.distribution)).collect();
        return percentiles::scene("Latency by percentile", &run.source, &lines);
    }
    let names = compare::names(runs);
    let scenes = names.iter().map(|name| {
        let lines: Vec<(&str, &Distribution)> =
            runs.iter().filter_map(|run| Some((run.name.as_str(), &run.get(name)?.distribution))).collect();
        percentiles::scene(&format!("{name} by percentile"), &format!("{} runs", lines.len()), &lines)
    });
    scenes.reduce(Scene::above).unwrap_or_else(|| Scene::new(percentiles::WIDTH, 1))
}

/// A line of a plot on a terminal: a name, and points of nines and log₁₀ of nanoseconds.
type Line<'a> = (&'a str, Vec<(f64, f64)>);

fn line<'a>(name: &'a str, series: &Series) -> Line<'a> {
    let points = series.distribution.line();
    (name, points.into_iter().map(|(nines, ns)| (nines, axis::log_ns(ns))).collect())
}

/// The same on a terminal.
fn terminal_plots(runs: &[Run], colour: Colour) -> String {
    let mut text = String::new();
    let mut plot = |name: &str, lines: &[Line<'_>]| {
        let title = colour.heading(&format!("{name} by percentile"));
        text.push_str(&format!("\n{title}\n{}", plot::lines(lines, terminal_columns(), colour)));
    };
    if let [run] = runs {
        let lines: Vec<Line<'_>> = run.series.iter().map(|series| line(&series.name, series)).collect();
        plot("latency", &lines);
    } else {
        for name in compare::names(runs) {
            let lines: Vec<Line<'_>> =
                runs.iter().filter_map(|run| Some(line(&run.name, run.get(name)?))).collect();
            plot(name, &lines);
        }
    }
    text
}

/// The histograms of a run, if it has them.
fn exact(run: &Run) -> Result<Vec<(&str, &Histogram<u64>)>, Failure> {
    let histogram = |series: &'_ Series| match &series.distribution {
        Distribution::Exact(_) => Ok(()),
        Distribution::Table(_) => Err(Failure::usage(AskError::NotExact { source_name: run.source.clone() })),
    };
    run.series.iter().try_for_each(histogram)?;
    let all = run.series.iter().filter_map(|series| match &series.distribution {
        Distribution::Exact(histogram) => Some((series.name.as_str(), histogram)),
        Distribution::Table(_) => None,
    });
    Ok(all.collect())
}

fn write_log(path: &Path, run: &Run) -> Result<(), Failure> {
    let exact = exact(run)?;
    let failed = |source| Failure::run(WriteError { path: path.to_owned(), source });
    let file = File::create(path).map_err(failed)?;
    let mut log = IntervalLog::begin(io::BufWriter::new(file), "hist", SystemTime::now()).map_err(failed)?;
    for (name, histogram) in exact {
        let length = run.get(name).map_or(Duration::ZERO, |series| series.timeline.end());
        log.add_one(name, histogram, Duration::ZERO, length).map_err(failed)?;
    }
    log.flush().map_err(failed)?;
    told(path);
    Ok(())
}

/// What a picture's file name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PictureKind {
    Svg,
    Png,
}

fn picture_kind(path: &Path) -> Option<PictureKind> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "svg" => Some(PictureKind::Svg),
        "png" => Some(PictureKind::Png),
        _ => None,
    }
}

fn drawn(scene: &Scene, path: &Path) -> Result<Vec<u8>, DrawError> {
    match picture_kind(path) {
        Some(PictureKind::Png) => scene.png(),
        _ => scene.svg().map(String::into_bytes),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = File::create(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|source| Failure::run(WriteError { path: path.to_owned(), source }))?;
    told(path);
    Ok(())
}

fn told(path: &Path) {
    eprintln!("wrote {}", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_typed_or_the_files_own() {
        let found = |typed: &str| {
            let (name, path) = named(typed);
            (name, path.display().to_string())
        };
        assert_eq!(found("before=/a/x.hlog"), ("before".to_owned(), "/a/x.hlog".to_owned()));
        assert_eq!(found("/a=b/x.hlog"), ("x".to_owned(), "/a=b/x.hlog".to_owned()));
        assert_eq!(found("x.y.hgrm"), ("x.y".to_owned(), "x.y.hgrm".to_owned()));
    }

    #[test]
    fn pictures_are_told_by_their_names() {
        assert_eq!(picture_kind(Path::new("a/b.PNG")), Some(PictureKind::Png));
        assert_eq!(picture_kind(Path::new("b.svg")), Some(PictureKind::Svg));
        assert_eq!(picture_kind(Path::new("svg")), None);
    }
}
