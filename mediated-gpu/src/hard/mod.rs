//! A GPU of gen8 through its registers: what a driver writes to BAR0, and in which order, as i915 does it.
//!
//! [`HardGpu`] is a [`PhysicalGpu`] over an [`Mmio`]: a device that VFIO has opened ([`attach`]), or the software GPU behind the
//! registers of one ([`SoftBar`]), which is how it is tested. It promises what the trait promises, by the hardest means if it must:
//! an engine that does not let go of its translations is reset, then all of them, then the device is no bus master any more.

mod attach;
mod core;
mod engine;
mod interrupts;
mod mmio;
mod port;
mod soft_bar;
mod status;
#[cfg(test)]
mod tests;
pub mod trial;

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::attach::attach;
use self::core::Core;
pub use self::mmio::Mmio;
pub use self::soft_bar::SoftBar;
pub use self::status::StatusPages;
use crate::gen8::gtt::{GGTT_ENTRIES, GTT_OFFSET};
use crate::physical::PhysicalGpu;
use crate::vfio::VfioError;

/// How long the GT may take to wake (i915 `FORCEWAKE_ACK_TIMEOUT_MS`).
const WAKE_LIMIT: Duration = Duration::from_millis(50);
/// How long a translation cache may take to forget (i915 allows 4 ms).
const TLB_LIMIT: Duration = Duration::from_millis(20);
/// How long a reset may take that nobody has given a deadline.
const RESET_LIMIT: Duration = Duration::from_secs(1);

/// How long an engine is given to end what it does before all of them are cut off.
const LAST_LIMIT: Duration = Duration::from_millis(100);

/// Entries of the smallest table that is of any use.
const LEAST_ENTRIES: usize = 64;

/// A GPU could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum HardError {
    /// It does not wake up.
    #[error("the GPU does not wake up within {WAKE_LIMIT:?}: FORCEWAKE_ACK is {0:#x}")]
    Asleep(u32),
    /// It does not come out of its reset.
    #[error("the GPU does not come out of its reset within {RESET_LIMIT:?}")]
    NoReset,
    /// Its table is none.
    #[error(
        "entries {0} to {1} of the GPU's table: at least {LEAST_ENTRIES} are needed, and there are {GGTT_ENTRIES}"
    )]
    Table(u32, u32),
    /// Its registers are not where they must be.
    #[error("BAR0 has {0:#x} bytes, {need:#x} are needed", need = 2 * GTT_OFFSET)]
    Bar0(u64),
    /// VFIO's.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A GPU of gen8. Dropping it ends its DMA.
pub struct HardGpu {
    core: Arc<Core>,
    /// What hears its interrupts, until it is dropped.
    ears: Mutex<Option<Box<dyn Any + Send>>>,
}

impl HardGpu {
    /// Takes a GPU that nobody uses: resets it, empties its entries of `table` and starts the engines. The others it does not touch.
    /// Interrupts are enabled. `listen` is given what is to be called when the device interrupts, by one thread at a time, and gives what
    /// ends that when it is dropped.
    ///
    /// # Errors
    /// It does not wake up, does not come out of its reset, or has no such table; what `listen` fails with.
    pub fn new<T: Any + Send>(
        mmio: Arc<dyn Mmio>,
        table: Range<u32>,
        status: StatusPages,
        listen: impl FnOnce(Box<dyn Fn() + Send>) -> Result<T, HardError>,
    ) -> Result<Self, HardError> {
        let core = Arc::new(Core::new(mmio, table, status)?);
        let driver = core.clone();
        let ears = listen(Box::new(move || driver.interrupt()))?;
        // What it had to say before somebody listened.
        core.interrupt();
        Ok(Self { core, ears: Mutex::new(Some(Box::new(ears))) })
    }
}

impl PhysicalGpu for HardGpu {
    crate::delegate_gpu!(core: read32, write32, ggtt_entries, ggtt_write, ggtt_read, ggtt_flush);
    crate::delegate_gpu!(core: submit, take_csb, is_idle, reset_engine, set_interrupt_sink);
}

impl Drop for HardGpu {
    fn drop(&mut self) {
        // Whoever calls for interrupts shares the core: it is ours alone afterwards, and goes with us.
        drop(self.ears.get_mut().take());
    }
}

impl fmt::Debug for HardGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}
