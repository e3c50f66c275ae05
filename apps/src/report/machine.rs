//! What a run ran with: the command line, the configuration file, the machine.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::CommandFactory;

/// What a report says about how a run was made.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The command as typed.
    pub command: String,
    /// Name and text of the configuration file, as it was when the run began.
    pub file: Option<(String, String)>,
    /// When it began.
    pub started: String,
    /// The processor's name and number.
    pub(crate) processor: String,
    /// Release of the kernel.
    pub(crate) kernel: String,
}

impl Facts {
    /// Those of this process and machine, now. Reads files of `/proc` and the configuration file.
    #[must_use]
    pub fn now() -> Facts {
        let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
        let command: Vec<String> =
            arguments.iter().map(|argument| quoted(&argument.to_string_lossy())).collect();
        // None if this is no `bywash` command but a program that uses the library.
        let path = crate::cli::Cli::command().try_get_matches_from(&arguments).ok().and_then(|matches| {
            let (_, matches) = matches.subcommand()?;
            matches.try_get_one::<PathBuf>("config").ok().flatten().cloned()
        });
        let file = path.and_then(|path| Some((path.display().to_string(), fs::read_to_string(&path).ok()?)));
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let model = model.map_or("unknown", |(_, name)| name.trim());
        Facts {
            command: command.join(" "),
            file,
            started: httpdate::fmt_http_date(SystemTime::now()),
            processor: format!("{processors} × {model}"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        }
    }

    /// As names and values.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, String)> {
        let version = concat!("bywash ", env!("CARGO_PKG_VERSION")).to_owned();
        let rows = [
            ("command", &self.command),
            ("started", &self.started),
            ("version", &version),
            ("processors", &self.processor),
            ("kernel", &self.kernel),
        ];
        rows.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }
}

/// An argument so that a shell takes it for one; of the program itself only its name.
fn quoted(argument: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:,=+%@".contains(letter);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_can_be_typed_again() {
        assert_eq!(quoted("--port=vfio:0000:00:03.0"), "--port=vfio:0000:00:03.0");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn the_machine_has_a_processor_and_a_kernel() {
        let rows = Facts::now().rows();
        let value = |wanted: &str| rows.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
        assert!(!value("processors").starts_with('0'), "{}", value("processors"));
        assert!(value("kernel").contains('.') && value("started").ends_with("GMT"));
    }
}
