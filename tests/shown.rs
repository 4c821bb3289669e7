//! Registers that a guest reads as memory: no read of them traps, each says what a trap would have, and wherever the guest has its
//! BAR there is no other memory of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest::model::ModelCpu;
use guest::{Platform as _, RamRange, Width};
use integration::drawing::Switch;
use integration::world::{FRAMES, RAM};
use integration::{Painter, Profile, World};
use mediated_gpu::mediator::TABLE_FRAMES;
use mediated_gpu::service::{Options, Service};
use mock_xen::DomainConfig;
use xen_ioreq::{DomId, Gfn, PAGE_SHIFT, VcpuId};

/// Where the frames of a table wait for the guest to place its BAR.
const PARKED: Gfn = Gfn(0xf0_0000);
/// A mask of interrupts, what identifies them, the master, and one of a page that is not memory.
const MASK: u32 = 0x4_4304;
const IDENTITY: u32 = 0x4_4308;
const MASTER: u32 = 0x4_4200;
const TRAPPED: u32 = 0x9400;
/// How often a hostile guest moves its BAR.
const MOVES: u32 = 64;
/// First bytes of the pages that are memory.
const PAGES: [u32; 2] = [0x4000, 0x4_4000];

/// A guest with frames for its table, and its vGPU.
fn served(world: &World, registers: bool) -> (DomId, Service) {
    let max_pages = FRAMES + u64::from(TABLE_FRAMES);
    let config = DomainConfig { max_pages, vcpus: 2, ..DomainConfig::default() };
    let domid = world.machine.create_domain(&config).unwrap();
    world.machine.populate(domid, RAM, FRAMES).unwrap();
    world.machine.populate(domid, PARKED, TABLE_FRAMES.into()).unwrap();
    (domid, world.serve_with(domid, Options { registers, ..World::options(Some(PARKED)) }))
}

/// What a register reads as, and how many requests that took.
fn read(painter: &mut Painter, service: &Service, register: u32) -> (u32, u64) {
    let before = service.requests().mmio;
    let value = painter.gpu.read32(&mut painter.cpu, register);
    (value, service.requests().mmio - before)
}

fn write(painter: &mut Painter, register: u32, value: u32) {
    painter.gpu.write32(&mut painter.cpu, register, value);
}

/// Each dword of the pages reads as the vGPU says, and none traps.
fn all_is_right(painter: &mut Painter, service: &Service) {
    for register in PAGES.into_iter().flat_map(|first| (first..first + 0x1000).step_by(4)) {
        let before = read(painter, service, register);
        let trapped = service.vgpu().mmio_read(register, 4);
        let after = read(painter, service, register);
        // Something may have happened meanwhile.
        let right = [before.0, after.0].map(u64::from).contains(&trapped);
        assert!(right && (before.1, after.1) == (0, 0), "{register:#x}: {before:?}, {trapped:#x}, {after:?}");
    }
}

fn move_bar(painter: &mut Painter, base: u64) {
    let function = painter.gpu.function;
    function.set_decode(&mut painter.cpu, false);
    function.set_bar(&mut painter.cpu, 0, base);
    function.set_decode(&mut painter.cpu, true);
    painter.gpu.bar0.base = base;
}

#[test]
fn a_guest_that_draws_reads_registers_without_a_trap_and_they_are_right() {
    for profile in [Profile::Draft, Profile::Stock] {
        let world = World::new(profile);
        let (domid, service) = served(&world, true);
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        for colour in 0..4 {
            assert!(painter.fill(colour));
            all_is_right(&mut painter, &service);
        }
        assert_eq!(read(&mut painter, &service, TRAPPED).1, 1);
        write(&mut painter, MASK, 0x1234);
        assert_eq!(read(&mut painter, &service, MASK), (0x1234, 0));
        write(&mut painter, MASTER, 0);
        assert_eq!(read(&mut painter, &service, MASTER).0 >> 31, 0);
        assert_eq!(read(&mut painter, &service, IDENTITY).1, 0);
        painter.reset();
        all_is_right(&mut painter, &service);
        service.stop();
        assert_eq!(painter.gpu.read32(&mut painter.cpu, MASK), u32::MAX, "there is nothing any more");
        drop(painter);
        world.end();
    }
}

#[test]
fn registers_are_where_the_bar_is_and_nowhere_else() {
    let world = World::new(Profile::Stock);
    let (domid, service) = served(&world, true);
    let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
    let first = painter.gpu.bar0.base;
    write(&mut painter, MASK, 0x1234);
    move_bar(&mut painter, first + 0x4000_0000);
    assert_eq!(painter.cpu.mmio_read(first + u64::from(MASK), Width::B4), 0xffff_ffff, "where they were");
    assert_eq!(read(&mut painter, &service, MASK), (0x1234, 0));
    all_is_right(&mut painter, &service);
    let function = painter.gpu.function;
    function.set_decode(&mut painter.cpu, false);
    assert_eq!(read(&mut painter, &service, MASK), (u32::MAX, 0), "nothing is decoded");
    function.set_decode(&mut painter.cpu, true);
    assert_eq!(read(&mut painter, &service, MASK), (0x1234, 0));
    // One that is taken away is no memory either, and the next begins when the guest enables it.
    let slot = service.slot().clone();
    slot.destroy().unwrap();
    assert_eq!(read(&mut painter, &service, MASK), (u32::MAX, 0));
    slot.create(slot.kind()).unwrap();
    drop(slot);
    move_bar(&mut painter, first);
    assert_eq!(read(&mut painter, &service, MASK), (u32::MAX, 0), "masked, as after a reset");
    write(&mut painter, MASK, 7);
    assert_eq!(read(&mut painter, &service, MASK), (7, 0));
    service.stop();
    drop(painter);
    world.end();
}

#[test]
fn a_page_of_registers_that_the_guest_gives_away_traps() {
    let world = World::new(Profile::Stock);
    let (domid, service) = served(&world, true);
    let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
    let base = painter.gpu.bar0.base;
    let frame = Gfn((base + u64::from(PAGES[1])) >> PAGE_SHIFT);
    painter.balloon_out(&[frame]);
    service.vgpu().settle();
    write(&mut painter, MASK, 0x1234);
    assert_eq!(read(&mut painter, &service, MASK), (0x1234, 1));
    assert_eq!(read(&mut painter, &service, PAGES[0]).1, 0, "the other is memory");
    move_bar(&mut painter, base + 0x4000_0000);
    assert_eq!(read(&mut painter, &service, MASK), (0x1234, 1), "also at another place");
    assert_eq!(read(&mut painter, &service, PAGES[0]).1, 0);
    assert!(painter.fill(5), "the table has moved without it");
    service.stop();
    drop(painter);
    world.end();
}

/// What another vCPU does to the pages while the first one moves its BAR: one goes, and perhaps comes back as memory like any other.
fn give_and_take(cpu: &mut ModelCpu, rng: &mut fastrand::Rng, bases: &[u64]) {
    let at = bases[rng.usize(..bases.len())] + u64::from(PAGES[rng.usize(..PAGES.len())]);
    let frame = [Gfn(at >> PAGE_SHIFT)];
    cpu.decrease_reservation(&frame);
    if rng.bool() {
        cpu.populate_physmap(&frame);
    }
}

#[test]
fn a_guest_that_gives_pages_of_registers_away_while_it_moves_its_bar_harms_nobody() {
    for profile in [Profile::Draft, Profile::Xs, Profile::Stock] {
        let world = World::new(profile);
        let (domid, service) = served(&world, true);
        let neighbours = world.domain(domid.0 + 1);
        let neighbour = world.serve(neighbours);
        let mut other = Painter::new(world.cpu(neighbours, &Switch::default()));
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        let first = painter.gpu.bar0.base;
        let bases = [first, first + 0x1000_0000, first + 0x2000_0000];
        let vcpu = world.machine.vcpu(domid, VcpuId(1)).unwrap();
        let (ram, moves) = (vec![RamRange { first: RAM, frames: FRAMES }], AtomicBool::new(true));
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut cpu = ModelCpu::new(vcpu, ram, Arc::default(), Box::new(|_| {}));
                let mut rng = fastrand::Rng::with_seed(7);
                // As long as the other, and not less than this, however they fall together.
                for n in 0.. {
                    if n >= MOVES && !moves.load(Ordering::SeqCst) {
                        break;
                    }
                    give_and_take(&mut cpu, &mut rng, &bases);
                }
            });
            let mut rng = fastrand::Rng::with_seed(8);
            for n in 0..MOVES {
                move_bar(&mut painter, bases[rng.usize(..bases.len())]);
                // Where that goes is the guest's own affair, if it has memory of its own there.
                write(&mut painter, MASK, n);
                write(&mut painter, MASTER, 1 << 31);
                if n % 8 == 0 {
                    assert!(other.fill(n), "its neighbour draws");
                }
            }
            moves.store(false, Ordering::SeqCst);
        });
        service.vgpu().settle();
        // Where it has never been there is nothing of its own.
        move_bar(&mut painter, first + 0x3000_0000);
        painter.reset();
        write(&mut painter, MASK, 0x1234);
        assert_eq!(read(&mut painter, &service, MASK).0, 0x1234, "{profile:?}");
        assert!(painter.fill(5) && other.fill(6), "{profile:?}");
        let (lost, errors) = (service.lost(), neighbour.vgpu().statistics().gpu_errors);
        assert!(lost.is_none() && errors == 0, "{profile:?}: {lost:?}");
        service.stop();
        neighbour.stop();
        drop((painter, other));
        // All frames are back, and nothing in the oracle's book.
        world.end();
    }
}

#[test]
fn without_the_option_each_read_traps() {
    let world = World::new(Profile::Stock);
    let (domid, service) = served(&world, false);
    let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
    assert_eq!(read(&mut painter, &service, MASK).1, 1);
    assert!(painter.fill(5));
    service.stop();
    drop(painter);
    world.end();
}
