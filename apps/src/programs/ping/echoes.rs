//! Which echo requests are out, which came back.

/// Sequence numbers there are (RFC 792: 16 bits).
const NUMBERS: usize = 1 << 16;
/// States of a number other than a time.
const NEVER_SENT: u64 = 0;
const ANSWERED: u64 = u64::MAX;

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The first to its request, after so many nanoseconds.
    Fresh(u64),
    /// A further one.
    Duplicate,
    /// One to nothing that was asked.
    Unknown,
}

/// All sequence numbers with what became of them: 512 KiB, allocated once.
#[derive(Debug)]
pub struct Echoes {
    /// Nanoseconds when sent; see the constants.
    states: Box<[u64]>,
    sent: u64,
    answered: u64,
    failed: u64,
}

impl Default for Echoes {
    fn default() -> Echoes {
        Echoes { states: vec![NEVER_SENT; NUMBERS].into(), sent: 0, answered: 0, failed: 0 }
    }
}

impl Echoes {
    /// The number of the next request, which leaves at `now_ns`. Numbers begin at 1, as with ping(8), and come round
    /// after 65,536; a request still unanswered then never will be.
    pub fn send(&mut self, now_ns: u64) -> u16 {
        self.sent += 1;
        // The low 16 bits are the number.
        let number = (self.sent & 0xffff) as u16;
        self.states[usize::from(number)] = now_ns.clamp(NEVER_SENT + 1, ANSWERED - 1);
        number
    }

    /// A reply came.
    pub fn reply(&mut self, number: u16, now_ns: u64) -> Reply {
        let state = &mut self.states[usize::from(number)];
        match *state {
            NEVER_SENT => Reply::Unknown,
            ANSWERED => Reply::Duplicate,
            sent_ns => {
                *state = ANSWERED;
                self.answered += 1;
                Reply::Fresh(now_ns.saturating_sub(sent_ns))
            }
        }
    }

    /// The network said that the request did not arrive. Returns whether that was news.
    pub fn fail(&mut self, number: u16) -> bool {
        let state = &mut self.states[usize::from(number)];
        let was_out = !matches!(*state, NEVER_SENT | ANSWERED);
        if was_out {
            *state = NEVER_SENT;
            self.failed += 1;
        }
        was_out
    }

    /// Requests sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Requests answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Requests of which the network said that they did not arrive.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Requests of which nothing is known yet.
    #[must_use]
    pub fn out(&self) -> u64 {
        self.sent - self.answered - self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_answered_once_whatever_comes() {
        let mut echoes = Echoes::default();
        assert_eq!((echoes.send(0), echoes.send(100)), (1, 2));
        assert_eq!(echoes.reply(2, 350), Reply::Fresh(250));
        assert_eq!(echoes.reply(2, 400), Reply::Duplicate);
        assert_eq!(echoes.reply(3, 400), Reply::Unknown);
        assert_eq!(echoes.reply(0, 400), Reply::Unknown);
        assert!(echoes.fail(1) && !echoes.fail(1) && !echoes.fail(2) && !echoes.fail(9));
        assert_eq!((echoes.sent(), echoes.answered(), echoes.failed(), echoes.out()), (2, 1, 1, 0));
    }

    #[test]
    fn numbers_come_round_and_old_requests_stay_lost() {
        let mut echoes = Echoes::default();
        for now in 1..=NUMBERS as u64 {
            let number = echoes.send(now);
            if number != 5 {
                assert_eq!(echoes.reply(number, now + 7), Reply::Fresh(7));
            }
        }
        for _ in 0..5 {
            echoes.send(1_000_000);
        }
        assert_eq!(echoes.reply(5, 1_000_003), Reply::Fresh(3), "the later of the two");
        assert_eq!(echoes.out(), 5);
    }
}
