//! The memory functions that compiled code calls, and the unwinder's symbols that the shipped `core` names.
//!
//! This target gets them from a C library; here there is none. String instructions, so that they cannot call themselves.
#![expect(unsafe_code, reason = "symbols that the compiler expects")]

use core::arch::asm;

/// C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller promises n valid bytes at both, without overlap.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
    to
}

/// C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= n {
        // SAFETY: forwards, nothing is overwritten before it was read.
        return unsafe { memcpy(to, from, n) };
    }
    // SAFETY: the caller promises n valid bytes at both; backwards, since the target starts inside the source.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") n => _, inout("rsi") from.wrapping_add(n).wrapping_sub(1) => _,
            inout("rdi") to.wrapping_add(n).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller promises n valid bytes.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("eax") byte,
            options(nostack, preserves_flags));
    }
    to
}

/// C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    let mut i = 0;
    while i < n {
        // SAFETY: the caller promises n valid bytes at both. Volatile, so that this does not become a memcmp.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        i += 1;
    }
    0
}

/// What optimizers call where only equality matters.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, n) }
}

/// Never called: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Never called: panics abort.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {}
