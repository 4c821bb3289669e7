//! The programming model of gen8 (Broadwell): registers, commands, context images, page table entries.
//!
//! Tables and encodings only, shared by the software GPU and the mediator; nothing here has state. Names are
//! those of i915 and of the PRM. Sources: i915 of Linux 6.1 (`gt/intel_engine_regs.h`, `gt/intel_gt_regs.h`,
//! `gt/intel_gpu_commands.h`, `gt/intel_lrc_reg.h`, `gt/intel_gtt.h`, `i915_reg.h`, `i915_pvinfo.h`) and the
//! Broadwell PRM, volumes 2 (commands, registers), 5 (memory views) and 8 (blitter).

pub mod blt;
pub mod cmd;
pub mod context;
pub mod fence;
pub mod gtt;
pub mod ids;
pub mod ppgtt;
pub mod regs;
pub mod tiling;
