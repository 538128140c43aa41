//! Register layouts against bit patterns from the architecture text (IHI 0070,
//! 6.3), and against values read from a real implementation: QEMU's.

use smmuv3_spec::control::{
    CmdqCons, Cr0, Cr1, Cr2, Gbpa, Gerror, IrqCfg2, IrqCtrl, OutputIndex, QueueBase, Statusr,
    StrtabBase, StrtabBaseCfg,
};
use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5, Iidr};
use smmuv3_spec::reg;

macro_rules! bits {
    ($type:ident, $raw:ty: $( $with:ident($value:expr) => $bits:literal; )*) => {
        $( assert_eq!(<$raw>::from($type::new().$with($value)), $bits, stringify!($with)); )*
    };
}

/// 6.3.1.
#[test]
fn idr0() {
    bits! { Idr0, u32:
        with_s2p(true) => 1 ; with_s1p(true) => 2; with_ttf(3) => 0xc;
        with_cohacc(true) => 0x10; with_btm(true) => 0x20; with_httu(3) => 0xc0;
        with_dormhint(true) => 0x100; with_hyp(true) => 0x200; with_ats(true) => 0x400;
        with_ns1ats(true) => 0x800; with_asid16(true) => 0x1000; with_msi(true) => 0x2000;
        with_sev(true) => 0x4000; with_atos(true) => 0x8000; with_pri(true) => 0x1_0000;
        with_vmw(true) => 0x2_0000; with_vmid16(true) => 0x4_0000; with_cd2l(true) => 0x8_0000;
        with_vatos(true) => 0x10_0000; with_ttendian(3) => 0x60_0000;
        with_atsrecerr(true) => 0x80_0000; with_stall_model(3) => 0x300_0000;
        with_term_model(true) => 0x400_0000; with_st_level(3) => 0x1800_0000;
        with_rme_impl(true) => 0x4000_0000;
    }
}

/// 6.3.2.
#[test]
fn idr1() {
    bits! { Idr1, u32:
        with_sidsize(63) => 0x3f; with_ssidsize(31) => 0x7c0; with_priqs(31) => 0xf800;
        with_eventqs(31) => 0x1f_0000; with_cmdqs(31) => 0x3e0_0000;
        with_attr_perms_ovr(true) => 0x400_0000; with_attr_types_ovr(true) => 0x800_0000;
        with_rel(true) => 0x1000_0000; with_queues_preset(true) => 0x2000_0000;
        with_tables_preset(true) => 0x4000_0000; with_ecmdq(true) => 0x8000_0000;
    }
}

/// 6.3.4 and 6.3.6 to 6.3.8.
#[test]
fn idr3_idr5_iidr_aidr() {
    bits! { Idr3, u32:
        with_had(true) => 0x4; with_pbha(true) => 0x8; with_xnx(true) => 0x10;
        with_pps(true) => 0x20; with_mpam(true) => 0x80; with_fwb(true) => 0x100;
        with_stt(true) => 0x200; with_ril(true) => 0x400; with_bbml(3) => 0x1800;
        with_e0pd(true) => 0x2000; with_ptwnnc(true) => 0x4000; with_dpt(true) => 0x8000;
    }
    bits! { Idr5, u32:
        with_oas(7) => 0x7; with_gran4k(true) => 0x10; with_gran16k(true) => 0x20;
        with_gran64k(true) => 0x40; with_ds(true) => 0x80; with_d128(true) => 0x100;
        with_vax(3) => 0xc00; with_stall_max(0xffff) => 0xffff_0000;
    }
    bits! { Iidr, u32:
        with_implementer(0xfff) => 0xfff; with_revision(15) => 0xf000;
        with_variant(15) => 0xf_0000; with_product_id(0xfff) => 0xfff0_0000;
    }
    bits! { Aidr, u32: with_minor(15) => 0xf; with_major(15) => 0xf0; }
}

/// 6.3.9 to 6.3.20.
#[test]
fn control() {
    bits! { Cr0, u32:
        with_smmuen(true) => 1; with_priqen(true) => 2; with_eventqen(true) => 4;
        with_cmdqen(true) => 8; with_atschk(true) => 0x10; with_vmw(7) => 0x1c0;
        with_dpt_walk_en(true) => 0x400;
    }
    bits! { Cr1, u32:
        with_queue_ic(3) => 0x3; with_queue_oc(3) => 0xc; with_queue_sh(3) => 0x30;
        with_table_ic(3) => 0xc0; with_table_oc(3) => 0x300; with_table_sh(3) => 0xc00;
    }
    bits! { Cr2, u32:
        with_e2h(true) => 1; with_recinvsid(true) => 2; with_ptm(true) => 4;
        with_rec_cfg_ats(true) => 8;
    }
    bits! { Statusr, u32: with_dormant(true) => 1; }
    bits! { Gbpa, u32:
        with_mem_attr(15) => 0xf; with_mtcfg(true) => 0x10; with_alloccfg(15) => 0xf00;
        with_shcfg(3) => 0x3000; with_privcfg(3) => 0x3_0000; with_instcfg(3) => 0xc_0000;
        with_abort(true) => 0x10_0000; with_update(true) => 0x8000_0000;
    }
    bits! { IrqCtrl, u32:
        with_gerror_irqen(true) => 1; with_priq_irqen(true) => 2; with_eventq_irqen(true) => 4;
    }
    bits! { Gerror, u32:
        with_cmdq_err(true) => 1; with_eventq_abt_err(true) => 4; with_priq_abt_err(true) => 8;
        with_msi_cmdq_abt_err(true) => 0x10; with_msi_eventq_abt_err(true) => 0x20;
        with_msi_priq_abt_err(true) => 0x40; with_msi_gerror_abt_err(true) => 0x80;
        with_sfm_err(true) => 0x100; with_cmdqp_err(true) => 0x200; with_dpt_err(true) => 0x400;
    }
    bits! { IrqCfg2, u32: with_mem_attr(15) => 0xf; with_sh(3) => 0x30; with_lo(true) => 0x8000_0000; }
}

/// 6.3.24 to 6.3.33, 7.4.
#[test]
fn tables_and_queues() {
    bits! { StrtabBase, u64:
        with_addr_6(0x3_ffff_ffff_ffff) => 0x00ff_ffff_ffff_ffc0;
        with_ra(true) => 0x4000_0000_0000_0000;
    }
    bits! { StrtabBaseCfg, u32:
        with_log2size(63) => 0x3f; with_split(31) => 0x7c0; with_fmt(3) => 0x3_0000;
    }
    bits! { QueueBase, u64:
        with_log2size(31) => 0x1f; with_addr_5(0x7_ffff_ffff_ffff) => 0x00ff_ffff_ffff_ffe0;
        with_alloc(true) => 0x4000_0000_0000_0000;
    }
    bits! { CmdqCons, u32: with_rd(0xf_ffff) => 0xf_ffff; with_err(0x7f) => 0x7f00_0000; }
    bits! { OutputIndex, u32: with_index(0xf_ffff) => 0xf_ffff; with_overflow(true) => 0x8000_0000; }
}

/// The offsets that the "Accessing" part of each section of 6.3 gives.
#[test]
fn offsets() {
    assert_eq!(
        [
            reg::IDR0,
            reg::IDR1,
            reg::IDR2,
            reg::IDR3,
            reg::IDR4,
            reg::IDR5,
            reg::IIDR,
            reg::AIDR,
            reg::CR0,
            reg::CR0ACK,
            reg::CR1,
            reg::CR2,
            reg::STATUSR,
            reg::GBPA,
            reg::AGBPA,
            reg::IRQ_CTRL,
            reg::IRQ_CTRLACK,
            reg::GERROR,
            reg::GERRORN,
            reg::GERROR_IRQ_CFG0,
            reg::GERROR_IRQ_CFG1,
            reg::GERROR_IRQ_CFG2,
            reg::STRTAB_BASE,
            reg::STRTAB_BASE_CFG,
            reg::CMDQ_BASE,
            reg::CMDQ_PROD,
            reg::CMDQ_CONS,
            reg::EVENTQ_BASE,
            reg::EVENTQ_IRQ_CFG0,
            reg::EVENTQ_IRQ_CFG1,
            reg::EVENTQ_IRQ_CFG2,
            reg::PRIQ_BASE,
            reg::PRIQ_IRQ_CFG0,
            reg::PRIQ_IRQ_CFG1,
            reg::PRIQ_IRQ_CFG2,
        ],
        [
            0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x40, 0x44,
            0x48, 0x50, 0x54, 0x60, 0x64, 0x68, 0x70, 0x74, 0x80, 0x88, 0x90, 0x98, 0x9c, 0xa0,
            0xb0, 0xb8, 0xbc, 0xc0, 0xd0, 0xd8, 0xdc,
        ]
    );
    assert_eq!(reg::EVENTQ_PROD, 0x1_00a8);
    assert_eq!(reg::EVENTQ_CONS, 0x1_00ac);
    assert_eq!(reg::PRIQ_PROD, 0x1_00c8);
    assert_eq!(reg::PRIQ_CONS, 0x1_00cc);
}

/// What QEMU 10 reads as, decoded by hand.
#[test]
fn qemu() {
    let idr0 = Idr0::from(0x0d44_101b);
    assert!(idr0.s1p() && idr0.s2p() && idr0.cohacc() && idr0.asid16() && idr0.vmid16());
    assert_eq!(
        (
            idr0.ttf(),
            idr0.ttendian(),
            idr0.stall_model(),
            idr0.st_level()
        ),
        (2, 2, 1, 1)
    );
    assert!(!(idr0.msi() || idr0.hyp() || idr0.ats() || idr0.pri() || idr0.btm()));
    let idr1 = Idr1::from(0x0273_0010);
    assert_eq!(
        (
            idr1.sidsize(),
            idr1.ssidsize(),
            idr1.cmdqs(),
            idr1.eventqs()
        ),
        (16, 0, 19, 19)
    );
    let idr3 = Idr3::from(0x1414);
    assert!(idr3.had() && idr3.xnx() && idr3.ril());
    assert_eq!(idr3.bbml(), 2);
    let idr5 = Idr5::from(0x74);
    assert_eq!(idr5.output_bits(), Some(44));
    assert!(idr5.gran4k() && idr5.gran16k() && idr5.gran64k());
}
