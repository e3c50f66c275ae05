//! Parts of files: `Range`, one range at a time (RFC 9110 §14).

use std::ops::Range;

use super::request::number;

/// What a `Range` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything: there is no range, or none that is understood, which a server may ignore.
    Whole,
    /// These bytes of it.
    Bytes(Range<u64>),
    /// Bytes that it does not have.
    Unsatisfiable,
}

/// The part of a file of `bytes` that the field's `value` asks for. Several ranges count as not understood: they would
/// be answered in a multipart body, or with everything.
#[must_use]
pub fn part(value: &[u8], bytes: u64) -> Part {
    let Some((first, last)) = ends(value) else { return Part::Whole };
    match (first, last) {
        (End::None, End::At(count)) if count == 0 || bytes == 0 => Part::Unsatisfiable,
        (End::None, End::At(count)) => Part::Bytes(bytes.saturating_sub(count)..bytes),
        (End::At(first), _) if first >= bytes => Part::Unsatisfiable,
        (End::At(first), End::None) => Part::Bytes(first..bytes),
        (End::At(first), End::At(last)) if first <= last => {
            Part::Bytes(first..last.saturating_add(1).min(bytes))
        }
        _ => Part::Whole,
    }
}

/// One end of a range.
#[derive(Clone, Copy)]
enum End {
    None,
    At(u64),
}

fn ends(value: &[u8]) -> Option<(End, End)> {
    let (unit, range) = value.split_at(value.iter().position(|byte| *byte == b'=')?);
    let range = range[1..].trim_ascii();
    let dash = range.iter().position(|byte| *byte == b'-')?;
    let end = |text: &[u8]| match text {
        b"" => Some(End::None),
        // A number that is too large for 64 bits lies behind the end of every file.
        digits if digits.iter().all(u8::is_ascii_digit) => Some(End::At(number(digits).unwrap_or(u64::MAX))),
        _ => None,
    };
    let (first, last) = (end(&range[..dash])?, end(&range[dash + 1..])?);
    (unit.eq_ignore_ascii_case(b"bytes")).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_and_suffix_ranges_are_cut_to_the_file() {
        for (value, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-", 0..10),
            ("bytes=3-5", 3..6),
            ("Bytes= 3-99 ", 3..10),
            ("bytes=9-99999999999999999999999", 9..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
        ] {
            assert_eq!(part(value.as_bytes(), 10), Part::Bytes(expected), "{value}");
        }
    }

    #[test]
    fn ranges_behind_the_end_are_unsatisfiable() {
        for value in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(part(value.as_bytes(), 10), Part::Unsatisfiable, "{value}");
        }
        assert_eq!(part(b"bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(part(b"bytes=-1", 0), Part::Unsatisfiable);
    }

    #[test]
    fn what_is_not_understood_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-3",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=a-b",
            "bytes=0--1",
        ] {
            assert_eq!(part(value.as_bytes(), 10), Part::Whole, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_lies_in_the_file(value in "bytes=[0-9-]{0,5}", bytes in 0_u64..200) {
            if let Part::Bytes(part) = part(value.as_bytes(), bytes) {
                prop_assert!(part.start < part.end && part.end <= bytes);
            }
        }
    }
}
