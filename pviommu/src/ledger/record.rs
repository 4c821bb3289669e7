//! What a ledger consists of, as bytes: a header and records of fixed size, each with a checksum over itself, its place
//! and the boot in which it was written.
//!
//! Numbers are as the host has them: a ledger does not outlive the boot.

use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Peer;

/// Bytes of a record. Divides a page, so that no record lies on two: a write that was cut off ends between records.
pub(crate) const RECORD_SIZE: usize = 32;
/// Bytes of the header.
pub(crate) const HEADER_SIZE: usize = 64;
/// Most records of a file: 4 GiB.
pub(crate) const MAX_RECORDS: u64 = 1 << 27;

const MAGIC: [u8; 8] = *b"pviommuL";
pub(crate) const VERSION: u32 = 1;

/// Which boot of the host it is. Nothing of another one is mapped any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boot(pub(crate) [u8; 16]);

/// The file's first bytes.
///
/// | field | |
/// |---|---|
/// | magic | `pviommuL` |
/// | version, record_size | 1, 32 |
/// | boot | what `/proc/sys/kernel/random/boot_id` said, as 16 bytes |
/// | capacity | records that there is room for; the file is at least that long |
/// | checksum | CRC-32 of the header with this field 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    magic: [u8; 8],
    version: u32,
    record_size: u32,
    boot: [u8; 16],
    capacity: u64,
    checksum: u32,
    zero: [u32; 5],
}

const _: () = assert!(size_of::<Header>() == HEADER_SIZE && size_of::<Raw>() == RECORD_SIZE);

/// Why the first bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Foreign,
    Version(u32),
    Damaged,
}

impl Header {
    pub(crate) fn new(boot: Boot, capacity: u64) -> Self {
        let zero = [0; 5];
        let record_size = u32::try_from(RECORD_SIZE).unwrap_or(0);
        let mut header =
            Self { magic: MAGIC, version: VERSION, record_size, boot: boot.0, capacity, checksum: 0, zero };
        header.checksum = header.sum();
        header
    }

    fn sum(&self) -> u32 {
        crc32fast::hash(Self { checksum: 0, ..*self }.as_bytes())
    }

    /// The boot and the capacity.
    pub(crate) fn check(&self) -> Result<(Boot, u64), BadHeader> {
        if self.magic != MAGIC {
            return Err(BadHeader::Foreign);
        }
        if self.version != VERSION {
            return Err(BadHeader::Version(self.version));
        }
        if self.checksum != self.sum() || *self != Self::new(Boot(self.boot), self.capacity) {
            return Err(BadHeader::Damaged);
        }
        Ok((Boot(self.boot), self.capacity))
    }
}

/// One entry of the log. `seq` joins an answer to what it answers; 0 answers nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A lookup is about to be sent.
    Intent { seq: u32, peer: Peer, gfn: Gfn },
    /// It told this bus frame: we hold a reference there.
    Known { seq: u32, peer: Peer, gfn: Gfn, bfn: Bfn },
    /// It was refused: we hold nothing.
    Nothing { seq: u32 },
    /// Nobody knows whether it was carried out.
    Adrift { seq: u32, peer: Peer, gfn: Gfn },
    /// The reference at this bus frame was given back.
    Gone { peer: Peer, bfn: Bfn },
    /// Every guest frame from `first` to `last` that is known is about to be looked up once more.
    Asking { seq: u32, peer: Peer, first: Gfn, last: Gfn },
    /// Was adrift and has been looked up again, with this answer.
    Found { peer: Peer, gfn: Gfn, bfn: Bfn },
    /// Was adrift, and no lookup finds it any more.
    Lost { peer: Peer, gfn: Gfn },
    /// An own frame is about to be mapped.
    OwnIntent { seq: u32, gfn: Gfn, bfn: Bfn },
    /// It is.
    Own { seq: u32, gfn: Gfn, bfn: Bfn },
    /// Nobody knows whether it is.
    OwnAdrift { seq: u32, gfn: Gfn, bfn: Bfn },
    /// It was unmapped.
    OwnGone { bfn: Bfn },
}

/// | kind | name | domid, ioserver | seq | gfn | bfn |
/// |---|---|---|---|---|---|
/// | 0 | the end of the log | 0 | 0 | 0 | 0 |
/// | 1 | `Intent` | x | x | x | |
/// | 2 | `Known` | x | x | x | x |
/// | 3 | `Nothing` | | x | | |
/// | 4 | `Adrift` | x | x | x | |
/// | 5 | `Gone` | x | | | x |
/// | 6 | `Asking` | x | x | first | last |
/// | 7 | `Lost` | x | | x | |
/// | 8 | `OwnIntent` | | x | x | x |
/// | 9 | `Own` | | x | x | x |
/// | 10 | `OwnAdrift` | | x | x | x |
/// | 11 | `OwnGone` | | | | x |
/// | 12 | `Found` | x | | x | x |
///
/// What is not used is 0. The checksum is a CRC-32 over the boot, the record's index, and the record with 0 in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Raw {
    kind: u16,
    domid: u16,
    ioserver: u16,
    zero: u16,
    seq: u32,
    checksum: u32,
    gfn: u64,
    bfn: u64,
}

/// A record that cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

impl Record {
    pub(crate) fn encode(self, boot: Boot, index: u64) -> Raw {
        let mut raw = self.raw();
        raw.checksum = raw.sum(boot, index);
        raw
    }

    fn raw(self) -> Raw {
        let of = |kind, Peer { domid, ioserver }: Peer| Raw {
            kind,
            domid: domid.0,
            ioserver: ioserver.0,
            ..Raw::default()
        };
        let own = |kind, seq, gfn: Gfn, bfn: Bfn| Raw { kind, seq, gfn: gfn.0, bfn: bfn.0, ..Raw::default() };
        match self {
            Self::Intent { seq, peer, gfn } => Raw { seq, gfn: gfn.0, ..of(1, peer) },
            Self::Known { seq, peer, gfn, bfn } => Raw { seq, gfn: gfn.0, bfn: bfn.0, ..of(2, peer) },
            Self::Nothing { seq } => Raw { kind: 3, seq, ..Raw::default() },
            Self::Adrift { seq, peer, gfn } => Raw { seq, gfn: gfn.0, ..of(4, peer) },
            Self::Gone { peer, bfn } => Raw { bfn: bfn.0, ..of(5, peer) },
            Self::Asking { seq, peer, first, last } => Raw { seq, gfn: first.0, bfn: last.0, ..of(6, peer) },
            Self::Lost { peer, gfn } => Raw { gfn: gfn.0, ..of(7, peer) },
            Self::OwnIntent { seq, gfn, bfn } => own(8, seq, gfn, bfn),
            Self::Own { seq, gfn, bfn } => own(9, seq, gfn, bfn),
            Self::OwnAdrift { seq, gfn, bfn } => own(10, seq, gfn, bfn),
            Self::OwnGone { bfn } => own(11, 0, Gfn(0), bfn),
            Self::Found { peer, gfn, bfn } => Raw { gfn: gfn.0, bfn: bfn.0, ..of(12, peer) },
        }
    }
}

impl Raw {
    fn sum(&self, boot: Boot, index: u64) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&boot.0);
        hasher.update(index.as_bytes());
        hasher.update(Self { checksum: 0, ..*self }.as_bytes());
        hasher.finalize()
    }

    /// What stands at `index`; `None`: nothing was written there yet.
    pub(crate) fn decode(&self, boot: Boot, index: u64) -> Result<Option<Record>, Damaged> {
        if *self == Self::default() {
            return Ok(None);
        }
        if self.checksum != self.sum(boot, index) {
            return Err(Damaged);
        }
        let Self { seq, .. } = *self;
        let peer = Peer { domid: DomId(self.domid), ioserver: IoServerId(self.ioserver) };
        let (gfn, bfn) = (Gfn(self.gfn), Bfn(self.bfn));
        let record = match self.kind {
            1 => Record::Intent { seq, peer, gfn },
            2 => Record::Known { seq, peer, gfn, bfn },
            3 => Record::Nothing { seq },
            4 => Record::Adrift { seq, peer, gfn },
            5 => Record::Gone { peer, bfn },
            6 => Record::Asking { seq, peer, first: gfn, last: Gfn(bfn.0) },
            7 => Record::Lost { peer, gfn },
            8 => Record::OwnIntent { seq, gfn, bfn },
            9 => Record::Own { seq, gfn, bfn },
            10 => Record::OwnAdrift { seq, gfn, bfn },
            11 => Record::OwnGone { bfn },
            12 => Record::Found { peer, gfn, bfn },
            _ => return Err(Damaged),
        };
        // What a field's absence means must be there, too.
        if record.raw() == (Self { checksum: 0, ..*self }) { Ok(Some(record)) } else { Err(Damaged) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOT: Boot = Boot([7; 16]);

    pub(in crate::ledger) fn any_record() -> impl Strategy<Value = Record> {
        let peer =
            (any::<u16>(), any::<u16>()).prop_map(|(d, i)| Peer { domid: DomId(d), ioserver: IoServerId(i) });
        (0..12, any::<u32>(), peer, any::<u64>(), any::<u64>()).prop_map(|(kind, seq, peer, gfn, bfn)| {
            let (gfn, bfn) = (Gfn(gfn), Bfn(bfn));
            match kind {
                0 => Record::Intent { seq, peer, gfn },
                1 => Record::Known { seq, peer, gfn, bfn },
                2 => Record::Nothing { seq },
                3 => Record::Adrift { seq, peer, gfn },
                4 => Record::Gone { peer, bfn },
                5 => Record::Asking { seq, peer, first: gfn, last: Gfn(bfn.0) },
                6 => Record::Lost { peer, gfn },
                7 => Record::OwnIntent { seq, gfn, bfn },
                8 => Record::Own { seq, gfn, bfn },
                9 => Record::OwnAdrift { seq, gfn, bfn },
                10 => Record::Found { peer, gfn, bfn },
                _ => Record::OwnGone { bfn },
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_at_its_place_and_in_its_boot_only(record in any_record(), index in any::<u64>()) {
            let raw = record.encode(BOOT, index);
            prop_assert_eq!(raw.decode(BOOT, index), Ok(Some(record)));
            prop_assert_eq!(raw.decode(BOOT, index ^ 1), Err(Damaged));
            prop_assert_eq!(raw.decode(Boot([8; 16]), index), Err(Damaged));
        }

        #[test]
        fn a_bit_that_has_flipped_is_noticed(record in any_record(), bit in 0..RECORD_SIZE * 8) {
            let mut bytes = [0; RECORD_SIZE];
            bytes.copy_from_slice(record.encode(BOOT, 3).as_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let raw = Raw::read_from_bytes(&bytes).unwrap();
            prop_assert_eq!(raw.decode(BOOT, 3), Err(Damaged));
        }

        #[test]
        fn a_whole_checksum_makes_no_record_of_an_unknown_kind(raw in any::<[u8; RECORD_SIZE]>()) {
            let mut raw = Raw::read_from_bytes(&raw).unwrap();
            raw.checksum = raw.sum(BOOT, 0);
            if let Ok(Some(record)) = raw.decode(BOOT, 0) {
                prop_assert_eq!(record.encode(BOOT, 0), raw);
            }
        }
    }

    #[test]
    fn a_header_says_whose_it_is() {
        let header = Header::new(BOOT, 4096);
        assert_eq!(header.check(), Ok((BOOT, 4096)));
        assert_eq!(Header { magic: *b"ELF or s", ..header }.check(), Err(BadHeader::Foreign));
        assert_eq!(Header { version: 2, ..header }.check(), Err(BadHeader::Version(2)));
        assert_eq!(Header { capacity: 1, ..header }.check(), Err(BadHeader::Damaged));
        let mut odd = Header { record_size: 64, ..header };
        odd.checksum = odd.sum();
        assert_eq!(odd.check(), Err(BadHeader::Damaged));
    }
}
