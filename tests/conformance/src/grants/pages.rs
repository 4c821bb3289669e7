//! What frames of a PV guest are used as: dom0 writes the entries of one that has never run, and copies and maps its page tables.
//!
//! On Xen the domain builder has made and pinned its page tables; Xen tells which frames they are. On the model they are pinned here.

use std::sync::Arc;

use mock_xen::{Config, DomainConfig, Machine, Profile};
use stubdom::grants::{GrantError, LinuxMapper, Mapper, TableMapper};
use stubdom::xenstore::{Store, StoreError, Transaction};
use xen_ioreq::abi::domctl::{
    XEN_DOMCTL_PFINFO_L1TAB, XEN_DOMCTL_PFINFO_L2TAB, XEN_DOMCTL_PFINFO_L3TAB, XEN_DOMCTL_PFINFO_L4TAB,
    XEN_DOMCTL_PFINFO_LPINTAB, XEN_DOMCTL_PFINFO_NOTAB,
};
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared};
use xen_ioreq::linux::{Privcmd, UnmapNotify};
use xen_ioreq::seam::{Mapping, Prot};
use xen_ioreq::{DomId, Errno, Gfn, GrantRef, Mfn};
use zerocopy::IntoBytes;

use crate::Row;
use crate::bench::{BenchError, Hypervisor};
use crate::case::{Answer, Case, Unmade, cases};
use crate::patience::Patience;
use crate::shared::{entry, set_entry};

const DOM0: DomId = DomId(0);
const NOTHING: UnmapNotify = UnmapNotify { clear_byte: None, send_event: None };
const ACCESS: u16 = GTF_permit_access;
/// References that rows use: of a page, of another, of a page table.
const PAGE: u32 = 9;
const OTHER: u32 = 10;
const TABLE: u32 = 11;
/// How many frames are asked about, half of them below that of the console. Xen says a line of each that is not the guest's.
const AT_ONCE: u64 = 1024;
/// Between two looks whether dom0's kernel has let go.
const MOMENT: std::time::Duration = std::time::Duration::from_millis(10);
/// The model's guest: frames, and what of them is what.
const FRAMES: u64 = 16;
const PAGES: [u64; 2] = [3, 4];
const TABLES: [u64; 4] = [8, 9, 10, 11];

/// The first of the frames among which the guest's page tables are. The domain builder puts them behind the console's page, and Xen
/// gives it frames side by side.
fn near(guest: DomId) -> Result<u64, StoreError> {
    let path = format!("/local/domain/{}/console/ring-ref", guest.0);
    let console = u64::from(Store::open()?.read_number(Transaction::NONE, &path)?);
    Ok(console.saturating_sub(AT_ONCE / 2))
}

/// The guest, and which of its frames is what, by the numbers that its entries name.
pub(super) struct Pages {
    hypervisor: Arc<dyn Hypervisor>,
    mapper: Box<dyn Mapper>,
    guest: DomId,
    table: Mapping,
    pages: [u64; 2],
    /// From the lowest level to the highest.
    levels: [u64; 4],
}

impl Pages {
    /// A guest of this Xen that has not run yet.
    fn on_xen(guest: DomId) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let privcmd = Privcmd::open()?;
        let first = near(guest)
            .map_err(|_| BenchError::Call { what: "its console's frame", errno: Errno::ENOENT })?;
        let some: Vec<_> = (first..first + AT_ONCE).map(Mfn).collect();
        let types = privcmd.page_types(guest, &some).map_err(call("what its frames are"))?;
        let of = |kind: u32| {
            let all = some.iter().zip(&types);
            all.filter(move |(_, ty)| **ty & !XEN_DOMCTL_PFINFO_LPINTAB == kind).map(|(mfn, _)| mfn.0)
        };
        let pages: Vec<_> = of(XEN_DOMCTL_PFINFO_NOTAB).collect();
        let levels = [
            of(XEN_DOMCTL_PFINFO_L1TAB).next(),
            of(XEN_DOMCTL_PFINFO_L2TAB).next(),
            of(XEN_DOMCTL_PFINFO_L3TAB).next(),
            of(XEN_DOMCTL_PFINFO_L4TAB).next(),
        ];
        let none = BenchError::Call {
            what: "a PV guest's pages and page tables of every level",
            errno: Errno::ENOENT,
        };
        // The last ones are those that the domain builder has put nothing in.
        let ([Some(l1), Some(l2), Some(l3), Some(l4)], [.., first, second]) = (levels, pages.as_slice())
        else {
            return Err(none);
        };
        let mapper =
            LinuxMapper::open().map_err(|_| BenchError::Call { what: "gntdev", errno: Errno::ENODEV })?;
        let (pages, levels) = ([*first, *second], [l1, l2, l3, l4]);
        Self::new(Arc::new(privcmd), Box::new(mapper), guest, pages, levels)
    }

    fn on_model(machine: &Arc<Machine>) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let config = DomainConfig { hvm: false, max_pages: FRAMES, ..DomainConfig::default() };
        let guest = machine.create_domain(&config)?;
        machine.populate(guest, Gfn(0), FRAMES).map_err(call("the guest's memory"))?;
        for table in TABLES {
            machine.pin_table(guest, Gfn(table)).map_err(call("a page table"))?;
        }
        let caller = Arc::new(machine.caller(DOM0).map_err(call("a handle for dom0"))?);
        Self::new(caller.clone(), Box::new(TableMapper::new(caller)), guest, PAGES, TABLES)
    }

    fn new(
        hypervisor: Arc<dyn Hypervisor>,
        mapper: Box<dyn Mapper>,
        guest: DomId,
        pages: [u64; 2],
        levels: [u64; 4],
    ) -> Result<Self, BenchError> {
        let (kind, id) = (XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared);
        let table = hypervisor.map_resource(guest, kind, id, 0, 1);
        let table = table.map_err(|errno| BenchError::Call { what: "the guest's table", errno })?;
        Ok(Self { hypervisor, mapper, guest, table, pages, levels })
    }

    fn write(&self, r: u32, flags: u16, frame: u64) -> Result<(), Unmade> {
        let frame = u32::try_from(frame).map_err(|_| Errno::ERANGE)?;
        let word = u64::from(flags) | u64::from(DOM0.0) << 16 | u64::from(frame) << 32;
        Ok(set_entry(&self.table, r as usize, word).ok_or(Errno::ERANGE)?)
    }

    fn flags(&self, r: u32) -> Result<u16, Unmade> {
        let [a, b, ..] = entry(&self.table, r as usize).ok_or(Errno::ERANGE)?.to_le_bytes();
        Ok(u16::from_le_bytes([a, b]))
    }

    /// State: two pages and the page table of a level are granted, from 1 on.
    fn granted(&self, level: usize, flags: u16) -> Result<(), Unmade> {
        let [page, other] = self.pages;
        self.write(PAGE, ACCESS, page)?;
        self.write(OTHER, ACCESS, other)?;
        self.write(TABLE, flags, *self.levels.get(level - 1).ok_or(Errno::ERANGE)?)
    }

    /// A copy of dom0's between two of them; the status.
    fn copy(&self, from: u32, to: u32) -> Answer {
        let end = |r: u32| gnttab_copy_ptr { u: r.into(), domid: self.guest.0, ..Default::default() };
        let flags = GNTCOPY_source_gref | GNTCOPY_dest_gref;
        let mut arg =
            gnttab_copy { source: end(from), dest: end(to), len: 8, flags, status: 1, ..Default::default() };
        self.hypervisor.grant_table_op(GNTTABOP_copy, arg.as_mut_bytes(), 1)?;
        Ok(arg.status.unsigned_abs().into())
    }

    /// What becomes of mapping one in dom0; Linux says EINVAL, whatever the status.
    fn map(&self, r: u32, prot: Prot) -> Answer {
        match self.mapper.map(self.guest, &[GrantRef(r)], prot, NOTHING) {
            Ok(_) => Ok(0),
            Err(GrantError::Map { errno, .. }) => Err(errno),
            Err(_) => Err(Errno::EINVAL),
        }
    }

    /// The flags of an entry when the hypervisor has no mark there any more.
    fn at_rest(&self, r: u32) -> Result<u16, Unmade> {
        let mut patience = Patience::new(());
        loop {
            let flags = self.flags(r)?;
            if flags & (GTF_reading | GTF_writing) == 0 || !patience.lasts(()) {
                return Ok(flags);
            }
            std::thread::sleep(MOMENT);
        }
    }

    fn reset(&self) -> Result<(), Unmade> {
        for r in [PAGE, OTHER, TABLE] {
            if self.at_rest(r)? & (GTF_reading | GTF_writing) != 0 {
                return Err(Unmade(Errno::EBUSY));
            }
            self.write(r, 0, 0)?;
        }
        Ok(())
    }
}

pub(super) const ROWS: &[Case<Pages>] = cases! { Pages;
    "copy_between_two_pages" ["header"] => Ok(0), |s| {
        s.granted(1, ACCESS)?;
        s.copy(PAGE, OTHER)
    };
    "map_of_a_page_for_writing" ["header"] => Ok(0), |s| {
        s.granted(1, ACCESS)?;
        s.map(PAGE, Prot::ReadWrite)
    };
    "copy_from_a_page_table" ["Xen: read by anybody"] => Ok(0), |s| {
        s.granted(1, ACCESS)?;
        s.copy(TABLE, PAGE)
    };
    "copy_from_a_page_table_of_level_2" ["Xen: read by anybody"] => Ok(0), |s| {
        s.granted(2, ACCESS)?;
        s.copy(TABLE, PAGE)
    };
    "copy_from_a_page_table_of_level_3" ["Xen: read by anybody"] => Ok(0), |s| {
        s.granted(3, ACCESS)?;
        s.copy(TABLE, PAGE)
    };
    "copy_from_a_page_table_of_level_4" ["Xen: read by anybody"] => Ok(0), |s| {
        s.granted(4, ACCESS)?;
        s.copy(TABLE, PAGE)
    };
    "copy_to_a_page_table" ["Xen: no writable page"] => Ok(1), |s| {
        s.granted(1, ACCESS)?;
        s.copy(PAGE, TABLE)
    };
    "copy_to_a_page_table_of_level_2" ["Xen: no writable page"] => Ok(1), |s| {
        s.granted(2, ACCESS)?;
        s.copy(PAGE, TABLE)
    };
    "copy_to_a_page_table_of_level_3" ["Xen: no writable page"] => Ok(1), |s| {
        s.granted(3, ACCESS)?;
        s.copy(PAGE, TABLE)
    };
    "copy_to_a_page_table_of_level_4" ["Xen: no writable page"] => Ok(1), |s| {
        s.granted(4, ACCESS)?;
        s.copy(PAGE, TABLE)
    };
    "copy_to_a_page_table_leaves_no_mark" ["D"] => Ok(ACCESS as u64), |s| {
        s.granted(1, ACCESS)?;
        s.copy(PAGE, TABLE)?;
        Ok(s.flags(TABLE)?.into())
    };
    "map_of_a_page_table_for_reading" ["Xen: read by anybody"] => Ok(0), |s| {
        s.granted(1, ACCESS)?;
        s.map(TABLE, Prot::Read)
    };
    "map_of_a_page_table_of_level_4_for_reading" ["Xen: read by anybody"] => Ok(0), |s| {
        s.granted(4, ACCESS | GTF_readonly)?;
        s.map(TABLE, Prot::Read)
    };
    "map_of_a_page_table_for_writing" ["Xen: no writable page"] => Err(Errno::EINVAL), |s| {
        s.granted(1, ACCESS)?;
        s.map(TABLE, Prot::ReadWrite)
    };
    "map_of_a_page_table_of_level_4_for_writing" ["Xen: no writable page"] => Err(Errno::EINVAL), |s| {
        s.granted(4, ACCESS)?;
        s.map(TABLE, Prot::ReadWrite)
    };
    "map_of_a_page_table_for_writing_leaves_no_mark" ["D"] => Ok(ACCESS as u64), |s| {
        s.granted(1, ACCESS)?;
        let _refused = s.map(TABLE, Prot::ReadWrite);
        Ok(s.flags(TABLE)?.into())
    };
    "copy_to_a_page_table_that_is_mapped_for_reading" ["Xen: no writable page"] => Ok(1), |s| {
        s.granted(1, ACCESS)?;
        let _mapped = s.mapper.map(s.guest, &[GrantRef(TABLE)], Prot::Read, NOTHING).map_err(|_| Errno::EINVAL)?;
        s.copy(PAGE, TABLE)
    };
};

/// Every row, on a PV guest of Xen that has not run yet, or on the model.
pub(super) fn rows(on_xen: Option<DomId>) -> Result<Vec<Row>, BenchError> {
    let mut pages = match on_xen {
        Some(guest) => Pages::on_xen(guest)?,
        None => {
            let config = Config { frames: 1024, profile: Profile::Stock, ..Config::default() };
            Pages::on_model(&Machine::new(config)?)?
        }
    };
    let run = |case: &Case<Pages>| {
        let mut row = case.run("a PV guest's pages", &mut pages);
        if let Err(Unmade(e)) = pages.reset() {
            row.ok = false;
            row.detail += &format!("; it could not be undone: {e}");
        }
        row
    };
    Ok(ROWS.iter().map(run).collect())
}
