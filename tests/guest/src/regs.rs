//! Registers of BAR0 that the driver touches, as byte offsets, under their names in i915 and the Broadwell PRM
//! (volume 2c). Written from the driver's side of the documents: nothing here is shared with the device model.

/// Base of the blitter's registers.
pub const BLT_RING_BASE: u32 = 0x22000;

/// An engine's registers, to be added to its base.
pub mod ring {
    /// Hardware status page address (GGTT, 4 KiB aligned).
    pub const HWS_PGA: u32 = 0x80;
    /// Hardware status mask: which events write to the status page.
    pub const HWSTAM: u32 = 0x98;
    /// Mode, masked: bit 8 stops the ring.
    pub const MI_MODE: u32 = 0x9c;
    /// Interrupt mask.
    pub const IMR: u32 = 0xa8;
    /// Error identity, write one to clear.
    pub const EIR: u32 = 0xb0;
    /// Error mask.
    pub const EMR: u32 = 0xb4;
    /// Reset control, masked: bit 0 request, bit 1 ready.
    pub const RESET_CTL: u32 = 0xd0;
    /// Execlist submit port.
    pub const ELSP: u32 = 0x230;
    /// Mode, masked: bit 15 run lists.
    pub const MODE: u32 = 0x29c;
    /// Context status buffer pointers: bits 2:0 write, 10:8 read, 31:16 mask.
    pub const CONTEXT_STATUS_PTR: u32 = 0x3a0;
}

/// `BCS_SWCTRL`, masked: bit 0 source Y-tiled, bit 1 destination Y-tiled.
pub const BCS_SWCTRL: u32 = 0x22200;

/// `RING_MODE`: run lists (execlists).
pub const GFX_RUN_LIST_ENABLE: u32 = 1 << 15;
/// `RING_MI_MODE`: stop.
pub const STOP_RING: u32 = 1 << 8;
/// `RING_RESET_CTL`: request.
pub const RESET_CTL_REQUEST_RESET: u32 = 1 << 0;
/// `RING_RESET_CTL`: the engine is ready to be reset.
pub const RESET_CTL_READY_TO_RESET: u32 = 1 << 1;

/// `RING_EIR` and `RING_EMR`: a command that the engine does not take.
pub const I915_ERROR_INSTRUCTION: u32 = 1 << 0;

/// Reset domains.
pub const GEN6_GDRST: u32 = 0x941c;
/// `GDRST`: everything.
pub const GEN6_GRDOM_FULL: u32 = 1 << 0;
/// `GDRST`: the blitter.
pub const GEN6_GRDOM_BLT: u32 = 1 << 3;

/// Master interrupt control.
pub const GEN8_MASTER_IRQ: u32 = 0x44200;
/// `MASTER_IRQ`: enable.
pub const GEN8_MASTER_IRQ_CONTROL: u32 = 1 << 31;
/// `MASTER_IRQ`: the blitter has something in GT interrupt register 0.
pub const GEN8_GT_BCS_IRQ: u32 = 1 << 1;
/// GT interrupt mask 0 (render and blitter).
pub const GEN8_GT_IMR0: u32 = 0x44304;
/// GT interrupt identity 0, write one to clear.
pub const GEN8_GT_IIR0: u32 = 0x44308;
/// GT interrupt enable 0.
pub const GEN8_GT_IER0: u32 = 0x4430c;
/// Where the blitter's half of the GT registers 0 starts.
pub const GEN8_BCS_IRQ_SHIFT: u32 = 16;
/// User interrupt, to be shifted.
pub const GT_RENDER_USER_INTERRUPT: u32 = 1 << 0;
/// The engine met an error that its `EMR` lets through, to be shifted.
pub const GT_CS_MASTER_ERROR_INTERRUPT: u32 = 1 << 3;
/// Context switch, to be shifted.
pub const GT_CONTEXT_SWITCH_INTERRUPT: u32 = 1 << 8;

/// Flush of GGTT writes.
pub const GFX_FLSH_CNTL_GEN6: u32 = 0x10_1008;
/// `GFX_FLSH_CNTL`: do it.
pub const GFX_FLSH_CNTL_EN: u32 = 1;

/// Size of pipe A's source: (width - 1) << 16 | (height - 1).
pub const PIPEASRC: u32 = 0x6_001c;
/// Primary plane A: bit 31 enable, bits 29:26 format.
pub const DSPACNTR: u32 = 0x7_0180;
/// Its stride in bytes.
pub const DSPASTRIDE: u32 = 0x7_0188;
/// Its surface in the GGTT; the write flips.
pub const DSPASURF: u32 = 0x7_019c;
/// Its first pixel.
pub const DSPATILEOFF: u32 = 0x7_01a4;
/// Pipe A: bit 31 enable.
pub const PIPEACONF: u32 = 0x7_0008;
/// From a register of a pipe or its primary plane to that of the next pipe.
pub const NEXT_PIPE: u32 = 0x1000;
/// Display interrupts of pipe A: mask; the next pipe's are 16 bytes on.
pub const GEN8_DE_PIPE_IMR: u32 = 0x4_4404;
/// Identity.
pub const GEN8_DE_PIPE_IIR: u32 = 0x4_4408;
/// Enable.
pub const GEN8_DE_PIPE_IER: u32 = 0x4_440c;
/// Interrupts of ports: enable.
pub const GEN8_DE_PORT_IER: u32 = 0x4_444c;
/// Of the rest of the display: enable.
pub const GEN8_DE_MISC_IER: u32 = 0x4_446c;
/// Of the power controller: mask.
pub const GEN8_PCU_IMR: u32 = 0x4_44e4;
/// Enable.
pub const GEN8_PCU_IER: u32 = 0x4_44ec;
/// The display's clock.
pub const LCPLL_CTL: u32 = 0x13_0040;

/// `DSPCNTR`: enable.
pub const DISPLAY_PLANE_ENABLE: u32 = 1 << 31;
/// `DSPCNTR`: 32 bits a pixel, blue in the lowest byte, no alpha.
pub const DISPPLANE_BGRX888: u32 = 6 << 26;

/// The page through which a mediator and its guests talk (i915_pvinfo.h).
pub mod pvinfo {
    /// Where it is.
    pub const VGT_PVINFO_PAGE: u32 = 0x7_8000;
    /// Magic, 8 bytes.
    pub const MAGIC: u32 = VGT_PVINFO_PAGE;
    /// Value of the magic.
    pub const VGT_MAGIC: u64 = 0x4776_5447_7654_4776;
    /// Major version, 2 bytes: 1.
    pub const VERSION_MAJOR: u32 = VGT_PVINFO_PAGE + 0x8;
    /// Capabilities.
    pub const VGT_CAPS: u32 = VGT_PVINFO_PAGE + 0x10;
    /// Capability: context status goes to the status page.
    pub const VGT_CAPS_HWSP_EMULATION: u32 = 1 << 3;
    /// First byte of the slice of the mappable GGTT.
    pub const MAPPABLE_BASE: u32 = VGT_PVINFO_PAGE + 0x40;
    /// Its size in bytes.
    pub const MAPPABLE_SIZE: u32 = VGT_PVINFO_PAGE + 0x44;
    /// First byte of the slice of the rest.
    pub const NONMAPPABLE_BASE: u32 = VGT_PVINFO_PAGE + 0x48;
    /// Its size in bytes.
    pub const NONMAPPABLE_SIZE: u32 = VGT_PVINFO_PAGE + 0x4c;
    /// The guest tells here that it shows a picture.
    pub const DISPLAY_READY: u32 = VGT_PVINFO_PAGE + 0x804;
    /// Notifications from the guest.
    pub const G2V_NOTIFY: u32 = VGT_PVINFO_PAGE + 0x818;
}

/// The GTT inside BAR0: 8 bytes an entry.
pub const GTT_OFFSET: u64 = 8 << 20;
/// Bytes of registers in BAR0.
pub const REGISTERS_SIZE: u32 = 2 << 20;
/// `GEN8_PAGE_PRESENT` of a GGTT entry.
pub const GEN8_PAGE_PRESENT: u64 = 1;

/// Value for a masked register that sets `bits` and leaves the others.
pub const fn masked_bit_enable(bits: u32) -> u32 {
    bits << 16 | bits
}

/// Value for a masked register that clears `bits` and leaves the others.
pub const fn masked_bit_disable(bits: u32) -> u32 {
    bits << 16
}
