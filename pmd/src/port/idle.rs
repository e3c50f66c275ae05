//! Whether a core may sleep on a queue pair.

/// The answer of a queue pair that was asked to tell of the next frame: [`QueuePair::arm`](super::QueuePair::arm).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// The next frame will make itself known.
    Armed,
    /// There is something to do already: do not sleep, poll.
    Ready,
    /// Nobody will tell: it has to be polled.
    CannotWait,
}

impl Arm {
    /// The answer for two queue pairs: the one that keeps the core awake.
    #[must_use]
    pub fn and(self, other: Arm) -> Arm {
        self.max(other)
    }
}

#[cfg(test)]
mod tests {
    use super::Arm;

    #[test]
    fn one_that_is_awake_keeps_all_awake() {
        assert_eq!(Arm::Armed.and(Arm::Armed), Arm::Armed);
        assert_eq!(Arm::Armed.and(Arm::Ready), Arm::Ready);
        assert_eq!(Arm::Ready.and(Arm::CannotWait), Arm::CannotWait);
        assert_eq!(Arm::CannotWait.and(Arm::Armed), Arm::CannotWait);
    }
}
