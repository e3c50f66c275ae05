//! Numbers as people read them: three digits and a unit.

/// A time: `812 ns`, `1.84 µs`, `31.0 ms`, `60.0 s`.
#[must_use]
pub fn time_ns(ns: u64) -> String {
    scaled(ns, &[(1, "ns"), (1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s")])
}

/// A count, exact below 10,000: `9999`, `12.3k`, `1.05M`.
#[must_use]
pub fn count(count: u64) -> String {
    if count < 10_000 {
        return count.to_string();
    }
    scaled(count, &[(1_000, "k"), (1_000_000, "M"), (1_000_000_000, "G"), (1_000_000_000_000, "T")])
        .replace(' ', "")
}

/// A rate of something per second: `9.84 Mpps` for the unit `pps`.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // rates are positive and far below 2⁶⁴
pub fn rate(per_second: f64, unit: &str) -> String {
    let steps = [(1, ""), (1_000, "k"), (1_000_000, "M"), (1_000_000_000, "G"), (1_000_000_000_000, "T")];
    let text = scaled(per_second.max(0.0).round() as u64, &steps);
    let (number, scale) = text.split_once(' ').unwrap_or((&text, ""));
    format!("{number} {scale}{unit}")
}

/// A part of a whole in percent, one decimal.
#[must_use]
#[allow(clippy::cast_precision_loss)] // shown with one decimal
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "0.0 %".to_string() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// Three digits of `value` in the largest of `steps` (ascending factors) that leaves a whole number before the point.
fn scaled(value: u64, steps: &[(u64, &str)]) -> String {
    let mut at = steps.iter().rposition(|(factor, _)| value >= *factor).unwrap_or(0);
    loop {
        let (factor, unit) = steps[at];
        if factor == 1 {
            return format!("{value} {unit}");
        }
        // Hundredths of the unit, so that rounding up to the next digit, or the next unit, is seen.
        let hundredths = (u128::from(value) * 100 + u128::from(factor) / 2) / u128::from(factor);
        let number = match hundredths {
            0..1_000 => format!("{}.{:02}", hundredths / 100, hundredths % 100),
            1_000..10_000 => {
                let tenths = (u128::from(value) * 10 + u128::from(factor) / 2) / u128::from(factor);
                if tenths == 1_000 { "100".to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
            }
            _ => ((u128::from(value) + u128::from(factor) / 2) / u128::from(factor)).to_string(),
        };
        if number == "1000" && at + 1 < steps.len() {
            at += 1;
            continue;
        }
        return format!("{number} {unit}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_round_into_the_next_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (1, "1 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (1_844, "1.84 µs"),
            (9_995, "10.0 µs"),
            (99_949, "99.9 µs"),
            (99_960, "100 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (60_000_000_000, "60.0 s"),
        ] {
            assert_eq!(time_ns(ns), text, "{ns}");
        }
    }

    #[test]
    fn counts_are_exact_while_short() {
        for (number, text) in
            [(0, "0"), (9_999, "9999"), (10_000, "10.0k"), (1_050_000, "1.05M"), (u64::MAX, "18446744T")]
        {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn rates_carry_their_unit() {
        assert_eq!(rate(9_842_113.4, "pps"), "9.84 Mpps");
        assert_eq!(rate(0.0, "pps"), "0 pps");
        assert_eq!(rate(5_040_000_000.0, "bit/s"), "5.04 Gbit/s");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "0.0 %");
    }
}
