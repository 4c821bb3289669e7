//! The lines of the header's operations between two domains; with those of `guest::grants::lines`, one for every status that an
//! operation can give.

#![allow(clippy::wildcard_imports, reason = "the tables use every name of the sheet")]
#![allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]

use xen_ioreq::Errno;
use xen_ioreq::abi::grant_table::*;

use guest::grants::sheet::Want::{Rc, Status};
use guest::grants::sheet::*;
use guest::grants::sheet::{At::*, Call::*, End::*, Who::*};

const RO: u32 = GNTMAP_host_map | GNTMAP_readonly;
const ACCESS: u16 = GTF_permit_access;
/// The entry of most lines: the granter's frame [`G`], for the mapper.
const ENTRY: Call = Grant(R, Mapper, ACCESS, G);

/// Sheets of what released Xen has too.
pub(super) const SHEETS: &[Sheet] = &[
    Sheet { section: "map_grant_ref", parties: Parties::Pv, by: By::All, lines: MAP },
    Sheet { section: "map_grant_ref", parties: Parties::Translated, by: By::All, lines: MAP_TRANSLATED },
    Sheet { section: "device mappings", parties: Parties::Pv, by: By::Draft, lines: DEVICES },
    Sheet { section: "unmap_grant_ref", parties: Parties::Pv, by: By::All, lines: UNMAP },
    Sheet { section: "unmap_and_replace", parties: Parties::Pv, by: By::All, lines: REPLACE },
    Sheet {
        section: "unmap_and_replace",
        parties: Parties::Translated,
        by: By::All,
        lines: REPLACE_TRANSLATED,
    },
    Sheet { section: "copy", parties: Parties::Pv, by: By::All, lines: COPY },
    Sheet { section: "page tables", parties: Parties::Pv, by: By::All, lines: PAGE_TABLES },
    Sheet {
        section: "page tables",
        parties: Parties::Translated,
        by: By::All,
        lines: PAGE_TABLES_TRANSLATED,
    },
    Sheet { section: "page tables", parties: Parties::Pv, by: By::Draft, lines: PAGE_TABLES_DEVICES },
    Sheet { section: "transfer", parties: Parties::Pv, by: By::All, lines: TRANSFER },
    Sheet { section: "the table and its size", parties: Parties::Pv, by: By::All, lines: TABLE },
    Sheet { section: "set_version, get_version", parties: Parties::Pv, by: By::All, lines: VERSION },
    Sheet { section: "cache_flush", parties: Parties::Pv, by: By::All, lines: CACHE },
];

#[rustfmt::skip]
const MAP: &[Line] = lines! {
    [ENTRY] Map(Granter, R, HOST, P0) => OKAY, marks BOTH, refs 2; "header; D: write map sets both"
    [ENTRY] Map(Granter, R, RO, P0) => OKAY, marks READ, refs 2; "header"
    [Grant(R, Mapper, ACCESS | GTF_readonly, G)] Map(Granter, R, RO, P0) => OKAY, marks READ, refs 2; "header"
    [Grant(R, Mapper, ACCESS | GTF_PWT | GTF_PCD | GTF_PAT, G)] Map(Granter, R, HOST, P0) => OKAY, marks BOTH, refs 2; "header; the model has no caches"
    [ENTRY, Map(Granter, R, RO, P0)] Map(Granter, R, HOST, P1) => OKAY, marks BOTH, refs 3; "D: raising re-checks GTF_readonly"
    [ENTRY, MapMany(127, R, HOST)] Map(Granter, R, HOST, P0) => OKAY, marks BOTH, refs 129; "D: 128 of each kind"
    [ENTRY, MapMany(128, R, HOST)] Map(Granter, R, HOST, P0) => Status(-1), marks BOTH, refs 129; "D: 128 of each kind"
    [ENTRY] Map(Granter, R, HOST, Bad) => Status(-1), marks NONE, refs 1; "D: bad host address"
    [ENTRY] Map(Granter, R, HOST | GNTMAP_contains_pte, P0) => Status(-1), marks NONE, refs 1; "decision: a PV domain of the model has no page tables"
    [] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 1; "D: bad type"
    [Grant(R, Mapper, GTF_accept_transfer, G)] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 1; "D: bad type"
    [Grant(R, Other, ACCESS, G)] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 1; "D: wrong domid"
    [Grant(R, Mapper, ACCESS | GTF_readonly, G)] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 1; "D: ro violated"
    [Grant(R, Mapper, ACCESS | GTF_sub_page, G)] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 1; "D: v1 entry with bit 8"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G)] Map(Granter, R, HOST, P0) => OKAY, marks BOTH, refs 2; "header: version 2"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 64 << 16, G)] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 1; "header: sub_page is not mapped"
    [SetVersion(2), GrantV2(R, Mapper, GTF_transitive, 0, 0)] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 1; "D: never mappable"
    [ENTRY] Map(Nobody, R, HOST, P0) => Status(-2), marks NONE, refs 1; "header"
    [ENTRY] Map(Itself, R, HOST, P0) => Status(-2), marks NONE, refs 1; "D: DOMID_SELF not accepted"
    [ENTRY, Die] Map(Granter, R, HOST, P0) => Status(-2), marks NONE, refs 0; "D: dying"
    [ENTRY] Map(Granter, R, 0, P0) => Status(-3), marks NONE, refs 1; "D: neither host nor device"
    [ENTRY] Map(Granter, R, GNTMAP_readonly, P0) => Status(-3), marks NONE, refs 1; "D: neither host nor device"
    [ENTRY] Map(Granter, 512, HOST, P0) => Status(-3), marks NONE, refs 1; "D: ref range"
    [Grant(R, Mapper, ACCESS, 999)] Map(Granter, R, HOST, P0) => Status(-9), marks NONE, refs 1; "D: frame"
    [Grant(R, Mapper, ACCESS, G), Grant(10, Mapper, ACCESS, G), Grant(11, Mapper, ACCESS, G), MapMany(128, R, HOST), MapMany(127, 10, HOST)] Map(Granter, 11, HOST, P0) => Status(-13), marks BOTH, refs 256; "D: maptrack exhausted; Xen keeps one"
};

#[rustfmt::skip]
const MAP_TRANSLATED: &[Line] = lines! {
    [ENTRY] Map(Granter, R, HOST, P0) => OKAY, marks BOTH, refs 2; "header"
    [ENTRY] Map(Granter, R, HOST | DEV, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with device"
    [ENTRY] Map(Granter, R, DEV, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with device"
    [ENTRY] Map(Granter, R, HOST | GNTMAP_application_map, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with application"
    [ENTRY] Map(Granter, R, HOST | GNTMAP_contains_pte, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with contains_pte"
    [ENTRY] Map(Granter, R, HOST | 1 << 16, P0) => Status(-1), marks NONE, refs 1; "D: any other flag"
    [ENTRY] Map(Granter, R, HOST, Bad) => Status(-1), marks NONE, refs 1; "D: bad host address"
};

#[rustfmt::skip]
const DEVICES: &[Line] = lines! {
    [ENTRY] Map(Granter, R, DEV, Zero) => OKAY, marks BOTH, refs 2; "header"
    [ENTRY] Map(Granter, R, DEV | GNTMAP_readonly, Zero) => OKAY, marks READ, refs 2; "header"
    [ENTRY] Map(Granter, R, DEV | HOST, P0) => OKAY, marks BOTH, refs 3; "header"
    [ENTRY, Map(Granter, R, DEV | HOST, P0)] Unmap(0, P0, Bus::Zero) => OKAY, marks BOTH, refs 2; "D: parts separable (XSA-224)"
    [ENTRY, Map(Granter, R, DEV | HOST, P0)] Unmap(0, Zero, Bus::Told(0)) => OKAY, marks BOTH, refs 2; "D: parts separable (XSA-224)"
    [ENTRY, Map(Granter, R, DEV | HOST, P0)] Unmap(0, P0, Bus::Told(0)) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, Map(Granter, R, DEV | HOST, P0)] Unmap(0, P0, Bus::Bad) => Status(-6), marks BOTH, refs 3; "D: dev addr mismatch"
};

#[rustfmt::skip]
const UNMAP: &[Line] = lines! {
    [ENTRY, Map(Granter, R, HOST, P0)] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, Map(Granter, R, HOST, P0), Map(Granter, R, RO, P1)] Unmap(0, P0, Bus::Zero) => OKAY, marks READ, refs 2; "D: cleared per kind"
    [ENTRY, Map(Granter, R, HOST, P0)] Unmap(0, Zero, Bus::Zero) => OKAY, marks BOTH, refs 2; "D: both zero: nothing undone"
    [ENTRY, Map(Granter, R, HOST, P0)] Unmap(0, P1, Bus::Zero) => Status(-1), marks BOTH, refs 2; "D: PTE mismatch (XSA-234)"
    [ENTRY, Map(Granter, R, HOST, P0)] Unmap(0, Bad, Bus::Zero) => Status(-1), marks BOTH, refs 2; "D: PTE mismatch (XSA-234)"
    [ENTRY, Map(Granter, R, HOST, P0)] Unmap(0, P0, Bus::Bad) => OKAY, marks NONE, refs 1; "Xen 4.17: no mapping for devices, nobody looks"
    [ENTRY, Map(Granter, R, HOST, P0), Unmap(0, P0, Bus::Zero)] Unmap(0, P0, Bus::Zero) => Status(-4), marks NONE, refs 1; "D: free handle"
    [] UnmapNone => Status(-4), marks NONE, refs 1; "D: bad handle"
    [ENTRY, Map(Granter, R, HOST, P0), Die] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 0; "D: grantor death: maps survive until unmapped"
};

#[rustfmt::skip]
const REPLACE: &[Line] = lines! {
    [ENTRY, Grant(10, Mapper, ACCESS, 4), Map(Granter, R, HOST, P0), Map(Granter, 10, HOST, P1)] Replace(0, P0, P1) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, Map(Granter, R, HOST, P0)] Replace(0, P0, Zero) => OKAY, marks NONE, refs 1; "D: new_addr 0 = plain unmap"
    [ENTRY, Map(Granter, R, HOST, P0)] Replace(0, P0, Bad) => Status(-1), marks BOTH, refs 2; "D"
    [ENTRY, Map(Granter, R, HOST, P0)] Replace(0, P1, Zero) => Status(-1), marks BOTH, refs 2; "D: PTE mismatch"
    [] ReplaceNone => Status(-4), marks NONE, refs 1; "D: bad handle"
};

#[rustfmt::skip]
const REPLACE_TRANSLATED: &[Line] = lines! {
    [ENTRY, Map(Granter, R, HOST, P0)] Replace(0, P0, P1) => Rc(Errno::ENOSYS), marks BOTH, refs 2; "Xen 4.17: not for HVM"
    [ENTRY, Map(Granter, R, HOST, P0)] Replace(0, P0, Zero) => Rc(Errno::ENOSYS), marks BOTH, refs 2; "Xen 4.17: not for HVM"
};

#[rustfmt::skip]
const COPY: &[Line] = lines! {
    [ENTRY] Copy(THE_REF, 0, OWN, 0, 4096) => OKAY, marks NONE, refs 1; "header"
    [ENTRY] Copy(OWN, 0, THE_REF, 0, 4096) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, Grant(10, Mapper, ACCESS, 4)] Copy(Ref(Granter, 10), 0, THE_REF, 0, 8) => OKAY, marks NONE, refs 1; "header: both by reference"
    [Grant(R, Mapper, ACCESS | GTF_sub_page, G)] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks NONE, refs 1; "D: v1 copy ignores bit 8"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(THE_REF, 100, OWN, 0, 64) => OKAY, marks NONE, refs 1; "header: sub_page"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(THE_REF, 99, OWN, 0, 2) => Status(-1), marks NONE, refs 1; "D: grant window -1"
    [ENTRY] Copy(THE_REF, 0, OWN, 0, 0) => OKAY, marks NONE, refs 1; "header"
    [] Copy(Ref(Nobody, R), 0, OWN, 0, 0) => Status(-2), marks NONE, refs 1; "Xen 4.17: nothing is copied as something is"
    [] Copy(THE_REF, 0, OWN, 0, 0) => Status(-1), marks NONE, refs 1; "Xen 4.17: nothing is copied as something is"
    [] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "D: bad type"
    [Grant(R, Mapper, ACCESS | GTF_readonly, G)] Copy(OWN, 0, THE_REF, 0, 8) => Status(-1), marks NONE, refs 1; "D: ro violated"
    [Grant(R, Other, ACCESS, G)] Copy(THE_REF, 0, Ref(Granter, 512), 0, 8) => Status(-1), marks NONE, refs 1; "D: source claimed before dest"
    [ENTRY] Copy(Ref(Nobody, R), 0, OWN, 0, 8) => Status(-2), marks NONE, refs 1; "header"
    [ENTRY, Die] Copy(THE_REF, 0, OWN, 0, 8) => Status(-2), marks NONE, refs 0; "D: dying owner"
    [ENTRY] Copy(Ref(Granter, 512), 0, OWN, 0, 8) => Status(-3), marks NONE, refs 1; "D: ref range"
    [ENTRY] Copy(Frame(Granter, G), 0, OWN, 0, 8) => Status(-8), marks NONE, refs 1; "D: gmfn side must be DOMID_SELF"
    [Grant(R, Mapper, ACCESS, 999)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-9), marks NONE, refs 1; "D: frame"
    [ENTRY] Copy(THE_REF, 0, Frame(Itself, 999), 0, 8) => Status(-9), marks NONE, refs 1; "D: frame"
    [ENTRY] Copy(THE_REF, 4090, OWN, 0, 8) => Status(-10), marks NONE, refs 1; "header; D: bounds after claim"
    [ENTRY] Copy(THE_REF, 0, OWN, 4095, 2) => Status(-10), marks NONE, refs 1; "header"
};

/// A frame that is a page table is read by whom it is granted to, and written by nobody.
#[rustfmt::skip]
const PAGE_TABLES: &[Line] = lines! {
    [Pin(G), ENTRY] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
    [Pin(G), ENTRY] Map(Granter, R, RO, P0) => OKAY, marks READ, refs 3; "Xen: read by anybody"
    [Pin(G), Grant(R, Mapper, ACCESS | GTF_readonly, G)] Map(Granter, R, RO, P0) => OKAY, marks READ, refs 3; "Xen: read by anybody"
    [Pin(G), ENTRY, Map(Granter, R, RO, P0)] Map(Granter, R, HOST, P1) => Status(-1), marks READ, refs 3; "Xen: no writable page"
    [Pin(G), ENTRY, Map(Granter, R, RO, P0)] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 2; "header"
    [Pin(G), ENTRY, Unpin(G)] Map(Granter, R, HOST, P0) => OKAY, marks BOTH, refs 2; "Xen: it has another type then"
    [Pin(G), SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G)] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
    [Pin(G), SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G)] Map(Granter, R, RO, P0) => OKAY, marks READ, refs 3; "Xen: read by anybody"
    [ENTRY, Map(Granter, R, HOST, P0)] Pin(G) => Rc(Errno::EINVAL), marks BOTH, refs 2; "Xen: somebody may write it"
    [ENTRY, Map(Granter, R, RO, P0)] Pin(G) => OKAY, marks READ, refs 3; "Xen: read by anybody"
    [ENTRY, Map(Granter, R, HOST, P0), Unmap(0, P0, Bus::Zero)] Pin(G) => OKAY, marks NONE, refs 2; "Xen: nobody writes it any more"
    [Pin(G), ENTRY] Copy(THE_REF, 0, OWN, 0, 4096) => OKAY, marks NONE, refs 2; "Xen: read by anybody"
    [Pin(G), ENTRY] Copy(OWN, 0, THE_REF, 0, 8) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
    [Pin(G), ENTRY, Map(Granter, R, RO, P0)] Copy(OWN, 0, THE_REF, 0, 8) => Status(-1), marks READ, refs 3; "Xen: no writable page"
    [Pin(G), SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(THE_REF, 100, OWN, 0, 64) => OKAY, marks NONE, refs 2; "Xen: read by anybody"
    [Pin(G), SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(OWN, 0, THE_REF, 100, 8) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
    [PinOwn(L), ENTRY] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "Xen: no writable page, nor of one's own"
    [PinOwn(L), ENTRY] Copy(OWN, 0, THE_REF, 0, 8) => OKAY, marks NONE, refs 1; "Xen: read by anybody"
    [Pin(4), Back(R, Granter, GTF_accept_transfer, 0)] Transfer(4, Mapper, R) => Status(-9), marks NONE, refs 1; "D: exactly alloc+1 refs"
};

#[rustfmt::skip]
const PAGE_TABLES_TRANSLATED: &[Line] = lines! {
    [Pin(G), ENTRY] Map(Granter, R, HOST, P0) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
    [Pin(G), ENTRY] Map(Granter, R, RO, P0) => OKAY, marks READ, refs 3; "Xen: read by anybody"
    [Pin(G), ENTRY] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks NONE, refs 2; "Xen: read by anybody"
    [Pin(G), ENTRY] Copy(OWN, 0, THE_REF, 0, 8) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
};

#[rustfmt::skip]
const PAGE_TABLES_DEVICES: &[Line] = lines! {
    [Pin(G), ENTRY] Map(Granter, R, DEV, Zero) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
    [Pin(G), ENTRY] Map(Granter, R, HOST | DEV, P0) => Status(-1), marks NONE, refs 2; "Xen: no writable page"
    [Pin(G), ENTRY] Map(Granter, R, DEV | GNTMAP_readonly, Zero) => OKAY, marks READ, refs 3; "Xen: read by anybody"
};

#[rustfmt::skip]
const TRANSFER: &[Line] = lines! {
    [Back(R, Granter, GTF_accept_transfer, 0)] Transfer(4, Mapper, R) => OKAY, marks NONE, refs 1; "header"
    [] Transfer(4, Mapper, R) => Status(-1), marks NONE, refs 1; "D: flags exactly accept_transfer"
    [Back(R, Granter, GTF_accept_transfer | GTF_readonly, 0)] Transfer(4, Mapper, R) => Status(-1), marks NONE, refs 1; "D: flags exactly accept_transfer"
    [Back(R, Other, GTF_accept_transfer, 0)] Transfer(4, Mapper, R) => Status(-1), marks NONE, refs 1; "D: domid match"
    [Back(R, Granter, GTF_accept_transfer, 0)] Transfer(4, Mapper, 512) => Status(-1), marks NONE, refs 1; "D"
    [] Transfer(4, Nobody, R) => Status(-2), marks NONE, refs 1; "header"
    [Back(R, Granter, GTF_accept_transfer, 0)] Transfer(999, Mapper, R) => Status(-9), marks NONE, refs 1; "header"
    [Back(R, Granter, GTF_accept_transfer, 0), ENTRY, Map(Granter, R, HOST, P0)] Transfer(G, Mapper, R) => Status(-9), marks BOTH, refs 2; "D: exactly alloc+1 refs"
};

#[rustfmt::skip]
const TABLE: &[Line] = lines! {
    [] Setup(Itself, 2) => OKAY, marks NONE, refs 1; "header"
    [] Setup(Mapper, 2) => OKAY, marks NONE, refs 1; "header"
    [] Setup(Itself, 3) => Status(-1), marks NONE, refs 1; "D: nr > max"
    [] Setup(Nobody, 1) => Status(-2), marks NONE, refs 1; "header"
    [] SetupShort => Status(-5), marks NONE, refs 1; "D: list writes"
    [] Setup(Granter, 1) => Status(-8), marks NONE, refs 1; "header: sufficiently privileged"
    [] Query(Nobody, 1) => Status(-2), marks NONE, refs 1; "header"
    [] Query(Granter, 1) => Status(-8), marks NONE, refs 1; "header: sufficiently privileged"
    [] StatusFrames(Nobody, 0) => Status(-2), marks NONE, refs 1; "header"
    [] StatusFrames(Granter, 0) => Status(-8), marks NONE, refs 1; "header: sufficiently privileged"
    [] StatusFrames(Itself, 0) => OKAY, marks NONE, refs 1; "header"
    [] StatusFrames(Itself, 1) => Status(-1), marks NONE, refs 1; "D: v1: any nr > 0"
    [] SetupNowhere(1) => Status(-5), marks NONE, refs 1; "D: list writes"
    [] Raw(GNTTABOP_map_grant_ref | 1 << 12, 0) => Rc(Errno::EINVAL), marks NONE, refs 1; "Xen: the upper bits are its own"
    [] StatusShort => Status(-5), marks NONE, refs 1; "D: list writes; the caller has version 2"
};

#[rustfmt::skip]
const VERSION: &[Line] = lines! {
    [] SetVersion(1) => OKAY, marks NONE, refs 1; "D: same version 0"
    [] SetVersion(2) => OKAY, marks NONE, refs 1; "header"
    [SetVersion(2)] SetVersion(1) => Rc(Errno::EBUSY), marks NONE, refs 1; "D: status frame still mapped (XSA-255)"
    [] SetVersion(0) => Rc(Errno::EINVAL), marks NONE, refs 1; "D"
    [] SetVersion(3) => Rc(Errno::EINVAL), marks NONE, refs 1; "D"
    [ENTRY, Map(Granter, R, HOST, P0)] SetVersion(2) => Rc(Errno::EBUSY), marks BOTH, refs 2; "D: any pin at ref >= 8"
    [SetVersion(2), GrantV2(1, Mapper, ACCESS, 0, 1 << 32)] SetVersion(1) => Rc(Errno::ERANGE), marks NONE, refs 1; "D: reserved entry with frame >> 32"
    [SetVersion(2), GrantV2(1, Mapper, GTF_transitive, 0, 0)] SetVersion(1) => Rc(Errno::ERANGE), marks NONE, refs 1; "D: reserved entry, transitive"
    [] GetVersion(Itself) => OKAY, marks NONE, refs 1; "header"
    [] GetVersion(Nobody) => Rc(Errno::ESRCH), marks NONE, refs 1; "D: no status field"
    [] GetVersion(Granter) => Rc(Errno::EPERM), marks NONE, refs 1; "header: as setup_table"
};

#[rustfmt::skip]
const CACHE: &[Line] = lines! {
    [] Flush(Memory::Own, 0, 64, GNTTAB_CACHE_CLEAN) => OKAY, marks NONE, refs 1; "Xen"
    [ENTRY, Map(Granter, R, HOST, P0)] Flush(Memory::Granters, 0, 64, GNTTAB_CACHE_CLEAN) => OKAY, marks BOTH, refs 2; "Xen"
    [] Flush(Memory::NoRam, 0, 0, GNTTAB_CACHE_CLEAN) => OKAY, marks NONE, refs 1; "Xen: nothing asked for"
    [] Flush(Memory::Granters, 0, 64, GNTTAB_CACHE_CLEAN) => Rc(Errno::EINVAL), marks NONE, refs 1; "Xen: not in use by the caller"
    [] Flush(Memory::Xens, 0, 64, GNTTAB_CACHE_CLEAN) => Rc(Errno::EPERM), marks NONE, refs 1; "Xen"
    [] Flush(Memory::NoRam, 0, 64, GNTTAB_CACHE_CLEAN) => Rc(Errno::EINVAL), marks NONE, refs 1; "Xen"
    [] Flush(Memory::Own, 4090, 64, GNTTAB_CACHE_CLEAN) => Rc(Errno::EINVAL), marks NONE, refs 1; "Xen"
    [] Flush(Memory::Own, 0, 64, GNTTAB_CACHE_INVAL) => Rc(Errno::EOPNOTSUPP), marks NONE, refs 1; "Xen on x86"
    [] Flush(Memory::Own, 0, 64, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_SOURCE_GREF) => Rc(Errno::EINVAL), marks NONE, refs 1; "Xen: no such operation"
    [] Flush(Memory::Own, 0, 0, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_SOURCE_GREF) => Rc(Errno::EINVAL), marks NONE, refs 1; "Xen: looked at first"
};
