//! Where the image lies, by section.

use portcullis_addr::{PhysAddr, Range};

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __boot_stack_guard: u8;
    static __boot_stack_top: u8;
    static __boot_fatal_guard: u8;
    static __boot_fatal_top: u8;
    static __image_end: u8;
}

macro_rules! address_of {
    ($symbol:ident) => {
        (&raw const $symbol) as u64
    };
}

/// A piece of the image and what it may be used for.
pub struct Section {
    /// Its pages.
    pub range: Range<PhysAddr>,
    /// How EL2 maps it.
    pub access: portcullis_pagetable::Access,
}

/// First address of the image.
#[must_use]
pub fn base() -> u64 {
    address_of!(__image_start)
}

/// The whole image with its stacks.
///
/// # Panics
/// Never: the linker script puts the end above the start.
#[must_use]
pub fn range() -> Range<PhysAddr> {
    between(base(), address_of!(__image_end))
}

/// What is to be mapped, in ascending order. The guard pages are in no section.
#[must_use]
pub fn sections() -> [Section; 5] {
    use portcullis_pagetable::Access::{ReadExecute, ReadOnly, ReadWrite};
    const GUARD: u64 = portcullis_addr::PAGE_SIZE;
    let section = |start, end, access| Section {
        range: between(start, end),
        access,
    };
    [
        section(base(), address_of!(__text_end), ReadExecute),
        section(address_of!(__text_end), address_of!(__rodata_end), ReadOnly),
        section(
            address_of!(__rodata_end),
            address_of!(__boot_stack_guard),
            ReadWrite,
        ),
        section(
            address_of!(__boot_stack_guard) + GUARD,
            address_of!(__boot_stack_top),
            ReadWrite,
        ),
        section(
            address_of!(__boot_fatal_guard) + GUARD,
            address_of!(__boot_fatal_top),
            ReadWrite,
        ),
    ]
}

fn between(start: u64, end: u64) -> Range<PhysAddr> {
    match Range::new(PhysAddr::new(start), PhysAddr::new(end)) {
        Ok(range) => range,
        // The linker script makes this impossible; there is no way to go on.
        Err(_) => crate::fatal::fatal(format_args!("the image's sections are out of order")),
    }
}
