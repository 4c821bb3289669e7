//! What a client row runs on: a client of its own in soft mode, the guest attached to it, a GPU, the toolstack's calls;
//! and the books.
//!
//! A row notes what it sees as [`Fact`]s. When it is over, all that it holds is released, the guest gets back what it
//! gave, and then the host must have as many free frames, and the guest be charged for as many, as before.
#![expect(unsafe_code, reason = "atomics in pages that the guest and the GPU write")]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pviommu::{Client, Config, Draining, Guest, Mapped, Ports, Released};
use xen_ioreq::abi::memory::{
    XENMEM_current_reservation, XENMEM_decrease_reservation, XENMEM_maximum_reservation,
    XENMEM_populate_physmap,
};
use xen_ioreq::seam::{ForeignMap, IommuOp, Prot};
use xen_ioreq::{Errno, Gfn, IoServerId, PAGE_SIZE};

use super::AREA;
use super::gpu::Gpu;
use crate::Row;
use crate::bench::Bench;
use crate::ioreq::Stage;
use crate::story::{Fact, Failed, Story};

/// First of the guest's frames that client rows balloon and overwrite: behind the kernel of tests/guest, and within the
/// 16 MiB that its guest has on real Xen.
const RAM: Gfn = Gfn(0x400);
/// How many: more than one foreign mapping of the client takes.
pub(super) const RAM_FRAMES: u64 = 640;
/// Frames that a guest for client rows must have from 0 on.
pub(in super::super) const GUEST_FRAMES: u64 = RAM.0 + RAM_FRAMES;
/// Frame numbers that no guest of ours has RAM at, to be populated and given back.
const EXTRA: Gfn = Gfn(0x8000);
/// Whoever the client attaches for: the soft IOMMU tells nobody.
const SERVER: IoServerId = IoServerId(0);

/// The n-th frame that rows may use.
pub(super) fn ram(n: u64) -> Gfn {
    Gfn(RAM.0 + n)
}

/// The first n of them.
pub(super) fn rams(n: u64) -> Vec<Gfn> {
    (0..n).map(ram).collect()
}

/// Runs a row.
pub(super) fn run(row: &Story<Lab>, bench: &Rc<Bench>) -> Row {
    let (facts, ended) = match Lab::new(bench) {
        Ok(mut lab) => {
            let ended = (row.tell)(&mut lab);
            let facts = lab.take_facts();
            // Closed whatever came of the row; of two errors the first is the one to show.
            (facts, ended.and(lab.close()))
        }
        Err(e) => (Vec::new(), Err(e)),
    };
    row.judge(AREA, &facts, ended.err())
}

/// See the head of the module.
pub(super) struct Lab {
    pub(super) stage: Stage,
    pub(super) client: Client,
    pub(super) guest: Guest,
    pub(super) gpu: Gpu,
    books: Books,
    facts: Vec<Fact>,
    /// Frame numbers without a frame.
    out: Vec<Gfn>,
    /// Frames that the guest has and cannot reach: what was populated over.
    lost: u64,
}

/// Free frames of the host and those charged to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Books {
    free: u64,
    charged: u64,
}

impl Books {
    fn read(stage: &Stage) -> Result<Self, Errno> {
        let charged = stage.ask(XENMEM_current_reservation, stage.guest())?;
        Ok(Self { free: stage.bench.free_frames()?, charged })
    }
}

impl Lab {
    pub(super) fn new(bench: &Rc<Bench>) -> Result<Self, Failed> {
        let stage = Stage::new(bench);
        let client = Client::start(ports(bench), Config::default())?;
        let guest = client.attach(bench.guest, SERVER)?;
        let gpu = Gpu::new(&client)?;
        let books = Books::read(&stage)?;
        Ok(Self { stage, client, guest, gpu, books, facts: Vec::new(), out: Vec::new(), lost: 0 })
    }

    /// The client's ways to the hypervisor.
    pub(super) fn ports(&self) -> Ports {
        ports(&self.stage.bench)
    }

    /// Notes the host's free frames.
    pub(super) fn frames(&mut self, after: &'static str) -> Result<(), Failed> {
        let now = self.stage.bench.free_frames()?;
        self.frames_then(after, now);
        Ok(())
    }

    /// Notes the host's free frames as they were at some moment.
    pub(super) fn frames_then(&mut self, after: &'static str, free: u64) {
        self.facts.push(Fact::Frames(after, free.cast_signed() - self.books.free.cast_signed()));
    }

    /// Notes a number.
    pub(super) fn is(&mut self, what: &'static str, n: impl Into<u64>) {
        self.facts.push(Fact::Is(what, n.into()));
    }

    /// Notes how many.
    pub(super) fn count(&mut self, what: &'static str, n: usize) {
        self.facts.push(Fact::Is(what, n as u64));
    }

    /// What was noted so far.
    pub(super) fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// Maps frames, all of which are there.
    pub(super) fn map(&self, gfns: &[Gfn]) -> Result<Vec<Mapped>, Failed> {
        Ok(self.guest.map(gfns).into_iter().collect::<Result<_, _>>()?)
    }

    /// Maps frames and puts them into the GPU's table from place 0 on.
    pub(super) fn show(&self, gfns: &[Gfn]) -> Result<Vec<Mapped>, Failed> {
        let mapped = self.map(gfns)?;
        for (n, m) in (0..).zip(&mapped) {
            self.gpu.point(n, Some(m.bfn()));
        }
        Ok(mapped)
    }

    /// As [`show`](Self::show), each frame mapped by itself: on stock Xen one that was mapped with others is not free before they
    /// are all let go, or a notice comes.
    pub(super) fn show_each(&self, gfns: &[Gfn]) -> Result<Vec<Mapped>, Failed> {
        let mut all = Vec::new();
        for (n, gfn) in (0..).zip(gfns) {
            let m = self.guest.map_one(*gfn)?;
            self.gpu.point(n, Some(m.bfn()));
            all.push(m);
        }
        Ok(all)
    }

    /// The toolstack takes frames from the guest.
    pub(super) fn decrease(&mut self, gfns: &[Gfn]) -> Result<(), Failed> {
        self.reserve(XENMEM_decrease_reservation, gfns)?;
        self.out.extend(gfns);
        Ok(())
    }

    /// The toolstack puts frames behind numbers that have none.
    pub(super) fn populate(&mut self, gfns: &[Gfn]) -> Result<(), Failed> {
        self.reserve(XENMEM_populate_physmap, gfns)?;
        self.out.retain(|g| !gfns.contains(g));
        Ok(())
    }

    /// The toolstack puts a frame behind a number that has one, which the guest keeps without being able to reach it.
    pub(super) fn populate_over(&mut self, gfn: Gfn) -> Result<(), Failed> {
        self.reserve(XENMEM_populate_physmap, &[gfn])?;
        self.lost += 1;
        Ok(())
    }

    /// How many of these numbers the toolstack can put frames behind; they are expected back.
    pub(super) fn try_populate(&mut self, gfns: &[Gfn]) -> Result<usize, Failed> {
        let done = usize::try_from(self.stage.reserve(XENMEM_populate_physmap, self.stage.guest(), gfns)?)?;
        let (put, _) = gfns.split_at_checked(done).ok_or("more extents done than asked for")?;
        self.out.retain(|g| !put.contains(g));
        Ok(done)
    }

    /// As many more frames as the guest may have, put behind numbers beyond its RAM.
    pub(super) fn fill_up(&mut self) -> Result<Vec<Gfn>, Failed> {
        let guest = self.stage.guest();
        let most = self.stage.ask(XENMEM_maximum_reservation, guest)?;
        let has = self.stage.ask(XENMEM_current_reservation, guest)?;
        let extra: Vec<Gfn> = (0..most.saturating_sub(has)).map(|n| Gfn(EXTRA.0 + n)).collect();
        if !extra.is_empty() {
            self.reserve(XENMEM_populate_physmap, &extra)?;
        }
        Ok(extra)
    }

    /// Takes back what [`fill_up`](Self::fill_up) gave.
    pub(super) fn empty(&mut self, extra: &[Gfn]) -> Result<(), Failed> {
        if extra.is_empty() { Ok(()) } else { self.reserve(XENMEM_decrease_reservation, extra) }
    }

    fn reserve(&self, cmd: u32, gfns: &[Gfn]) -> Result<(), Failed> {
        let done = self.stage.reserve(cmd, self.stage.guest(), gfns)?;
        if done == gfns.len() as u64 {
            Ok(())
        } else {
            Err(format!("{done} of {} extents done by memory_op {cmd}", gfns.len()).into())
        }
    }

    /// What the guest has in dword `index` of a frame, through a mapping made for this and given back at once.
    pub(super) fn read(&self, gfn: Gfn, index: usize) -> Result<u32, Failed> {
        self.dword(gfn, index, |d| u32::from_le(d.load(Ordering::Acquire)))
    }

    /// Writes there.
    pub(super) fn write(&self, gfn: Gfn, index: usize, value: u32) -> Result<(), Failed> {
        self.dword(gfn, index, |d| d.store(value.to_le(), Ordering::Release))
    }

    fn dword<R>(&self, gfn: Gfn, index: usize, f: impl FnOnce(&AtomicU32) -> R) -> Result<R, Failed> {
        let pages = self.stage.bench.hypervisor.map_foreign(self.stage.guest(), &[gfn], Prot::ReadWrite)?;
        if let Some(e) = pages.error(0) {
            return Err(format!("gfn {gfn}: {e}").into());
        }
        let page = pages.mapping.page(0).filter(|_| index < PAGE_SIZE / 4).ok_or("beyond the page")?;
        // SAFETY: a mapped page of 4096 aligned bytes; the mapping outlives the call, the index is within the page.
        Ok(f(unsafe { AtomicU32::from_ptr(page.as_ptr().cast::<u32>().add(index)) }))
    }

    /// Flushes the GPU and releases; nothing of it may be held.
    pub(super) fn try_release(
        &self,
        draining: impl IntoIterator<Item = Draining>,
    ) -> Result<Released, Failed> {
        let (quiesced, held) = self.client.quiesce(draining, &self.gpu);
        if let Some(d) = held.first() {
            return Err(format!("{} of what drains is held, {} first", held.len(), d.gfn()).into());
        }
        Ok(self.client.release(quiesced))
    }

    /// The same of what can be released; gives the numbers of mappings and of replaced pages that are gone.
    pub(super) fn release(
        &self,
        draining: impl IntoIterator<Item = Draining>,
    ) -> Result<(usize, usize), Failed> {
        let Released { mappings, pages, failed, .. } = self.try_release(draining)?;
        match failed.first() {
            Some((_, e)) => Err((*e).into()),
            None => Ok((mappings, pages)),
        }
    }

    /// Gives references back and releases what that ends.
    pub(super) fn let_go(&self, mapped: impl IntoIterator<Item = Mapped>) -> Result<(usize, usize), Failed> {
        self.release(mapped.into_iter().filter_map(Mapped::put))
    }

    /// Frames of the guest that it cannot reach any more, since it has populated over them.
    pub(super) fn lose(&mut self, frames: u64) {
        self.lost += frames;
    }

    /// Reads the books anew: from here on is counted.
    pub(super) fn start_over(&mut self) -> Result<(), Failed> {
        self.books = Books::read(&self.stage)?;
        self.lost = 0;
        Ok(())
    }

    /// The same of the host's free frames alone, where the guest has no account any more.
    pub(super) fn start_over_without_guest(&mut self) -> Result<(), Failed> {
        self.books.free = self.stage.bench.free_frames()?;
        Ok(())
    }

    /// Releases everything, gives the guest its frames back and compares the books with those at the start.
    pub(super) fn settle(&mut self) -> Result<(), Failed> {
        self.release(self.guest.die())?;
        if !self.guest.is_empty() {
            return Err("at the end: mappings are left that nobody can release".into());
        }
        let out = std::mem::take(&mut self.out);
        if !out.is_empty() {
            self.reserve(XENMEM_populate_physmap, &out)?;
        }
        let now = Books::read(&self.stage)?;
        let want = Books { free: self.books.free - self.lost, charged: self.books.charged + self.lost };
        if now == want { Ok(()) } else { Err(format!("at the end: {now:?}, wanted {want:?}").into()) }
    }

    /// Stops the GPU and asks the model's auditor, where there is one.
    pub(super) fn end(self) -> Result<(), Failed> {
        let Self { stage, client, gpu, .. } = self;
        gpu.end(&client)?;
        match stage.bench.machine().map(|m| (m.violation_count(), m.audit())) {
            None => Ok(()),
            Some((0, wrong)) if wrong.is_empty() => Ok(()),
            Some((violations, wrong)) => {
                Err(format!("the model: {violations} violations; {}", wrong.join("; ")).into())
            }
        }
    }

    fn close(mut self) -> Result<(), Failed> {
        self.settle()?;
        self.end()
    }
}

fn ports(bench: &Bench) -> Ports {
    let (iommu, foreign): (Arc<dyn IommuOp>, Arc<dyn ForeignMap>) =
        (bench.hypervisor.clone(), bench.hypervisor.clone());
    Ports { iommu: Some(iommu), foreign: Some(foreign) }
}
