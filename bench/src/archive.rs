//! Runs kept for good: `bench/runs/<date>-<what>/{README.md, raw.json}`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::conditions::Conditions;
use crate::outcome::About;

/// One run, ready to be archived.
#[derive(Debug, Serialize)]
pub struct Run<'a, R: Serialize> {
    /// What was measured.
    #[serde(skip)]
    pub about: About,
    /// Where and when.
    pub conditions: &'a Conditions,
    /// Every number measured.
    pub result: &'a R,
}

impl<R: Serialize> Run<'_, R> {
    /// Writes the run below `bench/runs` with `table` as its summary, and returns the folder.
    ///
    /// # Errors
    /// If the folder exists and cannot be replaced file by file, or cannot be written.
    pub fn write(&self, table: &str) -> Result<PathBuf> {
        let day = self.conditions.date.split(' ').next().unwrap_or("undated");
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(format!("{day}-{}", self.about.what));
        let about = || format!("cannot write {}", folder.display());
        fs::create_dir_all(&folder).with_context(about)?;
        fs::write(folder.join("raw.json"), serde_json::to_string_pretty(self)? + "\n").with_context(about)?;
        fs::write(folder.join("README.md"), self.readme(table)).with_context(about)?;
        Ok(folder)
    }

    fn readme(&self, table: &str) -> String {
        let c = self.conditions;
        format!(
            "# {what}, {date}\n\n{about}\n\n```text\n{table}\n```\n\n\
             Every number of every round is in `raw.json`.\n\n\
             | condition | |\n|---|---|\n\
             | processor | {processor}, {cores} cores, virtualization: {virtualization} |\n\
             | kernel | {kernel} |\n\
             | DPDK | {dpdk} |\n\
             | compiler | {rustc} |\n\
             | commit | {commit} |\n\
             | load before the run | {load} |\n\n\
             Again with\n\n```sh\ncargo run --release -p bywash-bench -- {command}\n```\n",
            what = self.about.what,
            about = self.about.how,
            date = c.date,
            processor = c.processor,
            cores = c.cores,
            virtualization = c.virtualization,
            kernel = c.kernel,
            dpdk = c.dpdk,
            rustc = c.rustc,
            commit = c.commit,
            load = c.load_before,
            command = c.command.trim_start_matches("bywash-bench "),
        )
    }
}
