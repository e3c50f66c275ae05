//! Why there is no AF_XDP port: what happened, why, and what to run.

use std::io;

use thiserror::Error;

/// Why there is no AF_XDP port.
#[derive(Debug, Error)]
pub enum XdpError {
    /// There is none of that name.
    #[error("there is no interface {name}; `ip -br link` lists those there are")]
    NoInterface {
        /// The interface.
        name: String,
        /// errno.
        source: io::Error,
    },
    /// The kernel was built without AF_XDP.
    #[error(
        "this kernel has no AF_XDP sockets; boot one built with CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL"
    )]
    NoSockets {
        /// errno.
        source: io::Error,
    },
    /// The kernel has AF_XDP, but too old a form of it.
    #[error("this kernel's AF_XDP is too old ({what}); Linux 5.14 or later is needed, see `uname -r`")]
    OldKernel {
        /// What it does not do.
        what: &'static str,
        /// errno.
        source: io::Error,
    },
    /// Not root.
    #[error(
        "no permission to {what} for interface {name}: AF_XDP needs CAP_NET_RAW, CAP_BPF and CAP_NET_ADMIN; run as \
         root, or `sudo setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock,cap_perfmon+ep $(command -v bywash)`"
    )]
    Permission {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// errno.
        source: io::Error,
    },
    /// The packet memory cannot be locked.
    #[error(
        "{len_bytes} bytes of packet memory cannot be locked for AF_XDP, RLIMIT_MEMLOCK is too low; run \
         `ulimit -l unlimited` first, or ask for fewer mbufs"
    )]
    Memlock {
        /// Bytes of the region.
        len_bytes: usize,
        /// errno.
        source: io::Error,
    },
    /// The interface would be taken from the machine.
    #[error(
        "interface {name} carries this machine's default route, and without a filter all of its traffic would be taken; \
         say which is ours with addr=ADDRESS (or port=, proto=), or add all=on if that is meant"
    )]
    DefaultRoute {
        /// The interface.
        name: String,
    },
    /// A program is on it.
    #[error(
        "interface {name} has an XDP program already{}; if nobody needs it, take it off with \
         `sudo ip link set dev {name} xdp off` or end the process that holds it (`sudo bpftool link`)",
        match (program, id) {
            (Some(program), Some(id)) => format!(": {program:?}, id {id}"),
            (None, Some(id)) => format!(", id {id}"),
            _ => String::new(),
        }
    )]
    ProgramThere {
        /// The interface.
        name: String,
        /// What it is called, if it can be told.
        program: Option<String>,
        /// Its id, if it can be told.
        id: Option<u32>,
        /// errno.
        source: io::Error,
    },
    /// Somebody's socket is on it.
    #[error(
        "receive queue {queue} of interface {name} has an AF_XDP socket of another process (or another port of this \
         one); end it"
    )]
    QueueTaken {
        /// The interface.
        name: String,
        /// Which queue.
        queue: u32,
        /// errno.
        source: io::Error,
    },
    /// More queues asked for than there are.
    #[error(
        "interface {name} has {has} receive queues, queues={asked} asked for; take fewer, or try \
         `sudo ethtool -L {name} combined {asked}`"
    )]
    TooFewQueues {
        /// The interface.
        name: String,
        /// What it has.
        has: u32,
        /// What was asked for.
        asked: u16,
    },
    /// Frames of the interface do not fit into a buffer.
    #[error(
        "MTU {mtu} of interface {name} is too large: a buffer holds frames of an MTU of {most} here; run \
         `sudo ip link set {name} mtu {most}`{}",
        if *most < 3500 { ", or ask for larger buffers (data_room_bytes)" } else { "" }
    )]
    Mtu {
        /// The interface.
        name: String,
        /// Its MTU, in bytes.
        mtu: u32,
        /// The largest possible, in bytes.
        most: u32,
    },
    /// Buffers are too small.
    #[error(
        "data rooms of {bytes} bytes are too small for AF_XDP; at least {least} are needed (data_room_bytes)"
    )]
    DataRoom {
        /// Bytes they have.
        bytes: usize,
        /// Bytes they need.
        least: usize,
    },
    /// The driver does not run XDP programs.
    #[error(
        "the driver of interface {name} runs no XDP programs as it is; leave xdp_mode=native out for the slower generic \
         mode, or lower the MTU and switch off LRO (`sudo ethtool -K {name} lro off`) where that is the reason"
    )]
    NotNative {
        /// The interface.
        name: String,
        /// errno.
        source: io::Error,
    },
    /// No zero-copy.
    #[error("interface {name} cannot do zero-copy ({why}); use mode=auto or mode=copy")]
    NotZeroCopy {
        /// The interface.
        name: String,
        /// Why.
        why: String,
        /// errno, if the kernel said it.
        source: Option<io::Error>,
    },
    /// The verifier refused our program.
    #[error("the kernel refused the XDP program: {log}")]
    Program {
        /// What the verifier said.
        log: String,
        /// errno.
        source: io::Error,
    },
    /// Both ends of a link need addresses of their own.
    #[error("interface {name} has no Ethernet address; AF_XDP works on Ethernet interfaces")]
    NoEthernet {
        /// The interface.
        name: String,
    },
    /// Anything else.
    #[error("cannot {what} for interface {name}")]
    System {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// errno.
        source: io::Error,
    },
}

impl XdpError {
    /// Whether it is what an interface says that is about to be made: nobody has to change anything.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::NoInterface { .. } => true,
            Self::System { source, .. } | Self::NotNative { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN | libc::ENXIO))
            }
            _ => false,
        }
    }
}
