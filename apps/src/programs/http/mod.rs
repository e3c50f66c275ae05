//! `bywash http`: files, or one fixed answer, over HTTP/1.1 on the loop.
//!
//! | room | what is in it |
//! |---|---|
//! | [`request`] | a head's bytes to a [`request::Request`] |
//! | [`target`], [`site`], [`librarian`] | its target to a key, the key to a file in memory, the thread that reads files |
//! | [`range`], [`content_type`], [`head`], [`answer`] | what is answered |
//! | [`connection`], [`service`] | one connection's life, without a stack; all of a core's, with one |

pub mod answer;
pub mod connection;
pub mod content_type;
pub mod head;
pub mod librarian;
pub mod range;
pub mod request;
pub mod service;
pub mod site;
pub mod target;

use std::path::PathBuf;
use std::time::Duration;

pub use service::HttpConfig;

use crate::cli::flags::seconds;
use crate::programs::units;

/// The port of HTTP.
const PORT: u16 = 80;

/// Flags of `bywash http`.
#[derive(Clone, Debug, clap::Args)]
pub struct HttpArgs {
    /// Folder whose files are served; without it every request has the answer --body
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// The answer to every request, as plain text
    #[arg(long, value_name = "TEXT", default_value = "hello", conflicts_with = "root")]
    pub body: String,

    /// TCP port to listen on
    #[arg(long, value_name = "PORT", default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub tcp_port: u16,

    /// Most bytes of files in memory, old versions that are still being sent included, such as 500M; what lies beyond
    /// is answered 503
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = units::scaled)]
    pub root_limit: u64,

    /// Look for changed files every so many seconds; 0 for never
    #[arg(long, value_name = "S", default_value = "1", value_parser = rescan)]
    pub rescan: Rescan,

    /// End connections whose peer sends no whole request, or takes no byte of an answer, for so many seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub idle_timeout: Duration,
}

/// How often to look; `None` for never.
// A name of its own, as clap takes an `Option` for a flag that may be missing.
pub type Rescan = std::option::Option<Duration>;

/// What follows the flags in `bywash http --help`.
pub const EXAMPLES: &str = "\
HTTP/1.1 and 1.0: GET and HEAD, connections that stay, pipelining, one range at a time, ETag and Last-Modified. Heads of \
8 KiB at most (431), other methods are answered 405.

Files are read by a thread of their own into memory, as no loop may wait for a disk: 65,536 files, --root-limit bytes. \
Not served: names that begin with a dot (but .well-known), and symbolic links that lead out of the folder. A folder is \
answered with its index.html.

Examples:
  A folder on a NIC, on two cores:
      bywash http --port vfio:0000:00:03.0 -l 1,2 --ip 10.0.0.2/24 --gateway 10.0.0.254 --root /srv/www
  The kernel as client, through a TAP interface:
      bywash http --port tap:bw0 --ip 10.0.0.2/24 --root . &
      ip addr add 10.0.0.1/24 dev bw0; ip link set bw0 up; curl http://10.0.0.2/README.md
  A fixed answer, for `bywash load --protocol http` on the other end of a vhost-user socket:
      bywash http --port vhost-user-server:/tmp/x.sock --ip 10.0.0.2/24 --body hello";

fn rescan(text: &str) -> Result<Rescan, String> {
    if text == "0" { Ok(None) } else { seconds(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: HttpArgs,
    }

    fn parse(line: &str) -> Result<HttpArgs, String> {
        let words = ["http"].into_iter().chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_or_a_text_and_not_both() {
        let args = parse("--root /srv --rescan 0 --root-limit 500M --idle-timeout 2.5").unwrap();
        assert_eq!((args.root, args.rescan, args.root_limit), (Some("/srv".into()), None, 500_000_000));
        assert_eq!(args.idle_timeout, Duration::from_millis(2_500));
        assert_eq!(parse("").unwrap().body, "hello");
        assert_eq!(parse("--body x --rescan 3").unwrap().rescan, Some(Duration::from_secs(3)));
        assert!(parse("--root /srv --body x").unwrap_err().contains("cannot be used with"));
        assert!(parse("--tcp-port 0").unwrap_err().contains("1..=65535"));
        assert!(parse("--rescan soon").is_err() && parse("--idle-timeout 0").is_err());
    }
}
