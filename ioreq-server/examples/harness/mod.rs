//! How the examples are run: for a guest of the Xen that they find themselves on, or by a vCPU of the model hypervisor.
//!
//! What serves the guest has descriptors that are restricted to it. One more stays unrestricted, to give the guest memory and
//! to hear of its end.
#![allow(dead_code, reason = "no example needs all of it")]

use std::error::Error;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ioreq_server::pci::{Cf8Latch, Sbdf, host_bridge};
use ioreq_server::sources::{Signals, Timer};
use ioreq_server::{BufferedMode, Bus, Connection, Dm, Guest, GuestLoop, GuestMemory, OnError, Server};
use mock_xen::{Config, DomainConfig, Machine, Vcpu};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use xen_ioreq::abi::domctl::{XEN_DOMINF_dying, XEN_DOMINF_shutdown, xen_domctl_getdomaininfo};
use xen_ioreq::linux::{Evtchn, Privcmd};
use xen_ioreq::seam::MemoryOp;
use xen_ioreq::{DomId, VcpuId};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How often the guest is looked after.
const LOOK: Duration = Duration::from_millis(500);

/// Which guest.
#[derive(Debug, clap::Args)]
pub(crate) struct Whom {
    /// A guest of this Xen; without it, the example checks itself on the model hypervisor
    #[arg(long)]
    domid: Option<u16>,
    /// Also be the host bridge: for a PVH guest, which has no other device model
    #[arg(long)]
    pci_root: bool,
}

/// What a device is made from.
pub(crate) struct Slot<'a> {
    /// Where it is plugged in.
    pub(crate) bus: &'a Arc<Bus>,
    /// Operations on the guest.
    pub(crate) dm: Dm,
    /// The guest's memory.
    pub(crate) memory: GuestMemory,
    /// For frames that the guest does not have yet.
    pub(crate) frames: &'a dyn MemoryOp,
}

impl Whom {
    /// Serves the guest with what `plug` plugs in, until it has ended or SIGTERM comes; gives it room for `frames` more
    /// frames. `None`: there is no guest to serve, and nothing was done.
    pub(crate) fn serve<D: Send + Sync + 'static>(
        &self,
        frames: u64,
        plug: impl FnOnce(&Slot<'_>) -> Result<Arc<D>>,
        at_sigusr1: impl Fn(&D) + Send + 'static,
    ) -> Result<Option<Arc<D>>> {
        let Some(domid) = self.domid.map(DomId) else { return Ok(None) };
        let raw = Privcmd::open()?;
        let Some(info) = info(&raw, domid) else {
            return Err(format!("there is no {domid}: `xl list` shows the guests").into());
        };
        raw.set_max_frames(domid, info.max_pages.saturating_add(frames))?;
        let guest = Privcmd::open()?.restrict(domid).map_err(|(_, e)| e)?;
        let events = Evtchn::open()?.restrict(domid).map_err(|(_, e)| e)?;
        let conn = Connection::new(Arc::new(guest), Arc::new(events));
        let (guest, device) = attach(&conn, domid, self.pci_root, &raw, plug)?;

        let mut serving = GuestLoop::new()?;
        serving.add(guest)?;
        let signalled = device.clone();
        let signals = Signals::new([SIGUSR1, SIGTERM, SIGINT], move |signal, handle| {
            match signal {
                SIGUSR1 => at_sigusr1(&signalled),
                _ => handle.stop(),
            }
            Ok(())
        })?;
        serving.add_source(Box::new(signals))?;
        let (timer, alarm) = Timer::new(move |_, handle| {
            let over = XEN_DOMINF_dying | XEN_DOMINF_shutdown;
            if self::info(&raw, domid).is_none_or(|d| d.flags & over != 0) {
                handle.stop();
            }
            Ok(())
        })?;
        serving.add_source(Box::new(timer))?;
        alarm.every(LOOK)?;
        println!("serving {domid}");
        serving.run()?;
        Ok(Some(device))
    }
}

fn info(raw: &Privcmd, domid: DomId) -> Option<xen_domctl_getdomaininfo> {
    raw.domains(domid, 1).ok()?.into_iter().find(|d| d.domain == domid.0)
}

fn attach<S>(
    conn: &Connection,
    domid: DomId,
    pci_root: bool,
    frames: &dyn MemoryOp,
    plug: impl FnOnce(&Slot<'_>) -> Result<S>,
) -> Result<(Guest, S)> {
    let server = Server::create(conn, domid, BufferedMode::Atomic)?.map()?.enable()?;
    let bus = Bus::new(server.claims());
    if pci_root {
        Cf8Latch::attach(&bus)?;
        host_bridge(&bus)?;
    }
    let slot = Slot { bus: &bus, dm: server.dm().clone(), memory: server.guest_memory(), frames };
    let plugged = plug(&slot)?;
    Ok((Guest::new(server, bus, Arc::new(()), OnError::AllOnes), plugged))
}

/// A guest of the model hypervisor, served by a thread.
pub(crate) struct Model {
    /// The guest's only vCPU.
    pub(crate) vcpu: Vcpu,
    handle: ioreq_server::LoopHandle,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Model {
    /// A guest with what `plug` plugs in, and what that returned.
    pub(crate) fn start<S>(frames: u64, plug: impl FnOnce(&Slot<'_>) -> Result<S>) -> Result<(Self, S)> {
        let machine = Machine::new(Config::default())?;
        let domid = machine.create_domain(&DomainConfig { max_pages: frames, ..DomainConfig::default() })?;
        let xen = Arc::new(machine.caller(DomId(0))?);
        let conn = Connection::new(xen.clone(), xen.clone());
        let (guest, plugged) = attach(&conn, domid, true, &*xen, plug)?;
        let mut serving = GuestLoop::new()?;
        serving.add(guest)?;
        let handle = serving.handle();
        let thread = std::thread::spawn(move || serving.run());
        Ok((Self { vcpu: machine.vcpu(domid, VcpuId(0))?, handle, thread }, plugged))
    }

    /// Writes a configuration register as a guest does.
    pub(crate) fn configure(&self, sbdf: Sbdf, register: u16, value: u32) -> Result<()> {
        self.vcpu.pio_write(0xcf8, 4, 0x8000_0000 | sbdf.0 << 8 | u32::from(register))?;
        Ok(self.vcpu.pio_write(0xcfc, 4, value)?)
    }

    /// Ends the thread.
    pub(crate) fn stop(self) -> Result<()> {
        self.handle.stop();
        Ok(self.thread.join().map_err(|_| "the loop panicked")??)
    }
}
