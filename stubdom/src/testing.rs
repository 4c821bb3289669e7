//! Two domains of the model hypervisor that share pages: a server's, mapped by a client.

use std::sync::Arc;

use mock_xen::{Caller, Config, DomainConfig, EvtchnDevice, Machine};
use xen_ioreq::DomId;
use xen_ioreq::abi::grant_table::GNTST_bad_gntref;
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::Prot;

use crate::channel::{Address, Channel, SetupError, Sizes};
use crate::grants::{GrantError, Granted, Granter, TableGranter, TableMapper};

/// The client.
pub(crate) const DOM0: DomId = DomId(0);

/// Nothing, when a page goes.
pub(crate) const NOTHING: UnmapNotify = UnmapNotify { clear_byte: None, send_event: None };

/// A machine with dom0 and one more domain.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) machine: Arc<Machine>,
    pub(crate) server: DomId,
    /// The server's program.
    pub(crate) process: Arc<Caller>,
    pub(crate) granter: TableGranter<Caller>,
    pub(crate) mapper: TableMapper<Caller>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    /// With a machine of 4096 frames that is like this otherwise.
    pub(crate) fn with(config: Config) -> Self {
        let machine = Machine::new(Config { frames: 4096, ..config }).expect("a machine");
        let server =
            machine.create_domain(&DomainConfig { hvm: false, max_pages: 4000, ..DomainConfig::default() });
        let server = server.expect("a domain");
        let caller = |domid| Arc::new(machine.caller(domid).expect("a caller"));
        let process = caller(server);
        let granter = TableGranter::new(process.clone()).expect("a grant table");
        let mapper = TableMapper::new(caller(DOM0));
        Self { machine, server, process, granter, mapper }
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

    /// A page of the server's own, granted to the client.
    pub(crate) fn page(&self) -> Granted {
        self.granter.grant(DOM0, 1, Prot::ReadWrite, NOTHING).expect("a page")
    }
}

/// Whether the map of something that is no reference failed.
pub(crate) fn is_no_reference(error: &SetupError) -> bool {
    matches!(error, SetupError::Grant(GrantError::Refused { status, .. }) if *status == GNTST_bad_gntref)
}
