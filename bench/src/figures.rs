//! What is done with measured numbers: medians, spreads, ratios.

/// The median; of an even count the mean of the middle two. `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Largest less smallest, as a share of the median. `None` of nothing.
pub fn spread(values: &[f64]) -> Option<f64> {
    let largest = values.iter().copied().reduce(f64::max)?;
    let smallest = values.iter().copied().reduce(f64::min)?;
    Some((largest - smallest) / median(values)?)
}

/// The median of `mine[i] / theirs[i]`.
///
/// Rounds with the same number ran next to each other, so what slowed the machine down for a while
/// slowed both, and their ratio holds; the ratio of two medians would mix rounds far apart.
pub fn paired_ratio(mine: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = mine.iter().zip(theirs).map(|(m, t)| m / t).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_slow_minute_that_hits_both_leaves_the_ratio_alone() {
        let theirs = [10.0, 10.0, 5.0, 5.0];
        let mine = [12.0, 12.0, 6.0, 6.0];
        assert!((paired_ratio(&mine, &theirs).unwrap() - 1.2).abs() < 1e-9);
        assert!((spread(&theirs).unwrap() - 5.0 / 7.5).abs() < 1e-9);
    }
}
