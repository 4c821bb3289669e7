//! What becomes of a server whose process was killed.
//!
//! If it trapped writes to RAM: Xen would leave its frames as they are when it goes, and a vCPU that writes to one would try again for
//! ever; and the writes that wait for its answer would be lost. An heir, a server of the guest's that is enabled, sees to both. Where
//! there is none yet, since the guest has no room for another server, the dead one's own slots are served until all frames are RAM.

use std::sync::Arc;

use xen_ioreq::abi::memory::XENMEM_resource_ioreq_server;
use xen_ioreq::seam::Mapping;
use xen_ioreq::{DomId, Errno, IoServerId};

use super::{Enabled, FIRST_SLOT_FRAME, Server};
use crate::connection::Connection;
use crate::dm::DmError;
use crate::record::{Record, RecordError};
use crate::slot::{Slots, VcpuPort, owed, remote_ports};
use crate::traps::{WriteTraps, carry_out};

/// Destroys a server whose process was killed. `claimed`: whether a write to an address is a device's.
pub(super) fn bury(
    conn: &Connection,
    domid: DomId,
    dead: IoServerId,
    claimed: impl Fn(u64) -> bool,
    heir: Option<&Server<Enabled>>,
) -> Result<(), DmError> {
    let dm = conn.dm(domid);
    let (kind, number) = (XENMEM_resource_ioreq_server, u32::from(dead.0));
    let slots = |frames: u32| {
        conn.resources.map_resource(domid, kind, number, FIRST_SLOT_FRAME, frames - FIRST_SLOT_FRAME)
    };
    let carried_out = match (conn.resources.resource_size(domid, kind, number).and_then(slots), heir) {
        (Ok(pages), Some(heir)) => {
            let memory = conn.guest_memory(domid);
            heir.raw.traps.inherit(dead, &pages, &memory, claimed, || heir.wake_all())
        }
        (Ok(pages), None) => Bereft::new(conn, domid, dead, pages).settle(claimed),
        (Err(e), _) => {
            if dm.release_mem_type(dead).is_ok() {
                log::warn!("{domid}: writes that {dead} had trapped may be lost: {e}");
            }
            None
        }
    };
    if let Some(n) = carried_out {
        log::debug!("{domid}: {n} writes that {dead} had trapped are carried out");
    }
    dm.destroy_server(dead)
}

/// Destroys the servers that a predecessor has left, and forgets them; how many were still there. `claimed`: whether a write to an
/// address is a device's.
pub(super) fn bury_left(
    conn: &Connection,
    domid: DomId,
    record: &Record,
    claimed: impl Fn(u64) -> bool,
    heir: Option<&Server<Enabled>>,
) -> Result<usize, RecordError> {
    let mut buried = 0;
    for dead in record.left() {
        match bury(conn, domid, dead, &claimed, heir) {
            Ok(()) => buried += 1,
            // With its guest, or by somebody else.
            Err(e) => log::debug!("{dead} of a predecessor: {e}"),
        }
        // Not before: who is killed in between must find it again.
        record.strike(dead)?;
    }
    Ok(buried)
}

/// A dead server that has no heir, and who answers in its slots meanwhile.
struct Bereft<'a> {
    conn: &'a Connection,
    domid: DomId,
    dead: IoServerId,
    slots: Arc<Slots>,
    bound: Vec<VcpuPort>,
    /// Why not all ports are bound.
    failed: Option<Errno>,
}

impl<'a> Bereft<'a> {
    fn new(conn: &'a Connection, domid: DomId, dead: IoServerId, pages: Mapping) -> Self {
        let bind = |(vcpu, remote)| Ok(VcpuPort { vcpu, port: conn.events.bind_interdomain(domid, remote)? });
        // With its process the dead one's ends have gone, and the guest's can be bound anew.
        let mut bound = Vec::new();
        let failed = remote_ports(&pages).into_iter().map(bind).find_map(|b| b.map(|p| bound.push(p)).err());
        let slots = Arc::new(Slots::new(pages, bound.clone(), conn.events.clone()));
        Self { conn, domid, dead, slots, bound, failed }
    }

    /// Carries out what waits, and makes RAM of all frames, by the rules of [letting go](crate::traps). How many writes were carried
    /// out; `None`: the dead one did not have the type.
    fn settle(&self, claimed: impl Fn(u64) -> bool) -> Option<usize> {
        let (dm, memory) = (self.conn.dm(self.domid), self.conn.guest_memory(self.domid));
        if let Some(e) = self.failed {
            // Whose answers cannot be told: better while the guest runs than never.
            log::debug!("{}: a port of {}: {e}", self.domid, self.dead);
            dm.release_mem_type(self.dead).ok()?;
            return Some(carry_out(&owed(self.slots.pages()), &memory, claimed));
        }
        let traps = Arc::new(WriteTraps::new(dm, self.dead, self.conn.pauses.clone()));
        if let Err(e) = traps.begin(&self.slots) {
            log::warn!("{}: frames that {} had trapped become RAM while it runs: {e}", self.domid, self.dead);
        }
        let carried_out = traps.inherit(self.dead, self.slots.pages(), &memory, claimed, || self.wake_all());
        traps.close(Some(&self.slots), &memory);
        carried_out
    }

    fn wake_all(&self) {
        for at in &self.bound {
            if let Err(e) = self.conn.events.notify(at.port) {
                log::debug!("{} {}: waking {}: {e}", self.domid, self.dead, at.vcpu);
            }
        }
    }
}

impl Drop for Bereft<'_> {
    fn drop(&mut self) {
        for at in &self.bound {
            if let Err(e) = self.conn.events.unbind(at.port) {
                log::debug!("{} {}: unbinding {}: {e}", self.domid, self.dead, at.port);
            }
        }
    }
}
