use std::path::{Path, PathBuf};

use clap::CommandFactory;
use engine::config::{Cores, PortTable};

use super::*;
use crate::programs::generator::pacer::Rate;

fn typed(line: &str) -> Result<(Cli, engine::config::Config), Failure> {
    parse(line.split_whitespace().map(OsString::from))
}

/// Parses a command line in which `FILE` stands for a configuration file of this text.
fn with_file(line: &str, text: &str) -> Result<(Cli, engine::config::Config), Failure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    std::fs::write(&path, text).unwrap();
    typed(&line.replace("FILE", path.to_str().unwrap()))
}

fn generator(line: &str, text: &str) -> (Gen, engine::config::Config) {
    match with_file(line, text) {
        Ok((Cli { command: Command::Gen(args) }, file)) => (args, file),
        other => panic!("{other:?}"),
    }
}

/// The message of a usage failure, from `x.toml` on.
fn usage(line: &str, text: &str) -> String {
    match with_file(line, text) {
        Err(Failure::Usage(error)) => error.to_string().split_once("x.toml:").unwrap().1.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_has_examples_and_exit_codes_in_its_help() {
    let mut command = Cli::command();
    for program in PROGRAMS.into_iter().chain(["doctor", "dump", "show", "stop"]) {
        let help = command.find_subcommand_mut(program).unwrap().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{program}: {help}");
    }
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let text = "
        [engine]
        burst = 16
        rxd = 256
        [[port]]
        spec = \"loop:x\"
        [gen]
        rate = \"1M\"
        flows = 100
        drain-ms = 5
    ";
    let (args, file) = generator("bywash gen --config FILE --burst 32 --flows 7 -l 0,2-3", text);
    assert_eq!((args.args.rate, args.args.flows, args.args.drain_ms), (Rate::Frames(1_000_000), 7, 5));
    let settings = Settings::new(&args.shared.engine, &args.shared.ports.ports, file.clone());
    assert_eq!(
        (settings.engine.burst, settings.engine.rxd, settings.engine.txd),
        (Some(32), Some(256), None)
    );
    assert_eq!(settings.engine.cores, Some("0,2,3".parse::<Cores>().unwrap()));
    assert_eq!(settings.ports, [PortTable::new("loop:x")]);
    let settings = Settings::new(&args.shared.engine, &["loop:y".to_string()], file);
    assert_eq!(settings.ports, [PortTable::new("loop:y")]);
}

#[test]
fn what_is_typed_drives_out_what_excludes_it_in_the_file() {
    let (args, _) = generator("bywash gen --config FILE --line-rate 1G", "[gen]\nrate = \"1M\"");
    assert_eq!((args.args.rate, args.args.line_rate), (Rate::Unlimited, Some(1_000_000_000)));
}

#[test]
fn switches_and_options_that_need_each_other_work_in_any_order() {
    let (args, _) =
        generator("bywash gen --config FILE", "[gen]\nloop = true\npcap-timing = false\npcap = \"a.pcap\"");
    assert!(args.args.repeat && !args.args.pcap_timing);
    assert_eq!(args.args.pcap, Some(PathBuf::from("a.pcap")));
}

#[test]
fn wrong_options_are_refused_with_line_and_choices() {
    let message = usage("bywash gen --config FILE", "[gen]\nrate = \"1M\"\nflow = 3");
    assert!(message.starts_with("3: unknown key `flow` in [gen]; allowed: "), "{message}");
    assert!(
        message.contains("flows") && message.contains("stats-period") && !message.contains("burst"),
        "{message}"
    );

    let message = usage("bywash gen --config FILE", "\n[gen]\nflows = 70000");
    assert!(
        message.starts_with("3: invalid value '70000'") && message.ends_with("give 1 to 65536 flows"),
        "{message}"
    );

    let message = usage("bywash l2fwd --config FILE", "[l2fwd]\nforward-mode = \"swap\"");
    assert!(message.starts_with("2: ") && message.contains("macswap"), "{message}");

    let message = usage("bywash gen --config FILE", "[gen]\nloop = true");
    assert!(message.starts_with("2: [gen]: ") && message.contains("--pcap"), "{message}");

    let message = usage("bywash gen --config FILE", "[gen]\nsize = 64\nimix = true\npcap = \"x\"");
    assert!(message.starts_with("3: "), "{message}");
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for (line, range) in [
        ("--burst 65", "use 1 to 64"),
        ("--rxd 7", "use 8 to 32768"),
        ("--mbufs many", "`many` is not a whole number"),
        ("--seconds 0", "at least 0.001"),
        ("--cores 3-1", "runs backwards"),
    ] {
        match typed(&format!("bywash l2fwd --port loop:a {line}")) {
            Err(Failure::CommandLine(error)) => {
                assert!(error.to_string().contains(range), "{error}");
                assert_eq!(error.exit_code(), 2);
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_program_without_ports_says_how_to_give_one() {
    let Ok((Cli { command: Command::L2fwd(args) }, file)) = typed("bywash l2fwd") else { panic!() };
    let settings = Settings::new(&args.shared.engine, &args.shared.ports.ports, file);
    match settings.with_ports("l2fwd") {
        Err(Failure::Usage(error)) => assert!(error.to_string().contains("--port SPEC"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_misspelt_port_is_a_usage_error_before_anything_starts() {
    let Ok((Cli { command: Command::L2fwd(args) }, file)) = typed("bywash l2fwd --port eth0") else {
        panic!()
    };
    let settings = Settings::new(&args.shared.engine, &args.shared.ports.ports, file);
    match settings.with_ports("l2fwd") {
        Err(Failure::Usage(error)) => assert!(error.to_string().contains("a port is one of"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_example_configuration_is_accepted_by_the_program_it_is_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let name = path.file_stem().unwrap().to_str().unwrap();
        // A file is named after its program: l2fwd-vfio.toml.
        let program = name.split('-').next().unwrap();
        if let Err(failure) = typed(&format!("bywash {program} --config {}", path.display())) {
            panic!("{}: {failure:?}", path.display());
        }
    }
    assert!(seen >= 5, "{seen} example configurations in {}", folder.display());
}
