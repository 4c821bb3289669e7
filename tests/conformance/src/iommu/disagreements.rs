//! Where draft B and the code that was shipped disagree, with each other or with themselves, and what this project does.
//! Lines of the sheets refer to these by `A4-N`.

/// One disagreement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disagreement {
    pub(super) number: u32,
    pub(super) about: &'static str,
    /// What the profile `draft` does; `xs` does what was shipped.
    pub(super) decision: &'static str,
}

const fn d(number: u32, about: &'static str, decision: &'static str) -> Disagreement {
    Disagreement { number, about, decision }
}

#[rustfmt::skip]
pub(super) const ALL: &[Disagreement] = &[
    d(1, "The page order lies in bits 10 to 15; the shipped mask, cut to 16 bits, loses bits 11 to 13", "all six bits count, up to the unit's largest order"),
    d(2, "Bit 2 is `swap_mfn` in the draft's foreign operations, `no_ref_cnt` in the shipped local ones", "a meaning for each operation; `no_ref_cnt` is refused"),
    d(3, "`-ENODEV` is a bad ioserver in the draft, an unknown sub-operation in the code, which never looks at the ioserver", "as the draft; an unknown sub-operation is `-ENOSYS`"),
    d(4, "A BFN that is in use: the draft knows only RMRRs (`-EACCES`), the code says `-EPERM`", "RMRR `-EACCES`, another frame `-EPERM`"),
    d(5, "The shipped map_foreign_page refuses allocated pages, which lookup demands: it never works on guest memory", "guest memory can be mapped"),
    d(6, "Without IOMMU map_foreign_page gives the MFN, by one sentence of the draft, and fails, by its conditions", "`-EPERM`, the BFN untouched; lookup gives the MFN"),
    d(7, "lookup's bfn is an input in one sentence of the draft, an output in the table", "an output"),
    d(8, "The shipped unmap_page trusts the caller's flag about whether there is a reference to drop", "the mapping knows; the flag is not looked at"),
    d(9, "Bit 0 of unmap_page is `remove_m2b` in shipped code, undefined in the draft", "not looked at"),
    d(10, "The shipped M2B search matched anything; the draft's entries are (BFN, domid, ioserver)", "an exact match or none; another server may map the same frame at the same BFN"),
    d(11, "unmap_foreign_page names no domain", "the caller is part of the key"),
    d(12, "Shipped code serves the hardware domain only; the draft intends emulators in domains of their own", "any PV domain may call; each operation has its own conditions"),
    d(13, "The draft's 1:1 map has BFN = MFN; the shipped one lies at an offset", "BFN = MFN"),
    d(14, "Without IOMMU the shipped unmap_foreign_page uses the BFN as an MFN, unchecked", "checked: `-ENOENT`"),
];
