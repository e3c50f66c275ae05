//! What the link layer counts: every frame that is dropped, under its reason, and what was answered.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one core's link layer. Plain numbers: only the core that owns the stack writes them.
        #[derive(Debug, Default, Clone)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Counters {
            /// Calls `visit` with each counter's name and value.
            pub(crate) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $(visit(stringify!($name), self.$name);)*
            }
        }
    };
}

counters! {
    /// Frame ends inside its Ethernet or VLAN header.
    frame_truncated,
    /// Ethernet source is a group address, or ours (a loop).
    bad_ethernet_source,
    /// Sent to another station, or to a group that we are not in.
    not_for_us,
    /// No 802.1Q tag, or another VLAN's, or a tag where none is expected.
    wrong_vlan,
    /// IEEE 802.3 length field, or an EtherType that we do not speak.
    unknown_ethertype,
    /// Not a request or reply of IPv4 over Ethernet, or with an absurd sender.
    bad_arp,
    /// ARP requests answered.
    arp_replies,
    /// Somebody else claims one of our addresses.
    address_conflicts,
    /// IPv4 or IPv6 header is truncated or contradicts itself.
    bad_ip_header,
    /// Sum over the IPv4 header is wrong.
    bad_ip_checksum,
    /// The IP header promises more bytes than the frame has.
    ip_truncated,
    /// Source address that no packet may carry (RFC 1812 §5.3.7): group, loopback, reserved, or our own.
    bad_source_address,
    /// Destination address is not ours.
    not_our_address,
    /// Unicast IP destination in a link-layer broadcast (RFC 1122 §3.3.6).
    broadcast_mismatch,
    /// IPv6 extension headers: too many, out of order, truncated, or with an option that demands a drop.
    bad_extension_header,
    /// IPv6 routing header of type 0 (RFC 5095) or with segments left.
    source_routed,
    /// No handler for this IP protocol.
    unknown_protocol,
    /// Fragments taken in.
    fragments,
    /// Datagrams put together from fragments.
    reassembled,
    /// Fragment with an impossible offset or length.
    bad_fragment,
    /// Fragments of a datagram dropped because some of them overlap (RFC 5722).
    fragment_overlap,
    /// Datagrams dropped because fragments did not come in time.
    reassembly_timeout,
    /// Datagrams dropped for newer ones: the reassembly limit is reached.
    reassembly_evicted,
    /// Datagrams with too many gaps between fragments, or for which no memory is left.
    reassembly_full,
    /// ICMP message is truncated, has a wrong checksum, or is malformed.
    bad_icmp,
    /// ICMP types that nothing here uses.
    icmp_ignored,
    /// ICMP error whose embedded packet cannot be ours.
    icmp_error_unrelated,
    /// Echo requests answered.
    echo_replies,
    /// Echo requests over the rate limit.
    echo_limited,
    /// ICMP errors sent.
    icmp_errors_sent,
    /// ICMP errors held back by the rate limit (RFC 4443 §2.4f).
    icmp_errors_limited,
    /// ND message with a wrong hop limit or fields that break RFC 4861 §§6.1, 7.1.
    bad_nd,
    /// Neighbour solicitations answered.
    nd_replies,
    /// Redirects: not followed.
    redirects_ignored,
    /// Router advertisements that configuration or limits make us ignore.
    ra_ignored,
    /// Router advertisements taken in.
    router_advertisements,
    /// Tentative IPv6 addresses that another station has (RFC 4862 §5.4).
    dad_failed,
    /// ARP requests and neighbour solicitations sent.
    neighbour_requests,
    /// Neighbour entries given up for new ones: the table is full.
    neighbour_evicted,
    /// Next hops that did not answer.
    neighbour_unresolved,
    /// Packets dropped because their next hop did not answer.
    pending_unresolved,
    /// Packets dropped because the queue of an unresolved next hop is full.
    pending_full,
    /// Packets without a route or a source address.
    no_route,
    /// Packets for which the device had no room.
    tx_no_room,
    /// Datagrams cut into fragments, and the fragments.
    fragmented,
    /// Fragments sent.
    fragments_sent,
    /// Packet-too-big messages that changed a path's MTU.
    path_mtu_lowered,
    /// Events lost because nobody took them.
    events_lost,
}
