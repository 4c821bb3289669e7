//! Several Xen guests share one GPU, with ballooning on.
//!
//! [`physical`] is the GPU below, [`soft`] the built-in one, [`hard`] one of silicon that [`vfio`] opens; `vgpu` is what a guest
//! sees; `mediator` stands between: it shadows, audits, schedules, and lets go of frames before Xen takes them back. [`service`]
//! serves a guest, [`saved`] is its vGPU as a file, [`vnc`] shows what it shows. Bus addresses come from `pviommu`, accesses from
//! `ioreq-server`; nothing below this crate knows what a GPU is.

pub mod bus;
pub mod gen8;
pub mod hard;
pub mod mediator;
pub mod physical;
mod privilege;
pub mod saved;
pub mod screen;
pub mod service;
pub mod soft;
mod sync;
pub mod vfio;
pub mod vgpu;
pub mod vnc;
