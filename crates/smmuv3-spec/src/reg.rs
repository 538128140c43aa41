//! Register offsets of the Non-secure programming interface, in bytes from the
//! start of page 0 (IHI 0070, 6.1 and 6.2).

macro_rules! offsets {
    ($( $(#[$m:meta])* $name:ident = $value:literal; )*) => {
        $( $(#[$m])* pub const $name: u32 = $value; )*
    };
}

offsets! {
    /// `SMMU_IDR0`, 32 bits (6.3.1).
    IDR0 = 0x0000;
    /// `SMMU_IDR1`, 32 bits (6.3.2).
    IDR1 = 0x0004;
    /// `SMMU_IDR2`, 32 bits (6.3.3).
    IDR2 = 0x0008;
    /// `SMMU_IDR3`, 32 bits (6.3.4).
    IDR3 = 0x000c;
    /// `SMMU_IDR4`, 32 bits, implementation defined (6.3.5).
    IDR4 = 0x0010;
    /// `SMMU_IDR5`, 32 bits (6.3.6).
    IDR5 = 0x0014;
    /// `SMMU_IIDR`, 32 bits (6.3.7).
    IIDR = 0x0018;
    /// `SMMU_AIDR`, 32 bits (6.3.8).
    AIDR = 0x001c;
    /// `SMMU_CR0`, 32 bits (6.3.9).
    CR0 = 0x0020;
    /// `SMMU_CR0ACK`, 32 bits, read-only (6.3.10).
    CR0ACK = 0x0024;
    /// `SMMU_CR1`, 32 bits (6.3.11).
    CR1 = 0x0028;
    /// `SMMU_CR2`, 32 bits (6.3.12).
    CR2 = 0x002c;
    /// `SMMU_STATUSR`, 32 bits, read-only (6.3.13).
    STATUSR = 0x0040;
    /// `SMMU_GBPA`, 32 bits (6.3.14).
    GBPA = 0x0044;
    /// `SMMU_AGBPA`, 32 bits, implementation defined (6.3.15).
    AGBPA = 0x0048;
    /// `SMMU_IRQ_CTRL`, 32 bits (6.3.16).
    IRQ_CTRL = 0x0050;
    /// `SMMU_IRQ_CTRLACK`, 32 bits, read-only (6.3.18).
    IRQ_CTRLACK = 0x0054;
    /// `SMMU_GERROR`, 32 bits, read-only (6.3.19).
    GERROR = 0x0060;
    /// `SMMU_GERRORN`, 32 bits (6.3.20).
    GERRORN = 0x0064;
    /// `SMMU_GERROR_IRQ_CFG0`, 64 bits (6.3.21).
    GERROR_IRQ_CFG0 = 0x0068;
    /// `SMMU_GERROR_IRQ_CFG1`, 32 bits (6.3.22).
    GERROR_IRQ_CFG1 = 0x0070;
    /// `SMMU_GERROR_IRQ_CFG2`, 32 bits (6.3.23).
    GERROR_IRQ_CFG2 = 0x0074;
    /// `SMMU_STRTAB_BASE`, 64 bits (6.3.24).
    STRTAB_BASE = 0x0080;
    /// `SMMU_STRTAB_BASE_CFG`, 32 bits (6.3.25).
    STRTAB_BASE_CFG = 0x0088;
    /// `SMMU_CMDQ_BASE`, 64 bits (6.3.26).
    CMDQ_BASE = 0x0090;
    /// `SMMU_CMDQ_PROD`, 32 bits (6.3.27).
    CMDQ_PROD = 0x0098;
    /// `SMMU_CMDQ_CONS`, 32 bits (6.3.28).
    CMDQ_CONS = 0x009c;
    /// `SMMU_EVENTQ_BASE`, 64 bits (6.3.29).
    EVENTQ_BASE = 0x00a0;
    /// `SMMU_EVENTQ_PROD` where page 0 aliases page 1, 32 bits (6.2).
    EVENTQ_PROD_ALIAS = 0x00a8;
    /// `SMMU_EVENTQ_CONS` where page 0 aliases page 1, 32 bits (6.2).
    EVENTQ_CONS_ALIAS = 0x00ac;
    /// `SMMU_EVENTQ_IRQ_CFG0`, 64 bits (6.3.30).
    EVENTQ_IRQ_CFG0 = 0x00b0;
    /// `SMMU_EVENTQ_IRQ_CFG1`, 32 bits (6.3.31).
    EVENTQ_IRQ_CFG1 = 0x00b8;
    /// `SMMU_EVENTQ_IRQ_CFG2`, 32 bits (6.3.32).
    EVENTQ_IRQ_CFG2 = 0x00bc;
    /// `SMMU_PRIQ_BASE`, 64 bits (6.3.33).
    PRIQ_BASE = 0x00c0;
    /// `SMMU_PRIQ_PROD` where page 0 aliases page 1, 32 bits (6.2).
    PRIQ_PROD_ALIAS = 0x00c8;
    /// `SMMU_PRIQ_CONS` where page 0 aliases page 1, 32 bits (6.2).
    PRIQ_CONS_ALIAS = 0x00cc;
    /// `SMMU_PRIQ_IRQ_CFG0`, 64 bits (6.3.34).
    PRIQ_IRQ_CFG0 = 0x00d0;
    /// `SMMU_PRIQ_IRQ_CFG1`, 32 bits (6.3.35).
    PRIQ_IRQ_CFG1 = 0x00d8;
    /// `SMMU_PRIQ_IRQ_CFG2`, 32 bits (6.3.36).
    PRIQ_IRQ_CFG2 = 0x00dc;
    /// `SMMU_IDR6`, 32 bits (6.3.45).
    IDR6 = 0x0190;
    /// `SMMU_CMDQ_CONTROL_PAGE_BASE0`, 64 bits, read-only (6.3.49).
    CMDQ_CONTROL_PAGE_BASE = 0x4000;
    /// `SMMU_EVENTQ_PROD`, 32 bits, page 1.
    EVENTQ_PROD = 0x100a8;
    /// `SMMU_EVENTQ_CONS`, 32 bits, page 1.
    EVENTQ_CONS = 0x100ac;
    /// `SMMU_PRIQ_PROD`, 32 bits, page 1.
    PRIQ_PROD = 0x100c8;
    /// `SMMU_PRIQ_CONS`, 32 bits, page 1.
    PRIQ_CONS = 0x100cc;
    /// Bytes of the two pages that every SMMU has (6.1).
    SIZE = 0x20000;
}
