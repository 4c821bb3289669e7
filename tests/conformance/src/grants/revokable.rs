//! The lines of revokable grants: what draft B says, and what was decided where it is silent (`docs/revokable-grants.md`).

#![allow(clippy::wildcard_imports, reason = "the tables use every name of the sheet")]
#![allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]

use xen_ioreq::Errno;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::revokable::GTF_revokable;

use guest::grants::sheet::Want::{Rc, Status};
use guest::grants::sheet::*;
use guest::grants::sheet::{At::*, Call::*, Who::*};

const REVOKABLE: u16 = GTF_permit_access | GTF_revokable;
const ENTRY: Call = Grant(R, Mapper, REVOKABLE, G);
const PLAIN: Call = Grant(R, Mapper, GTF_permit_access, G);
const MAPPED: Call = MapRevokable(R, HOST, P0, L);

pub(super) const SHEETS: &[Sheet] = &[
    Sheet { section: "map_revokable", parties: Parties::Pv, by: By::Draft, lines: MAP },
    Sheet { section: "map_revokable", parties: Parties::Translated, by: By::Draft, lines: TRANSLATED },
    Sheet { section: "map_revokable", parties: Parties::Untranslated, by: By::Draft, lines: UNTRANSLATED },
    Sheet { section: "revoke", parties: Parties::Pv, by: By::Draft, lines: REVOKE },
    Sheet {
        section: "other operations on revokable grants",
        parties: Parties::Pv,
        by: By::Draft,
        lines: OTHERS,
    },
];

#[rustfmt::skip]
const MAP: &[Line] = lines! {
    [ENTRY] MAPPED => OKAY, marks BOTH, refs 2; "draft B: map_revokable"
    [ENTRY] MapRevokable(R, HOST | GNTMAP_readonly, P0, L) => OKAY, marks READ, refs 2; "draft B: parameters as map_grant_ref"
    [ENTRY] MapRevokable(R, DEV, Zero, L) => OKAY, marks BOTH, refs 2; "draft B: host and device (IOMMU) mappings"
    [ENTRY, MAPPED] MapRevokable(R, HOST, P1, L) => OKAY, marks BOTH, refs 3; "draft B: may only be mapped twice"
    [ENTRY, MAPPED, MapRevokable(R, HOST, P1, L)] MapRevokable(R, HOST, Place(2), L) => Status(-13), marks BOTH, refs 3; "draft B: may only be mapped twice; decision"
    [ENTRY] MapRevokable(R, 0, P0, L) => Status(-3), marks NONE, refs 1; "as map_grant_ref"
    [ENTRY] MapRevokable(R, HOST, Bad, L) => Status(-1), marks NONE, refs 1; "as map_grant_ref"
    [Grant(R, Other, REVOKABLE, G)] MAPPED => Status(-1), marks NONE, refs 1; "as map_grant_ref"
    [Grant(R, Mapper, REVOKABLE | GTF_readonly, G)] MAPPED => Status(-1), marks NONE, refs 1; "as map_grant_ref"
    [ENTRY, Die] MAPPED => Status(-2), marks NONE, refs 0; "as map_grant_ref"
    [PLAIN] MAPPED => Status(-3), marks NONE, refs 1; "decision: not a revokable grant"
    [ENTRY] MapRevokable(512, HOST, P0, L) => Status(-3), marks NONE, refs 1; "as map_grant_ref"
    [ENTRY] MapRevokable(R, HOST, P0, 999) => Status(-9), marks NONE, refs 1; "draft B: validate lgfn"
    [Grant(R, Mapper, REVOKABLE, 999)] MAPPED => Status(-9), marks NONE, refs 1; "as map_grant_ref"
};

#[rustfmt::skip]
const TRANSLATED: &[Line] = lines! {
    [ENTRY] MAPPED => OKAY, marks BOTH, refs 2; "draft B: map_revokable"
    [ENTRY] MapRevokable(R, DEV, Zero, L) => Status(-1), marks NONE, refs 1; "as map_grant_ref"
    [ENTRY, MAPPED, Close(R)] Revoke(R) => OKAY, marks NONE, refs 1; "draft B: revoke"
    [ENTRY, MAPPED, Close(R), Revoke(R)] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 1; "decision: the handle stays valid"
};

#[rustfmt::skip]
const UNTRANSLATED: &[Line] = lines! {
    [ENTRY] MapRevokable(R, DEV, Zero, L) => Status(-7), marks NONE, refs 1; "decision: it could not be taken back"
    [ENTRY] MAPPED => OKAY, marks BOTH, refs 2; "draft B: map_revokable"
};

#[rustfmt::skip]
const REVOKE: &[Line] = lines! {
    [ENTRY, MAPPED, Close(R)] Revoke(R) => OKAY, marks NONE, refs 1; "draft B: revoke"
    [ENTRY, MapRevokable(R, HOST | DEV, P0, L), MapRevokable(R, HOST, P1, L), Close(R)] Revoke(R) => OKAY, marks NONE, refs 1; "draft B: host and device (IOMMU) mappings"
    [ENTRY, MAPPED, Close(R), Revoke(R)] Revoke(R) => OKAY, marks NONE, refs 1; "decision: idempotent"
    [] Revoke(R) => OKAY, marks NONE, refs 1; "draft B: only needed if the grant is in use"
    [ENTRY, MAPPED] Revoke(R) => Rc(Errno::EBUSY), marks BOTH, refs 2; "draft B: first remove access; decision: checked"
    [ENTRY] Revoke(R) => Rc(Errno::EBUSY), marks NONE, refs 1; "draft B: first remove access; decision: checked"
    [PLAIN, Map(Granter, R, HOST, P0), Close(R)] Revoke(R) => Rc(Errno::EPERM), marks BOTH, refs 2; "decision: in use without being revokable"
    [] Revoke(512) => Rc(Errno::ENOENT), marks NONE, refs 1; "decision: no such reference"
    [] RevokeMany(0) => Rc(Errno::EINVAL), marks NONE, refs 1; "decision: one at a time"
    [] RevokeMany(2) => Rc(Errno::EINVAL), marks NONE, refs 1; "decision: one at a time"
};

#[rustfmt::skip]
const OTHERS: &[Line] = lines! {
    [ENTRY] Map(Granter, R, HOST, P0) => Status(-8), marks NONE, refs 1; "draft B: must fail with -EACCESS; decision: permission_denied"
    [ENTRY] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks NONE, refs 1; "draft B: or copied"
    [ENTRY, MAPPED, Close(R), Revoke(R)] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 1; "decision: the handle stays valid"
    [ENTRY, MAPPED, Close(R), Revoke(R)] Unmap(0, P1, Bus::Zero) => Status(-1), marks NONE, refs 1; "decision: checked against the stand-in"
    [ENTRY, MAPPED, Close(R), Revoke(R), Die] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 0; "decision: the granter is not needed"
    [ENTRY, MAPPED] Swap(R, 10) => Status(-12), marks BOTH, refs 2; "as any that is in use"
    [ENTRY, MAPPED] SetVersion(2) => Rc(Errno::EBUSY), marks BOTH, refs 2; "as any that is in use"
    [ENTRY, MAPPED, Die] Unmap(0, P0, Bus::Zero) => OKAY, marks NONE, refs 0; "draft B: domain death revokes"
    [Back(R, Granter, GTF_accept_transfer | GTF_revokable, 0)] Transfer(4, Mapper, R) => Status(-1), marks NONE, refs 1; "decision: by construction"
    [SetVersion(2), GrantV2(R, Mapper, GTF_transitive | GTF_revokable, 0, 0)] Copy(THE_REF, 0, OWN, 0, 8) => Status(-1), marks NONE, refs 1; "decision: never handed on as its own"
    [SetVersion(2), GrantV2(R, Mapper, REVOKABLE | GTF_sub_page, 64 << 16, G)] Copy(THE_REF, 0, OWN, 0, 8) => OKAY, marks NONE, refs 1; "decision: a part is copied only"
    [SetVersion(2), GrantV2(R, Mapper, REVOKABLE | GTF_sub_page, 64 << 16, G)] MAPPED => Status(-1), marks NONE, refs 1; "decision: a part is copied only"
};
