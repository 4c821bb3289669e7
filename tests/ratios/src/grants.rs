//! Grants on the model: mapping and copying alone and in batches, and taking one back among few and among a million others.
//!
//! A batch is one hypercall, with one flush for 32 unmappings. The granter writes its entries with its vCPU, outside of the clock.

use std::sync::Arc;

use mock_xen::{Caller, Config, DomainConfig, Machine, Vcpu};
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{XENMAPSPACE_grant_table, XENMEM_add_to_physmap, xen_add_to_physmap};
use xen_ioreq::abi::revokable::{
    GNTTABOP_map_revokable, GNTTABOP_revoke, GTF_revokable, gnttab_map_revokable, gnttab_revoke,
};
use xen_ioreq::seam::{ForeignMap, GrantTableOp, Mapping, OwnMemory, Prot};
use xen_ioreq::{DomId, Gfn, PAGE_SIZE, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::harness::{Figure, Target, interleave, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &[
    "grant-map",
    "grant-map-32",
    "grant-map-512",
    "grant-copy",
    "grant-copy-32",
    "grant-copy-512",
    "grant-revoke",
];

/// Rounds of each figure, and operations in one.
const ROUNDS: usize = 31;
const OPS: usize = 2048;
/// Pages that are granted, and used in turn.
const PAGES: usize = 512;
/// Other mappings beside one that is revoked.
const FEW: u32 = 10;
const MANY: u32 = 1_000_000;
/// Revocations in a round.
const REVOCATIONS: usize = 200;
/// Frames of a domain's RAM, and where a granter puts its table.
const RAM: u64 = 640;
const TABLE: u64 = 100_000;
/// Mappings that one reference may have of a kind.
const PER_REF: u32 = 128;
/// First of the references that are not reserved.
const FIRST: u32 = 8;

/// A granter, and who maps: dom0, whose address space has places, or a translated guest.
struct Rig {
    machine: Arc<Machine>,
    granter: DomId,
    vcpu: Vcpu,
    mapper: Caller,
}

fn op<T: IntoBytes + FromBytes + Immutable>(c: &Caller, cmd: u32, ops: &mut [T]) -> Result<(), String> {
    let count = u32::try_from(ops.len()).map_err(|_| "too many".to_owned())?;
    let done = c.grant_table_op(cmd, ops.as_mut_bytes(), count);
    done.map(drop).map_err(|e| format!("operation {cmd}: {e}"))
}

fn okay(statuses: impl IntoIterator<Item = i16>) -> Result<(), String> {
    match statuses.into_iter().find(|s| *s != GNTST_okay) {
        None => Ok(()),
        Some(s) => Err(format!("status {s}")),
    }
}

/// A batch of the pages, whose turn comes whatever the size of a batch: both sides of a ratio use all of them.
fn turn(first: usize, batch: usize) -> impl Iterator<Item = usize> {
    (first..first + batch).map(|i| i % PAGES)
}

/// Seconds of work that may fail.
fn timed(work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let mut done = Ok(());
    let took = seconds(|| done = work());
    done.map(|()| took)
}

impl Rig {
    fn new(mapper_is_guest: bool) -> Result<Self, String> {
        let config = Config { frames: 4096, max_maptrack_frames: 4096, ..Config::default() };
        let machine = Machine::new(config).map_err(|e| e.to_string())?;
        let guest = || -> Result<DomId, String> {
            let id = machine.create_domain(&DomainConfig::default()).map_err(|e| e.to_string())?;
            machine.populate(id, Gfn(0), RAM).map_err(|e| e.to_string())?;
            Ok(id)
        };
        let granter = guest()?;
        let mapper = if mapper_is_guest { guest()? } else { DomId(0) };
        let vcpu = machine.vcpu(granter, VcpuId(0)).map_err(|e| e.to_string())?;
        for idx in 0..32 {
            let (domid, space) = (DomId::SELF.0, XENMAPSPACE_grant_table);
            let mut put = xen_add_to_physmap { domid, space, idx, gpfn: TABLE + idx, ..Default::default() };
            vcpu.memory_op(XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).map_err(|e| e.to_string())?;
        }
        let mapper = machine.caller(mapper).map_err(|e| e.to_string())?;
        Ok(Self { machine, granter, vcpu, mapper })
    }

    /// The granter writes an entry.
    fn entry(&self, reference: u32, flags: u16, gfn: u32) -> Result<(), String> {
        let at = TABLE * PAGE_SIZE as u64 + u64::from(reference) * 8;
        let head = u32::from(self.mapper.domid().0) << 16 | u32::from(flags);
        let done = self.vcpu.ram_write(at + 4, &gfn.to_le_bytes());
        done.and_then(|()| self.vcpu.ram_write(at, &head.to_le_bytes())).map_err(|e| e.to_string())
    }

    fn map_op(&self, reference: u32, host_addr: u64) -> gnttab_map_grant_ref {
        gnttab_map_grant_ref {
            host_addr,
            flags: GNTMAP_host_map,
            r#ref: reference,
            dom: self.granter.0,
            ..Default::default()
        }
    }

    /// Seconds for [`OPS`] mappings and unmappings in batches, at places of a range.
    fn map_unmap(&self, room: &Mapping, batch: usize) -> Result<f64, String> {
        let at = |i: usize| (room.base().as_ptr().addr() + i * PAGE_SIZE) as u64;
        let map = |i: usize| self.map_op(FIRST + u32::try_from(i).unwrap_or(0), at(i));
        let unmap = |m: &gnttab_map_grant_ref| gnttab_unmap_grant_ref {
            host_addr: m.host_addr,
            handle: m.handle,
            ..Default::default()
        };
        timed(|| {
            for first in (0..OPS).step_by(batch) {
                let mut maps: Vec<_> = turn(first, batch).map(map).collect();
                op(&self.mapper, GNTTABOP_map_grant_ref, &mut maps)?;
                let mut unmaps: Vec<_> = maps.iter().map(unmap).collect();
                op(&self.mapper, GNTTABOP_unmap_grant_ref, &mut unmaps)?;
                okay(maps.iter().map(|m| m.status).chain(unmaps.iter().map(|m| m.status)))?;
            }
            Ok(())
        })
    }

    /// Seconds for as many mappings of the same pages as a device model has them.
    fn foreign(&self) -> Result<f64, String> {
        timed(|| {
            for i in 0..OPS as u64 {
                // Read-only, since only such a page has a mapping of its own.
                let mapped = self.mapper.map_foreign(self.granter, &[Gfn(i % PAGES as u64)], Prot::Read);
                mapped.map(drop).map_err(|e| e.to_string())?;
            }
            Ok(())
        })
    }

    /// Seconds for [`OPS`] copies of whole pages in batches.
    fn copies(&self, own: Gfn, batch: usize) -> Result<f64, String> {
        let copy = |i: usize| gnttab_copy {
            source: gnttab_copy_ptr {
                u: u64::from(FIRST) + i as u64,
                domid: self.granter.0,
                ..Default::default()
            },
            dest: gnttab_copy_ptr { u: own.0, domid: DomId::SELF.0, ..Default::default() },
            len: 4096,
            flags: GNTCOPY_source_gref,
            ..Default::default()
        };
        timed(|| {
            for first in (0..OPS).step_by(batch) {
                let mut ops: Vec<_> = turn(first, batch).map(copy).collect();
                op(&self.mapper, GNTTABOP_copy, &mut ops)?;
                okay(ops.iter().map(|c| c.status))?;
            }
            Ok(())
        })
    }

    /// Maps so many others, at guest physical addresses far up.
    fn others(&self, count: u32) -> Result<(), String> {
        for first in (0..count).step_by(512) {
            let these = first..(first + 512).min(count);
            for r in these.clone().step_by(128) {
                self.entry(FIRST + 32 + r / PER_REF, GTF_permit_access, 1)?;
            }
            let place = |i: u32| (200_000 + u64::from(i)) * PAGE_SIZE as u64;
            let mut maps: Vec<_> = these.map(|i| self.map_op(FIRST + 32 + i / PER_REF, place(i))).collect();
            op(&self.mapper, GNTTABOP_map_grant_ref, &mut maps)?;
            okay(maps.iter().map(|m| m.status))?;
        }
        Ok(())
    }

    /// Seconds for revocations of two mappings each; what makes and ends them is not counted.
    fn revocations(&self) -> Result<f64, String> {
        let mut took = 0.0;
        for _ in 0..REVOCATIONS {
            self.entry(FIRST, GTF_permit_access | GTF_revokable, 2)?;
            let one = |i: u64| gnttab_map_revokable {
                map: self.map_op(FIRST, (150_000 + i) * PAGE_SIZE as u64),
                lgfn: 3 + i,
            };
            let mut maps = [one(0), one(1)];
            op(&self.mapper, GNTTABOP_map_revokable, &mut maps)?;
            okay(maps.iter().map(|m| m.map.status))?;
            self.entry(FIRST, GTF_revokable | GTF_reading | GTF_writing, 2)?;
            let mut revoke = gnttab_revoke { r#ref: FIRST };
            let mut done = Ok(0);
            took += seconds(|| done = self.vcpu.grant_table_op(GNTTABOP_revoke, revoke.as_mut_bytes(), 1));
            done.map_err(|e| e.to_string())?;
            let unmap = |m: &gnttab_map_revokable| gnttab_unmap_grant_ref {
                host_addr: m.map.host_addr,
                handle: m.map.handle,
                ..Default::default()
            };
            let mut unmaps = maps.each_ref().map(unmap);
            op(&self.mapper, GNTTABOP_unmap_grant_ref, &mut unmaps)?;
            okay(unmaps.iter().map(|m| m.status))?;
        }
        Ok(took)
    }
}

/// Runs both sides; the first error of either ends it.
fn compare(
    mut ours: impl FnMut() -> Result<f64, String>,
    mut peer: impl FnMut() -> Result<f64, String>,
) -> Result<(f64, f64, f64), String> {
    // Tried once, so that what fails says so, and is not measured.
    ours()?;
    peer()?;
    Ok(interleave(ROUNDS, || ours().unwrap_or(f64::NAN), || peer().unwrap_or(f64::NAN)))
}

/// Nanoseconds of one operation of a round.
fn each(seconds: f64, ops: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let ops = ops as f64;
    seconds / ops * 1e9
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    let rig = Rig::new(false)?;
    for i in 0..512 {
        rig.entry(FIRST + i, GTF_permit_access, i)?;
    }
    let room = rig.mapper.reserve(PAGES).map_err(|e| e.to_string())?;
    let (ratio, ours, peer) = compare(|| rig.map_unmap(&room, 1), || rig.foreign())?;
    figures.push(Figure {
        name: "grant-map",
        ratio,
        target: Target::AtMost(2.0),
        detail: format!(
            "map and unmap by grant {:.0} ns, as a device model maps {:.0} ns",
            each(ours, OPS),
            each(peer, OPS)
        ),
    });
    let kept = rig.mapper.allocate(1).map_err(|e| e.to_string())?;
    let to = *kept.1.first().ok_or("no frame")?;
    for (name, batch) in [("grant-map-32", 32), ("grant-map-512", 512)] {
        let (ratio, ours, peer) = compare(|| rig.map_unmap(&room, batch), || rig.map_unmap(&room, 1))?;
        let detail = format!(
            "{:.0} a second in batches of {batch}, {:.0} one by one",
            1e9 / each(ours, OPS),
            1e9 / each(peer, OPS)
        );
        figures.push(Figure { name, ratio, target: Target::AtMost(1.1), detail });
    }
    let mut pages = (vec![1u8; PAGE_SIZE * PAGES], vec![0u8; PAGE_SIZE]);
    let memcpy = || {
        let (from, to) = (&pages.0, &mut pages.1);
        Ok(seconds(|| {
            for i in 0..OPS {
                let at = i % PAGES * PAGE_SIZE;
                to.copy_from_slice(&from[at..at + PAGE_SIZE]);
                std::hint::black_box(&mut *to);
            }
        }))
    };
    let (ratio, ours, peer) = compare(|| rig.copies(to, 1), memcpy)?;
    let detail = format!("a page by grant {:.0} ns, by memcpy {:.0} ns", each(ours, OPS), each(peer, OPS));
    figures.push(Figure { name: "grant-copy", ratio, target: Target::AtMost(20.0), detail });
    for (name, batch) in [("grant-copy-32", 32), ("grant-copy-512", 512)] {
        let (ratio, ours, peer) = compare(|| rig.copies(to, batch), || rig.copies(to, 1))?;
        let detail = format!(
            "{:.0} pages a second in batches of {batch}, {:.0} one by one",
            1e9 / each(ours, OPS),
            1e9 / each(peer, OPS)
        );
        figures.push(Figure { name, ratio, target: Target::AtMost(1.1), detail });
    }
    drop((room, kept));
    figures.push(revoke()?);
    Ok(figures)
}

fn revoke() -> Result<Figure, String> {
    let (few, many) = (Rig::new(true)?, Rig::new(true)?);
    few.others(FEW)?;
    many.others(MANY)?;
    let (ratio, ours, peer) = compare(|| many.revocations(), || few.revocations())?;
    let detail = format!(
        "two mappings taken back among {MANY} others {:.0} ns, among {FEW} {:.0} ns",
        each(ours, REVOCATIONS),
        each(peer, REVOCATIONS)
    );
    for rig in [few, many] {
        if rig.machine.violation_count() > 0 {
            return Err("the oracle has seen something".into());
        }
    }
    Ok(Figure { name: "grant-revoke", ratio, target: Target::AtMost(1.3), detail })
}
