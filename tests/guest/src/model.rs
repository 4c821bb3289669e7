//! The driver's platform on the model hypervisor: a vCPU of it, on the thread that calls.
//!
//! When the hypervisor takes the vCPU away (the domain was destroyed, shut down or crashed) every access reads all-ones
//! and drops its writes, and [`ModelCpu::lost`] says why.

extern crate std;

use core::fmt;
use core::ops::Range;
use std::boxed::Box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::vec::Vec;

use mock_xen::{Vcpu, VcpuError};
use xen_ioreq::{DomId, Errno, Gfn};

use crate::grants::Hypercalls;
use crate::platform::{MsiMessage, Platform, RamFault, RamRange, Way, Width, is_ram};
use crate::run::Report;

/// Where the model's guests have their device memory: from 3 GiB up to 4 GiB, and no RAM.
pub const MMIO_WINDOW: Range<u64> = 0xc000_0000..0xfec0_0000;

/// Of MSIs. Above those of lines, which do not hold it off.
const MSI_VECTOR: u8 = 0x41;

/// The longest that [`Platform::wait`] sleeps.
pub const MOMENT: Duration = Duration::from_millis(2);

/// Called after every frame with the figures so far.
pub type Progress = Box<dyn FnMut(&Report) + Send>;

/// A vCPU of the model.
pub struct ModelCpu {
    vcpu: Vcpu,
    ram: Vec<RamRange>,
    stop: Arc<AtomicBool>,
    progress: Progress,
    interrupts: u32,
    /// Those that lines have raised, by their vector.
    arrived: [u32; 256],
    lost: Option<VcpuError>,
}

impl ModelCpu {
    /// A platform on `vcpu`, whose domain has RAM at `ram`. The run ends after `stop` is set.
    pub fn new(vcpu: Vcpu, ram: Vec<RamRange>, stop: Arc<AtomicBool>, progress: Progress) -> Self {
        Self { vcpu, ram, stop, progress, interrupts: 0, arrived: [0; 256], lost: None }
    }

    /// What took the vCPU away, if something did.
    pub fn lost(&self) -> Option<&VcpuError> {
        self.lost.as_ref()
    }

    /// Takes an interrupt that comes within that time, as a handler would; whether there was one.
    fn enter(&mut self, timeout: Duration) -> bool {
        let r = self.vcpu.enter_interrupt(Some(timeout));
        let Some(Some(vector)) = self.keep(r) else { return false };
        if vector == MSI_VECTOR {
            self.end_of_interrupt();
            self.interrupts += 1;
        } else {
            self.arrived[usize::from(vector)] += 1;
        }
        true
    }

    fn keep<T>(&mut self, result: Result<T, VcpuError>) -> Option<T> {
        match result {
            Ok(v) => Some(v),
            Err(e) => {
                if matches!(e, VcpuError::Stopped(_) | VcpuError::Destroyed) {
                    self.lost.get_or_insert(e);
                }
                None
            }
        }
    }
}

impl fmt::Debug for ModelCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelCpu")
            .field("domid", &self.vcpu.domid())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Platform for ModelCpu {
    fn domid(&self) -> DomId {
        self.vcpu.domid()
    }

    fn ram(&self) -> &[RamRange] {
        &self.ram
    }

    fn mmio_window(&self) -> Range<u64> {
        MMIO_WINDOW
    }

    fn msi(&self) -> Option<MsiMessage> {
        // The APIC's number is twice the vCPU's.
        let apic = u64::from(self.vcpu.id().0) * 2;
        Some(MsiMessage { address: 0xfee0_0000 | apic << 12, data: MSI_VECTOR.into() })
    }

    fn pio_read(&mut self, port: u16, width: Width) -> u32 {
        let r = self.vcpu.pio_read(port, usize::from(width.bytes()));
        self.keep(r).unwrap_or(u32::MAX)
    }

    fn pio_write(&mut self, port: u16, width: Width, value: u32) {
        let r = self.vcpu.pio_write(port, usize::from(width.bytes()), value);
        self.keep(r);
    }

    fn mmio_read(&mut self, gpa: u64, width: Width) -> u64 {
        let r = self.vcpu.mmio_read(gpa, usize::from(width.bytes()));
        self.keep(r).unwrap_or(width.mask())
    }

    fn mmio_write(&mut self, gpa: u64, width: Width, value: u64) {
        let r = self.vcpu.mmio_write(gpa, usize::from(width.bytes()), value);
        self.keep(r);
    }

    fn rep_ins(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way) {
        let r = self.vcpu.rep_pio(port, usize::from(width.bytes()), true, ram, count, way == Way::Down);
        self.keep(r);
    }

    fn rep_outs(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way) {
        let r = self.vcpu.rep_pio(port, usize::from(width.bytes()), false, ram, count, way == Way::Down);
        self.keep(r);
    }

    fn rep_movs(&mut self, from: u64, to: u64, width: Width, count: u32, way: Way) {
        let (size, down) = (usize::from(width.bytes()), way == Way::Down);
        let r = match (is_ram(&self.ram, from), is_ram(&self.ram, to)) {
            (false, true) => self.vcpu.rep_mmio(from, size, true, to, count, down),
            (true, false) => self.vcpu.rep_mmio(to, size, false, from, count, down),
            // Between two of a kind an element at a time, as Xen's emulator does between two devices.
            _ => (0..u64::from(count)).try_for_each(|i| {
                let step = i.wrapping_mul(u64::from(width.bytes()));
                let at = |base: u64| if down { base.wrapping_sub(step) } else { base.wrapping_add(step) };
                let value = self.vcpu.mmio_read(at(from), size)?;
                self.vcpu.mmio_write(at(to), size, value)
            }),
        };
        self.keep(r);
    }

    fn ram_read(&mut self, gpa: u64, out: &mut [u8]) -> Result<(), RamFault> {
        let r = self.vcpu.ram_read(gpa, out);
        self.keep(r).ok_or(RamFault { gpa })
    }

    fn ram_write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), RamFault> {
        let r = self.vcpu.ram_write(gpa, bytes);
        self.keep(r).ok_or(RamFault { gpa })
    }

    fn decrease_reservation(&mut self, gfns: &[Gfn]) -> usize {
        let r = self.vcpu.decrease_reservation(gfns);
        self.keep(r).unwrap_or(0)
    }

    fn populate_physmap(&mut self, gfns: &[Gfn]) -> usize {
        let r = self.vcpu.populate_physmap(gfns);
        self.keep(r).unwrap_or(0)
    }

    fn wait(&mut self) {
        self.enter(MOMENT);
    }

    fn take_interrupts(&mut self) -> u32 {
        while self.enter(Duration::ZERO) {}
        core::mem::take(&mut self.interrupts)
    }

    fn vcpu(&self) -> u32 {
        self.vcpu.id().0
    }

    fn arrived(&mut self, vector: u8) -> u32 {
        while self.enter(Duration::ZERO) {}
        core::mem::take(&mut self.arrived[usize::from(vector)])
    }

    fn end_of_interrupt(&mut self) {
        let r = self.vcpu.end_of_interrupt();
        self.keep(r);
    }

    fn set_extint(&mut self, on: bool) {
        let r = self.vcpu.set_extint(on);
        self.keep(r);
    }

    fn stop_requested(&self) -> bool {
        self.lost.is_some() || self.stop.load(Ordering::Acquire)
    }

    fn progress(&mut self, so_far: &Report) {
        (self.progress)(so_far);
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        log::debug!("{}: {line}", self.vcpu.domid());
    }
}

/// What a lost vCPU answers: its calls are as if nobody were there.
const LOST: Errno = Errno::ESRCH;

impl ModelCpu {
    fn hypercall<T>(&mut self, result: Result<T, VcpuError>) -> Result<T, Errno> {
        match result {
            Err(VcpuError::Hypercall(e)) => Err(e),
            other => self.keep(other).ok_or(LOST),
        }
    }
}

impl Hypercalls for ModelCpu {
    fn grant_table_op(&mut self, cmd: u32, args: &mut [u8], count: u32) -> Result<(), Errno> {
        let r = self.vcpu.grant_table_op(cmd, args, count);
        self.hypercall(r).map(drop)
    }

    fn grant_table_frames(&mut self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<(), Errno> {
        let r = self.vcpu.grant_table_frames(cmd, arg, list);
        self.hypercall(r).map(drop)
    }

    fn memory_op(&mut self, cmd: u32, arg: &mut [u8]) -> Result<(), Errno> {
        let r = self.vcpu.memory_op(cmd, arg, &mut []);
        self.hypercall(r).map(drop)
    }
}
