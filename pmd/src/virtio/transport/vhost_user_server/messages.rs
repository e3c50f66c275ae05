//! The messages of a frontend, as the crate `vhost` has taken them apart.

use std::fs::File;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error as WireError, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
};
use vmm_sys_util::eventfd::EventFd;

use super::received::{self, MappedTable};
use super::session::{Addresses, Session, SessionError, Start};
use crate::virtio::attach::Position;
use crate::virtio::server;
use crate::virtio::spec::{feature, split};

/// What is offered to every frontend; REPLY_ACK is added by the crate.
const PROTOCOL_FEATURES: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::MQ.union(VhostUserProtocolFeatures::RESET_DEVICE);

fn unsupported<T>() -> Result<T> {
    Err(WireError::InvalidOperation("not offered"))
}

fn optional_eventfd(file: Option<File>) -> Result<Option<Arc<EventFd>>> {
    file.map(received::eventfd).transpose().map_err(WireError::ReqHandlerError)
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// Obsolete, and understood as a reset of all rings by those who still send it.
    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.change_all(|this| {
            this.forget_vrings();
            Ok(())
        })
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features | feature::VHOST_USER_PROTOCOL)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let bits = features & !(self.device.features | feature::VHOST_USER_PROTOCOL);
        if bits != 0 {
            return Err(SessionError::NotOffered { bits }.into());
        }
        if features == self.features {
            return Ok(());
        }
        self.change_all(|this| {
            this.features = features;
            // Without a control queue SET_VRING_ENABLE says which queue pairs are in use.
            let says_how_many = features & feature::CTRL_VQ != 0 && features & server::SEVERAL != 0;
            this.device.steering.restart(says_how_many, features & feature::CTRL_VLAN != 0);
            Ok(())
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let table = MappedTable::new(regions, files).map_err(SessionError::from)?;
        self.change_all(|this| {
            this.table = Some(table);
            Ok(())
        })?;
        Ok(None)
    }

    fn set_vring_num(&mut self, queue: u32, num: u32) -> Result<()> {
        self.change(queue, |vring, queue| {
            vring.size = u16::try_from(num)
                .ok()
                .filter(|size| (1..=split::MAX_SIZE).contains(size))
                .ok_or(SessionError::RingSize { queue, size: num })?;
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        queue: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.change(queue, |vring, _| {
            vring.addresses = Some(Addresses { descriptors, available, used });
            Ok(())
        })
    }

    fn set_vring_base(&mut self, queue: u32, base: u32) -> Result<()> {
        // What it means depends on the layout of the ring; it is checked when that starts.
        self.change(queue, |vring, _| {
            vring.start = Start::Base(base);
            Ok(())
        })
    }

    /// Stops the virtqueue; answers after the polling core has let it go.
    fn get_vring_base(&mut self, queue: u32) -> Result<VhostUserVringState> {
        let index = self.index(queue)?;
        self.pause(index)?;
        let vring = &mut self.vrings[index];
        vring.started = false;
        vring.kick = None;
        let start = vring.start;
        let base = match start {
            Start::First => Position::first(self.packed()).base(self.packed()),
            Start::Base(base) => base,
            Start::Left(position) => position.base(self.packed()),
        };
        self.show_status();
        Ok(VhostUserVringState::new(queue, base))
    }

    fn set_vring_kick(&mut self, queue: u8, file: Option<File>) -> Result<()> {
        let kick = optional_eventfd(file)?;
        self.change(queue.into(), |vring, _| {
            vring.kick = kick;
            vring.started = true;
            Ok(())
        })
    }

    fn set_vring_call(&mut self, queue: u8, file: Option<File>) -> Result<()> {
        let call = optional_eventfd(file)?;
        self.change(queue.into(), |vring, _| {
            vring.call = call;
            Ok(())
        })
    }

    fn set_vring_err(&mut self, queue: u8, file: Option<File>) -> Result<()> {
        let err = optional_eventfd(file)?;
        self.change(queue.into(), |vring, _| {
            vring.err = err;
            Ok(())
        })
    }

    fn set_vring_enable(&mut self, queue: u32, enable: bool) -> Result<()> {
        self.change(queue, |vring, _| {
            vring.enabled = enable;
            Ok(())
        })
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        // Not without need: QEMU warns of a network backend that offers CONFIG.
        let config = if self.device.config.is_empty() {
            VhostUserProtocolFeatures::empty()
        } else {
            VhostUserProtocolFeatures::CONFIG
        };
        Ok(PROTOCOL_FEATURES | config)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let offered = self.get_protocol_features()? | VhostUserProtocolFeatures::REPLY_ACK;
        let bits = features & !offered.bits();
        if bits != 0 {
            return Err(SessionError::ProtocolNotOffered { bits }.into());
        }
        self.negotiates = true;
        Ok(())
    }

    /// Of a network device this is the number of queue pairs: QEMU and DPDK both read it so.
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64 / 2)
    }

    fn get_config(&mut self, offset: u32, len: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let config = &self.device.config;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = usize::try_from(len).ok().and_then(|len| config.get(start..start.checked_add(len)?));
        Ok(bytes.ok_or(SessionError::Config { offset, len, have: config.len() })?.to_vec())
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(WireError::InvalidOperation("nothing in the configuration of this device is writable"))
    }

    // The rest belongs to protocol features that are not offered: the crate refuses these messages before they come here,
    // but for SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE and GPU_SET_SOCKET. Descriptors that came along are closed.

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported()
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}
