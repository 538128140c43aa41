//! Every command against the bit patterns of the architecture (IHI 0069, 5.3),
//! as literals, so that a field that is encoded and decoded at the same wrong
//! place is seen.

use gicv3_its::{CollectionId, Command, DeviceId, Event, EventId, Lpi, Target};

const EVENT: Event = Event {
    device: DeviceId(0x1234_5678),
    event: EventId(0x0000_0abc),
};

/// Each command with the four words of it.
fn commands() -> [(Command, [u64; 4]); 14] {
    let collection = CollectionId(0xbeef);
    let target = Target::processor(0x0103);
    [
        (
            Command::MapDevice {
                device: EVENT.device,
                itt: 0x000f_edcb_a987_6500,
                event_bits: 12,
            },
            [0x1234_5678_0000_0008, 0x0b, 0x800f_edcb_a987_6500, 0],
        ),
        (
            Command::UnmapDevice(EVENT.device),
            [0x1234_5678_0000_0008, 0, 0, 0],
        ),
        (
            Command::MapCollection(collection, target),
            [0x09, 0, 0x8000_0000_0103_beef, 0],
        ),
        (
            Command::MapCollection(collection, Target::address(0x000f_0000_080a_0000)),
            [0x09, 0, 0x800f_0000_080a_beef, 0],
        ),
        (Command::UnmapCollection(collection), [0x09, 0, 0xbeef, 0]),
        (
            Command::MapInterrupt(EVENT, Lpi(0x0000_2001), collection),
            [0x1234_5678_0000_000a, 0x0000_2001_0000_0abc, 0xbeef, 0],
        ),
        (
            Command::MoveInterrupt(EVENT, collection),
            [0x1234_5678_0000_0001, 0x0abc, 0xbeef, 0],
        ),
        (
            Command::MoveAll(target, Target::processor(2)),
            [0x0e, 0, 0x0103_0000, 0x0002_0000],
        ),
        (
            Command::Discard(EVENT),
            [0x1234_5678_0000_000f, 0x0abc, 0, 0],
        ),
        (
            Command::Invalidate(EVENT),
            [0x1234_5678_0000_000c, 0x0abc, 0, 0],
        ),
        (Command::InvalidateAll(collection), [0x0d, 0, 0xbeef, 0]),
        (
            Command::Generate(EVENT),
            [0x1234_5678_0000_0003, 0x0abc, 0, 0],
        ),
        (Command::Clear(EVENT), [0x1234_5678_0000_0004, 0x0abc, 0, 0]),
        (Command::Sync(target), [0x05, 0, 0x0103_0000, 0]),
    ]
}

#[test]
fn each_command_has_the_words_of_the_architecture() {
    for (command, words) in commands() {
        assert_eq!(command.encode(), words, "{command:?}");
        assert_eq!(Command::decode(words), Some(command));
    }
}

#[test]
fn mapi_is_mapti_with_the_event_as_interrupt() {
    let decoded = Command::decode([0x1234_5678_0000_000b, 0x2abc, 0xbeef, 0]);
    let event = Event {
        device: EVENT.device,
        event: EventId(0x2abc),
    };
    let expected = Command::MapInterrupt(event, Lpi(0x2abc), CollectionId(0xbeef));
    assert_eq!(decoded, Some(expected));
}

#[test]
fn reserved_bits_of_a_command_go_nowhere() {
    for (command, words) in commands() {
        let noise = 0xffff_ffff_ffff_ff00;
        // Bits that no command has in its first word but the DeviceID; the last
        // word is MOVALL's only.
        let noisy = [words[0] | noise & 0xffff_ff00, words[1], words[2], words[3]];
        let again = Command::decode(noisy).map(Command::encode);
        assert_eq!(again, Some(command.encode()), "{command:?}");
        let mut noisy = words;
        if !matches!(command, Command::MoveAll(..)) {
            noisy[3] = u64::MAX;
        }
        let again = Command::decode(noisy).map(Command::encode);
        assert_eq!(again, Some(command.encode()), "{command:?}");
    }
}

#[test]
fn opcodes_that_are_not_named_are_refused() {
    let known = [1, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
    for opcode in 0..=255u64 {
        for rest in [0, u64::MAX] {
            let words = [opcode | rest << 8, rest, rest, rest];
            let decoded = Command::decode(words);
            assert_eq!(decoded.is_some(), known.contains(&opcode), "{opcode:#x}");
        }
    }
}
