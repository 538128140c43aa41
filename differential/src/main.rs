//! Compares the model of the SMMUv3 with QEMU's.

use portcullis_differential::machine::Machine;
use portcullis_differential::{generate,compare};
use portcullis_lab::setup::{apt::Apt, qemu};
use portcullis_lab::workspace::Workspace;

fn main() -> anyhow::Result<()> {
    let workspace = Workspace::here();
    let _lock = workspace.lock("set-up")?;
    let qemu = match qemu::find(&workspace, None)? {
        Some(qemu) => qemu,
        None => qemu::install(&workspace, &mut Apt::new(&workspace))?,
    };
    let mut ms = [Machine::start(&qemu)?, Machine::start(&qemu)?];
    let n: u64 = std::env::args().nth(1).unwrap().parse()?;
    let show: u64 = std::env::args().nth(2).unwrap().parse()?;
    let mut agree=0; let mut differ=0; let t = std::time::Instant::now();
    let mut kinds = std::collections::BTreeMap::<String,(u64,u64)>::new();
    for k in 0..n {
        let case = generate::case(1, k);
        match compare::run(&mut ms[(k%2) as usize], &case)? {
            compare::Verdict::Agree => agree += 1,
            compare::Verdict::Explained(d) => { kinds.entry(d.name.to_owned()).or_insert((0,k)).0 += 1; }
            compare::Verdict::Differ(d) => { differ += 1;
                let e = |s: &portcullis_differential::case::Seen| s.events.iter().map(|e| format!("{:x}", e[0]&0xff)).collect::<Vec<_>>().join(",");
                let key = format!("model ev[{}] data {} | qemu ev[{}] prod {}", e(&d.model.seen), d.model.seen.data==d.qemu.data, e(&d.qemu), d.model.seen.produced==d.qemu.produced);
                let en = kinds.entry(key).or_insert((0,k)); en.0 += 1;
                if differ <= show || show == 1000000+k { println!("case {k} step {} {:x?}\n  model {:x?}\n  qemu  {:x?}\n", d.step, case.steps[d.step], d.model, d.qemu);
                 if show >= 1000000 { println!("{:x?}", case); } }
            }
        }
    }
    println!("{:?} agree {agree} differ {differ}", t.elapsed());
    for (k,v) in kinds { println!("{v:?} {k}"); }
    Ok(())
}
