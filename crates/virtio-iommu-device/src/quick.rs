//! The notification that matters most: one MAP or UNMAP, as Linux sends it from
//! its DMA API.
//!
//! Everything that [`serve`](crate::serve) does with such a chain is done here
//! once more, in a straight line, without what bursts need. Whatever is
//! different in any way is left as it was for `serve`, which reads it anew.
//!
//! Linux allocates the readable and the writable part of a request in one piece
//! (`__viommu_add_req` of its driver), so one page is held for both.

use crate::burst::{Tail, UnderWay};
use crate::chain::{FLAGS, NEXT, WRITE};
use crate::features::Features;
use crate::request::{self, MAP_SIZE, Status, TAIL, UNMAP_SIZE};
use crate::serve::{notify, wait};
use crate::{Broken, Device, Platform, Progress, Window};
use portcullis_addr::{Ipa, PAGE_SIZE};
use portcullis_dma_domain::{Iommu, Step};

const OFFSET: u64 = PAGE_SIZE - 1;

impl<W: Window> Device<W> {
    /// Processes the request queue.
    #[inline]
    pub(crate) fn notified<P: Platform<Window = W>, I: Iommu>(
        &mut self,
        platform: &P,
        iommu: &mut I,
    ) -> Progress {
        match self.single(platform, iommu) {
            Ok(()) => Progress::Done,
            Err(spent) => self.serve(platform, iommu, spent),
        }
    }

    /// Processes the request queue if one request of the usual kind is all that
    /// there is. If something is left, the work that it did all the same.
    #[inline]
    fn single<P: Platform<Window = W>, I: Iommu>(
        &mut self,
        platform: &P,
        iommu: &mut I,
    ) -> Result<(), u32> {
        let [requests, _] = &mut self.queues;
        let Some(rings) = &mut requests.rings else {
            return Err(0);
        };
        if rings.waiting() != 1 || self.burst.under_way.is_some() {
            return Err(0);
        }
        let features = self.terms.features;
        let head = rings.head();
        if head >= rings.size() || !features.contains(Features::MAP_UNMAP) {
            return Err(0);
        }
        let body = rings.descriptor(head);
        if body.flags & FLAGS != NEXT || body.next >= rings.size() {
            return Err(0);
        }
        let tail = rings.descriptor(body.next);
        let offset = body.at & OFFSET;
        let len = u64::from(body.len);
        // The tail is where the length of a MAP or UNMAP, a multiple of 4, puts
        // it: aligned and in the same page.
        if body.at & 7 != 0
            || offset + len + u64::from(TAIL) > PAGE_SIZE
            || body.at.wrapping_add(len) != tail.at
            || tail.flags & FLAGS != WRITE
            || tail.len < TAIL
        {
            return Err(0);
        }
        let Ok(page) = platform.hold(Ipa::new(body.at - offset)) else {
            return Err(0);
        };
        let decoded = if body.len == MAP_SIZE as u32 {
            let [head, start, last, to] = page.words(offset).map(u64::from_le);
            let flags = u32::from_le(page.load32(offset + 32));
            // Truncation: the first byte is the type.
            (head as u8 == request::MAP)
                .then(|| request::map(&self.terms, [head, start, last], to, flags))
        } else if body.len == UNMAP_SIZE as u32 {
            let words: [u64; 3] = page.words(offset).map(u64::from_le);
            (words[0] as u8 == request::UNMAP).then(|| request::unmap(words))
        } else {
            None
        };
        // What aborts is looked at again there.
        let Some(decoded) = decoded.filter(|_| !rings.aborted()) else {
            platform.release(page);
            return Err(0);
        };
        rings.take();
        self.counts.requests = self.counts.requests.wrapping_add(1);
        let status = match decoded {
            Ok(request) => match iommu.begin(request) {
                Step::Done(Ok(())) => Status::OK,
                Step::AfterSync => wait(iommu, &mut self.counts),
                Step::Done(Err(refusal)) => self.counts.refuse(Status::of(refusal, false)),
                Step::More => {
                    platform.release(page);
                    self.burst.under_way = Some(UnderWay {
                        head,
                        tail: Tail::Whole(tail.at),
                        detach: false,
                    });
                    return Err(1);
                }
            },
            Err(status) => self.counts.refuse(status),
        };
        page.store32(offset + len, u32::from(status.0).to_le());
        platform.release(page);
        let event_idx = features.contains(Features::EVENT_IDX);
        if rings.put_and_publish(head, TAIL, event_idx) {
            notify(platform, &mut self.registers.interrupts, &mut self.counts);
        }
        let more = event_idx && {
            rings.arm();
            rings.waiting() != 0
        };
        if rings.aborted() {
            self.needs_reset(platform, Broken::Aborted);
            return Ok(());
        }
        // Without it the driver notifies of every chain.
        if more { Err(1) } else { Ok(()) }
    }
}
