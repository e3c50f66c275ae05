//! `bywash http` with the clients that people use.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::SOON;
use super::host::{Host, OURS, bytes};

/// How long a hundred thousand requests may take, or 100 MB, on a machine that is busy with other things.
const LONG: Duration = Duration::from_secs(180);

/// From nothing to what no buffer holds.
const FILES: [(&str, usize); 9] = [
    ("empty", 0),
    ("one", 1),
    ("segment-1", 1459),
    ("segment", 1460),
    ("segment+1", 1461),
    ("64K", 65_536),
    ("64K+1", 65_537),
    ("1M", 1 << 20),
    ("100M", 100_000_000),
];

/// A folder with the first `count` of those files.
fn site(count: usize) -> TempDir {
    let folder = tempfile::Builder::new().prefix("bywash-site-").tempdir().unwrap();
    for (name, len) in &FILES[..count] {
        fs::write(folder.path().join(name), bytes(*len, *len as u64)).unwrap();
    }
    folder
}

fn serve(programs: &[&str], port: &str, root: &Path) -> Option<Host> {
    Host::start(programs, "http", port, &format!("--root {}", root.display()))
}

/// The URLs of a file, one for each family.
fn urls(path: &str) -> [String; 2] {
    [format!("http://{}/{path}", OURS[0]), format!("http://[{}]/{path}", OURS[1])]
}

#[test]
fn curl_gets_files_of_all_lengths_byte_for_byte() {
    let site = site(FILES.len());
    let Some(host) = serve(&["curl"], "tap:bw0", site.path()) else { return };
    let got = site.path().join("got");
    for (name, len) in FILES {
        for url in urls(name) {
            let args =
                format!("-sS --globoff -o {} -w %{{http_code}},%{{size_download}} {url}", got.display());
            assert_eq!(host.run("curl", &args, LONG), format!("200,{len}"), "{url}");
            assert!(
                fs::read(&got).unwrap() == fs::read(site.path().join(name)).unwrap(),
                "{url}: other bytes than the file's"
            );
        }
    }
    let told = host.run("curl", &format!("-sS -o /dev/null -w %{{http_code}} {}", urls("none")[0]), SOON);
    assert_eq!(told, "404");
    let told = host.run("curl", &format!("-sS -I {}", urls("1M")[0]), SOON);
    assert!(told.to_lowercase().contains("content-length: 1048576"), "{told}");
    let told = host.run("curl", &format!("-sS -r 10-19 {} -o {}", urls("1M")[0], got.display()), SOON);
    assert_eq!(told, "");
    assert!(fs::read(&got).unwrap() == bytes(1 << 20, 1 << 20)[10..20]);
    host.stop();
}

#[test]
fn curl_gets_a_file_through_a_bad_link() {
    let site = site(8);
    let port = "netem:loss=1%,reorder=5%,duplicate=1%,corrupt=0.5%,seed=5/tap:bw0";
    let Some(host) = serve(&["curl"], port, site.path()) else { return };
    let got = site.path().join("got");
    for url in urls("1M") {
        host.run("curl", &format!("-sS --globoff -o {} {url}", got.display()), LONG);
        assert!(fs::read(&got).unwrap() == bytes(1 << 20, 1 << 20), "{url}");
    }
}

/// Runs `ab` for 100,000 requests, 100 at a time; all must be answered as they should.
fn ab(flags: &str) -> String {
    let site = site(3);
    let Some(host) = serve(&["ab"], "tap:bw0", site.path()) else { return String::new() };
    let told = host.run("ab", &format!("-q -n 100000 -c 100 {flags} {}", urls("segment-1")[0]), LONG);
    assert_eq!(figure(&told, "Complete requests:"), 100_000, "{told}");
    assert_eq!(figure(&told, "Failed requests:"), 0, "{told}");
    assert_eq!(figure(&told, "HTML transferred:"), 100_000 * 1459, "{told}");
    assert!(!told.contains("Non-2xx"), "{told}");
    println!("ab {flags}: {} requests/s", figure(&told, "Requests per second:"));
    host.stop();
    told
}

/// The whole number that follows `label`.
fn figure(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    let number = word.and_then(|word| word.split('.').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {label:?} in: {text}"))
}

#[test]
fn ab_keeps_its_connections_and_loses_no_request() {
    let told = ab("-k");
    if !told.is_empty() {
        assert_eq!(figure(&told, "Keep-Alive requests:"), 100_000, "{told}");
    }
}

#[test]
fn ab_makes_a_hundred_thousand_connections_and_loses_no_request() {
    ab("");
}

#[test]
fn wrk_sees_no_error() {
    let site = site(3);
    let Some(host) = serve(&["wrk"], "tap:bw0", site.path()) else { return };
    let told = host.run("wrk", &format!("-t 1 -c 64 -d 3s {}", urls("segment-1")[0]), SOON);
    assert!(!told.contains("Socket errors") && !told.contains("Non-2xx"), "{told}");
    assert!(figure(&told, "Requests/sec:") > 100, "{told}");
    println!("wrk: {} requests/s", figure(&told, "Requests/sec:"));
    host.stop();
}

/// The server ends its half when an HTTP/1.0 answer is out, while the client's is still open and has something
/// to say: the answer arrives whole, and the client is not reset.
#[test]
fn nc_gets_a_whole_answer_from_a_server_that_closes_first() {
    let site = site(8);
    let Some(host) = serve(&["nc"], "tap:bw0", site.path()) else { return };
    let got = site.path().join("got");
    let request = "GET /1M HTTP/1.0\\r\\n\\r\\n";
    host.shell(&format!("( printf '{request}'; sleep 2 ) | nc -N {} 80 > {}", OURS[0], got.display()), SOON);
    let answer = fs::read(&got).unwrap();
    assert!(answer.starts_with(b"HTTP/1."), "{} bytes", answer.len());
    assert!(answer.ends_with(&bytes(1 << 20, 1 << 20)), "{} bytes", answer.len());
    host.stop();
}
