//! dnsmasq in a namespace: DHCP, router advertisements, DNS.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Netns, NetnsError};
use crate::process::Process;

/// How long dnsmasq may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What dnsmasq serves.
#[derive(Clone, Debug)]
pub struct DnsmasqOptions<'a> {
    /// The interface it listens on; it must have addresses.
    pub interface: &'a str,
    /// First and last IPv4 address to lease, as `192.0.2.100,192.0.2.110`.
    pub dhcp_range: Option<&'a str>,
    /// The prefix to advertise for SLAAC, as `2001:db8::`; one of the interface's.
    pub ra_prefix: Option<&'a str>,
    /// Names and addresses, either family.
    pub hosts: &'a [(&'a str, &'a str)],
}

/// A running dnsmasq, ended on drop; its files are in a temporary folder.
pub struct Dnsmasq {
    process: Process,
    folder: TempDir,
}

impl Dnsmasq {
    /// Starts it in the namespace and waits until it serves.
    ///
    /// # Errors
    /// [`NetnsError`] with what dnsmasq says.
    pub fn start(netns: &Netns, options: &DnsmasqOptions<'_>) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::System { what: "write dnsmasq's configuration".to_owned(), source };
        let folder = tempfile::Builder::new().prefix("bywash-dnsmasq-").tempdir().map_err(failed)?;
        let path = folder.path().join("dnsmasq.conf");
        fs::write(&path, configuration(options, &folder)).map_err(failed)?;
        let mut command = netns.command("dnsmasq");
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", path.display()));
        let mut process = Process::start("dnsmasq", &mut command)?;
        let deadline = Instant::now() + START_LIMIT;
        // It logs to standard error; this is the last word of its start.
        while !process.stderr().contains("cleared cache") && !process.stderr().contains("read ") {
            if !process.is_running() || Instant::now() > deadline {
                let source = std::io::Error::other(process.stderr());
                return Err(NetnsError::System { what: "start dnsmasq".to_owned(), source });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, folder })
    }

    /// What it has logged so far: every DHCP message, advertisement and question.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// The leases it has given, a line each: expiry, MAC address, IP address, name, client id.
    ///
    /// # Errors
    /// [`NetnsError::System`] if they cannot be read.
    pub fn leases(&self) -> Result<String, NetnsError> {
        let path = self.folder.path().join("leases");
        fs::read_to_string(&path)
            .map_err(|source| NetnsError::System { what: format!("read {}", path.display()), source })
    }
}

/// Nothing of the machine's own configuration, and nothing outside the folder and the namespace.
fn configuration(options: &DnsmasqOptions<'_>, folder: &TempDir) -> String {
    let folder = folder.path().display();
    let mut text = format!(
        "user=root\ninterface={}\nexcept-interface=lo\nbind-interfaces\npid-file={folder}/pid\ndhcp-leasefile={folder}/leases\n\
         no-resolv\nno-hosts\nno-poll\nlog-facility=-\nlog-queries\nlog-dhcp\ndhcp-authoritative\nno-ping\n",
        options.interface
    );
    if let Some(range) = options.dhcp_range {
        let _ = writeln!(text, "dhcp-range={range},2m");
    }
    if let Some(prefix) = options.ra_prefix {
        let _ =
            writeln!(text, "enable-ra\ndhcp-range={prefix},ra-only,64,2m\nra-param={},4", options.interface);
    }
    for (name, address) in options.hosts {
        let _ = writeln!(text, "host-record={name},{address}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::unavailable_with;
    use crate::require::{Suite, skip};
    use std::net::UdpSocket;

    /// A question for the A record of `www.bywash.test`. RFC 1035 §4.1.
    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x06bywash\x04test\0\0\x01\0\x01";

    fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !met() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// If this fails, it is dnsmasq or the way it is driven, and not our stack.
    #[test]
    fn the_kernel_and_busybox_are_served() {
        if let Some(why) = unavailable_with(&["dnsmasq", "busybox"]) {
            return skip(Suite::Netns, why);
        }
        let (server, client) = (Netns::new().unwrap(), Netns::new().unwrap());
        server.ip(&format!("link add v0 type veth peer name v1 netns {}", client.name())).unwrap();
        for address in ["192.0.2.1/24", "2001:db8::1/64"] {
            server.ip(&format!("addr add {address} dev v0")).unwrap();
        }
        server.ip("link set v0 up").unwrap();
        client.ip("link set v1 address 02:00:00:00:00:09 up").unwrap();
        let options = DnsmasqOptions {
            interface: "v0",
            dhcp_range: Some("192.0.2.100,192.0.2.110"),
            ra_prefix: Some("2001:db8::"),
            hosts: &[("www.bywash.test", "192.0.2.80")],
        };
        let dnsmasq = Dnsmasq::start(&server, &options).unwrap();
        let asked = ["udhcpc", "-i", "v1", "-n", "-q", "-f", "-t", "10", "-T", "1", "-s", "/bin/true"];
        client.run("busybox", &asked, Duration::from_secs(30)).unwrap();
        let leases = dnsmasq.leases().unwrap();
        assert!(leases.contains("02:00:00:00:00:09 192.0.2.1"), "{leases}");
        wait_for("an address is formed", || {
            client.ip("-6 addr show dev v1").unwrap().contains("2001:db8::ff:fe00:9")
        });
        let socket = client.inside(|| UdpSocket::bind("[::]:0").unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(QUESTION, "[2001:db8::1]:53").unwrap();
        let mut answer = [0; 512];
        let len = socket.recv(&mut answer).unwrap();
        assert!(answer[..len].ends_with(&[192, 0, 2, 80]), "{:?}", &answer[..len]);
    }
}
