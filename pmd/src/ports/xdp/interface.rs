//! What the kernel knows of an interface, asked through rtnetlink.
//! Source: rtnetlink(7), Linux `include/uapi/linux/{rtnetlink,if_link}.h`.

use std::io;

use super::abi::ifla;
use super::sys::Control;

/// Bytes of a `struct nlmsghdr`, and of a `struct ifinfomsg` behind it.
const HEADER_BYTES: usize = 16;
const IFINFO_BYTES: usize = 16;
/// Bytes of a `struct rtmsg`.
const RTMSG_BYTES: usize = 12;

/// A network interface, as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub index: u32,
    pub name: String,
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    /// Set up and with a carrier.
    pub is_up: bool,
    /// `veth` and the like; none for a NIC.
    pub kind: Option<String>,
    /// Index of the other end, where it is in this namespace.
    pub peer: Option<u32>,
    /// Id of the XDP program on it.
    pub xdp_program: Option<u32>,
}

/// The interface of this name.
///
/// # Errors
/// errno; `ENODEV` where there is none.
pub(super) fn by_name(control: &Control, name: &str) -> io::Result<Interface> {
    let mut payload = vec![0; IFINFO_BYTES];
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    put_attribute(&mut payload, libc::IFLA_IFNAME, &bytes);
    ask_link(control, &payload)
}

/// The interface with this index, whatever it is called now.
///
/// # Errors
/// errno; `ENODEV` where there is none.
pub(super) fn by_index(control: &Control, index: u32) -> io::Result<Interface> {
    let mut payload = vec![0; IFINFO_BYTES];
    payload[4..8].copy_from_slice(&index.to_ne_bytes());
    ask_link(control, &payload)
}

fn ask_link(control: &Control, payload: &[u8]) -> io::Result<Interface> {
    control.send(&request(libc::RTM_GETLINK, 0, payload))?;
    let answer = control.receive()?;
    let (kind, body) = messages(&answer).next().ok_or(io::ErrorKind::InvalidData)?;
    match kind {
        libc::RTM_NEWLINK => parse_link(body).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        _ => Err(error_of(kind, body)),
    }
}

/// Whether a default route leaves through the interface: the machine's way to everybody else.
pub(super) fn has_default_route(control: &Control, index: u32) -> io::Result<bool> {
    #[allow(clippy::cast_possible_truncation)] // 2 and 10
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut payload = vec![0; RTMSG_BYTES];
        payload[0] = family;
        #[allow(clippy::cast_possible_truncation)] // 0x300
        let flags = libc::NLM_F_DUMP as u16;
        control.send(&request(libc::RTM_GETROUTE, flags, &payload))?;
        let (mut found, mut done) = (false, false);
        while !done {
            let answer = control.receive()?;
            for (kind, body) in messages(&answer) {
                match kind {
                    libc::RTM_NEWROUTE => found |= is_default_route(body, index),
                    kind if i32::from(kind) == libc::NLMSG_DONE => done = true,
                    _ => return Err(error_of(kind, body)),
                }
            }
        }
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A route of prefix length 0 that forwards (type unicast) through `index`.
fn is_default_route(body: &[u8], index: u32) -> bool {
    let Some(fixed) = body.get(..RTMSG_BYTES) else { return false };
    fixed[1] == 0
        && fixed[7] == libc::RTN_UNICAST
        && attributes(&body[RTMSG_BYTES..])
            .any(|(kind, value)| kind == libc::RTA_OIF && number(value) == Some(index))
}

fn parse_link(body: &[u8]) -> Option<Interface> {
    let fixed = body.get(..IFINFO_BYTES)?;
    let flags = number(fixed.get(8..12)?)?;
    let wanted = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();
    let mut link =
        Interface { index: number(&fixed[4..8])?, is_up: flags & wanted == wanted, ..Default::default() };
    let (mut elsewhere, mut attached) = (false, false);
    for (kind, value) in attributes(&body[IFINFO_BYTES..]) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MTU => link.mtu = number(value)?,
            libc::IFLA_LINK => link.peer = number(value),
            libc::IFLA_LINK_NETNSID => elsewhere = true,
            libc::IFLA_LINKINFO => {
                link.kind =
                    attributes(value).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND).map(|(_, v)| text(v));
            }
            libc::IFLA_XDP => {
                for (kind, value) in attributes(value) {
                    match kind {
                        ifla::XDP_ATTACHED => attached = value.first().is_some_and(|mode| *mode != 0),
                        ifla::XDP_PROG_ID => link.xdp_program = number(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.peer = link.peer.filter(|peer| !elsewhere && *peer != 0);
    link.xdp_program = if attached { Some(link.xdp_program.unwrap_or(0)) } else { None };
    Some(link)
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

fn half(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?))
}

/// Messages and attributes begin at multiples of so many bytes.
const ALIGN: usize = 4;

/// A netlink message to the kernel.
fn request(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation)] // 1
    let flags = flags | libc::NLM_F_REQUEST as u16;
    #[allow(clippy::cast_possible_truncation)] // a few dozen
    let len = (HEADER_BYTES + payload.len()) as u32;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: we wait for each answer, on a socket of our own
    message.extend(payload);
    message
}

fn put_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    #[allow(clippy::cast_possible_truncation)] // at most 20
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(ALIGN), 0);
}

/// Type and body of each message of a datagram; ends before the first that is not whole.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = number(datagram)? as usize;
        let kind = half(datagram.get(4..)?)?;
        let body = datagram.get(HEADER_BYTES..len)?;
        datagram = datagram.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Type and value of each attribute; ends before the first that is not whole.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // The upper two bits say that a value is nested, or of the network's byte order.
    const TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let len = usize::from(half(bytes)?);
        let kind = half(bytes.get(2..)?)? & TYPE_MASK;
        let value = bytes.get(ALIGN..len)?;
        bytes = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The errno of an `NLMSG_ERROR`.
fn error_of(kind: u16, body: &[u8]) -> io::Error {
    match number(body).map(u32::cast_signed) {
        Some(errno @ ..=-1) if i32::from(kind) == libc::NLMSG_ERROR => io::Error::from_raw_os_error(-errno),
        _ => io::ErrorKind::InvalidData.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_by_name_and_by_index() {
        let control = Control::open().unwrap();
        let lo = by_name(&control, "lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.mac, lo.kind.clone(), lo.peer), ("lo", Some([0; 6]), None, None));
        assert!(lo.index > 0 && lo.mtu > 0);
        assert_eq!(by_index(&control, lo.index).unwrap(), lo);
        assert!(!has_default_route(&control, lo.index).unwrap());
        let error = by_name(&control, "no-such-thing").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(by_index(&control, 0x7fff_fff0).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn cut_off_messages_end_the_list_and_never_panic() {
        let mut payload = vec![0; IFINFO_BYTES];
        put_attribute(&mut payload, libc::IFLA_MTU, &1500_u32.to_ne_bytes());
        put_attribute(&mut payload, libc::IFLA_IFNAME, b"eth1\0");
        let message = request(libc::RTM_NEWLINK, 0, &payload);
        for len in 0..message.len() {
            assert_eq!(messages(&message[..len]).count(), 0, "{len}");
        }
        assert_eq!(messages(&message).count(), 1);
        for len in 0..payload.len() {
            let _ = parse_link(&payload[..len]);
        }
        let link = parse_link(&payload).unwrap();
        assert_eq!((link.mtu, link.name.as_str()), (1500, "eth1"));
        // Lengths that lie.
        for lie in [0_u16, 1, 3, 4, 200, u16::MAX] {
            payload[IFINFO_BYTES..IFINFO_BYTES + 2].copy_from_slice(&lie.to_ne_bytes());
            let _ = parse_link(&payload);
        }
    }

    #[test]
    fn a_default_route_has_no_prefix_and_goes_somewhere() {
        let route = |bits: u8, kind: u8, oif: u32| {
            let mut body = vec![libc::AF_INET as u8, bits, 0, 0, 254, 4, 0, kind, 0, 0, 0, 0];
            put_attribute(&mut body, libc::RTA_OIF, &oif.to_ne_bytes());
            body
        };
        assert!(is_default_route(&route(0, libc::RTN_UNICAST, 7), 7));
        assert!(!is_default_route(&route(0, libc::RTN_UNICAST, 8), 7));
        assert!(!is_default_route(&route(24, libc::RTN_UNICAST, 7), 7));
        assert!(!is_default_route(&route(0, libc::RTN_UNREACHABLE, 7), 7));
        assert!(!is_default_route(&[2, 0], 7));
    }
}
