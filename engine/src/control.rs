//! The control socket: a Unix stream socket on which other processes ask a running engine something.
//!
//! ```text
//!   /run/bywash/NAME/control.sock       root's engines; $XDG_RUNTIME_DIR/bywash/NAME/ else; $BYWASH_RUNTIME_DIR/NAME/ first
//!
//!   → {"bywash":1,"request":"dump","port":"loop:a"}\n            one line, at most 4 KiB
//!   ← {"bywash":1,"ok":true,…}\n                                 one line; or "ok":false and "error":"…"
//!   ← …                                                          what the request is about, to the end of the stream
//! ```
//!
//! One thread accepts, and one for each connection answers: at most 32 at a time.
//! The loops have no part in it. Who may connect is a matter of the folder's and the socket's permissions: their owner and
//! group.

mod acceptor;
mod ask;
mod directory;
mod metrics;
mod requests;
mod server;
mod show;
mod telemetry;
mod view;

pub use ask::{AskError, ask, ask_line};
pub use directory::{ControlError, Folder, runtime_folder};
pub(crate) use metrics::Metrics;
pub(crate) use requests::handlers;
pub(crate) use server::Server;
pub use show::Subject;
pub(crate) use telemetry::Telemetry;
pub use telemetry::telemetry_folder;
pub(crate) use view::{Facts, LcoreFacts, PortFacts, View};

use std::net::SocketAddr;
use std::path::PathBuf;

/// Version of the protocol: what `bywash` says in requests and answers.
pub const VERSION: u64 = 1;

/// Whether, and under which name, an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its name: letters, digits, `-`, `_` and `.`, at most 64.
    pub name: String,
    /// What runs on it, for whoever lists the engines.
    pub program: String,
    /// Below which folder its own is; `None`: [`runtime_folder`].
    pub folder: Option<PathBuf>,
    /// Where to speak DPDK's telemetry protocol besides, if anywhere: [`telemetry_folder`].
    pub telemetry: Option<PathBuf>,
    /// Where to serve a page of metrics for Prometheus besides, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Whether the engine refuses to start without its control socket; else the reason is logged and it runs all the same.
    pub required: bool,
}
