//! The executor against an interpreter of the protocol that is slow, written from QEMU's description of it, and works on
//! arrays and 128-bit numbers.
#![allow(clippy::cast_possible_truncation, reason = "offsets in small arrays")]

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;
use xen_ioreq::abi::ioreq::{Bits, ioreq};
use xen_ioreq::seam::DmOp;
use xen_ioreq::{Errno, PAGE_SIZE, Port, VcpuId};
use zerocopy::IntoBytes;

use super::*;
use crate::bus::Window;
use crate::claims::LocalClaims;
use crate::device::{Access, Device, MmioDevice, PciConfigDevice, PioDevice, Region};
use crate::outcome::Deferred;
use crate::request::Invalidation;
use crate::slot::{Slots, VcpuPort};
use crate::testing::{Pages, Ram, Sent};

const PORTS: u64 = 0xc000;
const MEMORY: u64 = 0xf000_0000;
const FUNCTION: u64 = 0x10;
const SIZE: usize = 64;
const RAM_PAGES: usize = 3;
/// The middle page of guest RAM is ballooned out.
const HOLE: u64 = 1;

/// How the device answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Prompt,
    /// Defers everything and answers at once.
    DefersAnswered,
    /// Defers everything; the test answers.
    DefersQueued,
    /// Fails from the n-th access on.
    FailsAt(u64),
    /// Panics at the n-th access.
    PanicsAt(u64),
    /// Defers and drops the obligation.
    Forgets,
}

type Late = (Deferred, Result<u64, IoError>);

/// Three small memories, one in each space.
struct Toy {
    cells: [Mutex<Vec<u8>>; 3],
    mood: Mood,
    count: AtomicU64,
    late: Mutex<Vec<Late>>,
}

impl Toy {
    fn access(&self, space: Space, a: &Access, write: Option<u64>) -> Outcome<u64> {
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        match self.mood {
            Mood::FailsAt(at) if n >= at => return Outcome::Err(IoError::Broken("as told")),
            Mood::PanicsAt(at) if n >= at => panic!("as told"),
            _ => {}
        }
        let mut cells = self.cells[space as usize].lock();
        let start = a.offset as usize;
        let Some(part) = cells.get_mut(start..start + a.width.bytes() as usize) else {
            return Outcome::Err(IoError::NoRegister);
        };
        let value = match write {
            Some(v) => {
                part.copy_from_slice(&v.to_le_bytes()[..part.len()]);
                0
            }
            None => {
                let mut bytes = [0xaa; 8];
                bytes[..part.len()].copy_from_slice(part);
                u64::from_le_bytes(bytes)
            }
        };
        drop(cells);
        match self.mood {
            Mood::DefersAnswered => {
                let (token, defer) = Deferred::new();
                token.answer(Ok(value));
                Outcome::Defer(defer)
            }
            Mood::DefersQueued => {
                let (token, defer) = Deferred::new();
                self.late.lock().push((token, Ok(value)));
                Outcome::Defer(defer)
            }
            Mood::Forgets => {
                let (token, defer) = Deferred::new();
                drop(token);
                Outcome::Defer(defer)
            }
            _ => Outcome::Ok(value),
        }
    }

    fn write(&self, space: Space, a: &Access, value: u64) -> Outcome<()> {
        match self.access(space, a, Some(value)) {
            Outcome::Ok(_) => Outcome::Ok(()),
            Outcome::Err(e) => Outcome::Err(e),
            Outcome::Defer(d) => Outcome::Defer(d),
        }
    }
}

impl Device for Toy {
    fn name(&self) -> &str {
        "toy"
    }
    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
    fn supports_pci(&self) -> Option<&dyn PciConfigDevice> {
        Some(self)
    }
}

impl PioDevice for Toy {
    fn pio_read(&self, a: &Access) -> Outcome<u64> {
        self.access(Space::Pio, a, None)
    }
    fn pio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Pio, a, value)
    }
}

impl MmioDevice for Toy {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        self.access(Space::Mmio, a, None)
    }
    fn mmio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Mmio, a, value)
    }
}

impl PciConfigDevice for Toy {
    fn config_read(&self, a: &Access) -> Outcome<u64> {
        self.access(Space::Pci, a, None)
    }
    fn config_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Pci, a, value)
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<Invalidation>>, Mutex<Vec<i64>>);

impl Notices for Heard {
    fn invalidate(&self, what: Invalidation) {
        self.0.lock().push(what);
    }
    fn time_offset(&self, seconds: i64) {
        self.1.lock().push(seconds);
        assert_ne!(seconds, 666, "as told");
    }
}

#[derive(Default)]
struct Ops(Mutex<Vec<u32>>);

impl DmOp for Ops {
    fn dm_op(&self, _: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.0.lock().push(u32::from_le_bytes(bufs[0][..4].try_into().unwrap()));
        Ok(())
    }
}

struct Rig {
    toy: Arc<Toy>,
    ram: Arc<Ram>,
    heard: Arc<Heard>,
    ops: Arc<Ops>,
    exec: Arc<Exec>,
    pages: Pages,
    slots: Arc<Slots>,
    sent: Arc<Sent>,
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect()
}

fn rig(mood: Mood, on_error: OnError) -> Rig {
    let cells = [1, 2, 3].map(|seed| Mutex::new(pattern(seed, SIZE)));
    let toy = Arc::new(Toy { cells, mood, count: AtomicU64::new(0), late: Mutex::default() });
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let id = bus.attach(toy.clone());
    let size = SIZE as u64;
    for (space, start, last) in [
        (Space::Pio, PORTS, PORTS + size - 1),
        (Space::Mmio, MEMORY, MEMORY + size - 1),
        (Space::Pci, FUNCTION, FUNCTION),
    ] {
        bus.map(id, Window { space, start, last, region: Region(0) }).unwrap();
    }
    let ram = Ram::new(RAM_PAGES, &[HOLE]);
    ram.pages.write(0, &pattern(9, RAM_PAGES * PAGE_SIZE));
    let heard = Arc::new(Heard::default());
    let ops = Arc::new(Ops::default());
    let exec = Arc::new(Exec {
        bus,
        memory: GuestMemory::new(ram.clone(), DomId(3)),
        dm: Dm::new(ops.clone(), DomId(3)),
        notices: heard.clone(),
        on_error,
        stats: Arc::default(),
    });
    let pages = Pages::new(1);
    let sent = Arc::new(Sent::default());
    let vcpus = vec![VcpuPort { vcpu: VcpuId(0), port: Port(1) }];
    let slots = Arc::new(Slots::new(pages.mapping(), vcpus, sent.clone()));
    Rig { toy, ram, heard, ops, exec, pages, slots, sent }
}

impl Rig {
    /// Sends a request; the answer, or `None` while it is deferred.
    fn send(&self, request: &ioreq) -> Option<u64> {
        self.sent.0.lock().clear();
        self.pages.write(0, request.as_bytes());
        self.exec.sync(self.slots.take(0).expect("READY"), &Hint::default());
        self.answer()
    }

    fn answer(&self) -> Option<u64> {
        match Bits::unpack(self.pages.read::<1>(30)[0]).state {
            2 => {
                assert!(self.sent.0.lock().is_empty());
                None
            }
            3 => {
                assert_eq!(*self.sent.0.lock(), [Port(1)]);
                Some(self.pages.u64(8))
            }
            other => panic!("state {other}"),
        }
    }

    fn cells(&self) -> [Vec<u8>; 3] {
        [0, 1, 2].map(|i| self.toy.cells[i].lock().clone())
    }

    fn ram(&self) -> Vec<u8> {
        self.ram.pages.read::<{ RAM_PAGES * PAGE_SIZE }>(0).to_vec()
    }
}

/// The naive interpreter.
struct Naive {
    cells: [Vec<u8>; 3],
    ram: Vec<u8>,
    heard: Vec<Invalidation>,
    offsets: Vec<i64>,
    /// Accesses that the device may still answer.
    patience: u64,
}

impl Naive {
    fn ram_byte(&mut self, at: i128) -> Option<&mut u8> {
        let at = usize::try_from(at).ok()?;
        if at / PAGE_SIZE == HOLE as usize { None } else { self.ram.get_mut(at) }
    }

    /// The answer in the slot.
    fn run(&mut self, q: &ioreq) -> u64 {
        let bits = q.bits;
        let (ptr, read, df) = (bits & 0x10 != 0, bits & 0x20 != 0, bits & 0x40 != 0);
        let space = match q.r#type {
            0 => 0,
            1 => 1,
            2 => 2,
            7 => {
                self.offsets.push(q.data.cast_signed());
                return q.data;
            }
            8 => {
                self.heard.push(if q.data == u64::MAX {
                    Invalidation::All
                } else {
                    Invalidation::Frame(xen_ioreq::Bfn(q.data))
                });
                return q.data;
            }
            _ => return u64::MAX,
        };
        let size = i128::from(q.size);
        let sizes: &[i128] = if space == 1 { &[1, 2, 4, 8] } else { &[1, 2, 4] };
        if !sizes.contains(&size) || q.count == 0 || q.count > 4096 {
            return u64::MAX;
        }
        let sign = if df { -1 } else { 1 };
        let step = |i: u32| i128::from(i) * size * sign;
        let in_64 = |base: u64| {
            [0, q.count - 1].iter().all(|i| {
                let at = i128::from(base) + step(*i);
                at >= 0 && at + size <= 1 << 64
            })
        };
        if space == 0 && i128::from(q.addr) + size > 0x1_0000
            || space == 1 && !in_64(q.addr)
            || ptr && !in_64(q.data)
        {
            return u64::MAX;
        }
        let mut answer = q.data;
        for i in 0..q.count {
            let (base, at) = match space {
                0 => (PORTS as i128, i128::from(q.addr)),
                1 => (MEMORY as i128, i128::from(q.addr) + step(i)),
                _ if q.addr >> 32 == FUNCTION => (0, i128::from(q.addr as u32)),
                _ => return u64::MAX,
            };
            let mut value = 0u64;
            if !read {
                for b in 0..size {
                    let byte = if ptr {
                        match self.ram_byte(i128::from(q.data) + step(i) + b) {
                            Some(byte) => *byte,
                            None => return u64::MAX,
                        }
                    } else {
                        (q.data >> (8 * b)) as u8
                    };
                    value |= u64::from(byte) << (8 * b);
                }
            }
            let inside = at >= base && at + size <= base + SIZE as i128;
            // The bus sends a function what it has no register for; elsewhere the device is not reached.
            if !inside && space != 2 || self.patience == 0 {
                return u64::MAX;
            }
            self.patience -= 1;
            if !inside {
                return u64::MAX;
            }
            for b in 0..size {
                let cell = &mut self.cells[space][usize::try_from(at - base + b).unwrap()];
                if read {
                    value |= u64::from(*cell) << (8 * b);
                } else {
                    *cell = (value >> (8 * b)) as u8;
                }
            }
            if read && !ptr {
                answer = value;
            }
            if read && ptr {
                // An item across a hole is written up to it, as byte by byte.
                let aligned = (i128::from(q.data) + step(i)) % size == 0;
                for b in 0..size {
                    match self.ram_byte(i128::from(q.data) + step(i) + b) {
                        Some(byte) => *byte = (value >> (8 * b)) as u8,
                        None => {
                            assert!(!aligned || b == 0);
                            return u64::MAX;
                        }
                    }
                }
            }
        }
        answer
    }
}

fn near(base: u64) -> impl Strategy<Value = u64> {
    (-80i64..80).prop_map(move |d| base.wrapping_add_signed(d))
}

fn request() -> impl Strategy<Value = ioreq> {
    let kind = prop_oneof![8 => 0u8..3, 1 => Just(7), 1 => Just(8), 1 => any::<u8>()];
    let addr = prop_oneof![
        3 => near(PORTS + 32),
        6 => near(MEMORY + 32),
        4 => (0u64..80).prop_map(|r| FUNCTION << 32 | r),
        1 => near(0x1_0000),
        1 => near(0),
        1 => near(u64::MAX),
        1 => any::<u64>(),
    ];
    let data = prop_oneof![
        2 => near(PAGE_SIZE as u64),
        2 => near(2 * PAGE_SIZE as u64),
        2 => near(3 * PAGE_SIZE as u64),
        1 => near(0),
        1 => near(100),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ];
    let size = prop_oneof![8 => (0u32..4).prop_map(|s| 1 << s), 1 => 0u32..20, 1 => any::<u32>()];
    let count = prop_oneof![6 => Just(1u32), 6 => 0u32..20, 1 => 4090u32..4100, 1 => any::<u32>()];
    (kind, addr, data, size, count, 0u8..16).prop_map(|(kind, addr, data, size, count, flags)| ioreq {
        addr,
        data,
        size,
        count,
        r#type: kind,
        bits: flags << 4 | 1,
        ..ioreq::default()
    })
}

fn compare(rig: &Rig, requests: &[ioreq], patience: u64) {
    let mut naive = Naive { cells: rig.cells(), ram: rig.ram(), heard: vec![], offsets: vec![], patience };
    for q in requests {
        let want = naive.run(q);
        let mut got = rig.send(q);
        // Answer what was deferred until the run is over.
        while got.is_none() {
            let (token, value) = rig.toy.late.lock().remove(0);
            token.answer(value);
            got = rig.answer();
        }
        assert_eq!(got, Some(want), "{q:x?}");
        assert_eq!(rig.cells(), naive.cells, "{q:x?}");
        assert!(rig.ram() == naive.ram, "{q:x?}");
    }
    assert_eq!(*rig.heard.0.lock(), naive.heard);
    assert_eq!(*rig.heard.1.lock(), naive.offsets);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_requests_do_what_the_naive_interpreter_says(
        requests in proptest::collection::vec(request(), 1..6),
        mood in prop_oneof![Just(Mood::Prompt), Just(Mood::DefersAnswered), Just(Mood::DefersQueued)],
    ) {
        compare(&rig(mood, OnError::AllOnes), &requests, u64::MAX);
    }

    #[test]
    fn device_that_fails_in_the_middle_ends_the_run_there(
        requests in proptest::collection::vec(request(), 1..6),
        n in 0u64..12,
    ) {
        compare(&rig(Mood::FailsAt(n), OnError::AllOnes), &requests, n);
    }
}

fn read_of(space: Space, addr: u64, size: u32) -> ioreq {
    ioreq { addr, size, count: 1, r#type: space as u8, bits: 0x21, ..ioreq::default() }
}

#[test]
fn panic_in_a_device_is_contained_and_the_vcpu_answered() {
    let rig = rig(Mood::PanicsAt(1), OnError::AllOnes);
    assert_ne!(rig.send(&read_of(Space::Mmio, MEMORY, 4)), Some(u64::MAX));
    assert_eq!(rig.send(&read_of(Space::Mmio, MEMORY, 4)), Some(u64::MAX));
    assert_eq!(rig.exec.stats.snapshot().panics, 1);
    assert!(rig.ops.0.lock().is_empty());
}

#[test]
fn panic_crashes_the_guest_where_the_operator_wants_it() {
    let rig = rig(Mood::PanicsAt(0), OnError::CrashGuest);
    // What is merely not there is never a reason to crash.
    assert_eq!(rig.send(&read_of(Space::Mmio, MEMORY - 4, 4)), Some(u64::MAX));
    assert!(rig.ops.0.lock().is_empty());
    assert_eq!(rig.send(&read_of(Space::Mmio, MEMORY, 4)), Some(u64::MAX));
    assert_eq!(*rig.ops.0.lock(), [xen_ioreq::abi::dm_op::XEN_DMOP_remote_shutdown]);
}

#[test]
fn panic_in_the_handler_of_a_notice_is_contained() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let q = ioreq { data: 666, r#type: 7, size: 8, count: 1, bits: 1, ..ioreq::default() };
    assert_eq!(rig.send(&q), Some(666));
    assert_eq!(rig.exec.stats.snapshot().panics, 1);
}

#[test]
fn forgotten_deferral_reads_all_ones_and_is_an_error_of_the_device() {
    let rig = rig(Mood::Forgets, OnError::CrashGuest);
    assert_eq!(rig.send(&read_of(Space::Pio, PORTS, 4)), Some(u64::MAX));
    assert_eq!(rig.ops.0.lock().len(), 1);
}

#[test]
fn deferred_read_waits_for_its_answer() {
    let rig = rig(Mood::DefersQueued, OnError::AllOnes);
    assert_eq!(rig.send(&read_of(Space::Pio, PORTS, 1)), None);
    let (token, _) = rig.toy.late.lock().remove(0);
    std::thread::spawn(move || token.answer(Ok(0x1ff))).join().unwrap();
    assert_eq!(rig.answer(), Some(0xff));
    assert_eq!(rig.exec.stats.snapshot().deferred, 1);
}

#[test]
fn stock_invalidation_with_count_0_is_heard_and_acknowledged() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let q = ioreq { data: u64::MAX, r#type: 8, size: 4, bits: 1, ..ioreq::default() };
    assert_eq!(rig.send(&q), Some(u64::MAX));
    assert_eq!(*rig.heard.0.lock(), [Invalidation::All]);
}

#[test]
fn buffered_requests_are_carried_out_and_reads_among_them_refused() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let hint = Hint::default();
    let write = ioreq { data: 0x77, bits: 0, ..read_of(Space::Pio, PORTS, 1) };
    rig.exec.buffered(&write, &hint);
    assert_eq!(rig.cells()[0][0], 0x77);
    rig.exec.buffered(&ioreq { bits: 0x20, ..write }, &hint);
    for (size, data, what) in [
        (8, u64::MAX, Invalidation::All),
        (4, u64::from(u32::MAX), Invalidation::All),
        (8, u64::from(u32::MAX), Invalidation::Frame(xen_ioreq::Bfn(u64::from(u32::MAX)))),
        (8, 0x1234_5678_9abc, Invalidation::Frame(xen_ioreq::Bfn(0x1234_5678_9abc))),
    ] {
        rig.exec.buffered(&ioreq { r#type: 8, size, data, count: 1, ..ioreq::default() }, &hint);
        assert_eq!(rig.heard.0.lock().pop(), Some(what));
    }
    let stats = rig.exec.stats.snapshot();
    assert_eq!((stats.buffered, stats.malformed, stats.invalidate, stats.pio), (6, 1, 4, 1));
}

#[test]
fn string_instruction_maps_its_page_once() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let q = ioreq { data: 0x100, count: 200, bits: 0x31, ..read_of(Space::Pio, PORTS, 4) };
    assert_eq!(rig.send(&q), Some(0x100));
    assert_eq!(*rig.ram.maps.lock(), 1);
}

#[test]
fn longest_string_instruction_deferred_at_every_step_does_not_recurse() {
    let rig = rig(Mood::DefersAnswered, OnError::AllOnes);
    let q = ioreq { count: 4096, bits: 0x01, data: 1, ..read_of(Space::Pio, PORTS, 4) };
    // Far less stack than 4096 frames would need.
    let small = std::thread::Builder::new().stack_size(64 << 10);
    std::thread::scope(|s| {
        let answer = small.spawn_scoped(s, || rig.send(&q)).unwrap().join().unwrap();
        assert_eq!(answer, Some(1));
    });
    assert_eq!(rig.toy.count.load(Ordering::SeqCst), 4096);
}
