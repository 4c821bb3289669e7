//! Two domains of the model hypervisor that share pages: the server's own, mapped by a client that is privileged over it.

use std::sync::Arc;

use mock_xen::{Caller, Config, DomainConfig, EvtchnDevice, Machine};
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::{ForeignMap, Prot};
use xen_ioreq::{DomId, Errno, Gfn, GrantRef};

use crate::channel::{Address, Channel, SetupError, Sizes};
use crate::grants::{Ended, GrantError, Granted, Granter, Mapper, PlainHold, PlainMapping};
use crate::shared::SharedBytes;

/// The client.
pub(crate) const DOM0: DomId = DomId(0);

/// A machine with dom0 and one more domain.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) machine: Arc<Machine>,
    pub(crate) server: DomId,
    granter: Pages,
    mapper: Pages,
}

/// A reference is the number of a frame.
#[derive(Debug)]
struct Pages(Caller);

#[derive(Debug)]
struct Own;

impl PlainHold for Own {
    fn end(&mut self) -> Option<Ended> {
        Some(Ended::LeftToKernel)
    }
}

impl Granter for Pages {
    fn grant(&self, peer: DomId, pages: usize, _: Prot, _: UnmapNotify) -> Result<Granted, GrantError> {
        let frames = self.0.alloc_frames(pages).map_err(|errno| GrantError::Grant { peer, pages, errno })?;
        let (mapping, gfns) = frames.into_mapping();
        let refs = gfns.iter().map(|gfn| GrantRef(u32::try_from(gfn.0).expect("a small machine"))).collect();
        Ok(Granted::new(peer, refs, SharedBytes::new(mapping), Box::new(Own)))
    }
}

impl Mapper for Pages {
    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        prot: Prot,
        _: UnmapNotify,
    ) -> Result<PlainMapping, GrantError> {
        let error = |errno| GrantError::Map {
            peer,
            pages: refs.len(),
            first: refs.first().copied().unwrap_or_default(),
            errno,
        };
        let gfns: Vec<_> = refs.iter().map(|r| Gfn(u64::from(r.0))).collect();
        let mapped = self.0.map_foreign(peer, &gfns, prot).map_err(error)?;
        match mapped.errors.iter().flatten().next() {
            Some(errno) => Err(error(*errno)),
            None => Ok(PlainMapping::new(mapped.mapping, prot)),
        }
    }
}

impl Pair {
    pub(crate) fn new() -> Self {
        let machine = Machine::new(Config { frames: 4096, ..Config::default() }).expect("a machine");
        let server = machine.create_domain(&DomainConfig { hvm: false, ..DomainConfig::default() });
        let server = server.expect("a domain");
        let granter = Pages(machine.caller(server).expect("a caller"));
        let mapper = Pages(machine.caller(DOM0).expect("a caller"));
        Self { machine, server, granter, mapper }
    }

    pub(crate) fn events(&self, domid: DomId) -> EvtchnDevice {
        self.machine.open_evtchn(domid).expect("descriptors")
    }

    pub(crate) fn serve(&self, sizes: Sizes) -> (Channel<EvtchnDevice>, Address) {
        let events = self.events(self.server);
        Channel::serve(&self.granter, events, self.server, DOM0, sizes).expect("a server's end")
    }

    pub(crate) fn connect(&self, address: Address) -> Result<Channel<EvtchnDevice>, SetupError> {
        Channel::connect(&self.mapper, self.events(DOM0), address)
    }

    /// Both ends; no event is pending at either.
    pub(crate) fn channel(&self, sizes: Sizes) -> (Channel<EvtchnDevice>, Channel<EvtchnDevice>) {
        let (server, address) = self.serve(sizes);
        let client = self.connect(address).expect("a client's end");
        server.acknowledge().expect("events");
        client.acknowledge().expect("events");
        (server, client)
    }

    /// A page of the server's own.
    pub(crate) fn page(&self) -> Granted {
        let granted = self.granter.grant(DOM0, 1, Prot::ReadWrite, UnmapNotify::default());
        granted.expect("a page")
    }
}

/// Where the map of somebody else's page fails.
pub(crate) fn is_a_hole(error: &SetupError) -> bool {
    matches!(error, SetupError::Grant(GrantError::Map { errno: Errno::EINVAL | Errno::ENOENT, .. }))
}
