//! A GPU that VFIO has opened, taken: its registers mapped, its interrupts in a loop of its own.

use std::sync::Arc;
use std::thread::JoinHandle;

use ioreq_server::{GuestLoop, LoopHandle};

use super::mmio::DeviceBar;
use super::{HardError, HardGpu, StatusPages};
use crate::gen8::gtt::{GTT_OFFSET, ggtt_entries};
use crate::privilege::{ThreadKind, narrow};
use crate::vfio::{Interrupts, IrqKind, MappedRegion, VfioDevice};

/// Byte offset of GMCH_CTRL in the config space (i915 `SNB_GMCH_CTRL`).
const GMCH_CTRL: u64 = 0x50;

/// The thread that takes a GPU's interrupts.
struct Listening {
    handle: LoopHandle,
    thread: Option<JoinHandle<()>>,
}

/// Takes a device, which must be a GPU of gen8 ([`Facts::against`](crate::vfio::Facts::against) says so).
///
/// # Errors
/// As [`HardGpu::new`]; what VFIO refuses; a BAR0 that is too small.
pub fn attach(device: &Arc<VfioDevice>, status: StatusPages) -> Result<HardGpu, HardError> {
    let bar = MappedRegion::new(device, 0)?;
    if bar.size() < 2 * u64::from(GTT_OFFSET) {
        return Err(HardError::Bar0(bar.size()));
    }
    let entries = ggtt_entries(device.config16(GMCH_CTRL)?);
    // Its messages are writes to memory, too.
    device.set_bus_master(true)?;
    let bar = DeviceBar { device: device.clone(), bar };
    HardGpu::new(Arc::new(bar), 0..entries, status, |interrupt| {
        let source = Interrupts::new(device, IrqKind::Msi, 1, move |_, _, _| {
            interrupt();
            Ok(())
        })?;
        let mut serving = GuestLoop::new()?;
        serving.add_source(Box::new(source))?;
        let handle = serving.handle();
        let thread = std::thread::Builder::new().name("gpu-irq".into()).spawn(move || {
            narrow(ThreadKind::EventLoop);
            if let Err(e) = serving.run() {
                log::error!("the GPU's interrupts are not heard any more: {e}");
            }
        })?;
        Ok(Listening { handle, thread: Some(thread) })
    })
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.handle.stop();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            log::error!("the thread of the GPU's interrupts had panicked");
        }
    }
}
