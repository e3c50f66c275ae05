//! The configuration file's part of a command line: a program's table becomes flags, each checked as if typed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use engine::config::{Config, ConfigError, ProgramOption, ProgramTable};

use super::{Cli, Failure, PROGRAMS};

/// Flags that a program's table cannot have: they belong in `[engine]` and `[[port]]`, or make no sense in a file.
const NOT_IN_TABLES: [&str; 10] =
    ["port", "cores", "burst", "rxd", "txd", "mbufs", "idle", "config", "help", "version"];

/// Parses a command line, with the file that it names.
///
/// # Errors
/// [`Failure`]: of the command line, or of the file with its line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Cli, Config), Failure> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut matches = matches(&arguments).map_err(Failure::CommandLine)?;
    let mut file = Config::default();
    if let Some((program, typed)) = matches.subcommand().filter(|(program, _)| PROGRAMS.contains(program))
        && let Some(path) = typed.get_one::<PathBuf>("config")
    {
        file = Config::read(path, &PROGRAMS).map_err(Failure::usage)?;
        if let Some(table) = file.program(program) {
            let flags = flags(table, path, typed, &arguments)?;
            arguments.extend(flags);
            matches = self::matches(&arguments).map_err(Failure::CommandLine)?;
        }
    }
    Ok((Cli::from_arg_matches(&matches).map_err(Failure::CommandLine)?, file))
}

fn matches(arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
    Cli::command().try_get_matches_from(arguments)
}

/// The flags that a program's table adds to what was typed.
fn flags(
    table: &ProgramTable,
    path: &Path,
    typed: &ArgMatches,
    arguments: &[OsString],
) -> Result<Vec<OsString>, Failure> {
    let command = Cli::command();
    let program = command.find_subcommand(&table.name).expect("a table's name is a subcommand's");
    let allowed: Vec<&clap::Arg> = program
        .get_arguments()
        .filter(|arg| arg.get_long().is_some_and(|long| !NOT_IN_TABLES.contains(&long)))
        .collect();
    let mut added = Vec::new();
    for option in &table.options {
        let wrong = |message: String| {
            let path = path.to_path_buf();
            Failure::usage(ConfigError::Content { path, line: option.line, message })
        };
        let Some(arg) = allowed.iter().find(|arg| arg.get_long() == Some(option.key.as_str())) else {
            let names: Vec<&str> = allowed.iter().filter_map(|arg| arg.get_long()).collect();
            let (key, name) = (&option.key, &table.name);
            return Err(wrong(format!("unknown key `{key}` in [{name}]; allowed: {}", names.join(", "))));
        };
        if typed.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let flag = as_flag(option, arg);
        match matches(&[arguments, &flag].concat()) {
            // What was typed excludes this option, and what was typed wins.
            Err(error) if error.kind() == ErrorKind::ArgumentConflict => {
                log::info!("{}:{}: `{}` yields to the command line", path.display(), option.line, option.key);
            }
            // It may need an option of a later line; whether that is there shows when all are together.
            Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => {
                return Err(wrong(short(&error)));
            }
            _ => {
                added.extend(flag);
                // Nor may it exclude an option of an earlier line.
                if let Err(error) = matches(&[arguments, &added].concat())
                    && error.kind() == ErrorKind::ArgumentConflict
                {
                    return Err(wrong(short(&error)));
                }
            }
        }
    }
    // One of them may need an option that is not there.
    if let Err(error) = matches(&[arguments, &added].concat()) {
        let line = table.options.first().map_or(1, |option| option.line);
        let message = format!("[{}]: {}", table.name, short(&error));
        return Err(Failure::usage(ConfigError::Content { path: path.to_path_buf(), line, message }));
    }
    Ok(added)
}

/// An option as it would be typed; a switch that is off is not typed at all.
fn as_flag(option: &ProgramOption, arg: &clap::Arg) -> Vec<OsString> {
    let needs_value = arg.get_num_args().is_some_and(|count| count.min_values() > 0);
    match option.values.first().map(String::as_str) {
        Some("true") if option.is_switch && !needs_value => vec![format!("--{}", option.key).into()],
        Some("false") if option.is_switch && !needs_value => Vec::new(),
        _ => option.values.iter().map(|value| format!("--{}={value}", option.key).into()).collect(),
    }
}

/// Clap's message without its usage lines and its pointer to `--help`.
fn short(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let is_message = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let lines = text.lines().map(str::trim).take_while(is_message);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_string()
}
