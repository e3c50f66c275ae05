//! Captures in pipes: what is written to one is received, what is sent is read from the other.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use pmd::pcap::{Reader, Writer};
use tempfile::TempDir;

use super::Wire;

/// The two pipes of a `pcap:` port.
pub struct FilesWire {
    folder: TempDir,
    /// Once the port is there to read it.
    to_port: Option<Writer<File>>,
    /// From the thread that reads what the port writes; it ends with the pipe, or with this.
    from_port: Receiver<Vec<u8>>,
}

impl FilesWire {
    /// Makes the pipes, and begins to read.
    ///
    /// # Panics
    /// When there can be none.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["in", "out"] {
            assert!(Command::new("mkfifo").arg(folder.path().join(name)).status().unwrap().success());
        }
        let (frames, from_port) = channel();
        let path = folder.path().join("out");
        thread::spawn(move || {
            // Waits until the port opens it as well.
            let mut reader = Reader::new(File::open(path).unwrap()).unwrap();
            while let Ok(Some(frame)) = reader.next(|frame| frame.bytes.to_vec()) {
                if frames.send(frame).is_err() {
                    return;
                }
            }
        });
        Self { folder, to_port: None, from_port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The port at the other end.
    #[must_use]
    pub fn port(&self) -> String {
        format!("pcap:in={},out={}", self.path("in").display(), self.path("out").display())
    }

    /// Begins to write, for which the port must be open.
    ///
    /// # Panics
    /// When the port does not read.
    pub fn begin(&mut self) {
        let pipe = OpenOptions::new().write(true).open(self.path("in")).unwrap();
        let mut writer = Writer::new(pipe).unwrap();
        writer.interface("conformance", "", 0).unwrap();
        self.to_port = Some(writer);
    }
}

impl Default for FilesWire {
    fn default() -> Self {
        Self::new()
    }
}

impl Wire for FilesWire {
    fn send(&mut self, frame: &[u8]) -> bool {
        let Some(writer) = &mut self.to_port else { return false };
        let len = u32::try_from(frame.len()).unwrap();
        writer.frame(0, 0, len, &[frame], None).is_ok()
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.from_port.try_recv().ok()
    }

    fn die(&mut self) {
        self.to_port = None;
    }
}
