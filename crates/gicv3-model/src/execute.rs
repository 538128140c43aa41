//! Carrying out commands (IHI 0069, 5.3).

use crate::bus::Bus;
use crate::command::{Command, CommandError, Refused};
use crate::gic::Fault;
use crate::inner::Inner;
use crate::its::{Device, Event, Key, Stale, VALID};
use crate::profile::OnError;
use crate::tables::Place;
use crate::violation::Violation;

type Done = Result<(), CommandError>;

impl<B: Bus> Inner<B> {
    /// Whether there is a command to carry out.
    pub(crate) fn has_command(&self, its: usize) -> bool {
        let unit = &self.units[its];
        unit.enabled
            && !unit.stalled
            && unit.cbaser & VALID != 0
            && unit.creadr != unit.cwriter & 0xf_ffe0
            && !self.has_fault(Fault::CommandsStop { its })
    }

    /// Carries out one command of the queue.
    pub(crate) fn run_command(&mut self, its: usize) {
        if !self.has_command(its) {
            return;
        }
        let unit = &self.units[its];
        let (base, size, at) = (unit.queue_at(), unit.queue_bytes(), unit.creadr);
        let bytes = self.read_bytes(base.saturating_add(at), 32, "command");
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let (command, used) = Command::decode(words);
        for (word, (value, used)) in words.iter().zip(used).enumerate() {
            if value & !used != 0 {
                self.violate(Violation::ReservedField {
                    its,
                    opcode: words[0] as u8,
                    word,
                    bits: value & !used,
                });
            }
        }
        let stall_next = Fault::StallNext { its };
        let broken = self.has_fault(stall_next);
        let done = if broken {
            self.faults.retain(|fault| *fault != stall_next);
            Err(CommandError::Opcode)
        } else {
            self.execute(its, command)
        };
        self.counts.commands += 1;
        if let Err(error) = done {
            self.refuse(Refused {
                its,
                command,
                error,
            });
            let stall = match self.profile.on_error {
                _ if broken => true,
                OnError::Skip => false,
                OnError::Stall => true,
                OnError::Either => self.draw.once_in(2),
            };
            if stall {
                self.units[its].stalled = true;
                return;
            }
        }
        let unit = &mut self.units[its];
        // Outside the queue it goes on, to who knows where.
        unit.creadr = if at < size {
            (at + 32) % size
        } else {
            (at + 32) & 0xf_ffe0
        };
    }

    fn execute(&mut self, its: usize, command: Command) -> Done {
        match command {
            Command::Mapd {
                device,
                bits,
                itt,
                valid,
            } => self.mapd(its, device, valid.then_some(Device { itt, bits })),
            Command::Mapc {
                collection,
                rdbase,
                valid,
            } => self.mapc(its, collection, valid.then_some(rdbase)),
            Command::Mapti {
                device,
                event,
                lpi,
                collection,
            } => self.mapti(its, (device, event), Event { lpi, collection }),
            Command::Movi {
                device,
                event,
                collection,
            } => self.movi(its, (device, event), collection),
            Command::Discard { device, event } => self.discard(its, (device, event)),
            Command::Int { device, event } => {
                let (mapped, cpu) = self.translate(its, (device, event))?;
                self.set_pending(cpu, mapped.lpi);
                Ok(())
            }
            Command::Clear { device, event } => {
                let (mapped, cpu) = self.translate(its, (device, event))?;
                self.clear_pending(cpu, mapped.lpi);
                Ok(())
            }
            Command::Inv { device, event } => {
                let (mapped, cpu) = self.translate(its, (device, event))?;
                self.invalidate(cpu, [mapped.lpi]);
                Ok(())
            }
            Command::Invall { collection } => {
                let cpu = self.target(its, collection)?;
                let events = self.units[its].events.values();
                let of = events.filter(|event| event.collection == collection);
                let lpis: Vec<_> = of.map(|event| event.lpi).collect();
                self.invalidate(cpu, lpis);
                Ok(())
            }
            Command::Sync { rdbase } => {
                let cpu = self.cpu_of(rdbase)?;
                self.counts.syncs += 1;
                self.sync(its, cpu);
                Ok(())
            }
            Command::Movall { from, to } => {
                let (from, to) = (self.cpu_of(from)?, self.cpu_of(to)?);
                let all: Vec<_> = self.rds[from].pending.iter().copied().collect();
                for lpi in all {
                    self.clear_pending(from, lpi);
                    self.set_pending(to, lpi);
                }
                Ok(())
            }
            Command::Virtual { opcode, at } if self.profile.virtual_lpis => {
                self.violate(Violation::VirtualCommand { its, opcode, at });
                self.write_bytes(at, &self.draw.clone().word().to_le_bytes(), "vPE table");
                Ok(())
            }
            Command::Virtual { .. } | Command::Unknown { .. } => Err(CommandError::Opcode),
        }
    }

    /// The redistributor that `RDbase` names.
    fn cpu_of(&self, rdbase: u64) -> Result<usize, CommandError> {
        let cpus = 0..self.rds.len();
        let named = cpus
            .into_iter()
            .find(|cpu| self.profile.rdbase(*cpu) == rdbase);
        named.ok_or(CommandError::Rdbase)
    }

    /// The redistributor of a collection.
    fn target(&mut self, its: usize, collection: u16) -> Result<usize, CommandError> {
        if u64::from(collection) >= self.collection_count(its) {
            return Err(CommandError::Collection);
        }
        self.look(its, Key::Collection(collection));
        let cpu = self.units[its].collections.get(&collection);
        cpu.copied().ok_or(CommandError::CollectionUnmapped)
    }

    fn device(&mut self, its: usize, id: u32) -> Result<Device, CommandError> {
        if self.place(its, Key::Device(id)) == Place::Nowhere {
            return Err(CommandError::Device);
        }
        self.look(its, Key::Device(id));
        let device = self.units[its].devices.get(&id);
        device.copied().ok_or(CommandError::DeviceUnmapped)
    }

    fn event(&mut self, its: usize, of: (u32, u32)) -> Result<Event, CommandError> {
        let device = self.device(its, of.0)?;
        if u64::from(of.1) >> device.bits != 0 {
            return Err(CommandError::Event);
        }
        self.look(its, Key::Event(of.0, of.1));
        let event = self.units[its].events.get(&of);
        event.copied().ok_or(CommandError::EventUnmapped)
    }

    /// What an event is mapped to, and which redistributor has it.
    pub(crate) fn translate(
        &mut self,
        its: usize,
        of: (u32, u32),
    ) -> Result<(Event, usize), CommandError> {
        let event = self.event(its, of)?;
        let cpu = self.target(its, event.collection)?;
        Ok((event, cpu))
    }

    fn mapd(&mut self, its: usize, id: u32, device: Option<Device>) -> Done {
        if self.place(its, Key::Device(id)) == Place::Nowhere {
            return Err(CommandError::Device);
        }
        self.look(its, Key::Device(id));
        let old = self.units[its].devices.get(&id).copied();
        let Some(device) = device else {
            if old.is_some() {
                self.forget_device(its, id);
                self.put(its, Key::Device(id));
            }
            return Ok(());
        };
        if device.bits > self.profile.event_bits {
            return Err(CommandError::IttSize);
        }
        if let Some(old) = old {
            self.violate(Violation::DeviceMapped { its, device: id });
            self.garbage(self.itt_range(old.itt, old.bits));
            self.garbage(self.itt_range(device.itt, device.bits));
            self.forget_device(its, id);
        }
        self.units[its].devices.insert(id, device);
        self.adopt_new_itt(its, id, device);
        self.put(its, Key::Device(id));
        Ok(())
    }

    /// Its ITT must be zero, and is not read for what an earlier life left there.
    fn adopt_new_itt(&mut self, its: usize, id: u32, device: Device) {
        let range = self.itt_range(device.itt, device.bits);
        let what = format!("ITT of device {id:#x} of ITS {its}");
        self.check_overlap(&what, &range);
        let bytes = self.read_bytes(range.start, range.end - range.start, "ITT");
        let bad = bytes.iter().position(|byte| *byte != 0);
        if let Some(offset) = bad {
            self.violate(Violation::NotZero {
                what,
                at: range.start + offset as u64,
                found: bytes[offset].into(),
            });
            self.garbage(range);
        }
    }

    fn forget_device(&mut self, its: usize, id: u32) {
        self.flush_events(its, id);
        let of: Vec<_> = self.units[its]
            .events
            .range((id, 0)..=(id, u32::MAX))
            .collect();
        let of: Vec<_> = of.into_iter().map(|(of, event)| (*of, *event)).collect();
        for (of, event) in of {
            self.leave_stale(its, of, event);
            self.units[its].events.remove(&of);
        }
        self.units[its].devices.remove(&id);
    }

    fn leave_stale(&mut self, its: usize, of: (u32, u32), event: Event) {
        let cpu = self.units[its].collections.get(&event.collection).copied();
        if let Some(cpu) = cpu
            && self.holds()
        {
            self.units[its].stale.push(Stale {
                event: of,
                lpi: event.lpi,
                cpu,
            });
        }
    }

    fn mapc(&mut self, its: usize, collection: u16, rdbase: Option<u64>) -> Done {
        if self.place(its, Key::Collection(collection)) == Place::Nowhere {
            return Err(CommandError::Collection);
        }
        let cpu = rdbase.map(|rdbase| self.cpu_of(rdbase)).transpose()?;
        self.look(its, Key::Collection(collection));
        let old = self.units[its].collections.get(&collection).copied();
        if old.is_some() && old != cpu {
            let mut events = self.units[its].events.iter();
            let user = events.find(|(_, event)| event.collection == collection);
            if let Some((&(device, event), _)) = user {
                self.violate(Violation::CollectionInUse {
                    its,
                    collection,
                    device,
                    event,
                });
                if let Place::At(at, bytes) = self.place(its, Key::Collection(collection)) {
                    self.garbage(at..at + bytes);
                }
            }
        }
        match cpu {
            Some(cpu) => self.units[its].collections.insert(collection, cpu),
            None => self.units[its].collections.remove(&collection),
        };
        self.put(its, Key::Collection(collection));
        let events = self.units[its].events.values();
        let of = events.filter(|event| event.collection == collection);
        let lpis: Vec<_> = of.map(|event| event.lpi).collect();
        for lpi in lpis {
            self.check_collections(lpi);
        }
        Ok(())
    }

    fn mapti(&mut self, its: usize, of: (u32, u32), event: Event) -> Done {
        let old = match self.event(its, of) {
            Ok(old) => Some(old),
            Err(CommandError::EventUnmapped) => None,
            Err(error) => return Err(error),
        };
        if event.lpi < 8192 || event.lpi >> self.profile.id_bits != 0 {
            return Err(CommandError::Lpi);
        }
        if u64::from(event.collection) >= self.collection_count(its) {
            return Err(CommandError::Collection);
        }
        let key = Key::Event(of.0, of.1);
        if let Some(old) = old {
            self.violate(Violation::EventMapped {
                its,
                device: of.0,
                event: of.1,
                lpi: old.lpi,
            });
            if let Place::At(at, bytes) = self.place(its, key) {
                self.garbage(at..at + bytes);
            }
        }
        self.units[its].events.insert(of, event);
        self.put(its, key);
        let cpu = self.units[its].collections.get(&event.collection).copied();
        if let Some(cpu) = cpu
            && self.holds()
        {
            self.units[its].young.insert(of, cpu);
        }
        self.check_collections(event.lpi);
        Ok(())
    }

    fn movi(&mut self, its: usize, of: (u32, u32), collection: u16) -> Done {
        let event = self.event(its, of)?;
        let to = self.target(its, collection)?;
        let from = self.target(its, event.collection)?;
        self.leave_stale(its, of, event);
        let lpi = event.lpi;
        self.units[its].events.insert(of, Event { lpi, collection });
        self.put(its, Key::Event(of.0, of.1));
        if from != to && self.clear_pending(from, lpi) {
            self.set_pending(to, lpi);
        }
        self.check_collections(lpi);
        Ok(())
    }

    fn discard(&mut self, its: usize, of: (u32, u32)) -> Done {
        let event = self.event(its, of)?;
        let cpu = self.units[its].collections.get(&event.collection).copied();
        if let Some(cpu) = cpu {
            self.clear_pending(cpu, event.lpi);
        }
        self.leave_stale(its, of, event);
        self.units[its].events.remove(&of);
        self.units[its].young.remove(&of);
        self.put(its, Key::Event(of.0, of.1));
        Ok(())
    }

    /// Reports an LPI that events of different collections are mapped to.
    fn check_collections(&mut self, lpi: u32) {
        let mut first = None;
        for (its, unit) in self.units.iter().enumerate() {
            for (&(device, event), mapped) in &unit.events {
                if mapped.lpi != lpi {
                    continue;
                }
                let cpu = unit.collections.get(&mapped.collection).copied();
                let this = (its, mapped.collection, cpu, (its, device, event));
                let (its0, collection, cpu0, first) = *first.get_or_insert(this);
                let differs = if its0 == its {
                    collection != mapped.collection
                } else {
                    cpu0.is_some() && cpu.is_some() && cpu0 != cpu
                };
                if differs {
                    let second = this.3;
                    self.violate(Violation::TwoCollections { lpi, first, second });
                    return;
                }
            }
        }
    }

    /// What was before the SYNC is over.
    fn sync(&mut self, its: usize, cpu: usize) {
        let unit = &mut self.units[its];
        unit.stale.retain(|stale| stale.cpu != cpu);
        unit.young.retain(|_, of| *of != cpu);
        self.finish_invalidations(cpu);
    }
}
