//! How a command fails: which exit code, and what is printed.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use crate::output::Colour;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The command line itself; clap prints it. `--help` and `--version` come this way too, with exit code 0.
    CommandLine(clap::Error),
    /// What was asked for cannot be meant: exit code 2.
    Usage(Box<dyn Error + Send + Sync>),
    /// It went wrong while running: exit code 1.
    Run(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// A [`Failure::Usage`].
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure::Usage(error.into())
    }

    /// A [`Failure::Run`].
    pub fn run(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure::Run(error.into())
    }

    /// Prints it on standard error (help and version on standard output) and returns the exit code.
    pub fn show(self) -> ExitCode {
        let (error, code) = match self {
            Failure::CommandLine(error) => {
                // A closed standard output leaves nobody to tell.
                let _ = error.print();
                return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
            }
            Failure::Usage(error) => (error, 2),
            Failure::Run(error) => (error, 1),
        };
        eprint!("{}", text(error.as_ref(), Colour::of(&io::stderr())));
        ExitCode::from(code)
    }
}

/// The error and everything that caused it, a line each. A cause whose words its effect repeats is left out.
fn text(error: &dyn Error, colour: Colour) -> String {
    let mut last = error.to_string();
    let mut text = format!("{} {last}\n", colour.paint("1;31", "error:"));
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !last.contains(&words) {
            let _ = writeln!(text, "  {} {words}", colour.paint("1", "caused by:"));
        }
        last = words;
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use thiserror::Error;

    #[derive(Debug, Error)]
    #[error("no configuration")]
    struct Outer(#[source] Middle);

    #[derive(Debug, Error)]
    #[error("cannot read x.toml: permission denied")]
    struct Middle(#[source] Inner);

    #[derive(Debug, Error)]
    #[error("permission denied")]
    struct Inner;

    #[test]
    fn causes_are_listed_and_not_repeated() {
        let expected = "error: no configuration\n  caused by: cannot read x.toml: permission denied\n";
        assert_eq!(text(&Outer(Middle(Inner)), Colour::Plain), expected);
        assert!(text(&Inner, Colour::Ansi).starts_with("\x1b[1;31merror:\x1b[0m permission denied"));
    }
}
