//! What the kernel fixes and libc does not name: bpf(2), BPF instructions, rtnetlink, ethtool. No logic.
//!
//! Source: Linux `include/uapi/linux/{bpf,if_link,if_xdp,ethtool}.h`.

/// `XDP_PACKET_HEADROOM`: what the kernel leaves free in front of each received frame, in bytes.
pub(super) const PACKET_HEADROOM: u32 = 256;

/// `XDP_UMEM_MIN_CHUNK_SIZE`, in bytes.
pub(super) const MIN_CHUNK_BYTES: u32 = 2048;

/// The largest chunk without hugepages: a page, in bytes.
pub(super) const MAX_CHUNK_BYTES: u32 = 4096;

/// `XDP_MAX_TX_SKB_BUDGET`.
pub(super) const MAX_TX_SKB_BUDGET: i32 = 9;

/// `XSK_UNALIGNED_BUF_OFFSET_SHIFT`: above this bit an address carries an offset, to be added to what is below.
pub(super) const OFFSET_SHIFT: u32 = 48;

/// `enum bpf_cmd`.
pub(super) mod cmd {
    pub(in super::super) const MAP_CREATE: i32 = 0;
    pub(in super::super) const MAP_UPDATE_ELEM: i32 = 2;
    pub(in super::super) const PROG_LOAD: i32 = 5;
    pub(in super::super) const PROG_GET_FD_BY_ID: i32 = 13;
    pub(in super::super) const OBJ_GET_INFO_BY_FD: i32 = 15;
    pub(in super::super) const LINK_CREATE: i32 = 28;
}

/// `BPF_MAP_TYPE_XSKMAP`: sockets by queue.
pub(super) const MAP_TYPE_XSKMAP: u32 = 17;
/// `BPF_PROG_TYPE_XDP`.
pub(super) const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP` of `enum bpf_attach_type`.
pub(super) const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_SKB_MODE`: the kernel runs the program on its own packet buffers; every interface can.
pub(super) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`: the interface's driver runs the program.
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The fields of `union bpf_attr` that `BPF_MAP_CREATE` reads.
#[repr(C)]
#[derive(Default)]
pub(super) struct MapCreate {
    pub map_type: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub map_flags: u32,
    pub inner_map_fd: u32,
    pub numa_node: u32,
    pub map_name: [u8; 16],
}

/// Those of `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
#[derive(Default)]
pub(super) struct MapElem {
    pub map_fd: u32,
    pub pad: u32,
    pub key: u64,
    pub value: u64,
    pub flags: u64,
}

/// Those of `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgLoad {
    pub prog_type: u32,
    pub insn_cnt: u32,
    pub insns: u64,
    pub license: u64,
    pub log_level: u32,
    pub log_size: u32,
    pub log_buf: u64,
    pub kern_version: u32,
    pub prog_flags: u32,
    pub prog_name: [u8; 16],
    pub prog_ifindex: u32,
    pub expected_attach_type: u32,
}

/// Those of `BPF_LINK_CREATE`.
#[repr(C)]
#[derive(Default)]
pub(super) struct LinkCreate {
    pub prog_fd: u32,
    pub target_ifindex: u32,
    pub attach_type: u32,
    pub flags: u32,
}

/// Those of `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
pub(super) struct GetId {
    pub id: u32,
    pub next_id: u32,
    pub open_flags: u32,
}

/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
pub(super) struct GetInfo {
    pub fd: u32,
    pub info_len: u32,
    pub info: u64,
}

/// The first fields of `struct bpf_prog_info`; the kernel fills in as many bytes as it is given room for.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgInfo {
    pub prog_type: u32,
    pub id: u32,
    pub tag: [u8; 8],
    pub jited_prog_len: u32,
    pub xlated_prog_len: u32,
    pub jited_prog_insns: u64,
    pub xlated_prog_insns: u64,
    pub load_time: u64,
    pub created_by_uid: u32,
    pub nr_map_ids: u32,
    pub map_ids: u64,
    pub name: [u8; 16],
}

const _: () = assert!(std::mem::offset_of!(ProgInfo, name) == 64);
const _: () = assert!(std::mem::offset_of!(ProgLoad, prog_name) == 48);
const _: () = assert!(std::mem::offset_of!(MapCreate, map_name) == 28);

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub code: u8,
    /// Destination register in the lower four bits, source in the upper.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

const _: () = assert!(size_of::<Insn>() == 8);

/// Operation codes. Source: RFC 9669.
pub(super) mod op {
    /// `dst = *(u8 *)(src + offset)`.
    pub(in super::super) const LOAD_U8: u8 = 0x71;
    /// `dst = *(u16 *)(src + offset)`.
    pub(in super::super) const LOAD_U16: u8 = 0x69;
    /// `dst = *(u32 *)(src + offset)`.
    pub(in super::super) const LOAD_U32: u8 = 0x61;
    /// `dst = immediate`, 64 bits in two instructions.
    pub(in super::super) const LOAD_IMM64: u8 = 0x18;
    /// `dst = src`.
    pub(in super::super) const MOV: u8 = 0xbf;
    /// `dst = immediate`.
    pub(in super::super) const MOV_IMM: u8 = 0xb7;
    /// `dst += src`.
    pub(in super::super) const ADD: u8 = 0x0f;
    /// `dst += immediate`.
    pub(in super::super) const ADD_IMM: u8 = 0x07;
    /// `dst &= immediate`, 32 bits.
    pub(in super::super) const AND32_IMM: u8 = 0x54;
    /// `dst <<= immediate`.
    pub(in super::super) const SHL_IMM: u8 = 0x67;
    /// Swaps the bytes of the lower `immediate` bits from or to big endian.
    pub(in super::super) const TO_BE: u8 = 0xdc;
    /// `goto offset`.
    pub(in super::super) const JUMP: u8 = 0x05;
    /// `if dst > src goto offset`, unsigned.
    pub(in super::super) const JGT: u8 = 0x2d;
    /// `if dst > immediate goto offset`, unsigned.
    pub(in super::super) const JGT_IMM: u8 = 0x25;
    /// `if dst < immediate goto offset`, unsigned.
    pub(in super::super) const JLT_IMM: u8 = 0xa5;
    /// `if (u32)dst == (u32)immediate goto offset`.
    pub(in super::super) const JEQ32_IMM: u8 = 0x16;
    /// `if (u32)dst != (u32)immediate goto offset`.
    pub(in super::super) const JNE32_IMM: u8 = 0x56;
    /// Calls the helper function `immediate`.
    pub(in super::super) const CALL: u8 = 0x85;
    /// Returns `r0`.
    pub(in super::super) const EXIT: u8 = 0x95;
    /// In the source register's place of [`LOAD_IMM64`]: the immediate is a map's file descriptor.
    pub(in super::super) const PSEUDO_MAP_FD: u8 = 1;
}

/// `bpf_redirect_map` of `enum bpf_func_id`.
pub(super) const HELPER_REDIRECT_MAP: i32 = 51;
/// `XDP_PASS`.
pub(super) const XDP_PASS: i32 = 2;

/// Offsets in `struct xdp_md`.
pub(super) mod xdp_md {
    pub(in super::super) const DATA: i16 = 0;
    pub(in super::super) const DATA_END: i16 = 4;
    pub(in super::super) const RX_QUEUE_INDEX: i16 = 16;
}

/// Attributes of a link that libc does not name, or that lie within one.
pub(super) mod ifla {
    /// `IFLA_XDP_ATTACHED`: which kind of program is there; 0 if none.
    pub(in super::super) const XDP_ATTACHED: u16 = 2;
    /// `IFLA_XDP_PROG_ID`.
    pub(in super::super) const XDP_PROG_ID: u16 = 4;
}

/// `ETHTOOL_GTXCSUM`: whether the interface leaves checksums to its other end.
pub(super) const ETHTOOL_GTXCSUM: u32 = 0x16;
/// `ETHTOOL_GCHANNELS`.
pub(super) const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Channels {
    pub cmd: u32,
    pub max_rx: u32,
    pub max_tx: u32,
    pub max_other: u32,
    pub max_combined: u32,
    pub rx_count: u32,
    pub tx_count: u32,
    pub other_count: u32,
    pub combined_count: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Default)]
pub(super) struct EthtoolValue {
    pub cmd: u32,
    pub data: u32,
}
