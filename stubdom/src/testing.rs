//! Two domains of the model hypervisor that share pages: a server's, mapped by a client.

use std::ops::Range;
use std::sync::Arc;

use mock_xen::{Caller, Config, DomainConfig, EvtchnDevice, Machine};
use xen_ioreq::abi::grant_table::GNTST_bad_gntref;
use xen_ioreq::abi::memory::{XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::{MemoryOp, Prot};
use xen_ioreq::{DomId, Gfn};
use zerocopy::IntoBytes;

use crate::channel::{Address, Channel, SetupError, Sizes};
use crate::grants::{GrantError, Granted, Granter, TableGranter, TableMapper};

/// The client.
pub(crate) const DOM0: DomId = DomId(0);

/// Frame numbers of a translated client's memory, and those at which it maps.
pub(crate) const MEMORY: Range<u64> = 0..8;
pub(crate) const WINDOW: Range<u64> = 0x1000..0x1400;

/// Nothing, when a page goes.
pub(crate) const NOTHING: UnmapNotify = UnmapNotify { clear_byte: None, send_event: None };

/// A machine with dom0 and one more domain.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) machine: Arc<Machine>,
    pub(crate) server: DomId,
    /// Who maps.
    pub(crate) client: DomId,
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
        Self { machine, server, client: DOM0, process, granter, mapper }
    }

    /// With a translated domain as the client, which has [`MEMORY`] and maps at [`WINDOW`].
    pub(crate) fn translated() -> Self {
        let pair = Self::new();
        let config = DomainConfig { max_pages: 1000, ..DomainConfig::default() };
        let client = pair.machine.create_domain(&config).expect("a domain");
        let kernel = Arc::new(pair.machine.caller(client).expect("a caller"));
        let mut list: Vec<u64> = MEMORY.collect();
        let mut arg = xen_memory_reservation {
            nr_extents: list.len() as u64,
            domid: DomId::SELF.0,
            ..xen_memory_reservation::default()
        };
        let done = kernel.memory_op(XENMEM_populate_physmap, arg.as_mut_bytes(), &mut list);
        assert_eq!(done, Ok(8), "all of its memory");
        let mapper = TableMapper::translated(kernel, Gfn(WINDOW.start)..Gfn(WINDOW.end));
        Self { client, mapper, ..pair }
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
