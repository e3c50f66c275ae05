use super::*;

const PROGRAMS: [&str; 2] = ["l2fwd", "gen"];

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.toml"), &PROGRAMS)
}

/// The message of a text that must be refused.
fn refusal(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn a_full_file_gives_every_value() {
    let config = parse(
        r#"
        [engine]
        cores = [1, 2]
        burst = 32
        mbufs = 8192
        rxd = 256
        txd = 512
        page-size = "2M"
        node = 0

        [[port]]
        spec = "loop:a"
        [[port]]
        spec = "vfio:0000:00:03.0"
        rxd = 1024

        [l2fwd]
        forward-mode = "macswap"

        [gen]
        frame = [64, 1518]
        rate = 1.5
        imix = true
        "#,
    )
    .unwrap();
    assert_eq!(config.engine.cores.as_ref().unwrap().as_slice(), [1, 2]);
    assert_eq!((config.engine.burst, config.engine.mbufs), (Some(32), Some(8192)));
    assert_eq!((config.engine.rxd, config.engine.txd), (Some(256), Some(512)));
    assert_eq!((config.engine.page_size, config.engine.node), (Some(PageSize::Huge2M), Some(0)));
    assert_eq!(
        config.ports,
        [PortTable::new("loop:a"), PortTable { rxd: Some(1024), ..PortTable::new("vfio:0000:00:03.0") }]
    );
    let options = &config.program("gen").unwrap().options;
    assert_eq!(options[0].values, ["64", "1518"]);
    assert_eq!(options[1].values, ["1.5"]);
    assert_eq!((options[2].key.as_str(), options[2].is_switch, options[2].line), ("imix", true, 23));
    assert_eq!(config.program("l2fwd").unwrap().options[0].values, ["macswap"]);
}

#[test]
fn an_empty_file_gives_nothing_and_the_command_line_wins() {
    assert_eq!(parse("").unwrap(), Config::default());
    let file = parse("[engine]\nburst = 16\nrxd = 64").unwrap().engine;
    let typed = EngineTable { burst: Some(48), ..EngineTable::default() };
    let both = typed.or(file);
    assert_eq!((both.burst, both.rxd, both.txd), (Some(48), Some(64), None));
}

#[test]
fn unknown_keys_are_refused_with_line_and_choices() {
    let message = refusal("[engine]\nburst = 1\nbrust = 2");
    assert!(message.starts_with("test.toml:3: unknown field `brust`"), "{message}");
    assert!(message.contains("`burst`") && message.contains("`page-size`"), "{message}");

    let message = refusal("\n[[port]]\nspec = \"loop:a\"\nmtu = 9000");
    assert!(message.starts_with("test.toml:4: unknown field `mtu`"), "{message}");

    let message = refusal("\n\n[l3fwd]\nx = 1");
    assert_eq!(
        message,
        "test.toml:3: unknown table or key `l3fwd`; allowed: [engine], [[port]], [l2fwd], [gen]"
    );
}

#[test]
fn values_out_of_range_are_refused_with_line_and_range() {
    for (line, range) in [
        ("burst = 65", "65 is not allowed; use 1 to 64"),
        ("burst = 0", "0 is not allowed; use 1 to 64"),
        ("mbufs = -1", "-1 is not allowed; use 64 to 4194304"),
        ("rxd = 7", "7 is not allowed; use 8 to 32768"),
        ("txd = 65536", "65536 is not allowed; use 8 to 32768"),
        ("page-size = \"4K\"", "page size `4K` is not known; use auto, ordinary, 2M or 1G"),
        ("cores = []", "the list of cores is empty"),
        ("cores = [1, 1]", "core 1 is listed twice; each loop needs a core of its own"),
        ("cores = \"3-1\"", "the range 3-1 runs backwards; write 1-3"),
        ("cores = 5", "expected a list of cores such as [1, 3] or \"1,3-5\""),
        ("burst = \"many\"", "invalid type: string \"many\", expected i64"),
    ] {
        let message = refusal(&format!("[engine]\n\n{line}\n"));
        assert!(message.starts_with("test.toml:3: ") && message.contains(range), "{line}: {message}");
    }
}

#[test]
fn text_that_is_not_toml_or_has_the_wrong_shape_is_refused_with_its_line() {
    assert!(refusal("[engine]\nburst = ").starts_with("test.toml:2: "));
    assert_eq!(refusal("[port]\nspec = \"loop:a\""), "test.toml:1: write [[port]], in double brackets");
    assert!(refusal("[[port]]\nrxd = 64").starts_with("test.toml:1: missing field `spec`"));
    assert!(refusal("\ngen = 3").contains("must be a table"));
    assert!(refusal("[gen]\nrate = { a = 1 }").starts_with("test.toml:2: `rate` has a table"));
}

#[test]
fn core_lists_are_read_as_dpdk_users_write_them() {
    let list = |text: &str| text.parse::<Cores>().map(|cores| cores.as_slice().to_vec());
    assert_eq!(list("0"), Ok(vec![0]));
    assert_eq!(list("1,3-5, 7"), Ok(vec![1, 3, 4, 5, 7]));
    for wrong in ["", "a", "1,", "-1", "1-", "1-2-3", "9999", "0-99999999999", "1,1"] {
        assert!(list(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::read(Path::new("/nonexistent/x.toml"), &PROGRAMS).unwrap_err();
    assert_eq!(error.to_string(), "cannot read configuration file /nonexistent/x.toml");
}
