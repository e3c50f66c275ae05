//! What an `xdp:` port needs.

use super::Check;
use super::machine::Machine;

/// The largest MTU that one of our buffers takes: 2,048 bytes and 64 of headroom, less what the kernel leaves free in
/// front of a frame (256), less an Ethernet header with a VLAN tag (18).
const MOST: u32 = 2048 + 64 - 256 - 18;

/// The first thing that an AF_XDP port on interface `name` would fail for.
pub(super) fn check(machine: &Machine, name: &str, stops: Vec<String>) -> Check {
    let sudo = machine.sudo();
    let (found, fix) = if !machine.has_af_xdp() {
        ("this kernel has no AF_XDP sockets".to_owned(), "boot one built with CONFIG_XDP_SOCKETS".to_owned())
    } else if !machine.has_interface(name) {
        (format!("there is no interface {name}"), "`ip -br link` lists those there are".to_owned())
    } else if let lacks @ [_, ..] = machine.lacks_for_af_xdp().as_slice() {
        let wanted = "cap_net_raw,cap_net_admin,cap_bpf,cap_perfmon,cap_ipc_lock+ep";
        (
            format!("this process lacks {}", lacks.join(", ")),
            format!("run as root, or sudo setcap {wanted} $(command -v bywash)"),
        )
    } else if let Some(mtu) = machine.interface_mtu(name).filter(|mtu| *mtu > MOST) {
        (
            format!("the MTU of {name} is {mtu}, a buffer takes {MOST}"),
            format!("{sudo}ip link set {name} mtu {MOST}"),
        )
    } else {
        return Check::pass("af_xdp", format!("{name} can be taken"));
    };
    Check::stops("af_xdp", found, Some(fix), stops)
}
