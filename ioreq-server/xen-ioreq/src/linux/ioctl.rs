//! One ioctl with a struct of the ABI as its argument.
#![expect(unsafe_code, reason = "ioctl is unsafe by nature; here is the only place that calls it")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use zerocopy::{FromBytes, IntoBytes};

use crate::Errno;

struct Call<'a, T: ?Sized> {
    opcode: u32,
    arg: &'a mut T,
}

// SAFETY: `opcode` and `arg` belong together by the contract of `ioctl` below, the only constructor; the argument
// outlives the call, and IS_MUTATING is true.
unsafe impl<T: ?Sized> Ioctl for Call<'_, T> {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.arg).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Performs an ioctl and returns its value, 0 or above. `T` may hold any bytes, so the kernel may write any there.
///
/// # Safety
/// `arg` must be of the type that `opcode` takes, and every address in it must be valid for what the kernel and the
/// hypervisor do with it, for as long as they do.
pub(super) unsafe fn ioctl<T: FromBytes + IntoBytes + ?Sized>(
    fd: BorrowedFd<'_>,
    opcode: u32,
    arg: &mut T,
) -> Result<i32, Errno> {
    // SAFETY: passed on to the caller.
    let value = unsafe { rustix::ioctl::ioctl(fd, Call { opcode, arg }) }?;
    Ok(value)
}
