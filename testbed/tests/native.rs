//! The lab itself, on a machine without the hypervisor: transfers work, and
//! the checks of the demonstration do fail where nothing protects anything.

mod common;

use portcullis_testbed::demo::attack::{Access, Actor, Target, attack};
use portcullis_testbed::demo::{self, OFF_TIMEOUT};
use portcullis_testbed::disk::{self, Disk};
use portcullis_testbed::net::Exchange;

#[test]
fn without_a_fence_transfers_work_and_attacks_succeed() {
    let prepared = common::prepared();
    let disk = Disk::new(&prepared.lab.workspace, "native").expect("a disk");
    let mut machine = prepared.native_machine();
    machine.disk = Some(disk.path().to_owned());
    machine.network = true;
    machine.edu = true;
    let (mut vm, mut agent) = prepared.start(&machine, "native");

    agent
        .ask(&vm, &format!("nvme verify {:#x} 0 0x100000", disk::SEED))
        .expect("the disk's data");
    agent
        .ask(&vm, "nvme verify 1 0 0x100000")
        .expect_err("other data than is there");
    agent
        .ask(&vm, "nvme fill 7 0x200000 0x10000")
        .expect("a write");
    assert_eq!(
        disk.first_difference(7, 0x20_0000, 0x1_0000)
            .expect("a read"),
        None
    );
    assert!(
        disk.first_difference(8, 0x20_0000, 0x1_0000)
            .expect("a read")
            .is_some()
    );

    let exchange = Exchange::listen(0x10_0000, 1, 2).expect("a listener");
    let command = format!("net exchange {} 0x100000 1 2", exchange.port());
    agent.ask(&vm, &command).expect("a transfer");
    exchange.finish().expect("the data that was sent");
    let exchange = Exchange::listen(0x1000, 1, 2).expect("a listener");
    let command = format!("net exchange {} 0x1000 3 2", exchange.port());
    // Which end notices first is a matter of luck.
    let _ = agent.ask(&vm, &command);
    exchange
        .finish()
        .expect_err("other data than was announced");

    let reply = agent.ask(&vm, "edu init").expect("the edu device");
    let stream = demo::stream_of(reply.get("device").unwrap_or("")).expect("a stream");
    let page = reply.number("target").expect("an address");
    let device = Actor::Device { stream };
    agent.ask(&vm, "edu fill 5").expect("a page of data");
    let memory = Target::new("host memory", page);
    for access in [Access::Read, Access::Write] {
        let wrong = attack(&mut vm, &mut agent, device, access, &memory).expect("an attack");
        let wrong = wrong.expect("nothing stops it");
        assert!(
            wrong.contains("got the content") || wrong.contains("arrived"),
            "{wrong}"
        );
    }
    let flash = Target::new("flash", 0);
    let wrong = attack(&mut vm, &mut agent, Actor::Cpu, Access::Read, &flash).expect("an attack");
    assert!(wrong.expect("nothing stops it").contains("SIGBUS"));
    // Nothing is mapped there, so the CPU is stopped, but nobody reports it.
    let hole = Target::new("hole", 0x0a10_0000);
    let wrong = attack(&mut vm, &mut agent, Actor::Cpu, Access::Read, &hole).expect("an attack");
    assert!(wrong.expect("nobody reports it").contains("log"));
    // The kernel keeps its own memory from /dev/mem: no proof of anything.
    let memory = Target::new("host memory", 0x4800_0000);
    let wrong = attack(&mut vm, &mut agent, Actor::Cpu, Access::Read, &memory).expect("an attack");
    assert!(
        wrong
            .expect("it shows nothing")
            .contains("own kernel refused")
    );

    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
}
