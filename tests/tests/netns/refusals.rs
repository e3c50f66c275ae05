//! What the command says to a user who may not, or who has nothing.

use peers::netns::Netns;

use super::{SOON, namespace_with};

/// Nobody, who owns nothing.
const NOBODY: [&str; 4] = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];

fn rxonly_as_nobody(netns: &Netns, port: &str) -> (Option<i32>, String) {
    let binary = peers::bywash::binary().unwrap();
    // Where nobody may read it, wherever the project lies.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("bywash");
    std::fs::copy(binary, &copy).unwrap();
    for path in [folder.path(), &copy] {
        use std::os::unix::fs::PermissionsExt as _;
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, everybody).unwrap();
    }
    let mut command = netns.command("setpriv");
    command.args(NOBODY).arg(&copy).args(["rxonly", "--port", port, "--seconds", "0.5", "--json"]);
    let finished = peers::process::Process::start("setpriv", &mut command).unwrap().finish(SOON).unwrap();
    (finished.status.code(), finished.stderr.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn a_user_without_the_capability_is_told_and_can_use_what_root_made() {
    let Some(netns) = namespace_with(&["setpriv"]) else { return };
    let (code, told) = rxonly_as_nobody(&netns, "tap:bw0");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("no permission to create interface bw0: that needs CAP_NET_ADMIN"), "{told}");
    assert!(
        told.contains("sudo ip tuntap add dev bw0 mode tap user $USER && sudo ip link set bw0 up"),
        "{told}"
    );

    netns.ip("tuntap add dev bw0 mode tap user 1").unwrap();
    let (code, told) = rxonly_as_nobody(&netns, "tap:bw0");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("no permission to use interface bw0"), "{told}");
    assert!(told.contains("sudo ip link del bw0 && sudo ip tuntap add dev bw0"), "{told}");
    netns.ip("tuntap add dev bw1 mode tap user 65534").unwrap();
    netns.ip("link set bw1 up").unwrap();
    let (code, told) = rxonly_as_nobody(&netns, "tap:bw1");
    assert_eq!(code, Some(0), "{told}");
}
