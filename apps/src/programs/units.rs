//! Values as people write them on a command line: `10M`, `2.5G`, `unlimited`, `02:00:00:00:00:01`.

/// Reads a positive number with an optional fraction and suffix `k`, `M` or `G` (powers of 1000, either case):
/// `1.5M` is 1,500,000. Exact: nothing passes through floating point.
///
/// # Errors
/// A sentence for clap, which puts the flag's name before it.
pub fn scaled(text: &str) -> Result<u64, String> {
    let advice = "give a positive number with an optional suffix k, M or G, such as 500k or 1.5M";
    let (digits, scale) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000u64),
        _ => (text, 1),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(advice.into());
    }
    let whole: u64 =
        if whole.is_empty() { 0 } else { whole.parse().map_err(|_| "it is too large".to_string())? };
    let mut value = whole.checked_mul(scale).ok_or("it is too large")?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        if place == 0 && digit != b'0' {
            return Err("it is not a whole number; use a larger suffix or fewer decimals".into());
        }
        value = value.checked_add(u64::from(digit - b'0') * place).ok_or("it is too large")?;
    }
    if value == 0 { Err(advice.into()) } else { Ok(value) }
}

/// Reads a number of bytes with an optional suffix `K` or `M` (powers of 1024, either case): `64K` is 65,536.
///
/// # Errors
/// A sentence for clap.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (digits, scale) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1usize),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("give a number of bytes with an optional suffix K or M, such as 1500 or 64K".into());
    }
    let number = digits.parse::<usize>().ok();
    number.and_then(|number| number.checked_mul(scale)).ok_or_else(|| "it is too large".into())
}

/// Reads six bytes in hexadecimal, separated by colons or dashes.
///
/// # Errors
/// A sentence for clap.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let advice = || "a MAC address is six pairs of hexadecimal digits, such as 02:00:00:00:00:01".to_string();
    let mut address = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut address {
        let part = parts
            .next()
            .filter(|part| part.len() <= 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
        *byte = u8::from_str_radix(part.ok_or_else(advice)?, 16).map_err(|_| advice())?;
    }
    if parts.next().is_some() { Err(advice()) } else { Ok(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_scale_exactly() {
        for (text, value) in [
            ("1", 1),
            ("64", 64),
            ("500k", 500_000),
            ("10M", 10_000_000),
            ("1.5M", 1_500_000),
            (".5k", 500),
            ("14.880952m", 14_880_952),
            ("2.5G", 2_500_000_000),
            ("100.", 100),
            ("7.000", 7),
        ] {
            assert_eq!(scaled(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_positive_whole_number_is_refused() {
        for text in [
            "",
            "0",
            "0k",
            "k",
            ".",
            "-5",
            "+5",
            "1e6",
            "0x10",
            "1.0005k",
            "1_000",
            "5T",
            "99999999999999999999",
            "18446744073709551615k",
            "é",
            "5µ",
        ] {
            assert!(scaled(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_scale_by_1024() {
        for (text, value) in [("0", 0), ("1500", 1500), ("64K", 65_536), ("4m", 4 << 20)] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "K", "-1", "1.5K", "64KiB", "1G", "99999999999999999999", "99999999999999999M"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mac_addresses_are_read_in_both_spellings() {
        assert_eq!(mac("02:00:00:00:00:ff"), Ok([2, 0, 0, 0, 0, 0xff]));
        assert_eq!(mac("AA-BB-cc-1-2-3"), Ok([0xaa, 0xbb, 0xcc, 1, 2, 3]));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:gg",
            "020:0:0:0:0:1",
            "+2:00:00:00:00:01",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
    }
}
