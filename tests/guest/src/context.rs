//! A blitter context as gen8 keeps it in memory: descriptor, per-process status page, register state.
//!
//! The register state is a batch of `MI_LOAD_REGISTER_IMM` that the engine runs on restore and rewrites on save; the
//! indexes are those of i915's `intel_lrc_reg.h`.

use crate::cmd::mi_load_register_imm;
use crate::regs::{BLT_RING_BASE, masked_bit_enable};

/// Pages of a context image of the blitter: status page and register state.
pub const CONTEXT_PAGES: u64 = 2;
/// Dwords of register state that the driver writes.
pub const STATE_DWORDS: usize = 0x50;

/// Index of the value of `RING_CONTEXT_CONTROL`.
pub const CTX_CONTEXT_CONTROL: usize = 0x03;
/// Index of the value of `RING_HEAD`.
pub const CTX_RING_HEAD: usize = 0x05;
/// Index of the value of `RING_TAIL`.
pub const CTX_RING_TAIL: usize = 0x07;
/// Index of the value of `RING_START`.
pub const CTX_RING_START: usize = 0x09;
/// Index of the value of `RING_CTL`.
pub const CTX_RING_CTL: usize = 0x0b;
/// Index of the value of `RING_BB_STATE`.
pub const CTX_BB_STATE: usize = 0x11;

/// `RING_CTL`: valid.
pub const RING_VALID: u32 = 1;
/// `CONTEXT_CONTROL`: do not restore the engine context (there is none yet).
const CTX_CTRL_ENGINE_CTX_RESTORE_INHIBIT: u32 = 1 << 0;
/// `CONTEXT_CONTROL`: no synchronous context switch.
const CTX_CTRL_INHIBIT_SYN_CTX_SWITCH: u32 = 1 << 3;

/// Registers of the first block, offsets from the engine's base: control, ring, batch, second-level batch.
const FIRST: [u32; 11] = [0x244, 0x34, 0x30, 0x38, 0x3c, 0x168, 0x140, 0x110, 0x11c, 0x114, 0x118];
/// Of the second: timestamp and the four page directory pointers, upper half first, from 3 to 0.
const SECOND: [u32; 9] = [0x3a8, 0x28c, 0x288, 0x284, 0x280, 0x27c, 0x278, 0x274, 0x270];
/// Index of the second block's `MI_LOAD_REGISTER_IMM`.
const SECOND_AT: usize = 0x21;

/// A descriptor's lower dword, bit 0: valid.
const CTX_VALID: u64 = 1 << 0;
/// Bit 2: restore the context from memory even if the engine believes that it holds it.
const CTX_FORCE_RESTORE: u64 = 1 << 2;
/// Bits 4:3: a legacy (ring) context with 48-bit virtual addresses.
const CTX_LEGACY_64B: u64 = 3 << 3;
/// Bit 5: coherent with the last-level cache.
const CTX_L3LLC_COHERENT: u64 = 1 << 5;

/// The descriptor for the context at GGTT address `lrca` with number `id`. Bit 8 (per-process page tables) stays
/// clear: this driver's addresses are all in the GGTT.
pub const fn descriptor(lrca: u64, id: u32, force_restore: bool) -> u64 {
    let force = if force_restore { CTX_FORCE_RESTORE } else { 0 };
    (id as u64) << 32 | (lrca & 0xffff_f000) | CTX_VALID | force | CTX_LEGACY_64B | CTX_L3LLC_COHERENT
}

/// Register state for a fresh context whose ring of `ring_bytes` (a multiple of 4 KiB) starts at `ring_start`, with
/// head and tail at 0.
pub fn register_state(ring_start: u32, ring_bytes: u32) -> [u32; STATE_DWORDS] {
    let mut state = [0; STATE_DWORDS];
    let mut block = |at: usize, count: u32, regs: &[u32]| {
        let (lri, pairs) = state[at..].split_at_mut(1);
        lri[0] = mi_load_register_imm(count);
        for (pair, reg) in pairs.chunks_exact_mut(2).zip(regs) {
            pair[0] = BLT_RING_BASE + reg;
        }
    };
    block(1, 11, &FIRST);
    block(SECOND_AT, 9, &SECOND);
    state[CTX_CONTEXT_CONTROL] = masked_bit_enable(CTX_CTRL_INHIBIT_SYN_CTX_SWITCH)
        | masked_bit_enable(CTX_CTRL_ENGINE_CTX_RESTORE_INHIBIT);
    state[CTX_RING_START] = ring_start;
    state[CTX_RING_CTL] = (ring_bytes - 4096) | RING_VALID;
    // RING_BB_STATE stays 0: batches are in the GGTT
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_has_lrca_and_id_where_the_port_expects_them() {
        assert_eq!(descriptor(0x27fe_4000, 0x20, true), 0x20_27fe_403d);
        assert_eq!(descriptor(0x27fe_4000, 0x20, false), 0x20_27fe_4039);
    }

    #[test]
    fn register_state_has_the_layout_of_a_gen8_blitter_context() {
        let s = register_state(0x27fe_6000, 0x4000);
        assert_eq!(s[..6], [0, 0x1100_0015, 0x2_2244, 0x0009_0009, 0x2_2034, 0]);
        assert_eq!(s[6..12], [0x2_2030, 0, 0x2_2038, 0x27fe_6000, 0x2_203c, 0x3001]);
        assert_eq!(s[0x21..0x25], [0x1100_0011, 0x2_23a8, 0, 0x2_228c]);
        assert_eq!(s[0x30..0x34], [0x2_2274, 0, 0x2_2270, 0]);
        assert_eq!(s[CTX_BB_STATE], 0);
    }
}
