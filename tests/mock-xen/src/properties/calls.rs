//! `iommu_op`: what is sent, and whether what comes back is right.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{DomId, Errno};

use super::book::Why;
use super::step::{At, End, Op, To, WINDOW};
use super::world::{UNKNOWN, World};
use super::{agree, disagree};
use crate::testing::DOM0;
use crate::{Fault, FaultPlan, Iommu, Killed, Moment, Profile, Site, When};

impl World {
    /// A domain that an emulator names.
    pub(super) fn whose(&self, who: usize, whose: u8) -> DomId {
        match whose {
            0 => self.actors[who].guest,
            1 => self.guests[0],
            2 => self.guests[1],
            3 => DomId::SELF,
            4 => DOM0,
            5 => self.actors[3].by,
            6 => DomId(0x6000),
            _ => self.dead,
        }
    }

    /// A server that an emulator names.
    fn server(&self, who: usize, server: u8) -> u16 {
        match server {
            0..4 => self.actors[who].id().unwrap_or(9),
            4..6 => self.actors[(who + 1) % self.actors.len()].id().unwrap_or(9),
            6 => self.actors[(who + 2) % self.actors.len()].id().unwrap_or(9),
            _ => 7,
        }
    }

    pub(super) fn bfn(&self, by: DomId, at: &At) -> u64 {
        match at {
            At::Window(n) => WINDOW.0 + n,
            At::Known(n) => {
                let all = self.bfns(by);
                // The window is part of it: what lies beyond is as likely.
                all.iter().copied().nth(usize::from(*n) % all.len()).unwrap()
            }
            At::Same { guest, gfn } => {
                let page = self.book.p2m.get(&(self.guests[usize::from(*guest)], *gfn));
                page.map_or(WINDOW.0, |p| self.book.pages[p].1 + self.book.domains[&by].offset)
            }
            At::Reserved(n) => 0x700 + n,
            At::Beyond => 1 << 33,
        }
    }

    fn resolve(&self, who: usize, op: &Op, alone: bool) -> pv_iommu_op {
        let by = self.actors[who].by;
        let foreign = |subop, to: &To, flags, bfn| pv_iommu_op {
            bfn,
            gfn: to.gfn,
            domid: self.whose(who, to.whose).0,
            ioserver: self.server(who, to.server),
            ..pv_iommu_op::new(subop, flags)
        };
        let op = match op {
            Op::Map { at, to, flags } => foreign(IOMMUOP_map_foreign_page, to, *flags, self.bfn(by, at)),
            Op::Lookup { to, flags } => foreign(IOMMUOP_lookup_foreign_page, to, *flags, 0xdead),
            Op::Unmap { at, server, flags } => {
                let bfn = self.bfn(by, at);
                let entry = |h: (u64, Why)| match h.1 {
                    Why::Map(_, _, s, _) => s,
                    Why::Swapped(.., s) => Some(s),
                    _ => None,
                };
                let its = self.book.at(by, bfn).find_map(entry).filter(|_| *server == 0);
                let mut op = pv_iommu_op { bfn, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, *flags) };
                op.set_unmap_ioserver(its.unwrap_or_else(|| self.server(who, *server)));
                op
            }
            Op::MapPage { at, own, flags } => {
                let mine: Vec<u64> = self.book.p2m.keys().filter(|k| k.0 == by).map(|k| k.1).collect();
                let gfn = mine.get(usize::from(*own) % (mine.len() + 1)).copied();
                let gfn = gfn.unwrap_or_else(|| self.mfn(self.guests[0], 0).min(UNKNOWN));
                pv_iommu_op { bfn: self.bfn(by, at), gfn, ..pv_iommu_op::new(IOMMUOP_map_page, *flags) }
            }
            Op::UnmapPage { at, flags } => {
                pv_iommu_op { bfn: self.bfn(by, at), ..pv_iommu_op::new(IOMMUOP_unmap_page, *flags) }
            }
            Op::Caps { flags } => pv_iommu_op { bfn: 0xdead, ..pv_iommu_op::new(IOMMUOP_query_caps, *flags) },
            Op::Unknown { subop, flags } => pv_iommu_op::new(*subop, *flags),
        };
        if self.book.config.profile == Profile::Xs { self.harmless(by, op, alone) } else { op }
    }

    /// What a shipped hypervisor survives: anything else is made a lookup. Whether an operation is such a one cannot be told
    /// from what others of its call will have done.
    fn harmless(&self, by: DomId, op: pv_iommu_op, alone: bool) -> pv_iommu_op {
        let held = |page: &u64| self.book.why(*page).any(|w| w == Why::Lookup);
        let controls = self.book.domains[&by].controls;
        let no_reference = IOMMU_MAP_OP_no_ref_cnt;
        match op.subop_id {
            IOMMUOP_map_foreign_page => {
                let page = self.book.p2m.get(&(DomId(op.domid), op.gfn));
                let fine = !controls || (alone && page.is_none_or(held));
                if fine { op } else { pv_iommu_op { subop_id: IOMMUOP_lookup_foreign_page, ..op } }
            }
            IOMMUOP_unmap_foreign_page if !controls => {
                pv_iommu_op { bfn: op.bfn % self.book.config.frames as u64, ..op }
            }
            IOMMUOP_map_page => pv_iommu_op { flags: op.flags & !no_reference | IOMMUOP_readable, ..op },
            IOMMUOP_unmap_page if !alone => pv_iommu_op { subop_id: IOMMUOP_query_caps, ..op },
            // A hole in the 1:1 map, with no reference to drop; else what map_page had taken one for.
            IOMMUOP_unmap_page if self.book.bare.contains_key(&(by, op.bfn)) => {
                pv_iommu_op { flags: op.flags | no_reference, ..op }
            }
            _ => op,
        }
    }

    pub(super) fn iommu(&mut self, who: usize, ops: &[Op], end: End) {
        let ops: Vec<_> = ops.iter().map(|op| self.resolve(who, op, ops.len() == 1)).collect();
        self.calls(who, &ops, end);
    }

    pub(super) fn calls(&mut self, who: usize, ops: &[pv_iommu_op], end: End) {
        let by = self.actors[who].by;
        let plan = match end {
            End::Plain => FaultPlan::default(),
            End::Late => FaultPlan::one(Site::IotlbFlush, When::Nth(1), Fault::Error(Errno::EIO)),
            End::Fails(i) => FaultPlan::one(Site::IommuOp(None), When::Nth(i + 1), Fault::Error(Errno::EIO)),
            End::Killed(i) => FaultPlan::one(Site::IommuCall, When::Nth(1), Fault::Kill(Moment::Within(i))),
        };
        let mut got = ops.to_vec();
        let flushes = (self.machine.iotlb_flushes(), self.book.flushes);
        self.machine.inject(plan);
        if let Some(mutant) = self.mutant {
            got.iter_mut().for_each(|op| *op = mutant.sends(op));
        }
        let call = || self.actors[who].caller.iommu_op(&mut got);
        let rc = catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
            if !payload.is::<Killed>() {
                resume_unwind(payload)
            }
        });
        if let Some(mutant) = self.mutant {
            for (got, op) in got.iter_mut().zip(ops).filter(|(_, op)| mutant.sends(op) != **op) {
                *got = pv_iommu_op { status: got.status, ..*op };
            }
        }
        self.machine.inject(FaultPlan::default());
        let offered = match self.book.config.profile {
            Profile::Draft => true,
            Profile::Xs => by == DOM0,
            Profile::Stock => false,
        };
        let expected = if offered { self.follow(by, ops, &got, end) } else { Err(Errno::ENOSYS) };
        if !offered {
            agree("operations that are not offered", &got[..], ops);
        }
        let killed = matches!(end, End::Killed(_));
        agree("the call", &rc, &if killed { Err(()) } else { Ok(expected) });
        let flushes = (self.machine.iotlb_flushes() - flushes.0, self.book.flushes - flushes.1);
        agree("flushes of the IOTLB", &flushes.0, &flushes.1);
        if killed {
            self.book.settle();
            self.replace(who);
        }
    }

    /// The operations of a call by the naive model; tells what the call answers.
    fn follow(&mut self, by: DomId, ops: &[pv_iommu_op], got: &[pv_iommu_op], end: End) -> Result<(), Errno> {
        let late = matches!(end, End::Late);
        for (i, (op, got_op)) in ops.iter().zip(got).enumerate() {
            if matches!(end, End::Killed(n) if i as u64 == n) {
                agree("operations after the end", &got[i..], &ops[i..]);
                break;
            }
            if i > 0 && i % self.book.config.preempt_after == 0 && !self.book.flush(by, late) {
                agree("operations after a late flush", &got[i..], &ops[i..]);
                return Err(Errno::EIO);
            }
            if matches!(end, End::Fails(n) if i as u64 == n) {
                let failed = pv_iommu_op { status: Errno::EIO.status(), ..*op };
                agree("an operation that fails", got_op, &failed);
                continue;
            }
            self.judge(by, op, got_op);
            self.book.settle();
        }
        let done = self.book.flush(by, late);
        if done { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Whether an answer is right. What was done is a fact from then on.
    fn judge(&mut self, by: DomId, op: &pv_iommu_op, got: &pv_iommu_op) {
        if let Some(mutant) = self.mutant {
            mutant.before_op(&mut self.book, by, op, got);
        }
        let config = &self.book.config;
        let xs = config.profile == Profile::Xs;
        let n = if xs { 1 } else { 1 << op.order().min(8) };
        let order = if xs { op.flags & IOMMU_page_order_mask_xs != 0 } else { n > 1 << config.max_order };
        let mut out = pv_iommu_op { status: got.status, ..*op };
        let against = match op.subop_id {
            IOMMUOP_query_caps if !xs || !order => {
                let dom = self.book.domains[&by];
                let one_to_one = config.iommu == Iommu::OneToOne && by == DOM0;
                let all = if xs || one_to_one { IOMMU_QUERY_map_all_mfns } else { 0 };
                let order = if xs { 0 } else { u16::from(config.max_order) << IOMMU_page_order_shift };
                out.flags = if dom.controls { IOMMU_QUERY_map_cap | all | order } else { 0 };
                out.bfn = if dom.controls && xs { config.foreign_offset } else { op.bfn };
                vec![]
            }
            _ if xs && order => vec![Errno::ENOSPC],
            0 | 7.. => vec![if xs { Errno::ENODEV } else { Errno::ENOSYS }],
            _ if order => vec![Errno::ENOSPC],
            IOMMUOP_map_page | IOMMUOP_map_foreign_page => self.book.map(by, op, n),
            IOMMUOP_lookup_foreign_page => {
                out.bfn = if got.status == 0 { got.bfn } else { op.bfn };
                self.book.lookup(by, op, n, got)
            }
            _ => self.book.unmap(by, op, n),
        };
        *self.met.entry((op.subop_id.min(7), got.status)).or_default() += 1;
        let status = Errno::from_rc(got.status.into());
        if !status.map_or(against.is_empty(), |e| against.contains(&e)) || *got != out {
            disagree(format!(
                "{by}: {op:?}\n got {got:?}\n which is not {out:?}\n with a status of {against:?}"
            ));
        }
    }
}
