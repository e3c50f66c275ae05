//! The configuration file: TOML text to checked values, errors with file, line and what would be allowed.
//!
//! `[engine]` and each `[[port]]` are read here, completely. A table named after a program (`[l2fwd]`, `[gen]`) is
//! handed on as a list of options with their lines: its keys are the program's long command-line flags, so that the
//! program's own flag definitions check it, and a flag exists in one place.
//!
//! Every value is optional. What stands on the command line wins over the file ([`EngineTable::or`]); what stands in
//! neither is the engine's default.

mod limits;
mod program;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use thiserror::Error;
use toml::de::{DeTable, DeValue, ValueDeserializer};

pub use limits::{BURST, DEFAULT_DESCRIPTORS, MBUFS, RING, burst, descriptors, mbufs};
pub use program::{ProgramOption, ProgramTable};

use crate::idle::Idle;
use pmd::mem::PageSize;

/// A configuration file that could not be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// As it was given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its contents are wrong.
    #[error("{}:{line}: {message}", path.display())]
    Content {
        /// As it was given.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there, and what would be right.
        message: String,
    },
}

/// A configuration file's contents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[engine]`.
    pub engine: EngineTable,
    /// `[[port]]`, in the file's order.
    pub ports: Vec<PortTable>,
    /// The tables named after programs.
    pub programs: Vec<ProgramTable>,
}

/// `[engine]`: what all programs share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EngineTable {
    /// Processors to run on, one loop each.
    pub cores: Option<Cores>,
    /// Most frames taken from a queue per turn; [`BURST`].
    #[serde(default, deserialize_with = "limits::de_burst")]
    pub burst: Option<usize>,
    /// Packet buffers in all; [`MBUFS`].
    #[serde(default, deserialize_with = "limits::de_mbufs")]
    pub mbufs: Option<usize>,
    /// Descriptors of each receive queue: a power of two in [`RING`].
    #[serde(default, deserialize_with = "limits::de_descriptors")]
    pub rxd: Option<u16>,
    /// Descriptors of each transmit queue: a power of two in [`RING`].
    #[serde(default, deserialize_with = "limits::de_descriptors")]
    pub txd: Option<u16>,
    /// What cores do while nothing comes: `poll`, `adaptive` or `interrupt`.
    #[serde(default, deserialize_with = "limits::de_idle")]
    pub idle: Option<Idle>,
    /// Pages of the memory that devices reach: `auto`, `ordinary`, `2M` or `1G`.
    #[serde(default, deserialize_with = "limits::de_page_size")]
    pub page_size: Option<PageSize>,
    /// NUMA node of that memory.
    pub node: Option<u32>,
    /// Whether received TCP segments are joined in software; see [`Engine::gro`](crate::Engine::gro).
    pub gro: Option<bool>,
}

impl EngineTable {
    /// These values, and where there is none, the other's.
    #[must_use]
    pub fn or(self, other: EngineTable) -> EngineTable {
        EngineTable {
            cores: self.cores.or(other.cores),
            burst: self.burst.or(other.burst),
            mbufs: self.mbufs.or(other.mbufs),
            rxd: self.rxd.or(other.rxd),
            txd: self.txd.or(other.txd),
            idle: self.idle.or(other.idle),
            page_size: self.page_size.or(other.page_size),
            node: self.node.or(other.node),
            gro: self.gro.or(other.gro),
        }
    }
}

/// `[[port]]`: one port to open.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PortTable {
    /// The port string, as on the command line: `vfio:0000:00:03.0`, `vhost-user:/run/x.sock`, `loop:a`, …
    pub spec: String,
    /// Descriptors of each receive queue, in place of `[engine]`'s.
    #[serde(default, deserialize_with = "limits::de_descriptors")]
    pub rxd: Option<u16>,
    /// Descriptors of each transmit queue, in place of `[engine]`'s.
    #[serde(default, deserialize_with = "limits::de_descriptors")]
    pub txd: Option<u16>,
}

impl PortTable {
    /// A port of which only the port string is given.
    #[must_use]
    pub fn new(spec: impl Into<String>) -> PortTable {
        PortTable { spec: spec.into(), rxd: None, txd: None }
    }
}

/// A list of processors without repetition, such as `1,3-5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// Highest processor number that Linux on x86-64 can be built for (`CONFIG_NR_CPUS`), less one.
    pub const LAST: usize = 8191;

    /// The processors, in the order given.
    #[must_use]
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    fn checked(cores: Vec<usize>) -> Result<Cores, String> {
        for (at, core) in cores.iter().enumerate() {
            if *core > Self::LAST {
                return Err(format!("core {core} is beyond the last possible, {}", Self::LAST));
            }
            if cores[..at].contains(core) {
                return Err(format!("core {core} is listed twice; each loop needs a core of its own"));
            }
        }
        if cores.is_empty() { Err("the list of cores is empty".to_string()) } else { Ok(Cores(cores)) }
    }
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Cores, String> {
        let number =
            |part: &str| {
                part.trim().parse::<usize>().ok().filter(|core| *core <= Self::LAST).ok_or_else(|| {
                    format!("`{text}` is not a list of cores such as 1,3-5 (0 to {})", Self::LAST)
                })
            };
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => cores.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("the range {first}-{last} runs backwards; write {last}-{first}"));
                    }
                    cores.extend(first..=last);
                }
            }
        }
        Cores::checked(cores)
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cores, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Cores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of cores such as [1, 3] or \"1,3-5\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cores, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Cores, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = list.next_element()? {
                    cores.push(core);
                }
                Cores::checked(cores).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Config {
    /// Reads a file. `programs` are the names that tables may have beside `engine` and `port`.
    ///
    /// # Errors
    /// [`ConfigError`], with the line.
    pub fn read(path: &Path, programs: &[&str]) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        Config::parse(&text, path, programs)
    }

    /// Checks a file's text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Content`].
    pub fn parse(text: &str, path: &Path, programs: &[&str]) -> Result<Config, ConfigError> {
        let content = |span: Option<Range<usize>>, message: String| ConfigError::Content {
            path: path.to_path_buf(),
            line: line_of(text, span.map_or(0, |span| span.start)),
            message,
        };
        let from_toml = |error: toml::de::Error| content(error.span(), one_line(error.message()));

        let mut config = Config::default();
        for (key, value) in DeTable::parse(text).map_err(from_toml)?.into_inner() {
            let span = value.span();
            match key.get_ref().as_ref() {
                "engine" => {
                    config.engine =
                        EngineTable::deserialize(ValueDeserializer::from(value)).map_err(from_toml)?;
                }
                "port" if matches!(value.get_ref(), DeValue::Array(_)) => {
                    config.ports =
                        Vec::<PortTable>::deserialize(ValueDeserializer::from(value)).map_err(from_toml)?;
                }
                "port" => {
                    return Err(content(Some(key.span()), "write [[port]], in double brackets".to_string()));
                }
                name if programs.contains(&name) => {
                    let table = program::read(name, value, |at| line_of(text, at))
                        .map_err(|(span, message)| content(Some(span), message))?;
                    config.programs.push(table);
                }
                name => {
                    let mut allowed = vec!["[engine]".to_string(), "[[port]]".to_string()];
                    allowed.extend(programs.iter().map(|program| format!("[{program}]")));
                    let message = format!("unknown table or key `{name}`; allowed: {}", allowed.join(", "));
                    return Err(content(Some(key.span().start..span.end), message));
                }
            }
        }
        Ok(config)
    }

    /// The options of one program, if the file has its table.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&ProgramTable> {
        self.programs.iter().find(|table| table.name == name)
    }
}

/// The line, from 1, that byte `at` of `text` stands on.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// The parser's message on one line.
fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
