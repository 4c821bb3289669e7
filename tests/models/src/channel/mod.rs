//! The rings of a byte channel, from stubdom.

#[path = "../../../../stubdom/src/channel/ring.rs"]
#[rustfmt::skip]
pub(crate) mod ring;
