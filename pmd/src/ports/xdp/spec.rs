//! What can be typed behind `xdp:`.

use super::filter::Filter;
use crate::ports::tap::TapSpec;

/// Whether the kernel copies frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Copying {
    /// No, where the driver can do without; else yes, with a warning.
    #[default]
    Auto,
    /// Yes.
    Copy,
    /// No, or an error.
    ZeroCopy,
}

/// Who runs the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum XdpMode {
    /// The interface's driver where it can, else the kernel's stack, with a warning.
    #[default]
    Auto,
    /// The driver, or an error.
    Native,
    /// The stack, which works on every interface and is slow.
    Generic,
}

/// The most queues; more than any core count here.
const MAX_QUEUES: u16 = 256;

/// Frames that one call takes through the driver, as DPDK's `busy_budget`: its poll weight, where nothing is said.
const BUSY_BUDGET: u16 = 64;

/// The most that the kernel takes (`SO_BUSY_POLL_BUDGET` is 16 bits wide).
const MAX_BUSY_BUDGET: u16 = u16::MAX;

/// Which interface, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct XdpSpec {
    /// Name of the interface.
    pub name: String,
    /// How many of its queues, from the first; without it as many as cores share the port, but no more than there are.
    pub queues: Option<u16>,
    pub copying: Copying,
    pub mode: XdpMode,
    pub filter: Filter,
    /// Frames that the kernel's driver may take in one call of ours; `None`: it works when it is interrupted.
    pub busy_poll: Option<u16>,
    /// Every frame may be taken, also from the interface that carries the default route.
    pub all: bool,
}

impl XdpSpec {
    /// All queues that cores want, all frames.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(crate) fn new(name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err("no interface; its name follows, as in xdp:eth1".to_owned());
        }
        let TapSpec { name, .. } = TapSpec::new(name)?;
        let (copying, mode, filter) = Default::default();
        Ok(Self { name, queues: None, copying, mode, filter, busy_poll: Some(BUSY_BUDGET), all: false })
    }

    /// Reads one option.
    ///
    /// # Errors
    /// What is wrong with it, and which there are.
    pub(crate) fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("queues", text)) => {
                let queues = text.parse().ok().filter(|queues| (1..=MAX_QUEUES).contains(queues));
                self.queues = Some(queues.ok_or_else(|| format!("queues={text}: 1 to {MAX_QUEUES} queues"))?);
            }
            Some(("mode", "auto")) => self.copying = Copying::Auto,
            Some(("mode", "copy")) => self.copying = Copying::Copy,
            Some(("mode", "zero-copy")) => self.copying = Copying::ZeroCopy,
            Some(("xdp_mode", "auto")) => self.mode = XdpMode::Auto,
            Some(("xdp_mode", "native")) => self.mode = XdpMode::Native,
            Some(("xdp_mode", "generic")) => self.mode = XdpMode::Generic,
            Some(("addr", text)) => self.filter.add_address(text)?,
            Some(("port", text)) => self.filter.add_ports(text)?,
            Some(("proto", text)) => self.filter.set_protocol(text)?,
            Some(("busy_poll", "off")) => self.busy_poll = None,
            Some(("busy_poll", text)) => {
                let budget = text.parse().ok().filter(|budget| *budget > 0);
                let wrong = || format!("busy_poll={text}: 1 to {MAX_BUSY_BUDGET} frames, or off");
                self.busy_poll = Some(budget.ok_or_else(wrong)?);
            }
            Some(("all", "on")) => self.all = true,
            Some(("all", "off")) => self.all = false,
            _ => {
                return Err(format!(
                    "option {option:?} is none of mac=ADDRESS, queues=N, mode=auto|copy|zero-copy, \
                     xdp_mode=auto|native|generic, addr=ADDRESS[/BITS], port=N[-M], proto=tcp|udp|icmp, \
                     busy_poll=N|off, all=on|off"
                ));
            }
        }
        self.filter.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::xdp::filter::Protocol;

    #[test]
    fn options_are_read_in_any_order() {
        let mut spec = XdpSpec::new("eth1").unwrap();
        for option in
            "proto=udp,queues=2,port=7,mode=zero-copy,addr=192.0.2.2,xdp_mode=generic,all=on".split(',')
        {
            spec.set(option).unwrap();
        }
        assert_eq!((spec.queues, spec.copying, spec.mode), (Some(2), Copying::ZeroCopy, XdpMode::Generic));
        assert_eq!((spec.filter.protocol, spec.all), (Some(Protocol::Udp), true));
        assert_eq!(spec.busy_poll, Some(64));
        spec.set("busy_poll=8").unwrap();
        assert_eq!(spec.busy_poll, Some(8));
        spec.set("busy_poll=off").unwrap();
        assert_eq!(spec.busy_poll, None);
        assert_eq!((spec.filter.ports.len(), spec.filter.addresses.len()), (1, 1));
    }

    #[test]
    fn wrong_options_say_which_there_are() {
        let mut spec = XdpSpec::new("eth1").unwrap();
        for bad in ["mode=fast", "xdp_mode=on", "mtu=9000", "all", "all=1"] {
            assert!(spec.set(bad).unwrap_err().contains("mode=auto|copy|zero-copy"), "{bad}");
        }
        for bad in ["busy_poll=0", "busy_poll=65536", "busy_poll=on"] {
            assert!(spec.set(bad).unwrap_err().contains("1 to 65535 frames, or off"), "{bad}");
        }
        assert!(spec.set("queues=0").unwrap_err().contains("1 to 256 queues"));
        assert!(XdpSpec::new("").unwrap_err().contains("as in xdp:eth1"));
        assert!(XdpSpec::new("sixteen-letters-").unwrap_err().contains("at most 15 characters"));
    }
}
