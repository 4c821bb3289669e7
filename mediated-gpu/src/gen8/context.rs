//! Execlist contexts: descriptor, image, status buffer, status page (i915 `intel_lrc_reg.h`, `intel_lrc.c`).

use super::cmd::split;
use super::regs::{RING_NR_PAGES, RING_VALID, engine, masked_enable};
use crate::physical::{CsbEntry, Engine};

/// A context descriptor as it is written to ELSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// b0: the element is valid.
    pub const VALID: u64 = 1 << 0;
    /// b1: reload the page directory pointers.
    pub const FORCE_PD_RESTORE: u64 = 1 << 1;
    /// b2: reload the image even if the context is the one that runs.
    pub const FORCE_RESTORE: u64 = 1 << 2;
    /// b4:3: how the context addresses memory.
    pub const ADDRESSING_MODE: u64 = 3 << 3;
    /// Addressing mode 1: legacy, 32-bit PPGTT.
    pub const LEGACY_32B: u64 = 1 << 3;
    /// Addressing mode 3: legacy, 64-bit PPGTT.
    pub const LEGACY_64B: u64 = 3 << 3;
    /// b5: L3 and LLC are coherent.
    pub const L3LLC_COHERENT: u64 = 1 << 5;
    /// b8: the context has a PPGTT (i915 `GEN8_CTX_PRIVILEGE`). Without it every address is a GGTT address.
    pub const PPGTT: u64 = 1 << 8;
    /// b31:12: GGTT address of the context image, page aligned.
    pub const LRCA_MASK: u64 = 0xffff_f000;

    /// The descriptor of a context that lives in the GGTT alone.
    pub const fn ggtt(lrca: u32, id: u32) -> Self {
        let lrca = (lrca as u64) & Self::LRCA_MASK;
        Self(((id as u64) << 32) | lrca | Self::VALID | Self::LEGACY_64B | Self::L3LLC_COHERENT)
    }
    /// Whether the element is there.
    pub const fn valid(self) -> bool {
        self.0 & Self::VALID != 0
    }
    /// Whether the context asks for a PPGTT.
    pub const fn ppgtt(self) -> bool {
        self.0 & Self::PPGTT != 0
    }
    /// GGTT address of the context image (the PPHWSP, its first page).
    pub const fn lrca(self) -> u64 {
        self.0 & Self::LRCA_MASK
    }
    /// The context id: the upper dword.
    pub const fn id(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Pages of a context image: RCS on gen8, the per-process status page included.
pub const RCS_IMAGE_PAGES: u32 = 20;
/// Pages of a context image: every other engine.
pub const OTHER_IMAGE_PAGES: u32 = 2;
/// Byte offset of the register state in the image: the page after the per-process status page.
pub const STATE_OFFSET: u64 = 4096;

/// Dword indexes in the register state. A value stands after the register's offset, so each is odd.
pub mod state {
    /// Header of the first MI_LOAD_REGISTER_IMM.
    pub const LRI_HEADER_0: usize = 0x01;
    /// CTX_CONTROL: b0 inhibit restore, b2 inhibit save, b3 inhibit sync context switch (masked).
    pub const CONTEXT_CONTROL: usize = 0x03;
    /// RING_HEAD.
    pub const RING_HEAD: usize = 0x05;
    /// RING_TAIL.
    pub const RING_TAIL: usize = 0x07;
    /// RING_START.
    pub const RING_START: usize = 0x09;
    /// RING_CTL.
    pub const RING_CTL: usize = 0x0b;
    /// BB_HEAD, upper dword.
    pub const BB_HEAD_U: usize = 0x0d;
    /// BB_HEAD, lower dword.
    pub const BB_HEAD_L: usize = 0x0f;
    /// BB_STATE.
    pub const BB_STATE: usize = 0x11;
    /// Second-level BB_HEAD, upper dword.
    pub const SECOND_BB_HEAD_U: usize = 0x13;
    /// Second-level BB_HEAD, lower dword.
    pub const SECOND_BB_HEAD_L: usize = 0x15;
    /// Second-level BB_STATE.
    pub const SECOND_BB_STATE: usize = 0x17;
    /// Header of the second MI_LOAD_REGISTER_IMM.
    pub const LRI_HEADER_1: usize = 0x21;
    /// CTX_TIMESTAMP.
    pub const CTX_TIMESTAMP: usize = 0x23;
    /// PDP3, upper dword; the lower one follows 2 further on.
    pub const PDP3_U: usize = 0x25;
    /// PDP3, lower dword.
    pub const PDP3_L: usize = 0x27;
    /// PDP2, upper dword.
    pub const PDP2_U: usize = 0x29;
    /// PDP2, lower dword.
    pub const PDP2_L: usize = 0x2b;
    /// PDP1, upper dword.
    pub const PDP1_U: usize = 0x2d;
    /// PDP1, lower dword.
    pub const PDP1_L: usize = 0x2f;
    /// PDP0, upper dword; the PML4 in 64-bit mode.
    pub const PDP0_U: usize = 0x31;
    /// PDP0, lower dword.
    pub const PDP0_L: usize = 0x33;
    /// PDP0 to PDP3: upper and lower dword.
    pub const PDPS: [(usize, usize); 4] =
        [(PDP0_U, PDP0_L), (PDP1_U, PDP1_L), (PDP2_U, PDP2_L), (PDP3_U, PDP3_L)];
    /// R_PWR_CLK_STATE (RCS).
    pub const R_PWR_CLK_STATE: usize = 0x43;
}

/// Dwords of register state that a driver sets up.
pub const STATE_DWORDS: usize = 0x50;
/// A ring's size in RING_CTL is told less this, in bytes.
pub const RING_PAGE: u32 = 4096;
/// CTX_CONTROL: nothing is restored from the image.
pub const CTX_RESTORE_INHIBIT: u16 = 1 << 0;
/// CTX_CONTROL: the switch does not wait for the old context.
pub const CTX_INHIBIT_SYN_CTX_SWITCH: u16 = 1 << 3;

/// The ring of a context that has not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshRing {
    /// GGTT address, page aligned.
    pub start: u32,
    /// Bytes, whole pages.
    pub size: u32,
    /// Bytes that are to be executed, from the start on.
    pub tail: u32,
}

/// The register state of a context that has not run, as i915 lays it out: its ring, the time that it has had, the pointers to its
/// tables.
pub fn register_state(e: Engine, ring: FreshRing, timestamp: u32, pointers: [u64; 4]) -> [u32; STATE_DWORDS] {
    let mut image = [0; STATE_DWORDS];
    let base = e.mmio_base();
    let mut set = |index: usize, rel: u32, value: u32| {
        if let Some([register, slot]) = image.get_mut(index - 1..=index).and_then(|s| s.first_chunk_mut()) {
            (*register, *slot) = (base + rel, value);
        }
    };
    let control = ring.size.saturating_sub(RING_PAGE) & RING_NR_PAGES | RING_VALID;
    let switch = masked_enable(CTX_RESTORE_INHIBIT | CTX_INHIBIT_SYN_CTX_SWITCH);
    set(state::CONTEXT_CONTROL, engine::RING_CONTEXT_CONTROL, switch);
    set(state::RING_HEAD, engine::RING_HEAD, 0);
    set(state::RING_TAIL, engine::RING_TAIL, ring.tail);
    set(state::RING_START, engine::RING_START, ring.start);
    set(state::RING_CTL, engine::RING_CTL, control);
    set(state::BB_HEAD_U, engine::RING_BBADDR_UDW, 0);
    set(state::BB_HEAD_L, engine::RING_BBADDR, 0);
    set(state::BB_STATE, engine::RING_BBSTATE, 0);
    set(state::SECOND_BB_HEAD_U, engine::RING_SBBADDR_UDW, 0);
    set(state::SECOND_BB_HEAD_L, engine::RING_SBBADDR, 0);
    set(state::SECOND_BB_STATE, engine::RING_SBBSTATE, 0);
    set(state::CTX_TIMESTAMP, engine::RING_CTX_TIMESTAMP, timestamp);
    for ((pdp, (upper, lower)), pointer) in (0..4).zip(state::PDPS).zip(pointers) {
        let [low, high] = split(pointer);
        set(upper, engine::GEN8_RING_PDP + 8 * pdp + 4, high);
        set(lower, engine::GEN8_RING_PDP + 8 * pdp, low);
    }
    // Headers: 11 and 9 registers, posted.
    for (index, registers) in [(state::LRI_HEADER_0, 11), (state::LRI_HEADER_1, 9)] {
        if let Some(header) = image.get_mut(index) {
            *header = 0x1100_1000 | (2 * registers - 1);
        }
    }
    image
}

/// Context status: from idle to active.
pub const CSB_IDLE_TO_ACTIVE: u32 = 1 << 0;
/// Context status: preempted by a newer submission.
pub const CSB_PREEMPTED: u32 = 1 << 1;
/// Context status: on to the second element.
pub const CSB_ELEMENT_SWITCH: u32 = 1 << 2;
/// Context status: from active to idle.
pub const CSB_ACTIVE_TO_IDLE: u32 = 1 << 3;
/// Context status: the context ran to its tail.
pub const CSB_COMPLETE: u32 = 1 << 4;
/// Context status: the newer submission went on with the same context.
pub const CSB_LITE_RESTORE: u32 = 1 << 15;
/// Entries of the status buffer (gen8).
pub const CSB_ENTRIES: u32 = 6;

impl CsbEntry {
    /// Whether the context ran to its tail.
    pub const fn complete(self) -> bool {
        self.status & CSB_COMPLETE != 0
    }
}

/// Byte offsets in the hardware status page.
pub mod hwsp {
    /// Where MI_REPORT_HEAD writes the ring's head.
    pub const RING_HEAD: u64 = 4 * 4;
    /// The status buffer: entries of two dwords, status and context id.
    pub const CSB: u64 = 0x10 * 4;
    /// The status buffer's write pointer: index of the newest entry.
    pub const CSB_WRITE: u64 = 0x1f * 4;
    /// Where i915 keeps its sequence number.
    pub const SEQNO: u64 = 0x40 * 4;
    /// Where i915 lets flushes write in the per-process page (`LRC_PPHWSP_SCRATCH`).
    pub const PPHWSP_SCRATCH: u64 = 0x34 * 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_of_a_real_guest_decodes() {
        let d = Descriptor(0x0000_0020_27fe_413d);
        assert!(d.valid() && d.ppgtt());
        assert_eq!((d.lrca(), d.id()), (0x27fe_4000, 0x20));
        assert_eq!(d.0 & Descriptor::ADDRESSING_MODE, Descriptor::LEGACY_64B);
    }

    #[test]
    fn descriptor_of_a_ggtt_context_has_no_ppgtt() {
        let d = Descriptor::ggtt(0x1234_5678, 7);
        assert!(d.valid() && !d.ppgtt());
        assert_eq!((d.lrca(), d.id()), (0x1234_5000, 7));
    }
}
