//! Scenes, by what meets in them.

pub mod bus;
pub mod cache;
pub mod channel;
mod emulator;
pub mod grants;
pub mod guest;
pub mod litmus;
pub mod records;
pub mod ring;
pub mod seat;
pub mod slot;
pub mod soft;
pub mod state;
pub mod wake;
