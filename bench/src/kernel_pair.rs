//! The kernel's echo and its client on a core each, over loopback.

use std::time::Duration;

use anyhow::Result;

use crate::comparison::{Counted, Round};
use crate::kernel_echo::KernelEcho;
use crate::kernel_load::{self, Plan};
use crate::our_pair::{CLIENT_CORE, SERVER_CORE};
use crate::pace::Pace;
use crate::quiet::Watch;

/// Bytes of a request of every echo comparison.
pub const MESSAGE_BYTES: usize = 64;

/// One round of `connections` in a closed loop, or of a connection for each request.
///
/// # Errors
/// Those of the server and of the client.
pub fn round(pace: &Pace, connections: usize, reconnect: bool) -> Result<Round> {
    let echo = KernelEcho::start(SERVER_CORE)?;
    let (settle, length) = (pace.settle(), pace.round());
    let plan =
        Plan { core: CLIENT_CORE, connections, message_bytes: MESSAGE_BYTES, reconnect, settle, length };
    // Both are threads of this process.
    let watch = Watch::start(&[std::process::id()])?;
    let outcome = kernel_load::run(plan, echo.addresses())?;
    let others_share = watch.others_share()?;
    // What the last requests carried may be echoed and not read, or read and not echoed.
    std::thread::sleep(Duration::from_millis(20));
    let echoed = echo.stop()?;
    let counted =
        Counted { sent: outcome.bytes_sent, received: echoed, slack: (connections * MESSAGE_BYTES) as u64 };
    Ok(Round {
        rate: outcome.rps,
        cycles_per_packet: None,
        others_share,
        counted,
        latency: Some(outcome.round_trip),
    })
}
