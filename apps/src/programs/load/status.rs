//! How often each HTTP status came, and whether answers are as long as they should be.

use super::http::Answer;

/// Status codes with a counter of their own (RFC 9110 §15), in order, and their counters' names.
const CODES: [(u16, &str); 22] = [
    (200, "status_200"),
    (204, "status_204"),
    (206, "status_206"),
    (301, "status_301"),
    (302, "status_302"),
    (303, "status_303"),
    (304, "status_304"),
    (307, "status_307"),
    (308, "status_308"),
    (400, "status_400"),
    (401, "status_401"),
    (403, "status_403"),
    (404, "status_404"),
    (405, "status_405"),
    (408, "status_408"),
    (414, "status_414"),
    (429, "status_429"),
    (431, "status_431"),
    (500, "status_500"),
    (501, "status_501"),
    (502, "status_502"),
    (503, "status_503"),
];

/// Answers by status.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statuses {
    counts: [u64; CODES.len()],
    other: u64,
    /// Bytes of the first good answer's body: the others' must be as long.
    body_bytes: Option<u64>,
    other_length: u64,
}

impl Statuses {
    /// Counts an answer; false if it is none to be content with: a status from 400 on, or a body of another length than
    /// the first one's.
    #[inline]
    pub fn count(&mut self, answer: &Answer) -> bool {
        match CODES.iter().position(|(code, _)| *code == answer.status) {
            Some(at) => self.counts[at] += 1,
            None => self.other += 1,
        }
        if answer.status != 200 {
            return answer.status < 400;
        }
        let is_same = *self.body_bytes.get_or_insert(answer.body_bytes) == answer.body_bytes;
        self.other_length += u64::from(!is_same);
        is_same
    }

    /// Shows the statuses that came.
    pub fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        for ((_, name), count) in CODES.iter().zip(self.counts) {
            if count > 0 {
                visit(name, count);
            }
        }
        if self.other > 0 {
            visit("status_other", self.other);
        }
        visit("other_length", self.other_length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_counted_and_lengths_compared() {
        let mut statuses = Statuses::default();
        let answer = |status, body_bytes| Answer { status, body_bytes, closes: false };
        for (status, bytes, is_good) in [
            (200, 5, true),
            (200, 5, true),
            (200, 6, false),
            (304, 0, true),
            (404, 9, false),
            (599, 0, false),
        ] {
            assert_eq!(statuses.count(&answer(status, bytes)), is_good, "{status}");
        }
        let mut shown = Vec::new();
        statuses.counters(&mut |name, count| shown.push((name, count)));
        let expected = [
            ("status_200", 3),
            ("status_304", 1),
            ("status_404", 1),
            ("status_other", 1),
            ("other_length", 1),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn names_and_codes_agree() {
        for (code, name) in CODES {
            assert_eq!(format!("status_{code}"), name);
        }
    }
}
