//! What only a hostile host does.

use super::layout::HOST;
use super::op::Chaos;
use super::world::World;
use crate::finding::Finding;
use gicv3_its::{Progress, Size};
use gicv3_model::Fault;

fn size(bytes: u8) -> Size {
    match bytes {
        1 => Size::Byte,
        2 => Size::Half,
        4 => Size::Word,
        _ => Size::Double,
    }
}

/// The address of a word of the host's memory.
fn word(number: u64) -> u64 {
    HOST.start + number % ((HOST.end - HOST.start) / 8) * 8
}

impl World<'_> {
    pub(super) fn do_chaos(&mut self, op: Chaos) -> Result<(), Finding> {
        match op {
            Chaos::Write {
                its,
                offset,
                bytes,
                value,
                once,
            } => {
                let its = usize::from(its) % self.units;
                if !once {
                    return self.write(its, offset, size(bytes), value);
                }
                match self.write_once(its, offset, size(bytes), value)? {
                    Progress::Done => self.begun.remove(&its),
                    Progress::Again => self.begun.insert(its),
                };
                Ok(())
            }
            Chaos::WriteRd {
                cpu,
                offset,
                bytes,
                value,
            } => {
                let cpu = usize::from(cpu) % self.cpus;
                self.write_rd(cpu, offset, size(bytes), value)
            }
            Chaos::Command { its, words } => self.command(usize::from(its) % self.units, words),
            Chaos::Flood { its, words, times } => {
                self.commands(usize::from(its) % self.units, words, times)
            }
            Chaos::Poke { word: at, value } => {
                self.machine.poke(word(at), value);
                Ok(())
            }
            Chaos::PokeDuring {
                after,
                word: at,
                value,
            } => {
                let mut pokes = self.machine.pokes.borrow_mut();
                pokes.push_back((after, word(at), value));
                Ok(())
            }
            Chaos::Copy { from, to } => {
                use portcullis_memory::Memory;
                let value = self
                    .machine
                    .ram
                    .load(portcullis_addr::PhysAddr::new(word(from)));
                self.machine.poke(word(to), value);
                Ok(())
            }
            Chaos::Revoke { page } => {
                let pages = (HOST.end - HOST.start) >> 12;
                let page = (HOST.start >> 12) + page % pages;
                // The queue that is held is the host's until it is closed.
                let mut revoked = self.machine.revoked.borrow_mut();
                if !revoked.remove(&page) {
                    revoked.insert(page);
                }
                Ok(())
            }
            Chaos::Message { its, device, event } => {
                let its = usize::from(its) % self.units;
                self.machine.gic.message(its, device, event);
                Ok(())
            }
            Chaos::Break { what, its } => {
                let its = usize::from(its) % self.units;
                let fault = match what % 2 {
                    0 => Fault::StallNext { its },
                    _ => Fault::CommandsStop { its },
                };
                self.broken.insert(its);
                self.machine.gic.inject(fault);
                Ok(())
            }
        }
    }
}
