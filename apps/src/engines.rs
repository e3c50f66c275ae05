//! Which engines run, and which of them is meant.

use engine::control::{AskError, Folder, ask_line, runtime_folder};
use serde_json::{Value, json};

use crate::cli::Failure;

/// An engine and what it says of itself.
pub type Engine = (Folder, Value);

/// The engines that answer, with what they say of themselves; and those that we may not ask.
///
/// # Errors
/// [`Failure::Run`] where there is no folder for run-time files.
pub fn running() -> Result<(Vec<Engine>, Vec<String>), Failure> {
    let parent = runtime_folder().map_err(Failure::run)?;
    let (mut engines, mut forbidden) = (Vec::new(), Vec::new());
    for folder in Folder::all(&parent) {
        match ask_line(&folder, "engine", &json!({})) {
            Ok(engine) => engines.push((folder, engine)),
            Err(AskError::Permission { name, .. }) => forbidden.push(name),
            Err(error @ AskError::NoAnswer { .. }) => log::warn!("{error}"),
            Err(error) => log::info!("{error}"),
        }
    }
    Ok((engines, forbidden))
}

/// That there is none to ask, but perhaps those of others.
#[must_use]
pub fn none(forbidden: &[String]) -> Failure {
    if forbidden.is_empty() {
        return Failure::run(
            "no engine runs here; start one, or set BYWASH_RUNTIME_DIR as it was set for it",
        );
    }
    let names = forbidden.join(", ");
    Failure::run(format!("the engines that run ({names}) belong to another user; try sudo"))
}

/// Which engine a command is for.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// The engine's --name; needed where several run
    #[arg(short = 'e', long, visible_alias = "engine", value_name = "NAME")]
    pub name: Option<String>,
}

impl Which {
    /// The one that was named, or the only one that runs.
    ///
    /// # Errors
    /// [`Failure`]: none runs, or several do.
    pub fn find(&self) -> Result<Folder, Failure> {
        if let Some(name) = &self.name {
            let parent = runtime_folder().map_err(Failure::run)?;
            return Folder::new(&parent, name).map_err(Failure::usage);
        }
        let (engines, forbidden) = running()?;
        match &engines[..] {
            [(folder, _)] => Ok(folder.clone()),
            [] => Err(none(&forbidden)),
            several => {
                let names: Vec<&str> = several.iter().map(|(folder, _)| folder.name()).collect();
                Err(Failure::usage(format!(
                    "{} engines run ({}); say which with --name NAME",
                    names.len(),
                    names.join(", ")
                )))
            }
        }
    }
}
