//! Latency files read back with HdrHistogram's own Python package: the same counts, the same percentiles, the same
//! table.
//!
//! Needs a Python with the package `hdrhistogram`: the one that `BYWASH_PYTHON` names, or else `python3`.
//! `./ci.sh hist` makes one under `target/`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use bywash::output::{hgrm, hlog::IntervalLog};
use engine::latency::{Latencies, RESIDENCE, TURN};
use engine::stats::{CoreReport, CoreSnapshot, Snapshot};
use engine::tsc::Tsc;
use peers::require::{Suite, skip};

const PERCENTILES: [f64; 6] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
const INTERVALS: u64 = 3;

/// A Python that has the package, or why there is none.
fn python() -> Result<String, String> {
    let python = std::env::var("BYWASH_PYTHON").unwrap_or_else(|_| "python3".to_string());
    match Command::new(&python).args(["-c", "import hdrh"]).output() {
        Ok(output) if output.status.success() => Ok(python),
        Ok(_) => Err(format!("{python} has no package hdrhistogram; run ./ci.sh hist")),
        Err(error) => Err(format!("{python} cannot be started: {error}")),
    }
}

/// An interval of one core: values from 100 ns to seconds, most of them small, different in each interval.
fn interval(number: u64) -> Snapshot {
    let mut latencies = Latencies::new(&[RESIDENCE, TURN]);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number + 1);
    for _ in 0..20_000 {
        // xorshift64: Marsaglia, "Xorshift RNGs" (2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let magnitude = (state >> 60).min(state & 31);
        latencies.record(0, 100 + ((state >> 32 & 0x3ff) << magnitude), 1 + (state >> 8 & 31));
        latencies.record(1, 50 + (state >> 40 & 0xfff), 1);
    }
    let total = CoreReport { latencies: latencies.clone(), ..CoreReport::new(0, None, &[], &[]) };
    Snapshot {
        elapsed: Duration::from_millis(250 * (number + 1)),
        interval: Duration::from_millis(250),
        tsc: Tsc::from_hz(1_000_000_000),
        ports: Vec::new(),
        cores: vec![CoreSnapshot { total, interval: latencies, silent: false }],
        port_events: Vec::new(),
    }
}

/// A log of some intervals, and all of them added up.
fn write_log(path: &Path, numbers: std::ops::Range<u64>) -> Latencies {
    let mut log = IntervalLog::begin(fs::File::create(path).unwrap(), "test", SystemTime::now()).unwrap();
    let mut all = Latencies::new(&[]);
    for number in numbers {
        let snapshot = interval(number);
        log.add(&snapshot).unwrap();
        all.merge(&snapshot.cores[0].interval);
    }
    all
}

/// What the package finds in a log.
fn read_back(python: &str, log: &Path) -> serde_json::Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hist/read_back.py");
    let percentiles = PERCENTILES.map(|percentile| percentile.to_string());
    let output = Command::new(python).arg(script).arg(log).args(percentiles).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `bywash hist` in `folder`, as typed.
fn hist(folder: &Path, line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bywash"));
    let output = command.arg("hist").args(line.split_whitespace()).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn python_hdrhistogram_reads_what_hist_merges() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(Suite::Hist, why),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut all = write_log(&path("a.hlog"), 0..2);
    all.merge(&write_log(&path("b.hlog"), 0..4));
    let (code, stdout, stderr) =
        hist(folder.path(), "--merge a.hlog b.hlog --hlog all.hlog --hgrm all.hgrm --json");
    assert_eq!(code, Some(0), "{stderr}");

    let read = read_back(&python, &path("all.hlog"));
    let ours: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    for (name, sum) in all.iter() {
        let theirs = &read["tags"][name];
        assert_eq!(theirs["count"], sum.len(), "{name}");
        for (at, percentile) in PERCENTILES.into_iter().enumerate() {
            assert_eq!(
                theirs["percentiles"][at],
                sum.value_at_percentile(percentile),
                "{name} at {percentile} %"
            );
        }
        assert_eq!(ours["runs"][0]["latency_ns"][name]["p99_9"], theirs["percentiles"][4], "{name}");
    }
    // Six intervals of a quarter of a second, one behind the other.
    assert!(
        read["intervals"].as_array().unwrap().iter().all(|interval| interval[1] == 1_500),
        "{}",
        read["intervals"]
    );
    check_table(
        RESIDENCE,
        &fs::read_to_string(path("all.hgrm")).unwrap(),
        &recorded(&read["tags"][RESIDENCE]),
    );
}

#[test]
fn hist_compares_draws_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_log(&path("a.hlog"), 0..3);
    let b = write_log(&path("b.hlog"), 3..4);
    fs::write(path("b.hgrm"), hgrm::text(TURN, b.get(TURN).unwrap())).unwrap();
    let line = "before=a.hlog b.hlog b.hgrm --latency turn --plot ab.svg --plot ab.png --report ab.html";
    let (code, stdout, stderr) = hist(folder.path(), line);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr.lines().collect::<Vec<_>>(), ["wrote ab.svg", "wrote ab.png", "wrote ab.html"]);
    // The log and the table of one name are called by their files.
    for word in ["turn", "before", "b.hlog", "b.hgrm", "× the first", "99.99 %"] {
        assert!(stdout.contains(word), "{word} is missing:\n{stdout}");
    }
    assert!(!stdout.contains(RESIDENCE), "{stdout}");
    let png = fs::read(path("ab.png")).unwrap();
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(u32::from_be_bytes(png[16..20].try_into().unwrap()), 1_920, "twice the picture's 960 pixels");
    let svg = fs::read_to_string(path("ab.svg")).unwrap();
    let page = fs::read_to_string(path("ab.html")).unwrap();
    assert!(svg.contains("turn by percentile") && page.contains("turn by percentile"));
    assert!(page.contains("before: turn"), "the run of three intervals has a time series");
}

#[test]
fn hist_says_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let all = write_log(&path("a.hlog"), 0..1);
    fs::write(path("t.hgrm"), hgrm::text(TURN, all.get(TURN).unwrap())).unwrap();
    fs::write(path("cut.hgrm"), "Value Percentile TotalCount 1/(1-Percentile)\n\n 1.0 0.5").unwrap();
    for (line, code, expected) in [
        ("nothing.hlog", 1, "cannot read nothing.hlog"),
        ("cut.hgrm", 1, "cut.hgrm:3: 2 columns of four"),
        ("--merge a.hlog t.hgrm", 2, "t.hgrm has percentiles only"),
        ("a.hlog t.hgrm --hlog x.hlog", 2, "--hlog writes one run, 2 are given; add --merge"),
        ("a.hlog --latency connect", 2, "no file has a latency `connect`; there are: residence, turn"),
        ("a.hlog --plot x.pdf", 2, "x.pdf: pictures are .svg or .png"),
        ("a.hlog --plot /nowhere/x.svg", 1, "cannot write /nowhere/x.svg"),
        ("t.hgrm --unit ms", 1, "mixed units"),
        ("", 2, "required"),
    ] {
        let (found, _, stderr) = hist(folder.path(), line);
        assert_eq!((found, stderr.contains(expected)), (Some(code), true), "`{line}`: {stderr}");
    }
}

#[test]
fn python_hdrhistogram_reads_our_files_and_finds_the_same_percentiles() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(Suite::Hist, why),
    };
    let folder = tempfile::tempdir().unwrap();
    let log_path = folder.path().join("run.hlog");
    let all = write_log(&log_path, 0..INTERVALS);
    let read = read_back(&python, &log_path);

    assert_eq!(read["intervals"].as_array().unwrap().len(), 2 * 3, "{}", read["intervals"]);
    assert!(read["intervals"].as_array().unwrap().iter().all(|interval| interval[1] == 250));
    for (name, ours) in all.iter() {
        let theirs = &read["tags"][name];
        assert_eq!(theirs["count"], ours.len(), "{name}");
        assert_eq!(theirs["min"], ours.min(), "{name}");
        assert_eq!(theirs["max"], ours.max(), "{name}");
        for (at, percentile) in PERCENTILES.into_iter().enumerate() {
            let value = ours.value_at_percentile(percentile);
            assert_eq!(theirs["percentiles"][at], value, "{name} at {percentile} %");
        }
        check_table(name, &hgrm::text(name, ours), &recorded(theirs));
    }
}

/// The recorded values and the number of values up to each, as the package sees them.
fn recorded(theirs: &serde_json::Value) -> Vec<(u64, u64)> {
    let pairs = theirs["recorded"].as_array().unwrap();
    pairs.iter().map(|pair| (pair[0].as_u64().unwrap(), pair[1].as_u64().unwrap())).collect()
}

/// Checks each row of our `.hgrm` table against the values that the package read: the row's value is one of them, its
/// count is the one up to that value, and both belong to the row's percentile. (The package's own table cannot be
/// compared row by row: it takes other steps than HdrHistogram's Java library, whose format this is.)
#[allow(clippy::cast_precision_loss)] // counts far below 2⁵³
fn check_table(name: &str, table: &str, recorded: &[(u64, u64)]) {
    let rows: Vec<Vec<f64>> = table
        .lines()
        .skip(2)
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|field| field.parse().unwrap()).collect())
        .collect();
    assert!(rows.len() > 50, "{name}: {} rows", rows.len());
    let total = recorded.last().unwrap().1 as f64;
    for row in &rows {
        let [value_us, quantile, count] = row[..3] else { panic!("{name}: short row {row:?}") };
        let at = recorded.iter().position(|(value, _)| (*value as f64 / 1000.0 - value_us).abs() < 0.0006);
        let at = at.unwrap_or_else(|| panic!("{name}: {value_us} µs was never recorded"));
        let below = if at == 0 { 0 } else { recorded[at - 1].1 };
        assert_eq!(recorded[at].1 as f64, count, "{name}: count up to {value_us} µs");
        // The last bits of a percentile's floating-point sum decide where a step falls exactly on a count.
        let wanted = quantile * total;
        assert!(
            below as f64 <= wanted + 1e-3 && wanted <= count + 1e-3,
            "{name}: {value_us} µs is not at {quantile}"
        );
        if let Some(inverse) = row.get(3) {
            assert!((inverse - 1.0 / (1.0 - quantile)).abs() <= 0.005 + inverse * 1e-6, "{name}: {row:?}");
        }
    }
    let last = rows.last().unwrap();
    assert_eq!((last.len(), last[1], last[2]), (3, 1.0, total), "{name}: the last row is 100 %");
}
