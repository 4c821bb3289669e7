//! The library on the model hypervisor: real slots, rings, ports and vCPUs that block.
#![allow(clippy::cast_possible_truncation, reason = "tests cut numbers where they mean to")]

mod accesses;
mod alone;
mod dm;
mod event_loop;
mod eventfds;
mod failures;
mod let_go;
mod lifecycle;
mod memory;
mod notices;
mod obligations;
mod pci;
mod protocol;
mod restart;
mod rig;
mod traps;
mod under_load;
