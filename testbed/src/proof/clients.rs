//! The devices whose interrupts the proofs look at, as QEMU is told of them.

use crate::disk::{self, Disk};
use crate::machine::Machine;
use crate::setup::Lab;
use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The ports of virtio's that are used, of those that there may be.
const PORTS: [u32; 2] = [1, 30];
/// Interrupts of a virtio-serial device with 31 ports: two for each, one for what it
/// has to say, one for its configuration.
const PORT_VECTORS: u32 = 2 * 31 + 2;
/// Size of the swap area.
const SWAP: u64 = 512 << 20;

/// Devices that want many interrupts, and what is behind them.
pub struct Clients {
    disk: Disk,
    next: Scratch,
    swap: Scratch,
    ports: Vec<(u32, u16)>,
    /// Bytes of the kernel at the start of the second part of the disk.
    pub kernel: u64,
    /// Where the root file system begins there.
    pub initrd_at: u64,
    /// Its bytes.
    pub initrd: u64,
}

impl Clients {
    /// Makes the files; the second part of the disk holds a kernel with its root file
    /// system, to be loaded by the first.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be made, [`Error::Machine`] when this
    /// machine's network refuses.
    pub fn new(lab: &Lab, kernel: &Path, initrd: &Path, name: &str) -> Result<Self> {
        const MIB: u64 = 1 << 20;
        let read = |path| std::fs::read(path).map_err(Error::io("cannot read", path));
        let (kernel, initrd) = (read(kernel)?, read(initrd)?);
        let initrd_at = (kernel.len() as u64).next_multiple_of(MIB);
        let length = (initrd_at + initrd.len() as u64).next_multiple_of(MIB);
        let next = Scratch::new(lab, &format!("next-{name}"), length)?;
        next.write(&kernel, 0)?;
        next.write(&initrd, initrd_at)?;
        let mut ports = Vec::new();
        for number in PORTS {
            ports.push((number, echo()?));
        }
        Ok(Self {
            disk: Disk::new(&lab.workspace, &format!("{name}-virtio"))?,
            next,
            swap: Scratch::new(lab, &format!("swap-{name}"), SWAP)?,
            ports,
            kernel: kernel.len() as u64,
            initrd_at,
            initrd: initrd.len() as u64,
        })
    }

    /// Puts them into a machine.
    pub fn join(&self, machine: &mut Machine) {
        let mut add = |what: &str, text: String| {
            machine.extra.push(what.into());
            machine.extra.push(text.into());
        };
        let files = [
            ("block", self.disk.path()),
            ("next", &self.next.path),
            ("swap", &self.swap.path),
        ];
        for (id, path) in files {
            let path = path.to_string_lossy().replace(',', ",,");
            let text = format!("if=none,id={id},format=raw,cache=writeback,file={path}");
            add("-drive", text);
        }
        let queues = machine.cpus;
        let devices = [
            "nvme-ns,drive=next,nsid=2".to_owned(),
            "nvme-ns,drive=swap,nsid=3".to_owned(),
            format!(
                "virtio-blk-pci,drive=block,num-queues={queues},iommu_platform=on,disable-legacy=on"
            ),
            format!(
                "virtio-serial-pci,max_ports=31,vectors={PORT_VECTORS},iommu_platform=on,\
                 disable-legacy=on"
            ),
        ];
        for device in devices {
            add("-device", device);
        }
        for (number, port) in &self.ports {
            let id = format!("port{number}");
            add(
                "-chardev",
                format!("socket,id={id},host=127.0.0.1,port={port}"),
            );
            add(
                "-device",
                format!("virtserialport,chardev={id},nr={number}"),
            );
        }
    }

    /// The first byte of the virtio disk that is not what it was when the machine was
    /// made, and is to be again.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read.
    pub fn first_difference(&self) -> Result<Option<u64>> {
        self.disk.first_difference(disk::SEED, 0, disk::SIZE)
    }
}

/// A file that goes when the value is dropped.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn new(lab: &Lab, name: &str, length: u64) -> Result<Self> {
        let file = format!("{name}-{}.raw", std::process::id());
        let path = lab.workspace.output().join(file);
        let file = File::create(&path).map_err(Error::io("cannot write", &path))?;
        file.set_len(length)
            .map_err(Error::io("cannot write", &path))?;
        Ok(Self { path, file })
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let written = self.file.write_all_at(bytes, at);
        written.map_err(Error::io("cannot write", &self.path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // One left behind is deleted with the target directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens for one connection, and sends back what comes from it.
fn echo() -> Result<u16> {
    let network = |error: std::io::Error| Error::Machine {
        what: format!("this machine's network: {error}"),
        tail: String::new(),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(network)?;
    let port = listener.local_addr().map_err(network)?.port();
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
    Ok(port)
}
