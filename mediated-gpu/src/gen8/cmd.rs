//! The commands: which there are, how long they are, and the fields of those that move data (see also [`blt`](super::blt)).
//!
//! A command's first dword says its client (31:29), its opcode, and its length less two. [`decode`] reads that;
//! builders and field decoders for the single commands follow.

mod fields;

use crate::physical::Engine;
pub use fields::*;

/// Who parses a command: bits 31:29.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The command streamer itself (0). Opcode in 28:23.
    Mi,
    /// The blitter (2). Opcode in 28:22.
    Blt,
    /// Render or media pipe (3). Opcode in 28:16.
    Pipe,
}

/// How a command's dwords are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// One dword; no length field.
    One,
    /// The low bits, this many, hold the number of dwords less two.
    Bits(u32),
}

/// A set of engines, by [`Engine::index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engines(u8);

impl Engines {
    /// Every engine.
    pub const ALL: Self = Self(0xf);
    /// One engine.
    pub const fn only(engine: Engine) -> Self {
        Self(1 << engine.index())
    }
    /// Whether `engine` is one of them.
    pub const fn contains(self, engine: Engine) -> bool {
        self.0 & (1 << engine.index()) != 0
    }
}

/// A row of the command table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdDef {
    /// The name in i915 or the PRM.
    pub name: &'static str,
    /// Who parses it.
    pub client: Client,
    /// The opcode, as the client counts it.
    pub opcode: u32,
    /// How its dwords are counted.
    pub length: Length,
    /// Which engines know it.
    pub engines: Engines,
    /// Who says so.
    pub source: Source,
}

/// Public material that says what a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Linux: `i915/gt/intel_gpu_commands.h`.
    I915,
    /// Linux: the command tables of `i915/gvt/cmd_parser.c`.
    Gvt,
    /// Mesa: `src/intel/genxml/gen8.xml`.
    GenXml,
    /// igt-gpu-tools: `lib/intel_reg.h`.
    Igt,
}

macro_rules! commands {
    ($($name:ident = $client:ident $opcode:literal, $length:expr, $engines:expr, $source:ident;)*) => {
        /// Opcodes, as their client counts them.
        pub mod op {
            $(#[doc = concat!("The opcode of `", stringify!($name), "`.")]
            pub const $name: u32 = $opcode;)*
        }
        /// The commands that have a name here, ascending by client and opcode.
        pub static TABLE: &[CmdDef] = &[$(CmdDef {
            name: stringify!($name),
            client: Client::$client,
            opcode: $opcode,
            length: $length,
            engines: $engines,
            source: Source::$source,
        }),*];
    };
}

use Length::{Bits, One};
const ALL: Engines = Engines::ALL;
const RCS: Engines = Engines::only(Engine::Rcs);
const BCS: Engines = Engines::only(Engine::Bcs);
const VCS: Engines = Engines::only(Engine::Vcs);

commands! {
    MI_NOOP = Mi 0x00, One, ALL, I915;
    MI_SET_PREDICATE = Mi 0x01, One, RCS, GenXml;
    MI_USER_INTERRUPT = Mi 0x02, One, ALL, I915;
    MI_WAIT_FOR_EVENT = Mi 0x03, One, ALL, GenXml;
    MI_ARB_CHECK = Mi 0x05, One, ALL, I915;
    MI_RS_CONTROL = Mi 0x06, One, RCS, GenXml;
    MI_REPORT_HEAD = Mi 0x07, One, ALL, GenXml;
    MI_ARB_ON_OFF = Mi 0x08, One, ALL, I915;
    MI_URB_ATOMIC_ALLOC = Mi 0x09, One, RCS, GenXml;
    MI_BATCH_BUFFER_END = Mi 0x0a, One, ALL, I915;
    MI_SUSPEND_FLUSH = Mi 0x0b, One, ALL, GenXml;
    MI_PREDICATE = Mi 0x0c, One, RCS, GenXml;
    MI_TOPOLOGY_FILTER = Mi 0x0d, One, RCS, GenXml;
    MI_SET_APPID = Mi 0x0e, One, ALL, GenXml;
    MI_RS_CONTEXT = Mi 0x0f, One, RCS, GenXml;
    MI_LOAD_SCAN_LINES_INCL = Mi 0x12, Bits(6), ALL, GenXml;
    MI_LOAD_SCAN_LINES_EXCL = Mi 0x13, Bits(6), ALL, GenXml;
    MI_DISPLAY_FLIP = Mi 0x14, Bits(8), ALL, I915;
    MI_SET_CONTEXT = Mi 0x18, Bits(8), RCS, I915;
    MI_MATH = Mi 0x1a, Bits(8), ALL, I915;
    MI_SEMAPHORE_SIGNAL = Mi 0x1b, Bits(8), ALL, I915;
    MI_SEMAPHORE_WAIT = Mi 0x1c, Bits(8), ALL, I915;
    MI_FORCE_WAKEUP = Mi 0x1d, Bits(8), ALL, GenXml;
    MI_STORE_DATA_IMM = Mi 0x20, Bits(10), ALL, I915;
    MI_STORE_DATA_INDEX = Mi 0x21, Bits(8), ALL, GenXml;
    MI_LOAD_REGISTER_IMM = Mi 0x22, Bits(8), ALL, I915;
    MI_UPDATE_GTT = Mi 0x23, Bits(10), ALL, I915;
    MI_STORE_REGISTER_MEM = Mi 0x24, Bits(8), ALL, I915;
    MI_FLUSH_DW = Mi 0x26, Bits(6), ALL, I915;
    MI_CLFLUSH = Mi 0x27, Bits(10), RCS, GenXml;
    MI_REPORT_PERF_COUNT = Mi 0x28, Bits(6), RCS, GenXml;
    MI_LOAD_REGISTER_MEM = Mi 0x29, Bits(8), ALL, I915;
    MI_LOAD_REGISTER_REG = Mi 0x2a, Bits(8), ALL, I915;
    MI_RS_STORE_DATA_IMM = Mi 0x2b, Bits(8), RCS, GenXml;
    MI_LOAD_URB_MEM = Mi 0x2c, Bits(8), RCS, GenXml;
    MI_STORE_URB_MEM = Mi 0x2d, Bits(8), RCS, GenXml;
    MI_COPY_MEM_MEM = Mi 0x2e, Bits(8), ALL, GenXml;
    MI_ATOMIC = Mi 0x2f, Bits(8), ALL, GenXml;
    MI_BATCH_BUFFER_START = Mi 0x31, Bits(8), ALL, I915;
    MI_CONDITIONAL_BATCH_BUFFER_END = Mi 0x36, Bits(8), ALL, GenXml;
    XY_SETUP_BLT = Blt 0x01, Bits(8), BCS, Gvt;
    XY_SETUP_CLIP_BLT = Blt 0x03, Bits(8), BCS, Gvt;
    XY_SETUP_MONO_PATTERN_SL_BLT = Blt 0x11, Bits(8), BCS, Gvt;
    XY_PIXEL_BLT = Blt 0x24, Bits(8), BCS, Gvt;
    XY_SCANLINES_BLT = Blt 0x25, Bits(8), BCS, Gvt;
    XY_TEXT_BLT = Blt 0x26, Bits(8), BCS, Gvt;
    XY_TEXT_IMMEDIATE_BLT = Blt 0x31, Bits(8), BCS, Gvt;
    COLOR_BLT = Blt 0x40, Bits(8), BCS, Gvt;
    XY_FAST_COPY_BLT = Blt 0x42, Bits(8), BCS, Igt;
    SRC_COPY_BLT = Blt 0x43, Bits(8), BCS, Gvt;
    XY_COLOR_BLT = Blt 0x50, Bits(8), BCS, I915;
    XY_PAT_BLT = Blt 0x51, Bits(8), BCS, Gvt;
    XY_MONO_PAT_BLT = Blt 0x52, Bits(8), BCS, Gvt;
    XY_SRC_COPY_BLT = Blt 0x53, Bits(8), BCS, I915;
    XY_MONO_SRC_COPY_BLT = Blt 0x54, Bits(8), BCS, Gvt;
    XY_FULL_BLT = Blt 0x55, Bits(8), BCS, Gvt;
    XY_FULL_MONO_SRC_BLT = Blt 0x56, Bits(8), BCS, Gvt;
    XY_FULL_MONO_PATTERN_BLT = Blt 0x57, Bits(8), BCS, Gvt;
    XY_FULL_MONO_PATTERN_MONO_SRC_BLT = Blt 0x58, Bits(8), BCS, Gvt;
    XY_MONO_PAT_FIXED_BLT = Blt 0x59, Bits(8), BCS, Gvt;
    XY_MONO_SRC_COPY_IMMEDIATE_BLT = Blt 0x71, Bits(8), BCS, Gvt;
    XY_PAT_BLT_IMMEDIATE = Blt 0x72, Bits(8), BCS, Gvt;
    XY_SRC_COPY_CHROMA_BLT = Blt 0x73, Bits(8), BCS, Gvt;
    XY_FULL_IMMEDIATE_PATTERN_BLT = Blt 0x74, Bits(8), BCS, Gvt;
    XY_FULL_MONO_SRC_IMMEDIATE_PATTERN_BLT = Blt 0x75, Bits(8), BCS, Gvt;
    XY_PAT_CHROMA_BLT = Blt 0x76, Bits(8), BCS, Gvt;
    XY_PAT_CHROMA_BLT_IMMEDIATE = Blt 0x77, Bits(8), BCS, Gvt;
    MFX_WAIT = Pipe 0x0800, One, VCS, Gvt;
    PIPELINE_SELECT = Pipe 0x0904, One, RCS, I915;
    GEN8_3DSTATE_VF_STATISTICS = Pipe 0x180b, One, RCS, I915;
    GEN7_3DSTATE_DX9_CONSTANTF_VS = Pipe 0x1839, Bits(11), RCS, Gvt;
    GEN7_3DSTATE_DX9_CONSTANTF_PS = Pipe 0x183a, Bits(11), RCS, Gvt;
    GEN8_3DSTATE_BINDING_TABLE_EDIT_VS = Pipe 0x1843, Bits(9), RCS, Gvt;
    GEN8_3DSTATE_BINDING_TABLE_EDIT_GS = Pipe 0x1844, Bits(9), RCS, Gvt;
    GEN8_3DSTATE_BINDING_TABLE_EDIT_HS = Pipe 0x1845, Bits(9), RCS, Gvt;
    GEN8_3DSTATE_BINDING_TABLE_EDIT_DS = Pipe 0x1846, Bits(9), RCS, Gvt;
    GEN8_3DSTATE_BINDING_TABLE_EDIT_PS = Pipe 0x1847, Bits(9), RCS, Gvt;
    GEN8_3DSTATE_SO_DECL_LIST = Pipe 0x1917, Bits(9), RCS, GenXml;
    PIPE_CONTROL = Pipe 0x1a00, Bits(8), RCS, I915;
}

/// What a command's first dword says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Who parses it.
    pub client: Client,
    /// The opcode, as the client counts it.
    pub opcode: u32,
    /// Dwords, the first included: 1 to 65537.
    pub dwords: u32,
    /// The row of [`TABLE`], if the command has a name here.
    pub def: Option<&'static CmdDef>,
}

impl Decoded {
    /// The name, or `"?"`.
    pub fn name(&self) -> &'static str {
        self.def.map_or("?", |d| d.name)
    }
    /// Whether it is the named MI command, by its opcode of [`op`].
    pub fn is_mi(&self, opcode: u32) -> bool {
        self.client == Client::Mi && self.opcode == opcode
    }
    /// Whether `engine` may meet this command: the row says so, or, for one without a name, the engine has the
    /// client's pipe. RCS has no blitter, BCS no 3D or media pipe.
    pub fn legal_on(&self, engine: Engine) -> bool {
        match self.def {
            Some(d) => d.engines.contains(engine),
            None => match self.client {
                Client::Mi => false,
                Client::Blt => engine == Engine::Bcs,
                Client::Pipe => engine != Engine::Bcs,
            },
        }
    }
}

/// Opcodes that the command streamer can have, and those of the blitter.
const MI_OPCODES: usize = 1 << 6;
const BLT_OPCODES: usize = 1 << 7;

/// The rows of these by opcode, the blitter's behind the streamer's: every command of a batch is looked up, twice or more.
static ROWS: [Option<&CmdDef>; MI_OPCODES + BLT_OPCODES] = {
    let mut rows = [None; MI_OPCODES + BLT_OPCODES];
    let mut n = 0;
    while n < TABLE.len() {
        let row = &TABLE[n];
        match row.client {
            Client::Mi => rows[row.opcode as usize] = Some(row),
            Client::Blt => rows[MI_OPCODES + row.opcode as usize] = Some(row),
            Client::Pipe => {}
        }
        n += 1;
    }
    rows
};

fn row(client: Client, opcode: u32) -> Option<&'static CmdDef> {
    let place = match client {
        Client::Mi => opcode as usize,
        Client::Blt => MI_OPCODES + opcode as usize,
        Client::Pipe => {
            let key = |d: &CmdDef| (d.client as u32, d.opcode);
            return TABLE.binary_search_by_key(&(client as u32, opcode), key).ok().and_then(|i| TABLE.get(i));
        }
    };
    ROWS.get(place).copied().flatten()
}

/// Reads a command's first dword. `None`: no client has this number, and the length cannot be known.
pub fn decode(header: u32) -> Option<Decoded> {
    let (client, opcode) = match header >> 29 {
        0 => (Client::Mi, (header >> 23) & 0x3f),
        2 => (Client::Blt, (header >> 22) & 0x7f),
        3 => (Client::Pipe, (header >> 16) & 0x1fff),
        _ => return None,
    };
    let def = row(client, opcode);
    let length = match def {
        Some(d) => d.length,
        None if client == Client::Mi && opcode < 0x10 => One,
        None if client == Client::Pipe => Bits(pipe_length(opcode)),
        None => Bits(8),
    };
    let dwords = match length {
        One => 1,
        Bits(n) => (header & ((1 << n) - 1)) + 2,
    };
    Some(Decoded { client, opcode, dwords, def })
}

/// Bits of the length field of a render or media command that has no row.
///
/// The media pipe's have 16; the video engines' share its opcodes and have 12, with zeros above. GPGPU_WALKER is one of
/// the media pipe's that has flags from bit 8 on.
const fn pipe_length(opcode: u32) -> u32 {
    const MEDIA: u32 = 2;
    const GPGPU_WALKER: u32 = 0x1105;
    if opcode >> 11 == MEDIA && opcode != GPGPU_WALKER { 16 } else { 8 }
}

/// The header of an MI command of `dwords` dwords.
const fn mi(opcode: u32, dwords: u32) -> u32 {
    (opcode << 23) | dwords.saturating_sub(2)
}

/// MI_NOOP.
pub const MI_NOOP: u32 = 0;
/// MI_USER_INTERRUPT.
pub const MI_USER_INTERRUPT: u32 = mi(op::MI_USER_INTERRUPT, 2);
/// MI_ARB_CHECK.
pub const MI_ARB_CHECK: u32 = mi(op::MI_ARB_CHECK, 2);
/// MI_ARB_ON_OFF, on.
pub const MI_ARB_ON: u32 = mi(op::MI_ARB_ON_OFF, 2) | 1;
/// MI_ARB_ON_OFF, off.
pub const MI_ARB_OFF: u32 = mi(op::MI_ARB_ON_OFF, 2);
/// MI_BATCH_BUFFER_END.
pub const MI_BATCH_BUFFER_END: u32 = mi(op::MI_BATCH_BUFFER_END, 2);

/// b22 of MI commands that address memory: a GGTT address.
pub const USE_GGTT: u32 = 1 << 22;
/// MI_COPY_MEM_MEM b21: the destination is a GGTT address; b22 says so of the source.
pub const COPY_DST_GGTT: u32 = 1 << 21;
/// MI_NOOP b22: put 21:0 into NOPID.
pub const NOOP_WRITE_NOPID: u32 = 1 << 22;
/// MI_STORE_DATA_IMM b21: quadwords.
pub const SDI_QWORD: u32 = 1 << 21;
/// MI_BATCH_BUFFER_START b22: second level.
pub const BB_SECOND_LEVEL: u32 = 1 << 22;
/// MI_BATCH_BUFFER_START b16: add the batch offset register.
pub const BB_ADD_OFFSET: u32 = 1 << 16;
/// MI_BATCH_BUFFER_START b15: only if the predicate is set.
pub const BB_PREDICATE: u32 = 1 << 15;
/// MI_BATCH_BUFFER_START b8: a PPGTT address, if the context has a PPGTT.
pub const BB_PPGTT: u32 = 1 << 8;
/// MI_FLUSH_DW b21: the address is an offset in the status page.
pub const FLUSH_DW_STORE_INDEX: u32 = 1 << 21;
/// MI_FLUSH_DW b18: invalidate the TLB.
pub const FLUSH_DW_TLB_INVALIDATE: u32 = 1 << 18;
/// MI_FLUSH_DW b8: notify when done.
pub const FLUSH_DW_NOTIFY: u32 = 1 << 8;
/// MI_FLUSH_DW dword 1, b2: a GGTT address.
pub const FLUSH_DW_USE_GTT: u32 = 1 << 2;
/// PIPE_CONTROL dword 1, b24: a GGTT address.
pub const PIPE_CONTROL_GLOBAL_GTT: u32 = 1 << 24;
/// PIPE_CONTROL dword 1, b23: write a register, not memory.
pub const PIPE_CONTROL_MMIO_WRITE: u32 = 1 << 23;
/// PIPE_CONTROL dword 1, b21: the address is an offset in the status page.
pub const PIPE_CONTROL_STORE_INDEX: u32 = 1 << 21;
/// PIPE_CONTROL dword 1, b20: wait for all before.
pub const PIPE_CONTROL_CS_STALL: u32 = 1 << 20;
/// PIPE_CONTROL dword 1, b18: invalidate the TLB.
pub const PIPE_CONTROL_TLB_INVALIDATE: u32 = 1 << 18;
/// PIPE_CONTROL dword 1, b8: notify when done.
pub const PIPE_CONTROL_NOTIFY: u32 = 1 << 8;
/// Bits 47:2 of an address in two dwords; the bits above are a sign and are not looked at.
pub const ADDR_MASK: u64 = 0xffff_ffff_fffc;

/// What a flush writes when all before it is done: 15:14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostSync {
    /// Nothing.
    None,
    /// The immediate value.
    Immediate,
    /// The depth count (PIPE_CONTROL).
    DepthCount,
    /// The timestamp.
    Timestamp,
}

impl PostSync {
    /// Reads the field in 15:14 of `dword`.
    pub const fn of(dword: u32) -> Self {
        match (dword >> 14) & 3 {
            0 => Self::None,
            1 => Self::Immediate,
            2 => Self::DepthCount,
            _ => Self::Timestamp,
        }
    }
    /// The field's value, in place.
    pub const fn bits(self) -> u32 {
        (self as u32) << 14
    }
}

/// A byte address from its two dwords; see [`ADDR_MASK`].
pub const fn address(low: u32, high: u32) -> u64 {
    (((high as u64) << 32) | low as u64) & ADDR_MASK
}

/// An address as its two dwords.
#[expect(clippy::cast_possible_truncation, reason = "halves of a 64-bit value")]
pub const fn split(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// MI_STORE_DATA_IMM of one dword to a GGTT address.
pub const fn store_dword(addr: u64, value: u32) -> [u32; 4] {
    let [lo, hi] = split(addr);
    [mi(op::MI_STORE_DATA_IMM, 4) | USE_GGTT, lo, hi, value]
}

/// MI_STORE_DATA_IMM of one quadword to a GGTT address.
pub const fn store_qword(addr: u64, value: u64) -> [u32; 5] {
    let ([lo, hi], [vlo, vhi]) = (split(addr), split(value));
    [mi(op::MI_STORE_DATA_IMM, 5) | USE_GGTT | SDI_QWORD, lo, hi, vlo, vhi]
}

/// MI_LOAD_REGISTER_IMM of one register, by its byte offset in BAR0.
pub const fn load_register_imm(register: u32, value: u32) -> [u32; 3] {
    [mi(op::MI_LOAD_REGISTER_IMM, 3), register, value]
}

/// MI_STORE_REGISTER_MEM to a GGTT address.
pub const fn store_register_mem(register: u32, addr: u64) -> [u32; 4] {
    let [lo, hi] = split(addr);
    [mi(op::MI_STORE_REGISTER_MEM, 4) | USE_GGTT, register, lo, hi]
}

/// MI_BATCH_BUFFER_START at a GGTT address, first level or chained.
pub const fn batch_buffer_start(addr: u64) -> [u32; 3] {
    let [lo, hi] = split(addr);
    [mi(op::MI_BATCH_BUFFER_START, 3), lo, hi]
}

/// MI_FLUSH_DW that writes a dword to a GGTT address.
pub const fn flush_dw_store(addr: u64, value: u32) -> [u32; 4] {
    let [lo, hi] = split(addr);
    [mi(op::MI_FLUSH_DW, 4) | PostSync::Immediate.bits(), lo | FLUSH_DW_USE_GTT, hi, value]
}

/// MI_FLUSH_DW that writes a quadword at a byte offset in the per-process status page.
pub const fn flush_dw_store_index(offset: u32, value: u64) -> [u32; 5] {
    let [vlo, vhi] = split(value);
    [mi(op::MI_FLUSH_DW, 5) | PostSync::Immediate.bits() | FLUSH_DW_STORE_INDEX, offset, 0, vlo, vhi]
}

/// PIPE_CONTROL that writes a quadword to a GGTT address.
pub const fn pipe_control_store(addr: u64, value: u64) -> [u32; 6] {
    let ([lo, hi], [vlo, vhi]) = (split(addr), split(value));
    let flags = PIPE_CONTROL_GLOBAL_GTT | PIPE_CONTROL_CS_STALL | PostSync::Immediate.bits();
    [(3 << 29) | (op::PIPE_CONTROL << 16) | 4, flags, lo, hi, vlo, vhi]
}

#[cfg(test)]
#[path = "cmd_tests.rs"]
mod tests;
