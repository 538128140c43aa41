//! What an implementation chooses.

/// What a `GITS_BASER<n>` register is for (IHI 0069, `GITS_BASER<n>.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Devices, `0b001`.
    Device,
    /// vPEs, `0b010`: GICv4.
    Vpe,
    /// Interrupt collections, `0b100`.
    Collection,
}

impl TableKind {
    /// The value of `Type`.
    #[must_use]
    pub fn bits(self) -> u64 {
        match self {
            Self::Device => 0b001,
            Self::Vpe => 0b010,
            Self::Collection => 0b100,
        }
    }
}

/// One `GITS_BASER<n>` register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFormat {
    /// What it is for.
    pub kind: TableKind,
    /// Bytes of an entry, 8 to 32.
    pub entry_bytes: u32,
    /// Whether `Indirect` can be set.
    pub indirect: bool,
}

/// What an ITS does with a command that it cannot carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Goes on with the next.
    Skip,
    /// Stops there, with `GITS_CREADR.Stalled`.
    Stall,
    /// One or the other.
    Either,
}

/// How much is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Nothing: tables are written with each command and read for each message,
    /// LPI configuration too.
    None,
    /// All that can be, for as long as it can be; tables are written late.
    Greedy,
    /// Each entry or not, changing at each step.
    Random,
}

/// When commands are carried out and updates take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// With the write that asks for it.
    AtOnce,
    /// A few with each read of a register that tells of progress.
    OnPoll,
    /// With [`Gic::step`](crate::Gic::step) alone.
    OnStep,
}

/// What the implementation is.
#[derive(Clone, Debug)]
pub struct Profile {
    /// For messages of a test.
    pub name: &'static str,
    /// How many ITSs.
    pub units: usize,
    /// How many redistributors.
    pub cpus: usize,
    /// Bits of a DeviceID (`GITS_TYPER.Devbits` plus one), 1 to 32.
    pub device_bits: u32,
    /// Bits of an EventID (`GITS_TYPER.ID_bits` plus one), 1 to 32.
    pub event_bits: u32,
    /// Bytes of an interrupt translation entry, 8 to 16.
    pub itt_entry_bytes: u32,
    /// `RDbase` in commands is the address of the redistributor, not its number.
    pub pta: bool,
    /// Collections that the ITS holds itself (`GITS_TYPER.HCC`).
    pub hcc: u8,
    /// Those and the ones in memory add up (`GITS_TYPER.CCT`).
    pub cct: bool,
    /// Bits of an ICID where `GITS_TYPER.CIL` is 1; else 16.
    pub collection_bits: Option<u32>,
    /// GICv4: virtual LPIs by the ITS.
    pub virtual_lpis: bool,
    /// `GITS_BASER0` and on, at most eight.
    pub tables: Vec<TableFormat>,
    /// Page sizes of tables that there are: bit 0 for 4 KiB, 1 for 16 KiB, 2 for
    /// 64 KiB.
    pub page_sizes: u8,
    /// `Shareability` can be set, that is, CPUs' caches are seen.
    pub coherent: bool,
    /// What happens to a command that cannot be carried out.
    pub on_error: OnError,
    /// Bits of an INTID (`GICD_TYPER.IDbits` plus one), 14 to 24.
    pub id_bits: u32,
    /// `GICR_TYPER.DirectLPI`.
    pub direct_lpi: bool,
    /// `GICR_CTLR.IR`: INVLPIR, INVALLR and SYNCR without `DirectLPI`.
    pub invalidate_registers: bool,
    /// `GICR_CTLR.CES`: `EnableLPIs` can be cleared once it was set.
    pub clear_enable: bool,
    /// Address of the first redistributor's frames.
    pub rd_base: u64,
    /// Bytes from one redistributor to the next.
    pub rd_stride: u64,
    /// How much is cached.
    pub caching: Caching,
    /// When things happen.
    pub pace: Pace,
    /// Where behaviour is UNPREDICTABLE, garbage is written to memory that
    /// is at hand.
    pub wild: bool,
}

impl Profile {
    /// One ITS like that of QEMU 7 to 9: flat or two-level tables of all page
    /// sizes, 16 bits of everything, 12 bytes for an ITT entry, nothing cached.
    #[must_use]
    pub fn qemu() -> Self {
        Self {
            name: "qemu",
            units: 1,
            cpus: 4,
            device_bits: 16,
            event_bits: 16,
            itt_entry_bytes: 12,
            pta: false,
            hcc: 0,
            cct: false,
            collection_bits: None,
            virtual_lpis: false,
            tables: vec![
                TableFormat {
                    kind: TableKind::Device,
                    entry_bytes: 8,
                    indirect: true,
                },
                TableFormat {
                    kind: TableKind::Collection,
                    entry_bytes: 8,
                    indirect: true,
                },
            ],
            page_sizes: 0b111,
            coherent: true,
            on_error: OnError::Skip,
            id_bits: 16,
            direct_lpi: false,
            invalidate_registers: false,
            clear_enable: true,
            rd_base: 0x080a_0000,
            rd_stride: 0x2_0000,
            caching: Caching::None,
            pace: Pace::AtOnce,
            wild: false,
        }
    }

    /// As far as an implementation may go: all is cached, late, and dropped at
    /// random; errors stall or do not; `EnableLPIs` stays; two ITSs.
    #[must_use]
    pub fn greedy() -> Self {
        Self {
            name: "greedy",
            units: 2,
            itt_entry_bytes: 8,
            on_error: OnError::Either,
            clear_enable: false,
            caching: Caching::Greedy,
            pace: Pace::OnPoll,
            wild: true,
            ..Self::qemu()
        }
    }

    /// Like an Arm GIC-600: a flat device table of 64 KiB pages at most, no
    /// collection table but collections of its own, addresses as `RDbase`.
    #[must_use]
    pub fn held_collections() -> Self {
        Self {
            name: "held-collections",
            device_bits: 12,
            itt_entry_bytes: 8,
            pta: true,
            hcc: 16,
            tables: vec![TableFormat {
                kind: TableKind::Device,
                entry_bytes: 8,
                indirect: false,
            }],
            page_sizes: 0b100,
            clear_enable: false,
            on_error: OnError::Stall,
            caching: Caching::Random,
            pace: Pace::OnPoll,
            wild: true,
            ..Self::qemu()
        }
    }

    /// An ITS that does not see CPUs' caches, with few bits, pages of 4 KiB alone
    /// and collections in both places; invalidation by register.
    #[must_use]
    pub fn non_coherent() -> Self {
        Self {
            name: "non-coherent",
            device_bits: 10,
            event_bits: 11,
            itt_entry_bytes: 16,
            hcc: 2,
            cct: true,
            collection_bits: Some(8),
            page_sizes: 0b001,
            coherent: false,
            id_bits: 14,
            invalidate_registers: true,
            caching: Caching::Random,
            pace: Pace::OnPoll,
            wild: true,
            ..Self::qemu()
        }
    }

    /// GICv4, with all frames and tables that has.
    #[must_use]
    pub fn gicv4() -> Self {
        let mut profile = Self {
            name: "gicv4",
            device_bits: 20,
            id_bits: 20,
            virtual_lpis: true,
            direct_lpi: true,
            rd_stride: 0x4_0000,
            caching: Caching::Greedy,
            pace: Pace::OnPoll,
            on_error: OnError::Stall,
            wild: true,
            ..Self::qemu()
        };
        profile.tables.push(TableFormat {
            kind: TableKind::Vpe,
            entry_bytes: 16,
            indirect: true,
        });
        profile
    }

    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::qemu(),
            Self::greedy(),
            Self::held_collections(),
            Self::non_coherent(),
            Self::gicv4(),
        ]
    }

    /// `GITS_TYPER`.
    pub(crate) fn typer(&self) -> u64 {
        let mut typer = 1
            | u64::from(self.virtual_lpis) << 1
            | u64::from(self.cct) << 2
            | u64::from(self.itt_entry_bytes - 1) << 4
            | u64::from(self.event_bits - 1) << 8
            | u64::from(self.device_bits - 1) << 13
            | u64::from(self.pta) << 19
            | u64::from(self.hcc) << 24;
        if let Some(bits) = self.collection_bits {
            typer |= u64::from(bits - 1) << 32 | 1 << 36;
        }
        typer
    }

    /// The address of the frames of redistributor `cpu`.
    #[must_use]
    pub fn rd_at(&self, cpu: usize) -> u64 {
        self.rd_base + self.rd_stride * cpu as u64
    }

    /// What names redistributor `cpu` in a command: bits 51 to 16 of a word.
    #[must_use]
    pub fn rdbase(&self, cpu: usize) -> u64 {
        if self.pta {
            self.rd_at(cpu)
        } else {
            (cpu as u64) << 16
        }
    }
}
