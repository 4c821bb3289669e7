//! Which server answers an access.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use xen_ioreq::abi::dm_op::{XEN_DMOP_IO_RANGE_MEMORY, XEN_DMOP_IO_RANGE_PCI, XEN_DMOP_IO_RANGE_PORT};
use xen_ioreq::abi::ioreq::{IOREQ_TYPE_COPY, IOREQ_TYPE_PCI_CONFIG, IOREQ_TYPE_PIO};

use super::Server;
use super::request::Request;
use crate::domain::Domain;

/// Port of the configuration address latch.
pub(crate) const CF8: u64 = 0xcf8;
const CFC: u64 = 0xcfc;
const CF8_ENABLE: u32 = 1 << 31;

/// The table of ranges of one type.
pub(crate) fn range_index(ty: u32) -> Option<usize> {
    match ty {
        XEN_DMOP_IO_RANGE_PORT => Some(0),
        XEN_DMOP_IO_RANGE_MEMORY => Some(1),
        XEN_DMOP_IO_RANGE_PCI => Some(2),
        _ => None,
    }
}

/// The server for a port or memory access, and the request as it is to be sent: an access to CFC while the latch is
/// enabled becomes one to configuration space, and is nobody's if no server has that function.
pub(crate) fn select(domain: &Domain, r: &Request) -> Option<(Arc<Server>, Request)> {
    let (ty, start, end, sent) = match r.ty {
        IOREQ_TYPE_PIO => match config_cycle(domain.cf8.load(Ordering::Acquire), r) {
            Some((sbdf, register)) => {
                let addr = u64::from(sbdf) << 32 | u64::from(register);
                let sent = Request { ty: IOREQ_TYPE_PCI_CONFIG, addr, ..*r };
                (XEN_DMOP_IO_RANGE_PCI, u64::from(sbdf), u64::from(sbdf), sent)
            }
            None => {
                let last = r.addr.checked_add(u64::from(r.size).checked_sub(1)?)?;
                (XEN_DMOP_IO_RANGE_PORT, r.addr, last, *r)
            }
        },
        IOREQ_TYPE_COPY => {
            let (first, last) = r.span()?;
            (XEN_DMOP_IO_RANGE_MEMORY, first, last, *r)
        }
        _ => return None,
    };
    let table = range_index(ty)?;
    let servers = domain.servers.read();
    let server = servers
        .newest_first()
        .find(|s| s.is_enabled() && s.ranges.get(table).is_some_and(|t| t.read().contains(start, end)))?;
    Some((server.clone(), sent))
}

/// SBDF and register, if the access is a configuration cycle.
fn config_cycle(cf8: u32, r: &Request) -> Option<(u32, u32)> {
    if r.addr & !3 != CFC || cf8 & CF8_ENABLE == 0 {
        return None;
    }
    let low = u32::try_from(r.addr & 3).ok()?;
    Some((cf8 >> 8 & 0xffff, cf8 & 0xfc | low))
}
