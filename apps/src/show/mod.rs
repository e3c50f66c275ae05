//! `bywash show`: figures of a running engine, as tables or as JSON, once or every so often.
//!
//! ```text
//!   ask (control socket) ─► one JSON object ─► --json: as it came
//!                                           └► answer (typed) ─► tables; with --watch what the interval added
//! ```

mod answer;
mod tables;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use engine::control::{AskError, Folder, Subject, ask_line};
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::engines::Which;
use crate::output::Colour;
use crate::session::{print, watch_signals};
use answer::Answer;

/// How often signals are looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What `bywash show` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to show
    #[arg(value_parser = subjects())]
    pub what: Subject,

    /// Which engine.
    #[command(flatten)]
    pub which: Which,

    /// Show again every so many seconds, until interrupted: rates, and what the interval added
    #[arg(short, long, value_name = "S", value_parser = crate::cli::flags::seconds)]
    pub watch: Option<Duration>,

    /// With --watch: end after so many intervals
    #[arg(short = 'c', long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Print JSON, one object a line; its fields are in docs/operations.md
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Counts run from the start of the engine. Its loops do not wait for those who look: they hand out their counters between two
turns, at most a hundred times a second.

Examples:
  bywash show ports                        what came and went, since the start
  bywash show runtime --watch 1            how busy the cores are, every second
  bywash show latency --name l2fwd-4711    percentiles of one of several engines
  bywash show drops --json | jq .drops.reasons
  bywash show all --json --watch 10 >> log.jsonl

Exit codes: 0 all went well; 1 no such engine, or it ended; 2 wrong usage.";

/// The words for subjects, with what they are.
fn subjects() -> impl TypedValueParser<Value = Subject> {
    let words = Subject::ALL.map(|subject| PossibleValue::new(subject.name()).help(tables::help(subject)));
    PossibleValuesParser::new(words).map(|word| {
        Subject::ALL
            .into_iter()
            .find(|subject| subject.name() == word)
            .expect("only possible values come here")
    })
}

/// Asks and shows, until it is enough.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let folder = args.which.find()?;
    let Some(period) = args.watch else {
        let answer = ask(&folder, args.what, false)?;
        print(&if args.json {
            line(answer)
        } else {
            tables::text(&read(answer)?, None, args.what, Colour::of(&io::stdout()))
        });
        return Ok(ExitCode::SUCCESS);
    };
    let interrupted = watch_signals().map_err(Failure::run)?;
    let (mut before, mut shown) = (None, 0);
    loop {
        let due = Instant::now() + period;
        let answer = match ask(&folder, args.what, !args.json) {
            Ok(answer) => answer,
            Err(failure) if shown == 0 => return Err(failure),
            Err(failure) => {
                eprintln!("engine {} has ended", folder.name());
                log::info!("{failure:?}");
                return Ok(ExitCode::SUCCESS);
            }
        };
        if args.json {
            print(&line(answer));
        } else {
            let answer = read(answer)?;
            // The first shows totals, as there is no interval yet.
            screen(&tables::text(&answer, before.as_ref(), args.what, Colour::of(&io::stdout())));
            before = Some(answer);
        }
        shown += 1;
        if args.count.is_some_and(|count| shown > count) {
            return Ok(ExitCode::SUCCESS);
        }
        while Instant::now() < due {
            thread::sleep(LOOK_EVERY.min(due.saturating_duration_since(Instant::now())));
            // ORDERING: Relaxed. The handler hands nothing over but the flag.
            if interrupted.load(Ordering::Relaxed) {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn ask(folder: &Folder, what: Subject, histograms: bool) -> Result<Value, Failure> {
    let fields = json!({ "what": what.name(), "histograms": histograms });
    ask_line(folder, "show", &fields).map_err(|error: AskError| Failure::run(error))
}

/// Without what concerns the protocol, on a line.
fn line(mut answer: Value) -> String {
    if let Value::Object(fields) = &mut answer {
        fields.retain(|name, _| !matches!(name.as_str(), "bywash" | "ok"));
    }
    format!("{answer}\n")
}

fn read(answer: Value) -> Result<Answer, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::run(format!(
            "the engine's answer cannot be read ({error}); is it another version of bywash?"
        ))
    })
}

/// A terminal shows one after the other in the same place.
fn screen(text: &str) {
    if io::stdout().is_terminal() {
        print(&format!("\x1b[H\x1b[2J{text}"))
    } else {
        print(&format!("{text}\n"))
    }
}
