//! Flags of `bywash gen`, and what they mean once checked.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use pmd::port::MAX_BURST;

use super::pacer::Rate;
use super::sizes::{MIN_FRAME_BYTES, Sizes};
use super::template::Mac;
use crate::programs::units;

/// Most flows of a port: a payload numbers them with 16 bits.
pub const MAX_FLOWS: usize = 1 << 16;

/// Buffer size if nothing is said: what DPDK testpmd's flowgen and txonly send.
const DEFAULT_SIZE: usize = 64;

/// What is known of the frames that come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Check {
    /// Frames are numbered and stamped, and each that comes back is checked.
    #[default]
    Full,
    /// Frames are copies of prepared ones, and what comes back is counted.
    Count,
}

/// Flags of `bywash gen`.
#[derive(Clone, Debug, clap::Args)]
pub struct GenArgs {
    /// Bytes of each frame as the port gets it, without FCS (as testpmd counts); 60 to MTU + 14 [default: 64]
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["imix", "pcap"])]
    pub size: Option<usize>,

    /// Mixed sizes: 7:4:1 of 64, 570 and 1518 bytes, or a sequence of RFC 6985 letters (a=64 b=128 c=256 d=512
    /// e=1024 f=1280 g=1518 h=2112 i=9000 j=16000 z=MTU); sizes on the wire, with FCS
    #[arg(long, value_name = "LETTERS", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "pcap")]
    pub imix: Option<String>,

    /// Frames a second on each port, such as 500k or 1.5M, or `unlimited`
    #[arg(long, value_name = "PPS", value_parser = rate, default_value = "unlimited", conflicts_with = "line_rate")]
    pub rate: Rate,

    /// Bits a second on an Ethernet wire for each port, such as 10G: 24 bytes a frame are added for preamble, gap
    /// and FCS
    #[arg(long, value_name = "BPS", value_parser = units::scaled)]
    pub line_rate: Option<u64>,

    /// Flows on each port: UDP source port and IPv4 source differ, frames take turns
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = flows, conflicts_with = "pcap")]
    pub flows: usize,

    /// Frames to send on each port, such as 10M; without it until --seconds or an interrupt
    #[arg(long, value_name = "N", value_parser = units::scaled)]
    pub count: Option<u64>,

    /// What is done with each frame: `full` numbers and stamps it and checks what comes back; `count` sends prepared
    /// frames and counts frames and bytes, as DPDK testpmd's flowgen does, which costs less: no lost, reordered,
    /// duplicated, late, corrupted or foreign frames are told apart, and no round trip is measured
    #[arg(long, value_enum, value_name = "HOW", default_value_t, conflicts_with = "pcap")]
    pub check: Check,

    /// Send the Ethernet frames of a pcap or pcapng file, unchanged, on each port; no loss, order or latency is
    /// counted
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,

    /// Begin again after the last frame of the capture
    #[arg(long = "loop", requires = "pcap", action = ArgAction::SetTrue)]
    pub repeat: bool,

    /// Send each frame of the capture at its recorded time after the first
    #[arg(long, requires = "pcap", action = ArgAction::SetTrue, conflicts_with_all = ["rate", "line_rate"])]
    pub pcap_timing: bool,

    /// Destination address of all frames [default: 02:00:00:00:00:xx, xx the number of the sending port]
    #[arg(long, value_name = "MAC", value_parser = units::mac, conflicts_with = "pcap")]
    pub dst_mac: Option<Mac>,

    /// Source address of all frames [default: the sending port's own]
    #[arg(long, value_name = "MAC", value_parser = units::mac, conflicts_with = "pcap")]
    pub src_mac: Option<Mac>,

    /// How long to wait for the last frames to come back, in milliseconds; what is not back by then is lost
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub drain_ms: u64,

    /// How long to wait before the first frame, in milliseconds from when every port has room to send: DPDK's virtio
    /// driver, for one, throws away what it finds in its receive ring when it starts
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub settle_ms: u64,
}

/// What follows the flags in `bywash gen --help`.
pub const EXAMPLES: &str = "\
Every frame carries the number of the run, its flow and sequence number and the time it was sent. Whatever comes
back on any port is checked against that: lost, reordered (RFC 4737), duplicated, late, corrupted, and the round
trip in nanoseconds. Frames of others are counted as foreign. With --check count or --pcap none of this holds:
whatever comes back is counted. All ports run on one core.

Examples:
  Smallest frames as fast as they go, for ten seconds:
      bywash gen --port vhost-user-server:/tmp/vu.sock --size 60 --seconds 10
  One million frames a second in 1000 flows between two ports, ten million frames each:
      bywash gen --port vfio:0000:00:03.0 --port vfio:0000:00:04.0 --rate 1M --flows 1000 --count 10M
  Mixed sizes that fill a 10 Gbit/s wire; then sizes of your own choice:
      bywash gen --port vfio:0000:00:03.0 --imix --line-rate 10G --seconds 60
      bywash gen --port vfio:0000:00:03.0 --imix=aaaaadg --seconds 60
  A capture, as it was recorded, over and over:
      bywash gen --port vhost-user:/tmp/vu.sock --pcap web.pcapng --pcap-timing --loop --seconds 60";

/// What to generate, checked as far as it can be without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenConfig {
    /// The frames.
    pub frames: Frames,
    /// What is known of those that come back; of replayed ones only their count, whatever it says here.
    pub check: Check,
    /// How fast, on each port.
    pub rate: Rate,
    /// Frames on each port, if limited.
    pub count: Option<u64>,
    /// Frames in a burst at most: as many as the loop receives at once, or what comes back would lag behind.
    pub burst: usize,
    /// How long to wait for the last frames.
    pub drain: Duration,
    /// How long to wait before the first, once every port has room.
    pub settle: Duration,
    /// Data room of the engine's mbufs in bytes, which every frame must fit.
    pub data_room_bytes: usize,
}

/// Which frames to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Frames made here, numbered unless they are only counted.
    Made {
        /// Their sizes.
        sizes: Sizes,
        /// Flows on each port, 1 to [`MAX_FLOWS`].
        flows: usize,
        /// Destination; `None`: 02:00:00:00:00:xx.
        destination: Option<Mac>,
        /// Source; `None`: the port's own.
        source: Option<Mac>,
    },
    /// Those of a capture.
    Replayed {
        /// The file.
        path: PathBuf,
        /// Over and over.
        repeat: bool,
        /// At their recorded times.
        timed: bool,
    },
}

impl Default for GenConfig {
    /// 64-byte frames of one flow, without limit.
    fn default() -> Self {
        Self {
            frames: Frames::Made {
                sizes: Sizes::Fixed(DEFAULT_SIZE),
                flows: 1,
                destination: None,
                source: None,
            },
            check: Check::Full,
            rate: Rate::Unlimited,
            count: None,
            burst: MAX_BURST,
            drain: Duration::from_millis(500),
            settle: Duration::ZERO,
            data_room_bytes: 2048,
        }
    }
}

impl GenArgs {
    /// The flags as one value, for an engine with the default data room.
    pub fn config(&self) -> GenConfig {
        let frames = match &self.pcap {
            Some(path) => {
                Frames::Replayed { path: path.clone(), repeat: self.repeat, timed: self.pcap_timing }
            }
            None => Frames::Made {
                sizes: match (&self.imix, self.size) {
                    (Some(letters), _) if letters.is_empty() => Sizes::SimpleImix,
                    (Some(letters), _) => Sizes::Genome(letters.clone()),
                    (None, size) => Sizes::Fixed(size.unwrap_or(DEFAULT_SIZE)),
                },
                flows: self.flows,
                destination: self.dst_mac,
                source: self.src_mac,
            },
        };
        let rate = self.line_rate.map_or(self.rate, Rate::WireBits);
        let drain = Duration::from_millis(self.drain_ms);
        let settle = Duration::from_millis(self.settle_ms);
        GenConfig {
            frames,
            check: self.check,
            rate,
            count: self.count,
            drain,
            settle,
            ..GenConfig::default()
        }
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "unlimited" => Ok(Rate::Unlimited),
        _ => units::scaled(text)
            .map(Rate::Frames)
            .map_err(|advice| format!("{advice}; for as fast as possible give `unlimited`")),
    }
}

fn flows(text: &str) -> Result<usize, String> {
    match units::scaled(text).map(usize::try_from) {
        Ok(Ok(flows)) if flows <= MAX_FLOWS => Ok(flows),
        _ => Err(format!("give 1 to {MAX_FLOWS} flows")),
    }
}

const _: () = assert!(DEFAULT_SIZE >= MIN_FRAME_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: GenArgs,
    }

    fn parse(line: &str) -> Result<GenConfig, String> {
        Command::try_parse_from(["gen"].into_iter().chain(line.split_whitespace()))
            .map(|command| command.args.config())
            .map_err(|error| error.to_string())
    }

    fn sizes(line: &str) -> Sizes {
        match parse(line).unwrap().frames {
            Frames::Made { sizes, .. } => sizes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_flags_it_is_the_default() {
        assert_eq!(parse(""), Ok(GenConfig::default()));
    }

    #[test]
    fn sizes_are_one_or_a_mix() {
        assert_eq!(sizes("--size 1514"), Sizes::Fixed(1514));
        assert_eq!(sizes("--imix"), Sizes::SimpleImix);
        assert_eq!(sizes("--imix --rate 1k"), Sizes::SimpleImix);
        assert_eq!(sizes("--imix=aabg"), Sizes::Genome("aabg".into()));
        assert!(parse("--imix --size 64").is_err());
    }

    #[test]
    fn rates_are_frames_or_bits() {
        assert_eq!(parse("--rate 1.5M").unwrap().rate, Rate::Frames(1_500_000));
        assert_eq!(parse("--rate unlimited").unwrap().rate, Rate::Unlimited);
        assert_eq!(parse("--line-rate 10G").unwrap().rate, Rate::WireBits(10_000_000_000));
        for bad in [
            "--rate 0",
            "--rate -1",
            "--rate fast",
            "--line-rate 0",
            "--rate 1k --line-rate 1G",
            "--rate 99999999999G",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("--rate 0").unwrap_err().contains("unlimited"));
    }

    #[test]
    fn captures_exclude_what_they_decide_themselves() {
        let Frames::Replayed { path, repeat, timed } =
            parse("--pcap a.pcap --loop --pcap-timing").unwrap().frames
        else {
            panic!("not a replay")
        };
        assert_eq!((path, repeat, timed), (PathBuf::from("a.pcap"), true, true));
        assert!(parse("--pcap a.pcap --rate 1k").is_ok());
        for bad in [
            "--loop",
            "--pcap-timing",
            "--pcap a --size 64",
            "--pcap a --imix",
            "--pcap a --flows 2",
            "--pcap a --check count",
            "--pcap a --pcap-timing --rate 1k",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn frames_are_checked_unless_they_are_to_be_counted() {
        assert_eq!(parse("--check count --flows 3").unwrap().check, Check::Count);
        assert_eq!(parse("--check full").unwrap().check, Check::Full);
        assert!(parse("--check none").is_err());
    }

    #[test]
    fn flows_counts_and_addresses_are_checked() {
        assert_eq!(parse("--count 10M").unwrap().count, Some(10_000_000));
        assert!(parse("--flows 65536").is_ok());
        for bad in ["--flows 0", "--flows 65537", "--count 0", "--dst-mac 1:2:3", "--drain-ms 60001"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("--flows 65537").unwrap_err().contains("1 to 65536"));
    }
}
