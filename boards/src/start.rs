//! The hypervisor's boot, as far as it goes without EL2: the same calls in the
//! same order as `hypervisor/src/boot.rs`, up to the host's tables.

use crate::loader::Loaded;
use crate::space::{self, SpaceError};
use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{
    BootError, DeviceNote, Fdt, FirmwareMemory, Hardware, HostRegisters, HostTreePlan, Interrupts,
    KernelHeader, Layout, Machine, NodePath, Occupant, Verdict, smmus_to_fence,
};

/// Bytes of the hypervisor's memory: more than any machine needs that is tried here.
const POOL: u64 = 16 << 20;

/// What a board's registers would say that its tree does not.
struct Board;

impl Hardware for Board {
    fn memory_end(&self) -> PhysAddr {
        PhysAddr::new(1 << space::BITS)
    }

    fn spi_ends(&self, _: Range<PhysAddr>) -> [u32; 2] {
        // As many SPIs as there can be (IHI 0069, 12.9.38), and no extended ones.
        [1020, 0]
    }
}

/// Why a tree is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// By what it says.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The SMMUs that are fenced first are not those that are found later.
    #[error("the SMMUs that were fenced are not those of the machine")]
    TreeChanged,
    /// By the host's tables.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// What became of a tree that was not refused.
#[derive(Clone, Debug)]
pub struct Started {
    /// The host's tree.
    pub host_tree: Vec<u8>,
    /// Paths of the enabled devices that are withheld; neighbours are joined.
    pub withheld: Vec<String>,
    /// How many devices that is.
    pub withheld_devices: usize,
    /// Paths of devices that lost a page.
    pub cut: Vec<String>,
    /// Paths of the devices behind SMMUs.
    pub confined: Vec<String>,
}

/// Boots.
///
/// # Errors
/// [`Refusal`], where the hypervisor would say so and stop.
pub fn start(loaded: &Loaded) -> Result<Started, Refusal> {
    let fdt = Fdt::new(&loaded.blob)?;
    let found = smmus_to_fence(&fdt);
    found.require()?;
    let found = found.registers;
    let machine = Machine::from_fdt_on(&loaded.blob, &Board)?;
    for smmu in machine.smmus.iter() {
        machine.check_smmu(smmu)?;
    }
    let registers = machine.smmus.iter().map(|smmu| &smmu.registers);
    if !registers.eq(found.iter()) {
        return Err(Refusal::TreeChanged);
    }
    machine.check_hardware()?;
    let mut registers = HostRegisters::new();
    registers.find(&fdt, &machine)?;
    for ecam in machine.pci_hosts.iter().filter_map(|host| host.ecam) {
        machine.outside_memory(ecam)?;
    }
    let kernel = machine.modules.kernel.range;
    if !machine.memory.iter().any(|bank| bank.covers(&kernel)) {
        let what = Occupant::Kernel;
        return Err(BootError::OutsideMemory {
            what,
            range: kernel,
        }
        .into());
    }
    let at = portcullis_boot::Loaded {
        image: loaded.image,
        tree: loaded.tree,
        kernel: KernelHeader::parse(&loaded.kernel)?,
    };
    let firmware = FirmwareMemory::find(&machine, &at)?;
    let coherent = machine.smmus.iter().all(|smmu| smmu.coherent);
    let places = [loaded.image; 2];
    let tree_bytes = HostTreePlan::new(&machine, &places, true)
        .with_firmware(&firmware)
        .bytes_needed(&fdt) as u64;
    let layout = Layout::plan(&machine, &at, POOL, tree_bytes)?;
    let protected = [loaded.image, layout.pool];
    let mut plan = HostTreePlan::new(&machine, &protected, coherent).with_firmware(&firmware);
    plan.interrupts = Interrupts::of(&machine, false);
    let mut host_tree = vec![0; layout.host_tree.size() as usize];
    let written = plan.write(&fdt, &mut host_tree)?;
    host_tree.truncate(written);
    let mut started = Started {
        host_tree,
        withheld: Vec::new(),
        withheld_devices: 0,
        cut: Vec::new(),
        confined: Vec::new(),
    };
    machine.for_each_note(&fdt, |note: &DeviceNote| {
        if matches!(note.verdict, Verdict::Withheld(_)) {
            started.withheld.push(note.path.to_string());
            started.withheld_devices += note.nodes;
        }
    })?;
    registers.for_each_cut(&fdt, &machine, |path: NodePath, _| {
        started.cut.push(path.to_string());
    })?;
    for range in machine.streams.iter() {
        let path = fdt.path(range.node).to_string();
        if !started.confined.contains(&path) {
            started.confined.push(path);
        }
    }
    // As where the hypervisor takes the GIC over.
    registers.withhold_gic(&machine, true)?;
    space::build(&machine, &registers, &protected, &firmware)?;
    Ok(started)
}
