//! The engine as a library, and the programs of the `bywash` command, so that tests and benchmarks run the very same
//! code.
//!
//! An application of its own needs three crates, which are shown here: [`engine`] (ports, cores, start and stop),
//! [`stack`] (services on the loop), [`door`] (sockets for threads and tasks). `apps/examples/` has a whole program for each
//! of the ways.
//!
//! | room | what is in it |
//! |---|---|
//! | [`programs`] | what runs on the loop: l2fwd, the generator, rxonly, the echo server, the load client |
//! | [`cli`] | what can be typed, merged with the configuration file |
//! | [`commands`] | which program runs where, one file a subcommand |
//! | [`session`] | one run: start, show, stop, report |
//! | [`output`] | text, JSON and files from what was measured |
//! | [`hist`] | latencies out of files: read, merge, compare |
//! | [`picture`] | latencies as SVG and PNG |
//! | [`report`] | a run as a page of HTML |
//! | [`devices`] | the NICs of this machine, and taking them from the kernel |
//! | [`doctor`] | what is wrong with this machine |
//! | [`dump`] | what passes a port of a running engine |
//! | [`show`], [`stop`] | a running engine's figures, and its end |

pub mod cli;
pub mod commands;
pub mod devices;
pub mod doctor;
pub mod dump;
pub mod engines;
pub mod hist;
pub mod output;
pub mod picture;
pub mod programs;
pub mod report;
pub mod session;
pub mod show;
pub mod stop;

pub use {door, engine, stack};

/// The README's Rust must compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
