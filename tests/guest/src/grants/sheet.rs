//! The sheet of statuses: a state, one call, and what must hold after it, as data.
//!
//! Nothing here allocates or knows what answers: who has a page of entries and a way to make the hypercall can run a line.
#![expect(
    missing_docs,
    reason = "variants and fields have the names of the header's operations and arguments"
)]

use core::fmt;

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::{DomId, Errno};

/// A domain that a line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The one that grants.
    Granter,
    /// The one that calls, where a call does not say so itself.
    Mapper,
    /// Another one that is there.
    Other,
    /// DOMID_SELF.
    Itself,
    /// A number that no domain has.
    Nobody,
}

/// An address of the mapper's for a page: the first place that is made for it, the second and so on; one that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Zero,
    Place(u8),
    /// Where the mapper has this frame of its own.
    Ram(u64),
    Bad,
}

/// An address for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    Zero,
    /// As the mapping of this number was told.
    Told(usize),
    Bad,
}

/// One end of a copy: a reference of somebody's, or a frame of the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ref(Who, u32),
    Frame(Who, u64),
}

/// One call, or one thing that makes a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The granter writes an entry of version 1: reference, for whom, flags, frame.
    Grant(u32, Who, u16, u64),
    /// One of version 2, with its second word.
    GrantV2(u32, Who, u16, u32, u64),
    /// One of version 2 that hands on: reference, for whom, whose grant, its reference there.
    HandOn(u32, Who, Who, u32),
    /// The mapper writes one of version 1: it accepts or grants something itself.
    Back(u32, Who, u16, u64),
    /// The granter makes a page table of a frame of its own, as a PV domain does.
    Pin(u64),
    /// The mapper does.
    PinOwn(u64),
    /// The granter uses the frame for something else again.
    Unpin(u64),
    /// The granter withdraws an entry: its type goes, marks stay.
    Close(u32),
    /// The granter is destroyed.
    Die,
    Map(Who, u32, u32, At),
    /// So many of them in one hypercall, at places of their own; the last one counts.
    MapMany(u16, u32, u32),
    MapRevokable(u32, u32, At, u64),
    Unmap(usize, At, Bus),
    /// Of a handle that nobody has.
    UnmapNone,
    /// Of everything that the mapper has mapped, in one hypercall; the first that fails counts.
    UnmapAll,
    Replace(usize, At, At),
    ReplaceNone,
    Copy(End, u16, End, u16, u16),
    /// So many times the same, in one hypercall; the first that fails counts.
    CopyMany(u16, End, End, u16),
    /// By the granter, to the mapper.
    Transfer(u64, Who, u32),
    Revoke(u32),
    /// `count` of them.
    RevokeMany(u32),
    Setup(Who, u32),
    /// With a list that is too short.
    SetupShort,
    /// With a list where the mapper has nothing.
    SetupNowhere(u32),
    StatusFrames(Who, u32),
    StatusShort,
    Query(Who, u32),
    /// By the granter.
    SetVersion(u32),
    GetVersion(Who),
    /// By the granter.
    Swap(u32, u32),
    Dump,
    /// By the mapper: of the granter's frame, its own, one of Xen's or where there is no RAM; offset, length, `GNTTAB_CACHE_*`.
    Flush(Memory, u16, u16, u32),
    /// Of this number, with no argument and this count.
    Raw(u32, u32),
    /// No call: the mapper reads the first byte there.
    Look(At),
}

/// Whose frame a cache is flushed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Granters,
    /// As the address for devices of this mapping tells.
    Told(usize),
    Own,
    Xens,
    NoRam,
}

/// The answer: a status, or that of the hypercall itself, or what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Status(i16),
    Rc(Errno),
    Byte(u8),
}

/// Who is who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parties {
    /// Two PV domains, the mapper with a device behind an IOMMU.
    Pv,
    /// Two PV domains, the mapper with a device that nothing translates for.
    Untranslated,
    /// A PV domain grants to a translated one.
    Translated,
    /// A translated domain grants to itself: what a single guest can ask any Xen.
    Alone,
}

/// One line.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub state: &'static [Call],
    pub call: Call,
    pub want: Want,
    /// Marks in entry [`R`] after the call.
    pub marks: u16,
    /// References of the granted frame after the call, with the allocation's.
    pub refs: u32,
    pub source: &'static str,
}

/// Which hypervisors answer like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Released ones, and the one with revokable grants.
    All,
    /// Released ones.
    Stock,
    /// The one with revokable grants, or where the model's devices differ from Xen's.
    Draft,
}

/// Lines about one operation.
#[derive(Clone, Copy, Debug)]
pub struct Sheet {
    pub section: &'static str,
    pub parties: Parties,
    pub by: By,
    pub lines: &'static [Line],
}

/// The reference that lines use where one will do, and the granter's frame that it grants.
pub const R: u32 = 9;
pub const G: u64 = 3;
/// A frame of the mapper's own.
pub const L: u64 = 5;
/// Frames below this are RAM of granter and mapper; those that lines name above it are none.
pub const FRAMES: u64 = 8;
/// A number that no domain has.
pub const NOBODY: DomId = DomId(0x6000);
pub const OKAY: Want = Want::Status(GNTST_okay);
pub const HOST: u32 = GNTMAP_host_map;
pub const DEV: u32 = GNTMAP_device_map;
/// Marks in an entry.
pub const NONE: u16 = 0;
pub const READ: u16 = GTF_reading;
pub const BOTH: u16 = GTF_reading | GTF_writing;
pub const P0: At = At::Place(0);
pub const P1: At = At::Place(1);
pub const OWN: End = End::Frame(Who::Itself, L);
pub const THE_REF: End = End::Ref(Who::Granter, R);

/// What the first byte of a frame of the mapper's is at first.
pub const fn mark(frame: u64) -> u8 {
    0x30 + frame.to_le_bytes()[0]
}

/// Lines: `[steps] call => answer, marks m, refs n; "source"`.
#[macro_export]
macro_rules! grant_lines {
    ($([$($step:expr),*] $call:expr => $want:expr, marks $marks:expr, refs $refs:expr; $source:literal)*) => {
        &[$($crate::grants::sheet::Line {
            state: &[$($step),*],
            call: $call,
            want: $want,
            marks: $marks,
            refs: $refs,
            source: $source,
        }),*]
    };
}
pub use grant_lines as lines;

/// Bits by their names, what has none as a number.
fn bits(f: &mut fmt::Formatter<'_>, mut value: u64, names: &[(u64, &str)]) -> fmt::Result {
    let mut bar = "";
    for (bit, name) in names {
        if value & bit != 0 {
            value &= !bit;
            write!(f, "{bar}{name}")?;
            bar = "+";
        }
    }
    if value != 0 || bar.is_empty() { write!(f, "{bar}{value:#x}") } else { Ok(()) }
}

/// Flags of an entry.
struct Gtf(u16);

impl fmt::Display for Gtf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 & GTF_type_mask {
            GTF_permit_access => "permit_access",
            GTF_accept_transfer => "accept_transfer",
            GTF_transitive => "transitive",
            _ => "invalid",
        })?;
        let rest = self.0 & !GTF_type_mask;
        if rest == 0 {
            return Ok(());
        }
        f.write_str("+")?;
        let names = [
            (u64::from(GTF_readonly), "readonly"),
            (u64::from(GTF_PWT), "PWT"),
            (u64::from(GTF_PCD), "PCD"),
            (u64::from(GTF_PAT), "PAT"),
            (u64::from(GTF_sub_page), "sub_page"),
            (u64::from(xen_ioreq::abi::revokable::GTF_revokable), "revokable"),
        ];
        bits(f, rest.into(), &names)
    }
}

/// Flags of a mapping.
struct Gntmap(u32);

impl fmt::Display for Gntmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (u64::from(GNTMAP_device_map), "device_map"),
            (u64::from(GNTMAP_host_map), "host_map"),
            (u64::from(GNTMAP_readonly), "readonly"),
            (u64::from(GNTMAP_application_map), "application_map"),
            (u64::from(GNTMAP_contains_pte), "contains_pte"),
        ];
        bits(f, self.0.into(), &names)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granter => "granter",
            Self::Mapper => "mapper",
            Self::Other => "other",
            Self::Itself => "SELF",
            Self::Nobody => "nobody",
        })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("0"),
            Self::Place(n) => write!(f, "P{n}"),
            Self::Ram(frame) => write!(f, "at frame {frame}"),
            Self::Bad => f.write_str("elsewhere"),
        }
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("0"),
            Self::Told(n) => write!(f, "as told by mapping {n}"),
            Self::Bad => f.write_str("another"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ref(who, r) => write!(f, "ref {r} of {who}"),
            Self::Frame(who, frame) => write!(f, "frame {frame} of {who}"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Grant(r, who, flags, frame) => write!(f, "entry {r}: {who}, {}, frame {frame}", Gtf(flags)),
            Self::GrantV2(r, who, flags, second, third) => {
                write!(f, "v2 entry {r}: {who}, {}, {second:#x}, {third:#x}", Gtf(flags))
            }
            Self::HandOn(r, who, from, inner) => {
                write!(f, "v2 entry {r}: {who}, transitive, ref {inner} of {from}")
            }
            Self::Back(r, who, flags, frame) => {
                write!(f, "mapper's entry {r}: {who}, {}, frame {frame}", Gtf(flags))
            }
            Self::Pin(frame) => write!(f, "page_table(granter's frame {frame})"),
            Self::PinOwn(frame) => write!(f, "page_table(mapper's frame {frame})"),
            Self::Unpin(frame) => write!(f, "granter's frame {frame} a page table no more"),
            Self::Close(r) => write!(f, "entry {r} withdrawn"),
            Self::Die => f.write_str("the granter destroyed"),
            Self::Map(who, r, flags, at) => {
                write!(f, "map_grant_ref({who}, ref {r}, {}, {at})", Gntmap(flags))
            }
            Self::MapMany(n, r, flags) => {
                write!(f, "map_grant_ref(granter, ref {r}, {}) {n} times", Gntmap(flags))
            }
            Self::MapRevokable(r, flags, at, lgfn) => {
                write!(f, "map_revokable(ref {r}, {}, {at}, lgfn {lgfn})", Gntmap(flags))
            }
            Self::Unmap(n, at, bus) => write!(f, "unmap_grant_ref(mapping {n}, {at}, bus {bus})"),
            Self::UnmapAll => f.write_str("unmap_grant_ref of all at once"),
            Self::UnmapNone => f.write_str("unmap_grant_ref(no handle)"),
            Self::Replace(n, at, new) => write!(f, "unmap_and_replace(mapping {n}, {at}, new {new})"),
            Self::ReplaceNone => f.write_str("unmap_and_replace(no handle)"),
            Self::Copy(source, from, dest, to, len) => {
                write!(f, "copy({len} bytes, {source} +{from}, {dest} +{to})")
            }
            Self::CopyMany(n, source, dest, len) => {
                write!(f, "copy({len} bytes, {source}, {dest}) {n} times at once")
            }
            Self::Transfer(frame, who, r) => write!(f, "transfer(frame {frame}, {who}, ref {r})"),
            Self::Revoke(r) => write!(f, "revoke(ref {r})"),
            Self::RevokeMany(n) => write!(f, "revoke, {n} at once"),
            Self::Setup(who, n) => write!(f, "setup_table({who}, {n})"),
            Self::SetupNowhere(n) => write!(f, "setup_table(SELF, {n}), a list where nothing is"),
            Self::SetupShort => f.write_str("setup_table(SELF, 2), a list of 1"),
            Self::StatusFrames(who, n) => write!(f, "get_status_frames({who}, {n})"),
            Self::StatusShort => f.write_str("get_status_frames(SELF, 1), a list of 0"),
            Self::Query(who, count) => write!(f, "query_size({who}), count {count}"),
            Self::SetVersion(v) => write!(f, "set_version({v})"),
            Self::GetVersion(who) => write!(f, "get_version({who})"),
            Self::Swap(a, b) => write!(f, "swap_grant_ref({a}, {b})"),
            Self::Dump => f.write_str("dump_table"),
            Self::Flush(frame, offset, len, op) => {
                let names = [
                    (u64::from(GNTTAB_CACHE_CLEAN), "CLEAN"),
                    (u64::from(GNTTAB_CACHE_INVAL), "INVAL"),
                    (u64::from(GNTTAB_CACHE_SOURCE_GREF), "SOURCE_GREF"),
                ];
                write!(f, "cache_flush({frame}, {offset}, {len}, ")?;
                bits(f, op.into(), &names)?;
                f.write_str(")")
            }
            Self::Raw(cmd, count) => write!(f, "operation {cmd}, count {count:#x}, no argument"),
            Self::Look(at) => write!(f, "read of {at}"),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granters => "the granter's frame",
            Self::Told(n) => return write!(f, "as told by mapping {n}"),
            Self::Own => "an own frame",
            Self::Xens => "a frame of Xen's",
            Self::NoRam => "no RAM",
        })
    }
}

/// The names of the statuses, by number.
pub const STATUSES: [&str; 14] = [
    "okay",
    "general_error",
    "bad_domain",
    "bad_gntref",
    "bad_handle",
    "bad_virt_addr",
    "bad_dev_addr",
    "no_device_space",
    "permission_denied",
    "bad_page",
    "bad_copy_arg",
    "address_too_big",
    "eagain",
    "no_space",
];

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(0) => f.write_str("0"),
            Self::Status(n) => {
                let name = STATUSES.get(usize::from(n.unsigned_abs())).copied().unwrap_or("unknown");
                write!(f, "{n} {name}")
            }
            Self::Rc(e) => write!(f, "the call: -{e}"),
            Self::Byte(b) => write!(f, "{b:#x} is read"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call)?;
        for (i, step) in self.state.iter().enumerate() {
            write!(f, "{}{step}", if i == 0 { " after " } else { "; " })?;
        }
        Ok(())
    }
}

impl Parties {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Pv => "two PV domains",
            Self::Untranslated => "two PV domains, no IOMMU",
            Self::Translated => "PV to translated",
            Self::Alone => "a translated domain to itself",
        }
    }
}
