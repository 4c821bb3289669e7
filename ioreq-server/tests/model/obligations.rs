//! Obligations that are kept, dropped, leaked or answered too late, and devices that panic under load: no vCPU waits for
//! ever, and nobody else pays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use ioreq_server::bus::{DeviceId, Window};
use ioreq_server::{Access, Bus, Deferred, Device, MmioDevice, OnError, Outcome, Region, Space};
use mock_xen::{Machine, VcpuError};
use parking_lot::Mutex;
use xen_ioreq::DomId;

use crate::rig::*;

/// Where the devices are.
const KEPT: u64 = 0xd000_0000;

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
        let window = Window { space: Space::Mmio, start: KEPT, last: KEPT + 0xfff, region: Region(0) };
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
            std::thread::spawn(move || v.mmio_read(KEPT, 8).unwrap())
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
    let waiting = std::thread::spawn(move || (v.rep_mmio(KEPT, 4, true, 0x1000, 6, false), v));
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
