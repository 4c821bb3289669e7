//! Statuses of the hypervisor that shipped PV-IOMMU, as XenServer 8's (4.17.6) was seen to answer. "The host panics": the
//! call ended that host; the model refuses it and its oracle says so.

use mock_xen::Iommu;
use xen_ioreq::Errno;
use xen_ioreq::abi::hvm_op::{HVMMEM_mmio_dm, HVMMEM_ram_ro};
use xen_ioreq::abi::iommu_op::*;

use super::Step::{Balloon, DestroyGuest, Do, Populate, ShareInfo, Typed};
use super::Want::{Done, Panics, Rc, Status};
use super::{Line, Out, Sheet, lines};
use crate::iommu::call::*;
use crate::iommu::world::Profile;

pub(in crate::iommu) const SHEETS: &[Sheet] = &[
    Sheet {
        profile: Profile::Xs,
        iommu: Iommu::OneToOne,
        section: "IOMMUOP_query_caps, page orders, sub-operations that are none",
        lines: FRAMING,
    },
    Sheet { profile: Profile::Xs, iommu: Iommu::OneToOne, section: "IOMMUOP_map_page", lines: MAP_PAGE },
    Sheet { profile: Profile::Xs, iommu: Iommu::OneToOne, section: "IOMMUOP_unmap_page", lines: UNMAP_PAGE },
    Sheet {
        profile: Profile::Xs,
        iommu: Iommu::OneToOne,
        section: "IOMMUOP_map_foreign_page",
        lines: MAP_FOREIGN,
    },
    Sheet {
        profile: Profile::Xs,
        iommu: Iommu::OneToOne,
        section: "IOMMUOP_lookup_foreign_page",
        lines: LOOKUP,
    },
    Sheet {
        profile: Profile::Xs,
        iommu: Iommu::OneToOne,
        section: "IOMMUOP_unmap_foreign_page",
        lines: UNMAP_FOREIGN,
    },
    Sheet {
        profile: Profile::Xs,
        iommu: Iommu::On,
        section: "every sub-operation, dom0-iommu=strict",
        lines: STRICT,
    },
    Sheet {
        profile: Profile::Xs,
        iommu: Iommu::Absent,
        section: "every sub-operation, without control of an IOMMU",
        lines: UNCONTROLLED,
    },
    Sheet {
        profile: Profile::Xs,
        iommu: Iommu::Passthrough,
        section: "every sub-operation, without control of an IOMMU",
        lines: UNCONTROLLED,
    },
];

/// Where the 1:1 map begins.
const OFFSET: u64 = 0x3e0_0000;
const BOTH: u16 = IOMMU_QUERY_map_cap | IOMMU_QUERY_map_all_mfns;
const NO_REF: u16 = IOMMU_MAP_OP_no_ref_cnt;
const OWN: Page = Page::Own(0);
const ONE: Bus = Bus::Of(G);
/// Domain number 0xffff.
const NUMBER_FFFF: Domain = Domain::Number("0xffff", xen_ioreq::DomId(0xffff));

#[rustfmt::skip]
const FRAMING: &[Line] = lines! {
    [] caps() => Done, out Out::Caps(BOTH, Some(OFFSET)), m2b [], refs 1; "seen 1: intel-iommu"
    [] caps().flags(0x3ff) => Done, out Out::Caps(BOTH, Some(OFFSET)), m2b [], refs 1; "seen 1: input flags are ignored"
    [] caps().order(1) => Status(Errno::ENOSPC), m2b [], refs 1; "seen 2: every subop"
    [] caps().by_stub() => Rc(Errno::ENOSYS), m2b [], refs 1; "shipped code: the hardware domain only; A4-12"
    [] unknown(0) => Status(Errno::ENODEV), m2b [], refs 1; "seen 2; A4-3"
    [] unknown(7) => Status(Errno::ENODEV), m2b [], refs 1; "seen 2; A4-3"
    [] unknown(0xffff) => Status(Errno::ENODEV), m2b [], refs 1; "seen 2; A4-3"
    [] unknown(99).order(1) => Status(Errno::ENOSPC), m2b [], refs 1; "seen 2: order before subop"
    [] lookup(G).order(1) => Status(Errno::ENOSPC), m2b [], refs 1; "seen 2: bits 10, 14, 15; A4-1"
    [] lookup(G).order(16) => Status(Errno::ENOSPC), m2b [], refs 1; "seen 2: bits 10, 14, 15; A4-1"
    [] lookup(G).order(63) => Status(Errno::ENOSPC), m2b [], refs 1; "seen 2: bits 10, 14, 15; A4-1"
    [] lookup(G).order(14) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 2: bits 11 to 13 are lost; A4-1"
};

#[rustfmt::skip]
const MAP_PAGE: &[Line] = lines! {
    [] map_own(B, OWN) => Done, on OWN, m2b [], refs 3; "seen 3: own MFN to a free BFN"
    [Do(map_own(B, OWN))] map_own(B1, OWN) => Done, on OWN, m2b [], refs 4; "seen 3: same MFN to a second BFN"
    [] map_own(B, OWN).flags(0x3fb) => Done, on OWN, m2b [], refs 3; "seen 2: reserved bits"
    [] map_own(B, OWN).order(2) => Done, on OWN, m2b [], refs 3; "seen 2: order 2 accepted as order 0; A4-1"
    [Do(map_own(B, OWN).order(2))] unmap_own(B1) => Status(Errno::ENOENT), on OWN, m2b [], refs 3; "seen 2: exactly one BFN"
    [] map_own(B, OWN).order(1) => Status(Errno::ENOSPC), on OWN, m2b [], refs 2; "seen 2; A4-1"
    [Do(map_own(B, OWN))] map_own(B, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 3; "seen 3: identical again; A4-4"
    [Do(map_own(B, OWN))] map_own(B, Page::Own(1)) => Status(Errno::EPERM), on Page::Own(1), m2b [], refs 2; "seen 3: other MFN to the same BFN; A4-4"
    [] map_own(ONE, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "seen 3: BFN inside the 1:1 area"
    [] map_own(RMRR, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "seen 3: identity-mapped, as reserved E820 is; A4-4"
    [] map_own(B, Page::Xens) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: Xen-owned MFN"
    [] map_own(B, Page::MfnOf(0)) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: guest's MFN"
    [] map_own(B, Page::NoRam) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: MFN without RAM"
    [] map_own(B, Page::Ones) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: MFN ~0"
    [] map_own(B, Page::Xens).flags(RW | NO_REF) => Done, m2b [], refs 1; "seen 3: no_ref_cnt, no ownership check; A4-2"
    [] map_own(B, Page::MfnOf(0)).flags(RW | NO_REF) => Done, m2b [], refs 1; "seen 3: no_ref_cnt, no ownership check; A4-2"
    [] map_own(B, Page::NoRam).flags(RW | NO_REF) => Done, m2b [], refs 1; "seen 3: no_ref_cnt, no validity check; A4-2"
    [] map_own(B, OWN).flags(0) => Done, on OWN, m2b [], refs 3; "seen 3: 0, but nothing is mapped; its reference is lost (inferred)"
    [Do(map_own(B, OWN).flags(0))] unmap_own(B) => Status(Errno::ENOENT), on OWN, m2b [], refs 3; "seen 3: nothing is mapped"
    [Do(map_own(B, OWN).flags(0))] map_own(B, OWN) => Done, on OWN, m2b [], refs 4; "seen 3: the BFN can be mapped again"
    [] map_own(HIGH_B, OWN) => Done, on OWN, m2b [], refs 3; "seen 3: truncated to 48 address bits"
    [Do(map_own(HIGH_B, OWN))] unmap_own(B) => Done, on OWN, m2b [], refs 2; "seen 3: truncated to 48 address bits"
    [Do(map_own(HIGH_B, OWN))] unmap_own(HIGH_B) => Status(Errno::ENOENT), on OWN, m2b [], refs 3; "seen 3: unmap is not"
    [] map_own(ALL, OWN) => Status(Errno::EIO), on OWN, m2b [], refs 2; "seen 3: BFN ~0"
    [] map_own(B, OWN).by_stub() => Rc(Errno::ENOSYS), on OWN, m2b [], refs 2; "shipped code: the hardware domain only"
};

#[rustfmt::skip]
const UNMAP_PAGE: &[Line] = lines! {
    [Do(map_own(B, OWN))] unmap_own(B) => Done, on OWN, m2b [], refs 2; "seen 3: mapped"
    [Do(map_own(B, OWN))] unmap_own(B).flags(IOMMU_UNMAP_OP_remove_m2b) => Done, on OWN, m2b [], refs 2; "shipped code: no premap table any more; A4-9"
    [Do(map_own(B, OWN)), Do(unmap_own(B))] unmap_own(B) => Status(Errno::ENOENT), on OWN, m2b [], refs 2; "seen 3: again"
    [] unmap_own(B) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: a hole"
    [] unmap_own(ALL) => Status(Errno::EIO), m2b [], refs 1; "seen 3: BFN ~0"
    [] unmap_own(ONE).flags(NO_REF) => Done, m2b [], refs 1; "seen 3: 1:1 BFN with no_ref_cnt, a hole is punched"
    [Do(unmap_own(ONE).flags(NO_REF))] unmap_own(ONE).flags(NO_REF) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: a hole"
    [Do(unmap_own(ONE).flags(NO_REF))] map_own(ONE, Page::MfnOf(0)).flags(RW | NO_REF) => Done, m2b [], refs 1; "seen 3: restored by map_page no_ref_cnt"
    [] unmap_own(ONE) => Panics(Ok(())), m2b [], refs 1; "seen 3: the guest's page is freed under it, its end panics Xen; A4-8"
    [Do(lookup(G))] unmap_own(ONE) => Panics(Ok(())), m2b [], refs 2; "seen 3: on a looked-up page; its end panics Xen; A4-8"
    [Do(map_own(B, Page::MfnOf(0)).flags(RW | NO_REF))] unmap_own(B) => Panics(Ok(())), m2b [], refs 1; "A4-8: a reference that nobody took"
};

#[rustfmt::skip]
const MAP_FOREIGN: &[Line] = lines! {
    [] map(B, G) => Panics(Err(Errno::EPERM)), m2b [], refs 1; "seen 3: FATAL PAGE FAULT; patched: -EPERM; A4-5"
    [] map(B, G).flags(RW | IOMMUOP_swap_mfn) => Panics(Err(Errno::EPERM)), m2b [], refs 1; "seen 3: any flags; A4-2"
    [] map(B, G).server_number(99) => Panics(Err(Errno::EPERM)), m2b [], refs 1; "seen 3: any ioserver; A4-3"
    [] map(RMRR, G) => Panics(Err(Errno::EPERM)), m2b [], refs 1; "seen 3: used BFN; A4-4"
    [Do(lookup(G))] map(B, G) => Done, m2b [], refs 2; "seen 3: 0, and nothing is mapped"
    [Do(lookup(G))] map(B, G).server_number(0xffff) => Done, m2b [], refs 2; "seen 3: any ioserver"
    [Do(lookup(G)), Do(map(B, G))] unmap(B) => Status(Errno::ENOENT), m2b [], refs 2; "seen 3: nothing is mapped"
    [Do(lookup(G)), Do(map(B, G))] map_own(B, OWN) => Done, on OWN, m2b [], refs 3; "seen 3: nothing is mapped"
    [] map(B, Page::Hole) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: a hole"
    [Balloon(G)] map(B, G) => Status(Errno::ENXIO), m2b [], refs 0; "seen 3: ballooned gfn"
    [] map(B, G).of(NO_DOMAIN) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: unknown"
    [] map(B, G).of(DOMID_XEN) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: DOMID_XEN"
    [] map(B, G).of(DOMID_SELF) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: self"
    [] map(B, G).of(Domain::Own) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: dom 0"
    [] map(B, G).of(Domain::Pv) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: PV"
    [] map(B, G).order(1) => Status(Errno::ENOSPC), m2b [], refs 1; "seen 2: every subop"
};

#[rustfmt::skip]
const LOOKUP: &[Line] = lines! {
    [] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: bfn = mfn + offset, whatever came in; A4-7, A4-13"
    [] lookup(G).flags(RW) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: any flags"
    [] lookup(G).server_number(99) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: any ioserver; A4-3"
    [Do(lookup(G))] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: 2nd to 5th lookup, refcount stays 2"
    [Do(lookup(G))] lookup(G).server(1) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: any ioserver; A4-10"
    [Do(unmap_own(ONE).flags(NO_REF))] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: 1:1 entry absent, a bfn that is not mapped"
    [Typed(G, "ram_ro", HVMMEM_ram_ro)] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: ram_ro"
    [ShareInfo] lookup(Page::Shared) => Done, out Out::Bfn(Bus::Of(Page::Shared)), on Page::Shared, m2b [], refs 2; "seen 3: shared_info"
    [Balloon(G), Populate(G)] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 4: populated again"
    [] lookup(Page::Hole) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: a hole"
    [] lookup(Page::Ones) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: ~0"
    [Typed(G, "mmio_dm", HVMMEM_mmio_dm)] lookup(G) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: mmio_dm"
    [Balloon(G)] lookup(G) => Status(Errno::ENXIO), m2b [], refs 0; "seen 3: ballooned gfn"
    [Do(lookup(G)), Balloon(G)] lookup(G) => Status(Errno::ENXIO), m2b [], refs 1; "seen 4: lookup of that gfn"
    [] lookup(G).of(NO_DOMAIN) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: unknown domid"
    [] lookup(G).of(DOMID_XEN) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: DOMID_XEN"
    [] lookup(G).of(DOMID_IO) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: DOMID_IO"
    [] lookup(G).of(DOMID_INVALID) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: DOMID_INVALID"
    [] lookup(G).of(NUMBER_FFFF) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: 0xffff"
    [DestroyGuest] lookup(G) => Status(Errno::ENXIO), m2b [], refs 0; "seen 3: destroyed domid"
    [] lookup(G).of(DOMID_SELF) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: DOMID_SELF"
    [] lookup(G).of(Domain::Own) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: domid 0"
    [] lookup(G).of(Domain::Pv) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: PV domain"
    [] lookup(G).by_stub() => Rc(Errno::ENOSYS), m2b [], refs 1; "shipped code: the hardware domain only; A4-12"
};

#[rustfmt::skip]
const UNMAP_FOREIGN: &[Line] = lines! {
    [Do(lookup(G))] unmap(ONE) => Done, m2b [], refs 1; "seen 3: looked-up bfn"
    [Do(lookup(G))] unmap(ONE).by_stub() => Rc(Errno::ENOSYS), m2b [], refs 2; "shipped code: the hardware domain only; A4-11"
    [Do(lookup(G))] unmap(ONE).server_number(0x1234) => Done, m2b [], refs 1; "seen 3: any ioserver; A4-10"
    [Do(lookup(G)), Do(lookup(G).server(1))] unmap(ONE) => Done, m2b [], refs 1; "seen 3: one unmap undoes all lookups"
    [Do(lookup(G)), Balloon(G)] unmap(ONE) => Done, m2b [], refs 0; "seen 4: page freed exactly here"
    [Do(lookup(G)), Do(map_own(B, Page::MfnOf(0)).flags(RW | NO_REF))] unmap(B) => Done, m2b [], refs 1; "seen 3: another BFN of the same MFN"
    [Do(lookup(G)), Do(map_own(B, Page::MfnOf(0)).flags(RW | NO_REF)), Do(unmap(B))] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: the lookup flag is consumed"
    [Do(lookup(G)), Do(unmap(ONE))] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: again"
    [Do(lookup(G)), Do(lookup(G)), Do(unmap(ONE))] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: after two lookups"
    [] unmap(B) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: a hole"
    [] unmap(Bus::Of(OWN)) => Status(Errno::ENOENT), on OWN, m2b [], refs 2; "seen 3: own page's 1:1 bfn"
    [Do(map_own(B, OWN))] unmap(B) => Status(Errno::ENOENT), on OWN, m2b [], refs 3; "seen 3: bfn of a map_page"
    [Do(lookup(G))] unmap(Bus::Mfn(G)) => Status(Errno::ENOENT), m2b [], refs 2; "seen 3: bfn without the offset"
    [] unmap(FAR) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: beyond the frame table, with control"
    [] unmap(ALL) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: ~0"
    [Do(lookup(G)), DestroyGuest] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 0; "seen 4: no zombie"
    [Do(lookup(G)), Do(unmap_own(ONE).flags(NO_REF))] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 2; "seen 3: 1:1 entry absent, pinned until domain death"
};

/// `dom0-iommu=strict`: control, but RAM is not in the 1:1 map.
#[rustfmt::skip]
const STRICT: &[Line] = lines! {
    [] caps() => Done, out Out::Caps(BOTH, Some(OFFSET)), m2b [], refs 1; "seen 1: dom0-iommu=strict"
    [] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: still 0, with a bfn that is not mapped"
    [Do(lookup(G))] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 2; "seen 3: for ever"
    [Do(lookup(G)), DestroyGuest] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 0; "seen 3: pinned until domain death"
    [] unmap_own(ONE).flags(NO_REF) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: a hole"
};

/// No IOMMU, or `dom0-iommu=passthrough`: identical, case by case.
#[rustfmt::skip]
const UNCONTROLLED: &[Line] = lines! {
    [] caps() => Done, out Out::Caps(0, None), m2b [], refs 1; "seen 1: flags 0, offset not written"
    [] map_own(B, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "seen 3: no control"
    [] map_own(B, OWN).flags(RW | NO_REF) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "seen 3: no control"
    [] unmap_own(B) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: no control"
    [] unmap_own(ALL) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: no control"
    [] map(B, G) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: no control; A4-6"
    [] map(B, Page::Hole) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: no control"
    [] map(B, G).of(NO_DOMAIN) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: no control"
    [Do(lookup(G))] map(B, G) => Status(Errno::EPERM), m2b [], refs 2; "seen 3: no control"
    [] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: bfn = mfn"
    [Do(lookup(G))] lookup(G) => Done, out Out::Bfn(ONE), m2b [], refs 2; "seen 3: the same"
    [] lookup(Page::Hole) => Status(Errno::ENXIO), m2b [], refs 1; "seen 3: the same"
    [] lookup(G).of(DOMID_SELF) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: the same"
    [] lookup(G).of(Domain::Pv) => Status(Errno::EPERM), m2b [], refs 1; "seen 3: the same"
    [Do(lookup(G))] unmap(ONE) => Done, m2b [], refs 1; "seen 3: the same"
    [Do(lookup(G)), Balloon(G)] unmap(ONE) => Done, m2b [], refs 0; "seen 4: no-ctl"
    [Do(lookup(G)), Do(unmap(ONE))] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: again"
    [] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "seen 3: not looked up"
    [] unmap(FAR) => Panics(Err(Errno::ENOENT)), m2b [], refs 1; "seen 3: bfn used unchecked as MFN; A4-14"
    [] unmap(ALL) => Panics(Err(Errno::ENOENT)), m2b [], refs 1; "seen 3: bfn used unchecked as MFN; A4-14"
    [] caps().order(1) => Status(Errno::ENOSPC), m2b [], refs 1; "seen 2"
    [] unknown(99) => Status(Errno::ENODEV), m2b [], refs 1; "seen 2"
};
