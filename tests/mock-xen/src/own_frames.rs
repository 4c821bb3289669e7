//! Frames of a domain's own, for buffers that its devices shall reach.

use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::seam::{Mapping, Prot};
use xen_ioreq::{Errno, Gfn, Mfn, PAGE_SIZE};

use crate::domain::Domain;
use crate::foreign;
use crate::frames::Hold;
use crate::grant;
use crate::history::Event;
use crate::machine::Machine;
use crate::process::{Held, Process};
use crate::sync::Mutex;

/// Frames of the calling domain, mapped side by side; given back on drop (a frame that its devices still reach stays
/// until that ends).
#[derive(Debug)]
pub struct OwnFrames {
    // The mapping goes first, as memory is unmapped before it is freed.
    mapping: Mapping,
    gfns: Vec<Gfn>,
    _memory: Arc<Memory>,
}

/// What is given back, by the owner or with its process.
#[derive(Debug)]
struct Memory {
    machine: Arc<Machine>,
    domain: Arc<Domain>,
    gfns: Mutex<Vec<Gfn>>,
}

impl OwnFrames {
    /// ENOMEM: no free frames, or the domain's limit reached. EINVAL: none asked for.
    pub(crate) fn take(
        machine: &Arc<Machine>,
        domain: &Arc<Domain>,
        process: &Arc<Process>,
        count: usize,
    ) -> Result<Self, Errno> {
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        let mut frames = Vec::with_capacity(count);
        let taken = machine.frames(|t| {
            for _ in 0..count {
                let mfn = t.allocate(domain.id, true)?;
                frames.push(mfn);
                // The kernel's doing, not the hypervisor's.
                if let Some(page) = machine.memory().page(mfn) {
                    page.clear();
                }
                t.hold(mfn, Hold::HostMap(domain.id))?;
            }
            Ok(())
        });
        let give_back = |frames: &[Mfn], hold| {
            machine.frames(|t| {
                for mfn in frames {
                    t.release(*mfn, hold);
                }
            });
        };
        if let Err(e) = taken {
            give_back(&frames, Hold::HostMap(domain.id));
            give_back(&frames, Hold::Allocation);
            return Err(e);
        }
        let all = frames.iter().copied().map(Some).collect();
        let mapping = match foreign::map(machine, domain.id, process, all, Prot::ReadWrite) {
            Ok(m) => m,
            Err(e) => {
                give_back(&frames, Hold::Allocation);
                return Err(e);
            }
        };
        let memory = Memory { machine: machine.clone(), domain: domain.clone(), gfns: Mutex::default() };
        let gfns = match domain.hvm {
            true => {
                grant::put_anywhere(domain, &frames).inspect_err(|_| give_back(&frames, Hold::Allocation))?
            }
            // A PV domain's frames have their machine numbers.
            false => frames.iter().map(|mfn| Gfn(mfn.0)).collect(),
        };
        if domain.hvm {
            memory.gfns.lock().clone_from(&gfns);
        } else {
            for (i, (gfn, mfn)) in gfns.iter().zip(&frames).enumerate() {
                if let Err(e) = domain.put(*gfn, *mfn) {
                    give_back(frames.get(i..).unwrap_or(&[]), Hold::Allocation);
                    return Err(e);
                }
                memory.gfns.lock().push(*gfn);
            }
        }
        let memory = Arc::new(memory);
        process.keep(&memory);
        Ok(Self { mapping, gfns, _memory: memory })
    }

    /// The frames' numbers, in the order of the mapping.
    pub fn gfns(&self) -> &[Gfn] {
        &self.gfns
    }

    /// First byte; valid for `gfns().len()` pages while `self` lives.
    pub fn ptr(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.gfns.len() * PAGE_SIZE
    }

    /// The same frames as a mapping of the seam, which gives them back with its last page, and their numbers.
    pub fn into_mapping(self) -> (Mapping, Vec<Gfn>) {
        let (base, gfns) = (self.ptr(), self.gfns.clone());
        (foreign::kept(base, gfns.len(), self), gfns)
    }
}

impl Held for Memory {
    fn let_go(&self) {
        for gfn in std::mem::take(&mut *self.gfns.lock()) {
            let mfn = self.domain.p2m.write().remove(gfn);
            if let Some(mfn) = mfn {
                self.machine.frames(|t| {
                    t.note(mfn, Event::BalloonedOut { owner: self.domain.id, gfn });
                    t.release(mfn, Hold::Allocation);
                });
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.let_go();
    }
}
