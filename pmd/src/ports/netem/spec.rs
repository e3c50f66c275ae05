//! What is wrong with the link, as it is typed.

use std::time::Duration;

use super::rng::Probability;

/// The options, for messages.
const OPTIONS: &str = "loss=P%, duplicate=P%, corrupt=P%, reorder=P%, delay=10ms, limit=FRAMES, seed=N";

/// The longest delay: longer ones are a mistake in the unit.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// The most frames that may be under way in one direction.
const MAX_LIMIT: usize = 1 << 20;

/// What befalls frames, in each direction alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Impairments {
    /// Vanishes.
    pub loss: Probability,
    /// Arrives twice.
    pub duplicate: Probability,
    /// Arrives with one bit wrong.
    pub corrupt: Probability,
    /// Is overtaken by the next one to eight frames.
    pub reorder: Probability,
    /// How long each frame is under way.
    pub delay: Duration,
    /// How many frames are under way at most, each way; more wait at their sender.
    pub limit: usize,
    /// Which accidents.
    pub seed: u64,
}

impl Default for Impairments {
    fn default() -> Self {
        Self {
            loss: Probability::default(),
            duplicate: Probability::default(),
            corrupt: Probability::default(),
            reorder: Probability::default(),
            delay: Duration::ZERO,
            limit: 512,
            seed: 1,
        }
    }
}

impl Impairments {
    /// Reads `loss=1%,reorder=5%,seed=7`; nothing at all is a perfect link.
    ///
    /// # Errors
    /// Which option is wrong, and what there is.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut this = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (key, value) =
                option.split_once('=').ok_or_else(|| format!("option {option:?} is none of {OPTIONS}"))?;
            let probability = || {
                Probability::parse(value)
                    .ok_or_else(|| format!("{option}: use a percentage from 0% to 100%, such as 1% or 0.05%"))
            };
            match key {
                "loss" => this.loss = probability()?,
                "duplicate" => this.duplicate = probability()?,
                "corrupt" => this.corrupt = probability()?,
                "reorder" => this.reorder = probability()?,
                "delay" => {
                    this.delay = duration(value).ok_or_else(|| {
                        format!("{option}: use a time such as 10ms, 500us or 1s, up to 60s")
                    })?;
                }
                "limit" => {
                    this.limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (2..=MAX_LIMIT).contains(limit))
                        .ok_or_else(|| format!("{option}: use 2 to {MAX_LIMIT} frames"))?;
                }
                "seed" => {
                    this.seed = value.parse().map_err(|_| format!("{option}: use a whole number"))?;
                }
                _ => return Err(format!("option {option:?} is none of {OPTIONS}")),
            }
        }
        Ok(this)
    }

    /// Whether it ever copies a frame.
    pub(super) fn copies(&self) -> bool {
        !(self.duplicate.is_never() && self.corrupt.is_never())
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number = number.parse().ok()?;
    let duration = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    (duration <= MAX_DELAY).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read =
            Impairments::parse("loss=1%,duplicate=2%,corrupt=0.5%,reorder=5%,delay=10ms,limit=9,seed=7")
                .unwrap();
        let percent = |text| Probability::parse(text).unwrap();
        assert_eq!(
            read,
            Impairments {
                loss: percent("1%"),
                duplicate: percent("2%"),
                corrupt: percent("0.5%"),
                reorder: percent("5%"),
                delay: Duration::from_millis(10),
                limit: 9,
                seed: 7,
            }
        );
        assert_eq!(Impairments::parse("").unwrap(), Impairments::default());
    }

    #[test]
    fn mistakes_say_what_there_is() {
        for (text, says) in [
            ("loss", "none of loss=P%"),
            ("lost=1%", "none of loss=P%"),
            ("loss=1", "such as 1%"),
            ("delay=10", "10ms"),
            ("delay=61s", "up to 60s"),
            ("limit=1", "2 to 1048576"),
            ("seed=x", "whole number"),
        ] {
            let told = Impairments::parse(text).unwrap_err();
            assert!(told.contains(says), "{text}: {told}");
        }
    }
}
