//! Clients that know the protocol from the RFC, and clients that do not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use flate2::{Decompress, FlushDecompress};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::client::Client;
use super::pixels::{Picture, PixelFormat};
use super::*;

/// A client that draws what it is sent.
struct Viewer {
    client: Client,
    /// A number a pixel, as its format has it.
    screen: Vec<u32>,
    width: usize,
    height: usize,
    bytes: usize,
    /// Bytes of a pixel in ZRLE, and by how much they are shifted.
    compact: (usize, u32),
    big_endian: bool,
    zlib: Decompress,
    /// Rectangles of the last update.
    rectangles: Vec<[usize; 4]>,
}

fn take(client: &mut Client) -> Vec<u8> {
    let bytes = client.unsent().to_vec();
    client.sent(bytes.len());
    bytes
}

impl Viewer {
    fn new(picture: &Picture, encodings: &[i32]) -> Self {
        let mut client = Client::new(picture.clone());
        assert_eq!(take(&mut client), b"RFB 003.008\n");
        client.receive(b"RFB 003.008\n").unwrap();
        assert_eq!(take(&mut client), [1, 1]);
        client.receive(&[1]).unwrap();
        assert_eq!(take(&mut client), [0; 4]);
        client.receive(&[1]).unwrap();
        let init = take(&mut client);
        let (width, height) = (usize::from(picture.width), usize::from(picture.height));
        assert_eq!(init[..4], [picture.width.to_be_bytes(), picture.height.to_be_bytes()].concat());
        assert_eq!(init[4..20], PixelFormat::BGRX.raw());
        assert_eq!(init[20..], *b"\0\0\0\x04mgpu");
        let mut viewer = Self {
            client,
            screen: vec![0xdead; width * height],
            width,
            height,
            bytes: 4,
            compact: (3, 0),
            big_endian: false,
            zlib: Decompress::new(true),
            rectangles: vec![],
        };
        let mut list = vec![2, 0, 0, u8::try_from(encodings.len()).unwrap()];
        encodings.iter().for_each(|e| list.extend(e.to_be_bytes()));
        viewer.client.receive(&list).unwrap();
        viewer
    }

    fn request(&mut self, news: bool) {
        let [w, h] = [self.width, self.height].map(|n| u16::try_from(n).unwrap().to_be_bytes());
        self.client.receive(&[3, u8::from(news), 0, 0, 0, 0, w[0], w[1], h[0], h[1]]).unwrap();
    }

    fn number(&self, bytes: &[u8], shift: u32) -> u32 {
        let mut le = [0; 4];
        let ordered: Vec<u8> =
            if self.big_endian { bytes.iter().rev().copied().collect() } else { bytes.to_vec() };
        le[..ordered.len()].copy_from_slice(&ordered);
        u32::from_le_bytes(le) << shift
    }

    /// Draws an update, if there is one.
    fn draw(&mut self) -> bool {
        let update = take(&mut self.client);
        if update.is_empty() {
            return false;
        }
        assert_eq!(update[..2], [0, 0]);
        let count = u16::from_be_bytes([update[2], update[3]]);
        let mut rest = &update[4..];
        self.rectangles.clear();
        for _ in 0..count {
            let [x, y, w, h] = [0, 2, 4, 6].map(|i| usize::from(u16::from_be_bytes([rest[i], rest[i + 1]])));
            let encoding = i32::from_be_bytes(rest[8..12].try_into().unwrap());
            rest = &rest[12..];
            self.rectangles.push([x, y, w, h]);
            match encoding {
                0 => {
                    let (pixels, after) = rest.split_at(w * h * self.bytes);
                    rest = after;
                    for (i, pixel) in pixels.chunks_exact(self.bytes).enumerate() {
                        self.screen[(y + i / w) * self.width + x + i % w] = self.number(pixel, 0);
                    }
                }
                16 => {
                    let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                    let (packed, after) = rest[4..].split_at(length);
                    rest = after;
                    let mut plain = Vec::with_capacity(w * h * 4 + 64);
                    self.zlib.decompress_vec(packed, &mut plain, FlushDecompress::Sync).unwrap();
                    self.draw_tile(&plain, [x, y, w, h]);
                }
                -223 => {
                    (self.width, self.height) = (w, h);
                    self.screen = vec![0xdead; w * h];
                }
                other => panic!("encoding {other}"),
            }
        }
        assert!(rest.is_empty());
        true
    }

    fn draw_tile(&mut self, plain: &[u8], [x, y, w, h]: [usize; 4]) {
        assert!(w <= 64 && h <= 64);
        let (bytes, shift) = self.compact;
        let (kind, plain) = plain.split_first().unwrap();
        let colours = |n: usize| (0..n).map(|i| self.number(&plain[i * bytes..][..bytes], shift)).collect();
        let pixels: Vec<u32> = match kind {
            0 => colours(w * h),
            1 => vec![self.number(plain, shift); w * h],
            2..=16 => {
                let palette: Vec<u32> = colours(usize::from(*kind));
                let bits = match kind {
                    2 => 1,
                    3 | 4 => 2,
                    _ => 4,
                };
                let packed = &plain[palette.len() * bytes..];
                let line = (w * bits).div_ceil(8);
                assert_eq!(packed.len(), line * h);
                let at = |i: usize| {
                    let bit = i % w * bits;
                    packed[i / w * line + bit / 8] >> (8 - bits - bit % 8) & ((1 << bits) - 1)
                };
                (0..w * h).map(|i| palette[usize::from(at(i))]).collect()
            }
            other => panic!("tile of kind {other}"),
        };
        assert!(*kind != 0 || plain.len() == w * h * bytes);
        for (i, pixel) in pixels.into_iter().enumerate() {
            self.screen[(y + i / w) * self.width + x + i % w] = pixel;
        }
    }
}

/// A picture of `colours` colours.
fn picture(width: u16, height: u16, colours: u8, seed: u8) -> Picture {
    let pixel = |x: u16, y: u16| {
        let n = ((x / 7 + y / 5 * 3) % u16::from(colours)).to_le_bytes()[0];
        [n.wrapping_mul(37).wrapping_add(seed), n.wrapping_mul(91), n ^ seed, 0]
    };
    let bgrx: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    Picture::new(width, height, &bgrx)
}

fn wanted(picture: &Picture) -> Vec<u32> {
    let lines = (0..picture.height).flat_map(|y| picture.line(0, picture.width, y));
    lines.map(|p| u32::from_le_bytes(*p)).collect()
}

#[test]
fn picture_arrives_whole_however_it_is_encoded() {
    for encodings in [&[0][..], &[16, 0], &[7, 16, -239], &[]] {
        for colours in [1, 2, 3, 16, 17, 200] {
            let picture = picture(130, 70, colours, 9);
            let mut viewer = Viewer::new(&picture, encodings);
            viewer.client.show(&picture);
            assert!(!viewer.draw(), "nobody has asked");
            viewer.request(false);
            viewer.client.show(&picture);
            assert!(viewer.draw());
            assert_eq!(viewer.screen, wanted(&picture), "{encodings:?}, {colours} colours");
        }
    }
}

#[test]
fn news_are_the_tiles_that_differ_and_nothing_is_sent_when_none_does() {
    let first = picture(200, 200, 5, 1);
    let mut viewer = Viewer::new(&first, &[16]);
    viewer.request(false);
    viewer.client.show(&first);
    assert!(viewer.draw());
    viewer.request(true);
    viewer.client.show(&first);
    assert!(!viewer.draw() && viewer.client.is_waiting());
    let mut second = first.clone();
    second.line_mut(70, 1, 190)[0] = [1, 2, 3, 0];
    second.line_mut(199, 1, 0)[0] = [4, 5, 6, 0];
    viewer.client.show(&second);
    assert!(viewer.draw() && !viewer.client.is_waiting());
    assert_eq!(viewer.rectangles, [[192, 0, 8, 64], [64, 128, 64, 64]]);
    assert_eq!(viewer.screen, wanted(&second));
}

#[test]
fn large_picture_comes_in_several_updates_and_is_whole_at_the_end() {
    let picture = picture(2000, 1500, 200, 3);
    let mut viewer = Viewer::new(&picture, &[0]);
    viewer.request(false);
    let mut updates = 0;
    loop {
        viewer.client.show(&picture);
        if !viewer.draw() {
            break;
        }
        updates += 1;
        viewer.request(true);
    }
    assert_eq!(updates, 3);
    assert_eq!(viewer.screen, wanted(&picture));
}

#[test]
fn picture_of_another_size_is_told_to_who_knows_and_cut_for_who_does_not() {
    let (small, large) = (picture(64, 48, 5, 1), picture(100, 30, 7, 2));
    let mut knows = Viewer::new(&small, &[0, -223]);
    knows.request(false);
    knows.client.show(&large);
    assert!(knows.draw());
    assert_eq!((knows.width, knows.height), (100, 30));
    knows.request(true);
    knows.client.show(&large);
    assert!(knows.draw());
    assert_eq!(knows.screen, wanted(&large));

    let mut other = Viewer::new(&small, &[0]);
    other.request(false);
    other.client.show(&large);
    assert!(other.draw());
    let cut = large.cut(64, 48);
    assert_eq!(other.screen, wanted(&cut));
    assert!(cut.line(0, 64, 40).iter().all(|p| *p == [0; 4]));
}

#[test]
fn other_pixel_formats_are_served() {
    let picture = picture(70, 70, 100, 5);
    // bits, depth, big endian, red, green, blue: most and shift; ZRLE's pixels: bytes and shift
    let formats = [
        (16, 16, false, [(31u16, 11u8), (63, 5), (31, 0)], (2, 0)),
        (16, 15, true, [(31, 10), (31, 5), (31, 0)], (2, 0)),
        (8, 8, false, [(7, 0), (7, 3), (3, 6)], (1, 0)),
        (32, 24, true, [(255, 24), (255, 16), (255, 8)], (3, 8)),
        (32, 32, false, [(1023, 20), (1023, 10), (1023, 0)], (4, 0)),
    ];
    for (bits, depth, big, channels, compact) in formats {
        for encodings in [[0], [16]] {
            let mut viewer = Viewer::new(&picture, &encodings);
            let mut message = vec![0, 0, 0, 0, bits, depth, u8::from(big), 1];
            channels.iter().for_each(|(most, _)| message.extend(most.to_be_bytes()));
            message.extend(channels.map(|(_, shift)| shift));
            message.extend([0; 3]);
            viewer.client.receive(&message).unwrap();
            (viewer.bytes, viewer.compact, viewer.big_endian) = (usize::from(bits / 8), compact, big);
            viewer.request(false);
            viewer.client.show(&picture);
            assert!(viewer.draw());
            let as_asked: Vec<u32> = wanted(&picture)
                .into_iter()
                .map(|p| {
                    let of = |n: u32, (most, shift): (u16, u8)| {
                        // The nearest of all that the channel can be.
                        let far = |v: &u32| (v * 255).abs_diff((p >> (8 * n) & 0xff) * u32::from(most));
                        (0..=u32::from(most)).min_by_key(far).unwrap() << shift
                    };
                    of(2, channels[0]) | of(1, channels[1]) | of(0, channels[2])
                })
                .collect();
            assert_eq!(viewer.screen, as_asked, "{bits} bits, {encodings:?}");
        }
    }
}

#[test]
fn older_versions_have_their_own_handshakes() {
    for (version, answers) in [
        ("RFB 003.003\n", vec![vec![0, 0, 0, 1]]),
        ("RFB 003.889\n", vec![vec![0, 0, 0, 1]]),
        ("RFB 003.007\n", vec![vec![1, 1], vec![]]),
    ] {
        let mut client = Client::new(Picture::black(8, 8));
        take(&mut client);
        client.receive(version.as_bytes()).unwrap();
        assert_eq!(take(&mut client), answers[0], "{version}");
        for answer in &answers[1..] {
            client.receive(&[1]).unwrap();
            assert_eq!(&take(&mut client), answer, "{version}");
        }
        client.receive(&[0]).unwrap();
        assert_eq!(take(&mut client).len(), 28, "{version}");
    }
}

#[test]
fn who_does_not_keep_to_the_protocol_is_parted_with() {
    let after = |bytes: &[&[u8]]| {
        let mut client = Client::new(Picture::black(8, 8));
        bytes.iter().try_for_each(|b| client.receive(b))
    };
    assert_eq!(after(&[b"GET / HTTP/1"]), Err(Gone::Version));
    assert_eq!(after(&[b"RFB 003.008\n", &[2]]), Err(Gone::Security(2)));
    let running: &[u8] = b"RFB 003.008\n\x01\x01";
    assert_eq!(after(&[running, &[99]]), Err(Gone::Message(99)));
    for (bits, depth, colour, shift) in
        [(24, 24, 1, 0), (32, 24, 0, 0), (8, 8, 1, 1), (16, 24, 1, 0), (32, 24, 1, 255)]
    {
        let format = [0, 0, 0, 0, bits, depth, 0, colour, 0, 255, 0, 255, 0, 255, shift, 0, 0, 0, 0, 0];
        assert_eq!(after(&[running, &format]), Err(Gone::Format), "{bits} {depth} {colour} {shift}");
    }
}

#[test]
fn text_of_four_gigabytes_is_skipped_and_kept_nowhere() {
    let mut viewer = Viewer::new(&Picture::black(8, 8), &[0]);
    viewer.client.receive(&[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
    // As much as the text has, less the last byte of it: none of it is a message.
    let piece = vec![99; 1 << 20];
    for _ in 0..4095 {
        viewer.client.receive(&piece).unwrap();
    }
    viewer.client.receive(&piece[..(1 << 20) - 1]).unwrap();
    assert_eq!(viewer.client.receive(&[99]), Err(Gone::Message(99)));
}

proptest! {
    #[test]
    fn whatever_a_client_sends_costs_little(
        pieces in prop::collection::vec(prop_oneof![
            3 => prop::collection::vec(any::<u8>(), 0..40),
            3 => (any::<bool>(), any::<[u16; 4]>()).prop_map(|(news, rect)| {
                [vec![3, news.into()], rect.iter().flat_map(|n| n.to_be_bytes()).collect()].concat()
            }),
            1 => prop::collection::vec(any::<i32>(), 0..9).prop_map(|list| {
                let mut out = vec![2, 0, 0, list.len().to_le_bytes()[0]];
                list.iter().for_each(|e| out.extend((e % 24).to_be_bytes()));
                out
            }),
        ], 0..40),
        handshake: bool,
    ) {
        let picture = picture(100, 80, 30, 1);
        let mut client = Client::new(picture.clone());
        if handshake {
            client.receive(b"RFB 003.008\n\x01\x01").unwrap();
        }
        for piece in pieces {
            if client.receive(&piece).is_err() {
                break;
            }
            client.show(&picture);
            prop_assert!(client.unsent().len() < 3 * 100 * 80 * 4);
        }
    }
}

/// What is shown, to be changed while viewers look.
type Shown = Arc<Mutex<Option<Surface>>>;

fn open(shown: &Shown) -> (View, std::path::PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vnc");
    let listener = Listener::bind(&Address::Path(path.clone())).unwrap();
    let shown = shown.clone();
    let view = View::start(listener, Arc::new(move || shown.lock().clone())).unwrap();
    (view, path, dir)
}

/// Connects, and does the handshake.
fn connect(path: &std::path::Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut version = [0; 12];
    stream.read_exact(&mut version).unwrap();
    stream.write_all(b"RFB 003.008\n\x01\x01").unwrap();
    let mut init = [0; 2 + 4 + 28];
    stream.read_exact(&mut init).unwrap();
    stream
}

#[test]
fn viewers_see_what_is_shown_when_it_changes() {
    let surface = |n: u8| Some(Surface { width: 16, height: 8, bgrx: vec![n; 16 * 8 * 4], missing_pages: 0 });
    let shown: Shown = Arc::new(Mutex::new(surface(1)));
    let (view, path, _dir) = open(&shown);
    let mut viewers = [connect(&path), connect(&path)];
    for n in 1..4 {
        *shown.lock() = surface(n);
        for viewer in &mut viewers {
            viewer.write_all(&[3, 1, 0, 0, 0, 0, 0, 16, 0, 8]).unwrap();
            let mut update = [0; 4 + 12 + 16 * 8 * 4];
            viewer.read_exact(&mut update).unwrap();
            assert_eq!(update[16..20], [n, n, n, 0]);
        }
    }
    drop(view);
    for viewer in &mut viewers {
        assert_eq!(viewer.read(&mut [0]).unwrap(), 0, "at the end viewers are disconnected");
    }
}

#[test]
fn ninth_viewer_is_turned_away_until_one_has_gone() {
    let (_view, path, _dir) = open(&Arc::default());
    let mut viewers: Vec<_> = (0..8).map(|_| connect(&path)).collect();
    let mut ninth = UnixStream::connect(&path).unwrap();
    assert_eq!(ninth.read(&mut [0]).unwrap(), 0);
    viewers.pop();
    // That it has gone is seen at some time.
    let again = (0..600).any(|_| {
        let mut stream = UnixStream::connect(&path).unwrap();
        let came = stream.read(&mut [0; 12]).is_ok_and(|n| n == 12);
        std::thread::sleep(Duration::from_millis(if came { 0 } else { 100 }));
        came
    });
    assert!(again);
    assert!(Listener::bind(&Address::Path(path)).is_err(), "the place is taken");
}
