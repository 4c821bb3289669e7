use proptest::prelude::*;

use super::*;

#[test]
fn head_is_checked_word_by_word() {
    let head = |version: u32, length: u32, crc: u32, rest: &[u8]| {
        let words = [version, length, crc].map(u32::to_le_bytes);
        SavedGuest::from_bytes(&[&MAGIC, words.as_flattened(), rest].concat())
    };
    assert_eq!(SavedGuest::from_bytes(b""), Err(FileError::Magic));
    assert_eq!(SavedGuest::from_bytes(b"\x7fELF\x02\x01\x01\0 and so on"), Err(FileError::Magic));
    assert_eq!(SavedGuest::from_bytes(&MAGIC), Err(FileError::Length { said: 20, there: 8 }));
    assert_eq!(head(2, 0, 0, b""), Err(FileError::Version(2)));
    assert_eq!(head(1, 5, 0, b"four"), Err(FileError::Length { said: 25, there: 24 }));
    assert_eq!(
        head(1, u32::MAX, 0, b"four"),
        Err(FileError::Length { said: 20 + u64::from(u32::MAX), there: 24 })
    );
    assert_eq!(head(1, 4, 1, b"four"), Err(FileError::Checksum));
    assert!(matches!(head(1, 4, crc32fast::hash(b"four"), b"four"), Err(FileError::Content(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn no_content_whatever_is_more_than_an_error(content in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut file = MAGIC.to_vec();
        for word in [VERSION, u32::try_from(content.len()).unwrap(), crc32fast::hash(&content)] {
            file.extend(word.to_le_bytes());
        }
        file.extend(content);
        // A whole one is longer than that.
        prop_assert!(matches!(SavedGuest::from_bytes(&file), Err(FileError::Content(_))));
    }
}
