//! Dice with a seed.

/// SplitMix64: a counter, scrambled. Every seed gives a good sequence. Source: Steele, Lea, Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

/// The counter's step: 2^64 divided by the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// The `stream`-th sequence of `seed`.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut of_seed = Self(seed);
        Self(of_seed.next() ^ Self(stream).next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// How often something happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probability(u64);

impl Probability {
    /// In a draw of 32 bits.
    const ALWAYS: u64 = 1 << 32;

    /// Reads `1%` or `0.05%`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and 2^32
        #[allow(clippy::cast_precision_loss)] // a power of two
        Some(Self((percent / 100.0 * Self::ALWAYS as f64).round() as u64))
    }

    pub(super) fn is_never(self) -> bool {
        self.0 == 0
    }

    /// Whether it happens, by a draw of the dice.
    pub(super) fn hits(self, draw: u64) -> bool {
        draw >> 32 < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The reference implementation's first values for seed 1234567.
        let mut rng = Rng(1_234_567);
        assert_eq!(rng.next(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn probabilities_are_percentages_and_hit_as_often() {
        for bad in ["", "%", "1", "101%", "-1%", "NaN%", "0,5%"] {
            assert_eq!(Probability::parse(bad), None, "{bad}");
        }
        let mut rng = Rng::new(7, 0);
        let mut hits = |text| {
            let probability = Probability::parse(text).unwrap();
            (0..100_000).filter(|_| probability.hits(rng.next())).count()
        };
        assert_eq!((hits("0%"), hits("100%")), (0, 100_000));
        assert!((900..1100).contains(&hits("1%")));
        assert!((49_000..51_000).contains(&hits("50%")));
    }
}
