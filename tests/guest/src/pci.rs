//! The PCI function as a kernel without firmware finds it: configuration mechanism 1, BARs, MSI capability.

use xen_ioreq::Gfn;

use crate::platform::{MsiMessage, Platform, Width};
use crate::words::{hi32, lo16, lo32};

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const CONFIG_ENABLE: u32 = 1 << 31;

const PCI_COMMAND: u8 = 0x04;
const PCI_STATUS: u8 = 0x06;
const PCI_BASE_ADDRESS_0: u8 = 0x10;
const PCI_CAPABILITY_LIST: u8 = 0x34;
const PCI_COMMAND_MEMORY: u32 = 1 << 1;
const PCI_COMMAND_MASTER: u32 = 1 << 2;
const PCI_STATUS_CAP_LIST: u32 = 1 << 4;
const PCI_CAP_ID_MSI: u32 = 5;
const PCI_MSI_FLAGS: u8 = 2;
const PCI_MSI_FLAGS_ENABLE: u32 = 1;
const PCI_MSI_FLAGS_QSIZE: u32 = 0x70;
const PCI_MSI_FLAGS_64BIT: u32 = 1 << 7;

/// Vendor and device of the GPU that the driver knows: Broadwell GT2.
pub const DEVICE_ID: u32 = 0x1616_8086;

/// A function on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// A memory BAR that was sized and placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Guest-physical address.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Function {
    fn select(self, platform: &mut impl Platform, reg: u8) -> u16 {
        let address = CONFIG_ENABLE
            | u32::from(self.device & 31) << 11
            | u32::from(self.function & 7) << 8
            | u32::from(reg & 0xfc);
        platform.pio_write(CONFIG_ADDRESS, Width::B4, address);
        CONFIG_DATA + u16::from(reg & 3)
    }

    /// Reads configuration space; `reg` is a byte offset, aligned to `width`.
    pub fn read(self, platform: &mut impl Platform, reg: u8, width: Width) -> u32 {
        let port = self.select(platform, reg);
        platform.pio_read(port, width)
    }

    /// Writes it.
    pub fn write(self, platform: &mut impl Platform, reg: u8, width: Width, value: u32) {
        let port = self.select(platform, reg);
        platform.pio_write(port, width, value);
    }

    /// Looks for [`DEVICE_ID`] among the devices of bus 0.
    pub fn find(platform: &mut impl Platform) -> Option<Self> {
        for device in 0..32 {
            let first = Self { device, function: 0 };
            match first.read(platform, 0, Width::B4) {
                u32::MAX => {}
                DEVICE_ID => return Some(first),
                _ => {
                    let multi = first.read(platform, 0x0e, Width::B1) & 0x80 != 0;
                    for function in 1..if multi { 8 } else { 1 } {
                        let f = Self { device, function };
                        if f.read(platform, 0, Width::B4) == DEVICE_ID {
                            return Some(f);
                        }
                    }
                }
            }
        }
        None
    }

    /// Lets the function decode memory and be a bus master, or neither.
    pub fn set_decode(self, platform: &mut impl Platform, on: bool) {
        let old = self.read(platform, PCI_COMMAND, Width::B2);
        let both = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
        self.write(platform, PCI_COMMAND, Width::B2, if on { old | both } else { old & !both });
    }

    /// Sizes memory BAR `index` (0 to 5); decoding must be off. `None` where there is none.
    pub fn bar_size(self, platform: &mut impl Platform, index: u8) -> Option<u64> {
        let reg = PCI_BASE_ADDRESS_0 + 4 * index;
        let old = self.read(platform, reg, Width::B4);
        self.write(platform, reg, Width::B4, u32::MAX);
        let low = self.read(platform, reg, Width::B4);
        self.write(platform, reg, Width::B4, old);
        if low == 0 || low & 1 != 0 {
            return None;
        }
        let high = if low & 0b110 == 0b100 {
            let old = self.read(platform, reg + 4, Width::B4);
            self.write(platform, reg + 4, Width::B4, u32::MAX);
            let high = self.read(platform, reg + 4, Width::B4);
            self.write(platform, reg + 4, Width::B4, old);
            high
        } else {
            u32::MAX
        };
        let mask = u64::from(high) << 32 | u64::from(low & !0xf);
        Some(mask.wrapping_neg()).filter(|size| size.is_power_of_two())
    }

    /// Puts BAR `index` at `base`.
    pub fn set_bar(self, platform: &mut impl Platform, index: u8, base: u64) {
        let reg = PCI_BASE_ADDRESS_0 + 4 * index;
        let is_64 = self.read(platform, reg, Width::B4) & 0b110 == 0b100;
        self.write(platform, reg, Width::B4, lo32(base));
        if is_64 {
            self.write(platform, reg + 4, Width::B4, hi32(base));
        }
    }

    /// Whether a 64-bit BAR `index` reads back as `base`.
    pub fn bar_is_at(self, platform: &mut impl Platform, index: u8, base: u64) -> bool {
        let reg = PCI_BASE_ADDRESS_0 + 4 * index;
        let low = self.read(platform, reg, Width::B4);
        let high = if low & 0b110 == 0b100 { self.read(platform, reg + 4, Width::B4) } else { 0 };
        u64::from(high) << 32 | u64::from(low & !0xf) == base
    }

    /// Points the MSI capability at `message` and enables it. `false` where there is no such capability.
    pub fn enable_msi(self, platform: &mut impl Platform, message: MsiMessage) -> bool {
        let Some(cap) = self.capability(platform, PCI_CAP_ID_MSI) else { return false };
        let flags_at = cap + PCI_MSI_FLAGS;
        let flags = self.read(platform, flags_at, Width::B2);
        self.write(platform, cap + 4, Width::B4, lo32(message.address));
        let data_at = if flags & PCI_MSI_FLAGS_64BIT != 0 {
            self.write(platform, cap + 8, Width::B4, hi32(message.address));
            cap + 12
        } else {
            cap + 8
        };
        self.write(platform, data_at, Width::B2, u32::from(lo16(message.data)));
        self.write(platform, flags_at, Width::B2, flags & !PCI_MSI_FLAGS_QSIZE | PCI_MSI_FLAGS_ENABLE);
        true
    }

    fn capability(self, platform: &mut impl Platform, id: u32) -> Option<u8> {
        if self.read(platform, PCI_STATUS, Width::B2) & PCI_STATUS_CAP_LIST == 0 {
            return None;
        }
        let mut at = self.read(platform, PCI_CAPABILITY_LIST, Width::B1) & 0xfc;
        // a list longer than configuration space has room for is a loop
        for _ in 0..48 {
            let cap = u8::try_from(at).ok().filter(|&at| (0x40..=0xf0).contains(&at))?;
            let header = self.read(platform, cap, Width::B2);
            if header & 0xff == id {
                return Some(cap);
            }
            at = header >> 8 & 0xfc;
        }
        None
    }
}

/// Places BARs one after another in a window, each at a multiple of its size.
#[derive(Debug)]
pub struct Placer {
    next: u64,
    end: u64,
}

impl Placer {
    /// Of the platform's window.
    pub fn new(platform: &impl Platform) -> Self {
        let window = platform.mmio_window();
        Self { next: window.start.max(Gfn(1).addr()), end: window.end }
    }

    /// Sizes BAR `index` of `function` and puts it in the window. `None`: no such BAR, no room, or it does not keep
    /// what is written to it.
    pub fn place(&mut self, platform: &mut impl Platform, function: Function, index: u8) -> Option<Bar> {
        let size = function.bar_size(platform, index)?;
        let base = self.next.checked_next_multiple_of(size)?;
        let end = base.checked_add(size).filter(|&end| end <= self.end)?;
        function.set_bar(platform, index, base);
        self.next = end;
        function.bar_is_at(platform, index, base).then_some(Bar { base, size })
    }
}
