//! The kernel's VFIO interface, type 1, as `linux/vfio.h` has it.

use crate::bar::Bar;
use crate::sys::{self, Errno, Fd};
use crate::text::{Context, Failure, Line};
use core::ffi::CStr;
use core::fmt::Write;

// The requests: type ';' and a number from 100 on.
const API_VERSION: usize = 0x3b64;
const SET_IOMMU: usize = 0x3b66;
const GROUP_STATUS: usize = 0x3b67;
const GROUP_SET_CONTAINER: usize = 0x3b68;
const GROUP_DEVICE: usize = 0x3b6a;
const REGION_INFO: usize = 0x3b6c;
const GET_INFO: usize = 0x3b70;
const MAP_DMA: usize = 0x3b71;
const UNMAP_DMA: usize = 0x3b72;

const TYPE1_V2: usize = 3;
const VIABLE: u32 = 1;
const BAR0: u32 = 0;
const CONFIG: u32 = 7;

/// What a device may do with a mapping.
#[derive(Clone, Copy)]
pub enum Rights {
    /// Read it.
    Read = 1,
    /// Read and write it.
    ReadWrite = 3,
}

/// An I/O address space with one device in it.
pub struct Container {
    file: Fd,
    device: Fd,
}

/// Makes a request whose argument is a number or nothing.
fn request(fd: Fd, number: usize, argument: usize) -> Result<usize, Errno> {
    // SAFETY: the callers' requests take a plain number.
    unsafe { sys::call(29, [fd.0 as usize, number, argument, 0, 0, 0]) }
}

/// Makes a request that reads and writes `words`, the first of which says how
/// long they are.
fn exchange(fd: Fd, number: usize, words: &mut [u32]) -> Result<usize, Errno> {
    words[0] = size_of_val(words) as u32;
    let at = words.as_mut_ptr() as usize;
    // SAFETY: the structures of the callers' requests begin with their length,
    // which the kernel heeds, and it writes within the exclusive slice.
    unsafe { sys::call(29, [fd.0 as usize, number, at, 0, 0, 0]) }
}

/// Both halves of a word, low half first.
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

impl Container {
    /// Opens the device `name` of `group` in an address space of its own, and
    /// lets it master the bus.
    pub fn open(name: &CStr, group: &CStr) -> Result<Self, Failure> {
        let file = sys::open(c"/dev/vfio/vfio", sys::O_RDWR).context("open /dev/vfio/vfio")?;
        if request(file, API_VERSION, 0).context("VFIO version")? != 0 {
            return Err(Failure::Said("this VFIO has another interface"));
        }
        let mut path = Line::new();
        let group = group.to_str().map_err(|_| Failure::Said("strange group"))?;
        write!(path, "/dev/vfio/{group}")?;
        let group = sys::open(path.as_c_str()?, sys::O_RDWR).context("open the group")?;
        let mut status = [0; 2];
        exchange(group, GROUP_STATUS, &mut status).context("status of the group")?;
        if status[1] & VIABLE == 0 {
            return Err(Failure::Said("other drivers have devices of the group"));
        }
        let container = &raw const file.0 as usize;
        // SAFETY: the request reads the descriptor's number from its address.
        unsafe {
            sys::call(
                29,
                [group.0 as usize, GROUP_SET_CONTAINER, container, 0, 0, 0],
            )
        }
        .context("set the container")?;
        request(file, SET_IOMMU, TYPE1_V2).context("set the IOMMU")?;
        let at = name.as_ptr() as usize;
        // SAFETY: the request reads a C string.
        let device = unsafe { sys::call(29, [group.0 as usize, GROUP_DEVICE, at, 0, 0, 0]) }
            .context("open the device")?;
        let container = Self {
            file,
            device: Fd(device as i32),
        };
        container.master_bus()?;
        Ok(container)
    }

    /// The last address that the IOMMU translates, from the ranges in what the
    /// container says of it (`vfio_iommu_type1_info_cap_iova_range`).
    pub fn last_address(&self) -> Result<u64, Failure> {
        const HAS_CAPABILITIES: u32 = 1 << 1;
        const IOVA_RANGES: u32 = 1;
        let mut words = [0; 256];
        exchange(self.file, GET_INFO, &mut words).context("what the IOMMU takes")?;
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        let mut at = if word(1) & HAS_CAPABILITIES == 0 {
            0
        } else {
            word(4) as usize / 4
        };
        // Each is further on than the one before.
        for _ in 0..words.len() {
            if at == 0 {
                break;
            }
            let count = word(at + 2) as usize;
            if word(at) & 0xffff == IOVA_RANGES && count != 0 {
                let last = at + 4 * count;
                return Ok(u64::from(word(last + 2)) | u64::from(word(last + 3)) << 32);
            }
            at = word(at + 1) as usize / 4;
        }
        Err(Failure::Said(
            "the kernel does not say what the IOMMU takes",
        ))
    }

    /// Offset of a region in the device's file.
    fn region(&self, index: u32) -> Result<u64, Failure> {
        let mut words = [0, 0, index, 0, 0, 0, 0, 0];
        exchange(self.device, REGION_INFO, &mut words).context("region")?;
        Ok(u64::from(words[6]) | u64::from(words[7]) << 32)
    }

    /// Sets bus master and memory in the command register.
    fn master_bus(&self) -> Result<(), Failure> {
        let at = self.region(CONFIG)? + 4;
        let mut command = [0; 2];
        sys::read_at(self.device, &mut command, at).context("read config")?;
        let value = u16::from_le_bytes(command) | 0b110;
        sys::write_at(self.device, &value.to_le_bytes(), at)
            .context("write config")
            .map(drop)
    }

    /// The device's registers.
    pub fn bar(&self) -> Result<Bar, Failure> {
        Bar::map(self.device, self.region(BAR0)?)
    }

    /// Lets the device reach `length` bytes of this process at `memory` as
    /// those at `address`.
    pub fn map(
        &self,
        address: u64,
        memory: usize,
        length: usize,
        rights: Rights,
    ) -> Result<(), Failure> {
        let [at_low, at_high] = halves(memory as u64);
        let [low, high] = halves(address);
        let [length_low, length_high] = halves(length as u64);
        let mut words = [
            0,
            rights as u32,
            at_low,
            at_high,
            low,
            high,
            length_low,
            length_high,
        ];
        exchange(self.file, MAP_DMA, &mut words)
            .context("map for DMA")
            .map(drop)
    }

    /// Takes that away again.
    pub fn unmap(&self, address: u64, length: usize) -> Result<(), Failure> {
        let [low, high] = halves(address);
        let [length_low, length_high] = halves(length as u64);
        let mut words = [0, 0, low, high, length_low, length_high];
        exchange(self.file, UNMAP_DMA, &mut words).context("unmap for DMA")?;
        // The kernel says how much it unmapped.
        if [words[4], words[5]] != [length_low, length_high] {
            return Err(Failure::Said("not all of a mapping was unmapped"));
        }
        Ok(())
    }
}
