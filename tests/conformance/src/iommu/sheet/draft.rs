//! Statuses of draft B. Who says so: the draft, the code that was shipped (read, or seen to answer), or, where those
//! contradict each other or themselves, a decision of this project (A4: the list of disagreements in docs/pv-iommu.md).

use mock_xen::Iommu;
use xen_ioreq::Errno;
use xen_ioreq::abi::iommu_op::*;

use super::Step::{Balloon, DestroyGuest, DestroyStub, Do, Populate, ShareInfo};
use super::Want::{Done, Status};
use super::{Entry, Line, Out, Sheet, lines};
use crate::iommu::call::*;
use crate::iommu::world::Profile;

pub(in crate::iommu) const SHEETS: &[Sheet] = &[
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::On,
        section: "IOMMUOP_query_caps, and sub-operations that are none",
        lines: QUERY_CAPS,
    },
    Sheet { profile: Profile::Draft, iommu: Iommu::On, section: "IOMMUOP_map_page", lines: MAP_PAGE },
    Sheet { profile: Profile::Draft, iommu: Iommu::On, section: "IOMMUOP_unmap_page", lines: UNMAP_PAGE },
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::On,
        section: "IOMMUOP_map_foreign_page",
        lines: MAP_FOREIGN,
    },
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::On,
        section: "IOMMUOP_lookup_foreign_page",
        lines: LOOKUP,
    },
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::On,
        section: "IOMMUOP_unmap_foreign_page",
        lines: UNMAP_FOREIGN,
    },
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::Absent,
        section: "every sub-operation, without control of an IOMMU",
        lines: UNCONTROLLED,
    },
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::Passthrough,
        section: "every sub-operation, without control of an IOMMU",
        lines: UNCONTROLLED,
    },
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::Passthrough,
        section: "a stub domain with an assigned device",
        lines: PASSTHROUGH_STUB,
    },
    Sheet {
        profile: Profile::Draft,
        iommu: Iommu::OneToOne,
        section: "every sub-operation, dom0 mapped 1:1",
        lines: ONE_TO_ONE,
    },
];

/// An entry for dom0's first server, its second, the stub domain's.
const fn a(bus: Bus) -> Entry {
    (bus, By::Dom0, 0)
}
const fn b(bus: Bus) -> Entry {
    (bus, By::Dom0, 1)
}
const fn s(bus: Bus) -> Entry {
    (bus, By::Stub, 2)
}

/// What query_caps says: map, and the largest order.
const CAN_MAP: u16 = IOMMU_QUERY_map_cap | 9 << IOMMU_page_order_shift;
const SWAP: u16 = RW | IOMMUOP_swap_mfn;
const OWN: Page = Page::Own(0);
const ONE: Bus = Bus::Of(G);

#[rustfmt::skip]
const QUERY_CAPS: &[Line] = lines! {
    [] caps() => Done, out Out::Caps(CAN_MAP, None), m2b [], refs 1; "draft B: IOMMU_QUERY_map_cap, IOMMU_page_order"
    [] caps().flags(0x3fe) => Done, out Out::Caps(CAN_MAP, None), m2b [], refs 1; "draft B: flags are out"
    [] caps().by_stub() => Done, out Out::Caps(CAN_MAP, None), m2b [], refs 1; "draft B: emulators in domains of their own; A4-12"
    [] unknown(0) => Status(Errno::ENOSYS), m2b [], refs 1; "A4-3: ENODEV is for servers"
    [] unknown(99) => Status(Errno::ENOSYS), m2b [], refs 1; "A4-3: ENODEV is for servers"
    [] unknown(0xffff) => Status(Errno::ENOSYS), m2b [], refs 1; "A4-3: ENODEV is for servers"
};

#[rustfmt::skip]
const MAP_PAGE: &[Line] = lines! {
    [] map_own(B, OWN) => Done, on OWN, m2b [], refs 3; "draft B: map_page"
    [Do(map_own(B, OWN))] map_own(B1, OWN) => Done, on OWN, m2b [], refs 4; "seen: same MFN to a second BFN"
    [] map_own(B, OWN).order(1) => Done, on Page::Own(1), m2b [], refs 3; "draft B: IOMMU_page_order"
    [] map_own(B, OWN).flags(IOMMUOP_readable) => Done, on OWN, m2b [], refs 3; "draft B: IOMMUOP_readable"
    [] map_own(RMRR, OWN) => Status(Errno::EACCES), on OWN, m2b [], refs 2; "draft B: RMRR of a device attached to DOMID_SELF"
    [] map_own(STUB_RMRR, OWN) => Done, on OWN, m2b [], refs 3; "draft B: RMRR of a device attached to DOMID_SELF"
    [] map_own(HIGH, OWN) => Status(Errno::EIO), on OWN, m2b [], refs 2; "draft B: IOMMU unit returned error"
    [] map_own(ALL, OWN) => Status(Errno::EIO), on OWN, m2b [], refs 2; "draft B: IOMMU unit returned error"
    [Do(map_own(B, OWN))] map_own(B, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 3; "seen: identical again; A4-4"
    [Do(map_own(B, OWN))] map_own(B, Page::Own(1)) => Status(Errno::EPERM), on Page::Own(1), m2b [], refs 2; "seen: other MFN to the same BFN; A4-4"
    [Do(map(B, G))] map_own(B, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "A4-4"
    [] map_own(B, Page::MfnOf(0)) => Status(Errno::EPERM), m2b [], refs 1; "seen: a guest's MFN"
    [] map_own(B, Page::Xens) => Status(Errno::EPERM), m2b [], refs 1; "draft B: GFN belongs to Xen; seen"
    [] map_own(B, Page::NoRam) => Status(Errno::EPERM), m2b [], refs 1; "seen: no RAM behind it"
    [] map_own(B, Page::Ones) => Status(Errno::EPERM), m2b [], refs 1; "seen: ~0"
    [] map_own(B, OWN).by_stub() => Status(Errno::EPERM), on OWN, m2b [], refs 2; "draft B: own frames only"
    [] map_own(B, OWN).flags(0) => Status(Errno::EINVAL), on OWN, m2b [], refs 2; "decision: it would map nothing"
    [] map_own(B, OWN).flags(RW | IOMMU_MAP_OP_no_ref_cnt) => Status(Errno::EINVAL), on OWN, m2b [], refs 2; "A4-2, A4-8: no mapping without a reference"
    [] map_own(B, OWN).order(10) => Status(Errno::ENOSPC), on OWN, m2b [], refs 2; "draft B: order too large for the unit"
    [] map_own(B1, OWN).order(1) => Status(Errno::ENOSPC), on OWN, m2b [], refs 2; "draft B: order too large for the BFN"
    [] map_own(B, Page::Own(1)).order(1) => Status(Errno::ENOSPC), on OWN, m2b [], refs 2; "draft B: order too large for the GFN"
    [Do(map_own(B1, Page::Own(1)))] map_own(B, OWN).order(1) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "decision: all frames of an order or none"
};

#[rustfmt::skip]
const UNMAP_PAGE: &[Line] = lines! {
    [Do(map_own(B, OWN))] unmap_own(B) => Done, on OWN, m2b [], refs 2; "draft B: unmap_page"
    [Do(map_own(B, OWN))] unmap_own(B).flags(IOMMU_UNMAP_OP_remove_m2b) => Done, on OWN, m2b [], refs 2; "A4-9: the flag means nothing here"
    [Do(map_own(B, OWN))] unmap_own(B).flags(IOMMU_MAP_OP_no_ref_cnt) => Done, on OWN, m2b [], refs 2; "A4-8: the mapping knows that it has a reference"
    [Do(map_own(B, OWN).order(1))] unmap_own(B).order(1) => Done, on Page::Own(1), m2b [], refs 2; "draft B: IOMMU_page_order"
    [Do(map_own(B, OWN).order(1))] unmap_own(B1) => Done, on Page::Own(1), m2b [], refs 2; "decision: an order is so many single frames"
    [Do(map_own(B, OWN)), Do(unmap_own(B))] unmap_own(B) => Status(Errno::ENOENT), on OWN, m2b [], refs 2; "seen: again"
    [] unmap_own(B) => Status(Errno::ENOENT), m2b [], refs 1; "seen: a hole"
    [] unmap_own(FAR) => Status(Errno::ENOENT), m2b [], refs 1; "seen: a hole"
    [] unmap_own(ALL) => Status(Errno::ENOENT), m2b [], refs 1; "decision: nothing is there"
    [Do(map(B, G))] unmap_own(B) => Status(Errno::ENOENT), m2b [a(B)], refs 2; "decision: that is unmap_foreign_page's"
    [Do(map_own(B, OWN))] unmap_own(B).by_stub() => Status(Errno::ENOENT), on OWN, m2b [], refs 3; "draft B: the caller's own"
    [Do(map_own(B, OWN))] unmap_own(B).order(1) => Status(Errno::ENOENT), on OWN, m2b [], refs 3; "decision: all frames of an order or none"
    [Do(map_own(B, OWN))] unmap_own(B).order(10) => Status(Errno::ENOSPC), on OWN, m2b [], refs 3; "draft B: order too large for the unit"
    [Do(map_own(B1, OWN))] unmap_own(B1).order(1) => Status(Errno::ENOSPC), on OWN, m2b [], refs 3; "draft B: order too large for the BFN"
};

#[rustfmt::skip]
const MAP_FOREIGN: &[Line] = lines! {
    [] map(B, G) => Done, m2b [a(B)], refs 2; "draft B: every new M2B entry takes a reference; A4-5"
    [Do(map(B, G))] map(B, G) => Done, m2b [a(B)], refs 2; "draft B: an existing identical M2B entry"
    [Do(map(B, G))] map(B, G).server(1) => Done, m2b [a(B), b(B)], refs 3; "draft B: (BFN, domid, ioserver); A4-10"
    [Do(map(B, G))] map(B1, G) => Done, m2b [a(B), a(B1)], refs 3; "draft B: (BFN, domid, ioserver)"
    [Do(map(B, G))] map(B, G).by_stub() => Done, m2b [a(B), s(B)], refs 3; "draft B: emulators in domains of their own"
    [] map(B, G).by_stub() => Done, m2b [s(B)], refs 2; "draft B: condition 2, a device is assigned"
    [] map(B, G).flags(IOMMUOP_readable) => Done, m2b [a(B)], refs 2; "draft B: IOMMUOP_readable"
    [] map(B, G).flags(IOMMUOP_writeable) => Done, m2b [a(B)], refs 2; "draft B: IOMMUOP_writeable"
    [] map(B, G).flags(SWAP) => Done, m2b [a(B)], refs 2; "draft B: IOMMUOP_swap_mfn; A4-2"
    [] map(B, G).flags(0x3f8 | RW) => Done, m2b [a(B)], refs 2; "seen: reserved bits are not looked at"
    [] map(B, G).order(1) => Done, on G1, m2b [a(B1)], refs 2; "draft B: IOMMU_page_order; A4-1"
    [] map(B, G).order(2) => Done, on Page::G(3), m2b [a(B3)], refs 2; "draft B: bits 10 to 15; A4-1"
    [] map(STUB_RMRR, G) => Done, m2b [a(STUB_RMRR)], refs 2; "draft B: RMRR of a device attached to DOMID_SELF"
    [] map(RMRR, G).by_stub() => Done, m2b [s(RMRR)], refs 2; "draft B: RMRR of a device attached to DOMID_SELF"
    [Do(map(B, G).flags(SWAP)), Balloon(G), Populate(G)] map(B, G) => Done, m2b [a(B)], refs 2; "decision: scratch makes room"
    [] map(HIGH, G) => Status(Errno::EIO), m2b [], refs 1; "draft B: IOMMU unit returned error"
    [] map(ALL, G) => Status(Errno::EIO), m2b [], refs 1; "draft B: IOMMU unit returned error"
    [] map(B, G).of(Domain::Other).by_stub() => Status(Errno::EPERM), m2b [], refs 1; "draft B: sufficient privilege over domid"
    [] map(B, G).of(Domain::Pv) => Status(Errno::EPERM), m2b [], refs 1; "shipped code; seen: PV"
    [ShareInfo] map(B, Page::Shared) => Status(Errno::EPERM), on Page::Shared, m2b [], refs 1; "draft B: the GFN belongs to Xen"
    [] map(B, G).of(DOMID_SELF) => Status(Errno::EPERM), m2b [], refs 1; "draft B: domid maps to DOMID_SELF"
    [] map(B, G).of(Domain::Own) => Status(Errno::EPERM), m2b [], refs 1; "draft B: the calling domain's number"
    [Do(map(B, G))] map(B, G1) => Status(Errno::EPERM), on G1, m2b [], refs 1; "A4-4: another MFN"
    [Do(map(B, G)), Do(map(B, G).server(1))] map(B, G1) => Status(Errno::EPERM), m2b [a(B), b(B)], refs 3; "A4-4: another MFN"
    [Do(map_own(B, OWN))] map(B, G) => Status(Errno::EPERM), m2b [], refs 1; "A4-4: another MFN"
    [Do(map(B, G).flags(SWAP)), Balloon(G)] map(B, G1).server(1) => Status(Errno::EPERM), on G1, m2b [], refs 1; "decision: scratch makes room for its own server only"
    [] map(RMRR, G) => Status(Errno::EACCES), m2b [], refs 1; "draft B: RMRR of a device attached to DOMID_SELF"
    [] map(STUB_RMRR, G).by_stub() => Status(Errno::EACCES), m2b [], refs 1; "draft B: RMRR of a device attached to DOMID_SELF"
    [] map(B, G).server_number(7) => Status(Errno::ENODEV), m2b [], refs 1; "draft B: ioserver id is not valid"
    [] map(B, G).server_number(0xffff) => Status(Errno::ENODEV), m2b [], refs 1; "draft B: ioserver id is not valid"
    [] map(B, G).server(2) => Status(Errno::ENODEV), m2b [], refs 1; "draft B: ioserver id; another emulator's"
    [] map(B, G).by_stub().server(0) => Status(Errno::ENODEV), m2b [], refs 1; "draft B: ioserver id; another emulator's"
    [] map(B, G).of(NO_DOMAIN) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: domid is not valid"
    [] map(B, G).of(DOMID_XEN) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: domid is not valid"
    [] map(B, G).of(DOMID_INVALID) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: domid is not valid"
    [DestroyGuest] map(B, G) => Status(Errno::ENXIO), m2b [], refs 0; "draft B: domid is not valid"
    [] map(B, Page::Hole) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: GFN address is not valid"
    [] map(B, Page::Ones) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: GFN address is not valid"
    [Balloon(G)] map(B, G) => Status(Errno::ENXIO), m2b [], refs 0; "draft B: GFN address is not valid"
    [Balloon(G1)] map(B, G).order(1) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: GFN address is not valid"
    [] map(B, G).order(10) => Status(Errno::ENOSPC), m2b [], refs 1; "draft B: order too large for the unit"
    [] map(B1, G).order(1) => Status(Errno::ENOSPC), m2b [], refs 1; "draft B: order too large for the BFN"
    [] map(B, G1).order(1) => Status(Errno::ENOSPC), on G1, m2b [], refs 1; "draft B: order too large for the GFN"
    [Balloon(G1), Balloon(Page::G(2)), Populate(G1)] map(B, G).order(1) => Status(Errno::ENOSPC), m2b [], refs 1; "draft B: order too large for the GFN, whose frames lie apart"
    [Do(map(B1, Page::G(2)))] map(B, G).order(1) => Status(Errno::EPERM), m2b [], refs 1; "decision: all frames of an order or none"
    [] map(B, G).flags(0) => Status(Errno::EINVAL), m2b [], refs 1; "decision: it would map nothing"
};

#[rustfmt::skip]
const LOOKUP: &[Line] = lines! {
    [Do(map(B, G))] lookup(G) => Done, out Out::Bfn(B), m2b [a(B)], refs 2; "draft B: an existing identical M2B entry"
    [Do(map(B, G))] lookup(G).server(1) => Done, out Out::Bfn(B), m2b [a(B), b(B)], refs 3; "draft B: every new M2B entry takes a reference"
    [Do(map(B, G)), Do(lookup(G).server(1)), Do(unmap(B))] lookup(G).server(1) => Done, out Out::Bfn(B), m2b [b(B)], refs 2; "draft B: M2B"
    [Do(map(B, G).order(1))] lookup(G).order(1) => Done, out Out::Bfn(B), m2b [a(B)], refs 2; "draft B: IOMMU_page_order"
    [] lookup(G) => Status(Errno::ENOENT), m2b [], refs 1; "Crossley: M2B, then 1:1, then -ENOENT"
    [Do(map(B, G))] lookup(G).by_stub() => Status(Errno::ENOENT), m2b [a(B)], refs 2; "Crossley: only the hardware domain has 1:1 mappings"
    [Do(map(B, G))] lookup(G).order(1) => Status(Errno::ENOENT), m2b [a(B)], refs 2; "decision: all frames of an order or none"
    [] lookup(G).of(DOMID_SELF) => Status(Errno::EPERM), m2b [], refs 1; "draft B: domid maps to DOMID_SELF"
    [] lookup(G).of(Domain::Own) => Status(Errno::EPERM), m2b [], refs 1; "draft B: the calling domain's number"
    [] lookup(G).of(Domain::Pv) => Status(Errno::EPERM), m2b [], refs 1; "shipped code; seen: PV"
    [] lookup(G).of(Domain::Other).by_stub() => Status(Errno::EPERM), m2b [], refs 1; "draft B: sufficient privilege over domid"
    [ShareInfo] lookup(Page::Shared) => Status(Errno::EPERM), on Page::Shared, m2b [], refs 1; "draft B: the GFN belongs to Xen"
    [] lookup(G).of(NO_DOMAIN) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: domid is not valid"
    [DestroyGuest] lookup(G) => Status(Errno::ENXIO), m2b [], refs 0; "draft B: domid is not valid"
    [] lookup(Page::Hole) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: GFN address is not valid"
    [Do(map(B, G)), Balloon(G)] lookup(G) => Status(Errno::ENXIO), m2b [a(B)], refs 1; "draft B: GFN address is not valid"
    [] lookup(G).server_number(7) => Status(Errno::ENODEV), m2b [], refs 1; "draft B: ioserver id is not valid"
    [] lookup(G).by_stub().server(0) => Status(Errno::ENODEV), m2b [], refs 1; "draft B: ioserver id; another emulator's"
    [] lookup(G).order(10) => Status(Errno::ENOSPC), m2b [], refs 1; "draft B: order too large for the unit"
    [] lookup(G1).order(1) => Status(Errno::ENOSPC), on G1, m2b [], refs 1; "draft B: order too large for the GFN"
    [Do(map(B, G)), Do(map(B2, G1))] lookup(G).order(1) => Status(Errno::ENOSPC), m2b [a(B)], refs 2; "draft B: order too large for the BFN, which lie apart"
};

#[rustfmt::skip]
const UNMAP_FOREIGN: &[Line] = lines! {
    [Do(map(B, G))] unmap(B) => Done, m2b [], refs 1; "draft B: removing an entry gives its reference back"
    [Do(map(B, G)), Do(map(B, G).server(1))] unmap(B) => Done, m2b [b(B)], refs 2; "shipped code: no entry under any ioserver remains"
    [Do(map(B, G)), Do(map(B, G).server(1))] unmap(B).server(1) => Done, m2b [a(B)], refs 2; "shipped code: no entry under any ioserver remains"
    [Do(map(B, G)), Do(map(B1, G))] unmap(B) => Done, m2b [a(B1)], refs 2; "draft B: (BFN, domid, ioserver)"
    [Do(map(B, G)), Do(map(B, G).by_stub())] unmap(B).by_stub() => Done, m2b [a(B)], refs 2; "A4-11: the caller is part of the key"
    [Do(map(B, G)), Balloon(G)] unmap(B) => Done, m2b [], refs 0; "draft B: the MFN can be freed"
    [Do(map(B, G)), DestroyGuest] unmap(B) => Done, m2b [], refs 0; "draft B: references"
    [Do(map(B, G).order(1))] unmap(B).order(1) => Done, on G1, m2b [], refs 1; "draft B: IOMMU_page_order"
    [Do(map(B, G).order(1))] unmap(B1) => Done, on G1, m2b [], refs 1; "decision: an order is so many single frames"
    [Do(map(B, G).flags(SWAP))] unmap(B) => Done, m2b [], refs 1; "draft B: IOMMUOP_swap_mfn"
    [Do(map(B, G).flags(SWAP)), Balloon(G)] unmap(B) => Done, m2b [], refs 0; "decision: not required, and not refused"
    [Do(map(B, G)), Do(unmap(B))] unmap(B) => Status(Errno::ENOENT), m2b [], refs 1; "shipped code; seen: again"
    [] unmap(B) => Status(Errno::ENOENT), m2b [], refs 1; "seen: a hole"
    [] unmap(FAR) => Status(Errno::ENOENT), m2b [], refs 1; "A4-14: checked"
    [] unmap(ALL) => Status(Errno::ENOENT), m2b [], refs 1; "A4-14: checked"
    [Do(map(B, G))] unmap(B).server(1) => Status(Errno::ENOENT), m2b [a(B)], refs 2; "A4-10: exact match or none"
    [Do(map(B, G))] unmap(B).by_stub() => Status(Errno::ENOENT), m2b [a(B)], refs 2; "A4-11: the caller is part of the key"
    [Do(map_own(B, OWN))] unmap(B) => Status(Errno::ENOENT), on OWN, m2b [], refs 3; "seen: bfn of a map_page"
    [Do(map(B, G).flags(SWAP)), Balloon(G)] unmap(B).server(1) => Status(Errno::ENOENT), m2b [], refs 0; "A4-10: exact match or none"
    [Do(map(B, G).by_stub()), DestroyStub] unmap(B) => Status(Errno::ENOENT), m2b [], refs 1; "decision: nothing outlives its emulator's domain"
    [Do(map(B, G))] unmap(B).order(1) => Status(Errno::ENOENT), m2b [a(B)], refs 2; "decision: all frames of an order or none"
    [Do(map(B, G))] unmap(B).order(10) => Status(Errno::ENOSPC), m2b [a(B)], refs 2; "draft B: order too large for the unit"
    [Do(map(B1, G))] unmap(B1).order(1) => Status(Errno::ENOSPC), m2b [a(B1)], refs 2; "draft B: order too large for the BFN"
};

#[rustfmt::skip]
const UNCONTROLLED: &[Line] = lines! {
    [] caps() => Done, out Out::Caps(0, None), m2b [], refs 1; "draft B: conditions 1 and 3"
    [] map_own(B, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "seen: no control"
    [] unmap_own(B) => Status(Errno::ENOENT), m2b [], refs 1; "seen: no control"
    [] map(B, G) => Status(Errno::EPERM), m2b [], refs 1; "draft B: conditions 1 and 3; A4-6"
    [] map(B, Page::Hole) => Status(Errno::EPERM), m2b [], refs 1; "seen: no control, before all else"
    [] lookup(G) => Done, out Out::Bfn(ONE), m2b [a(ONE)], refs 2; "draft B: the MFN is returned in the BFN field; A4-7"
    [Do(lookup(G))] lookup(G) => Done, out Out::Bfn(ONE), m2b [a(ONE)], refs 2; "draft B: an existing identical M2B entry"
    [Do(lookup(G))] lookup(G).server(1) => Done, out Out::Bfn(ONE), m2b [a(ONE), b(ONE)], refs 3; "draft B: a new M2B entry"
    [] lookup(G).order(1) => Done, out Out::Bfn(ONE), on G, m2b [a(ONE)], refs 2; "draft B: IOMMU_page_order"
    [] lookup(Page::Hole) => Status(Errno::ENXIO), m2b [], refs 1; "draft B: GFN address is not valid"
    [] lookup(G).of(DOMID_SELF) => Status(Errno::EPERM), m2b [], refs 1; "draft B: domid maps to DOMID_SELF"
    [] lookup(G).server_number(7) => Status(Errno::ENODEV), m2b [], refs 1; "draft B: ioserver id is not valid"
    [Do(lookup(G))] unmap(ONE) => Done, m2b [], refs 1; "draft B: unmap_foreign_page"
    [Do(lookup(G)), Balloon(G)] unmap(ONE) => Done, m2b [], refs 0; "draft B: hosts with no IOMMU support"
    [Do(lookup(G)), Do(unmap(ONE))] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "seen: again"
    [Do(lookup(G))] unmap(ONE).server(1) => Status(Errno::ENOENT), m2b [a(ONE)], refs 2; "A4-10: exact match or none"
    [] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "A4-14: checked"
    [] unmap(FAR) => Status(Errno::ENOENT), m2b [], refs 1; "A4-14: checked"
};

#[rustfmt::skip]
const PASSTHROUGH_STUB: &[Line] = lines! {
    [] caps().by_stub() => Done, out Out::Caps(CAN_MAP, None), m2b [], refs 1; "draft B: condition 3 is about the hardware domain"
    [] map(B, G).by_stub() => Done, m2b [s(B)], refs 2; "draft B: condition 2, a device is assigned"
};

#[rustfmt::skip]
const ONE_TO_ONE: &[Line] = lines! {
    [] caps() => Done, out Out::Caps(CAN_MAP | IOMMU_QUERY_map_all_mfns, None), m2b [], refs 1; "draft B: IOMMU_QUERY_map_all_mfns; the map takes no reference"
    [] caps().by_stub() => Done, out Out::Caps(CAN_MAP, None), m2b [], refs 1; "Crossley: only the hardware domain has 1:1 mappings"
    [] lookup(G) => Done, out Out::Bfn(ONE), m2b [a(ONE)], refs 2; "Crossley: the BFN that is 1:1 mapped; A4-13"
    [Do(lookup(G))] lookup(G) => Done, out Out::Bfn(ONE), m2b [a(ONE)], refs 2; "draft B: an existing identical M2B entry"
    [Do(map(B, G))] lookup(G) => Done, out Out::Bfn(B), m2b [a(B)], refs 2; "Crossley: M2B first"
    [] lookup(G).by_stub() => Status(Errno::ENOENT), m2b [], refs 1; "Crossley: only the hardware domain has 1:1 mappings"
    [Do(unmap_own(ONE))] lookup(G) => Status(Errno::ENOENT), m2b [], refs 1; "Crossley: -ENOENT"
    [] map(ONE, G) => Done, m2b [a(ONE)], refs 2; "A4-10: the same MFN is no conflict"
    [] map(ONE, G).flags(SWAP) => Done, m2b [a(ONE)], refs 2; "decision: Xen's own map is not swapped"
    [] map(ONE, G1) => Status(Errno::EPERM), on G1, m2b [], refs 1; "A4-4: another MFN"
    [Do(unmap_own(ONE))] map(ONE, G1) => Done, on G1, m2b [a(ONE)], refs 2; "Crossley: unmap_page for what conflicts"
    [] map_own(ONE, OWN) => Status(Errno::EPERM), on OWN, m2b [], refs 2; "seen: BFN inside the 1:1 area"
    [] unmap_own(ONE) => Done, m2b [], refs 1; "Crossley: unmap_page for what conflicts"
    [Do(lookup(G))] unmap_own(ONE) => Status(Errno::ENOENT), m2b [a(ONE)], refs 2; "decision: that is unmap_foreign_page's"
    [Do(lookup(G))] unmap(ONE) => Done, m2b [], refs 1; "draft B: unmap_foreign_page"
    [Do(lookup(G)), Do(unmap(ONE))] lookup(G) => Done, out Out::Bfn(ONE), m2b [a(ONE)], refs 2; "decision: Xen's own map stays"
    [] unmap(ONE) => Status(Errno::ENOENT), m2b [], refs 1; "seen: own page's 1:1 bfn"
};
