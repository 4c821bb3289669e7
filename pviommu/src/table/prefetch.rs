//! A word to the processor: this line will be needed. Changes nothing but time.
#![expect(unsafe_code, reason = "prefetch is an intrinsic")]

/// Fetches the cache line of `what`.
#[inline]
pub(super) fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads nothing and faults never, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
