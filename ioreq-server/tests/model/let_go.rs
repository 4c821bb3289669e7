//! Frames that are trapped and let go over and over while several vCPUs write to them without pause: each write is there, once, the
//! guest lives, and neither side keeps the other from going on.

use std::sync::Arc;

use ioreq_server::WriteTraps;
use ioreq_server::traps::{TrapError, Watcher};
use mock_xen::Vcpu;
use xen_ioreq::{Gfn, PAGE_SIZE};

use crate::rig::*;

const FIRST: u64 = 0x10;
const PAGE: u64 = PAGE_SIZE as u64;
/// Bytes that are a vCPU's own in each page.
const OWN: u64 = 1024;
/// Where the items begin that are all vCPUs' in turn.
const SHARED: u64 = 4088;
/// Pages, at most.
const MOST: u64 = 7;

/// Lets a frame go when it is written for the first time.
struct LetsGo(Arc<WriteTraps>);

impl Watcher for LetsGo {
    fn written(&self, gfn: Gfn) {
        self.0.clear(gfn);
    }
}

/// The guest's program on one of its vCPUs.
struct Program<'a> {
    vcpu: &'a Vcpu,
    pages: u64,
}

impl Program<'_> {
    fn pages(&self) -> impl Iterator<Item = u64> {
        (FIRST..FIRST + self.pages).map(|gfn| gfn * PAGE)
    }

    fn own(&self) -> u64 {
        OWN * u64::from(self.vcpu.id().0)
    }

    /// Writes items of its own, in every page; each is there when the instruction is through.
    fn write(&self, n: u64) {
        for at in self.pages().map(|page| page + self.own() + 8 * (n % 100)) {
            self.vcpu.mmio_write(at, 8, n).unwrap();
            assert_eq!(self.vcpu.mmio_read(at, 8), Ok(n), "no write is lost");
        }
    }

    /// The same with bytes, which go by as many instructions as it takes.
    fn write_bytes(&self, n: u64) {
        let bytes: [u8; 150] = std::array::from_fn(|i| (n + i as u64) as u8);
        for at in self.pages().map(|page| page + self.own() + 801) {
            self.vcpu.write(at, &bytes).unwrap();
            let mut read = [0; 150];
            self.vcpu.ram_read(at, &mut read).unwrap();
            assert_eq!(read, bytes);
        }
    }

    /// Each vCPU in its turn adds one. A write that took effect once more, after its instruction, would take others' back.
    fn count(&self, counted: &mut [u64]) {
        for (at, counted) in self.pages().map(|page| page + SHARED).zip(counted) {
            let n = self.vcpu.mmio_read(at, 8).unwrap();
            if n % u64::from(VCPUS) == u64::from(self.vcpu.id().0) {
                assert_eq!(n / u64::from(VCPUS), *counted, "no write comes twice");
                self.vcpu.mmio_write(at, 8, n + 1).unwrap();
                *counted += 1;
            }
        }
    }
}

/// Traps pages and waits until they have been let go, so many times.
fn let_go_again_and_again(pages: u64, times: u64) {
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let traps = s.on_loop(|l| l.iter().map(|(_, guest)| guest.server().write_traps()).next().unwrap());
    let lets_go = Arc::new(LetsGo(traps.clone()));
    let counted = meanwhile(
        &m,
        d,
        |vcpu, n, counted: &mut [u64; MOST as usize]| {
            let program = Program { vcpu, pages };
            program.write(n);
            program.count(&mut counted[..pages as usize]);
            if n % 16 == 0 {
                program.write_bytes(n);
                // A request of another kind meets what would be left over.
                vcpu.mmio_read(MEMORY, 4).unwrap();
            }
        },
        |all_round| {
            for _ in 0..times {
                for gfn in (FIRST..FIRST + pages).map(Gfn) {
                    while let Err(e) = traps.set(gfn, lets_go.clone()) {
                        assert_eq!(e, TrapError::Leaving(gfn));
                        std::thread::yield_now();
                    }
                }
                // All pages are written, and every vCPU goes on.
                all_round();
                assert_eq!(traps.watched(), 0);
            }
            // The last ones become RAM though nobody pauses in writing to them.
            while !traps.settle() {
                all_round();
            }
            all_round();
        },
    );
    let v = vcpu(&m, d, 0);
    for page in 0..pages {
        let total: u64 = counted.iter().map(|c| c[page as usize]).sum();
        assert!(total > 0);
        assert_eq!(v.mmio_read((FIRST + page) * PAGE + SHARED, 8), Ok(total), "page {page}");
    }
    let stats = s.stats();
    assert!(stats.ram_writes >= pages * times && stats.pauses >= times, "{stats:?}");
    assert_eq!((stats.unclaimed, stats.failed, stats.panics), (0, 0, 0));
}

#[test]
fn page_that_four_vcpus_write_without_pause_is_let_go_each_time_and_loses_nothing() {
    let_go_again_and_again(1, 40);
}

#[test]
fn pages_that_four_vcpus_write_without_pause_are_let_go_each_time_and_lose_nothing() {
    let_go_again_and_again(MOST, 20);
}
