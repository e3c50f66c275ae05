//! A Linux guest under QEMU with a virtual IOMMU and virtio-net devices: the place where VFIO is real.
//!
//! ```text
//!   this process                                     QEMU (software emulation)
//!   Guest::shell ──── second serial port ──────────► tests/vm/init ─► programs, vfio-pci
//!   Guest::link  ──── Unix datagrams, one a frame ─► virtio-net-pci ─► intel-iommu ─► the program's memory
//!   Netns::tap   ──── the kernel's TAP interface ──► the same
//! ```
//!
//! ```no_run
//! use std::time::Duration;
//! use peers::guest::{Guest, Nic};
//!
//! let mut guest = Guest::builder().nic(Nic::hub(0)).nic(Nic::hub(0)).hugepages_2m(64).start()?;
//! guest.bind_vfio(0)?;
//! println!("{}", guest.shell("ls -l /dev/vfio", Duration::from_secs(5))?.text);
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! The kernel comes from Debian's archive into `target/vm` on first use (`tests/vm/kernel.sh`). From start to
//! the first command it takes about 6 s, so one guest serves several scenarios of a test.

mod agent;
mod image;
mod monitor;
mod nic;
pub mod testpmd;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tempfile::TempDir;

use crate::netns::{self, Netns};
use crate::process::Process;

use agent::Agent;
pub use agent::Output;
use image::{Image, find_program};
use monitor::Monitor;
pub use nic::{HostLink, Nic};

/// How long a guest may take from QEMU's start to its first command.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Why no guest can run here, or `None` if one can. Downloads the kernel on first use.
pub fn unavailable() -> Option<String> {
    unavailable_with(&[])
}

/// Why no guest with these programs of this machine can run here, or `None` if one can. Downloads the kernel on
/// first use.
pub fn unavailable_with(programs: &[&str]) -> Option<String> {
    for program in ["qemu-system-x86_64", "busybox", "cpio", "ldd", "modprobe"].iter().chain(programs) {
        if let Err(error) = find_program(program) {
            return Some(error.to_string());
        }
    }
    image::kernel().err().map(|error| format!("no kernel for the guest: {error:#}"))
}

/// What stands between the guest's devices and its memory.
#[derive(Clone, Copy, Debug, Default)]
enum Iommu {
    /// Addresses and interrupts are translated.
    #[default]
    Full,
    /// Addresses only.
    AddressesOnly,
    /// Nothing.
    None,
}

impl Iommu {
    fn device(self) -> Option<&'static str> {
        match self {
            Self::Full => Some("intel-iommu,caching-mode=on,intremap=on"),
            Self::AddressesOnly => Some("intel-iommu,caching-mode=on,intremap=off"),
            Self::None => None,
        }
    }
}

/// What the guest is made of.
#[derive(Debug, Default)]
pub struct Builder {
    nics: Vec<Nic>,
    files: Vec<(PathBuf, String)>,
    programs: Vec<(PathBuf, String)>,
    links: Vec<(String, String)>,
    hugepages_2m: u32,
    iommu: Iommu,
    namespace: Option<String>,
    reboots: bool,
}

impl Builder {
    /// Runs QEMU in a network namespace, where its TAP interfaces are.
    pub fn in_namespace(mut self, netns: &Netns) -> Self {
        self.namespace = Some(netns.name().to_owned());
        self
    }

    /// Lets it be [rebooted](Guest::reboot); otherwise a guest whose kernel panics ends.
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// Adds a NIC; the first is number 0.
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds a file of this machine under an absolute path in the guest.
    pub fn file(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.files.push((from.into(), to.into()));
        self
    }

    /// Adds a program of this machine, with the libraries it needs, under an absolute path in the guest.
    pub fn program(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.programs.push((from.into(), to.into()));
        self
    }

    /// Adds a program of the system by its name, as `/bin/NAME` and in place of busybox's.
    ///
    /// A program that is not installed is found missing when the guest is started.
    pub fn system_program(self, name: &str) -> Self {
        let path = find_program(name).unwrap_or_else(|_| name.into());
        self.program(path, &format!("/bin/{name}"))
    }

    /// Leaves the virtual IOMMU out.
    pub fn without_iommu(mut self) -> Self {
        self.iommu = Iommu::None;
        self
    }

    /// Has the virtual IOMMU translate addresses but not interrupts.
    pub fn without_interrupt_remapping(mut self) -> Self {
        self.iommu = Iommu::AddressesOnly;
        self
    }

    /// Adds a symbolic link at `path` in the guest.
    pub fn link(mut self, target: &str, path: &str) -> Self {
        self.links.push((target.into(), path.into()));
        self
    }

    /// Reserves hugepages of 2 MiB.
    pub fn hugepages_2m(mut self, pages: u32) -> Self {
        self.hugepages_2m = pages;
        self
    }

    /// Boots the guest and waits until it takes commands.
    ///
    /// # Errors
    /// A tool or the kernel is missing, or the guest does not come up within 180 s; the
    /// error then ends with the guest's console.
    pub fn start(self) -> Result<Guest> {
        let kernel = image::kernel()?;
        let dir = tempfile::Builder::new().prefix("bywash-guest").tempdir()?;
        let initramfs = dir.path().join("initramfs");
        self.pack(dir.path().join("root"), &kernel, &initramfs)?;

        let mut links = Vec::new();
        for (index, nic) in self.nics.iter().enumerate() {
            links.push(nic.open_host_link(index, dir.path())?);
        }
        let mut qemu = self.spawn(dir.path(), &kernel, &initramfs)?;
        let agent = wait_ready(&mut qemu, dir.path(), Instant::now() + BOOT_LIMIT).map_err(|error| {
            with_console(error.context(format!("boot the guest: {}", qemu.stderr())), dir.path())
        })?;
        let addresses = self.nics.iter().enumerate().map(|(index, nic)| nic.address(index)).collect();
        let monitor = Monitor::connect(&monitor_path(dir.path()))?;
        let mut guest = Guest { agent, links, addresses, nics: self.nics, monitor, qemu, dir };
        if self.hugepages_2m > 0 {
            let pages = self.hugepages_2m;
            let got = guest.shell_ok(&format!(
                "echo {pages} > /proc/sys/vm/nr_hugepages; cat /proc/sys/vm/nr_hugepages"
            ))?;
            ensure!(got.trim() == pages.to_string(), "asked for {pages} hugepages, got {}", got.trim());
        }
        Ok(guest)
    }

    fn pack(&self, root: PathBuf, kernel: &Path, initramfs: &Path) -> Result<()> {
        let image = Image::new(root, kernel)?;
        for (from, to) in &self.files {
            image.copy(from, to)?;
        }
        for (from, to) in &self.programs {
            image.copy_program(from, to)?;
        }
        for (target, path) in &self.links {
            image.link(target, path)?;
        }
        image.pack(initramfs)
    }

    fn spawn(&self, dir: &Path, kernel: &Path, initramfs: &Path) -> Result<Process> {
        let qemu = find_program("qemu-system-x86_64")?;
        let mut command = match &self.namespace {
            Some(name) => netns::command_in(name, qemu),
            None => Command::new(qemu),
        };
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        if self.nics.iter().any(Nic::shares_memory) {
            command.args(["-object", "memory-backend-memfd,id=memory,size=2048M,share=on"]);
            command.args(["-machine", "q35,kernel-irqchip=off,memory-backend=memory"]);
        } else {
            command.args(["-machine", "q35,kernel-irqchip=off"]);
        }
        command.args(["-accel", "tcg,thread=multi"]);
        if !self.reboots {
            command.arg("-no-reboot");
        }
        command.args(["-cpu", "max", "-smp", "2", "-m", "2048"]);
        command.arg("-kernel").arg(kernel.join("vmlinuz"));
        command.arg("-initrd").arg(initramfs);
        command.args([
            "-append",
            "console=ttyS0 quiet intel_iommu=on iommu=nopt panic=-1 mitigations=off no_timer_check",
        ]);
        command.arg("-serial").arg(format!("file:{}", console(dir).display()));
        command.arg("-serial").arg(format!("unix:{},server=on,wait=off", agent_path(dir).display()));
        command
            .arg("-chardev")
            .arg(format!("socket,id=monitor,server=on,wait=off,path={}", monitor_path(dir).display()));
        command.args(["-mon", "chardev=monitor,mode=readline"]);
        // The IOMMU must come before the devices behind it. Without interrupt remapping the guest's kernel
        // cannot select an IOMMU for VFIO.
        if let Some(device) = self.iommu.device() {
            command.args(["-device", device]);
        }
        if self.nics.iter().any(Nic::is_on_shared_bus) {
            command.args(["-device", "pcie-pci-bridge,id=conventional,bus=pcie.0,addr=0x10"]);
        }
        for (index, _) in self.nics.iter().enumerate().filter(|(_, nic)| nic.is_hot()) {
            let slot = 0x18 + index;
            let port =
                format!("pcie-root-port,id=hot{index},bus=pcie.0,addr={slot:#x},chassis={slot},slot={slot}");
            command.args(["-device", &port]);
        }
        for (index, nic) in self.nics.iter().enumerate() {
            command.args(nic.arguments(index, dir));
        }
        Ok(Process::start("QEMU", &mut command)?)
    }
}

/// Connects to the guest's first process, once there is one.
fn wait_ready(qemu: &mut Process, dir: &Path, deadline: Instant) -> Result<Agent> {
    let path = agent_path(dir);
    let stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).context("QEMU does not open its serial port"),
        }
        ensure!(qemu.is_running(), "QEMU ended at once: {}", qemu.stderr());
    };
    let mut agent = Agent::new(stream);
    agent.wait_ready(deadline)?;
    Ok(agent)
}

/// A running guest. Dropping it ends QEMU and removes its files.
pub struct Guest {
    agent: Agent,
    links: Vec<Option<HostLink>>,
    addresses: Vec<String>,
    nics: Vec<Nic>,
    monitor: Monitor,
    // Dropped in this order: QEMU ends before its files go.
    qemu: Process,
    dir: TempDir,
}

impl Guest {
    /// A guest with nothing but busybox in it.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs a script in the guest's shell (busybox), as root, and waits for its end. A program that shall go
    /// on is put into the background with its output redirected.
    ///
    /// # Errors
    /// The guest died or gave no answer within `timeout`; the error ends with the guest's console.
    pub fn shell(&mut self, script: &str, timeout: Duration) -> Result<Output> {
        self.agent.run(script, Instant::now() + timeout).map_err(|error| {
            let error = error.context(format!("in the guest: {script}: {}", self.qemu.stderr()));
            with_console(error, self.dir.path())
        })
    }

    /// Runs a short script that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// As [`shell`](Self::shell) with 60 s, and an exit status other than 0.
    pub fn shell_ok(&mut self, script: &str) -> Result<String> {
        let output = self.shell(script, Duration::from_secs(60))?;
        ensure!(output.status == 0, "in the guest: {script}: status {}: {}", output.status, output.text);
        Ok(output.text)
    }

    /// Waits until a file in the guest contains `text`, and returns the file.
    ///
    /// # Errors
    /// It does not within `timeout`; the error holds what the file has instead.
    pub fn wait_for(&mut self, path: &str, text: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let content = self.shell(&format!("cat {path}"), Duration::from_secs(60))?.text;
            if content.contains(text) {
                return Ok(content);
            }
            ensure!(Instant::now() < deadline, "no {text:?} in {path} within {timeout:?}:\n{content}");
            sleep(Duration::from_millis(50));
        }
    }

    /// The PCI address in the guest of NIC `nic`, such as `0000:00:03.0`.
    pub fn address(&self, nic: usize) -> &str {
        &self.addresses[nic]
    }

    /// The hardware address of NIC `nic`.
    pub fn mac(&self, nic: usize) -> [u8; 6] {
        Nic::mac(nic)
    }

    /// Gives NIC `nic` to vfio-pci, whatever driver has it.
    ///
    /// # Errors
    /// The kernel did not do it.
    pub fn bind_vfio(&mut self, nic: usize) -> Result<()> {
        let address = &self.addresses[nic];
        let script = format!(
            "cd /sys/bus/pci/devices/{address} && echo vfio-pci > driver_override\n\
             [ ! -e driver ] || echo {address} > driver/unbind\n\
             echo {address} > /sys/bus/pci/drivers_probe\n\
             readlink driver"
        );
        let driver = self.shell_ok(&script)?;
        ensure!(driver.trim().ends_with("/vfio-pci"), "bound to {}", driver.trim());
        Ok(())
    }

    /// Resets the whole machine, as by its button, and waits until it takes commands again.
    ///
    /// # Errors
    /// It does not come up within 180 s.
    pub fn reboot(&mut self) -> Result<()> {
        self.monitor.run("system_reset")?;
        let booted = self.agent.wait_ready(Instant::now() + BOOT_LIMIT);
        booted.map_err(|error| with_console(error.context("boot the guest again"), self.dir.path()))
    }

    /// Unplugs NIC `nic`, as by its eject button: the guest's kernel is asked to let it go, and may take its time.
    ///
    /// # Errors
    /// QEMU refused.
    pub fn unplug(&mut self, nic: usize) -> Result<()> {
        let answer = self.monitor.run(&format!("device_del nic{nic}"))?;
        ensure!(!answer.contains("Error"), "device_del: {answer}");
        Ok(())
    }

    /// Whether NIC `nic` is in the guest, as QEMU knows it.
    ///
    /// # Errors
    /// QEMU did not answer.
    pub fn is_plugged(&mut self, nic: usize) -> Result<bool> {
        Ok(self.monitor.run("info qtree")?.contains(&format!("id \"nic{nic}\"")))
    }

    /// Plugs NIC `nic` in again, where it was.
    ///
    /// # Errors
    /// QEMU refused.
    pub fn plug(&mut self, nic: usize) -> Result<()> {
        let device = self.nics[nic].device(nic);
        let answer = self.monitor.run(&format!("device_add {device}"))?;
        ensure!(!answer.contains("Error"), "device_add: {answer}");
        Ok(())
    }

    /// This process's end of the wire of NIC `nic`.
    ///
    /// # Panics
    /// If that NIC is not a [`Nic::host`].
    pub fn link(&self, nic: usize) -> &HostLink {
        self.links[nic].as_ref().expect("the NIC was built with Nic::host()")
    }

    /// The process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    /// What the guest's kernel and init have printed so far.
    pub fn console(&self) -> String {
        read_lossy(&console(self.dir.path()))
    }
}

fn console(dir: &Path) -> PathBuf {
    dir.join("console")
}

fn agent_path(dir: &Path) -> PathBuf {
    dir.join("agent")
}

fn monitor_path(dir: &Path) -> PathBuf {
    dir.join("monitor")
}

fn read_lossy(path: &Path) -> String {
    fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Adds the end of the console to an error.
fn with_console(error: anyhow::Error, dir: &Path) -> anyhow::Error {
    let text = read_lossy(&console(dir));
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    anyhow!("{error:#}\n--- console of the guest\n{tail}")
}
