//! The registers, as tables: name, offset, how it takes a write, what it is.
//!
//! [`engine`] holds offsets from an engine's base, the other modules offsets in BAR0. [`lookup`] finds the row for
//! a byte offset in any of them.

use crate::physical::Engine;

/// How a register takes a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only; a write is lost.
    ReadOnly,
    /// Reads what was written.
    ReadWrite,
    /// Bits 31:16 select which of bits 15:0 a write changes; they read as zero.
    Masked,
    /// A one clears that bit.
    WriteOneClear,
    /// A write does something; what reads back is not what was written.
    Trigger,
}

/// A row: one register, or a few equal ones in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegDef {
    /// The name in i915 or the PRM.
    pub name: &'static str,
    /// Byte offset of the first dword.
    pub offset: u32,
    /// Dwords.
    pub count: u32,
    /// How it takes a write.
    pub access: Access,
}

impl RegDef {
    /// First byte after the row.
    pub const fn end(&self) -> u32 {
        self.offset + 4 * self.count
    }
}

macro_rules! registers {
    ($(#[$m:meta])* $module:ident; $($name:ident = $offset:literal $([$count:literal])?, $access:ident, $doc:literal;)*) => {
        $(#[$m])*
        pub mod $module {
            use super::{Access, RegDef};
            $(#[doc = $doc] pub const $name: u32 = $offset;)*
            /// The rows, by ascending offset.
            pub static TABLE: &[RegDef] = &[$(RegDef {
                name: stringify!($name),
                offset: $offset,
                count: 1 $(- 1 + $count)?,
                access: Access::$access,
            }),*];
        }
    };
}

registers! {
    /// Of every engine, relative to its base.
    engine;
    RING_TAIL = 0x030, ReadWrite, "Ring tail: bytes in 20:3.";
    RING_HEAD = 0x034, ReadWrite, "Ring head: bytes in 20:2, times wrapped in 31:21.";
    RING_START = 0x038, ReadWrite, "Ring start: GGTT address, page aligned.";
    RING_CTL = 0x03c, ReadWrite, "Ring control: size less 4096 in 20:12, valid in b0.";
    RING_PSMI_CTL = 0x050, Masked, "Power state control.";
    RING_ACTHD_UDW = 0x05c, ReadOnly, "Active head, upper dword.";
    RING_DMA_FADD_UDW = 0x060, ReadOnly, "Address being fetched, upper dword.";
    RING_IPEIR = 0x064, ReadOnly, "What was wrong with the instruction.";
    RING_IPEHR = 0x068, ReadOnly, "Header of the last instruction.";
    RING_INSTDONE = 0x06c, ReadOnly, "Which units are done.";
    RING_INSTPS = 0x070, ReadOnly, "Parser state.";
    RING_ACTHD = 0x074, ReadOnly, "Active head: address of the instruction being executed.";
    RING_DMA_FADD = 0x078, ReadOnly, "Address being fetched.";
    RING_HWS_PGA = 0x080, ReadWrite, "Hardware status page: GGTT address, page aligned.";
    RING_NOPID = 0x094, ReadOnly, "What the last MI_NOOP with b22 carried.";
    RING_HWSTAM = 0x098, ReadWrite, "Which interrupts are not reported to the status page.";
    RING_MI_MODE = 0x09c, Masked, "MI mode: b8 stop ring, b9 idle.";
    RING_IMR = 0x0a8, ReadWrite, "Interrupt mask: a one masks.";
    RING_EIR = 0x0b0, WriteOneClear, "Error identity: b0 instruction error.";
    RING_EMR = 0x0b4, ReadWrite, "Error mask.";
    RING_ESR = 0x0b8, ReadOnly, "Error status.";
    RING_INSTPM = 0x0c0, Masked, "Instruction parser mode.";
    GEN8_R_PWR_CLK_STATE = 0x0c8, ReadWrite, "Render power clock state (RCS).";
    RING_RESET_CTL = 0x0d0, Masked, "Reset handshake: b0 request, b1 ready.";
    RING_BBSTATE = 0x110, ReadOnly, "Batch buffer state: b5 PPGTT.";
    RING_SBBADDR = 0x114, ReadOnly, "Second-level batch address, valid in b0.";
    RING_SBBSTATE = 0x118, ReadOnly, "Second-level batch state.";
    RING_SBBADDR_UDW = 0x11c, ReadOnly, "Second-level batch address, upper dword.";
    RING_BBADDR = 0x140, ReadOnly, "Batch address, valid in b0.";
    RING_BB_OFFSET = 0x158, ReadWrite, "What MI_BATCH_BUFFER_START with b16 adds to its address.";
    RING_BBADDR_UDW = 0x168, ReadOnly, "Batch address, upper dword.";
    RING_BB_PER_CTX_PTR = 0x1c0, ReadWrite, "Batch to run after a context is restored.";
    RING_INDIRECT_CTX = 0x1c4, ReadWrite, "Batch to run while a context is restored.";
    RING_INDIRECT_CTX_OFFSET = 0x1c8, ReadWrite, "Where in the restore it runs.";
    BCS_SWCTRL = 0x200, Masked, "Blitter tiling: b0 source Y-major, b1 destination Y-major (BCS).";
    MI_PREDICATE_RESULT_2 = 0x214, ReadWrite, "Second predicate: b0.";
    RING_ELSP = 0x230, Trigger, "Execlist submit port: element 1 high, low, element 0 high, low.";
    RING_EXECLIST_STATUS_LO = 0x234, ReadOnly, "Execlist status.";
    RING_EXECLIST_STATUS_HI = 0x238, ReadOnly, "Execlist status: the context id.";
    RING_CONTEXT_CONTROL = 0x244, Masked, "Context save and restore control.";
    GEN8_RING_PDP = 0x270 [8], ReadWrite, "Page directory pointers 0 to 3, lower dword first.";
    RING_MODE_GEN7 = 0x29c, Masked, "Ring mode: b15 run list (execlists), b9 PPGTT, b7 48-bit PPGTT.";
    PS_DEPTH_COUNT = 0x350 [2], ReadWrite, "Pixels that passed the depth test, lower dword first (RCS).";
    RING_TIMESTAMP = 0x358, ReadOnly, "Timestamp, in ticks of 80 ns.";
    RING_TIMESTAMP_UDW = 0x35c, ReadOnly, "Timestamp, upper dword.";
    RING_CONTEXT_STATUS_BUF = 0x370 [12], ReadOnly, "Context status buffer: six entries of status and context id.";
    RING_CONTEXT_STATUS_PTR = 0x3a0, Masked, "Context status pointers: 2:0 write, 10:8 read.";
    RING_CTX_TIMESTAMP = 0x3a8, ReadWrite, "Ticks that the context ran.";
    MI_PREDICATE_SRC0 = 0x400 [2], ReadWrite, "What MI_PREDICATE compares, lower dword first.";
    MI_PREDICATE_SRC1 = 0x408 [2], ReadWrite, "With what.";
    MI_PREDICATE_DATA = 0x410 [2], ReadWrite, "The difference it compares with.";
    MI_PREDICATE_RESULT = 0x418, ReadWrite, "The predicate: b0.";
    MI_PREDICATE_RESULT_1 = 0x41c, ReadWrite, "Another predicate: b0.";
    RING_FORCE_TO_NONPRIV = 0x4d0 [12], ReadWrite, "Registers that unprivileged batches may write.";
    GEN8_RING_CS_GPR = 0x600 [32], ReadWrite, "General purpose registers 0 to 15, lower dword first.";
}

registers! {
    /// Of the whole GT.
    gt;
    RING_FAULT_REG = 0x4094, WriteOneClear, "Page fault: b0 valid, 2:1 type, 14:12 engine.";
    GEN8_PRIVATE_PAT_LO = 0x40e0, ReadWrite, "Page attributes 0 to 3.";
    GEN8_PRIVATE_PAT_HI = 0x40e4, ReadWrite, "Page attributes 4 to 7.";
    GEN8_RTCR = 0x4260, Trigger, "Invalidate the TLB of RCS: b0, clears itself.";
    GEN8_M1TCR = 0x4264, Trigger, "Invalidate the TLB of VCS: b0, clears itself.";
    GEN8_M2TCR = 0x4268, Trigger, "Invalidate the TLB of the second VCS: b0, clears itself.";
    GEN8_BTCR = 0x426c, Trigger, "Invalidate the TLB of BCS: b0, clears itself.";
    GEN8_VTCR = 0x4270, Trigger, "Invalidate the TLB of VECS: b0, clears itself.";
    GEN8_FAULT_TLB_DATA0 = 0x4b10, ReadOnly, "Faulting address, bits 43:12.";
    GEN8_FAULT_TLB_DATA1 = 0x4b14, ReadOnly, "Faulting address, bits 47:44 in 3:0; b4 it was a GGTT address.";
    GDRST = 0x941c, Trigger, "Reset: b0 all, b1 render, b2 media, b3 blitter, b4 VECS. Clears itself.";
    FORCEWAKE_MT = 0xa188, Masked, "Keep the GT awake.";
    FENCE_REG_GEN6 = 0x100000 [64], ReadWrite, "Fences 0 to 31, lower dword first.";
    GFX_FLSH_CNTL_GEN6 = 0x101008, Trigger, "Flush the GGTT's translations: b0.";
    FORCEWAKE_ACK_HSW = 0x130044, ReadOnly, "The answer to FORCEWAKE_MT.";
}

registers! {
    /// Of interrupts. A GT's group `n` holds RCS and BCS (0), VCS (1) and VECS (3).
    irq;
    DERRMR = 0x44050, ReadWrite, "Which display events reach the render engine.";
    GEN8_MASTER_IRQ = 0x44200, ReadWrite, "Master: b31 enable, the rest which group has something.";
    GEN8_GT_ISR0 = 0x44300, ReadOnly, "GT 0: state.";
    GEN8_GT_IMR0 = 0x44304, ReadWrite, "GT 0: mask.";
    GEN8_GT_IIR0 = 0x44308, WriteOneClear, "GT 0: identity.";
    GEN8_GT_IER0 = 0x4430c, ReadWrite, "GT 0: enable.";
    GEN8_GT_ISR1 = 0x44310, ReadOnly, "GT 1: state.";
    GEN8_GT_IMR1 = 0x44314, ReadWrite, "GT 1: mask.";
    GEN8_GT_IIR1 = 0x44318, WriteOneClear, "GT 1: identity.";
    GEN8_GT_IER1 = 0x4431c, ReadWrite, "GT 1: enable.";
    GEN8_GT_ISR2 = 0x44320, ReadOnly, "GT 2 (power management): state.";
    GEN8_GT_IMR2 = 0x44324, ReadWrite, "GT 2: mask.";
    GEN8_GT_IIR2 = 0x44328, WriteOneClear, "GT 2: identity.";
    GEN8_GT_IER2 = 0x4432c, ReadWrite, "GT 2: enable.";
    GEN8_GT_ISR3 = 0x44330, ReadOnly, "GT 3: state.";
    GEN8_GT_IMR3 = 0x44334, ReadWrite, "GT 3: mask.";
    GEN8_GT_IIR3 = 0x44338, WriteOneClear, "GT 3: identity.";
    GEN8_GT_IER3 = 0x4433c, ReadWrite, "GT 3: enable.";
}

registers! {
    /// Of the display engine: interrupts, pipe A, primary plane A, and what tells whether there is one.
    display;
    FUSE_STRAP = 0x42014, ReadOnly, "Straps: b30 no internal display.";
    GEN8_DE_PIPE_A_ISR = 0x44400, ReadOnly, "Pipe A: state.";
    GEN8_DE_PIPE_A_IMR = 0x44404, ReadWrite, "Pipe A: mask.";
    GEN8_DE_PIPE_A_IIR = 0x44408, WriteOneClear, "Pipe A: identity.";
    GEN8_DE_PIPE_A_IER = 0x4440c, ReadWrite, "Pipe A: enable.";
    GEN8_DE_PIPE_B_ISR = 0x44410, ReadOnly, "Pipe B: state.";
    GEN8_DE_PIPE_B_IMR = 0x44414, ReadWrite, "Pipe B: mask.";
    GEN8_DE_PIPE_B_IIR = 0x44418, WriteOneClear, "Pipe B: identity.";
    GEN8_DE_PIPE_B_IER = 0x4441c, ReadWrite, "Pipe B: enable.";
    GEN8_DE_PIPE_C_ISR = 0x44420, ReadOnly, "Pipe C: state.";
    GEN8_DE_PIPE_C_IMR = 0x44424, ReadWrite, "Pipe C: mask.";
    GEN8_DE_PIPE_C_IIR = 0x44428, WriteOneClear, "Pipe C: identity.";
    GEN8_DE_PIPE_C_IER = 0x4442c, ReadWrite, "Pipe C: enable.";
    GEN8_DE_PORT_ISR = 0x44440, ReadOnly, "Ports: state.";
    GEN8_DE_PORT_IMR = 0x44444, ReadWrite, "Ports: mask.";
    GEN8_DE_PORT_IIR = 0x44448, WriteOneClear, "Ports: identity.";
    GEN8_DE_PORT_IER = 0x4444c, ReadWrite, "Ports: enable.";
    GEN8_DE_MISC_ISR = 0x44460, ReadOnly, "Other display events: state.";
    GEN8_DE_MISC_IMR = 0x44464, ReadWrite, "Other display events: mask.";
    GEN8_DE_MISC_IIR = 0x44468, WriteOneClear, "Other display events: identity.";
    GEN8_DE_MISC_IER = 0x4446c, ReadWrite, "Other display events: enable.";
    GEN8_PCU_ISR = 0x444e0, ReadOnly, "Power controller: state.";
    GEN8_PCU_IMR = 0x444e4, ReadWrite, "Power controller: mask.";
    GEN8_PCU_IIR = 0x444e8, WriteOneClear, "Power controller: identity.";
    GEN8_PCU_IER = 0x444ec, ReadWrite, "Power controller: enable.";
    PIPEASRC = 0x6001c, ReadWrite, "Size of the picture: width less 1 in 27:16, height less 1 in 11:0.";
    PIPEACONF = 0x70008, ReadWrite, "Pipe A: b31 enable, b30 it is on.";
    DSPACNTR = 0x70180, ReadWrite, "Plane A: b31 enable, 29:26 format (6 BGRX 8:8:8:8), b10 X-tiled.";
    DSPASTRIDE = 0x70188, ReadWrite, "Plane A: bytes per line.";
    DSPASURF = 0x7019c, ReadWrite, "Plane A: GGTT address, page aligned. The write takes the other settings into use.";
    DSPATILEOFF = 0x701a4, ReadWrite, "Plane A: first pixel: y in 31:16, x in 15:0.";
    DSPASURFLIVE = 0x701ac, ReadOnly, "Plane A: the address being shown.";
    SFUSE_STRAP = 0xc2014, ReadOnly, "South straps: b7 no internal display.";
}

/// The mask registers of [`display`]. Identity and enable follow each of them.
pub const DISPLAY_IMRS: [u32; 6] = [
    display::GEN8_DE_PIPE_A_IMR,
    display::GEN8_DE_PIPE_B_IMR,
    display::GEN8_DE_PIPE_C_IMR,
    display::GEN8_DE_PORT_IMR,
    display::GEN8_DE_MISC_IMR,
    display::GEN8_PCU_IMR,
];

registers! {
    /// The page through which a guest and its host's mediator talk (`i915_pvinfo.h`, version 1.0).
    pvinfo;
    MAGIC = 0x78000 [2], ReadOnly, "`MAGIC_VALUE`, 64 bits.";
    VERSION = 0x78008, ReadOnly, "Major version in 15:0, minor in 31:16.";
    VGT_ID = 0x7800c, ReadOnly, "The vGPU's number.";
    VGT_CAPS = 0x78010, ReadOnly, "What the host offers: `CAPS_*`.";
    MAPPABLE_BASE = 0x78040, ReadOnly, "Slice in the aperture: first byte.";
    MAPPABLE_SIZE = 0x78044, ReadOnly, "Slice in the aperture: bytes.";
    NONMAPPABLE_BASE = 0x78048, ReadOnly, "Slice beyond the aperture: first byte.";
    NONMAPPABLE_SIZE = 0x7804c, ReadOnly, "Slice beyond the aperture: bytes.";
    FENCE_NUM = 0x78050, ReadOnly, "Fences of the slice.";
    DISPLAY_READY = 0x78804, ReadWrite, "The guest shows something: 1.";
    G2V_NOTIFY = 0x78818, Trigger, "The guest tells the host: `G2V_*`.";
    CURSOR_X_HOT = 0x78830, ReadWrite, "Cursor hot spot, x.";
    CURSOR_Y_HOT = 0x78834, ReadWrite, "Cursor hot spot, y.";
    PDP = 0x78838 [8], ReadWrite, "Page directory pointers 0 to 3, lower dword first.";
    EXECLIST_CONTEXT_DESCRIPTOR = 0x78858 [2], ReadWrite, "A context's descriptor, lower dword first.";
}

/// First byte of the PVINFO page.
pub const PVINFO_BASE: u32 = 0x78000;
/// Bytes of the PVINFO page.
pub const PVINFO_SIZE: u32 = 0x1000;
/// What [`pvinfo::MAGIC`] reads as: the letters vGTvGTvG.
pub const MAGIC_VALUE: u64 = 0x4776_5447_7654_4776;
/// PVINFO caps: full PPGTT.
pub const CAPS_FULL_PPGTT: u32 = 1 << 2;
/// PVINFO caps: the status page is emulated. i915 refuses a host without it.
pub const CAPS_HWSP_EMULATION: u32 = 1 << 3;
/// PVINFO caps: huge GTT pages.
pub const CAPS_HUGE_GTT: u32 = 1 << 4;
/// Notification: a 3-level PPGTT was made.
pub const G2V_PPGTT_L3_CREATE: u32 = 2;
/// Notification: a 3-level PPGTT goes.
pub const G2V_PPGTT_L3_DESTROY: u32 = 3;
/// Notification: a 4-level PPGTT was made.
pub const G2V_PPGTT_L4_CREATE: u32 = 4;
/// Notification: a 4-level PPGTT goes.
pub const G2V_PPGTT_L4_DESTROY: u32 = 5;
/// Notification: a context was made.
pub const G2V_EXECLIST_CONTEXT_CREATE: u32 = 6;
/// Notification: a context goes.
pub const G2V_EXECLIST_CONTEXT_DESTROY: u32 = 7;

/// [`engine::RING_CTL`]: the ring is in use.
pub const RING_VALID: u32 = 1 << 0;
/// [`engine::RING_CTL`]: size less one page, in bytes.
pub const RING_NR_PAGES: u32 = 0x001f_f000;
/// [`engine::RING_HEAD`]: the byte offset.
pub const HEAD_ADDR: u32 = 0x001f_fffc;
/// [`engine::RING_HEAD`]: one more time round.
pub const HEAD_WRAP_ONE: u32 = 0x0020_0000;
/// [`engine::RING_TAIL`]: the byte offset.
pub const TAIL_ADDR: u32 = 0x001f_fff8;
/// [`engine::RING_MI_MODE`]: stop the ring.
pub const STOP_RING: u32 = 1 << 8;
/// [`engine::RING_MI_MODE`]: the engine is idle.
pub const MODE_IDLE: u32 = 1 << 9;
/// [`engine::RING_MODE_GEN7`]: execlists instead of a ring.
pub const GFX_RUN_LIST_ENABLE: u32 = 1 << 15;
/// [`engine::RING_RESET_CTL`]: a reset is asked for.
pub const RESET_CTL_REQUEST_RESET: u32 = 1 << 0;
/// [`engine::RING_RESET_CTL`]: the engine is ready for it.
pub const RESET_CTL_READY_TO_RESET: u32 = 1 << 1;
/// [`engine::RING_EIR`]: an instruction could not be executed.
pub const I915_ERROR_INSTRUCTION: u32 = 1 << 0;
/// [`engine::RING_EIR`]: a GGTT entry was invalid (`GM45_ERROR_PAGE_TABLE`).
pub const ERROR_PAGE_TABLE: u32 = 1 << 4;
/// [`gt::RING_FAULT_REG`]: the register holds a fault.
pub const RING_FAULT_VALID: u32 = 1 << 0;
/// [`gt::GEN8_FAULT_TLB_DATA1`]: a GGTT address.
pub const FAULT_GTT_SEL: u32 = 1 << 4;
/// [`gt::GFX_FLSH_CNTL_GEN6`]: flush.
pub const GFX_FLSH_CNTL_EN: u32 = 1 << 0;
/// [`gt::GDRST`]: everything.
pub const GRDOM_FULL: u32 = 1 << 0;
/// [`gt::GDRST`]: RCS.
pub const GRDOM_RENDER: u32 = 1 << 1;
/// [`gt::GDRST`]: VCS.
pub const GRDOM_MEDIA: u32 = 1 << 2;
/// [`gt::GDRST`]: BCS.
pub const GRDOM_BLT: u32 = 1 << 3;
/// [`gt::GDRST`]: VECS.
pub const GRDOM_VECS: u32 = 1 << 4;
/// [`gt::FORCEWAKE_MT`]: the kernel's wish.
pub const FORCEWAKE_KERNEL: u16 = 1 << 0;
/// The page attributes that drivers of Broadwell choose from, a byte each from 0 on (i915 `bdw_setup_private_ppat`): 1:0 uncached,
/// write-combining, write-through, write-back; 3:2 in which caches; 5:4 age. Every GGTT entry has attribute 0: write-back, in the
/// processor's cache.
pub const BDW_PPAT: [u8; 8] = [0x07, 0x09, 0x0a, 0x00, 0x0b, 0x1b, 0x2b, 0x3b];
/// [`irq::GEN8_MASTER_IRQ`]: interrupts leave the GPU.
pub const MASTER_IRQ_CONTROL: u32 = 1 << 31;
/// An engine's interrupts: MI_USER_INTERRUPT.
pub const GT_RENDER_USER_INTERRUPT: u32 = 1 << 0;
/// An engine's interrupts: the command streamer met an error.
pub const GT_CS_MASTER_ERROR_INTERRUPT: u32 = 1 << 3;
/// An engine's interrupts: a flush asked to be told about.
pub const GT_RENDER_PIPECTL_NOTIFY_INTERRUPT: u32 = 1 << 4;
/// An engine's interrupts: the context status buffer has news.
pub const GT_CONTEXT_SWITCH_INTERRUPT: u32 = 1 << 8;
/// [`display::DSPACNTR`]: the plane is on.
pub const DISP_ENABLE: u32 = 1 << 31;
/// [`display::DSPACNTR`]: the format field.
pub const DISP_FORMAT_MASK: u32 = 0xf << 26;
/// [`display::DSPACNTR`]: 32 bits, blue lowest, the top byte ignored.
pub const DISP_FORMAT_BGRX888: u32 = 6 << 26;
/// [`display::DSPACNTR`]: X-tiled.
pub const DISP_TILED: u32 = 1 << 10;
/// Nanoseconds per tick of a timestamp.
pub const TIMESTAMP_NS: u64 = 80;

/// The value that writes `bits` of a masked register to ones.
pub const fn masked_enable(bits: u16) -> u32 {
    ((bits as u32) << 16) | bits as u32
}

/// The value that writes `bits` of a masked register to zeros.
pub const fn masked_disable(bits: u16) -> u32 {
    (bits as u32) << 16
}

/// The value that writes the bits of `field` as they are in `value`.
pub const fn masked_field(field: u16, value: u32) -> u32 {
    ((field as u32) << 16) | (value & field as u32)
}

/// What a masked register holds after a write.
pub const fn masked_write(old: u32, value: u32) -> u32 {
    let mask = value >> 16;
    (old & !mask | value & mask) & 0xffff
}

/// Bytes of MMIO from an engine's base that are the engine's own.
pub const ENGINE_SPAN: u32 = 0x800;

impl Engine {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Rcs, Self::Bcs, Self::Vcs, Self::Vecs];

    /// 0 to 3: a place in an array.
    pub const fn index(self) -> usize {
        self as usize
    }
    /// Base of its registers in BAR0.
    pub const fn mmio_base(self) -> u32 {
        match self {
            Self::Rcs => 0x2000,
            Self::Bcs => 0x22000,
            Self::Vcs => 0x12000,
            Self::Vecs => 0x1a000,
        }
    }
    /// The usual short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rcs => "RCS",
            Self::Bcs => "BCS",
            Self::Vcs => "VCS",
            Self::Vecs => "VECS",
        }
    }
    /// Where its interrupts stand: the GT group (registers at 16 bytes' distance) and the shift within it.
    pub const fn irq_group(self) -> (u32, u32) {
        match self {
            Self::Rcs => (0, 0),
            Self::Bcs => (0, 16),
            Self::Vcs => (1, 0),
            Self::Vecs => (3, 0),
        }
    }
    /// Its bit in [`irq::GEN8_MASTER_IRQ`].
    pub const fn master_irq_bit(self) -> u32 {
        match self {
            Self::Rcs => 1 << 0,
            Self::Bcs => 1 << 1,
            Self::Vcs => 1 << 2,
            Self::Vecs => 1 << 6,
        }
    }
    /// Its bit in [`gt::GDRST`].
    pub const fn reset_bit(self) -> u32 {
        match self {
            Self::Rcs => GRDOM_RENDER,
            Self::Bcs => GRDOM_BLT,
            Self::Vcs => GRDOM_MEDIA,
            Self::Vecs => GRDOM_VECS,
        }
    }
    /// Its register that invalidates its TLB.
    pub const fn tlb_reg(self) -> u32 {
        match self {
            Self::Rcs => gt::GEN8_RTCR,
            Self::Bcs => gt::GEN8_BTCR,
            Self::Vcs => gt::GEN8_M1TCR,
            Self::Vecs => gt::GEN8_VTCR,
        }
    }
    /// The engine to which a byte offset in BAR0 belongs, and the offset from its base.
    pub fn of_mmio(offset: u32) -> Option<(Self, u32)> {
        Self::ALL
            .into_iter()
            .map(|e| (e, offset.wrapping_sub(e.mmio_base())))
            .find(|&(_, rel)| rel < ENGINE_SPAN)
    }
}

/// A register found by [`lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its row.
    pub def: &'static RegDef,
    /// The engine, if the row is one of [`engine`].
    pub engine: Option<Engine>,
    /// Which dword of the row.
    pub index: u32,
}

/// Finds the row of the dword at a byte offset in `table`, and which dword of the row it is.
pub fn find(table: &'static [RegDef], offset: u32) -> Option<(&'static RegDef, u32)> {
    let at = table.partition_point(|r| r.offset <= offset).checked_sub(1)?;
    let def = table.get(at)?;
    (offset < def.end()).then(|| (def, (offset - def.offset) / 4))
}

/// Finds the register at a byte offset in BAR0. An offset inside a dword finds that dword.
pub fn lookup(offset: u32) -> Option<Register> {
    if let Some((e, rel)) = Engine::of_mmio(offset) {
        return find(engine::TABLE, rel).map(|(def, index)| Register { def, engine: Some(e), index });
    }
    [gt::TABLE, irq::TABLE, display::TABLE, pvinfo::TABLE]
        .into_iter()
        .find_map(|t| find(t, offset))
        .map(|(def, index)| Register { def, engine: None, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_ascending_and_disjoint() {
        for table in [engine::TABLE, gt::TABLE, irq::TABLE, display::TABLE, pvinfo::TABLE] {
            for r in table {
                assert!(r.offset % 4 == 0 && r.count > 0, "{}", r.name);
            }
            for w in table.windows(2) {
                assert!(w[0].end() <= w[1].offset, "{} and {}", w[0].name, w[1].name);
            }
        }
        assert!(engine::TABLE.iter().all(|r| r.end() <= ENGINE_SPAN));
        for r in [gt::TABLE, irq::TABLE, display::TABLE, pvinfo::TABLE].concat() {
            assert_eq!(lookup(r.offset).map(|f| f.def.name), Some(r.name));
        }
    }

    #[test]
    fn register_is_found_by_any_of_its_bytes() {
        let r = lookup(0x22230).expect("ELSP of BCS");
        assert_eq!((r.def.name, r.engine, r.index), ("RING_ELSP", Some(Engine::Bcs), 0));
        let r = lookup(0x100_00e).expect("fence 1, upper dword");
        assert_eq!((r.def.name, r.engine, r.index), ("FENCE_REG_GEN6", None, 3));
    }

    #[test]
    fn unknown_offset_is_not_found() {
        for offset in [0, 0x2000, 0x2234 + 8, 0x78014, 0x1f_fffc, u32::MAX] {
            assert_eq!(lookup(offset), None, "{offset:#x}");
        }
    }

    #[test]
    fn masked_write_changes_selected_bits_only() {
        assert_eq!(masked_write(0x0f0f, masked_enable(0x00f0)), 0x0fff);
        assert_eq!(masked_write(0x0fff, masked_disable(0x0ff0)), 0x000f);
        assert_eq!(masked_write(0x1234, 0x0000_ffff), 0x1234);
    }

    #[test]
    fn magic_spells_what_the_header_says() {
        assert_eq!(&MAGIC_VALUE.to_le_bytes(), b"vGTvGTvG");
    }
}
