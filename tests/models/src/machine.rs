//! What mock-xen's machine is to its buses: frames under a lock, memory, an oracle.

use std::sync::Arc;

use crate::frames::FrameTable;
use crate::memory::HostMemory;
use crate::oracle::Oracle;
use crate::sync::Mutex;

/// A machine of few frames, the first of which are Xen's.
pub(crate) struct Machine {
    memory: Arc<HostMemory>,
    oracle: Arc<Oracle>,
    frames: Mutex<FrameTable>,
}

impl Machine {
    pub(crate) fn new(frames: usize, xen: usize) -> Arc<Self> {
        let memory = Arc::new(HostMemory::new(frames));
        let oracle = Arc::new(Oracle::new(false));
        let table = FrameTable::new(memory.clone(), oracle.clone(), frames, xen);
        Arc::new(Self { memory, oracle, frames: Mutex::new(table) })
    }

    pub(crate) fn memory(&self) -> &HostMemory {
        &self.memory
    }

    pub(crate) fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    pub(crate) fn frames<R>(&self, f: impl FnOnce(&mut FrameTable) -> R) -> R {
        f(&mut self.frames.lock())
    }
}
