//! Several contenders measured in turn, round after round, and what comes of it.
//!
//! Contenders alternate within one run (A B A B …), and every other round goes the other way (A B B A),
//! so that a machine which grows slower by the minute favours none of them.

use anyhow::{Context as _, Result};
use comfy_table::{Cell, CellAlignment, Color, Table};
use serde::Serialize;

use crate::figures;
use crate::latency::Latency;
use crate::outcome::Outcome;
use crate::pace::Pace;

/// One measurement of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// What went through the contender per second: packets, unless the comparison's [`Unit`] says otherwise.
    pub rate: f64,
    /// Cycles of its loop's turns that moved packets, by packets.
    pub cycles_per_packet: Option<f64>,
    /// Share of all processor time that went to other programs meanwhile.
    pub others_share: f64,
    /// Packets counted at both ends (bytes, where bytes are what is compared), which must agree.
    pub counted: Counted,
    /// How long each took, where that is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Frames of any kind.
    #[default]
    Packets,
    /// Questions that were answered.
    Requests,
    /// Bits of a stream.
    Bits,
}

impl Unit {
    /// How rates are shown: divided by this, under that heading.
    pub fn shown(self) -> (f64, &'static str) {
        match self {
            Unit::Packets => (1e6, "Mpps"),
            Unit::Requests => (1e3, "k requests/s"),
            Unit::Bits => (1e9, "Gbit/s"),
        }
    }
}

/// The two counts that a measurement checks against each other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counted {
    /// What the sender of the checked direction says it sent.
    pub sent: u64,
    /// What the other end says it received of that.
    pub received: u64,
    /// How many may be under way when the counting ends, as in a ring that is reset.
    pub slack: u64,
}

impl Counted {
    /// # Errors
    /// If nothing was counted or the two counts differ by more than the slack.
    pub fn check(&self) -> Result<()> {
        anyhow::ensure!(self.sent > 0, "no packet was counted: {self:?}");
        let difference = self.sent.abs_diff(self.received);
        anyhow::ensure!(difference <= self.slack, "the ends disagree about the packets: {self:?}");
        Ok(())
    }
}

/// One contender and all its rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Contender {
    /// Its name in tables.
    pub name: String,
    /// Whether it is the peer that we are measured against.
    pub is_peer: bool,
    /// The ratio that this one is to reach, if it is another than that of all.
    pub target: Option<f64>,
    /// Round by round, in time order.
    pub rounds: Vec<Round>,
}

impl Contender {
    /// A contender without rounds.
    pub fn new(name: impl Into<String>, is_peer: bool) -> Self {
        Self { name: name.into(), is_peer, target: None, rounds: Vec::new() }
    }

    /// The same with a target of its own.
    pub fn with_target(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    fn rates(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.rate).collect()
    }

    fn median_rate(&self) -> f64 {
        figures::median(&self.rates()).unwrap_or(0.0)
    }

    /// Of one percentile of the rounds' latencies, in nanoseconds.
    #[allow(clippy::cast_precision_loss)] // a minute is far below 2^52 ns
    fn latencies(&self, percentile: fn(&Latency) -> u64) -> Vec<f64> {
        let latencies = self.rounds.iter().filter_map(|round| round.latency.as_ref());
        latencies.map(|latency| percentile(latency) as f64).collect()
    }

    fn median_cycles(&self) -> Option<f64> {
        let cycles: Vec<f64> = self.rounds.iter().filter_map(|round| round.cycles_per_packet).collect();
        figures::median(&cycles)
    }
}

/// A finished comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The contenders in the order given.
    pub contenders: Vec<Contender>,
    /// The ratio that ours should reach against the best peer.
    pub target: Option<f64>,
    /// What is compared.
    pub unit: Unit,
    /// The pace it was measured at.
    pub pace: Pace,
}

/// One contender's line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Largest share of the processor that others took in one of its rounds.
    pub others_share: f64,
    /// Median rate, in what the table's heading names.
    pub rate: f64,
    /// Largest less smallest rate by the median.
    pub spread: f64,
    /// Median cycles per packet.
    pub cycles_per_packet: Option<f64>,
    /// Median of the rates by those of the best peer in the same round.
    pub ratio: Option<f64>,
    /// Median of the rounds' median and 99th percentile, in nanoseconds.
    pub latency: Option<(f64, f64)>,
    /// Median of the best peer's median latency by this one's in the same round: how many times faster.
    pub latency_ratio: Option<f64>,
}

impl Comparison {
    /// Measures every contender `pace.rounds` times with `measure`, which gets the contender's index.
    ///
    /// A round in which others took more of the processor than the pace allows is measured again, and
    /// of all attempts the quietest one counts.
    ///
    /// # Errors
    /// The first error of `measure`, or of a round whose own check fails.
    pub fn run(
        contenders: Vec<Contender>,
        target: Option<f64>,
        pace: &Pace,
        measure: impl FnMut(usize) -> Result<Round>,
    ) -> Result<Self> {
        Self::run_in(Unit::Packets, contenders, target, pace, measure)
    }

    /// The same for rates of something else than packets.
    ///
    /// # Errors
    /// As [`Comparison::run`].
    pub fn run_in(
        unit: Unit,
        mut contenders: Vec<Contender>,
        target: Option<f64>,
        pace: &Pace,
        mut measure: impl FnMut(usize) -> Result<Round>,
    ) -> Result<Self> {
        let (scale, heading) = unit.shown();
        for number in 0..pace.rounds {
            for index in Pace::order(number, contenders.len()) {
                let contender = &mut contenders[index];
                let mut quietest: Option<Round> = None;
                for attempt in 0..=pace.retries {
                    let about = || format!("{}, round {} of {}", contender.name, number + 1, pace.rounds);
                    let measured = measure(index).with_context(about)?;
                    measured.counted.check().with_context(about)?;
                    let others = measured.others_share;
                    eprintln!(
                        "{:>7.3} {heading}  {}{}",
                        measured.rate / scale,
                        about(),
                        if others > pace.others_limit {
                            format!(" (others took {:.0} % of the processor)", 100.0 * others)
                        } else {
                            String::new()
                        }
                    );
                    if quietest.as_ref().is_none_or(|best| others < best.others_share) {
                        quietest = Some(measured);
                    }
                    if others <= pace.others_limit || attempt == pace.retries {
                        break;
                    }
                }
                contender.rounds.extend(quietest);
            }
        }
        Ok(Self { contenders, target, unit, pace: pace.clone() })
    }

    /// The peer with the highest median rate.
    fn best_peer(&self) -> Option<&Contender> {
        let peers = self.contenders.iter().filter(|contender| contender.is_peer);
        peers.max_by(|a, b| a.median_rate().total_cmp(&b.median_rate()))
    }

    /// The result, contender by contender.
    pub fn lines(&self) -> Vec<Line> {
        let best = self.best_peer().map(Contender::rates);
        let fastest = self.best_peer().map(|peer| peer.latencies(|latency| latency.p50));
        let (scale, _) = self.unit.shown();
        let line = |contender: &Contender| Line {
            name: contender.name.clone(),
            rate: contender.median_rate() / scale,
            spread: figures::spread(&contender.rates()).unwrap_or(0.0),
            cycles_per_packet: contender.median_cycles(),
            others_share: contender.rounds.iter().map(|round| round.others_share).fold(0.0, f64::max),
            ratio: best.as_ref().and_then(|best| figures::paired_ratio(&contender.rates(), best)),
            latency: figures::median(&contender.latencies(|latency| latency.p50))
                .zip(figures::median(&contender.latencies(|latency| latency.p99))),
            latency_ratio: fastest.as_ref().and_then(|fastest| {
                figures::paired_ratio(fastest, &contender.latencies(|latency| latency.p50))
            }),
        };
        self.contenders.iter().map(line).collect()
    }
}

impl Outcome for Comparison {
    fn reaches_target(&self) -> Option<bool> {
        let target = self.target?;
        let ours: Vec<bool> = self
            .contenders
            .iter()
            .zip(self.lines())
            .filter(|(contender, _)| !contender.is_peer)
            .map(|(contender, line)| {
                line.ratio.is_some_and(|ratio| ratio >= contender.target.unwrap_or(target))
            })
            .collect();
        (!ours.is_empty()).then(|| ours.iter().all(|reached| *reached))
    }

    fn target(&self) -> Option<String> {
        let own = self.contenders.iter().filter_map(|one| Some((&one.name, one.target?)));
        let own: String = own.map(|(name, target)| format!(", {name} {target:.2} ×")).collect();
        self.target.map(|target| format!("{target:.2} × the best of the others{own}"))
    }

    fn caveat(&self) -> Option<String> {
        self.pace.caveat(self.lines().iter().map(|line| line.others_share))
    }

    fn table(&self) -> Table {
        let (_, heading) = self.unit.shown();
        let mut table = crate::table::new(["", heading, "range", "cycles/packet", "others' CPU", "ratio"]);
        for (contender, line) in self.contenders.iter().zip(self.lines()) {
            let name = Cell::new(&line.name);
            let ratio = Cell::new(line.ratio.map_or("–".into(), |ratio| format!("{ratio:.3}")));
            let ratio = match (contender.is_peer, contender.target.or(self.target), line.ratio) {
                (false, Some(target), Some(ratio_value)) if ratio_value >= target => ratio.fg(Color::Green),
                (false, Some(_), Some(_)) => ratio.fg(Color::Red),
                _ => ratio,
            };
            let others = Cell::new(format!("{:.1} %", 100.0 * line.others_share));
            let disturbed = line.others_share > self.pace.others_limit;
            let others = if disturbed { others.fg(Color::Yellow) } else { others };
            let cells = [
                Cell::new(format!("{:.3}", line.rate)),
                Cell::new(format!("{:.1} %", 100.0 * line.spread)),
                Cell::new(line.cycles_per_packet.map_or("–".into(), |cycles| format!("{cycles:.1}"))),
                others,
                ratio,
            ];
            let name = if contender.is_peer { name } else { name.fg(Color::Cyan) };
            table.add_row(
                std::iter::once(name)
                    .chain(cells.into_iter().map(|cell| cell.set_alignment(CellAlignment::Right))),
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(rate: f64) -> Round {
        let counted = Counted { sent: 10, received: 10, slack: 0 };
        Round { rate, cycles_per_packet: None, others_share: 0.0, counted, latency: None }
    }

    fn pace(rounds: u32) -> Pace {
        Pace { rounds, seconds: 1.0, smoke: false, others_limit: 0.02, retries: 2 }
    }

    #[test]
    fn a_disturbed_round_is_measured_again_and_the_quietest_counts() {
        let shares = [0.5, 0.1, 0.3];
        let mut attempts = 0_u32;
        let run = Comparison::run(vec![Contender::new("a", true)], None, &pace(1), |_| {
            attempts += 1;
            Ok(Round { others_share: shares[attempts as usize - 1], ..round(f64::from(attempts)) })
        });
        let run = run.unwrap();
        let contender = &run.contenders[0];
        assert_eq!((attempts, contender.rounds.len()), (3, 1));
        assert!((contender.rounds[0].others_share - 0.1).abs() < 1e-9);
        assert!(run.caveat().is_some_and(|caveat| caveat.contains("10 %")));
    }

    #[test]
    fn rounds_alternate_and_every_other_goes_back() {
        let mut order = Vec::new();
        let contenders = vec![Contender::new("a", true), Contender::new("b", false)];
        Comparison::run(contenders, None, &pace(3), |index| {
            order.push(index);
            Ok(round(1.0))
        })
        .unwrap();
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
    }

    #[test]
    fn ours_is_measured_against_the_best_peer() {
        let rates = [8e6, 10e6, 11e6];
        let contenders = vec![
            Contender::new("slow peer", true),
            Contender::new("best peer", true),
            Contender::new("ours", false),
        ];
        let run =
            |target| Comparison::run(contenders.clone(), Some(target), &pace(2), |i| Ok(round(rates[i])));
        let comparison = run(1.05).unwrap();
        assert!((comparison.lines()[2].ratio.unwrap() - 1.1).abs() < 1e-9);
        assert_eq!(comparison.reaches_target(), Some(true));
        assert_eq!(comparison.caveat(), None);
        assert_eq!(run(1.2).unwrap().reaches_target(), Some(false));
    }

    #[test]
    fn ends_that_count_differently_fail_the_run() {
        let contenders = vec![Contender::new("a", true)];
        let lossy = Round { counted: Counted { sent: 100, received: 90, slack: 9 }, ..round(1.0) };
        let run = Comparison::run(contenders.clone(), None, &pace(1), |_| Ok(lossy.clone()));
        assert!(format!("{:#}", run.unwrap_err()).contains("disagree"));
        let silent = Round { counted: Counted { sent: 0, received: 0, slack: 9 }, ..round(1.0) };
        let run = Comparison::run(contenders, None, &pace(1), |_| Ok(silent.clone()));
        assert!(format!("{:#}", run.unwrap_err()).contains("no packet"));
    }
}
