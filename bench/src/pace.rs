//! How long and how often to measure.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

/// The flags that all benchmarks share.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Pace {
    /// Rounds of each contender
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Seconds of each round
    #[arg(long, global = true, default_value_t = 3.0, value_parser = positive)]
    pub seconds: f64,

    /// One short round of each: shows that it works, measures nothing of worth
    #[arg(long, global = true)]
    pub smoke: bool,

    /// Measure a round again if other programs took more than this share of the processor
    #[arg(long, global = true, default_value_t = 0.03, value_parser = share)]
    pub others_limit: f64,

    /// How many times to measure a disturbed round again; the quietest attempt counts
    #[arg(long, global = true, default_value_t = 3)]
    pub retries: u32,
}

impl Pace {
    /// How long a round is measured.
    pub fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// How long a contender runs before it is measured.
    pub fn settle(&self) -> Duration {
        Duration::from_millis(if self.smoke { 100 } else { 1000 })
    }

    /// Contenders by number, in the order in which they are measured in a round: every other one backwards, so that
    /// none always comes after the same one.
    pub fn order(round: u32, contenders: usize) -> Vec<usize> {
        let order = 0..contenders;
        if round % 2 == 1 { order.rev().collect() } else { order.collect() }
    }

    /// Why figures of this very program should not be believed, if they should not.
    pub fn unoptimised() -> Option<String> {
        let debug = cfg!(all(debug_assertions, not(test)));
        debug.then(|| "built without --release: the figures say nothing".to_owned())
    }

    /// Why a run should not be believed in which others took these shares of the processor, if it should not.
    pub fn caveat(&self, others_shares: impl Iterator<Item = f64>) -> Option<String> {
        if let Some(caveat) = Self::unoptimised() {
            return Some(caveat);
        }
        if self.smoke {
            return Some("a smoke run: shows that it works, and nothing else".to_owned());
        }
        let worst = others_shares.fold(0.0, f64::max);
        (worst > self.others_limit).then(|| {
            let percent = 100.0 * worst;
            format!("disturbed: other programs took up to {percent:.0} % of the processor; measure again")
        })
    }

    /// With `--smoke`: one round of half a second, whatever the machine is busy with.
    pub fn shorten_for_smoke(&mut self) {
        if self.smoke {
            *self = Self { rounds: 1, seconds: 0.5, retries: 0, ..self.clone() };
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("a number of seconds above 0 and at most 3600".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share from 0 to 1".to_owned()),
    }
}
