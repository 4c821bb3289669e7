//! Scenes, by what meets in them.

pub mod bus;
mod emulator;
pub mod litmus;
pub mod ring;
pub mod slot;
pub mod soft;
pub mod state;
pub mod wake;
