//! Writes the device tree that the host would see, to look at or to boot
//! without the hypervisor:
//!
//! ```text
//! cargo run -p portcullis-boot --example host_tree -- IN.dtb OUT.dtb [BASE SIZE]...
//! ```
//!
//! Each `BASE SIZE`, in hexadecimal, is a range to protect.

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{BootError, Fdt, HostTreePlan, Machine};
use std::process::ExitCode;

fn rewrite(blob: &[u8], protected: &[Range<PhysAddr>]) -> Result<Vec<u8>, BootError> {
    let fdt = Fdt::new(blob)?;
    let machine = Machine::from_tree(&fdt)?;
    let coherent = machine.smmus.iter().all(|smmu| smmu.coherent);
    let plan = HostTreePlan::new(&machine, protected, coherent);
    let mut tree = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut tree)?;
    tree.truncate(size);
    Ok(tree)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, ranges @ ..] = words.as_slice() else {
        eprintln!("usage: host_tree IN.dtb OUT.dtb [BASE SIZE]...");
        return ExitCode::FAILURE;
    };
    let number = |text: &String| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let protected: Option<Vec<_>> = ranges
        .chunks(2)
        .map(|pair| {
            Range::from_size(PhysAddr::new(number(pair.first()?)?), number(pair.get(1)?)?).ok()
        })
        .collect();
    let Some(protected) = protected else {
        eprintln!("every range is a base and a size, in hexadecimal");
        return ExitCode::FAILURE;
    };
    let done = std::fs::read(input)
        .map_err(|error| format!("{input}: {error}"))
        .and_then(|blob| {
            rewrite(&blob, &protected)
                .map_err(|error| format!("reason=\"{}\" fix=\"{}\"", error.reason(), error.fix()))
        })
        .and_then(|tree| {
            std::fs::write(output, tree).map_err(|error| format!("{output}: {error}"))
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
