//! Registers of an ITS and of the LPI part of a redistributor: offsets and
//! fields (IHI 0069, 12.10, 12.11, 12.18 and 12.19).

/// `GITS_CTLR`.
pub const CTLR: u32 = 0x0000;
/// `GITS_IIDR`.
pub const IIDR: u32 = 0x0004;
/// `GITS_TYPER`.
pub const TYPER: u32 = 0x0008;
/// `GITS_CBASER`.
pub const CBASER: u32 = 0x0080;
/// `GITS_CWRITER`.
pub const CWRITER: u32 = 0x0088;
/// `GITS_CREADR`.
pub const CREADR: u32 = 0x0090;
/// `GITS_BASER0`; the other seven follow.
pub const BASER: u32 = 0x0100;
/// `GITS_BASER<n>` there are.
pub const BASERS: u32 = 8;
/// `GITS_TRANSLATER`, in the frame behind that of the other registers: devices write it.
pub const TRANSLATER: u32 = 0x0040;
/// `GITS_PIDR2`.
pub const PIDR2: u32 = 0xffe8;

/// `GITS_CTLR.Enabled`.
pub const CTLR_ENABLED: u32 = 1 << 0;
/// `GITS_CTLR.Quiescent`.
pub const CTLR_QUIESCENT: u32 = 1 << 31;

/// `GITS_CREADR.Stalled`.
pub const CREADR_STALLED: u64 = 1 << 0;
/// `GITS_CWRITER.Retry`.
pub const CWRITER_RETRY: u64 = 1 << 0;
/// The offset in `GITS_CREADR` and `GITS_CWRITER`.
pub const QUEUE_OFFSET: u64 = 0x000f_ffe0;

/// `Valid` of `GITS_CBASER` and `GITS_BASER<n>`, and of our own tables' entries.
pub const VALID: u64 = 1 << 63;
/// `GITS_BASER<n>.Indirect`.
pub const INDIRECT: u64 = 1 << 62;
/// `Shareability`, bits 11:10 of each base address register.
pub const SHAREABILITY: u64 = 3 << 10;
/// Inner Shareable.
pub const INNER_SHAREABLE: u64 = 1 << 10;
/// `GITS_BASER<n>` and `GITS_CBASER`: Inner and Outer Cacheability, 61:59 and
/// 55:53.
pub const ITS_CACHEABILITY: u64 = 7 << 59 | 7 << 53;
/// Normal Inner Cacheable Read-allocate, Write-allocate, Write-back; Outer the
/// same as Inner.
pub const ITS_WRITE_BACK: u64 = 7 << 59;
/// Normal Inner Non-cacheable.
pub const ITS_NON_CACHEABLE: u64 = 1 << 59;

/// `GITS_BASER<n>.Type`.
#[must_use]
pub const fn baser_type(baser: u64) -> u64 {
    baser >> 56 & 7
}
/// A table of devices.
pub const TYPE_DEVICES: u64 = 1;
/// A table of collections.
pub const TYPE_COLLECTIONS: u64 = 4;
/// Bytes of an entry, `GITS_BASER<n>.Entry_Size` + 1.
#[must_use]
pub const fn baser_entry(baser: u64) -> u64 {
    (baser >> 48 & 0x1f) + 1
}
/// Bits 9:8 of `GITS_BASER<n>`.
pub const PAGE_SIZE_FIELD: u64 = 3 << 8;
/// Bytes of a page of `GITS_BASER<n>`; the reserved encoding is the largest.
#[must_use]
pub const fn baser_page(baser: u64) -> u64 {
    match baser >> 8 & 3 {
        0 => 0x1000,
        1 => 0x4000,
        _ => 0x1_0000,
    }
}
/// Pages of the table, `GITS_BASER<n>.Size` + 1.
#[must_use]
pub const fn baser_pages(baser: u64) -> u64 {
    (baser & 0xff) + 1
}
/// Address of the table: with 64 KiB pages bits 15:12 are its bits 51:48.
#[must_use]
pub const fn baser_address(baser: u64) -> u64 {
    let low = baser & 0x0000_ffff_ffff_f000;
    if baser >> 8 & 3 >= 2 {
        low & !0xffff | (baser >> 12 & 0xf) << 48
    } else {
        low & !(baser_page(baser) - 1)
    }
}
/// The field of `GITS_BASER<n>` for the table at `address`, which is a multiple
/// of `page`.
#[must_use]
pub const fn baser_address_field(address: u64, page: u64) -> u64 {
    if page == 0x1_0000 {
        address & 0x0000_ffff_ffff_0000 | (address >> 48 & 0xf) << 12
    } else {
        address & 0x0000_ffff_ffff_f000
    }
}

/// Address of the queue in `GITS_CBASER`.
pub const CBASER_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of the queue.
#[must_use]
pub const fn cbaser_bytes(cbaser: u64) -> u64 {
    ((cbaser & 0xff) + 1) * 0x1000
}

/// The features of an ITS: `GITS_TYPER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Typer(pub u64);

impl Typer {
    /// Bytes of an entry in an interrupt translation table.
    #[must_use]
    pub const fn itt_entry(self) -> u64 {
        (self.0 >> 4 & 0xf) + 1
    }
    /// Bits of an EventID.
    #[must_use]
    pub const fn event_bits(self) -> u8 {
        (self.0 >> 8 & 0x1f) as u8 + 1
    }
    /// Bits of a DeviceID.
    #[must_use]
    pub const fn device_bits(self) -> u8 {
        (self.0 >> 13 & 0x1f) as u8 + 1
    }
    /// Whether targets are physical addresses (PTA).
    #[must_use]
    pub const fn targets_are_addresses(self) -> bool {
        self.0 >> 19 & 1 != 0
    }
    /// Collections that the ITS holds without a table.
    #[must_use]
    pub const fn held_collections(self) -> u32 {
        (self.0 >> 24 & 0xff) as u32
    }
    /// Bits of a collection's number.
    #[must_use]
    pub const fn collection_bits(self) -> u8 {
        if self.0 >> 36 & 1 == 0 {
            16
        } else {
            (self.0 >> 32 & 0xf) as u8 + 1
        }
    }
}

/// `GICR_CTLR`.
pub const RD_CTLR: u32 = 0x0000;
/// `GICR_TYPER`.
pub const RD_TYPER: u32 = 0x0008;
/// `GICR_SETLPIR`.
pub const RD_SETLPIR: u32 = 0x0040;
/// `GICR_CLRLPIR`.
pub const RD_CLRLPIR: u32 = 0x0048;
/// `GICR_PROPBASER`.
pub const RD_PROPBASER: u32 = 0x0070;
/// `GICR_PENDBASER`.
pub const RD_PENDBASER: u32 = 0x0078;
/// `GICR_INVLPIR`.
pub const RD_INVLPIR: u32 = 0x00a0;
/// `GICR_INVALLR`.
pub const RD_INVALLR: u32 = 0x00b0;
/// `GICR_SYNCR`.
pub const RD_SYNCR: u32 = 0x00c0;

/// `GICR_CTLR.EnableLPIs`.
pub const RD_CTLR_ENABLE: u32 = 1 << 0;
/// `GICR_CTLR.CES`: `EnableLPIs` can be cleared.
pub const RD_CTLR_CES: u32 = 1 << 1;
/// `GICR_CTLR.IR`: `GICR_INVLPIR` and `GICR_INVALLR` work.
pub const RD_CTLR_IR: u32 = 1 << 2;
/// `GICR_CTLR.RWP`.
pub const RD_CTLR_RWP: u32 = 1 << 3;
/// `GICR_CTLR.DPG0`, `.DPG1NS`, `.DPG1S`: which SPIs that may go to any CPU do
/// not come to this one.
pub const RD_CTLR_DPG: u32 = 7 << 24;

/// `GICR_TYPER.PLPIS`: there are physical LPIs.
pub const RD_TYPER_PLPIS: u64 = 1 << 0;
/// `GICR_TYPER.VLPIS`, `.Dirty`, `.DirectLPI` and `.RVPEID`: virtual LPIs, and
/// interrupts and invalidations by register.
pub const RD_TYPER_HIDDEN: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 7;

/// `GICR_PROPBASER` and `GICR_PENDBASER`: Inner and Outer Cacheability, 9:7 and
/// 58:56.
pub const RD_CACHEABILITY: u64 = 7 << 7 | 7 << 56;
/// As [`ITS_WRITE_BACK`].
pub const RD_WRITE_BACK: u64 = 7 << 7;
/// As [`ITS_NON_CACHEABLE`].
pub const RD_NON_CACHEABLE: u64 = 1 << 7;
/// Address in `GICR_PROPBASER`.
pub const PROPBASER_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// `GICR_PROPBASER.IDbits`.
pub const PROPBASER_ID_BITS: u64 = 0x1f;
/// Address in `GICR_PENDBASER`.
pub const PENDBASER_ADDRESS: u64 = 0x000f_ffff_ffff_0000;
/// `GICR_PENDBASER.PTZ`: the table is all zero.
pub const PENDBASER_PTZ: u64 = 1 << 62;

/// `GICD_TYPER.LPIS`.
pub const GICD_TYPER_LPIS: u32 = 1 << 17;
/// `GICD_TYPER.num_LPIs`.
pub const GICD_TYPER_NUM_LPIS: u32 = 0x1f << 11;
/// `GICD_TYPER` for an owner without LPIs.
#[must_use]
pub const fn typer_without_lpis(gicd_typer: u32) -> u32 {
    gicd_typer & !(GICD_TYPER_LPIS | GICD_TYPER_NUM_LPIS)
}
/// Bits of an INTID, `GICD_TYPER.IDbits` + 1.
#[must_use]
pub const fn intid_bits(gicd_typer: u32) -> u8 {
    (gicd_typer >> 19 & 0x1f) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_above_48_bits_is_addressed_in_64_kib_pages() {
        let field = baser_address_field(0x000f_1234_5678_0000, 0x1_0000);
        assert_eq!(field, 0x0000_1234_5678_f000);
        assert_eq!(baser_address(field | 2 << 8), 0x000f_1234_5678_0000);
        assert_eq!(baser_address(0x4321_f000), 0x4321_f000);
        assert_eq!(baser_address(0x4321_f000 | 1 << 8), 0x4321_c000);
    }

    #[test]
    fn fields_of_a_typer() {
        // Physical; entries of 12 bytes; 16 bits of EventID, DeviceID and
        // collection.
        let typer = Typer(0x001f_0001_efb1);
        assert_eq!(typer.itt_entry(), 12);
        assert_eq!((typer.event_bits(), typer.device_bits()), (16, 16));
        assert_eq!(typer.held_collections(), 0);
        assert!(!typer.targets_are_addresses());
        let typer = Typer(0x0017_0308_0001);
        assert_eq!((typer.held_collections(), typer.collection_bits()), (3, 8));
        assert!(typer.targets_are_addresses());
    }

    #[test]
    fn bits_of_an_intid() {
        assert_eq!(intid_bits(0x0f << 19), 16);
    }
}
