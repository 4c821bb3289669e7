//! What a client says, message by message; what has no answer is skipped without being kept.

use super::Gone;
use super::pixels::PixelFormat;

/// A message that has consequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// SetPixelFormat.
    Format(PixelFormat),
    /// SetEncodings: a new list begins.
    Encodings,
    /// One of the list.
    Encoding(i32),
    /// FramebufferUpdateRequest: news only, or all of it; x, y, width, height.
    Update { news: bool, rect: [u16; 4] },
}

/// Encodings that are served, and one that says that a picture's size may change.
pub(crate) const RAW: i32 = 0;
/// Tiles, compressed.
pub(crate) const ZRLE: i32 = 16;
/// DesktopSize.
pub(crate) const DESKTOP_SIZE: i32 = -223;

/// Cuts what comes into messages. Keeps less than twenty bytes.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    kept: Vec<u8>,
    /// Bytes that follow and that nobody wants.
    skip: u64,
    /// Numbers of encodings that follow.
    encodings: u16,
}

impl Reader {
    /// The next message of `bytes`, and what is left of them. `None`: all of it is taken, and more is needed.
    pub(crate) fn next<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Option<(Message, &'a [u8])>, Gone> {
        loop {
            let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= skipped as u64;
            bytes = bytes.get(skipped..).unwrap_or(&[]);
            let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
            self.kept.push(*first);
            bytes = rest;
            if let Some(message) = self.whole()? {
                return Ok(Some((message, bytes)));
            }
        }
    }

    /// Looks at what is kept.
    fn whole(&mut self) -> Result<Option<Message>, Gone> {
        let short = |bytes: &[u8], at: usize| match bytes.get(at..at + 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        };
        let kept = self.kept.as_slice();
        if self.encodings > 0 {
            let Ok(number) = kept.try_into() else { return Ok(None) };
            self.encodings -= 1;
            self.kept.clear();
            return Ok(Some(Message::Encoding(i32::from_be_bytes(number))));
        }
        let Some(&kind) = kept.first() else { return Ok(None) };
        let length = match kind {
            0 => 20,
            2 => 4,
            3 => 10,
            4 | 6 => 8,
            5 => 6,
            other => return Err(Gone::Message(other)),
        };
        if kept.len() < length {
            return Ok(None);
        }
        let message = match kind {
            0 => {
                let raw = kept.get(4..20).and_then(|raw| raw.try_into().ok()).ok_or(Gone::Format)?;
                Some(Message::Format(PixelFormat::of(raw)?))
            }
            2 => {
                self.encodings = short(kept, 2);
                Some(Message::Encodings)
            }
            3 => {
                let rect = [2, 4, 6, 8].map(|at| short(kept, at));
                Some(Message::Update { news: kept.get(1).is_some_and(|n| *n != 0), rect })
            }
            // ClientCutText, with a text; keys and pointers have nowhere to go.
            6 => {
                self.skip = u64::from(short(kept, 4)) << 16 | u64::from(short(kept, 6));
                None
            }
            _ => None,
        };
        self.kept.clear();
        Ok(message)
    }
}
