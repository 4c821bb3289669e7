//! The machine of a scene with its domains, and what must hold when everybody has gone home.

use std::sync::Arc;

use shuttle::thread::{Scope, scope};
use xen_ioreq::abi::ioreq::HVM_IOREQSRV_BUFIOREQ_ATOMIC;
use xen_ioreq::{DomId, Errno, Gfn};

use super::guest::{Dom, Version};
use super::seat::By;
use crate::sync::alone;
use crate::{Config, DomainConfig, Machine, ioreq};

/// Lets threads begin and waits for their ends. Between them each lock, atomic and wait is a point.
pub(crate) fn play<'env, R>(begin: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R) -> R {
    alone(false);
    let all = scope(begin);
    alone(true);
    all
}

/// What a page holds while others may use it, after a mapper has written there, and when it is the granter's again.
pub(crate) const PUBLIC: u8 = 1;
pub(crate) const WRITTEN: u8 = 2;
pub(crate) const SECRET: u8 = 200;
/// What a mapper's own pages hold.
pub(crate) const OWN: u8 = 7;

/// The page that is granted, and the reference of it.
pub(crate) const PAGE: u64 = 3;
pub(crate) const REF: u32 = 9;
/// A mapper's stand-in, and its page for copies.
pub(crate) const STAND_IN: u64 = 1;
pub(crate) const COPIES: u64 = 2;

/// RAM of a domain, from 0 on.
const FRAMES: u64 = 4;

/// A granter and a mapper, to whom [`PAGE`] is granted by [`REF`] with these flags.
pub(crate) fn granted(version: Version, by: By, flags: u16) -> (World, Dom, Dom) {
    let w = World::new();
    let (g, m) = (w.granter(version), w.mapper(by));
    g.offer(REF, m.id, PAGE, flags);
    (w, g, m)
}

pub(crate) struct World {
    pub(crate) machine: Arc<Machine>,
    free: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        alone(true);
        let config = Config {
            frames: 64,
            xen_frames: 4,
            bfn_bits: 10,
            preempt_after: 2,
            evtchn_ring: 16,
            max_grant_frames: 1,
            max_maptrack_frames: 1,
            fail_fast: true,
            ..Config::default()
        };
        let machine = Machine::new(config).expect("a small machine");
        let free = machine.free_frames();
        Self { machine, free }
    }

    fn domain(&self, by: By, byte: u8) -> Dom {
        let (hvm, device_assigned) = (by == By::Vcpu, by == By::Device);
        let config = DomainConfig { max_pages: 8, hvm, device_assigned, ..DomainConfig::default() };
        let id = self.machine.create_domain(&config).expect("there is room");
        self.machine.populate(id, Gfn(0), FRAMES).expect("there are frames");
        for gfn in 0..FRAMES {
            self.fill(id, gfn, byte).expect("it is alive");
        }
        Dom::new(&self.machine, id)
    }

    /// A PV domain with a table of entries of this version.
    pub(crate) fn granter(&self, version: Version) -> Dom {
        self.domain(By::Cpu, PUBLIC).with_table(version)
    }

    /// A domain without a table, which maps what others grant.
    pub(crate) fn mapper(&self, by: By) -> Dom {
        self.domain(by, OWN)
    }

    /// A guest has an IOREQ server of this emulator's, with its pages.
    pub(crate) fn share_pages(&self, guest: &Dom, emulator: DomId) {
        let domain = guest.caller.domain();
        let id = ioreq::create(&self.machine, domain, emulator, HVM_IOREQSRV_BUFIOREQ_ATOMIC);
        let servers = domain.servers.read();
        let server = servers.of_emulator(id.expect("the first one"), emulator).expect("its own");
        server.ensure_pages(&self.machine, domain).expect("there are frames");
    }

    fn fill(&self, id: DomId, gfn: u64, byte: u8) -> Result<(), Errno> {
        self.machine.write_guest(id, gfn << 12, &[byte; 2])
    }

    /// A byte of a domain's own; `None`: it is dead.
    pub(crate) fn byte(&self, d: &Dom, address: u64) -> Option<u8> {
        let mut byte = [0];
        self.machine.read_guest(d.id, address, &mut byte).ok()?;
        Some(byte[0])
    }

    /// The page is its owner's again: it writes there what nobody else may see or overwrite. `false`: it is dead.
    pub(crate) fn keep_secret(&self, d: &Dom, gfn: u64) -> bool {
        self.fill(d.id, gfn, SECRET).is_ok() && self.still_secret(d, gfn)
    }

    /// Nobody has overwritten it. `false`: the domain is dead.
    pub(crate) fn still_secret(&self, d: &Dom, gfn: u64) -> bool {
        let mut bytes = [0; 2];
        if self.machine.read_guest(d.id, gfn << 12, &mut bytes).is_err() {
            return false;
        }
        assert_eq!(bytes, [SECRET; 2], "a page that is its owner's again was written by another");
        true
    }

    pub(crate) fn dying(&self, id: DomId) -> bool {
        self.machine.domain_info(id).is_none_or(|info| info.dying)
    }

    /// Everything adds up; and when all domains are destroyed, nothing is left of them.
    pub(crate) fn end(self, doms: impl IntoIterator<Item = Dom>) {
        self.machine.assert_clean();
        for d in doms {
            let id = d.id;
            drop(d);
            let _gone_already = self.machine.destroy_domain(id);
        }
        self.machine.assert_clean();
        assert_eq!(self.machine.domains().len(), 1, "nobody is held but dom0");
        assert_eq!(self.machine.free_frames(), self.free, "every frame is back");
    }
}
