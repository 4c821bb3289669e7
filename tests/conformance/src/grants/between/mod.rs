//! Grants between domains that each do their part: dom0, whose kernel grants and maps, and two guests that run errands.
//!
//! On the model dom0's kernel is the library's own granter and mapper, on Xen it is Linux by gntalloc and gntdev. The second guest
//! has the limits that Xen gives by default, the first one those of the area.

mod batches;
mod copies;
mod frames;
mod given;
mod hand;
mod handed;
mod ports;
mod second;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use guest::RamRange;
use guest::grants::Workspace;
use guest::model::ModelCpu;
use mock_xen::{Caller, Config, DomainConfig, Machine, Profile};
use stubdom::grants::{
    GrantError, Granted, Granter, LinuxGranter, LinuxMapper, Mapper, PlainMapping, TableGranter, TableMapper,
};
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, Errno, Gfn, GrantRef, VcpuId};
use zerocopy::IntoBytes;

use self::copies::{End, copy_of};
use self::hand::Hand;
use crate::Row;
use crate::bench::{Bench, BenchError};
use crate::case::{Answer, Case, Unmade};
use crate::ioreq::access::AccessError;
use crate::patience::Patience;

const DOM0: DomId = DomId(0);
const NOTHING: UnmapNotify = UnmapNotify { clear_byte: None, send_event: None };
/// RAM of the model's guests.
const RAM: RamRange = RamRange { first: Gfn(8), frames: 256 };
/// Between two looks whether dom0's kernel has ended a grant.
const MOMENT: Duration = Duration::from_millis(10);

/// What rows of several entries use.
const R: u32 = 9;
const S: u32 = 10;
const HOST: u32 = GNTMAP_host_map;
const RO: u32 = GNTMAP_host_map | GNTMAP_readonly;
const ACCESS: u16 = GTF_permit_access;

/// The tables, each with what it is about.
pub(super) const TABLES: &[(&str, &[Case<Between>])] = &[
    ("dom0 grants to a guest", given::ROWS),
    ("a guest with a table of version 2 grants to dom0", second::ROWS),
    ("grants handed on", handed::ROWS),
    ("what can be granted", frames::ROWS),
    ("many at once", batches::ROWS),
];

/// dom0's kernel, where it grants.
enum Kernel {
    Linux(LinuxGranter),
    Model(TableGranter<Caller>),
}

/// What rows run on.
pub(super) struct Between {
    bench: Rc<Bench>,
    kernel: Kernel,
    mapper: Box<dyn Mapper>,
    /// The first guest, with few handles, and the second.
    a: Hand,
    b: Hand,
}

/// A status as an answer: its number without the sign.
#[expect(clippy::unnecessary_wraps, reason = "it is an answer")]
fn st(status: i16) -> Answer {
    Ok(status.unsigned_abs().into())
}

/// The reference of the one page.
fn one(granted: &Granted) -> u32 {
    granted.refs().first().map_or(u32::MAX, |r| r.0)
}

impl Between {
    fn new(benches: &[Rc<Bench>; 2], kernel: Kernel, mapper: Box<dyn Mapper>) -> Result<Self, AccessError> {
        let [first, second] = benches;
        Ok(Self { bench: first.clone(), kernel, mapper, a: Hand::new(first)?, b: Hand::new(second)? })
    }

    /// A page of dom0's, granted.
    fn give(&self, to: DomId, prot: Prot) -> Result<Granted, Unmade> {
        let granter: &dyn Granter = match &self.kernel {
            Kernel::Linux(granter) => granter,
            Kernel::Model(granter) => granter,
        };
        granter.grant(to, 1, prot, NOTHING).map_err(|e| match e {
            GrantError::Grant { errno, .. } => Unmade(errno),
            _ => Unmade(Errno::ENODEV),
        })
    }

    /// A page of dom0's that begins with this byte.
    fn give_byte(&self, to: DomId, prot: Prot, byte: u8) -> Result<Granted, Unmade> {
        let granted = self.give(to, prot)?;
        granted.write(0, &[byte]).map_err(|_| Unmade(Errno::EFAULT))?;
        Ok(granted)
    }

    /// What the first guest is told when it maps a grant of dom0's, whose end is under way, once that has come.
    fn map_when_ended(&mut self, r: u32) -> Answer {
        let mut patience = Patience::new(());
        loop {
            if let Kernel::Model(granter) = &self.kernel {
                // Linux looks by itself, once a second.
                granter.retry();
            }
            let status = self.a.map(DOM0, r, RO, 99)?;
            if status != GNTST_okay || !patience.lasts(()) {
                return st(status);
            }
            for mapping in self.a.mappings() {
                self.a.unmap_many(&[mapping])?;
            }
            thread::sleep(MOMENT);
        }
    }

    /// Maps a grant of a guest's in dom0. Linux says EINVAL, whatever the status.
    fn map(&self, dom: DomId, r: u32, prot: Prot) -> Result<PlainMapping, Errno> {
        self.mapper.map(dom, &[GrantRef(r)], prot, NOTHING).map_err(|e| match e {
            GrantError::Refused { .. } => Errno::EINVAL,
            GrantError::Map { errno, .. } => errno,
            _ => Errno::ENODEV,
        })
    }

    /// What becomes of trying that.
    fn try_map(&self, dom: DomId, r: u32, prot: Prot) -> Answer {
        self.map(dom, r, prot).map(|_| 0)
    }

    /// A copy by dom0; the status.
    fn copy(&self, source: End, dest: End, len: u16) -> Answer {
        let mut arg = copy_of(source, dest, len);
        self.bench.hypervisor.grant_table_op(GNTTABOP_copy, arg.as_mut_bytes(), 1)?;
        st(arg.status)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        // Whoever has mapped something lets go first.
        self.a.let_go()?;
        self.b.let_go()?;
        self.a.withdraw_all()?;
        self.b.withdraw_all()
    }

    fn run(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (title, cases) in TABLES {
            for case in *cases {
                let mut row = case.run(title, self);
                if let Err(e) = self.reset() {
                    row.ok = false;
                    row.detail += &format!("; it could not be undone: {e}");
                }
                rows.push(row);
            }
        }
        rows
    }
}

/// A byte of a page of dom0's.
fn byte_of(granted: &Granted) -> Answer {
    let mut byte = [0];
    granted.read(0, &mut byte).map_err(|_| Errno::EFAULT)?;
    Ok(byte[0].into())
}

/// The same of a page that dom0 has mapped.
fn byte_there(mapped: &PlainMapping) -> Answer {
    let mut byte = [0];
    mapped.read(0, &mut byte).map_err(|_| Errno::EFAULT)?;
    Ok(byte[0].into())
}

fn failed(e: &dyn std::fmt::Display) -> Vec<Row> {
    vec![Row { name: "between domains".to_owned(), ok: false, detail: e.to_string() }]
}

/// Every row, on two guests of Xen that stand still, or on the model.
pub(super) fn rows(on_xen: Option<[DomId; 2]>) -> Result<Vec<Row>, BenchError> {
    match on_xen {
        Some([a, b]) => on_two(&[Rc::new(Bench::on_xen(a)?), Rc::new(Bench::on_xen(b)?)]),
        None => on_model(),
    }
}

fn on_two(benches: &[Rc<Bench>; 2]) -> Result<Vec<Row>, BenchError> {
    let open = LinuxGranter::open().and_then(|granter| Ok((granter, LinuxMapper::open()?)));
    let (granter, mapper) = match open {
        Ok(both) => both,
        Err(e) => return Ok(failed(&e)),
    };
    let rows = Between::new(benches, Kernel::Linux(granter), Box::new(mapper))
        .map_or_else(|e| failed(&e), |mut between| between.run());
    for bench in benches {
        bench.stand_still().map_err(|errno| BenchError::Call { what: "stopping a guest", errno })?;
    }
    Ok(rows)
}

/// Two guests on a model of released Xen, which interrupts every hypercall after a few structs.
fn on_model() -> Result<Vec<Row>, BenchError> {
    let call = |what| move |errno| BenchError::Call { what, errno };
    let config = Config { frames: 8192, profile: Profile::Stock, preempt_after: 3, ..Config::default() };
    let machine = Machine::new(config)?;
    let build = |max_grant_frames, max_maptrack_frames| -> Result<_, BenchError> {
        let frames = RAM.first.0 + RAM.frames;
        let max_pages = frames + 16;
        let config =
            DomainConfig { max_pages, max_grant_frames, max_maptrack_frames, ..DomainConfig::default() };
        let guest = machine.create_domain(&config)?;
        machine.populate(guest, Gfn(0), frames).map_err(call("a guest's memory"))?;
        let bench = Rc::new(Bench::on_model(&machine, guest)?);
        bench.pause().map_err(call("pausing a guest"))?;
        Ok(bench)
    };
    let benches = [build(Some(2), Some(1))?, build(None, None)?];
    let caller = Arc::new(machine.caller(DOM0).map_err(call("a handle for dom0"))?);
    let granter = TableGranter::new(caller.clone()).map_err(call("dom0's table"))?;
    let mapper = Box::new(TableMapper::new(caller));
    let stop = Arc::new(AtomicBool::new(false));
    let vcpu = |bench: &Rc<Bench>| machine.vcpu(bench.guest, VcpuId(0)).map_err(call("a vCPU"));
    let [first, second] = &benches;
    let vcpus = [vcpu(first)?, vcpu(second)?];
    Ok(thread::scope(|scope| {
        for vcpu in vcpus {
            let mut cpu = ModelCpu::new(vcpu, vec![RAM], stop.clone(), Box::new(|_| {}));
            // What fails shows as errands that nobody runs.
            scope.spawn(move || {
                let mut workspace = Workspace::NEW;
                guest::grants::serve(&mut cpu, &mut workspace, &mut |_| {})
            });
        }
        let mut rows = match Between::new(&benches, Kernel::Model(granter), mapper) {
            Ok(mut between) => between.run(),
            Err(e) => failed(&e),
        };
        stop.store(true, Ordering::Release);
        let wrong: Vec<_> = machine.audit().iter().map(ToString::to_string).collect();
        let ok = machine.violation_count() == 0 && wrong.is_empty();
        let detail = if ok { "everything adds up".to_owned() } else { wrong.join("; ") };
        rows.push(Row {
            name: "between domains: nobody reached what was not granted".to_owned(),
            ok,
            detail,
        });
        rows
    }))
}
