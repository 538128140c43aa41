//! Memory for domains that do not always have room.

use portcullis_isolation::{Directory, SlotBlock, SlotMemory};

/// One piece and one directory, which is what four domains need.
pub(crate) struct Spare<'w, D> {
    pub(crate) chunk: Option<&'w mut SlotBlock<D>>,
    pub(crate) directory: Option<&'w mut Directory<'w, D>>,
}

impl<'w, D> SlotMemory<'w, D> for Spare<'w, D> {
    fn chunk(&mut self) -> Option<&'w mut SlotBlock<D>> {
        self.chunk.take()
    }

    fn directory(&mut self) -> Option<&'w mut Directory<'w, D>> {
        self.directory.take()
    }

    fn give_back(&mut self, chunk: &'w mut SlotBlock<D>) {
        self.chunk = Some(chunk);
    }
}
