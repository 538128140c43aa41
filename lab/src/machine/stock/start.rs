//! How it starts its SMMU, with every stream attached.

use super::{Front, Stock, asid};
use crate::machine::{Machine, MachineError, Shape, nested::STREAM_BITS, stream};
use portcullis_memory::Allocator;
use portcullis_pagetable::{Bbm, Geometry, Granule, MAIR, Table};
use smmuv3_emulator::Size;
use smmuv3_spec::cd::Cd;
use smmuv3_spec::command::Command;
use smmuv3_spec::control::{Cr0, Cr2};
use smmuv3_spec::id::{Idr0, Idr1, Idr3, Idr5};
use smmuv3_spec::reg;
use smmuv3_spec::ste::{Config, L1Std, Ste};

/// log2 of the entries of a second-level stream table (STRTAB_SPLIT).
const SPLIT: u8 = 8;
/// log2 of the commands in its queue, at most. Linux takes more where it can.
const COMMANDS: u8 = 12;
/// Bits of an IOVA (VA_BITS).
const INPUT: u8 = 48;

impl<'m, F: Front> Stock<'m, F> {
    /// Starts the SMMU behind `front`.
    pub(in crate::machine) fn start(
        machine: &'m Machine,
        shape: &Shape<'_>,
        mut front: F,
    ) -> Result<Self, MachineError> {
        let idr0 = Idr0::from(front.read32(reg::IDR0));
        let idr1 = Idr1::from(front.read32(reg::IDR1));
        let idr3 = Idr3::from(front.read32(reg::IDR3));
        let idr5 = Idr5::from(front.read32(reg::IDR5));
        let output = idr5.output_bits().unwrap_or(32).min(48);
        let memory = machine.host();
        let take = |bytes: u64| {
            memory
                .allocate(bytes)
                .ok_or(MachineError::Memory("the host's tables"))
        };
        let store_all = |at: u64, words: &[u64]| {
            for (at, word) in (at..).step_by(8).zip(words) {
                machine.store(at, *word);
            }
        };

        let geometry = Geometry::stage1(Granule::Size4K, INPUT, output)?;
        let mut tables = Vec::new();
        let mut contexts = Vec::new();
        for domain in 0..shape.domains() {
            let table = Table::new(geometry, Bbm::Level0, memory)?;
            let cd = Cd::default()
                // All below 64, 4 and 8.
                .with_t0sz(geometry.t0sz() as u8)
                .with_tg0(geometry.tg0() as u8)
                .with_ir0(1)
                .with_or0(1)
                .with_sh0(3)
                .with_epd1(true)
                .with_v(true)
                .with_ips(geometry.ps() as u8)
                .with_aa64(true)
                .with_r(true)
                .with_a(true)
                .with_aset(true)
                .with_asid(asid(domain).0)
                .with_ttb0(table.root().raw())
                .with_mair0(MAIR as u32)
                .with_mair1((MAIR >> 32) as u32);
            let at = take(Cd::SIZE)?.raw();
            store_all(at, &cd.0);
            tables.push(table);
            contexts.push(at);
        }

        let first = take(8 << (STREAM_BITS - SPLIT))?.raw();
        let mut leaf = 0;
        for initiator in 0..shape.initiators() {
            let id = u64::from(stream(initiator).0);
            let inside = id % (1 << SPLIT);
            if inside == 0 {
                leaf = take(Ste::SIZE << SPLIT)?.raw();
                let descriptor = L1Std::default().with_span(SPLIT + 1).with_l2ptr(leaf);
                machine.store(first + (id >> SPLIT) * 8, descriptor.0[0]);
            }
            let context = contexts.get(shape.domain_of(initiator)).copied();
            let entry = Ste::default()
                .with_v(true)
                .with_config(Config::S1)
                .with_s1contextptr(context.unwrap_or(0))
                .with_s1cir(1)
                .with_s1cor(1)
                .with_s1csh(3)
                .with_shcfg(1)
                .with_s1stalld(idr0.stall_model() == 0);
            store_all(leaf + inside * Ste::SIZE, &entry.0);
        }

        let log2 = idr1.cmdqs().min(COMMANDS);
        let queue = take(Command::SIZE << log2)?.raw();
        let events = take(4096)?.raw();
        let mut word = |offset, value: u32| front.write(offset, Size::Word, value.into());
        let mut cr0 = Cr0::new();
        word(reg::CR0, cr0.into())?;
        word(reg::CR1, 0xd75)?;
        word(
            reg::CR2,
            Cr2::new().with_recinvsid(true).with_ptm(true).into(),
        )?;
        let format = 1 << 16 | u32::from(SPLIT) << 6 | u32::from(STREAM_BITS);
        front.write(reg::STRTAB_BASE, Size::Double, first | 1 << 62)?;
        front.write(reg::STRTAB_BASE_CFG, Size::Word, format.into())?;
        front.write(
            reg::CMDQ_BASE,
            Size::Double,
            queue | 1 << 62 | u64::from(log2),
        )?;
        front.write(reg::CMDQ_PROD, Size::Word, 0)?;
        front.write(reg::CMDQ_CONS, Size::Word, 0)?;
        cr0 = cr0.with_cmdqen(true);
        front.write(reg::CR0, Size::Word, u32::from(cr0).into())?;
        let mut stock = Self {
            machine,
            front,
            tables,
            queue,
            log2,
            prod: 0,
            messages: idr0.msi() && idr0.cohacc(),
            ranges: idr3.ril(),
            gathered: Vec::new(),
            plans: Vec::new(),
        };
        stock.put_and_sync(&[Command::cfgi_all()])?;
        stock.put_and_sync(&[Command::tlbi_nsnh_all()])?;
        let front = &mut stock.front;
        front.write(reg::EVENTQ_BASE, Size::Double, events | 1 << 62 | 7)?;
        front.write(reg::EVENTQ_PROD, Size::Word, 0)?;
        front.write(reg::EVENTQ_CONS, Size::Word, 0)?;
        for cr0 in [
            cr0.with_eventqen(true),
            cr0.with_eventqen(true).with_smmuen(true),
        ] {
            front.write(reg::CR0, Size::Word, u32::from(cr0).into())?;
        }
        if !Cr0::from(front.read32(reg::CR0ACK)).smmuen() {
            return Err(MachineError::Stuck("enable translation"));
        }
        Ok(stock)
    }
}
