//! What a command takes out of the caches: what it is required to, and no more.

use super::assoc::{Assoc, Key};
use super::caches::{LEAF, stream_key};
use super::tag::Tag;
use super::unit::Unit;
use smmuv3_model::Scope;
use smmuv3_spec::Vmid;
use smmuv3_spec::command::{Command, Opcode};

/// All tables here have pages of 4 KiB.
const GRANULE: u32 = 12;

/// What of a cached descriptor or translation an invalidation by address covers.
fn covers(scope: &Scope, key: &Key, level: u8) -> bool {
    let plain = u32::from(level & !LEAF);
    if level & LEAF == 0 {
        scope.hits_table(GRANULE, plain, key.start(), key.size())
    } else {
        scope.hits_leaf(GRANULE, plain, key.start(), key.size())
    }
}

impl Unit {
    /// A command was consumed.
    pub fn drop(&mut self, command: &Command, ranges: bool) {
        match command.opcode() {
            Opcode::TLBI_NH_VA | Opcode::TLBI_NH_VAA | Opcode::TLBI_S2_IPA => {
                self.drop_address(command, &Scope::of(command, ranges));
            }
            Opcode::TLBI_NH_ALL
            | Opcode::TLBI_NH_ASID
            | Opcode::TLBI_S12_VMALL
            | Opcode::TLBI_NSNH_ALL => {
                self.each_cache(|cache| cache.retain_not(|key, _| key.tag.is_meant_by(command)));
            }
            Opcode::CFGI_STE | Opcode::CFGI_CD | Opcode::CFGI_CD_ALL => {
                let stream = stream_key(command.stream());
                self.caches.config.retain_not(|key, _| *key == stream);
            }
            Opcode::CFGI_STE_RANGE => {
                // 31 and whatever spans every stream is all of them.
                let span = 1u64 << (u32::from(command.range()) + 1).min(63);
                let first = u64::from(command.stream_bits()) & !(span - 1);
                let all = first..first.saturating_add(span);
                self.caches
                    .config
                    .retain_not(|key, _| all.contains(&key.page));
            }
            _ => {}
        }
    }

    fn drop_address(&mut self, command: &Command, scope: &Scope) {
        let bounds = scope.bounds();
        let vmid = command.vmid();
        let tags = match command.opcode() {
            Opcode::TLBI_NH_VA => {
                let asid = Some(command.asid());
                // Without stage 2 the VMID is 0 (4.4.2).
                let alone = (vmid == Vmid(0)).then(|| Tag::new(None, asid));
                [Some(Tag::new(Some(vmid), asid)), alone]
            }
            Opcode::TLBI_S2_IPA => [Some(Tag::new(Some(vmid), None)), None],
            _ => {
                // Of every ASID, so that there is no one place to look at.
                let (start, last) = bounds;
                return self.each_cache(|cache| {
                    cache.retain_not(|key, level| {
                        let inside = key.start() <= last && start < key.start() + key.size();
                        inside && key.tag.is_meant_by(command) && covers(scope, key, level)
                    });
                });
            }
        };
        for tag in tags.into_iter().flatten() {
            self.each_cache(|cache| {
                cache.drop_range(tag, bounds, |key, level| covers(scope, key, level));
            });
        }
    }

    /// Everything that is tagged.
    fn each_cache(&mut self, mut with: impl FnMut(&mut Assoc)) {
        for buffer in &mut self.buffers {
            with(&mut buffer.micro);
            with(&mut buffer.main);
        }
        let caches = &mut self.caches;
        caches.stage1.iter_mut().for_each(&mut with);
        caches.stage2.iter_mut().for_each(&mut with);
        with(&mut caches.ipa);
    }
}
