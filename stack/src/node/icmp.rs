//! ICMP errors on their way to whom they concern.

use smoltcp::phy::Device;
use smoltcp::wire::IpProtocol;

use super::Stack;
use crate::core::Core;
use crate::emit::DeviceOut;
use crate::error::Closed;
use crate::flow::Phase;
use crate::link::{IcmpError, IcmpProblem};
use crate::net::Net;
use crate::service::Service;
use crate::tuple::Tuple;

impl<S: Service> Stack<S> {
    pub(super) fn icmp_error<D: Device>(&mut self, error: &IcmpError, device: &mut D) {
        let core = &mut self.core;
        match error.protocol {
            IpProtocol::Tcp => core.tcp_error(error),
            IpProtocol::Udp => {
                let (local, remote) = (error.local, error.remote);
                if core.resolver.unreachable(core.now, local.addr, local.port, remote.addr) {
                    return;
                }
                match (core.udp.on_error(&mut core.link, core.now, error), error.problem) {
                    (Some(socket), IcmpProblem::Unreachable(why)) => {
                        let mut net = Net { core, out: &mut DeviceOut(device) };
                        self.service.unreachable(socket, remote, why, &mut net);
                    }
                    (Some(_), IcmpProblem::TooBig { .. }) => {}
                    (None, _) => core.counters.icmp_no_flow += 1,
                }
            }
            IpProtocol::Icmp | IpProtocol::Icmpv6 => match error.problem {
                IcmpProblem::Unreachable(why) => {
                    let (ident, seq) = (error.local.port, error.remote.port);
                    let mut net = Net { core, out: &mut DeviceOut(device) };
                    self.service.ping_failed(error.remote.addr, ident, seq, why, &mut net);
                }
                IcmpProblem::TooBig { mtu } => {
                    core.link.lower_path_mtu(core.now, error.remote.addr, mtu);
                }
            },
            _ => core.counters.icmp_no_flow += 1,
        }
    }
}

impl Core {
    fn tcp_error(&mut self, error: &IcmpError) {
        let tuple = Tuple { local: error.local, remote: error.remote };
        let found = self.flows.find(self.flows.hash(&tuple), &tuple);
        // Only a segment that is under way can have caused it (RFC 5927 §4): others are forged, or late.
        let fits = |index: &u32| {
            let flow = self.flows.peek(*index);
            let under_way = u32::try_from(flow.socket().send_queue()).unwrap_or(u32::MAX).saturating_add(1);
            error.tcp_seq.is_none_or(|seq| {
                let behind = flow.sent.seq_end.wrapping_sub(seq);
                behind >= 1 && behind <= under_way.max(1)
            })
        };
        let Some(index) = found.filter(fits) else {
            self.counters.icmp_no_flow += 1;
            return;
        };
        match error.problem {
            IcmpProblem::TooBig { mtu } => {
                let Some(mtu) = self.link.lower_path_mtu(self.now, error.remote.addr, mtu) else { return };
                // Retransmissions and everything after fit the path: the segment size follows the interface's MTU.
                let interface = self.interfaces.for_mtu(mtu);
                self.flows.at(index).interface = interface;
                self.counters.path_mtu_shrunk += 1;
                self.touch(index);
            }
            IcmpProblem::Unreachable(why) if self.flows.peek(index).phase == Phase::Connecting => {
                self.fail(index, Closed::Unreachable(why));
            }
            IcmpProblem::Unreachable(_) => self.counters.icmp_soft += 1,
        }
    }
}
