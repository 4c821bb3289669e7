//! Encodings of the commands that the driver emits, after the Broadwell PRM, volume 2a, under i915's names.
//!
//! Pure functions to dwords; addresses are in the GGTT unless a name says otherwise.

use crate::words::{hi32, lo32};

/// Does nothing.
pub const MI_NOOP: u32 = 0;
/// Raises the engine's user interrupt.
pub const MI_USER_INTERRUPT: u32 = 0x02 << 23;
/// A point at which the context may be switched.
pub const MI_ARB_CHECK: u32 = 0x05 << 23;
/// Ends a batch.
pub const MI_BATCH_BUFFER_END: u32 = 0x0a << 23;
/// Starts a batch at a 48-bit address; bit 8 would make it a per-process one.
pub const MI_BATCH_BUFFER_START_GEN8: u32 = 0x31 << 23 | 1;
/// Stores a dword to a 48-bit address.
pub const MI_STORE_DWORD_IMM_GEN4: u32 = 0x20 << 23 | 2;
/// Waits for a dword in memory.
pub const MI_SEMAPHORE_WAIT: u32 = 0x1c << 23 | 2;
/// `MI_SEMAPHORE_WAIT`: looks again and again.
pub const MI_SEMAPHORE_POLL: u32 = 1 << 15;
/// `MI_SEMAPHORE_WAIT`: until the dword is equal to the one in the command.
pub const MI_SEMAPHORE_SAD_EQ_SDD: u32 = 4 << 12;
/// `MI_STORE_DATA_IMM`: the address is in the GGTT.
pub const MI_USE_GGTT: u32 = 1 << 22;
/// Flushes, then may write an immediate.
pub const MI_FLUSH_DW: u32 = 0x26 << 23 | 2;
/// `MI_FLUSH_DW`: write the immediate when done.
pub const MI_FLUSH_DW_OP_STOREDW: u32 = 1 << 14;
/// `MI_FLUSH_DW`, second dword: the address is in the GGTT.
pub const MI_FLUSH_DW_USE_GTT: u32 = 1 << 2;

/// `MI_LOAD_REGISTER_IMM` of `n` registers.
pub const fn mi_load_register_imm(n: u32) -> u32 {
    0x22 << 23 | (2 * n - 1)
}

/// 2D client, fill.
pub const XY_COLOR_BLT_CMD: u32 = 2 << 29 | 0x50 << 22 | 5;
/// 2D client, copy.
pub const XY_SRC_COPY_BLT_CMD: u32 = 2 << 29 | 0x53 << 22 | 8;
/// 2D: write the alpha channel.
pub const BLT_WRITE_A: u32 = 1 << 21;
/// 2D: write the colour channels.
pub const BLT_WRITE_RGB: u32 = 1 << 20;
/// 2D, second dword: 32 bits a pixel.
pub const BLT_DEPTH_32: u32 = 3 << 24;
/// 2D, second dword: raster operation 'the colour'.
pub const BLT_ROP_COLOR_COPY: u32 = 0xf0 << 16;
/// 2D, second dword: raster operation 'the source'.
pub const BLT_ROP_SRC_COPY: u32 = 0xcc << 16;

/// A rectangle in pixels, `x2` and `y2` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Left.
    pub x1: u16,
    /// Top.
    pub y1: u16,
    /// Right, exclusive.
    pub x2: u16,
    /// Bottom, exclusive.
    pub y2: u16,
}

/// A linear surface: where it starts in the GGTT, and its pitch in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// First byte.
    pub address: u64,
    /// Bytes from one line to the next.
    pub pitch: u16,
}

const fn corner(x: u16, y: u16) -> u32 {
    (y as u32) << 16 | x as u32
}

/// Fills `to` of `dst` with `color`.
pub const fn xy_color_blt(dst: Linear, to: Rect, color: u32) -> [u32; 7] {
    [
        XY_COLOR_BLT_CMD | BLT_WRITE_A | BLT_WRITE_RGB,
        BLT_DEPTH_32 | BLT_ROP_COLOR_COPY | dst.pitch as u32,
        corner(to.x1, to.y1),
        corner(to.x2, to.y2),
        lo32(dst.address),
        hi32(dst.address),
        color,
    ]
}

/// Copies to `to` of `dst` from the rectangle of the same size at (`x`, `y`) of `src`.
pub const fn xy_src_copy_blt(dst: Linear, to: Rect, src: Linear, x: u16, y: u16) -> [u32; 10] {
    [
        XY_SRC_COPY_BLT_CMD | BLT_WRITE_A | BLT_WRITE_RGB,
        BLT_DEPTH_32 | BLT_ROP_SRC_COPY | dst.pitch as u32,
        corner(to.x1, to.y1),
        corner(to.x2, to.y2),
        lo32(dst.address),
        hi32(dst.address),
        corner(x, y),
        src.pitch as u32,
        lo32(src.address),
        hi32(src.address),
    ]
}

/// Starts the batch at `address`, in the GGTT.
pub const fn batch_buffer_start(address: u64) -> [u32; 3] {
    [MI_BATCH_BUFFER_START_GEN8, lo32(address), hi32(address)]
}

/// Stores `value` at `address`.
pub const fn store_dword(address: u64, value: u32) -> [u32; 4] {
    [MI_STORE_DWORD_IMM_GEN4 | MI_USE_GGTT, lo32(address), hi32(address), value]
}

/// Waits, asking memory again and again, until the dword at `address` is `value`.
pub const fn semaphore_wait(address: u64, value: u32) -> [u32; 4] {
    [
        MI_SEMAPHORE_WAIT | MI_USE_GGTT | MI_SEMAPHORE_POLL | MI_SEMAPHORE_SAD_EQ_SDD,
        value,
        lo32(address),
        hi32(address),
    ]
}

/// Flushes, then stores `value` at `address` (8-byte aligned).
pub const fn flush_dw_store(address: u64, value: u32) -> [u32; 4] {
    [MI_FLUSH_DW | MI_FLUSH_DW_OP_STOREDW, lo32(address) | MI_FLUSH_DW_USE_GTT, hi32(address), value]
}

#[cfg(test)]
mod tests {
    use super::*;

    // The literals are those of the command tables and of a stock driver's rings, not computed from the names above.
    #[test]
    fn mi_commands_are_the_documented_dwords() {
        assert_eq!(MI_USER_INTERRUPT, 0x0100_0000);
        assert_eq!(MI_ARB_CHECK, 0x0280_0000);
        assert_eq!(MI_BATCH_BUFFER_END, 0x0500_0000);
        assert_eq!(mi_load_register_imm(1), 0x1100_0001);
        assert_eq!(mi_load_register_imm(11), 0x1100_0015);
        assert_eq!(batch_buffer_start(0x27fc_5000), [0x1880_0001, 0x27fc_5000, 0]);
        assert_eq!(store_dword(0x1000, 7), [0x1040_0002, 0x1000, 0, 7]);
        assert_eq!(semaphore_wait(0x1_0000_1000, 7), [0x0e40_c002, 7, 0x1000, 1]);
    }

    #[test]
    fn flush_with_seqno_is_what_a_stock_driver_emits() {
        assert_eq!(flush_dw_store(0x27fe_7100, 1), [0x1300_4002, 0x27fe_7104, 0, 1]);
    }

    #[test]
    fn fill_is_the_documented_dwords() {
        let dst = Linear { address: 0x1_2345_6000, pitch: 2560 };
        let to = Rect { x1: 1, y1: 2, x2: 30, y2: 40 };
        assert_eq!(
            xy_color_blt(dst, to, 0x00c0_ffee),
            [0x5430_0005, 0x03f0_0a00, 0x0002_0001, 0x0028_001e, 0x2345_6000, 1, 0x00c0_ffee]
        );
    }

    #[test]
    fn copy_is_the_documented_dwords() {
        let dst = Linear { address: 0x10_0000, pitch: 2560 };
        let src = Linear { address: 0x1000_0000, pitch: 256 };
        let to = Rect { x1: 16, y1: 0, x2: 32, y2: 16 };
        assert_eq!(
            xy_src_copy_blt(dst, to, src, 3, 4),
            [
                0x54f0_0008,
                0x03cc_0a00,
                0x0000_0010,
                0x0010_0020,
                0x0010_0000,
                0,
                0x0004_0003,
                0x100,
                0x1000_0000,
                0
            ]
        );
    }
}
