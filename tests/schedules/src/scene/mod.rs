//! Scenes: few threads that make whole hypercalls, and what must hold whatever order they meet in.

pub mod basics;
mod guest;
pub mod plain;
pub mod revoke;
mod seat;
mod uses;
mod world;

pub use guest::Version;
pub use seat::By;
pub use uses::Granter;
