//! Error numbers as Xen's `errno.h` and Linux share them.

use core::fmt;

use crate::abi::Const;

macro_rules! errnos {
    (xen { $($(#[$xm:meta])* $xname:ident = $xv:literal),* $(,)? } linux { $($(#[$lm:meta])* $lname:ident = $lv:literal),* $(,)? }) => {
        /// An error number, positive. Xen's and Linux's numbers agree for all that are named here.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct Errno(pub i32);
        impl Errno {
            $($(#[$xm])* pub const $xname: Self = Self($xv);)*
            $($(#[$lm])* pub const $lname: Self = Self($lv);)*
            /// The C name, if it is one of those that are named here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($xv => Some(stringify!($xname)),)*
                    $($lv => Some(stringify!($lname)),)*
                    _ => None,
                }
            }
            /// Every named error.
            pub const ALL: &'static [(&'static str, i32)] =
                &[$((stringify!($xname), $xv),)* $((stringify!($lname), $lv),)*];
        }
        /// Those that Xen's public header has.
        pub(crate) const XEN_CONSTS: &[Const] = &[$(Const {
            name: stringify!($xname), c_expr: concat!("XEN_", stringify!($xname)), header: "xen/errno.h", value: $xv,
        },)*];
        /// All of them, as Linux's header has them.
        pub(crate) const LINUX_CONSTS: &[Const] = &[
            $(Const { name: stringify!($xname), c_expr: stringify!($xname), header: "errno.h", value: $xv },)*
            $(Const { name: stringify!($lname), c_expr: stringify!($lname), header: "errno.h", value: $lv },)*
        ];
    };
}

errnos! {
    xen {
        /// Operation not permitted.
        EPERM = 1,
        /// No such file or directory (or server, or entry).
        ENOENT = 2,
        /// No such process (or domain).
        ESRCH = 3,
        /// I/O error.
        EIO = 5,
        /// No such device or address.
        ENXIO = 6,
        /// Argument list too long.
        E2BIG = 7,
        /// Bad executable format.
        ENOEXEC = 8,
        /// Bad descriptor.
        EBADF = 9,
        /// No child processes.
        ECHILD = 10,
        /// Try again.
        EAGAIN = 11,
        /// Out of memory.
        ENOMEM = 12,
        /// Permission denied.
        EACCES = 13,
        /// Bad address.
        EFAULT = 14,
        /// Device or resource busy.
        EBUSY = 16,
        /// Exists already.
        EEXIST = 17,
        /// Cross-device link.
        EXDEV = 18,
        /// No such device.
        ENODEV = 19,
        /// Not a directory.
        ENOTDIR = 20,
        /// Is a directory.
        EISDIR = 21,
        /// Invalid argument.
        EINVAL = 22,
        /// File table overflow.
        ENFILE = 23,
        /// Too many open files.
        EMFILE = 24,
        /// No space left.
        ENOSPC = 28,
        /// Read-only file system.
        EROFS = 30,
        /// Too many links.
        EMLINK = 31,
        /// Out of the function's domain.
        EDOM = 33,
        /// Out of range.
        ERANGE = 34,
        /// Would deadlock.
        EDEADLK = 35,
        /// Name too long.
        ENAMETOOLONG = 36,
        /// No locks left.
        ENOLCK = 37,
        /// No such hypercall or system call.
        ENOSYS = 38,
        /// Directory not empty.
        ENOTEMPTY = 39,
        /// No data available.
        ENODATA = 61,
        /// Timer expired.
        ETIME = 62,
        /// Bad message.
        EBADMSG = 74,
        /// Value too large.
        EOVERFLOW = 75,
        /// Illegal byte sequence.
        EILSEQ = 84,
        /// Not a socket.
        ENOTSOCK = 88,
        /// Message too long.
        EMSGSIZE = 90,
        /// Operation not supported.
        EOPNOTSUPP = 95,
        /// Address in use.
        EADDRINUSE = 98,
        /// Address not available.
        EADDRNOTAVAIL = 99,
        /// No buffer space.
        ENOBUFS = 105,
        /// Already connected.
        EISCONN = 106,
        /// Not connected.
        ENOTCONN = 107,
        /// Timed out.
        ETIMEDOUT = 110,
        /// Connection refused.
        ECONNREFUSED = 111,
    }
    linux {
        /// Interrupted.
        EINTR = 4,
        /// No such ioctl.
        ENOTTY = 25,
        /// File too large (an event ring that overflowed).
        EFBIG = 27,
        /// Interrupted, to be called again (inside Xen only).
        ERESTART = 85,
    }
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

#[cfg(feature = "std")]
impl From<rustix::io::Errno> for Errno {
    fn from(e: rustix::io::Errno) -> Self {
        Self(e.raw_os_error())
    }
}

#[cfg(feature = "std")]
impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> Self {
        Self::from_raw_os_error(e.0)
    }
}
