//! What the stack counts above the link layer.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Plain numbers: only the core that owns the stack writes them.
        #[derive(Debug, Default, Clone)]
        pub(crate) struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $(visit(stringify!($name), self.$name);)*
            }
        }
    };
}

counters! {
    /// TCP segments to a flow.
    tcp_segments,
    /// Segments with data that were sent again, for whatever reason.
    retransmitted,
    /// Losses seen in the peer's acknowledgements.
    losses_heard,
    /// Silences that were probed before the retransmission timer was due.
    loss_probes,
    /// Connections that peers began and that were established.
    accepted,
    /// Connections that we began and that were established.
    connected,
    /// Connections whose end was reported to the service.
    closed,
    /// Of these: reset by the peer.
    closed_reset,
    /// Of these: timed out.
    closed_timed_out,
    /// Of these: refused.
    closed_refused,
    /// Of these: unreachable, or without a route.
    closed_unreachable,
    /// Of these: aborted by the service.
    closed_aborted,
    /// Truncated or contradictory TCP header.
    bad_tcp_header,
    /// Wrong TCP checksum.
    bad_tcp_checksum,
    /// TCP options whose lengths cannot be.
    bad_tcp_options,
    /// Segment to a flow with more than one of SYN, FIN and RST.
    bad_tcp_flags,
    /// FIN behind bytes that the window had no room for; taken when it comes again.
    early_fin,
    /// SYN to a port that nobody listens on.
    no_listener,
    /// Segment, not a SYN, of no connection.
    no_flow,
    /// SYN dropped, as all flows are in use.
    flows_full,
    /// Half-open connections that made room for newer ones.
    half_open_full,
    /// Half-open connections whose handshake took too long.
    half_open_timeout,
    /// Half-open connections that the peer reset.
    half_open_reset,
    /// Segments answered from TIME-WAIT.
    time_wait_answered,
    /// Connections that began anew out of TIME-WAIT.
    time_wait_reopened,
    /// Connections whose TIME-WAIT the peer ended by a reset, as it knew nothing of them.
    time_wait_reset,
    /// Connections that left TIME-WAIT early to make room.
    time_wait_full,
    /// Resets sent to segments of no connection.
    resets_sent,
    /// Resets that the rate limit kept back.
    resets_limited,
    /// Answers lost for want of a transmit buffer (acknowledgements: the peer asks again).
    answer_no_room,
    /// Turns in which a flow had to wait for a transmit buffer.
    egress_no_room,
    /// ICMP errors that fit no connection.
    icmp_no_flow,
    /// ICMP errors of established connections, which they survive (RFC 1122 §4.2.3.9).
    icmp_soft,
    /// Packets handed to another core, of whose fragments or extension headers this one took care.
    reassembled_away,
    /// Of such packets: dropped, as too many waited.
    reassembled_full,
    /// Connections that were told of a smaller path MTU.
    path_mtu_shrunk,
    /// Bytes that nobody read in time after both sides had finished.
    unread_discarded,
    /// Latency samples lost, as nobody drained them.
    samples_lost,
}
