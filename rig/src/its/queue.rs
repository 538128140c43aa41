//! The host's command queues, and what it sees of the registers.

use super::found;
use super::world::World;
use crate::finding::Finding;
use gicv3_its::Size;

impl World<'_> {
    /// One command at the end of the queue.
    pub(super) fn command(&mut self, its: usize, words: [u64; 4]) -> Result<(), Finding> {
        self.commands(its, words, 1)
    }

    /// The same command `times` times at the end of the queue, told in one write.
    pub(super) fn commands(
        &mut self,
        its: usize,
        words: [u64; 4],
        times: u16,
    ) -> Result<(), Finding> {
        let base = self.shown(its, 0x80) & 0x000f_ffff_ffff_f000;
        let bytes = ((self.shown(its, 0x80) & 0xff) + 1) * 0x1000;
        let mut next = self.shown(its, 0x88) & 0xf_ffe0;
        // A queue that is full would be an empty one.
        for _ in 0..u64::from(times).min(bytes / 32 - 1) {
            for (n, word) in (0..).zip(words) {
                self.poke_host(base.wrapping_add(next + n * 8), word);
            }
            next = (next + 32) % bytes;
        }
        self.write(its, 0x88, Size::Double, next)?;
        if self.stock && self.shown(its, 0x90) != next {
            let read = self.shown(its, 0x90);
            return Err(found(format!("GITS_CREADR {read:#x} instead of {next:#x}")));
        }
        Ok(())
    }

    pub(super) fn poke_host(&self, at: u64, value: u64) {
        if super::layout::HOST.contains(&at) && at.is_multiple_of(8) {
            self.machine.poke(at, value);
        }
    }

    pub(super) fn sync(&mut self, its: usize, cpu: usize) -> Result<(), Finding> {
        let rdbase = self.rdbase(cpu);
        self.command(its, [0x05, 0, rdbase, 0])
    }

    pub(super) fn shown(&self, its: usize, offset: u32) -> u64 {
        let shown = self.machine.shown.borrow();
        shown.get(&(its, offset)).copied().unwrap_or(0)
    }
}
