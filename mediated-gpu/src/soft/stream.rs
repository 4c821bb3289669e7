//! Fills and copies of bytes, as wide as the CPU can, that fetch ahead what comes next.
//!
//! Graphics pages lie scattered over memory, so the CPU cannot foresee where a blit goes on: it is told. Callers promise
//! that pointers hold; what is fetched ahead need not.
#![expect(unsafe_code, reason = "bytes in shared pages are touched through raw pointers")]

use std::ptr;

use xen_ioreq::PAGE_SIZE;

use crate::gen8::tiling::COLUMN_STEP;

/// Bytes by which a fill fetches ahead.
#[cfg(target_arch = "x86_64")]
const FILL_AHEAD: usize = 2048;
/// Bytes by which a copy does, which waits for what it reads: what comes next, as far on.
#[cfg(target_arch = "x86_64")]
const COPY_AHEAD: usize = PAGE_SIZE;
/// Bytes of the next piece that are fetched ahead where this one is done by the C library.
const FIRST: usize = 512;
/// What is shorter is copied by the C library, which has fewer instructions for it.
const LONG: usize = 256;
/// Bytes of a cache line.
pub(super) const LINE: usize = 64;
/// Bytes of a register.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 32;

/// `_MM_HINT_T0`.
const FIRST_CACHE: i32 = 3;
/// `_MM_HINT_T1`.
const SECOND_CACHE: i32 = 2;

/// Where bytes will be wanted soon. Good for nothing but a prefetch.
#[derive(Clone, Copy)]
pub(super) struct Ahead(*const u8);

impl Ahead {
    pub(super) fn new(at: *const u8) -> Self {
        Self(at)
    }

    /// Tells the CPU that the line of its cache `offset` bytes further on is wanted.
    pub(super) fn fetch(self, offset: usize) {
        self.tell::<FIRST_CACHE>(offset);
    }

    /// The same, into its second cache: of what is only written no instruction waits for the first.
    pub(super) fn fetch_to_write(self, offset: usize) {
        self.tell::<SECOND_CACHE>(offset);
    }

    #[inline]
    fn tell<const HINT: i32>(self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect that a program could see, wherever it points; the CPU has SSE.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<HINT>(self.0.wrapping_add(offset).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    /// The same for so many bytes.
    pub(super) fn fetch_all(self, len: usize) {
        (0..len).step_by(LINE).for_each(|at| self.fetch(at));
    }

    /// The same for this line of a Y-major tile: in each column.
    pub(super) fn fetch_columns(self) {
        (0..PAGE_SIZE).step_by(COLUMN_STEP as usize).for_each(|at| self.fetch(at));
    }
}

/// Four bytes that repeat, as they go on after so many bytes.
#[expect(clippy::cast_possible_truncation, reason = "at most 3")]
pub(super) fn turned(bytes: u32, after: usize) -> u32 {
    bytes.rotate_right((after % 4) as u32 * 8)
}

/// Whether there are registers of [`WIDE`] bytes.
fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Fills with the four bytes of `color`, its first one first. `ahead`: what will be filled next.
///
/// # Safety
/// `len` bytes can be written at `to`.
#[inline]
pub(super) unsafe fn fill(to: *mut u8, len: usize, color: u32, ahead: Option<Ahead>) {
    #[cfg(target_arch = "x86_64")]
    if len >= LINE && wide() {
        // SAFETY: the caller's promise; the CPU has AVX.
        return unsafe { avx::fill(to, len, color, ahead.unwrap_or(Ahead(to))) };
    }
    if let Some(ahead) = ahead {
        ahead.fetch_all(FIRST);
    }
    let bytes = color.to_le_bytes();
    let whole = len / 4;
    for n in 0..whole {
        // SAFETY: the caller's promise.
        unsafe { to.add(n * 4).cast::<[u8; 4]>().write(bytes) };
    }
    // SAFETY: the caller's promise; less than 4 bytes are left.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(whole * 4), len % 4) }
}

/// Copies bytes, as if all were read first. `ahead`: what will be written and read next.
///
/// # Safety
/// `len` bytes can be read at `from` and written at `to`.
#[inline]
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize, ahead: [Option<Ahead>; 2]) {
    #[cfg(target_arch = "x86_64")]
    if len >= LONG && to.addr().abs_diff(from.addr()) >= len && wide() {
        let [next_to, next_from] = ahead;
        let (next_to, next_from) = (next_to.unwrap_or(Ahead(to)), next_from.unwrap_or(Ahead(from)));
        // SAFETY: the caller's promise; they do not overlap; the CPU has AVX.
        return unsafe { avx::copy(to, from, len, next_to, next_from) };
    }
    for ahead in ahead.into_iter().flatten() {
        ahead.fetch_all(FIRST.min(len));
    }
    // SAFETY: the caller's promise.
    unsafe { ptr::copy(from, to, len) }
}

#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::{
        __m256i, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_store_si256, _mm256_storeu_si256,
    };

    use super::{Ahead, COPY_AHEAD, FILL_AHEAD, LINE, WIDE, turned};

    /// Calls `f` with the offset of each cache line from `first` on that ends within `len`, after what lies `ahead` of it has
    /// been asked for, in this piece or in the next. Gives the first offset that was not done.
    #[inline(always)]
    fn lines(
        (first, len): (usize, usize),
        ahead: usize,
        fetch: impl Fn(usize),
        fetch_next: impl Fn(usize),
        mut f: impl FnMut(usize),
    ) -> usize {
        let ahead = ahead.min(len);
        let mut at = first;
        while at + ahead < len {
            fetch(at + ahead);
            f(at);
            at += LINE;
        }
        while at + LINE <= len {
            fetch_next(at + ahead - len);
            f(at);
            at += LINE;
        }
        at
    }

    /// # Safety
    /// At least [`LINE`] bytes, `len`, can be written at `to`; the CPU has AVX.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn fill(to: *mut u8, len: usize, color: u32, next: Ahead) {
        let here = Ahead(to);
        // The colour as it goes on after so many bytes.
        let turned = |n: usize| _mm256_set1_epi32(turned(color, n).cast_signed());
        let first = to.align_offset(WIDE).min(WIDE);
        let v = turned(first);
        // SAFETY: all of it lies within the first `len` bytes, and from `first` on what is written is aligned.
        unsafe {
            _mm256_storeu_si256(to.cast(), turned(0));
            lines(
                (first, len),
                FILL_AHEAD,
                |at| here.fetch_to_write(at),
                |at| next.fetch_to_write(at),
                |at| {
                    _mm256_store_si256(to.add(at).cast(), v);
                    _mm256_store_si256(to.add(at + WIDE).cast(), v);
                },
            );
            _mm256_storeu_si256(to.add(len - LINE).cast(), turned(len - LINE));
            _mm256_storeu_si256(to.add(len - WIDE).cast(), turned(len - WIDE));
        }
    }

    /// # Safety
    /// At least [`LINE`] bytes, `len`, can be read at `from` and written at `to`, and they do not overlap; the CPU has AVX.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize, next_to: Ahead, next_from: Ahead) {
        let (here_to, here_from) = (Ahead(to), Ahead(from));
        let first = to.align_offset(WIDE).min(WIDE);
        // SAFETY: all of it lies within the first `len` bytes, and from `first` on what is written is aligned.
        unsafe {
            let load = |at: usize| -> __m256i { _mm256_loadu_si256(from.add(at).cast()) };
            _mm256_storeu_si256(to.cast(), load(0));
            lines(
                (first, len),
                COPY_AHEAD,
                |at| {
                    here_from.fetch(at);
                    here_to.fetch_to_write(at);
                },
                |at| {
                    next_from.fetch(at);
                    next_to.fetch_to_write(at);
                },
                |at| {
                    let (a, b) = (load(at), load(at + WIDE));
                    _mm256_store_si256(to.add(at).cast(), a);
                    _mm256_store_si256(to.add(at + WIDE).cast(), b);
                },
            );
            _mm256_storeu_si256(to.add(len - LINE).cast(), load(len - LINE));
            _mm256_storeu_si256(to.add(len - WIDE).cast(), load(len - WIDE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths about which something changes.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..300).chain([2047, 2048, 2049, 2111, 2112, 2113, 4095, 4096])
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(5).fill(&mut bytes);
        bytes
    }

    #[test]
    fn fill_repeats_the_colour_from_the_first_byte_and_leaves_the_rest() {
        let color = 0x4433_2211_u32;
        for offset in 0..70 {
            for len in lengths() {
                let mut mem = vec![0xee; offset + len + 70];
                // SAFETY: within the vector.
                unsafe { fill(mem.as_mut_ptr().add(offset), len, color, None) };
                let want = |i: usize| match i.checked_sub(offset) {
                    Some(n) if n < len => color.to_le_bytes()[n % 4],
                    _ => 0xee,
                };
                assert!(mem.iter().enumerate().all(|(i, b)| *b == want(i)), "{len} at {offset}");
            }
        }
    }

    #[test]
    fn copy_takes_all_bytes_and_leaves_the_rest() {
        let source = noise(8192);
        for (to, from) in (0..70).map(|n| (n, n * 7 % 64)) {
            for len in lengths() {
                let mut mem = vec![0xee; to + len + 70];
                let (d, s) = (mem.as_mut_ptr(), source.as_ptr());
                // SAFETY: within the vectors.
                unsafe { copy(d.add(to), s.add(from), len, [Some(Ahead::new(d)), Some(Ahead::new(s))]) };
                assert_eq!(mem[to..to + len], source[from..from + len], "{len} from {from} to {to}");
                assert!(mem[..to].iter().chain(&mem[to + len..]).all(|b| *b == 0xee), "{len} to {to}");
            }
        }
    }

    #[test]
    fn overlapping_copy_is_as_if_read_first() {
        for len in lengths() {
            for (to, from) in [(0, 1), (1, 0), (0, 40), (40, 0), (0, 63), (63, 0), (7, 7), (0, 299), (299, 0)]
            {
                let mut mem = noise(len + 300);
                let before = mem.clone();
                let p = mem.as_mut_ptr();
                // SAFETY: within the vector.
                unsafe { copy(p.add(to), p.add(from), len, [None, None]) };
                assert_eq!(mem[to..to + len], before[from..from + len], "{len} from {from} to {to}");
            }
        }
    }
}
