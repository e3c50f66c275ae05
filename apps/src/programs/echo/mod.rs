//! `bywash echo`: sends back whatever comes, over TCP and UDP (RFC 862).

mod service;

use stack::TcpOptions;

pub use service::Echo;

/// The port of the echo protocol. RFC 862
pub const PORT: u16 = 7;

/// Flags of `bywash echo`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct EchoArgs {
    /// TCP port to listen on; 0 for none
    #[arg(long, value_name = "PORT", default_value_t = PORT)]
    pub tcp_port: u16,

    /// UDP port to answer on; 0 for none
    #[arg(long, value_name = "PORT", default_value_t = PORT)]
    pub udp_port: u16,
}

/// What follows the flags in `bywash echo --help`.
pub const EXAMPLES: &str = "\
Every byte of a connection and every datagram goes back to where it came from, over IPv4 and IPv6 alike. A client that
does not read what comes back is read no further: its window closes, nothing is dropped. A client that has finished
gets the rest, then the connection ends. Datagrams from another echo port are not answered, as the two would never end.

Examples:
  A NIC on core 1, with an IPv4 and an IPv6 address:
      bywash echo --port vfio:0000:00:03.0 -l 1 --ip 10.0.0.2/24 --ip fd00::2/64 --gateway 10.0.0.254
  The server for `bywash load` on another core, over a vhost-user socket:
      bywash echo --port vhost-user-server:/tmp/x.sock -l 0 --ip 10.0.0.2/24
  The kernel as client, through a TAP interface, address by DHCP, only TCP, on port 7777:
      bywash echo --port tap:bw0 --dhcp --tcp-port 7777 --udp-port 0";

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoConfig {
    /// TCP port, if any.
    pub tcp_port: Option<u16>,
    /// UDP port, if any.
    pub udp_port: Option<u16>,
    /// Whether it counts requests and connections: not beside a client that does, in the same engine.
    pub counts_requests: bool,
    /// Half-open connections at a time.
    pub backlog: usize,
    /// Options of the connections.
    pub tcp: TcpOptions,
}

impl EchoArgs {
    /// The flags as one value, with `tcp` as the options of connections and `backlog` handshakes at a time.
    ///
    /// # Errors
    /// A sentence: neither port.
    pub fn config(&self, tcp: TcpOptions, backlog: usize) -> Result<EchoConfig, String> {
        if self.tcp_port == 0 && self.udp_port == 0 {
            return Err("--tcp-port 0 and --udp-port 0 leave nothing to answer; give one of them".to_string());
        }
        let port = |port| Some(port).filter(|port| *port != 0);
        Ok(EchoConfig {
            tcp_port: port(self.tcp_port),
            udp_port: port(self.udp_port),
            counts_requests: true,
            backlog,
            tcp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_zero_is_none_and_one_must_be_left() {
        let config = |tcp_port, udp_port| EchoArgs { tcp_port, udp_port }.config(TcpOptions::default(), 9);
        assert_eq!(config(7, 0).unwrap().udp_port, None);
        assert_eq!(config(0, 9).unwrap().udp_port, Some(9));
        assert!(config(0, 0).is_err());
    }
}
