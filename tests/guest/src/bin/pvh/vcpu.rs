//! The platform: this virtual CPU's own instructions, and hypercalls.

use core::fmt;
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::Ordering;

use guest::grants::Hypercalls;
use guest::{MsiMessage, Platform, RamFault, RamRange, Way, Width, is_ram};
use xen_ioreq::abi::grant_table::{GNTTABOP_setup_table, gnttab_get_status_frames, gnttab_setup_table};
use xen_ioreq::{DomId, Errno, Gfn};

use crate::console;
use crate::cpu;
use crate::start_info::Ram;
use crate::xen;

/// Device memory: the second 4 GiB. A guest's RAM is kept below it by its size.
const MMIO: Range<u64> = 4 << 30..8 << 30;

/// A virtual CPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: usize,
    ram: Ram,
    domid: DomId,
}

impl Vcpu {
    /// The one with that number, which calls. Panics where there is no Xen.
    pub(crate) fn new(index: usize, ram: Ram) -> Self {
        let xen = xen::init().expect("Xen's CPUID leaves");
        Self { index, ram, domid: xen.domid.unwrap_or(DomId::INVALID) }
    }

    fn check_ram(&self, gpa: u64, bytes: usize) -> Result<(), RamFault> {
        let last = gpa.saturating_add((bytes as u64).saturating_sub(1));
        let ok = is_ram(self.ram.as_slice(), gpa) && is_ram(self.ram.as_slice(), last);
        if ok { Ok(()) } else { Err(RamFault { gpa }) }
    }
}

impl Platform for Vcpu {
    fn domid(&self) -> DomId {
        self.domid
    }

    fn ram(&self) -> &[RamRange] {
        self.ram.as_slice()
    }

    fn mmio_window(&self) -> Range<u64> {
        MMIO
    }

    fn msi(&self) -> Option<MsiMessage> {
        Some(MsiMessage { address: 0xfee0_0000 | cpu::apic_id() << 12, data: cpu::MSI_VECTOR.into() })
    }

    fn pio_read(&mut self, port: u16, width: Width) -> u32 {
        cpu::pio_read(port, width)
    }

    fn pio_write(&mut self, port: u16, width: Width, value: u32) {
        cpu::pio_write(port, width, value);
    }

    fn mmio_read(&mut self, gpa: u64, width: Width) -> u64 {
        cpu::load(gpa, width)
    }

    fn mmio_write(&mut self, gpa: u64, width: Width, value: u64) {
        cpu::store(gpa, width, value);
    }

    fn rep_ins(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way) {
        cpu::rep_ins(port, ram, width, count, way);
    }

    fn rep_outs(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way) {
        cpu::rep_outs(port, ram, width, count, way);
    }

    fn rep_movs(&mut self, from: u64, to: u64, width: Width, count: u32, way: Way) {
        cpu::rep_movs(from, to, width, count, way);
    }

    fn ram_read(&mut self, gpa: u64, out: &mut [u8]) -> Result<(), RamFault> {
        self.check_ram(gpa, out.len())?;
        cpu::copy(gpa, out.as_mut_ptr() as u64, out.len());
        Ok(())
    }

    fn ram_write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), RamFault> {
        self.check_ram(gpa, bytes.len())?;
        cpu::copy(bytes.as_ptr() as u64, gpa, bytes.len());
        Ok(())
    }

    fn decrease_reservation(&mut self, gfns: &[Gfn]) -> usize {
        xen::decrease_reservation(gfns)
    }

    fn populate_physmap(&mut self, gfns: &[Gfn]) -> usize {
        xen::populate_physmap(gfns)
    }

    fn wait(&mut self) {
        cpu::wait();
    }

    fn take_interrupts(&mut self) -> u32 {
        cpu::MSIS[self.index].swap(0, Ordering::Relaxed)
    }

    fn vcpu(&self) -> u32 {
        u32::try_from(self.index).unwrap_or(u32::MAX)
    }

    fn arrived(&mut self, vector: u8) -> u32 {
        cpu::arrived(self.index, vector)
    }

    fn end_of_interrupt(&mut self) {
        cpu::end_of_interrupt();
    }

    fn set_extint(&mut self, on: bool) {
        cpu::set_extint(on);
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        console::line(line);
    }
}

impl Hypercalls for Vcpu {
    fn grant_table_op(&mut self, cmd: u32, args: &mut [u8], count: u32) -> Result<(), Errno> {
        xen::grant_table_op(cmd, args, count)
    }

    fn grant_table_frames(&mut self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<(), Errno> {
        let list_at = if cmd == GNTTABOP_setup_table {
            offset_of!(gnttab_setup_table, frame_list)
        } else {
            offset_of!(gnttab_get_status_frames, frame_list)
        };
        xen::grant_table_frames(cmd, arg, list_at, list)
    }

    fn memory_op(&mut self, cmd: u32, arg: &mut [u8]) -> Result<(), Errno> {
        xen::memory_op(cmd, arg)
    }
}
