//! The running kernel as the peer of `tap:` and `xdp:` ports, in network namespaces that the tests make.
//!
//! `BYWASH_REQUIRE=netns` makes a skip a failure.

mod configure;
mod conformance;
mod echo;
mod forwarding;
mod host;
mod http;
mod life;
mod offload;
mod ping;
mod port;
mod refusals;
mod several_cores;
mod sleeping;
mod xdp;

use std::time::Duration;

use peers::netns::{self, Netns};
use peers::require::{self, Suite};

/// For programs that end by themselves.
const SOON: Duration = Duration::from_secs(40);

/// A fresh namespace, or `None` after having said why there can be none.
fn namespace_with(programs: &[&str]) -> Option<Netns> {
    match netns::unavailable_with(programs) {
        None => Some(Netns::new().unwrap()),
        Some(why) => {
            require::skip(Suite::Netns, why);
            None
        }
    }
}
