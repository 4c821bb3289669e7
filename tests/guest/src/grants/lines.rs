//! The lines in which a translated domain grants to itself: what a single guest can ask any Xen.
//!
//! The model answers them for two kinds of caller, and a real Xen for the guest of the rows (see `stage`).

#![allow(clippy::wildcard_imports, reason = "the tables use every name of the sheet")]
#![allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]

use xen_ioreq::Errno;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::revokable::{GNTTABOP_map_revokable, GNTTABOP_revoke, GTF_revokable};

use super::sheet::Want::{Byte, Rc, Status};
use super::sheet::*;
use super::sheet::{At::*, Call::*, End::*, Who::*};

const RO: u32 = GNTMAP_host_map | GNTMAP_readonly;
const ACCESS: u16 = GTF_permit_access;
/// The entry of most lines: the granter's frame [`G`], for the mapper.
const ENTRY: Call = Grant(R, Mapper, ACCESS, G);
const MAPPED: Call = Map(Granter, R, HOST, P0);
const MAPPED_RO: Call = Map(Granter, R, RO, P0);
/// Of what a moved frame leaves behind: nobody is there to answer.
const HOLE: Want = Byte(0xff);

/// Every sheet.
pub const SHEETS: &[Sheet] = &[
    sheet("map_grant_ref", By::All, MAP),
    sheet("map_grant_ref", By::All, MAP_V2),
    sheet("unmap_grant_ref", By::All, UNMAP),
    sheet("unmap_and_replace", By::All, REPLACE),
    sheet("copy", By::All, COPY),
    sheet("copy", By::All, COPY_V2),
    sheet("transfer", By::All, TRANSFER),
    sheet("the table and its size", By::All, TABLE),
    sheet("set_version, get_version", By::All, VERSION),
    sheet("swap_grant_ref", By::All, SWAP),
    sheet("cache_flush", By::All, CACHE),
    sheet("the hypercall", By::All, FRAMING),
    sheet("revokable grants, where there are none", By::Stock, WITHOUT),
];

const fn sheet(section: &'static str, by: By, lines: &'static [Line]) -> Sheet {
    Sheet { section, parties: Parties::Alone, by, lines }
}

#[rustfmt::skip]
const MAP: &[Line] = lines! {
    [ENTRY] MAPPED => OKAY, marks BOTH, refs 2; "header"
    [ENTRY] MAPPED_RO => OKAY, marks READ, refs 2; "header"
    [Grant(R, Mapper, ACCESS | GTF_readonly, G)] MAPPED_RO => OKAY, marks READ, refs 2; "header"
    [Grant(R, Mapper, ACCESS | GTF_PWT | GTF_PCD | GTF_PAT, G)] MAPPED => OKAY, marks BOTH, refs 2; "header"
    [ENTRY, MAPPED_RO] Map(Granter, R, HOST, P1) => OKAY, marks BOTH, refs 3; "D: raising re-checks GTF_readonly"
    [ENTRY, MAPPED_RO, Close(R)] Map(Granter, R, HOST, P1) => OKAY, marks BOTH, refs 3; "D: raising re-checks GTF_readonly only"
    [ENTRY, MAPPED_RO, Grant(R, Mapper, ACCESS | GTF_readonly | GTF_reading, G)] Map(Granter, R, HOST, P1) => Status(-1), marks READ, refs 2; "D: raising re-checks GTF_readonly"
    [ENTRY, MAPPED, Close(R)] Map(Granter, R, HOST, P1) => OKAY, marks BOTH, refs 3; "D: edits ignored until all pins drop"
    [ENTRY, MAPPED, Close(R)] Map(Granter, R, RO, P1) => OKAY, marks BOTH, refs 3; "D: edits ignored until all pins drop"
    [ENTRY, MAPPED, Grant(R, Mapper, ACCESS | BOTH, 4)] Map(Granter, R, RO, P1) => OKAY, marks BOTH, refs 3; "D: edits ignored until all pins drop"
    [ENTRY, MapMany(64, R, HOST)] Map(Granter, R, HOST, P0) => OKAY, marks BOTH, refs 66; "header"
    [ENTRY, MapMany(127, R, HOST)] MAPPED => OKAY, marks BOTH, refs 129; "D: 128 of each kind"
    [ENTRY, MapMany(128, R, HOST)] MAPPED => Status(-1), marks BOTH, refs 129; "D: 128 of each kind"
    [ENTRY, MapMany(128, R, RO)] MAPPED_RO => Status(-1), marks READ, refs 129; "D: 128 of each kind"
    [ENTRY, MapMany(128, R, RO)] MAPPED => OKAY, marks BOTH, refs 130; "D: each kind by itself"
    [ENTRY, Grant(10, Mapper, ACCESS, 4), Grant(11, Mapper, ACCESS, 5), MapMany(128, R, HOST), MapMany(127, 10, HOST)] Map(Granter, 11, HOST, P0) => Status(-13), marks BOTH, refs 129; "D: maptrack exhausted; Xen keeps one"
    [ENTRY] Map(Granter, R, 0, P0) => Status(-3), marks NONE, refs 1; "D: neither host nor device"
    [ENTRY] Map(Granter, R, GNTMAP_readonly, P0) => Status(-3), marks NONE, refs 1; "D: neither host nor device"
    [ENTRY] Map(Granter, R, DEV, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with device"
    [ENTRY] Map(Granter, R, HOST | DEV, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with device"
    [ENTRY] Map(Granter, R, HOST | GNTMAP_application_map, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with application"
    [ENTRY] Map(Granter, R, HOST | GNTMAP_contains_pte, P0) => Status(-1), marks NONE, refs 1; "D: HVM/PVH with contains_pte"
    [ENTRY] Map(Granter, R, HOST | 1 << 16, P0) => Status(-1), marks NONE, refs 1; "D: any other flag"
    [ENTRY] Map(Granter, R, HOST, Bad) => Status(-1), marks NONE, refs 1; "D: bad host address"
    [ENTRY] Map(Itself, R, HOST, P0) => Status(-2), marks NONE, refs 1; "D: DOMID_SELF not accepted"
    [ENTRY] Map(Nobody, R, HOST, P0) => Status(-2), marks NONE, refs 1; "header"
    [ENTRY] Map(Granter, 1 << 30, HOST, P0) => Status(-3), marks NONE, refs 1; "D: ref range"
    [ENTRY] Map(Other, 1 << 30, HOST, P0) => Status(-3), marks NONE, refs 1; "D: ref range"
    [] MAPPED => Status(-1), marks NONE, refs 1; "D: bad type"
    [Grant(R, Mapper, GTF_accept_transfer, G)] MAPPED => Status(-1), marks NONE, refs 1; "D: bad type"
    [Grant(R, Other, ACCESS, G)] MAPPED => Status(-1), marks NONE, refs 1; "D: wrong domid"
    [Grant(R, Itself, ACCESS, G)] MAPPED => Status(-1), marks NONE, refs 1; "an entry names a domain by its number"
    [Grant(R, Mapper, ACCESS | GTF_readonly, G)] MAPPED => Status(-1), marks NONE, refs 1; "D: ro violated"
    [Grant(R, Mapper, ACCESS | GTF_sub_page, G)] MAPPED => Status(-1), marks NONE, refs 1; "D: v1 entry with bit 8"
    [Grant(R, Mapper, ACCESS, 999)] MAPPED => Status(-9), marks NONE, refs 1; "D: frame"
    [ENTRY, MAPPED] Look(P0) => Byte(mark(G)), marks BOTH, refs 2; "header"
    [ENTRY, MAPPED_RO] Look(P0) => Byte(mark(G)), marks READ, refs 2; "header"
    [ENTRY, MAPPED] Look(Ram(G)) => HOLE, marks BOTH, refs 2; "Xen: a frame has one place, and a grant is the newer"
    [ENTRY, MAPPED, Unmap(0, P0, Bus::Zero)] Look(P0) => HOLE, marks NONE, refs 1; "header"
    [ENTRY, MAPPED, Unmap(0, P0, Bus::Zero)] Look(Ram(G)) => HOLE, marks NONE, refs 1; "Xen: it does not come back"
    [ENTRY, MAPPED, Unmap(0, P0, Bus::Zero)] MAPPED => Status(-9), marks NONE, refs 1; "Xen: it has no place"
    [ENTRY] Map(Granter, R, HOST, Ram(L)) => OKAY, marks BOTH, refs 2; "Xen: what was there loses its place"
    [ENTRY, Map(Granter, R, HOST, Ram(L))] Look(Ram(L)) => Byte(mark(G)), marks BOTH, refs 2; "Xen: what was there loses its place"
    [ENTRY, Map(Granter, R, HOST, Ram(L)), Unmap(0, Ram(L), Bus::Zero)] Look(Ram(L)) => HOLE, marks NONE, refs 1; "Xen: what was there loses its place"
};

#[rustfmt::skip]
const MAP_V2: &[Line] = lines! {
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G)] MAPPED => OKAY, marks BOTH, refs 2; "header: version 2"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G)] MAPPED_RO => OKAY, marks READ, refs 2; "header: version 2"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_readonly, 0, G)] MAPPED_RO => OKAY, marks READ, refs 2; "header: version 2"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_readonly, 0, G)] MAPPED => Status(-1), marks NONE, refs 1; "D: ro violated"
    [SetVersion(2), GrantV2(R, Other, ACCESS, 0, G)] MAPPED => Status(-1), marks NONE, refs 1; "D: wrong domid"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, 999)] MAPPED => Status(-9), marks NONE, refs 1; "D: frame"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 64 << 16, G)] MAPPED => Status(-1), marks NONE, refs 1; "header: sub_page is not mapped"
    [SetVersion(2), HandOn(R, Mapper, Other, 8)] MAPPED => Status(-1), marks NONE, refs 1; "D: never mappable"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G), MAPPED, GrantV2(R, Mapper, 0, 0, 0)] Map(Granter, R, RO, P1) => OKAY, marks BOTH, refs 3; "D: marks stand in the status words"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G), MAPPED, GrantV2(R, Mapper, 0, 0, 0)] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 1; "D: marks stand in the status words"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G), MAPPED_RO, GrantV2(R, Mapper, 0, 0, 0)] Map(Granter, R, HOST, P1) => OKAY, marks BOTH, refs 3; "D: raising re-checks GTF_readonly only"
};

#[rustfmt::skip]
const UNMAP: &[Line] = lines! {
    [ENTRY, MAPPED] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, MAPPED, Map(Granter, R, RO, P1)] Unmap(0, P0, Bus::Zero) => OKAY, marks READ, refs 2; "D: cleared per kind"
    [ENTRY, MAPPED, Map(Granter, R, RO, P1)] Unmap(1, P1, Bus::Zero) => OKAY, marks BOTH, refs 2; "D: cleared per kind"
    [ENTRY, MAPPED, Close(R)] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, MAPPED] Unmap(0, Zero, Bus::Zero) => OKAY, marks BOTH, refs 2; "D: both zero: nothing undone"
    [ENTRY, MAPPED] Unmap(0, Zero, Bus::Told(0)) => OKAY, marks BOTH, refs 2; "D: no mapping for devices: nothing undone"
    [ENTRY, MAPPED] Unmap(0, P0, Bus::Told(0)) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, MAPPED] Unmap(0, P1, Bus::Zero) => Status(-1), marks BOTH, refs 2; "D: mismatch -1"
    [ENTRY, MAPPED, Map(Granter, R, HOST, P1)] Unmap(0, P1, Bus::Zero) => OKAY, marks BOTH, refs 2; "Xen: any place of that frame will do"
    [ENTRY, MAPPED, Map(Granter, R, HOST, P1), Unmap(0, P1, Bus::Zero)] Look(P0) => Byte(mark(G)), marks BOTH, refs 2; "Xen: any place of that frame will do"
    [ENTRY, MAPPED, Map(Granter, R, RO, P1)] Unmap(0, P1, Bus::Zero) => OKAY, marks READ, refs 2; "Xen: of whichever kind"
    [ENTRY, MAPPED] Unmap(0, Ram(L), Bus::Zero) => Status(-1), marks BOTH, refs 2; "D: mismatch -1"
    [ENTRY, MAPPED] Unmap(0, Bad, Bus::Zero) => Status(-1), marks BOTH, refs 2; "D: mismatch -1"
    [ENTRY, MAPPED] Unmap(0, P0, Bus::Bad) => OKAY, marks NONE, refs 1; "Xen 4.17: no mapping for devices, nobody looks"
    [ENTRY, MAPPED, Unmap(0, P0, Bus::Zero)] Unmap(0, P0, Bus::Zero) => Status(-4), marks NONE, refs 1; "D: free handle"
    [] UnmapNone => Status(-4), marks NONE, refs 1; "D: bad handle"
    [ENTRY, MapMany(100, R, HOST)] UnmapAll => OKAY, marks NONE, refs 1; "D: internal batches of 32"
    [ENTRY, MapMany(64, R, RO), Close(R)] UnmapAll => OKAY, marks NONE, refs 1; "D: internal batches of 32"
};

#[rustfmt::skip]
const REPLACE: &[Line] = lines! {
    [] ReplaceNone => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: not for HVM"
    [ENTRY, MAPPED] Replace(0, P0, Zero) => Rc(Errno::ENOSYS), marks BOTH, refs 2; "Xen 4.17: not for HVM"
};

#[rustfmt::skip]
const COPY: &[Line] = lines! {
    [ENTRY] Copy(THE_REF, 0, OWN, 0, 4096) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, Copy(THE_REF, 0, OWN, 0, 4096)] Look(Ram(L)) => Byte(mark(G)), marks NONE, refs 1; "header"
    [ENTRY] Copy(OWN, 0, THE_REF, 0, 4096) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, Copy(OWN, 0, THE_REF, 0, 4096)] Look(Ram(G)) => Byte(mark(L)), marks NONE, refs 1; "header"
    [ENTRY, Grant(10, Mapper, ACCESS, 4)] Copy(Ref(Granter, 10), 0, THE_REF, 0, 8) => OKAY, marks NONE, refs 1; "header: both by reference"
    [] Copy(OWN, 0, Frame(Itself, 4), 0, 8) => OKAY, marks NONE, refs 1; "header: both by frame"
    [ENTRY] CopyMany(100, THE_REF, OWN, 8) => OKAY, marks NONE, refs 1; "header"
    [Grant(R, Mapper, ACCESS | GTF_sub_page, G)] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks NONE, refs 1; "D: v1 copy ignores bit 8"
    [Grant(R, Mapper, ACCESS | GTF_readonly, G)] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks NONE, refs 1; "header"
    [Grant(R, Mapper, ACCESS | GTF_readonly, G)] Copy(OWN, 0, THE_REF, 0, 8) => Status(-1), marks NONE, refs 1; "D: ro violated"
    [Grant(R, Itself, ACCESS, G)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "an entry names a domain by its number"
    [ENTRY] Copy(Ref(Itself, R), 0, OWN, 0, 8) => OKAY, marks NONE, refs 1; "D: copy accepts DOMID_SELF"
    [ENTRY, MAPPED] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks BOTH, refs 2; "header"
    [ENTRY, MAPPED_RO] Copy(OWN, 0, THE_REF, 0, 8) => Status(-9), marks READ, refs 2; "Xen: raising looks for the frame, which has lost its place"
    [ENTRY, MAPPED, Close(R)] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks BOTH, refs 2; "D: edits ignored until all pins drop"
    [ENTRY, MapMany(128, R, HOST)] Copy(OWN, 0, THE_REF, 0, 8) => Status(-1), marks BOTH, refs 129; "D: 128 of each kind"
    [ENTRY, MapMany(128, R, HOST)] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks BOTH, refs 129; "D: each kind by itself"
    [ENTRY, MAPPED] Copy(Frame(Itself, G), 0, OWN, 0, 8) => Status(-9), marks BOTH, refs 2; "Xen: it has lost its place"
    [] Copy(Ref(Nobody, R), 0, OWN, 0, 0) => Status(-2), marks NONE, refs 1; "Xen 4.17: nothing is copied as something is"
    [] Copy(THE_REF, 0, OWN, 0, 0) => Status(-1), marks NONE, refs 1; "Xen 4.17: nothing is copied as something is"
    [] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "D: bad type"
    [Grant(R, Other, ACCESS, G)] Copy(THE_REF, 0, Ref(Granter, 1 << 30), 0, 8) => Status(-1), marks NONE, refs 1; "D: source claimed before dest"
    [ENTRY] Copy(Ref(Nobody, R), 0, OWN, 0, 8) => Status(-2), marks NONE, refs 1; "header"
    [ENTRY] Copy(THE_REF, 0, Ref(Nobody, R), 0, 8) => Status(-2), marks NONE, refs 1; "header"
    [ENTRY] Copy(Ref(Granter, 1 << 30), 0, OWN, 0, 8) => Status(-3), marks NONE, refs 1; "D: ref range"
    [ENTRY] Copy(Ref(Other, 1 << 30), 0, OWN, 0, 8) => Status(-3), marks NONE, refs 1; "D: ref range"
    [ENTRY] Copy(THE_REF, 0, Ref(Granter, 1 << 30), 0, 8) => Status(-3), marks NONE, refs 1; "D: ref range"
    [ENTRY] Copy(Frame(Granter, G), 0, OWN, 0, 8) => Status(-8), marks NONE, refs 1; "D: gmfn side must be DOMID_SELF"
    [ENTRY] Copy(THE_REF, 0, Frame(Other, L), 0, 8) => Status(-8), marks NONE, refs 1; "D: gmfn side must be DOMID_SELF"
    [Grant(R, Mapper, ACCESS, 999)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-9), marks NONE, refs 1; "D: frame"
    [ENTRY] Copy(THE_REF, 0, Frame(Itself, 999), 0, 8) => Status(-9), marks NONE, refs 1; "D: frame"
    [ENTRY] Copy(THE_REF, 4090, OWN, 0, 8) => Status(-10), marks NONE, refs 1; "header; D: bounds after claim"
    [ENTRY] Copy(THE_REF, 0, OWN, 4095, 2) => Status(-10), marks NONE, refs 1; "header"
    [ENTRY] Copy(THE_REF, 4096, OWN, 4096, 0) => OKAY, marks NONE, refs 1; "Xen: the end is within"
    [ENTRY] Copy(THE_REF, 4097, OWN, 0, 0) => Status(-10), marks NONE, refs 1; "header"
};

#[rustfmt::skip]
const COPY_V2: &[Line] = lines! {
    [SetVersion(2), GrantV2(R, Mapper, ACCESS, 0, G)] Copy(THE_REF, 0, OWN, 0, 4096) => OKAY, marks NONE, refs 1; "header: version 2"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(THE_REF, 100, OWN, 0, 64) => OKAY, marks NONE, refs 1; "header: sub_page"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(OWN, 0, THE_REF, 163, 1) => OKAY, marks NONE, refs 1; "header: sub_page"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(THE_REF, 99, OWN, 0, 2) => Status(-1), marks NONE, refs 1; "D: grant window -1"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page, 100 | 64 << 16, G)] Copy(OWN, 0, THE_REF, 163, 2) => Status(-1), marks NONE, refs 1; "D: grant window -1"
    [SetVersion(2), GrantV2(R, Mapper, ACCESS | GTF_sub_page | GTF_readonly, 100 | 64 << 16, G)] Copy(OWN, 0, THE_REF, 100, 1) => Status(-1), marks NONE, refs 1; "D: ro violated"
    [SetVersion(2), HandOn(R, Mapper, Granter, 10)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "D: trans_domid==granter -1"
    [SetVersion(2), HandOn(R, Mapper, Nobody, 10)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "Xen: of nobody"
    [SetVersion(2), HandOn(R, Mapper, Other, 1 << 30)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-3), marks NONE, refs 1; "Xen: what the grant behind it says"
    [SetVersion(2), HandOn(R, Other, Other, 8)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "D: wrong domid"
};

#[rustfmt::skip]
const TRANSFER: &[Line] = lines! {
    [] Transfer(4, Nobody, R) => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: not for HVM"
    [Grant(R, Mapper, GTF_accept_transfer, 0)] Transfer(4, Mapper, R) => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: not for HVM"
};

#[rustfmt::skip]
const TABLE: &[Line] = lines! {
    [] Setup(Itself, 1) => OKAY, marks NONE, refs 1; "header"
    [] Setup(Mapper, 1) => OKAY, marks NONE, refs 1; "header"
    [] Setup(Itself, 2) => OKAY, marks NONE, refs 1; "header"
    [] Setup(Itself, 3) => Status(-1), marks NONE, refs 1; "D: nr > max"
    [] Setup(Nobody, 1) => Status(-2), marks NONE, refs 1; "header"
    [] SetupNowhere(1) => Status(-5), marks NONE, refs 1; "D: list writes"
    [] Setup(Other, 1) => Status(-8), marks NONE, refs 1; "header: sufficiently privileged"
    [] Query(Itself, 1) => OKAY, marks NONE, refs 1; "header"
    [] Query(Mapper, 1) => OKAY, marks NONE, refs 1; "header"
    [] Query(Itself, 0) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: count must be 1"
    [] Query(Itself, 2) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: count must be 1"
    [] Query(Nobody, 1) => Status(-2), marks NONE, refs 1; "header"
    [] Query(Other, 1) => Status(-8), marks NONE, refs 1; "header: sufficiently privileged"
    [] StatusFrames(Itself, 0) => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: not for HVM"
    [SetVersion(2)] StatusFrames(Itself, 1) => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: not for HVM"
    [] Dump => Rc(Errno::ENOSYS), marks NONE, refs 1; "D"
};

#[rustfmt::skip]
const VERSION: &[Line] = lines! {
    [] SetVersion(1) => OKAY, marks NONE, refs 1; "D: same version 0"
    [] SetVersion(2) => OKAY, marks NONE, refs 1; "header"
    [SetVersion(2)] SetVersion(2) => OKAY, marks NONE, refs 1; "D: same version 0"
    [ENTRY, SetVersion(2)] MAPPED => Status(-1), marks NONE, refs 1; "D: entries are zeroed"
    [] SetVersion(0) => Rc(Errno::EINVAL), marks NONE, refs 1; "D"
    [] SetVersion(3) => Rc(Errno::EINVAL), marks NONE, refs 1; "D"
    [ENTRY, MAPPED] SetVersion(1) => OKAY, marks BOTH, refs 2; "D: same version 0"
    [ENTRY, MAPPED] SetVersion(2) => Rc(Errno::EBUSY), marks BOTH, refs 2; "D: any pin at ref >= 8"
    [SetVersion(2), GrantV2(2, Mapper, ACCESS, 0, 1 << 32)] SetVersion(1) => Rc(Errno::ERANGE), marks NONE, refs 1; "D: reserved entry with frame >> 32"
    [SetVersion(2), HandOn(2, Mapper, Other, 8)] SetVersion(1) => Rc(Errno::ERANGE), marks NONE, refs 1; "D: reserved entry, transitive"
    [] GetVersion(Itself) => OKAY, marks NONE, refs 1; "header"
    [] GetVersion(Nobody) => Rc(Errno::ESRCH), marks NONE, refs 1; "D: no status field"
    [] GetVersion(Other) => Rc(Errno::EPERM), marks NONE, refs 1; "header: as setup_table"
};

#[rustfmt::skip]
const SWAP: &[Line] = lines! {
    [ENTRY] Call::Swap(R, 10) => OKAY, marks NONE, refs 1; "header"
    [ENTRY, Call::Swap(R, 10)] MAPPED => Status(-1), marks NONE, refs 1; "header"
    [ENTRY, Call::Swap(R, 10)] Map(Granter, 10, HOST, P0) => OKAY, marks NONE, refs 2; "header"
    [SetVersion(2), GrantV2(10, Mapper, ACCESS, 0, G), Call::Swap(R, 10)] MAPPED => OKAY, marks BOTH, refs 2; "header"
    [ENTRY] Call::Swap(R, R) => OKAY, marks NONE, refs 1; "D: equal refs okay"
    [ENTRY, MAPPED] Call::Swap(R, R) => OKAY, marks BOTH, refs 2; "D: equal refs okay"
    [ENTRY] Call::Swap(R, 1 << 30) => Status(-3), marks NONE, refs 1; "D: range"
    [ENTRY] Call::Swap(1 << 30, 1 << 30) => Status(-3), marks NONE, refs 1; "D: range"
    [ENTRY, MAPPED] Call::Swap(R, 10) => Status(-12), marks BOTH, refs 2; "D: either pinned"
    [ENTRY, MAPPED] Call::Swap(10, R) => Status(-12), marks BOTH, refs 2; "D: either pinned"
};

#[rustfmt::skip]
const CACHE: &[Line] = lines! {
    [] Flush(Memory::NoRam, 0, 0, GNTTAB_CACHE_CLEAN) => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: not for HVM"
    [ENTRY, MAPPED] Flush(Memory::Told(0), 0, 64, GNTTAB_CACHE_CLEAN) => Rc(Errno::ENOSYS), marks BOTH, refs 2; "Xen 4.17: not for HVM"
};

#[rustfmt::skip]
const FRAMING: &[Line] = lines! {
    [] Raw(GNTTABOP_map_grant_ref, 0) => OKAY, marks NONE, refs 1; "nothing to do"
    [] Raw(GNTTABOP_map_grant_ref, u32::MAX) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: (int)count < 0"
    [] Raw(GNTTABOP_map_grant_ref | 1 << 12, 0) => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: not for HVM"
    [] Raw(GNTTABOP_map_grant_ref, 1) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_unmap_grant_ref, 1) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_copy, 1) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_get_version, 1) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_setup_table, 1) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_set_version, 1) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_swap_grant_ref, 1) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_unmap_grant_ref, u32::MAX) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: (int)count < 0"
    [] Raw(GNTTABOP_copy, 1 << 31) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: (int)count < 0"
    [] Raw(GNTTABOP_swap_grant_ref, u32::MAX) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: (int)count < 0"
    [] Raw(GNTTABOP_query_size, u32::MAX) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: (int)count < 0"
    [] Raw(GNTTABOP_get_version, u32::MAX) => Rc(Errno::EINVAL), marks NONE, refs 1; "D: (int)count < 0"
    [] Raw(GNTTABOP_map_grant_ref, i32::MAX.cast_unsigned()) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(GNTTABOP_copy, i32::MAX.cast_unsigned()) => Rc(Errno::EFAULT), marks NONE, refs 1; "nothing there to read"
    [] Raw(99, u32::MAX) => Rc(Errno::ENOSYS), marks NONE, refs 1; "Xen 4.17: what is not for HVM is looked at first"
    [] Raw(GNTTABOP_unmap_grant_ref, 0) => OKAY, marks NONE, refs 1; "nothing to do"
    [] Raw(GNTTABOP_copy, 0) => OKAY, marks NONE, refs 1; "nothing to do"
    [] Raw(99, 0) => Rc(Errno::ENOSYS), marks NONE, refs 1; "D: unknown cmd"
};

#[rustfmt::skip]
const WITHOUT: &[Line] = lines! {
    [] Raw(GNTTABOP_map_revokable, 1) => Rc(Errno::ENOSYS), marks NONE, refs 1; "D: unknown cmd"
    [] Raw(GNTTABOP_revoke, 1) => Rc(Errno::ENOSYS), marks NONE, refs 1; "D: unknown cmd"
    [Grant(R, Mapper, ACCESS | GTF_revokable, G)] MAPPED => OKAY, marks BOTH, refs 2; "a bit that nobody looks at"
};
