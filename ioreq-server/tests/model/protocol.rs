//! Parts of the protocol that take more than one access to show: clocks, many vCPUs, ranges at their limit, BARs that move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ioreq_server::bus::{BusError, Window};
use ioreq_server::claims::{ClaimError, MAX_RANGES};
use ioreq_server::pci::{Bar, ConfigBuilder, Function, PciEndpoint, Sbdf};
use ioreq_server::{Access, BufferedMode, Notices, Outcome, Region, Space};
use mock_xen::{Config, Machine, Vcpu};
use parking_lot::Mutex;

use crate::rig::*;

#[derive(Default)]
struct Clock(Mutex<Vec<i64>>);

impl Notices for Clock {
    fn time_offset(&self, seconds: i64) {
        self.0.lock().push(seconds);
    }
}

#[test]
fn guest_that_sets_its_clock_is_heard_by_every_server_that_has_a_ring() {
    let m = machine();
    let d = guest(&m, 1);
    let servers: Vec<_> = [BufferedMode::Atomic, BufferedMode::Legacy, BufferedMode::Off]
        .into_iter()
        .map(|mode| {
            let clock = Arc::new(Clock::default());
            let s = serve(&m, d, Options { mode, notices: clock.clone(), ..Options::default() });
            (s, clock)
        })
        .collect();
    Cells::attach(&servers[0].0.bus);
    Reads::attach(&servers[1].0.bus, 0xe000_0000, |_| Outcome::Ok(1));
    let v = vcpu(&m, d, 0);
    let offsets = [3600, -1, i64::MIN, i64::MAX, 0];
    for seconds in offsets {
        v.set_time_offset(seconds).unwrap();
    }
    // What a vCPU put into a ring is carried out before what it asks for next.
    v.mmio_read(MEMORY, 4).unwrap();
    v.mmio_read(0xe000_0000, 4).unwrap();
    let heard: Vec<_> = servers.iter().map(|(_, clock)| clock.0.lock().clone()).collect();
    assert_eq!(heard, [offsets[..4].to_vec(), offsets[..4].to_vec(), vec![]]);
    assert_eq!(servers.iter().map(|(s, _)| s.stats().time_offset).collect::<Vec<_>>(), [4, 4, 0]);
}

#[test]
fn more_vcpus_than_a_page_has_slots_are_served_where_xen_has_more_pages() {
    let config = Config { frames: 2048, xen_frames: 8, slot_pages: 3, ..Config::default() };
    let m = Machine::new(config).unwrap();
    let d = guest(&m, 300);
    let before = m.free_frames();
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    // One after another, and the last of each page with the first of the next at once.
    for id in (0..300).step_by(7) {
        let v = vcpu(&m, d, id);
        v.mmio_write(MEMORY, 4, u64::from(id)).unwrap();
        assert_eq!(v.mmio_read(MEMORY, 4), Ok(u64::from(id)));
    }
    std::thread::scope(|t| {
        for id in [0, 127, 128, 255, 256, 299] {
            let m = &m;
            t.spawn(move || {
                let v = vcpu(m, d, id);
                for n in 0..200 {
                    v.mmio_write(MEMORY + 8 * u64::from(id), 8, n).unwrap();
                    assert_eq!(v.mmio_read(MEMORY + 8 * u64::from(id), 8), Ok(n));
                }
            });
        }
    });
    let waiting = deferring(&s.bus, 0xe000_0000);
    let late = std::thread::spawn({
        let v = vcpu(&m, d, 299);
        move || v.mmio_read(0xe000_0000, 4)
    });
    let token = waiting.recv().unwrap();
    drop(s);
    assert_eq!(late.join().unwrap(), Ok(0xffff_ffff));
    drop(token);
    assert_eq!(m.free_frames(), before);
    m.assert_clean();
}

#[test]
fn ranges_up_to_xens_limit_are_all_served_and_one_more_is_refused_with_the_reason() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let base = 0xe000_0000;
    let device = Reads::attach(&s.bus, base, |a| Outcome::Ok(u64::from(a.region.0)));
    let window = |i: u64, len: u64| Window {
        space: Space::Mmio,
        start: base + i * 0x2000,
        last: base + i * 0x2000 + len - 1,
        region: Region(u32::try_from(i).unwrap()),
    };
    for i in 1..MAX_RANGES as u64 {
        s.bus.map(device, window(i, 0x1000)).unwrap();
    }
    let refused = s.bus.map(device, window(300, 0x1000)).unwrap_err();
    assert!(matches!(refused, BusError::Claim { source: ClaimError::Full { .. }, .. }), "{refused}");
    let v = vcpu(&m, d, 0);
    for i in 0..MAX_RANGES as u64 {
        assert_eq!(v.mmio_read(base + i * 0x2000 + 8, 4), Ok(i));
        assert_eq!(v.mmio_read(base + i * 0x2000 + 0x1008, 4), Ok(0xffff_ffff));
    }
    // Between two that are there: Xen joins the three, so there is room for one more elsewhere.
    let between = Window { start: base + 0x1000, last: base + 0x1fff, region: Region(777), ..window(0, 1) };
    s.bus.map(device, between).unwrap();
    s.bus.map(device, window(300, 0x1000)).unwrap();
    assert_eq!(v.mmio_read(base + 0x1008, 4), Ok(777));
    assert_eq!(v.mmio_read(base + 300 * 0x2000, 4), Ok(300));
    // Full again: what would leave two where there is one stays, and is served.
    let refused = s.bus.unmap(device, Space::Mmio, base + 0x1000).unwrap_err();
    assert!(matches!(refused, BusError::Claim { source: ClaimError::Splits { .. }, .. }), "{refused}");
    assert_eq!(v.mmio_read(base + 0x1008, 4), Ok(777));
    s.bus.unmap(device, Space::Mmio, base + 300 * 0x2000).unwrap();
    s.bus.unmap(device, Space::Mmio, base + 0x1000).unwrap();
    assert_eq!(v.mmio_read(base + 0x1008, 4), Ok(0xffff_ffff));
    s.bus.detach(device).unwrap();
    assert_eq!(v.mmio_read(base, 4), Ok(0xffff_ffff));
}

struct Where(AtomicU64);

impl Function for Where {
    fn name(&self) -> &str {
        "where"
    }
    fn bar_read(&self, a: &Access) -> Outcome<u64> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Outcome::Ok(0x5a00_0000 | a.offset)
    }
    fn bar_write(&self, a: &Access, value: u64) -> Outcome<()> {
        assert_eq!(value, a.offset);
        Outcome::Ok(())
    }
}

const GPU: Sbdf = Sbdf::new(0, 0, 2, 0);

fn config_write(v: &Vcpu, register: u32, size: usize, value: u32) {
    v.pio_write(0xcf8, 4, 0x8000_0000 | GPU.0 << 8 | register).unwrap();
    v.pio_write(0xcfc, size, value).unwrap();
}

/// One vCPU moves a BAR and switches it off and on, by configuration cycles; the others access all places where it may be.
/// Whoever finds it gets the right answer, whoever does not gets all-ones, and nobody waits for ever.
#[test]
fn bar_that_moves_while_it_is_accessed_answers_right_or_not_at_all() {
    const PLACES: [u64; 4] = [0xe000_0000, 0xe001_0000, 0xe002_0000, 0xf800_0000];
    let m = machine();
    let d = guest(&m, 4);
    let s = serve(&m, d, Options::default());
    let function = Arc::new(Where(AtomicU64::new(0)));
    let config =
        ConfigBuilder::new(0x8086, 0x1616).class(3, 0, 0).bar(0, Bar::mem32(0x1_0000)).build().unwrap();
    let endpoint = PciEndpoint::attach(&s.bus, GPU, config, function.clone()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|t| {
        for id in 1..4 {
            let (m, stop) = (&m, &stop);
            t.spawn(move || {
                let v = vcpu(m, d, id);
                let mut n = u64::from(id);
                while !stop.load(Ordering::SeqCst) {
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let offset = n >> 40 & 0xfff8;
                    let at = PLACES[(n >> 60) as usize % PLACES.len()] + offset;
                    let got = v.mmio_read(at, 4).unwrap();
                    assert!(got == 0xffff_ffff || got == 0x5a00_0000 | offset, "{got:#x}");
                    v.mmio_write(at, 4, offset).unwrap();
                    // Across the end of one place and the beginning of the next, if both were ours.
                    let across = v.mmio_read(PLACES[0] + 0xfffe, 4).unwrap();
                    assert!([0xffff, 0xfffe].contains(&(across & 0xffff)), "{across:#x}");
                }
            });
        }
        let v = vcpu(&m, d, 0);
        config_write(&v, 4, 2, 2);
        for n in 0..1500usize {
            config_write(&v, 0x10, 4, u32::try_from(PLACES[n % PLACES.len()]).unwrap());
            if n % 5 == 0 {
                config_write(&v, 4, 2, 0);
                config_write(&v, 4, 2, 2);
            }
            // The vCPU that has moved it finds it there at once.
            assert_eq!(v.mmio_read(PLACES[n % PLACES.len()] + 0x40, 4), Ok(0x5a00_0040));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(s.stats().panics, 0);
    endpoint.detach().unwrap();
    drop(s);
    m.assert_clean();
}
