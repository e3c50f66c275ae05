use super::*;
use crate::hist::distribution::Distribution;
use crate::output::hlog::IntervalLog;
use crate::output::{fixture, hgrm as hgrm_writer, json as json_writer};
use proptest::prelude::*;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// Reads `text` as a file called `name`.
fn read_text(text: &[u8], unit: Option<Unit>) -> Result<Run, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, text).unwrap();
    read(&path, "x", unit).map_err(|error| error.to_string().replace(&path.display().to_string(), "x"))
}

/// A log of two intervals, written once.
fn log() -> String {
    static LOG: OnceLock<String> = OnceLock::new();
    LOG.get_or_init(written_log).clone()
}

fn written_log() -> String {
    let mut bytes = Vec::new();
    let mut log = IntervalLog::begin(&mut bytes, "demo", SystemTime::now()).unwrap();
    log.add(&fixture::snapshot()).unwrap();
    log.add(&fixture::snapshot()).unwrap();
    drop(log);
    String::from_utf8(bytes).unwrap()
}

fn summary_histogram(name: &str) -> hdrhistogram::Histogram<u64> {
    fixture::summary().latencies.get(name).unwrap().clone()
}

#[test]
fn a_log_gives_back_every_value_and_interval() {
    let run = read_text(log().as_bytes(), None).unwrap();
    let names: Vec<&str> = run.series.iter().map(|series| series.name.as_str()).collect();
    assert_eq!(names, ["round_trip", "turn", "residence"]);
    for series in &run.series {
        let ours = summary_histogram(&series.name);
        let Distribution::Exact(read) = &series.distribution else { panic!("a log is exact") };
        assert_eq!(read.len(), 2 * ours.len(), "{}", series.name);
        for quantile in [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0] {
            assert_eq!(read.value_at_quantile(quantile), ours.value_at_quantile(quantile), "{}", series.name);
        }
        assert_eq!(series.timeline.intervals().len(), 2);
        assert_eq!(series.timeline.end(), Duration::from_secs(2));
    }
    assert!(run.notes.iter().any(|(_, value)| value.contains("bywash demo")), "{:?}", run.notes);
}

#[test]
fn a_table_gives_back_its_percentiles_name_and_count() {
    let ours = summary_histogram("round_trip");
    let run = read_text(hgrm_writer::text("round_trip", &ours).as_bytes(), None).unwrap();
    let series = run.get("round_trip").unwrap();
    assert_eq!(series.distribution.count(), ours.len());
    for quantile in [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0] {
        // The next row of the table, which is at most a fifth of what is left above.
        let next = ours.value_at_quantile(quantile + (1.0 - quantile) / 5.0);
        let read = series.distribution.value_at(quantile);
        let exact = ours.value_at_quantile(quantile);
        assert!(
            (exact..=ours.highest_equivalent(next)).contains(&read),
            "{quantile}: {read} is not {exact} to {next}"
        );
    }
}

#[test]
fn json_gives_back_its_percentiles() {
    let run = read_text(json_writer::text(&fixture::summary()).as_bytes(), None).unwrap();
    let ours = summary_histogram("residence");
    let read = &run.get("residence").unwrap().distribution;
    assert_eq!((read.count(), read.min_ns(), read.max_ns()), (ours.len(), ours.min(), ours.max()));
    assert_eq!(read.value_at(0.999), ours.value_at_quantile(0.999));
    assert!(run.notes.contains(&("program".to_owned(), "demo".to_owned())), "{:?}", run.notes);
}

#[test]
fn whatever_is_no_such_file_is_told_with_its_line() {
    let table = hgrm_writer::text("turn", &summary_histogram("turn"));
    let rows = table.lines().count();
    let cut_table = table.lines().take(rows / 2).flat_map(|line| [line, "\n"]).collect::<String>();
    let log = log();
    let cut_log = &log[..log.len() - 40];
    let last = cut_log.lines().count();
    let no_interval: String = log.lines().take(6).flat_map(|line| [line, "\n"]).collect();
    let json = json_writer::text(&fixture::summary());
    let swapped = table.lines().rev().flat_map(|line| [line, "\n"]).collect::<String>();
    let cases: Vec<(Vec<u8>, String)> = vec![
        (Vec::new(), "x is empty; did the run".to_owned()),
        (b" \n\n".to_vec(), "x is empty".to_owned()),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0".to_vec(), "x:1: neither an interval log".to_owned()),
        (b"[engine]\ncores = 1\n".to_vec(), "x:1: neither an interval log".to_owned()),
        (cut_log.as_bytes().to_vec(), format!("x:{last}: the histogram cannot be decoded")),
        (
            log.lines().take(6).collect::<Vec<_>>().join("\n").into_bytes(),
            "x:6: the log ends without an".to_owned(),
        ),
        ([no_interval.as_bytes(), b"oops\n"].concat(), "x:7: no interval: ".to_owned()),
        ([b"#[x]\n".as_slice(), b"1.0,\xff\xff\n"].concat(), "x:2: bytes that are no text".to_owned()),
        (cut_table.clone().into_bytes(), format!("x:{}: the table is cut off", rows / 2)),
        (format!("{cut_table}   1.0 0.9").into_bytes(), format!("x:{}: 2 columns of four", rows / 2 + 1)),
        (format!("{cut_table}1 x 3\n").into_bytes(), format!("x:{}: `x` is no number", rows / 2 + 1)),
        (format!("Value\n{swapped}").into_bytes(), "smaller than the line above".to_owned()),
        (b"Value Percentile TotalCount 1/(1-Percentile)\n".to_vec(), "x:1: no row in the table".to_owned()),
        (
            json.as_bytes()[..json.len() / 2].to_vec(),
            "x:1: no JSON object of one run: the object is cut".to_owned(),
        ),
        (format!("{json}{json}").into_bytes(), "x:2: no JSON object of one run".to_owned()),
        (b"{\"a\":1}".to_vec(), "x:1: no `latency_ns`".to_owned()),
        (
            json.replace("\"p90\":2501", "\"p90\":\"2501\"").into_bytes(),
            "round_trip.p90 is missing".to_owned(),
        ),
        (json.replace("\"p90\":2501", "\"p90\":1").into_bytes(), "not in ascending order".to_owned()),
    ];
    for (text, expected) in cases {
        let error = read_text(&text, None).expect_err(&expected);
        assert!(error.contains(&expected), "`{error}` should have `{expected}`");
    }
    let missing = read(Path::new("/nowhere/x.hlog"), "x", None).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read /nowhere/x.hlog");
    assert!(read(Path::new("/"), "x", None).unwrap_err().to_string().starts_with("cannot read /"));
}

#[test]
fn units_are_the_files_own_and_never_mixed() {
    let foreign =
        hgrm_writer::text("turn", &summary_histogram("turn")).replace("#[Latency = turn, Unit = us]\n", "");
    let error = read_text(foreign.as_bytes(), None).unwrap_err();
    assert_eq!(error, "x:1: the table does not say its unit; give --unit ns, us, ms or s");
    let max = |unit| read_text(foreign.as_bytes(), Some(unit)).unwrap().series[0].distribution.max_ns();
    assert_eq!(max(Unit::Ms), 1_000 * max(Unit::Us));

    let ours = hgrm_writer::text("turn", &summary_histogram("turn"));
    let error = read_text(ours.as_bytes(), Some(Unit::Ms)).unwrap_err();
    assert!(error.contains("mixed units: the file says its values are in us, --unit says ms"), "{error}");

    // A log of microseconds: its maxima are divided by 1,000.
    let plain = log().replace(", values in ns]", "]");
    let nothing_said = read_text(plain.as_bytes(), None).unwrap();
    assert_eq!(nothing_said.get("turn").unwrap().distribution.count() % 2, 0, "10⁶ means ns");
    let error =
        read_text(plain.replace("MaxValueDivisor: 1000000", "MaxValueDivisor: 1000").as_bytes(), None);
    assert!(error.as_ref().unwrap_err().contains("mixed units: the interval's maximum is"), "{error:?}");
    let error = read_text(format!("{}#[x, values in us]\n", log()).as_bytes(), None).unwrap_err();
    assert!(error.contains("mixed units: us here, ns in line 1"), "{error}");
}

#[test]
fn a_header_that_promises_gigabytes_is_not_believed() {
    use base64::Engine as _;
    use std::io::Write as _;
    let mut inner = 0x1c84_9303_u32.to_be_bytes().to_vec();
    inner.extend(u32::MAX.to_be_bytes());
    inner.extend([0; 32]);
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&inner).unwrap();
    let packed = packed.finish().unwrap();
    let mut outer = 0x1c84_9304_u32.to_be_bytes().to_vec();
    outer.extend(u32::try_from(packed.len()).unwrap().to_be_bytes());
    outer.extend(packed);
    let line = format!("0.0,1.0,1.0,{}\n", base64::engine::general_purpose::STANDARD.encode(outer));
    let error = read_text(line.as_bytes(), None).unwrap_err();
    assert!(error.contains("x:1: the histogram cannot be decoded (4294967295 bytes of counts"), "{error}");
}

proptest! {
    // Each case of the second reads six histograms of 216 KiB.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in a file, reading it ends with a run or an error that names the file.
    #[test]
    fn no_bytes_make_the_reader_panic(begin in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let begin = ["", "{\"latency_ns\":", "#[x]\n", "Value Percentile\n", "1.0,2.0,3.0,"][begin];
        let text = [begin.as_bytes(), &bytes].concat();
        if let Err(error) = read_text(&text, Some(Unit::Us)) {
            prop_assert!(error.starts_with("x"), "{}", error);
        }
    }

    /// The same of a log of ours in which one byte is another.
    #[test]
    fn a_damaged_log_is_an_error_or_a_run(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = log().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Err(error) = read_text(&bytes, None) {
            prop_assert!(error.starts_with("x"), "{}", error);
        }
    }
}
