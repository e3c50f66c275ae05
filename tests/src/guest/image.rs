//! What the guest boots from: Debian's kernel and an initramfs made for one run.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// The directory of this package, where `vm/` is.
const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// Finds the kernel, downloading it on first use, and returns the directory that holds `vmlinuz` and `modules/`.
///
/// # Errors
/// What `tests/vm/kernel.sh` says.
pub(super) fn kernel() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(PACKAGE).join("../target"), PathBuf::from);
    let script = Path::new(PACKAGE).join("vm/kernel.sh");
    let output = Command::new("bash").arg(&script).arg(target.join("vm")).output().context("run bash")?;
    ensure!(
        output.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The root file system of a guest while it is put together, in a directory of its own.
#[derive(Debug)]
pub(super) struct Image {
    root: PathBuf,
}

impl Image {
    /// Starts with busybox, the init script and the kernel's modules.
    pub(super) fn new(root: PathBuf, kernel: &Path) -> Result<Self> {
        let image = Self { root };
        image.copy(&find_program("busybox")?, "/bin/busybox")?;
        image.copy(&Path::new(PACKAGE).join("vm/init"), "/init")?;
        fs::set_permissions(image.root.join("init"), fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(kernel.join("modules"))? {
            let entry = entry?;
            let name = entry.file_name().into_string().expect("module names are ASCII");
            image.copy(&entry.path(), &format!("/modules/{name}"))?;
        }
        Ok(image)
    }

    /// Copies one file, its mode kept, to an absolute path in the guest.
    pub(super) fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.root.join(to.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, &to).with_context(|| format!("copy {} into the guest", from.display()))?;
        Ok(())
    }

    /// Copies a program or a plug-in, and every library that `ldd` names for it.
    pub(super) fn copy_program(&self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to)?;
        for library in libraries(from)? {
            let name = library.to_str().context("path of a library")?;
            if !self.root.join(name.trim_start_matches('/')).exists() {
                self.copy(&library, name)?;
            }
        }
        Ok(())
    }

    /// Makes `path` in the guest a symbolic link to `target`.
    pub(super) fn link(&self, target: &str, path: &str) -> Result<()> {
        let path = self.root.join(path.trim_start_matches('/'));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        symlink(target, path)?;
        Ok(())
    }

    /// Packs everything, owned by root, into the initramfs `out`.
    pub(super) fn pack(self, out: &Path) -> Result<()> {
        let list = Command::new("find")
            .args([".", "-mindepth", "1", "-print0"])
            .current_dir(&self.root)
            .output()
            .context("run find")?;
        ensure!(list.status.success(), "find gave {}", list.status);
        let mut cpio = Command::new("cpio")
            .args(["--create", "--null", "--format=newc", "--owner=0:0", "--quiet"])
            .current_dir(&self.root)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(out)?)
            .spawn()
            .context("run cpio")?;
        cpio.stdin.take().expect("asked for a pipe").write_all(&list.stdout)?;
        let status = cpio.wait()?;
        ensure!(status.success(), "cpio gave {status}");
        fs::remove_dir_all(&self.root)?;
        Ok(())
    }
}

/// The libraries that the dynamic linker would load for a program or a plug-in, by the paths it would use.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let mut libraries = Vec::new();
    // A static program has none, which ldd reports as a failure.
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        ensure!(!line.contains("not found"), "{}: library {}", program.display(), line.trim());
        libraries.extend(library_of(line).map(PathBuf::from));
    }
    Ok(libraries)
}

/// The path in a line of ldd: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library_of(line: &str) -> Option<&str> {
    let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
    path.starts_with('/').then(|| path.split_whitespace().next()).flatten()
}

/// Where a program is, along `PATH` and the system directories.
pub(super) fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    for dir in std::env::split_paths(&path).chain(system) {
        let candidate = dir.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("no {name} on this machine; run ./ci.sh setup as root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_lines_give_paths() {
        assert_eq!(library_of("\tlibc.so.6 => /lib/libc.so.6 (0x7f)"), Some("/lib/libc.so.6"));
        assert_eq!(library_of("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library_of("\tlinux-vdso.so.1 (0x7ffe)"), None);
        assert_eq!(library_of("\tstatically linked"), None);
    }
}
