//! Where the domains of one owner are kept, each under its number.

/// Room for one domain, and what is known of it.
pub struct Slot<D> {
    pub(crate) domain: D,
    /// How many endpoints are in it.
    pub(crate) endpoints: u32,
    /// An invalidation failed. Nothing of it is used again.
    pub(crate) dead: bool,
}

impl<D> Slot<D> {
    /// The domain.
    pub fn domain(&self) -> &D {
        &self.domain
    }
}

/// Domains that share a piece of memory.
const CHUNK: usize = 4;

/// Pieces that one directory leads to.
const DIRECTORY: usize = 512;

/// Directories. With them, there can be as many domains as a VMID or an ASID of
/// 16 bits tells apart.
const DIRECTORIES: usize = 32;

/// Memory for neighbouring domains.
pub type SlotBlock<D> = [Option<Slot<D>>; CHUNK];

/// Leads to the memory of domains.
pub type Directory<'a, D> = [Option<&'a mut SlotBlock<D>>; DIRECTORY];

/// Gives memory for domains, and takes it back.
pub trait SlotMemory<'a, D> {
    /// How many domains there can be beside those that always have room.
    fn limit(&self) -> usize {
        DIRECTORIES * DIRECTORY * CHUNK
    }

    /// Room for a few domains, without any in it; `None` when memory is used up.
    fn chunk(&mut self) -> Option<&'a mut SlotBlock<D>>;

    /// A directory without entries; `None` when memory is used up. It is never
    /// given back, and there are 32 at most.
    fn directory(&mut self) -> Option<&'a mut Directory<'a, D>>;

    /// Takes back what [`chunk`](Self::chunk) gave. No domain is in it.
    fn give_back(&mut self, chunk: &'a mut SlotBlock<D>);
}

/// No memory: there is room for as many domains as always have it.
#[derive(Clone, Copy, Debug)]
pub struct NoMore;

impl<'a, D> SlotMemory<'a, D> for NoMore {
    fn limit(&self) -> usize {
        0
    }

    fn chunk(&mut self) -> Option<&'a mut SlotBlock<D>> {
        None
    }

    fn directory(&mut self) -> Option<&'a mut Directory<'a, D>> {
        None
    }

    fn give_back(&mut self, _chunk: &'a mut SlotBlock<D>) {}
}

/// Domains by their numbers.
///
/// The first few always have room, since they are what a small machine has, and
/// are found at once. Memory for the others comes and goes with them.
pub struct Slots<'a, D, M> {
    first: &'a mut [Option<Slot<D>>],
    more: [Option<&'a mut Directory<'a, D>>; DIRECTORIES],
    memory: M,
}

/// What a bounded search for a domain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// There is one of this number.
    Found(usize),
    /// There is none below this number.
    NoneBelow(usize),
    /// There is none.
    End,
}

/// Where the room for a domain is that has not always room.
#[derive(Clone, Copy)]
struct Place {
    directory: usize,
    chunk: usize,
    slot: usize,
}

impl Place {
    /// Of the domain `offset` behind those that always have room.
    const fn of(offset: usize) -> Self {
        Self {
            directory: offset / CHUNK / DIRECTORY,
            chunk: offset / CHUNK % DIRECTORY,
            slot: offset % CHUNK,
        }
    }
}

impl<'a, D> Slots<'a, D, NoMore> {
    /// Room for as many domains as `first`, which is empty, has places.
    pub fn fixed(first: &'a mut [Option<Slot<D>>]) -> Self {
        Self::growing(first, NoMore)
    }
}

impl<'a, D, M: SlotMemory<'a, D>> Slots<'a, D, M> {
    /// Room for as many domains as `first`, which is empty, has places, and for
    /// as many more as `memory` has room for.
    pub fn growing(first: &'a mut [Option<Slot<D>>], memory: M) -> Self {
        Self {
            first,
            more: [const { None }; DIRECTORIES],
            memory,
        }
    }

    /// Numbers are below this.
    pub(crate) fn limit(&self) -> usize {
        let more = self.memory.limit().min(DIRECTORIES * DIRECTORY * CHUNK);
        self.first.len().saturating_add(more)
    }

    /// Every domain that there is, with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Slot<D>)> {
        let behind = self.first.len();
        let first = self.first.iter().enumerate();
        let directories = self.more.iter().enumerate();
        let chunks = directories.flat_map(|(upper, directory)| {
            let chunks = directory.iter().flat_map(|chunks| chunks.iter());
            chunks
                .enumerate()
                .map(move |(lower, chunk)| (upper * DIRECTORY + lower, chunk))
        });
        let more = chunks.flat_map(move |(number, chunk)| {
            let slots = chunk.iter().flat_map(|slots| slots.iter());
            slots
                .enumerate()
                .map(move |(slot, place)| (behind + number * CHUNK + slot, place))
        });
        first
            .chain(more)
            .filter_map(|(number, place)| Some((number, place.as_ref()?)))
    }

    /// The domain `index`.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Slot<D>> {
        if index < self.first.len() {
            return self.first.get_mut(index)?.as_mut();
        }
        self.behind(index)?.as_mut()
    }

    /// The room of a domain that has not always room, if memory is there.
    #[cold]
    #[inline(never)]
    fn behind(&mut self, index: usize) -> Option<&mut Option<Slot<D>>> {
        let at = Place::of(index.checked_sub(self.first.len())?);
        let directory = self.more.get_mut(at.directory)?.as_mut()?;
        directory.get_mut(at.chunk)?.as_mut()?.get_mut(at.slot)
    }

    fn place(&mut self, index: usize) -> Option<&mut Option<Slot<D>>> {
        if index < self.first.len() {
            return self.first.get_mut(index);
        }
        self.behind(index)
    }

    /// Makes room for the domain `index`, which is below the
    /// [limit](Self::limit), for [`put`](Self::put); or else
    /// [`release`](Self::release). `false` when memory is used up.
    pub(crate) fn reserve(&mut self, index: usize) -> bool {
        let Some(offset) = index.checked_sub(self.first.len()) else {
            return true;
        };
        let at = Place::of(offset);
        let Some(directory) = self.more.get_mut(at.directory) else {
            return false;
        };
        if directory.is_none() {
            *directory = self.memory.directory();
        }
        let chunks = directory.as_mut();
        let Some(chunk) = chunks.and_then(|chunks| chunks.get_mut(at.chunk)) else {
            return false;
        };
        if chunk.is_none() {
            *chunk = self.memory.chunk();
        }
        chunk.is_some()
    }

    /// Keeps the domain `index`. Gives it back when no room was
    /// [reserved](Self::reserve).
    pub(crate) fn put(&mut self, index: usize, slot: Slot<D>) -> Option<Slot<D>> {
        match self.place(index) {
            Some(place) => {
                debug_assert!(place.is_none(), "there is a domain of that number");
                *place = Some(slot);
                None
            }
            None => Some(slot),
        }
    }

    /// Takes the domain `index` out, for a short time: its room stays.
    pub(crate) fn lift(&mut self, index: usize) -> Option<Slot<D>> {
        self.place(index)?.take()
    }

    /// Takes the domain `index` out for good.
    pub(crate) fn take(&mut self, index: usize) -> Option<Slot<D>> {
        let slot = self.lift(index);
        self.release(index);
        slot
    }

    /// Gives back the room around the domain `index`, if no domain is there.
    pub(crate) fn release(&mut self, index: usize) {
        let Some(offset) = index.checked_sub(self.first.len()) else {
            return;
        };
        let at = Place::of(offset);
        let directory = self.more.get_mut(at.directory).and_then(Option::as_mut);
        let Some(chunk) = directory.and_then(|chunks| chunks.get_mut(at.chunk)) else {
            return;
        };
        if let Some(slots) = chunk.take_if(|slots| slots.iter().all(Option::is_none)) {
            self.memory.give_back(slots);
        }
    }

    /// Looks for a domain of number `from` or above, at one directory at most.
    pub(crate) fn search(&self, from: usize) -> Search {
        let behind = self.first.len();
        if from < behind {
            let mut left = (from..).zip(self.first.iter().skip(from));
            return match left.find(|(_, place)| place.is_some()) {
                Some((index, _)) => Search::Found(index),
                None => Search::NoneBelow(behind),
            };
        }
        let at = Place::of(from - behind);
        let Some(directory) = self.more.get(at.directory) else {
            return Search::End;
        };
        let first = (at.directory * DIRECTORY) * CHUNK + behind;
        let chunks = directory
            .iter()
            .flat_map(|chunks| chunks.iter().enumerate());
        for (number, chunk) in chunks.skip(at.chunk) {
            let start = first + number * CHUNK;
            let slots = chunk.iter().flat_map(|slots| slots.iter());
            let mut slots = (start..).zip(slots);
            if let Some((index, _)) = slots.find(|(index, place)| *index >= from && place.is_some())
            {
                return Search::Found(index);
            }
        }
        Search::NoneBelow(first + DIRECTORY * CHUNK)
    }
}
