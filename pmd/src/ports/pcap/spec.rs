//! Which files, how often, how fast: as it is typed.

use std::path::PathBuf;

/// The options, for messages.
const OPTIONS: &str =
    "in=FILE, out=FILE, loop=N, loop=forever, speed=max, speed=original, speed=2x, mac=ADDRESS";

/// When frames of a capture are received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Speed {
    /// As fast as they are taken.
    Max,
    /// At their times, so many times as fast.
    Times(f64),
}

// No NaN: `parse` refuses it.
impl Eq for Speed {}

/// What a `pcap:` port reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PcapSpec {
    /// Capture to read.
    pub input: Option<PathBuf>,
    /// Capture to write.
    pub output: Option<PathBuf>,
    /// How often the input is read; `None`: for ever.
    pub passes: Option<u64>,
    /// How fast.
    pub speed: Speed,
}

impl Default for PcapSpec {
    fn default() -> Self {
        Self { input: None, output: None, passes: Some(1), speed: Speed::Max }
    }
}

impl PcapSpec {
    /// Reads one option.
    ///
    /// # Errors
    /// What there is.
    pub(crate) fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("in" | "out", "")) => return Err(format!("option {option:?} names no file")),
            Some(("in", path)) => self.input = Some(path.into()),
            Some(("out", path)) => self.output = Some(path.into()),
            Some(("loop", "forever")) => self.passes = None,
            Some(("loop", passes)) => {
                let passes = passes.parse().ok().filter(|passes| *passes > 0);
                let passes = passes.ok_or_else(|| format!("{option}: 1 or more passes, or loop=forever"))?;
                self.passes = Some(passes);
            }
            Some(("speed", speed)) => {
                self.speed = parse_speed(speed).ok_or_else(|| {
                    format!("{option}: use max, original, or a factor from 0.001x to 1000000x, such as 2x")
                })?
            }
            _ => {
                return Err(format!("option {option:?} is none of {OPTIONS} (a path cannot have a comma)"));
            }
        }
        Ok(())
    }

    /// Whether it makes sense as a whole.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.input.is_none() && self.output.is_none() {
            return Err(
                "no file; say what to read, write or both, as in pcap:in=a.pcap,out=b.pcapng".to_owned()
            );
        }
        Ok(())
    }
}

fn parse_speed(text: &str) -> Option<Speed> {
    match text {
        "max" => Some(Speed::Max),
        "original" => Some(Speed::Times(1.0)),
        factor => {
            let factor = factor.strip_suffix('x').unwrap_or(factor).parse().ok()?;
            (0.001..=1_000_000.0).contains(&factor).then_some(Speed::Times(factor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Result<PcapSpec, String> {
        let mut spec = PcapSpec::default();
        options.split(',').try_for_each(|option| spec.set(option))?;
        spec.check().map(|()| spec)
    }

    #[test]
    fn options_are_read() {
        let spec = parse("in=/tmp/a.pcap,out=b.pcapng,loop=3,speed=2.5x").unwrap();
        assert_eq!(spec.input, Some("/tmp/a.pcap".into()));
        assert_eq!(spec.output, Some("b.pcapng".into()));
        assert_eq!((spec.passes, spec.speed), (Some(3), Speed::Times(2.5)));
        let spec = parse("in=a,loop=forever,speed=original").unwrap();
        assert_eq!((spec.passes, spec.speed), (None, Speed::Times(1.0)));
        assert_eq!(parse("out=a=b").unwrap().output, Some("a=b".into()));
    }

    #[test]
    fn mistakes_say_what_there_is() {
        for (text, says) in [
            ("a.pcap", "none of in=FILE"),
            ("in=", "names no file"),
            ("in=a,loop=0", "loop=forever"),
            ("in=a,loop=x", "loop=forever"),
            ("in=a,speed=0", "such as 2x"),
            ("in=a,speed=nan", "such as 2x"),
            ("in=a,mtu=9", "a path cannot have a comma"),
            ("loop=2", "as in pcap:in=a.pcap"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.contains(says), "{text}: {told}");
        }
    }
}
