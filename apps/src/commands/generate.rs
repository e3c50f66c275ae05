//! `bywash completions` and `bywash man`: what packages install beside the command, made from its own definition.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use thiserror::Error;

use crate::cli::{Cli, Failure};
use crate::session::print;

/// Pages that cannot be written.
#[derive(Debug, Error)]
#[error("cannot write manual pages into {}; is the folder there, writable and not full?", folder.display())]
struct PagesError {
    folder: PathBuf,
    source: io::Error,
}

/// Prints what `shell` reads to complete our commands and flags.
pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bywash", &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Writes `bywash.1` and a page a subcommand, `bywash-l2fwd.1`, into `folder`.
///
/// # Errors
/// [`Failure::Run`] if the folder cannot be written to.
pub(super) fn man(folder: &Path) -> Result<ExitCode, Failure> {
    let written =
        std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|source| Failure::run(PagesError { folder: folder.to_owned(), source }))?;
    Ok(ExitCode::SUCCESS)
}
