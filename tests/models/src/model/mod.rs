//! Scenes, by what meets in them.

pub mod bus;
pub mod litmus;
pub mod soft;
pub mod state;
pub mod wake;
