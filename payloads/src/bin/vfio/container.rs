//! The kernel's VFIO interface, type 1, as `linux/vfio.h` has it.

#![allow(unsafe_code, reason = "each request has an argument of its own kind")]

use crate::buffer::Buffer;
use anyhow::{Context, Result, bail};
use portcullis_payloads::edu::Bar;
use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::ffi::{CString, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_GROUP_FLAGS_VIABLE, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_TYPE, VFIO_TYPE1v2_IOMMU,
    vfio_group_status, vfio_iommu_type1_dma_map, vfio_region_info,
};

/// A request by its number, counted from the first.
const fn request(number: u8) -> Opcode {
    opcode::none(VFIO_TYPE, VFIO_BASE as u8 + number)
}

const GET_API_VERSION: Opcode = request(0);
const SET_IOMMU: Opcode = request(2);
const GROUP_GET_STATUS: Opcode = request(3);
const GROUP_SET_CONTAINER: Opcode = request(4);
const GROUP_GET_DEVICE_FD: Opcode = request(6);
const DEVICE_GET_REGION_INFO: Opcode = request(8);
const IOMMU_GET_INFO: Opcode = request(12);
const IOMMU_MAP_DMA: Opcode = request(13);
const IOMMU_UNMAP_DMA: Opcode = request(14);

/// What a device may do with a mapping.
#[derive(Clone, Copy)]
pub enum Rights {
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

impl Rights {
    fn flags(self) -> u32 {
        match self {
            Self::Read => VFIO_DMA_MAP_FLAG_READ,
            Self::ReadWrite => VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        }
    }
}

/// An I/O address space with one device in it.
pub struct Container {
    file: File,
    device: File,
}

/// A request with its argument, whose result is a number.
struct Request {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: `Request` is made where it is known what its argument has to be; the kernel
// may write there, and the result is the number that it returns.
unsafe impl Ioctl for Request {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

/// Makes a request whose argument is a number or nothing.
fn tell(file: impl AsFd, opcode: Opcode, number: usize) -> rustix::io::Result<IoctlOutput> {
    let argument = std::ptr::without_provenance_mut(number);
    // SAFETY: the callers' requests take a plain number.
    unsafe { ioctl(file, Request { opcode, argument }) }
}

/// Makes a request that reads and writes a structure.
fn exchange<T: Argument>(
    file: impl AsFd,
    opcode: Opcode,
    value: &mut T,
) -> rustix::io::Result<IoctlOutput> {
    *value.size() = size_of::<T>() as u32;
    let argument = (&raw mut *value).cast();
    // SAFETY: the kernel heeds the size and writes within what is borrowed for this, where
    // any bytes are a value.
    unsafe { ioctl(file, Request { opcode, argument }) }
}

/// A structure of the interface: any bytes are a value of it.
trait Argument {
    /// Its first field, which says how many bytes it has.
    fn size(&mut self) -> &mut u32;
}

impl Argument for vfio_group_status {
    fn size(&mut self) -> &mut u32 {
        &mut self.argsz
    }
}

impl Argument for vfio_region_info {
    fn size(&mut self) -> &mut u32 {
        &mut self.argsz
    }
}

impl Argument for vfio_iommu_type1_dma_map {
    fn size(&mut self) -> &mut u32 {
        &mut self.argsz
    }
}

impl Argument for Unmap {
    fn size(&mut self) -> &mut u32 {
        &mut self.argsz
    }
}

impl Argument for Info {
    fn size(&mut self) -> &mut u32 {
        let [first, ..] = &mut self.0;
        first
    }
}

/// `vfio_iommu_type1_dma_unmap` without the room for a bitmap that it may have.
#[derive(Default)]
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// `vfio_iommu_type1_info` as words, with room for the capabilities that follow it.
#[repr(C)]
struct Info([u32; 256]);

fn open(path: &str) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    file.with_context(|| format!("open {path}"))
}

impl Container {
    /// Opens the device `name` of `group` in an address space of its own, and
    /// lets it master the bus.
    pub fn open(name: &str, group: &str) -> Result<Self> {
        let file = open("/dev/vfio/vfio")?;
        let version = tell(&file, GET_API_VERSION, 0).context("VFIO version")?;
        if version != VFIO_API_VERSION as IoctlOutput {
            bail!("this VFIO has another interface");
        }
        let group = open(&format!("/dev/vfio/{group}"))?;
        let mut status = vfio_group_status::default();
        exchange(&group, GROUP_GET_STATUS, &mut status).context("status of the group")?;
        if status.flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            bail!("other drivers have devices of the group");
        }
        let mut number = file.as_raw_fd();
        let set = Request {
            opcode: GROUP_SET_CONTAINER,
            argument: (&raw mut number).cast(),
        };
        // SAFETY: the request reads the descriptor's number from its address.
        unsafe { ioctl(&group, set) }.context("set the container")?;
        tell(&file, SET_IOMMU, VFIO_TYPE1v2_IOMMU as usize).context("set the IOMMU")?;
        let name = CString::new(name).context("name of the device")?;
        let get = Request {
            opcode: GROUP_GET_DEVICE_FD,
            argument: name.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the request reads a C string, and writes nothing.
        let device = unsafe { ioctl(&group, get) }.context("open the device")?;
        // SAFETY: the kernel has just opened it for this caller.
        let device = unsafe { OwnedFd::from_raw_fd(device) };
        let container = Self {
            file,
            device: device.into(),
        };
        container.master_bus()?;
        Ok(container)
    }

    /// The last address that the IOMMU translates, from the ranges in what the
    /// container says of it (`vfio_iommu_type1_info_cap_iova_range`).
    pub fn last_address(&self) -> Result<u64> {
        let mut info = Info([0; 256]);
        exchange(&self.file, IOMMU_GET_INFO, &mut info).context("what the IOMMU takes")?;
        let word = |at: usize| info.0.get(at).copied().unwrap_or(0);
        let mut at = if word(1) & VFIO_IOMMU_INFO_CAPS == 0 {
            0
        } else {
            word(4) as usize / 4
        };
        // Each is further on than the one before.
        for _ in 0..info.0.len() {
            if at == 0 {
                break;
            }
            let count = word(at + 2) as usize;
            if word(at) & 0xffff == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE && count != 0 {
                let last = at + 4 * count;
                return Ok(u64::from(word(last + 2)) | u64::from(word(last + 3)) << 32);
            }
            at = word(at + 1) as usize / 4;
        }
        bail!("the kernel does not say what the IOMMU takes")
    }

    /// Offset of a region in the device's file.
    fn region(&self, index: u32) -> Result<u64> {
        let mut info = vfio_region_info {
            index,
            ..Default::default()
        };
        exchange(&self.device, DEVICE_GET_REGION_INFO, &mut info).context("region")?;
        Ok(info.offset)
    }

    /// Sets bus master and memory in the command register.
    fn master_bus(&self) -> Result<()> {
        let at = self.region(VFIO_PCI_CONFIG_REGION_INDEX)? + 4;
        let mut command = [0; 2];
        self.device
            .read_exact_at(&mut command, at)
            .context("read config")?;
        let value = u16::from_le_bytes(command) | 0b110;
        self.device
            .write_all_at(&value.to_le_bytes(), at)
            .context("write config")
    }

    /// The device's registers.
    pub fn bar(&self) -> Result<Bar> {
        Bar::map(&self.device, self.region(VFIO_PCI_BAR0_REGION_INDEX)?)
    }

    /// Lets the device reach the first `length` bytes of `memory` as those at
    /// `address`.
    pub fn map(&self, address: u64, memory: &Buffer, length: usize, rights: Rights) -> Result<()> {
        let mut map = vfio_iommu_type1_dma_map {
            flags: rights.flags(),
            vaddr: memory.address() as u64,
            iova: address,
            size: length as u64,
            ..Default::default()
        };
        exchange(&self.file, IOMMU_MAP_DMA, &mut map)
            .context("map for DMA")
            .map(drop)
    }

    /// Takes that away again.
    pub fn unmap(&self, address: u64, length: usize) -> Result<()> {
        let mut unmap = Unmap {
            iova: address,
            size: length as u64,
            ..Default::default()
        };
        exchange(&self.file, IOMMU_UNMAP_DMA, &mut unmap).context("unmap for DMA")?;
        // The kernel says how much it unmapped.
        if unmap.size != length as u64 {
            bail!("not all of a mapping was unmapped");
        }
        Ok(())
    }
}
