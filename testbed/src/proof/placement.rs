//! Where in memory a second kernel is put.

/// What a kernel is aligned to, and the most that a device tree may have (Linux'
/// booting.rst).
const BLOCK: u64 = 2 << 20;
/// What the tree takes, with the code behind it that leads to the kernel.
const TREE: u64 = BLOCK + 0x1_0000;

/// Where things go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The kernel: where the first one is.
    pub kernel: u64,
    /// Its root file system: where that of the first one was.
    pub initrd: u64,
    /// The device tree.
    pub tree: u64,
}

impl Placement {
    /// Finds it out from `/proc/iomem` and what the tree says of the root file system
    /// of so many bytes, a big-endian number of one cell or two.
    #[must_use]
    pub fn find(iomem: &[String], initrd: &[u8], length: u64) -> Option<Self> {
        let mut ram = Vec::new();
        let mut taken = Vec::new();
        let mut kernel = None;
        for line in iomem {
            let (range, name) = line.split_once(" : ")?;
            let (start, end) = range.trim().split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let range = start..=u64::from_str_radix(end, 16).ok()?;
            match name {
                "System RAM" => ram.push(range),
                "Kernel code" => kernel = Some(start / BLOCK * BLOCK),
                "reserved" => taken.push(range),
                _ => {}
            }
        }
        if initrd.is_empty() || initrd.len() > 8 {
            return None;
        }
        let number = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let initrd = initrd.iter().fold(0, number);
        let first = (initrd + length).next_multiple_of(BLOCK);
        let fits = |at: &u64| {
            let last = at + TREE - 1;
            ram.iter()
                .any(|range| range.contains(at) && range.contains(&last))
                && taken
                    .iter()
                    .all(|range| last < *range.start() || at > range.end())
        };
        let most = ram.iter().map(|range| *range.end()).max()?;
        let tree = (first..most).step_by(BLOCK as usize).find(fits)?;
        Some(Self {
            kernel: kernel?,
            initrd,
            tree,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_comes_behind_the_root_file_system_where_memory_is_free() {
        let lines = [
            "09000000-09000fff : pl011@9000000",
            "40000000-4fffffff : System RAM",
            "  42010000-431fffff : Kernel code",
            "  43500000-439fffff : Kernel data",
            "  48600000-487fffff : reserved",
            "  48a00001-48a00001 : reserved",
            "50000000-57ffffff : reserved",
        ];
        let lines = lines.map(str::to_owned);
        let found = |initrd: &[u8], length| Placement::find(&lines, initrd, length);
        let wanted = Placement {
            kernel: 0x4200_0000,
            initrd: 0x4800_0000,
            tree: 0x4820_0000,
        };
        assert_eq!(found(&[0x48, 0, 0, 0], 0x20_0000), Some(wanted));
        let behind = Placement {
            tree: 0x48c0_0000,
            ..wanted
        };
        let cells = [0, 0, 0, 0, 0x48, 0, 0, 0];
        assert_eq!(found(&cells, 0x20_0001), Some(behind));
        assert_eq!(found(&[0x4f, 0xe0, 0, 0], 1), None);
        assert_eq!(found(&[], 1), None);
        assert_eq!(Placement::find(&lines[..2], &[0x48, 0, 0, 0], 1), None);
    }
}
