//! How a loop rested, and what ended it.

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A port: a frame came, or a driver joined or left.
    Port,
    /// A program's time had come.
    Timer,
    /// A thread or task of an application.
    Thread,
    /// Another core.
    Core,
    /// Whoever controls the engine: stop, a report.
    Control,
    /// None of them: a signal, or a ring that came late.
    Other,
}

impl Wake {
    /// All, in the order of [`Rest::wakes`].
    pub const ALL: [Wake; 6] =
        [Wake::Port, Wake::Timer, Wake::Thread, Wake::Core, Wake::Control, Wake::Other];

    /// As it is called in what is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Wake::Port => "port",
            Wake::Timer => "timer",
            Wake::Thread => "thread",
            Wake::Core => "core",
            Wake::Control => "control",
            Wake::Other => "other",
        }
    }
}

/// What a loop did while there was nothing to do, since it started. All zero for one that polls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Ticks asleep or in a pause: time that the processor was free for others.
    pub ticks: u64,
    /// Times it armed and then found something there already, or a port that cannot wait.
    pub refused: u64,
    /// Pauses of moderation, which nobody can end.
    pub pauses: u64,
    wakes: [u64; Wake::ALL.len()],
}

impl Rest {
    pub(crate) fn woke(&mut self, by: Wake) {
        self.wakes[by as usize] += 1;
    }

    /// Times it slept until something came.
    #[must_use]
    pub fn sleeps(&self) -> u64 {
        self.wakes.iter().sum()
    }

    /// Sleeps by what ended them.
    pub fn wakes(&self) -> impl Iterator<Item = (Wake, u64)> + '_ {
        Wake::ALL.into_iter().zip(self.wakes)
    }

    /// Sleeps that `by` ended.
    #[must_use]
    pub fn woken_by(&self, by: Wake) -> u64 {
        self.wakes[by as usize]
    }
}
