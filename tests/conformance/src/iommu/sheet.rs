//! The sheet of statuses: a state, one call, and what must hold after it, as data: run as rows, rendered as a document.

pub(super) mod draft;
pub(super) mod xs;

use std::fmt;

use mock_xen::Iommu;
use xen_ioreq::Errno;

use super::call::{Bus, By, Call, Page};
use super::world::{Profile, World};
use crate::Row;
use crate::bench::BenchError;
use crate::case::Unmade;

/// Something that makes a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A call that must succeed.
    Do(Call),
    /// The toolstack takes a frame from the guest.
    Balloon(Page),
    /// The toolstack gives the guest a frame.
    Populate(Page),
    /// The guest has Xen share its frame with it.
    ShareInfo,
    /// A frame is given another type (`HVMMEM_*`).
    Typed(Page, &'static str, u16),
    DestroyGuest,
    DestroyStub,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Done,
    /// The status.
    Status(Errno),
    /// The hypercall itself fails.
    Rc(Errno),
    /// The status, from the model; a real host of that kind does not survive the call.
    Panics(Result<(), Errno>),
}

/// What comes back in the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    /// bfn as it was given.
    Unchanged,
    Bfn(Bus),
    /// query_caps: flags, and the offset if it is written.
    Caps(u16, Option<u64>),
}

/// An entry of the M2B table.
pub(super) type Entry = (Bus, By, usize);

/// One line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) state: &'static [Step],
    pub(super) call: Call,
    pub(super) want: Want,
    pub(super) out: Out,
    /// The frame that is looked at.
    pub(super) on: Page,
    /// Its entries in the M2B table after the call.
    pub(super) m2b: &'static [Entry],
    /// Its references after the call, with the allocation's.
    pub(super) refs: u32,
    pub(super) source: &'static str,
}

/// Lines that share a machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sheet {
    pub(super) profile: Profile,
    pub(super) iommu: Iommu,
    /// What of the interface they are about, by the name that draft B's section has.
    pub(super) section: &'static str,
    pub(super) lines: &'static [Line],
}

/// Lines: `[steps] call => answer, m2b [entries], refs n; "source"`, with `out …` and `on …` where they are not the
/// usual.
macro_rules! lines {
    ($([$($step:expr),*] $call:expr => $want:expr $(, out $out:expr)? $(, on $on:expr)?, m2b [$($m2b:expr),*], refs $refs:expr; $source:literal)*) => {
        &[$($crate::iommu::sheet::Line {
            state: &[$($step),*],
            call: $call,
            want: $want,
            out: $crate::iommu::sheet::or!($($out)?; $crate::iommu::sheet::Out::Unchanged),
            on: $crate::iommu::sheet::or!($($on)?; $crate::iommu::call::G),
            m2b: &[$($m2b),*],
            refs: $refs,
            source: $source,
        }),*]
    };
}
macro_rules! or {
    (; $default:expr) => {
        $default
    };
    ($given:expr; $default:expr) => {
        $given
    };
}
pub(super) use {lines, or};

/// What was seen after the call.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    answer: Answer,
    out: (u64, u16),
    m2b: Vec<(u64, u16, u16)>,
    refs: u32,
    /// Whether the oracle says that a real host would have ended.
    panics: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Rc(Errno),
    Status(Result<(), Errno>),
}

impl Line {
    /// Runs it in a world of its own.
    pub(super) fn run(&self, sheet: &Sheet) -> Result<Row, BenchError> {
        let mut w = World::new(sheet.profile, sheet.iommu)?;
        let name = format!("{}: {self}", sheet.title());
        let judged = self.judge(&mut w);
        let (ok, detail) = match judged {
            Ok((seen, wanted)) if seen == wanted => (true, format!("{} [{}]", self.want, self.source)),
            Ok((seen, wanted)) => (false, format!("{seen:?}, wanted {wanted:?} [{}]", self.source)),
            Err(Unmade(e)) => (false, format!("the state could not be made: {e}")),
        };
        Ok(Row { name, ok, detail })
    }

    fn judge(&self, w: &mut World) -> Result<(Seen, Seen), Unmade> {
        // Which frame it is, before it may leave its place.
        if self.state.contains(&Step::ShareInfo) {
            w.share_info()?;
        }
        let on = w.mfn(self.on)?;
        for step in self.state {
            w.step(step)?;
        }
        let mut op = w.op_of(&self.call)?;
        let given = op;
        let rc = w.send(self.call.by, &mut op);
        let answer = match rc {
            Err(e) => Answer::Rc(e),
            Ok(()) => Answer::Status(Errno::from_rc(op.status.into()).map_or(Ok(()), Err)),
        };
        let info = w.machine.frame(on).ok_or(Errno::EFAULT)?;
        let mut m2b: Vec<_> = info.m2b.iter().map(|(bfn, by, s)| (bfn.0, by.0, s.0)).collect();
        m2b.sort_unstable();
        let seen = Seen {
            answer,
            out: (op.bfn, op.flags),
            m2b,
            refs: info.references,
            panics: w.machine.violation_count() > 0,
        };
        let mut m2b = Vec::new();
        for (bus, by, server) in self.m2b {
            m2b.push((w.bfn(*bus, on)?, w.domid(*by).0, w.server(*server)));
        }
        m2b.sort_unstable();
        let (answer, panics) = match self.want {
            Want::Done => (Answer::Status(Ok(())), false),
            Want::Status(e) => (Answer::Status(Err(e)), false),
            Want::Rc(e) => (Answer::Rc(e), false),
            Want::Panics(status) => (Answer::Status(status), true),
        };
        let out = match self.out {
            Out::Unchanged => (given.bfn, given.flags),
            Out::Bfn(bus) => (w.bfn(bus, on)?, given.flags),
            Out::Caps(flags, offset) => (offset.unwrap_or(given.bfn), flags),
        };
        Ok((seen, Seen { answer, out, m2b, refs: self.refs, panics }))
    }
}

impl Sheet {
    /// Profile and machine.
    pub(super) fn title(&self) -> String {
        format!("{}, {}", profile(self.profile), machine(self.iommu))
    }

    pub(super) fn rows(&self) -> Result<Vec<Row>, BenchError> {
        self.lines.iter().map(|line| line.run(self)).collect()
    }
}

/// The profile's name.
pub(super) fn profile(profile: Profile) -> &'static str {
    match profile {
        Profile::Draft => "draft",
        Profile::Xs => "xs",
        _ => "stock",
    }
}

/// The machine in words.
pub(super) fn machine(iommu: Iommu) -> &'static str {
    match iommu {
        Iommu::Absent => "no IOMMU",
        Iommu::On => "IOMMU on",
        Iommu::Passthrough => "dom0-passthrough",
        Iommu::OneToOne => "1:1 map",
        _ => "another machine",
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Do(call) => write!(f, "{call}"),
            Self::Balloon(page) => write!(f, "{page} ballooned out"),
            Self::Populate(page) => write!(f, "{page} populated"),
            Self::ShareInfo => f.write_str("shared_info in place"),
            Self::Typed(page, name, _) => write!(f, "{page} made {name}"),
            Self::DestroyGuest => f.write_str("the guest destroyed"),
            Self::DestroyStub => f.write_str("the stub domain destroyed"),
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("0"),
            Self::Status(e) => write!(f, "-{e}"),
            Self::Rc(e) => write!(f, "the call: -{e}"),
            Self::Panics(Ok(())) => f.write_str("the host panics (0)"),
            Self::Panics(Err(e)) => write!(f, "the host panics (-{e})"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call)?;
        for (i, step) in self.state.iter().enumerate() {
            write!(f, "{}{step}", if i == 0 { " after " } else { ", " })?;
        }
        Ok(())
    }
}
