//! Whose addresses a command's data has: the GPU's (GGTT) or the context's own (PPGTT).
//!
//! Commands say it in a bit each, at different places; an index into the status page is the GPU's.

use super::engine::{Core, Stop};
use super::tlb::Space;
use crate::gen8::cmd::{self, Client, Decoded, op};

impl Core {
    /// For the data of the current command. Blits are not asked about: theirs are the context's.
    pub(super) fn data_space(&mut self, d: &Decoded, header: u32) -> Result<Space, Stop> {
        let global = match (d.client, d.opcode) {
            (Client::Mi, op::MI_FLUSH_DW) => {
                header & cmd::FLUSH_DW_STORE_INDEX != 0
                    || (d.dwords > 1 && self.dword(1)? & cmd::FLUSH_DW_USE_GTT != 0)
            }
            (Client::Mi, op::MI_STORE_DATA_INDEX) => true,
            (Client::Mi, _) => header & cmd::USE_GGTT != 0,
            (Client::Pipe, op::PIPE_CONTROL) => {
                d.dwords > 1
                    && self.dword(1)? & (cmd::PIPE_CONTROL_GLOBAL_GTT | cmd::PIPE_CONTROL_STORE_INDEX) != 0
            }
            _ => true,
        };
        Ok(if global { Space::Global } else { Space::Process })
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
