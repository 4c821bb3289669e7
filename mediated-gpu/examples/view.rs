//! A moving picture for VNC viewers, to try one: `cargo run -p mediated-gpu --example view -- 127.0.0.1:5900`.

use std::sync::Arc;
use std::time::Instant;

use mediated_gpu::vgpu::display::Surface;
use mediated_gpu::vnc::{Address, Listener, View};

const WIDTH: u32 = 320;
const HEIGHT: u32 = 200;

/// A bar that goes across a gradient once in eight seconds.
fn picture(since: Instant) -> Surface {
    let bar = u32::try_from(since.elapsed().as_millis() / 25).unwrap_or(0) % WIDTH;
    let pixel = |x: u32, y: u32| {
        let [red, green] = [x * 255 / WIDTH, y * 255 / HEIGHT].map(|v| v.to_le_bytes()[0]);
        if x.abs_diff(bar) < 8 { [255, 255, 255, 0] } else { [64, green, red, 0] }
    };
    let bgrx = (0..HEIGHT).flat_map(|y| (0..WIDTH).flat_map(move |x| pixel(x, y))).collect();
    Surface { width: WIDTH, height: HEIGHT, bgrx, missing_pages: 0 }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: Address = std::env::args().nth(1).ok_or("which address? 127.0.0.1:5900")?.parse()?;
    let since = Instant::now();
    let _view = View::start(Listener::bind(&address)?, Arc::new(move || Some(picture(since))))?;
    println!("at {address} until Enter is pressed");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
