//! Error numbers as Xen's `errno.h` and Linux share them.

use core::fmt;

macro_rules! errnos {
    ($($(#[$m:meta])* $name:ident = $v:literal),* $(,)?) => {
        /// An error number, positive. Xen's and Linux's numbers agree for all that are named here.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct Errno(pub i32);
        impl Errno {
            $($(#[$m])* pub const $name: Self = Self($v);)*
            /// The C name, if it is one of those that Xen uses.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($v => Some(stringify!($name)),)*
                    _ => None,
                }
            }
            /// Every named error, for tests against the C header.
            pub const ALL: &'static [(&'static str, i32)] = &[$((stringify!($name), $v)),*];
        }
    };
}

errnos! {
    /// Operation not permitted
    EPERM = 1,
    /// No such file or directory
    ENOENT = 2,
    /// No such process (or domain)
    ESRCH = 3,
    /// Interrupted
    EINTR = 4,
    /// I/O error
    EIO = 5,
    /// No such device or address
    ENXIO = 6,
    /// Arg list too long
    E2BIG = 7,
    /// Try again
    EAGAIN = 11,
    /// Out of memory
    ENOMEM = 12,
    /// Permission denied
    EACCES = 13,
    /// Bad address
    EFAULT = 14,
    /// Device or resource busy
    EBUSY = 16,
    /// File exists
    EEXIST = 17,
    /// Cross-device link
    EXDEV = 18,
    /// No such device
    ENODEV = 19,
    /// Invalid argument
    EINVAL = 22,
    /// File too large (an event ring that overflowed)
    EFBIG = 27,
    /// No space left
    ENOSPC = 28,
    /// Out of range
    ERANGE = 34,
    /// No such hypercall
    ENOSYS = 38,
    /// No data available
    ENODATA = 61,
    /// Not connected
    ENOTCONN = 107,
    /// Interrupted, to be called again (inside Xen only)
    ERESTART = 85,
    /// Operation not supported
    EOPNOTSUPP = 95,
    /// Inappropriate ioctl (Linux)
    ENOTTY = 25,
    /// Too many open files (Linux)
    EMFILE = 24,
}

impl Errno {
    /// From the negative return value of a hypercall or a per-operation status; `None` for 0 and above.
    pub const fn from_rc(rc: i64) -> Option<Self> {
        // Xen's errors fit in 12 bits; anything else is not an errno.
        if rc < 0 && rc > -4096 {
            #[expect(clippy::cast_possible_truncation, reason = "1..4096 as just checked")]
            Some(Self((-rc) as i32))
        } else {
            None
        }
    }

    /// As a negative status, the way Xen writes it into an operation.
    pub const fn status(self) -> i32 {
        -self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(n) => f.write_str(n),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}
