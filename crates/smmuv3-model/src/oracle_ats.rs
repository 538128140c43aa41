//! What endpoints could reach with addresses that they call translated
//! (IHI 0070, 3.9.1.3, 6.3.9.2).
//!
//! An endpoint whose stream has ATS on is trusted to use what it was granted,
//! for as long as no completed invalidation took that back. One whose stream
//! has it off is not trusted, and only `CR0.ATSCHK` stops it.

use crate::oracle::{How, Policy, Violation};
use crate::smmu::Smmu;

impl Smmu {
    /// In modes that cache, with translation on.
    pub(crate) fn check_ats(&mut self, policy: &impl Policy) -> Result<(), Violation> {
        if !self.profile.idr0.ats() {
            return Ok(());
        }
        let checked = self.enabled().atschk();
        for stream in self.streams.clone() {
            let uses = self.uses_ats(stream, 0b01);
            if !checked && !uses {
                self.check_bypass(policy, stream, How::Unchecked)?;
            }
            if !uses {
                continue;
            }
            for entry in self.atc_reaches(stream) {
                let range = entry.output..entry.output.saturating_add(entry.size);
                let Some(page) = policy.first_forbidden(stream, range, entry.write) else {
                    continue;
                };
                return Err(Violation::Reach {
                    stream,
                    address: entry.input.wrapping_add(page - entry.output),
                    page,
                    write: entry.write,
                    how: How::Atc(entry),
                });
            }
        }
        Ok(())
    }
}
