//! What an echo request of 64 bytes costs, both ends on one thread: `echo_cost [flows [active [requests]]]`.
//!
//! Run it with `--release`; with `valgrind --tool=callgrind` the count of instructions is the same in every run.

#[path = "../tests/wire/mod.rs"]
#[allow(dead_code)]
mod wire;

use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let flows = args.next().unwrap_or(1);
    let active = args.next().unwrap_or(flows).min(flows);
    let requests = args.next().unwrap_or(1_000_000) as u64;
    let mut pair = wire::Pair::new(flows.max(1024));
    pair.open(flows);
    pair.start(active);
    // Once around, so that all memory has been touched.
    pair.answers(active as u64 * 4, 10_000);
    let begin = Instant::now();
    pair.answers(requests, 10_000);
    let ns = begin.elapsed().as_secs_f64() * 1e9 / requests as f64;
    println!("{flows} flows, {active} active: {ns:.0} ns a request, both ends");
}
