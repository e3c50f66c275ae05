//! What happens to a port while it is open.

use std::fmt;

/// A change of a port, as [`Port::events`](super::Port::events) tells it: once each, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortEvent {
    /// Frames pass from now on.
    LinkUp,
    /// Frames do not pass: the device says so, or the other side is not there.
    LinkDown,
    /// The largest Ethernet payload is now so many bytes. virtio 1.2 §5.1.4.1.
    Mtu(u16),
    /// The device asks us to tell the network where we are: a guest was moved. virtio 1.2 §5.1.6.5.4.
    Announce,
    /// The device or its other side has gone; the queue pairs move nothing, and frames sent by them are dropped and
    /// counted. Where it can come back, the port waits for it, and [`PortEvent::Back`] follows.
    Gone {
        /// What happened, in words.
        why: String,
    },
    /// What had gone is there again and frames can pass; what the device offers may have changed.
    Back,
}

impl PortEvent {
    /// Its name in reports: `link_up`, `link_down`, `mtu`, `announce`, `gone`, `back`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            PortEvent::LinkUp => "link_up",
            PortEvent::LinkDown => "link_down",
            PortEvent::Mtu(_) => "mtu",
            PortEvent::Announce => "announce",
            PortEvent::Gone { .. } => "gone",
            PortEvent::Back => "back",
        }
    }
}

impl fmt::Display for PortEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortEvent::LinkUp => f.write_str("link up"),
            PortEvent::LinkDown => f.write_str("link down"),
            PortEvent::Mtu(mtu) => write!(f, "MTU is now {mtu}"),
            PortEvent::Announce => f.write_str("asked to announce itself"),
            PortEvent::Gone { why } => write!(f, "gone: {why}"),
            PortEvent::Back => f.write_str("back"),
        }
    }
}

/// Watches a link that can only be asked, and tells its changes.
#[derive(Clone, Copy, Debug)]
pub struct LinkWatch(super::Link);

impl LinkWatch {
    /// A link that is so.
    #[must_use]
    pub fn new(link: super::Link) -> Self {
        Self(link)
    }

    /// The event that this state is news of, if it is news.
    pub fn look(&mut self, link: super::Link) -> Option<PortEvent> {
        use super::Link;
        (std::mem::replace(&mut self.0, link) != link).then_some(match link {
            Link::Up => PortEvent::LinkUp,
            Link::Down => PortEvent::LinkDown,
        })
    }

    /// Takes in what the port itself has told: a gone port's link is down, and nobody needs to hear that as well.
    pub fn heard(&mut self, event: &PortEvent) {
        use super::Link;
        match event {
            PortEvent::LinkUp | PortEvent::Back => self.0 = Link::Up,
            PortEvent::LinkDown | PortEvent::Gone { .. } => self.0 = Link::Down,
            PortEvent::Mtu(_) | PortEvent::Announce => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Link;

    #[test]
    fn a_link_is_news_when_it_changes_and_only_then() {
        let mut watch = LinkWatch::new(Link::Down);
        let told: Vec<_> = [Link::Down, Link::Up, Link::Up, Link::Down].map(|link| watch.look(link)).into();
        assert_eq!(told, [None, Some(PortEvent::LinkUp), None, Some(PortEvent::LinkDown)]);
    }

    #[test]
    fn going_and_coming_back_say_what_the_link_does() {
        let mut watch = LinkWatch::new(Link::Up);
        watch.heard(&PortEvent::Gone { why: "unplugged".into() });
        assert_eq!(watch.look(Link::Down), None);
        watch.heard(&PortEvent::Back);
        assert_eq!(watch.look(Link::Up), None);
        watch.heard(&PortEvent::Mtu(1400));
        assert_eq!(watch.look(Link::Down), Some(PortEvent::LinkDown));
    }
}
