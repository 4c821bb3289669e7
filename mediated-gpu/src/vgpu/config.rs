//! The PCI function of a vGPU: a Broadwell GT2 (8086:1616) as a stock driver expects it.

use ioreq_server::pci::{Bar, ConfigBuilder, ConfigError, ConfigSpace, Msi, Sbdf};

/// Where Intel graphics always is: 0000:00:02.0.
pub const SBDF: Sbdf = Sbdf::new(0, 0, 2, 0);
/// Index of the BAR of registers and translation table.
pub const BAR_MMIO: u8 = 0;
/// Index of the BAR of the aperture.
pub const BAR_APERTURE: u8 = 2;
/// Index of the BAR of I/O ports.
pub const BAR_IO: u8 = 4;
/// Bytes of [`BAR_MMIO`]: 2 MiB of registers, the table in the upper half.
pub const MMIO_SIZE: u64 = 16 << 20;

/// Offset of the MSI capability.
const MSI: u16 = 0x90;
/// Graphics control (i915 `SNB_GMCH_CTRL`): a table of 8 MiB (7:6), no stolen memory (15:8).
const GGC: u16 = 0x50;
const GGC_VALUE: u16 = 3 << 6;

/// The configuration space, with an aperture of so many bytes (a power of two).
pub fn config(aperture: u64) -> Result<ConfigSpace, ConfigError> {
    ConfigBuilder::new(0x8086, 0x1616)
        .revision(9)
        .class(0x03, 0x00, 0x00)
        .bar(BAR_MMIO, Bar::mem64(MMIO_SIZE))
        .bar(BAR_APERTURE, Bar::mem64(aperture).prefetchable())
        .bar(BAR_IO, Bar::io(64))
        .msi(MSI, Msi::new())
        .register(GGC, &GGC_VALUE.to_le_bytes(), &[0, 0])
        .build()
}

#[cfg(test)]
mod tests {
    use ioreq_server::Width::{Dword, Word};

    use super::*;

    #[test]
    fn stock_driver_finds_what_it_looks_for() {
        let c = config(256 << 20).unwrap();
        assert_eq!(c.read(0, Dword), Ok(0x1616_8086));
        assert_eq!(c.read(8, Dword), Ok(0x0300_0009));
        assert_eq!(c.read(0x50, Word), Ok(0x00c0));
        assert_eq!(c.read(0x5c, Dword), Ok(0));
        assert_eq!(c.read(0xfc, Dword), Ok(0));
        assert_eq!(c.read(0x34, Word).map(|v| v & 0xff), Ok(0x90));
        assert_eq!(c.read(0x90, Word), Ok(0x0005));
    }

    #[test]
    fn bars_tell_their_sizes() {
        let mut c = config(256 << 20).unwrap();
        for at in [0x10, 0x14, 0x18, 0x1c, 0x20] {
            c.write(at, Dword, u32::MAX).unwrap();
        }
        let bars = [0x10, 0x14, 0x18, 0x1c, 0x20].map(|at| c.read(at, Dword).unwrap());
        assert_eq!(bars, [0xff00_0004, 0xffff_ffff, 0xf000_000c, 0xffff_ffff, 0xffff_ffc1]);
        c.write(0x50, Word, 0xffff).unwrap();
        assert_eq!(c.read(0x50, Word), Ok(0x00c0));
    }
}
