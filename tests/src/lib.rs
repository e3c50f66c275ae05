//! The peers we are tested and measured against.
//!
//! | module | one sentence |
//! |---|---|
//! | [`conformance`] | one suite of promises for every kind of port, and the wires at their other ends |
//! | [`guest`] | a Linux guest under QEMU with a virtual IOMMU, where VFIO is real |
//! | [`process`] | a child process: output captured, every wait bounded, killed on drop |
//! | [`hugepages`] | hugepages and a hugetlbfs for one test, given back on drop |
//! | [`testpmd`] | DPDK's testpmd, device side or driver side |
//! | [`bywash`] | our own command beside them, and its report |
//! | [`netns`] | the running kernel in a network namespace of its own, with dnsmasq in it |
//! | [`precedence`] | busy loops before everything else on the machine |
//! | [`require`] | the skip rule: a suite that cannot run says so, or fails where it is required |

pub mod bywash;
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // frames are small and few
pub mod conformance;
pub mod guest;
pub mod hugepages;
#[allow(unsafe_code)] // setns and signals
pub mod netns;
pub mod precedence;
#[allow(unsafe_code)] // fork and signals
pub mod process;
pub mod require;
pub mod testpmd;
