//! Frame numbers and identifiers, each its own type so that they do not mix.

use core::fmt;

use crate::abi::xen;

/// log2 of the size of a frame in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Size of a frame in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// Mask of the offset inside a frame.
pub const PAGE_MASK: u64 = (PAGE_SIZE as u64) - 1;

macro_rules! newtype {
    ($(#[$m:meta])* $name:ident($t:ty), $fmt:literal) => {
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $t);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $fmt, self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $fmt, ")"), self.0)
            }
        }
    };
}

macro_rules! frame {
    ($(#[$m:meta])* $name:ident) => {
        newtype!($(#[$m])* $name(u64), "{:#x}");
        impl $name {
            /// The frame that holds byte address `addr`.
            pub const fn of_addr(addr: u64) -> Self {
                Self(addr >> PAGE_SHIFT)
            }
            /// The byte address at which the frame starts. Frame numbers above 2^52 wrap.
            pub const fn addr(self) -> u64 {
                self.0 << PAGE_SHIFT
            }
            /// The frame `n` frames further on, if there is one.
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(v) => Some(Self(v)),
                    None => None,
                }
            }
        }
    };
}

frame!(
    /// A guest frame number: a frame in the address space of a guest.
    Gfn
);
frame!(
    /// A machine frame number: a frame of the host's memory.
    Mfn
);
frame!(
    /// A bus frame number: a frame as a device reaches it.
    Bfn
);
newtype!(
    /// A domain's number.
    DomId(u16),
    "d{}"
);
newtype!(
    /// An IOREQ server's number within a domain.
    IoServerId(u16),
    "ios{}"
);
newtype!(
    /// An event channel port of the domain that uses it.
    Port(u32),
    "port{}"
);
newtype!(
    /// A reference into the grant table of the domain that grants.
    GrantRef(u32),
    "ref{}"
);
newtype!(
    /// A virtual CPU's number within a domain.
    VcpuId(u32),
    "v{}"
);

impl DomId {
    /// First of the reserved numbers (xen.h `DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: Self = Self(xen::DOMID_FIRST_RESERVED);
    /// The calling domain (xen.h `DOMID_SELF`).
    pub const SELF: Self = Self(xen::DOMID_SELF);
    /// Owner of frames that are I/O memory (xen.h `DOMID_IO`).
    pub const IO: Self = Self(xen::DOMID_IO);
    /// Owner of Xen's own frames (xen.h `DOMID_XEN`).
    pub const XEN: Self = Self(xen::DOMID_XEN);
    /// No domain (xen.h `DOMID_INVALID`).
    pub const INVALID: Self = Self(xen::DOMID_INVALID);
}
