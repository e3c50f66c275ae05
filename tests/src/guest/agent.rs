//! The line to the guest's first process: shell scripts in, output and exit status out.
//!
//! Both directions are hexadecimal lines over a serial port, so nothing on the way can change a byte; the other
//! end is `tests/vm/init`.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What a command in the guest gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status of the shell.
    pub status: u32,
    /// Standard output and standard error, in the order they were written.
    pub text: String,
}

/// Host's end of the second serial port.
#[derive(Debug)]
pub(super) struct Agent {
    reader: BufReader<UnixStream>,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Agent {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream), partial: Vec::new() }
    }

    /// Waits for the guest to say that it takes commands.
    pub(super) fn wait_ready(&mut self, deadline: Instant) -> Result<()> {
        while self.line(deadline)? != "READY" {}
        Ok(())
    }

    /// Runs a shell script and waits for its end.
    pub(super) fn run(&mut self, script: &str, deadline: Instant) -> Result<Output> {
        let mut line = encode(script.as_bytes());
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes()).context("write to the guest")?;
        let mut bytes = Vec::new();
        loop {
            let line = self.line(deadline)?;
            match line.strip_prefix("END ") {
                Some(status) => {
                    return Ok(Output {
                        status: status.parse().with_context(|| format!("exit status {status:?}"))?,
                        text: String::from_utf8_lossy(&bytes).into_owned(),
                    });
                }
                None => bytes.extend(decode(&line).with_context(|| format!("the guest said {line:?}"))?),
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer in time");
            }
            // Short waits, because the deadline covers many reads.
            self.reader.get_ref().set_read_timeout(Some(left.min(Duration::from_millis(200))))?;
            match self.reader.read_until(b'\n', &mut self.partial) {
                Ok(0) => bail!("the guest is gone"),
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = String::from_utf8_lossy(&self.partial).trim().to_owned();
                    self.partial.clear();
                    return Ok(line);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("read from the guest"),
            }
        }
    }
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(line: &str) -> Option<Vec<u8>> {
    let pairs = line.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that answers each line it gets with the next of `answers`, then hangs up.
    fn scripted(answers: &'static [&'static str]) -> Agent {
        let (host, guest) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(guest);
            for answer in answers {
                reader.read_line(&mut String::new()).unwrap();
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        Agent::new(host)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn output_and_status_come_back() {
        let mut agent = scripted(&["68656c\n6c6f0a\nEND 3\n", "END 0\n"]);
        let output = agent.run("echo hello; exit 3", soon()).unwrap();
        assert_eq!(output, Output { status: 3, text: "hello\n".into() });
        assert_eq!(agent.run("true", soon()).unwrap().text, "");
    }

    #[test]
    fn a_guest_that_dies_is_an_error() {
        let mut agent = scripted(&["6865\n"]);
        let error = agent.run("poweroff -f", soon()).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn a_silent_guest_is_an_error_in_time() {
        let (host, _guest) = UnixStream::pair().unwrap();
        let error = Agent::new(host).run("true", Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }

    #[test]
    fn what_is_not_hexadecimal_is_refused() {
        assert_eq!(decode("zz"), None);
        assert_eq!(decode("616"), Some(vec![0x61, 6]));
        assert_eq!(decode(&encode(b"\x00\xff")), Some(vec![0, 255]));
    }
}
