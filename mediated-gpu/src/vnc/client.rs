//! One client: its handshake, what it wants, and what it has.

use super::Gone;
use super::message::{DESKTOP_SIZE, Message, Reader, ZRLE};
use super::pixels::{Picture, PixelFormat};
use super::rectangles::{Encoder, Part, header};

const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// What the view is called, and before it, how long that is.
const NAME: &[u8; 8] = b"\0\0\0\x04mgpu";
/// Security: none.
const NONE: u8 = 1;
/// Bytes of pictures in one update; the rest comes with the next.
const UPDATE: usize = 4 << 20;

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Version,
    /// With 3.7 and 3.8, whose answers differ.
    Security {
        answer: bool,
    },
    Init,
    Running,
}

/// A client. It has no socket: bytes come in and go out.
pub(crate) struct Client {
    stage: Stage,
    kept: Vec<u8>,
    reader: Reader,
    encoder: Encoder,
    resizes: bool,
    /// What it has.
    has: Picture,
    /// Tiles that it is to get whether they have changed or not.
    due: Vec<bool>,
    /// It waits for an update of this part.
    wants: Option<Part>,
    out: Vec<u8>,
    /// Bytes of `out` that are sent.
    sent: usize,
}

impl Client {
    /// A client that has just come, and what is shown now.
    pub(crate) fn new(picture: Picture) -> Self {
        let has = Picture::black(picture.width, picture.height);
        Self {
            stage: Stage::Version,
            kept: Vec::new(),
            reader: Reader::default(),
            encoder: Encoder::default(),
            resizes: false,
            due: vec![true; Part::tiles(has.width, has.height).count()],
            has,
            wants: None,
            out: VERSION.to_vec(),
            sent: 0,
        }
    }

    /// Whether the handshake is over.
    pub(crate) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// Whether it waits for news, with room for them.
    pub(crate) fn is_waiting(&self) -> bool {
        self.wants.is_some() && self.unsent().is_empty()
    }

    /// Bytes that are to be sent.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or(&[])
    }

    /// So many of them were.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.unsent().is_empty() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// Takes what came.
    pub(crate) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        while self.stage != Stage::Running {
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            self.kept.push(*first);
            bytes = rest;
            self.handshake()?;
        }
        while let Some((message, rest)) = self.reader.next(bytes)? {
            self.message(message);
            bytes = rest;
        }
        Ok(())
    }

    fn handshake(&mut self) -> Result<(), Gone> {
        match (self.stage, self.kept.as_slice()) {
            (Stage::Version, version) if version.len() == VERSION.len() => {
                self.stage = match version {
                    b"RFB 003.008\n" => self.offer(true),
                    b"RFB 003.007\n" => self.offer(false),
                    // All others are to be taken for 3.3, which chooses for the client.
                    other if other.starts_with(b"RFB ") && other.ends_with(b"\n") => {
                        self.out.extend(u32::from(NONE).to_be_bytes());
                        Stage::Init
                    }
                    _ => return Err(Gone::Version),
                };
            }
            (Stage::Security { answer }, &[chosen]) => {
                if chosen != NONE {
                    return Err(Gone::Security(chosen));
                }
                if answer {
                    self.out.extend([0; 4]);
                }
                self.stage = Stage::Init;
            }
            // Whether others may look as well: they may.
            (Stage::Init, &[_]) => {
                self.out.extend(self.has.width.to_be_bytes());
                self.out.extend(self.has.height.to_be_bytes());
                self.out.extend(PixelFormat::BGRX.raw());
                self.out.extend(NAME);
                self.stage = Stage::Running;
            }
            _ => return Ok(()),
        }
        self.kept.clear();
        Ok(())
    }

    fn offer(&mut self, answer: bool) -> Stage {
        self.out.extend([1, NONE]);
        Stage::Security { answer }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Format(format) => {
                self.encoder.format = format;
                self.due.fill(true);
            }
            Message::Encodings => (self.encoder.zrle, self.resizes) = (false, false),
            Message::Encoding(ZRLE) => self.encoder.zrle = true,
            Message::Encoding(DESKTOP_SIZE) => self.resizes = true,
            Message::Encoding(_) => {}
            Message::Update { news, rect: [x, y, width, height] } => {
                let part = Part { x, y, width, height };
                if !news {
                    let tiles = Part::tiles(self.has.width, self.has.height);
                    for (due, tile) in self.due.iter_mut().zip(tiles) {
                        *due |= tile.meets(part);
                    }
                }
                self.wants = Some(part);
            }
        }
    }

    /// Shows it a picture, if it waits for one: it gets what it has not yet.
    pub(crate) fn show(&mut self, picture: &Picture) {
        let Some(part) = self.wants.filter(|_| self.unsent().is_empty()) else { return };
        let cut;
        let picture = if (picture.width, picture.height) == (self.has.width, self.has.height) {
            picture
        } else if self.resizes {
            self.resize(picture.width, picture.height);
            return;
        } else {
            cut = picture.clone().cut(self.has.width, self.has.height);
            &cut
        };
        let mut rectangles = Vec::new();
        let mut count = 0u16;
        for (due, tile) in self.due.iter_mut().zip(Part::tiles(picture.width, picture.height)) {
            if rectangles.len() >= UPDATE || count == u16::MAX {
                break;
            }
            if tile.meets(part) && (*due || !tile.same(picture, &self.has)) {
                self.encoder.tile(picture, tile, &mut rectangles);
                tile.copy(picture, &mut self.has);
                *due = false;
                count += 1;
            }
        }
        if count > 0 {
            self.wants = None;
            self.update(count);
            self.out.append(&mut rectangles);
        }
    }

    /// Begins an update of so many rectangles.
    fn update(&mut self, rectangles: u16) {
        self.out.extend([0, 0]);
        self.out.extend(rectangles.to_be_bytes());
    }

    fn resize(&mut self, width: u16, height: u16) {
        self.has = Picture::black(width, height);
        self.due = vec![true; Part::tiles(width, height).count()];
        self.wants = None;
        self.update(1);
        header(Part { x: 0, y: 0, width, height }, DESKTOP_SIZE, &mut self.out);
    }
}
