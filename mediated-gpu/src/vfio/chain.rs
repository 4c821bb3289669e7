//! Answers of the kernel that are longer than their struct: a chain of capabilities behind it.

/// A capability: its number, and its bytes from its own header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capability<'a> {
    pub(super) id: u32,
    pub(super) bytes: &'a [u8],
}

/// The dword at a byte offset.
pub(super) fn dword(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// The quadword at a byte offset.
pub(super) fn quad(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_ne_bytes(*b))
}

/// The capabilities of an answer, of which the first is at `first`. Each stands behind the one before, so that the chain ends.
pub(super) fn capabilities(answer: &[u8], first: u32) -> impl Iterator<Item = Capability<'_>> {
    // struct vfio_info_cap_header: id (16 bits), version (16), offset of the next in the answer (32).
    let mut at = usize::try_from(first).unwrap_or(0);
    std::iter::from_fn(move || {
        if at == 0 {
            return None;
        }
        let bytes = answer.get(at..)?;
        let id = dword(bytes, 0)? & 0xffff;
        let next = usize::try_from(dword(bytes, 4)?).ok()?;
        at = if next > at { next } else { 0 };
        Some(Capability { id, bytes })
    })
}

/// Pairs of quadwords: a count at byte 8 of a capability, the pairs from byte 16 on.
pub(super) fn pairs(capability: Capability<'_>) -> Vec<(u64, u64)> {
    let count = dword(capability.bytes, 8).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let pair = |i: usize| {
        let at = i.checked_mul(16)?.checked_add(16)?;
        Some((quad(capability.bytes, at)?, quad(capability.bytes, at.checked_add(8)?)?))
    };
    (0..count).map_while(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(dwords: &[u32]) -> Vec<u8> {
        dwords.iter().flat_map(|d| d.to_ne_bytes()).collect()
    }

    #[test]
    fn capabilities_are_followed_to_the_end_of_their_chain() {
        let a = answer(&[0, 0, 0x1_0001, 20, 7, 0x1_0003, 0]);
        let found: Vec<_> = capabilities(&a, 8).map(|c| (c.id, dword(c.bytes, 4))).collect();
        assert_eq!(found, [(1, Some(20)), (3, Some(0))]);
        assert_eq!(capabilities(&a, 0).count(), 0);
    }

    #[test]
    fn a_chain_that_leads_back_or_out_of_the_answer_ends() {
        let round = answer(&[0, 0, 1, 8, 1, 8]);
        assert_eq!(capabilities(&round, 8).count(), 1);
        assert_eq!(capabilities(&round, 16).count(), 1);
        let out = answer(&[0, 0, 1, 4000]);
        assert_eq!(capabilities(&out, 8).count(), 1);
        assert_eq!(capabilities(&out, 4000).count(), 0);
        assert_eq!(capabilities(&out, 12).count(), 0, "no room for a header");
    }

    #[test]
    fn pairs_that_are_not_there_are_not_invented() {
        let a = answer(&[1, 0, 3, 0, 1, 0, 2, 0, 3, 0]);
        let capability = Capability { id: 1, bytes: &a };
        assert_eq!(pairs(capability), [(1, 2)]);
        assert_eq!(pairs(Capability { id: 1, bytes: &a[..8] }), []);
    }
}
