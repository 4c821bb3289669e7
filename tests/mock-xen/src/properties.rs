//! Random lives of a guest's memory, against a second, naive book of who holds what.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xen_ioreq::abi::iommu_op::{IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page};
use xen_ioreq::seam::{ForeignMap, Prot};
use xen_ioreq::{Bfn, Errno, Gfn};

use crate::testing::{DOM0, Emulator, foreign_op, iommu, machine, unmap_foreign, vcpu};
use crate::{BusAccess, Config, DomainConfig};

const GFNS: u64 = 6;
const BFNS: u64 = 5;
const MAX_PAGES: u64 = 5;

#[derive(Clone, Debug)]
enum Op {
    Decrease(u64),
    Populate(u64),
    Map { bfn: u64, gfn: u64, server: usize },
    Lookup { gfn: u64, server: usize },
    Unmap { bfn: u64, server: usize },
    HostMap(u64),
    HostUnmap(usize),
    Dma(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (gfn, bfn, server) = (0..GFNS, 0..BFNS, 0..2usize);
    prop_oneof![
        gfn.clone().prop_map(Op::Decrease),
        gfn.clone().prop_map(Op::Populate),
        (bfn.clone(), gfn.clone(), server.clone()).prop_map(|(bfn, gfn, server)| Op::Map {
            bfn,
            gfn,
            server
        }),
        (gfn.clone(), server.clone()).prop_map(|(gfn, server)| Op::Lookup { gfn, server }),
        (bfn.clone(), server).prop_map(|(bfn, server)| Op::Unmap { bfn, server }),
        gfn.prop_map(Op::HostMap),
        (0..4usize).prop_map(Op::HostUnmap),
        bfn.prop_map(Op::Dma),
    ]
}

/// A page by the order of its birth.
type Page = usize;

/// The naive book: a list of facts, and nothing derived from them but by looking through all.
#[derive(Default)]
struct Book {
    born: usize,
    allocated: BTreeSet<Page>,
    p2m: BTreeMap<u64, Page>,
    m2b: BTreeSet<(u64, usize, Page)>,
    host: Vec<Page>,
}

impl Book {
    fn references(&self, page: Page) -> u32 {
        let all = self
            .m2b
            .iter()
            .map(|e| e.2)
            .chain(self.host.iter().copied())
            .chain(self.allocated.iter().copied());
        u32::try_from(all.filter(|p| *p == page).count()).unwrap()
    }

    fn alive(&self) -> u64 {
        (0..self.born).filter(|p| self.references(*p) > 0).count() as u64
    }

    fn at(&self, bfn: u64) -> Option<Page> {
        self.m2b.iter().find(|e| e.0 == bfn).map(|e| e.2)
    }

    fn map(&mut self, bfn: u64, gfn: u64, server: usize) -> Result<(), Errno> {
        let page = *self.p2m.get(&gfn).ok_or(Errno::ENXIO)?;
        if self.at(bfn).is_some_and(|other| other != page) {
            return Err(Errno::EPERM);
        }
        self.m2b.insert((bfn, server, page));
        Ok(())
    }

    fn unmap(&mut self, bfn: u64, server: usize) -> Result<(), Errno> {
        let page = self.at(bfn).ok_or(Errno::ENOENT)?;
        if self.m2b.remove(&(bfn, server, page)) { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

fn run(ops: &[Op]) {
    let m = machine(Config { fail_fast: true, ..Config::default() });
    let start = m.free_frames();
    let d = m.create_domain(&DomainConfig { max_pages: MAX_PAGES, ..DomainConfig::default() }).unwrap();
    let servers = [Emulator::atomic(&m, d), Emulator::atomic(&m, d)];
    let shared = start - m.free_frames();
    let port = m.bus_port(DOM0, "device").unwrap();
    let v = vcpu(&m, d, 0);
    let c = &servers[0].caller;
    let mut book = Book::default();
    let mut host = Vec::new();
    for op in ops {
        let mut told: [Vec<u64>; 2] = Default::default();
        match *op {
            Op::Decrease(gfn) => {
                let page = book.p2m.remove(&gfn);
                if let Some(page) = page {
                    for (bfn, server, _) in book.m2b.iter().filter(|e| e.2 == page) {
                        told[*server].push(*bfn);
                    }
                    book.allocated.remove(&page);
                }
                assert_eq!(v.decrease_reservation(&[Gfn(gfn)]), Ok(usize::from(page.is_some())));
            }
            Op::Populate(gfn) => {
                let room = book.alive() < MAX_PAGES;
                if room {
                    book.allocated.insert(book.born);
                    book.p2m.insert(gfn, book.born);
                    book.born += 1;
                }
                assert_eq!(v.populate_physmap(&[Gfn(gfn)]), Ok(usize::from(room)));
                if room {
                    v.ram_write(gfn << 12, &[u8::try_from(book.born).unwrap()]).unwrap();
                }
            }
            Op::Map { bfn, gfn, server } => {
                let mut op = foreign_op(IOMMUOP_map_foreign_page, bfn, gfn, d, servers[server].id);
                assert_eq!(iommu(c, &mut op), book.map(bfn, gfn, server));
            }
            Op::Lookup { gfn, server } => {
                let mut op = foreign_op(IOMMUOP_lookup_foreign_page, 0, gfn, d, servers[server].id);
                let got = iommu(c, &mut op);
                match book.p2m.get(&gfn) {
                    None => assert_eq!(got, Err(Errno::ENXIO)),
                    Some(page) if !book.m2b.iter().any(|e| e.2 == *page) => {
                        assert_eq!(got, Err(Errno::ENOENT))
                    }
                    Some(_) => {
                        assert_eq!(got, Ok(()));
                        assert_eq!(book.map(op.bfn, gfn, server), Ok(()));
                    }
                }
            }
            Op::Unmap { bfn, server } => {
                assert_eq!(unmap_foreign(c, bfn, servers[server].id), book.unmap(bfn, server));
            }
            Op::HostMap(gfn) => {
                let mapped = c.map_foreign(d, &[Gfn(gfn)], Prot::Read).unwrap();
                match book.p2m.get(&gfn) {
                    None => assert_eq!(mapped.error(0), Some(Errno::EINVAL)),
                    Some(page) => {
                        assert_eq!(mapped.error(0), None);
                        book.host.push(*page);
                        host.push(mapped);
                    }
                }
            }
            Op::HostUnmap(i) => {
                if i < host.len() {
                    book.host.remove(i);
                    host.remove(i);
                }
            }
            Op::Dma(bfn) => {
                let pin = port.pin(Bfn(bfn), BusAccess::Read).ok();
                assert_eq!(pin.is_some(), book.at(bfn).is_some());
                if let (Some(pin), Some(page)) = (pin, book.at(bfn)) {
                    // The page that was mapped, whatever the guest has put behind its number since.
                    assert_eq!(usize::from(crate::memory::peek(pin.ptr)), page + 1);
                    port.unpin(pin);
                }
            }
        }
        for (server, mut expected) in servers.iter().zip(told) {
            let mut got = server.take_invalidates();
            got.sort_unstable();
            expected.sort_unstable();
            assert_eq!(got, expected);
        }
        assert_eq!(m.free_frames(), start - shared - book.alive());
        assert_eq!(m.domain_info(d).unwrap().tot_pages, book.alive());
        for gfn in 0..GFNS {
            let expected = book.p2m.get(&gfn).map(|p| book.references(*p)).ok_or(Errno::ENOENT);
            assert_eq!(m.references(d, Gfn(gfn)), expected, "gfn {gfn}");
        }
        m.assert_clean();
    }
    // Death: what nobody holds comes back at once, the rest with its last holder.
    m.destroy_domain(d).unwrap();
    book.allocated.clear();
    assert_eq!(m.free_frames(), start - shared - book.alive());
    let entries: Vec<_> = book.m2b.iter().copied().collect();
    for (bfn, server, _) in entries {
        assert_eq!(unmap_foreign(c, bfn, servers[server].id), book.unmap(bfn, server));
        assert_eq!(m.free_frames(), start - shared - book.alive());
    }
    drop(host);
    drop(servers);
    assert_eq!((m.free_frames(), m.domain_info(d)), (start, None));
    m.assert_clean();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_life_of_a_guest_s_memory_agrees_with_a_naive_book(ops in prop::collection::vec(op(), 0..60)) {
        run(&ops);
    }
}
