//! Devices and servers that come, move, fail and go while several vCPUs access them: each access has one answer, from the
//! device that was there or from nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;

use ioreq_server::bus::{DeviceId, Window};
use ioreq_server::pci::{Bar, Cf8Latch, ConfigBuilder, Function, PciEndpoint, Sbdf};
use ioreq_server::{Access, Bus, Deferred, Device, MmioDevice, Notices, OnError, Outcome, Region, Space};
use mock_xen::{Machine, Vcpu, VcpuError};
use parking_lot::Mutex;
use xen_ioreq::{DomId, Gfn};

use crate::rig::*;

const VCPUS: u32 = 4;
const PLUGS: u64 = 0xd000_0000;
const WINDOW: u64 = 0x1000;

/// Runs `vcpu` on every vCPU, with how often it has been round, until `main` is through; gives what each has counted.
fn meanwhile<T: Default + Send>(
    m: &Arc<Machine>,
    d: DomId,
    vcpu_does: impl Fn(&Vcpu, u64, &mut T) + Sync,
    main: impl FnOnce(&dyn Fn()),
) -> Vec<T> {
    let stop = AtomicBool::new(false);
    let rounds: [AtomicU64; VCPUS as usize] = Default::default();
    std::thread::scope(|t| {
        let threads: Vec<_> = (0..VCPUS)
            .map(|id| {
                let (v, stop, rounds, vcpu_does) = (vcpu(m, d, id), &stop, &rounds, &vcpu_does);
                t.spawn(move || {
                    let mut counted = T::default();
                    while !stop.load(Ordering::SeqCst) {
                        let round = rounds[id as usize].fetch_add(1, Ordering::SeqCst);
                        vcpu_does(&v, round, &mut counted);
                    }
                    counted
                })
            })
            .collect();
        // Every vCPU has been round since.
        let all_round = || {
            let seen: Vec<_> = rounds.iter().map(|r| r.load(Ordering::SeqCst)).collect();
            while rounds.iter().zip(&seen).any(|(now, seen)| now.load(Ordering::SeqCst) <= seen + 1)
                && !threads.iter().any(|t| t.is_finished())
            {
                std::thread::yield_now();
            }
        };
        main(&all_round);
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Reads give its number and the offset; it counts them.
struct Plug {
    number: u64,
    reads: Arc<AtomicU64>,
}

impl Device for Plug {
    fn name(&self) -> &str {
        "plug"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Plug {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Outcome::Ok(self.number << 16 | a.offset)
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

fn plug(bus: &Bus, number: u64, reads: &Arc<AtomicU64>) -> DeviceId {
    let id = bus.attach(Arc::new(Plug { number, reads: reads.clone() }));
    let start = PLUGS + number % 8 * WINDOW;
    let window = Window { space: Space::Mmio, start, last: start + WINDOW - 1, region: Region(0) };
    bus.map(id, window).unwrap();
    id
}

#[test]
fn devices_come_and_go_under_four_vcpus_and_each_read_is_of_the_one_that_was_there() {
    const GENERATIONS: u64 = 60;
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    let reads = Arc::<AtomicU64>::default();
    let mut there: Vec<_> = (0..8).map(|n| plug(&s.bus, n, &reads)).collect();
    let newest = AtomicU64::new(0);
    let answered = meanwhile(
        &m,
        d,
        |v, round, answered: &mut u64| {
            let window = (round + u64::from(v.id().0)) % 8;
            let offset = round % 500 * 8;
            match v.mmio_read(PLUGS + window * WINDOW + offset, 8).unwrap() {
                u64::MAX => {}
                value => {
                    assert_eq!((value & 0xffff, (value >> 16) % 8), (offset, window));
                    assert!(value >> 16 <= newest.load(Ordering::SeqCst), "{value:#x} is not there yet");
                    *answered += 1;
                }
            }
        },
        |all_round| {
            for generation in 1..=GENERATIONS {
                newest.store(generation * 8 + 7, Ordering::SeqCst);
                for slot in 0..8 {
                    s.bus.detach(there[slot as usize]).unwrap();
                    if slot % 3 == 0 {
                        all_round();
                    }
                    there[slot as usize] = plug(&s.bus, generation * 8 + slot, &reads);
                }
                all_round();
            }
        },
    );
    // No answer of a device was lost, none was given twice.
    assert_eq!(answered.iter().sum::<u64>(), reads.load(Ordering::SeqCst));
    assert!(answered.iter().all(|a| *a > GENERATIONS), "{answered:?}");
    let v = vcpu(&m, d, 0);
    for n in 0..8 {
        assert_eq!(v.mmio_read(PLUGS + n * WINDOW + 8, 8), Ok((GENERATIONS * 8 + n) << 16 | 8));
        s.bus.detach(there[n as usize]).unwrap();
        assert_eq!(v.mmio_read(PLUGS + n * WINDOW + 8, 8), Ok(u64::MAX));
    }
}

/// Reads give the BAR and the offset.
struct Offsets;

impl Function for Offsets {
    fn name(&self) -> &str {
        "offsets"
    }
    fn bar_read(&self, a: &Access) -> Outcome<u64> {
        Outcome::Ok(u64::from(a.region.0 + 1) << 16 | a.offset)
    }
    fn bar_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

#[test]
fn bars_moved_by_one_vcpu_while_three_access_them_answer_where_they_are_and_nowhere_else() {
    const FUNCTION: Sbdf = Sbdf::new(0, 0, 4, 0);
    const MOVES: u32 = 150;
    const MEMORY_AT: [u64; 3] = [0xe000_0000, 0xe100_0000, 0x2_0000_0000];
    const PORTS_AT: [u16; 3] = [0xd000, 0xd040, 0xe000];
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    Cf8Latch::attach(&s.bus).unwrap();
    let config = ConfigBuilder::new(1, 1).bar(0, Bar::mem64(1 << 20)).bar(2, Bar::io(64)).build().unwrap();
    PciEndpoint::attach(&s.bus, FUNCTION, config, Arc::new(Offsets)).unwrap();

    let write = |v: &Vcpu, register: u32, value: u32| {
        v.pio_write(0xcf8, 4, 0x8000_0000 | FUNCTION.0 << 8 | register).unwrap();
        v.pio_write(0xcfc, 4, value).unwrap();
    };
    let place = |v: &Vcpu, n: usize, decoding: bool| {
        if !decoding {
            write(v, 4, 0);
        }
        write(v, 0x10, MEMORY_AT[n] as u32);
        write(v, 0x14, (MEMORY_AT[n] >> 32) as u32);
        write(v, 0x18, PORTS_AT[n].into());
        write(v, 4, 3);
    };
    let moved = AtomicU64::new(0);
    let seen = meanwhile(
        &m,
        d,
        |v, round, found: &mut [u64; 2]| {
            if v.id().0 == 0 {
                if moved.load(Ordering::SeqCst) >= u64::from(MOVES) {
                    return std::thread::yield_now();
                }
                // As Linux moves them, with decoding off, and as nobody should, with decoding on.
                let n = (round % 3) as usize;
                place(v, n, round % 2 == 0);
                for other in 0..3 {
                    let memory = if other == n { 1 << 16 | 8 } else { u64::MAX };
                    let port = if other == n { 3 << 16 | 4 } else { u32::MAX };
                    assert_eq!(v.mmio_read(MEMORY_AT[other] + 8, 8), Ok(memory));
                    assert_eq!(v.pio_read(PORTS_AT[other] + 4, 4), Ok(port));
                }
                moved.fetch_add(1, Ordering::SeqCst);
                return;
            }
            for n in 0..3 {
                let offset = round % 1000 * 8;
                let got = v.mmio_read(MEMORY_AT[n] + offset, 8).unwrap();
                assert!(got == u64::MAX || got == 1 << 16 | offset, "{got:#x}");
                let port = v.pio_read(PORTS_AT[n] + 8, 4).unwrap();
                assert!(port == u32::MAX || port == 3 << 16 | 8, "{port:#x}");
                found[0] += u64::from(got != u64::MAX);
                found[1] += u64::from(port != u32::MAX);
            }
        },
        |_| {
            while moved.load(Ordering::SeqCst) < u64::from(MOVES) {
                std::thread::yield_now();
            }
        },
    );
    assert!(seen[1..].iter().flatten().all(|n| *n > 0), "{seen:?}");
    assert_eq!(s.stats().panics, 0);
}

/// Counts notices.
#[derive(Default)]
struct Told(AtomicU64);

impl Notices for Told {
    fn invalidate(&self, _: ioreq_server::Invalidation) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_second_server_comes_and_goes_under_load_and_the_first_one_and_all_notices_are_served() {
    const ROUNDS: usize = 40;
    let m = stock_machine();
    let d = guest(&m, VCPUS);
    let told = Arc::new(Told::default());
    let s = serve(&m, d, Options { notices: told.clone(), ..Options::default() });
    Reads::attach(&s.bus, 0xe000_0000, |a| Outcome::Ok(0xa000 | a.offset));
    let counted = meanwhile(
        &m,
        d,
        |v, round, seen: &mut [u64; 3]| {
            let offset = round % 100 * 8;
            assert_eq!(v.mmio_read(0xe000_0000 + offset, 8), Ok(0xa000 | offset));
            let got = v.mmio_read(0xe100_0000 + offset, 8).unwrap();
            assert!(got == 0xb000 | offset || got == u64::MAX || got == 0, "{got:#x}");
            seen[usize::from(got != 0xb000 | offset)] += 1;
            if round % 16 == 0 {
                // A page of its own; its going is told to whatever servers there are, and waits for each.
                let page = [Gfn(8 + u64::from(v.id().0))];
                assert_eq!(v.decrease_reservation(&page), Ok(1));
                assert_eq!(v.populate_physmap(&page), Ok(1));
                seen[2] += 1;
            }
        },
        |all_round| {
            for round in 0..ROUNDS {
                let second = serve(&m, d, Options::default());
                let device = Reads::attach(&second.bus, 0xe100_0000, |a| Outcome::Ok(0xb000 | a.offset));
                all_round();
                if round % 2 == 0 {
                    second.bus.detach(device).unwrap();
                }
                drop(second);
                all_round();
            }
        },
    );
    let sum = |i: usize| counted.iter().map(|c| c[i]).sum::<u64>();
    assert!(sum(0) > 0 && sum(1) > 0, "{counted:?}");
    assert!(told.0.load(Ordering::SeqCst) >= sum(2), "{counted:?}");
    m.assert_clean();
}

#[test]
fn a_device_that_panics_under_load_costs_the_accesses_that_it_panicked_in() {
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    let calls = Arc::<AtomicU64>::default();
    let count = calls.clone();
    Reads::attach(&s.bus, 0xe000_0000, move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        if n % 7 == 3 {
            // Without the panic hook's word.
            std::panic::resume_unwind(Box::new("a bug in a device"));
        }
        Outcome::Ok(n)
    });
    Cells::attach(&s.bus);
    let counted = meanwhile(
        &m,
        d,
        |v, round, seen: &mut [u64; 2]| {
            let got = v.mmio_read(0xe000_0000, 8).unwrap();
            seen[usize::from(got == u64::MAX)] += 1;
            let at = MEMORY + 8 * u64::from(v.id().0);
            v.mmio_write(at, 8, round).unwrap();
            assert_eq!(v.mmio_read(at, 8), Ok(round));
        },
        |all_round| (0..50).for_each(|_| all_round()),
    );
    let sum = |i: usize| counted.iter().map(|c| c[i]).sum::<u64>();
    let calls = calls.load(Ordering::SeqCst);
    assert_eq!((sum(0) + sum(1), sum(1)), (calls, s.stats().panics));
    assert_eq!(s.stats().panics, (calls + 3) / 7);
}

#[test]
fn a_guest_crashed_for_a_panicking_device_has_no_vcpu_that_waits_and_its_neighbour_goes_on() {
    let m = machine();
    let (a, b) = (guest(&m, VCPUS), guest(&m, VCPUS));
    let policies = [(a, OnError::CrashGuest), (b, OnError::AllOnes)];
    let guests = policies.map(|(d, on_error)| {
        let guest = make(&m, d, Options { on_error, ..Options::default() });
        let calls = AtomicU64::new(0);
        Reads::attach(guest.bus(), 0xe000_0000, move |_| {
            if calls.fetch_add(1, Ordering::SeqCst) == 100 {
                std::panic::resume_unwind(Box::new("a bug in a device"));
            }
            Outcome::Ok(1)
        });
        guest
    });
    let s = serve_all(guests.into());
    std::thread::scope(|t| {
        let vcpus: Vec<_> = (0..VCPUS).map(|id| (vcpu(&m, a, id), vcpu(&m, b, id))).collect();
        for (va, vb) in vcpus {
            t.spawn(move || {
                // Until it is stopped, and it is.
                let ended = (0..).find_map(|_| va.mmio_read(0xe000_0000, 4).err());
                assert!(matches!(ended, Some(VcpuError::Stopped(_))), "{ended:?}");
            });
            t.spawn(move || {
                let ones = (0..200).filter(|_| vb.mmio_read(0xe000_0000, 4).unwrap() == 0xffff_ffff);
                assert!(ones.count() <= 1);
            });
        }
    });
    let panics: Vec<_> = s.handle.guests().iter().map(|g| g.stats.snapshot().panics).collect();
    assert_eq!(panics, [1, 1]);
}

/// Defers each access and keeps the obligations; it panics in its nth access.
struct Keeper {
    kept: Mutex<Vec<Deferred>>,
    calls: AtomicU64,
    panic_in: u64,
}

impl Keeper {
    fn attach(bus: &Bus, panic_in: u64) -> (Arc<Self>, DeviceId) {
        let keeper = Arc::new(Self { kept: Mutex::default(), calls: AtomicU64::new(0), panic_in });
        let id = bus.attach(keeper.clone());
        let window = Window { space: Space::Mmio, start: PLUGS, last: PLUGS + 0xfff, region: Region(0) };
        bus.map(id, window).unwrap();
        (keeper, id)
    }

    fn wait_for(&self, accesses: usize) {
        while self.kept.lock().len() < accesses {
            std::thread::yield_now();
        }
    }
}

impl Device for Keeper {
    fn name(&self) -> &str {
        "keeper"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Keeper {
    fn mmio_read(&self, _: &Access) -> Outcome<u64> {
        if self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.panic_in {
            std::panic::resume_unwind(Box::new("a bug in a device"));
        }
        let (token, defer) = Deferred::new();
        self.kept.lock().push(token);
        Outcome::Defer(defer)
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

/// Every vCPU reads from the keeper and waits.
fn all_wait(m: &Arc<Machine>, d: DomId, keeper: &Keeper) -> Vec<std::thread::JoinHandle<u64>> {
    let vcpus: Vec<_> = (0..VCPUS)
        .map(|id| {
            let v = vcpu(m, d, id);
            std::thread::spawn(move || v.mmio_read(PLUGS, 8).unwrap())
        })
        .collect();
    keeper.wait_for(VCPUS as usize);
    vcpus
}

#[test]
fn obligations_that_go_with_their_device_read_all_ones() {
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    let (keeper, id) = Keeper::attach(&s.bus, 0);
    let vcpus = all_wait(&m, d, &keeper);
    drop(keeper);
    s.bus.detach(id).unwrap();
    assert!(vcpus.into_iter().all(|v| v.join().unwrap() == u64::MAX));
}

#[test]
fn obligations_of_a_thread_that_panics_read_all_ones() {
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    let (keeper, _) = Keeper::attach(&s.bus, 0);
    let vcpus = all_wait(&m, d, &keeper);
    let worker = std::thread::spawn(move || {
        let _mine = std::mem::take(&mut *keeper.kept.lock());
        std::panic::resume_unwind(Box::new("a bug in a worker"));
    });
    assert!(worker.join().is_err());
    assert!(vcpus.into_iter().all(|v| v.join().unwrap() == u64::MAX));
    assert_eq!(s.stats().failed, u64::from(VCPUS));
}

#[test]
fn a_string_instruction_whose_device_panics_after_a_deferral_ends() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let (keeper, _) = Keeper::attach(&s.bus, 3);
    let v = vcpu(&m, d, 0);
    let waiting = std::thread::spawn(move || (v.rep_mmio(PLUGS, 4, true, 0x1000, 6, false), v));
    for n in 0..2 {
        keeper.wait_for(1);
        let token = keeper.kept.lock().pop().unwrap();
        // The second answer brings the panic about, on this thread, which does not see it.
        token.answer(Ok(0x10 + n));
    }
    let (done, v) = waiting.join().unwrap();
    done.unwrap();
    assert_eq!(s.stats().panics, 1);
    let mut ram = [0; 8];
    v.ram_read(0x1000, &mut ram).unwrap();
    assert_eq!(ram, [0x10, 0, 0, 0, 0x11, 0, 0, 0]);
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
}

#[test]
fn leaked_obligations_are_answered_at_the_servers_end_and_keep_no_frame() {
    let m = machine();
    let d = guest(&m, VCPUS);
    let before = m.free_frames();
    let s = serve(&m, d, Options { cache: 8, ..Options::default() });
    let (keeper, _) = Keeper::attach(&s.bus, 0);
    let vcpus = all_wait(&m, d, &keeper);
    // Two that nobody can ever answer, and two that their device keeps.
    keeper.kept.lock().drain(..2).for_each(std::mem::forget);
    drop(keeper);
    drop(s);
    assert!(vcpus.into_iter().all(|v| v.join().unwrap() == u64::MAX));
    assert_eq!(m.free_frames(), before, "what they hold keeps frames of the guest");
    m.destroy_domain(d).unwrap();
    assert!(m.domain_info(d).is_none(), "a zombie");
    m.assert_clean();
}

#[test]
fn an_obligation_answered_while_the_server_goes_down_answers_once_or_not_at_all() {
    let m = machine();
    let d = guest(&m, VCPUS);
    for _ in 0..40 {
        let s = serve(&m, d, Options::default());
        let (keeper, _) = Keeper::attach(&s.bus, 0);
        let vcpus = all_wait(&m, d, &keeper);
        let (tx, go) = channel();
        let answering = std::thread::spawn(move || {
            go.recv().unwrap();
            let tokens = std::mem::take(&mut *keeper.kept.lock());
            tokens.into_iter().for_each(|t| t.answer(Ok(7)));
        });
        tx.send(()).unwrap();
        drop(s);
        answering.join().unwrap();
        for v in vcpus {
            let got = v.join().unwrap();
            assert!(got == 7 || got == u64::MAX, "{got:#x}");
        }
    }
    m.assert_clean();
}
