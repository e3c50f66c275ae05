//! testpmd's statistics, read from its prose.

/// What a port counted (`show port stats`, `--stats-period`).
///
/// One quirk of `net_vhost` 22.11: its byte counts leave out the 4 bytes of CRC of a generated
/// frame, which never existed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Port number.
    pub port: u16,
    /// Frames received since the start.
    pub rx_packets: u64,
    /// Frames the device had no descriptor for.
    pub rx_missed: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames received damaged.
    pub rx_errors: u64,
    /// Frames not received for want of an mbuf.
    pub rx_nombuf: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames received per second since testpmd last printed this port; 0 the first time.
    pub rx_pps: u64,
    /// Frames sent per second since testpmd last printed this port; 0 the first time.
    pub tx_pps: u64,
}

/// What the forwarding function counted, all ports together (`show fwd stats all`, `stop`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ForwardStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames the devices dropped before.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Frames that found no room to be sent.
    pub tx_dropped: u64,
    /// Cycles of the turns that moved packets, by the packets they moved (received ones when
    /// forwarding). Turns that found nothing are left out, except in `flowgen` and `txonly`,
    /// where every turn counts.
    pub cycles_per_packet: Option<f64>,
    /// The clock those cycles are counted with, in MHz.
    pub clock_mhz: Option<u64>,
}

/// Every block of port statistics in `text`, in its order.
pub fn port_stats(text: &str) -> Vec<PortStats> {
    let mut all = Vec::new();
    for block in text.split("NIC statistics for port ").skip(1) {
        let Some((port, body)) = block.split_once(' ') else { continue };
        let Ok(port) = port.parse() else { continue };
        let field = |label| number_after(body, label);
        // A block cut off in the middle has no rate line yet and is left out.
        let (Some(rx_packets), Some(tx_packets), Some(rx_pps), Some(tx_pps)) =
            (field("RX-packets:"), field("TX-packets:"), field("Rx-pps:"), field("Tx-pps:"))
        else {
            continue;
        };
        all.push(PortStats {
            port,
            rx_packets,
            rx_missed: field("RX-missed:").unwrap_or(0),
            rx_bytes: field("RX-bytes:").unwrap_or(0),
            rx_errors: field("RX-errors:").unwrap_or(0),
            rx_nombuf: field("RX-nombuf:").unwrap_or(0),
            tx_packets,
            tx_errors: field("TX-errors:").unwrap_or(0),
            tx_bytes: field("TX-bytes:").unwrap_or(0),
            rx_pps,
            tx_pps,
        });
    }
    all
}

/// The last block of accumulated forward statistics in `text`.
pub fn forward_stats(text: &str) -> Option<ForwardStats> {
    let (_, body) = text.rsplit_once("Accumulated forward statistics for all ports")?;
    Some(ForwardStats {
        rx_packets: number_after(body, "RX-packets:")?,
        rx_dropped: number_after(body, "RX-dropped:")?,
        tx_packets: number_after(body, "TX-packets:")?,
        tx_dropped: number_after(body, "TX-dropped:")?,
        cycles_per_packet: number_after(body, "CPU cycles/packet="),
        clock_mhz: number_after(body, "at "),
    })
}

/// The number that follows the first `label`, after any spaces.
fn number_after<N: std::str::FromStr>(text: &str, label: &str) -> Option<N> {
    let rest = text.split_once(label)?.1.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by testpmd 22.11.
    const PRINTED: &str = "
  ######################## NIC statistics for port 0  ########################
  RX-packets: 42170368   RX-missed: 7          RX-bytes:  2530222080
  RX-errors: 1
  RX-nombuf:  2         
  TX-packets: 42166592   TX-errors: 3          TX-bytes:  2529995520

  Throughput (since last show)
  Rx-pps:     10303901          Rx-bps:   4945872832
  Tx-pps:     10303252          Tx-bps:   4945561128
  ############################################################################

  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 45651904       RX-dropped: 0             RX-total: 45651904
  TX-packets: 45648864       TX-dropped: 3008          TX-total: 45651872
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 45651904       RX-dropped: 5             RX-total: 45651909
  TX-packets: 45648864       TX-dropped: 3008          TX-total: 45651872
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++

  CPU cycles/packet=127.58 (total cycles=5824126008 / total macswap packets=45651904) at 2100 MHz Clock
";

    #[test]
    fn port_statistics_are_read_field_by_field() {
        let expected = PortStats {
            port: 0,
            rx_packets: 42_170_368,
            rx_missed: 7,
            rx_bytes: 2_530_222_080,
            rx_errors: 1,
            rx_nombuf: 2,
            tx_packets: 42_166_592,
            tx_errors: 3,
            tx_bytes: 2_529_995_520,
            rx_pps: 10_303_901,
            tx_pps: 10_303_252,
        };
        assert_eq!(port_stats(PRINTED), [expected]);
    }

    #[test]
    fn forward_statistics_are_read_with_their_cycles() {
        let expected = ForwardStats {
            rx_packets: 45_651_904,
            rx_dropped: 5,
            tx_packets: 45_648_864,
            tx_dropped: 3008,
            cycles_per_packet: Some(127.58),
            clock_mhz: Some(2100),
        };
        assert_eq!(forward_stats(PRINTED), Some(expected));
    }

    #[test]
    fn a_block_cut_off_in_the_middle_is_left_out() {
        let cut = PRINTED.find("Throughput").unwrap();
        assert_eq!(port_stats(&PRINTED[..cut]), []);
        assert_eq!(forward_stats(&PRINTED[..cut]), None);
    }
}
