//! A live view of a picture, for any VNC client: RFB 3.3 to 3.8 (RFC 6143), raw and ZRLE.
//!
//! [`View`] has one thread for all clients. It looks at the [`Screen`] only while a client waits for news, and sends
//! the tiles that differ from what that client has. Nothing that a client says reaches the guest; what it may send
//! and leave unread is bounded. There is no password: [`Address`] is a socket's file or this host's own addresses.

mod address;
mod client;
mod message;
mod pixels;
mod rectangles;
mod server;
#[cfg(test)]
mod tests;

pub use address::{Address, BadAddress, Listener};
pub use server::View;

use crate::vgpu::display::Surface;

/// What is shown.
pub trait Screen: Send + Sync {
    /// The picture as it is now. `None`: there is none.
    fn picture(&self) -> Option<Surface>;
}

impl<F: Fn() -> Option<Surface> + Send + Sync> Screen for F {
    fn picture(&self) -> Option<Surface> {
        self()
    }
}

/// The client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Gone {
    /// It does not speak RFB.
    #[error("no RFB version")]
    Version,
    /// It chose a kind of security that was not offered.
    #[error("security type {0} was not offered")]
    Security(u8),
    /// A message that there is not.
    #[error("no message has number {0}")]
    Message(u8),
    /// A pixel format with colours from a map, or that cannot be.
    #[error("a pixel format that is not served")]
    Format,
}
