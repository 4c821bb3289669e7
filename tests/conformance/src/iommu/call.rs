//! An operation of `iommu_op` as data: who calls, with what in each field, by names that mean the same in every world.

use std::fmt;

use xen_ioreq::DomId;
use xen_ioreq::abi::iommu_op::*;

use crate::bench::NOBODY;

/// Read and write.
pub(super) const RW: u16 = IOMMUOP_readable | IOMMUOP_writeable;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Dom0,
    /// The PV domain that is the guest's device model, with an assigned device.
    Stub,
}

/// A bus frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bus {
    /// A number.
    At(&'static str, u64),
    /// Where the frame behind a guest frame is looked up: its machine number, or that plus the offset of the 1:1 map.
    Of(Page),
    /// Its machine number as it is.
    Mfn(Page),
}

/// Far from every machine frame number.
pub(super) const B: Bus = Bus::At("B", 0x10_0000);
pub(super) const B1: Bus = Bus::At("B+1", 0x10_0001);
pub(super) const B2: Bus = Bus::At("B+2", 0x10_0002);
pub(super) const B3: Bus = Bus::At("B+3", 0x10_0003);
/// Inside the RMRR of a device of dom0's.
pub(super) const RMRR: Bus = Bus::At("R (RMRR)", 0x20_0010);
/// Inside that of the stub domain's device.
pub(super) const STUB_RMRR: Bus = Bus::At("S (RMRR of the stub domain's device)", 0x30_0010);
/// Above what the unit translates.
pub(super) const HIGH: Bus = Bus::At("2^40", 1 << 40);
/// The same, and not a multiple of 2^36.
pub(super) const HIGH_B: Bus = Bus::At("2^40+B", 1 << 40 | 0x10_0000);
pub(super) const FAR: Bus = Bus::At("2^44", 1 << 44);
pub(super) const ALL: Bus = Bus::At("~0", u64::MAX);

/// What stands in the gfn field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Frames of the guest's RAM, from a multiple of 8 on, machine frames in a row.
    G(u64),
    /// Where the guest has no RAM.
    Hole,
    /// Where the frame that Xen shares with the guest is.
    Shared,
    /// All ones.
    Ones,
    /// A frame of dom0's own.
    Own(usize),
    /// The machine number of a frame of the guest's.
    MfnOf(u64),
    /// A machine frame of Xen's.
    Xens,
    /// A machine frame number without RAM.
    NoRam,
}

pub(super) const G: Page = Page::G(0);
pub(super) const G1: Page = Page::G(1);

/// What stands in the domid field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Guest,
    Own,
    Number(&'static str, DomId),
    /// A PV domain.
    Pv,
    /// A guest of which the stub domain is not the device model.
    Other,
}

pub(super) const NO_DOMAIN: Domain = Domain::Number("nobody", NOBODY);
pub(super) const DOMID_SELF: Domain = Domain::Number("DOMID_SELF", DomId::SELF);
pub(super) const DOMID_IO: Domain = Domain::Number("DOMID_IO", DomId::IO);
pub(super) const DOMID_XEN: Domain = Domain::Number("DOMID_XEN", DomId::XEN);
pub(super) const DOMID_INVALID: Domain = Domain::Number("DOMID_INVALID", DomId::INVALID);

/// What stands in the ioserver field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// The guest's servers: 0 and 1 dom0's, 2 the stub domain's.
    Of(usize),
    Number(u16),
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) by: By,
    pub(super) subop: u16,
    pub(super) bus: Bus,
    pub(super) page: Page,
    pub(super) domain: Domain,
    pub(super) server: Server,
    pub(super) flags: u16,
    pub(super) order: u16,
}

const fn call(subop: u16, bus: Bus, page: Page, flags: u16) -> Call {
    Call { by: By::Dom0, subop, bus, page, domain: Domain::Guest, server: Server::Of(0), flags, order: 0 }
}

pub(super) const fn caps() -> Call {
    call(IOMMUOP_query_caps, Bus::At("0xdead", 0xdead), Page::Hole, 0)
}

pub(super) const fn map_own(bus: Bus, page: Page) -> Call {
    call(IOMMUOP_map_page, bus, page, RW)
}

pub(super) const fn unmap_own(bus: Bus) -> Call {
    call(IOMMUOP_unmap_page, bus, Page::Hole, 0)
}

pub(super) const fn map(bus: Bus, page: Page) -> Call {
    call(IOMMUOP_map_foreign_page, bus, page, RW)
}

pub(super) const fn lookup(page: Page) -> Call {
    call(IOMMUOP_lookup_foreign_page, Bus::At("0xdead", 0xdead), page, 0)
}

pub(super) const fn unmap(bus: Bus) -> Call {
    call(IOMMUOP_unmap_foreign_page, bus, Page::Hole, 0)
}

pub(super) const fn unknown(subop: u16) -> Call {
    call(subop, B, G, 0)
}

impl Call {
    pub(super) const fn by_stub(self) -> Self {
        Self { by: By::Stub, server: Server::Of(2), ..self }
    }

    pub(super) const fn of(self, domain: Domain) -> Self {
        Self { domain, ..self }
    }

    pub(super) const fn server(self, server: usize) -> Self {
        Self { server: Server::Of(server), ..self }
    }

    pub(super) const fn server_number(self, number: u16) -> Self {
        Self { server: Server::Number(number), ..self }
    }

    pub(super) const fn flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    pub(super) const fn order(self, order: u16) -> Self {
        Self { order, ..self }
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(name, _) => f.write_str(name),
            Self::Of(page) => write!(f, "1:1({page})"),
            Self::Mfn(page) => write!(f, "MFN({page})"),
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::G(0) => f.write_str("G"),
            Self::G(n) => write!(f, "G+{n}"),
            Self::Hole => f.write_str("a hole"),
            Self::Shared => f.write_str("shared_info"),
            Self::Ones => f.write_str("~0"),
            Self::Own(n) => write!(f, "own{n}"),
            Self::MfnOf(n) => write!(f, "the MFN of G+{n}"),
            Self::Xens => f.write_str("an MFN of Xen's"),
            Self::NoRam => f.write_str("an MFN without RAM"),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest => f.write_str("the guest"),
            Self::Own => f.write_str("the caller"),
            Self::Number(name, _) => f.write_str(name),
            Self::Pv => f.write_str("a PV domain"),
            Self::Other => f.write_str("another guest"),
        }
    }
}

/// The name, and what is not as usual.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subop {
            IOMMUOP_query_caps => f.write_str("query_caps")?,
            IOMMUOP_map_page => write!(f, "map_page {} → {}", self.bus, self.page)?,
            IOMMUOP_unmap_page => write!(f, "unmap_page {}", self.bus)?,
            IOMMUOP_map_foreign_page => write!(f, "map_foreign {} → {}", self.bus, self.page)?,
            IOMMUOP_lookup_foreign_page => write!(f, "lookup_foreign {}", self.page)?,
            IOMMUOP_unmap_foreign_page => write!(f, "unmap_foreign {}", self.bus)?,
            n => write!(f, "sub-operation {n}")?,
        }
        if self.by == By::Stub {
            f.write_str(" by the stub domain")?;
        }
        if self.domain != Domain::Guest {
            write!(f, " of {}", self.domain)?;
        }
        match self.server {
            Server::Of(0) if self.by == By::Dom0 => {}
            Server::Of(2) if self.by == By::Stub => {}
            Server::Of(n) => write!(f, " for server {n}")?,
            Server::Number(n) => write!(f, " for ioserver {n:#x}")?,
        }
        let usual = if matches!(self.subop, IOMMUOP_map_page | IOMMUOP_map_foreign_page) { RW } else { 0 };
        if self.flags != usual {
            write!(f, ", flags {:#x}", self.flags)?;
        }
        if self.order != 0 {
            write!(f, ", order {}", self.order)?;
        }
        Ok(())
    }
}
