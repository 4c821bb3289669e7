//! The speed of round trips: `n` port reads, then `n` memory reads, marked off by writes so that the server can time them.

use guest::{Platform, Width};

use crate::vcpu::Vcpu;

const MARK: u16 = 0x1010;
const PORT: u16 = 0x1014;
const END: u16 = 0x101c;
const MMIO: u64 = 0xfe00_0040;

/// Marks 1, 2, 3 stand before the port reads, before the memory reads, and after them; a write to `END` says that all
/// is done.
pub(crate) fn run(vcpu: &mut Vcpu, n: u32) {
    vcpu.pio_write(MARK, Width::B4, 1);
    for _ in 0..n {
        vcpu.pio_read(PORT, Width::B4);
    }
    vcpu.pio_write(MARK, Width::B4, 2);
    for _ in 0..n {
        vcpu.mmio_read(MMIO, Width::B4);
    }
    vcpu.pio_write(MARK, Width::B4, 3);
    vcpu.pio_write(END, Width::B4, 0xd0e);
}
