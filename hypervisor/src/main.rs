//! Portcullis at EL2: owns the SMMUv3 and stage 2, and runs one host below.
//!
//! This image holds what needs EL2 and nothing else. What can be decided
//! without hardware lives in `crates/`, where it is tested natively.
//!
//! | module | idea |
//! |---|---|
//! | `entry` | first instructions, vectors, the way into the host |
//! | `boot` | from the device tree to the host's first instruction |
//! | `mmu`, `memory` | EL2's own translation and memory |
//! | `smmu`, `gic` | the devices that EL2 drives; the SMMUs that the host sees |
//! | `its` | the interrupt translation services, and those that the host sees |
//! | `owner_memory` | memory of an owner that EL2 reads and writes |
//! | `emulated_writes` | the host's writes to registers of the SMMUs and ITSs that it sees |
//! | `paravirt` | the virtio-iommus that the host sees in paravirt mode |
//! | `inherited` | what an earlier stage may have left in registers |
//! | `trap`, `psci`, `host` | what the host does that needs EL2 |
//! | `lock`, `log` | locks in order, and the log |
//! | `undescribed`, `vector` | accesses that no syndrome describes |
//! | `fixup` | accesses that survive an external abort |
//! | `fatal` | when EL2 itself fails |
#![no_std]
#![no_main]

mod boot;
#[cfg(feature = "digest")]
mod digest;
mod emulated_writes;
mod entry;
mod fatal;
mod fixup;
mod gic;
mod host;
mod image;
mod inherited;
mod its;
mod lock;
mod log;
mod machine;
mod memory;
mod mmio;
mod mmu;
mod owner_memory;
mod paravirt;
mod percpu;
#[cfg(feature = "provoke")]
mod provoke;
mod psci;
mod refusal;
mod smmu;
mod sysreg;
mod trap;
mod undescribed;
mod vector;
