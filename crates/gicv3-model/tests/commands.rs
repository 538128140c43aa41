//! Commands, by literal words (IHI 0069, 5.3).

mod bench;

use bench::{Bench, ITT, discard, inv, mapc, mapd, mapti, movi, unmapd};
use gicv3_model::{Caching, Command, CommandError, Fault, Ignored, Message, OnError, Profile};

fn pending(cpu: usize, lpi: u32) -> Message {
    Message::Pending { cpu, lpi }
}

#[test]
fn an_interrupt_by_hand() {
    let bench = Bench::new(Profile::qemu(), 0);
    bench.run(&[
        // MAPD: DeviceID 5, 5 bits of EventID, ITT_addr, V.
        [0x0000_0005_0000_0008, 0x4, 0x8000_0000_8060_0000, 0],
        // MAPC: RDbase 2, ICID 2, V.
        [0x09, 0, 0x8000_0000_0002_0002, 0],
        // MAPTI: DeviceID 5, EventID 3, pINTID 8195, ICID 2.
        [0x0000_0005_0000_000a, 0x0000_2003_0000_0003, 0x2, 0],
        [0x05, 0, 0x0002_0000, 0],
    ]);
    bench.configure(8195, 0xa1);
    // INV: DeviceID 5, EventID 3; SYNC.
    bench.run(&[[0x0000_0005_0000_000c, 3, 0, 0], [0x05, 0, 0x0002_0000, 0]]);
    assert_eq!(bench.gic.message(0, 5, 3), pending(2, 8195));
    assert_eq!(bench.gic.acknowledge(2), Some(8195));
    assert_eq!(bench.gic.acknowledge(2), None);
    assert_eq!(bench.violations(), []);
    assert_eq!(bench.gic.take_refused(), []);
}

#[test]
fn mapi_is_an_event_with_its_own_number() {
    let bench = Bench::new(Profile::qemu(), 0);
    // 14 bits of EventID hold 8195 = 0x2003.
    bench.run(&[
        [0x0000_0005_0000_0008, 0xd, 0x8000_0000_8060_0000, 0],
        [0x0000_0005_0000_000b, 0x2003, 0x1, 0],
        bench.sync(1),
    ]);
    assert_eq!(bench.gic.mapping(0, 5, 0x2003), Some((0x2003, 1, Some(1))));
    assert_eq!(bench.gic.message(0, 5, 0x2003), pending(1, 0x2003));
}

#[test]
fn int_and_clear() {
    for profile in Profile::all() {
        let bench = Bench::new(profile, 1);
        bench.map(5, 8200);
        bench.run(&[[0x0000_0005_0000_0003, 0, 0, 0]]);
        assert_eq!(bench.gic.pending(0), [(8200, None)]);
        bench.run(&[[0x0000_0005_0000_0004, 0, 0, 0]]);
        assert_eq!(bench.gic.pending(0), []);
        assert_eq!(bench.violations(), []);
    }
}

#[test]
fn movi_takes_what_is_pending_along() {
    for profile in Profile::all() {
        let bench = Bench::new(profile, 1);
        bench.map(5, 8200);
        assert_eq!(bench.gic.message(0, 5, 0), pending(0, 8200));
        bench.run(&[[0x0000_0005_0000_0001, 0, 3, 0], bench.sync(0)]);
        assert_eq!(bench.gic.pending(0), []);
        assert_eq!(bench.gic.pending(3), [(8200, None)]);
        assert_eq!(bench.gic.message(0, 5, 0), pending(3, 8200));
        assert_eq!(bench.violations(), []);
    }
}

#[test]
fn movall_moves_what_is_pending_only() {
    let bench = Bench::new(Profile::qemu(), 1);
    bench.map(5, 8200);
    bench.gic.message(0, 5, 0);
    // RDbase1 in word 2, RDbase2 in word 3.
    bench.run(&[[0x0e, 0, 0x0000_0000, 0x0001_0000]]);
    assert_eq!(bench.gic.pending(1), [(8200, None)]);
    assert_eq!(bench.gic.message(0, 5, 0), pending(0, 8200));
}

#[test]
fn discard_ends_an_event_and_what_is_pending() {
    for profile in Profile::all() {
        let bench = Bench::new(profile, 1);
        bench.map(5, 8200);
        bench.gic.message(0, 5, 0);
        bench.run(&[discard(5, 0), bench.sync(0)]);
        assert_eq!(bench.gic.pending(0), []);
        let ignored = Message::Ignored(Ignored::Untranslated(CommandError::EventUnmapped));
        assert_eq!(bench.gic.message(0, 5, 0), ignored);
        bench.run(&[unmapd(5)]);
        let ignored = Message::Ignored(Ignored::Untranslated(CommandError::DeviceUnmapped));
        assert_eq!(bench.gic.message(0, 5, 0), ignored);
        assert_eq!(bench.violations(), []);
    }
}

#[test]
fn what_cannot_be_done_is_an_error() {
    use CommandError as E;
    let mut profile = Profile::greedy();
    profile.on_error = OnError::Skip;
    let bench = Bench::new(profile, 0);
    bench.map(5, 8200);
    let base = bench.profile.rdbase(0);
    let cases = [
        // Device table of 64 Ki entries.
        (mapd(0x1_0000, 5, ITT), E::Device),
        (mapd(6, 17, ITT), E::IttSize),
        (mapc(0, base | 0x0004_0000), E::Rdbase),
        (mapc(0x2000, base), E::Collection),
        (mapti(6, 0, 8201, 0), E::DeviceUnmapped),
        (mapti(5, 32, 8201, 0), E::Event),
        (mapti(5, 1, 8191, 0), E::Lpi),
        (mapti(5, 1, 0x1_0000, 0), E::Lpi),
        (mapti(5, 1, 8201, 0x2000), E::Collection),
        (movi(5, 1, 0), E::EventUnmapped),
        (movi(5, 0, 9), E::CollectionUnmapped),
        (inv(5, 1), E::EventUnmapped),
        (discard(7, 0), E::DeviceUnmapped),
        ([0x0d, 0, 9, 0], E::CollectionUnmapped),
        ([0x0e, 0, 0, 0x0004_0000], E::Rdbase),
        ([0x05, 0, 0x0004_0000, 0], E::Rdbase),
        ([0x00, 0, 0, 0], E::Opcode),
        // VMAPP without GICv4.
        ([0x29, 0, 0, 0x8070_0000], E::Opcode),
    ];
    for (command, error) in cases {
        bench.run(&[command]);
        let refused = bench.gic.take_refused();
        assert_eq!(refused.len(), 1, "{command:x?}");
        assert_eq!(refused[0].error, error, "{command:x?}");
    }
    assert_eq!(bench.violations(), []);
}

#[test]
fn a_stall_lasts_until_retry() {
    let bench = Bench::new(Profile::gicv4(), 0);
    let at = bench.gic.its_read(0, 0x90, 8);
    bench.run(&[[0x00, 0, 0, 0]]);
    // Stalled, at the command.
    assert_eq!(bench.gic.its_read(0, 0x90, 8), at | 1);
    bench.send(bench.sync(0));
    bench.gic.settle();
    assert_eq!(bench.gic.its_read(0, 0x90, 8), at | 1);
    // The command is mended, and CWRITER.Retry written.
    bench.put(bench::QUEUE + at, 0x05);
    bench.gic.its_write(0, 0x88, 8, (at + 64) | 1);
    bench.gic.settle();
    assert_eq!(bench.gic.its_read(0, 0x90, 8), at + 64);
    assert_eq!(bench.gic.its_read(0, 0x88, 8), at + 64);
    assert!(matches!(
        bench.gic.take_refused()[..],
        [refused] if refused.command == (Command::Unknown { opcode: 0 })
    ));
}

#[test]
fn faults_stop_what_they_say() {
    let bench = Bench::new(Profile::greedy(), 0);
    let gic = &bench.gic;
    gic.inject(Fault::CommandsStop { its: 0 });
    let at = gic.its_read(0, 0x90, 8);
    bench.send(bench.sync(0));
    gic.settle();
    assert_eq!(gic.its_read(0, 0x90, 8), at);
    gic.mend();
    gic.settle();
    assert_eq!(gic.its_read(0, 0x90, 8), at + 32);
    gic.inject(Fault::NeverQuiescent { its: 0 });
    gic.its_write(0, 0, 4, 0);
    gic.settle();
    assert_eq!(gic.its_read(0, 0, 4), 0);
    gic.mend();
    gic.settle();
    assert_eq!(gic.its_read(0, 0, 4), 0x8000_0000);

    let bench = Bench::new(Profile::gicv4(), 0);
    let gic = &bench.gic;
    gic.inject(Fault::StallNext { its: 0 });
    bench.run(&[bench.sync(0)]);
    assert_eq!(gic.its_read(0, 0x90, 8) & 1, 1);
    gic.inject(Fault::WritePending { cpu: 0 });
    gic.inject(Fault::SyncBusy { cpu: 0 });
    gic.rd_write(0, 0, 4, 0);
    gic.rd_write(0, 0xb0, 8, 0);
    gic.settle();
    assert_eq!(gic.rd_read(0, 0, 4), 0xa);
    assert_eq!(gic.rd_read(0, 0xc0, 4), 1);
}

#[test]
fn addresses_name_redistributors_with_pta() {
    let bench = Bench::new(Profile::held_collections(), 0);
    // 0x080a_0000 and 128 KiB each.
    assert_eq!(bench.sync(1), [0x05, 0, 0x080c_0000, 0]);
    bench.run(&[[0x05, 0, 0x080c_0000, 0]]);
    assert_eq!(bench.gic.take_refused(), []);
    bench.run(&[[0x05, 0, 0x0001_0000, 0]]);
    assert_eq!(bench.gic.take_refused()[0].error, CommandError::Rdbase);
}

#[test]
fn before_a_sync_it_may_be_either() {
    let mut seen = [0; 3];
    for seed in 0..64 {
        let bench = Bench::new(Profile::greedy(), seed);
        bench.run(&[mapd(5, 5, ITT), mapti(5, 0, 8200, 0)]);
        match bench.gic.message(0, 5, 0) {
            Message::Ignored(Ignored::Early) => seen[0] += 1,
            other => assert_eq!(other, pending(0, 8200)),
        }
        bench.run(&[bench.sync(0)]);
        assert_eq!(bench.gic.message(0, 5, 0), pending(0, 8200));
        bench.run(&[movi(5, 0, 1)]);
        match bench.gic.message(0, 5, 0) {
            Message::Pending { cpu: 0, .. } => seen[1] += 1,
            other => assert_eq!(other, pending(1, 8200)),
        }
        // Only a SYNC of where it was helps.
        bench.run(&[bench.sync(1)]);
        if bench.gic.message(0, 5, 0) == pending(0, 8200) {
            seen[2] += 1;
        }
        bench.run(&[bench.sync(0)]);
        for _ in 0..8 {
            assert_eq!(bench.gic.message(0, 5, 0), pending(1, 8200));
        }
        assert_eq!(bench.violations(), []);
    }
    assert!(seen.iter().all(|count| (8..56).contains(count)), "{seen:?}");
}

#[test]
fn configuration_is_cached_until_inv_and_sync() {
    let bench = Bench::new(Profile::greedy(), 0);
    bench.map(5, 8200);
    bench.gic.message(0, 5, 0);
    bench.configure(8200, 0xa1);
    assert_eq!(bench.gic.acknowledge(0), None);
    bench.run(&[inv(5, 0)]);
    assert_eq!(bench.gic.acknowledge(0), None);
    bench.run(&[bench.sync(1)]);
    assert_eq!(bench.gic.acknowledge(0), None);
    bench.run(&[bench.sync(0)]);
    assert_eq!(bench.gic.acknowledge(0), Some(8200));
    // The other way round, by INVALL.
    bench.configure(8200, 0xa0);
    bench.gic.message(0, 5, 0);
    assert_eq!(bench.gic.pending(0), [(8200, Some(0xa0))]);
    bench.run(&[[0x0d, 0, 1, 0], bench.sync(1), bench.sync(0)]);
    assert_eq!(bench.gic.pending(0), [(8200, Some(0xa0))]);
    bench.run(&[[0x0d, 0, 0, 0], bench.sync(0)]);
    assert_eq!(bench.gic.pending(0), [(8200, None)]);
}

#[test]
fn the_highest_priority_comes_first() {
    let bench = Bench::new(Profile::qemu(), 0);
    for (device, config) in [(1, 0xc1), (2, 0x41), (3, 0x43), (4, 0x00)] {
        bench.map(device, 8192 + device);
        bench.configure(8192 + device, config);
        bench.run(&[inv(device, 0), bench.sync(0)]);
        bench.gic.message(0, device, 0);
    }
    let taken: Vec<_> = (0..4).map(|_| bench.gic.acknowledge(0)).collect();
    assert_eq!(taken, [Some(8194), Some(8195), Some(8193), None]);
    assert_eq!(
        Bench::new(Profile::qemu(), 0).profile.caching,
        Caching::None
    );
}
